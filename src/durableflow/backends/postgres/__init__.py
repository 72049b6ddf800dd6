"""The backend for a fleet of workers: Postgres, by asyncpg; needs `durableflow[postgres]`.

The driver is loaded when the backend is asked for: an outbox works with a connection that somebody else has made.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durableflow.backends.postgres.backend import PostgresBackend


def __getattr__(name: str) -> Any:
    if name != "PostgresBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from durableflow.backends.postgres.backend import PostgresBackend

    return PostgresBackend


__all__ = ["PostgresBackend"]
