"""The backend for a fleet of workers: Postgres, by asyncpg; needs `durableflow[postgres]`."""

from durableflow.backends.postgres.backend import PostgresBackend

__all__ = ["PostgresBackend"]
