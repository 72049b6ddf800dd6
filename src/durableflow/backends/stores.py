"""From the text that names a store to its backend."""

from __future__ import annotations

from durableflow.backends.base import Backend
from durableflow.errors import UsageError


def open_backend(url: str) -> Backend:
    """The backend of `url`, not yet connected; its driver is imported here, not before.

    Raises:
        UsageError: no such kind of store, or the URL names none.
    """
    try:
        url.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{url!r} names no store: {error}") from error
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite":
        from durableflow.backends.sqlite import SqliteBackend

        return SqliteBackend.from_url(rest)
    if separator and scheme in ("postgresql", "postgres"):
        try:
            from durableflow.backends.postgres import PostgresBackend
        except ModuleNotFoundError as error:
            if error.name != "asyncpg":
                raise
            raise UsageError(f'{scheme}://... needs a driver: pip install "durableflow[postgres]"') from error

        return PostgresBackend(f"postgresql://{rest}")
    if separator and scheme == "memory":
        from durableflow.backends.memory import MemoryBackend

        if rest:
            raise UsageError(
                f"a memory store has no name, so {url!r} must be 'memory://'; to share one, pass the object"
            )
        return MemoryBackend()
    raise UsageError(
        f"{url!r} names no store; write 'sqlite:///orders.db' (a file), 'sqlite:////var/orders.db' "
        "(an absolute path), 'postgresql://user:password@host/database' or 'memory://' (for tests)"
    )
