"""A connection for questions that must not hold up the writer."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from durableflow.backends.sqlite.records import lenient_text
from durableflow.backends.sqlite.thread import BUSY_TIMEOUT_S
from durableflow.errors import EngineClosed, StorageError

if TYPE_CHECKING:
    import aiosqlite


class Reader:
    """Connects at the first question; of one event loop, from its making to `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._opening: asyncio.Future[aiosqlite.Connection] | None = None
        self._closed = False

    async def ask(self, sql: str, parameters: Sequence[object]) -> Sequence[Any]:
        """The rows that answer."""
        import aiosqlite  # loaded by the first question, not by the import of the package

        try:
            async with self._lock:
                if self._closed:
                    raise EngineClosed(f"{self._path} is not open any more")
                if self._opening is None:
                    connecting = aiosqlite.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
                    self._opening = asyncio.ensure_future(_open(connecting))
                # Whoever is cancelled here leaves the connecting be: its thread is no daemon, `close` must find it.
                try:
                    connection = await asyncio.shield(self._opening)
                except sqlite3.Error:
                    self._opening = None
                    raise
                return list(await connection.execute_fetchall(sql, parameters))
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}") from error
        except ValueError as error:  # what aiosqlite says of a connection that `close` took away meanwhile
            if not self._closed:
                raise
            raise EngineClosed(f"{self._path} was closed before it could answer") from error

    async def close(self) -> None:
        """Let go of the connection; whoever is cancelled meanwhile does not keep it from closing."""
        self._closed = True
        opening, self._opening = self._opening, None
        if opening is not None:
            await asyncio.shield(_close(opening))


async def _open(connecting: aiosqlite.Connection) -> aiosqlite.Connection:
    connection = await connecting
    connection.text_factory = lenient_text
    await connection.execute("pragma query_only=1")
    return connection


async def _close(opening: asyncio.Future[aiosqlite.Connection]) -> None:
    with suppress(sqlite3.Error):
        await (await opening).close()
