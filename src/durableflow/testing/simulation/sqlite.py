"""The SQLite backend without its threads: what is asked of it happens at once, on the thread of the loop."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from durableflow.backends.sqlite import SqliteBackend
from durableflow.backends.sqlite.lock import WorkerLock
from durableflow.backends.sqlite.thread import ConnectionThread
from durableflow.errors import StorageError

T = TypeVar("T")


class InlineConnection(ConnectionThread):
    """Calls what is handed over, instead of handing it over."""

    def __init__(  # the thread is not made
        self, path: Path, configure: Callable[[sqlite3.Connection], None]
    ) -> None:
        self._path = path
        self.connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        configure(self.connection)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """See `ConnectionThread.call`."""
        try:
            return function(self.connection, *args)
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}; nothing was written") from error
        finally:
            assert not self.connection.in_transaction, "a call has left a transaction open"

    async def hand_over(self, function: Callable[..., T], *args: Any) -> T:
        """See `ConnectionThread.hand_over`."""
        return await self.call(function, *args)

    async def stop(self) -> None:
        """See `ConnectionThread.stop`."""
        self.connection.close()


class _NoLock(WorkerLock):
    """Tells nothing: all simulated processes are one to the operating system, so that the lease alone decides."""

    def take(self, worker_id: int) -> None:
        """See `WorkerLock.take`."""

    def is_dead(self, worker_id: int) -> bool:  # noqa: ARG002  # nothing is known
        """See `WorkerLock.is_dead`."""
        return False


class InlineSqlite(SqliteBackend):
    """A real file and real transactions, in one moment each.

    Attributes:
        planted: what the next COMMIT raises instead of being made; the simulated network sets it.
    """

    planted: StorageError | None = None

    async def open(self) -> None:
        """See `Backend.open`."""
        self._thread = InlineConnection(self.path, self._prepare)
        self._lock = _NoLock(self.path)
        self.hook = self._strike

    async def close(self) -> None:
        """See `Backend.close`."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.stop()
        self._release_servers()

    async def _read(self, sql: str, parameters: Sequence[object]) -> Sequence[Any]:
        def ask(connection: sqlite3.Connection) -> Sequence[Any]:
            return connection.execute(sql, parameters).fetchall()

        return await self._connection().call(ask)

    def _strike(self, moment: str) -> None:
        """Called before and after each COMMIT."""
        if moment == "before commit" and self.planted is not None:
            raise self.planted
