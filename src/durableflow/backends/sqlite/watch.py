"""Waiting for commits of other connections."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Final

from durableflow.backends.sqlite.thread import ConnectionThread, reject, resolve
from durableflow.errors import StorageError

_POLL_S: Final = 0.02


class ChangeWatch:
    """However many wait, one task looks, and only while somebody waits."""

    def __init__(self, thread: ConnectionThread) -> None:
        self._thread = thread
        self._version: int | None = None
        self._waiting: list[asyncio.Future[bool]] = []
        self._task: asyncio.Task[None] | None = None

    async def wait(self, timeout_s: float) -> bool:
        """True as soon as another connection may have written something; False after `timeout_s`."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(), name="durableflow sqlite watch")
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return False
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def stop(self) -> None:
        """Look no more; whoever waits does so to the end of their time."""
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        try:
            while self._waiting:
                version = await self._thread.call(_data_version)
                if version != self._version:
                    self._version = version
                    waiting, self._waiting = self._waiting, []
                    for future in waiting:
                        resolve(future, True)
                else:
                    await asyncio.sleep(_POLL_S)
        except StorageError as error:
            for future in self._waiting:
                reject(future, error)


def _data_version(connection: sqlite3.Connection) -> int:
    """Differs from what it was when another connection has committed."""
    version: int = connection.execute("pragma data_version").fetchone()[0]
    return version
