"""The thread that owns the writing connection.

Whoever wants something of the connection hands over a function and waits for its answer, or no longer waits: the
function runs to its end all the same. A file that another connection is writing to makes the whole function be called
again, so a function that is handed over must do nothing before it has the file, or must not mind doing it again.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, TypeVar

from durableflow.errors import StorageError

T = TypeVar("T")

BUSY_TIMEOUT_S: Final = 60.0
_BUSY_PAUSE_S: Final = 0.001

_HAND_OVER_S: Final = 0.0005

_Call = tuple[
    asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...], "threading.Lock | None"
]


class ConnectionThread:
    """One SQLite connection and the only thread that touches it.

    Args:
        configure: makes a fresh connection ready.
        at_end: called on the thread, when it is about to end.
    """

    def __init__(
        self, path: Path, configure: Callable[[sqlite3.Connection], None], at_end: Callable[[], None] = lambda: None
    ) -> None:
        self._path = path
        self._configure = configure
        self._at_end = at_end
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name=f"durableflow {path.name}", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """`function(connection, *args)` on the thread; it runs to its end whoever stops waiting for it."""
        return await self._put(function, args, None)

    async def hand_over(self, function: Callable[..., T], *args: Any) -> T:
        """The same for a caller who has much to do meanwhile: the thread has the call in hand before it goes on.

        Else a caller who computes would keep the interpreter, and so the thread from beginning, for a whole switch
        interval of 5 ms. A thread that is busy with another call is waited for only 0.5 ms.
        """
        in_hand = threading.Lock()
        in_hand.acquire()
        answer = self._put(function, args, in_hand)
        in_hand.acquire(timeout=_HAND_OVER_S)
        return await answer

    def _put(
        self, function: Callable[..., T], args: tuple[Any, ...], in_hand: threading.Lock | None
    ) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put((loop, future, function, args, in_hand))
        return future

    async def stop(self) -> None:
        """Finish what was asked, close the connection, end the thread."""
        if not self._stopped:
            self._stopped = True
            try:
                await self.call(_close, self._at_end)
            finally:
                self._calls.put(None)

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        while (call := self._calls.get()) is not None:
            loop, future, function, args, in_hand = call
            if in_hand is not None:
                in_hand.release()
            busy_since: float | None = None
            try:
                while True:
                    try:
                        if connection is None and function is not _close:
                            connection = self._connect()
                        result = function(connection, *args)
                        break
                    except sqlite3.OperationalError as error:
                        busy_since = busy_since or monotonic()
                        if not _is_busy(error) or monotonic() - busy_since > BUSY_TIMEOUT_S:
                            raise
                        sleep(_BUSY_PAUSE_S)
            except BaseException as error:
                answer: Callable[[asyncio.Future[Any], Any], None] = reject
                value: Any = _as_storage_error(self._path, error)
            else:
                answer, value = resolve, result
            if connection is not None and _is_left_open(connection):
                connection.close()  # not even a rollback went through: this one is beyond use
                connection = None
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(answer, future, value)
            del call, future, function, args, in_hand, value

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=True)
        try:
            self._configure(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _close(connection: sqlite3.Connection | None, at_end: Callable[[], None]) -> None:
    """The one thing that is done without a connection when there is none."""
    at_end()
    if connection is not None:
        connection.close()


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """True when another connection has the file; nothing was done.

    SQLite's own waiting sleeps ever longer, up to 0.1 s, and so starves beside a connection that writes all the
    time. Short even pauses get their turn.
    """
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # absent: Python's own, of text it cannot read
    return code & 0xFF == sqlite3.SQLITE_BUSY


def _is_left_open(connection: sqlite3.Connection) -> bool:
    try:
        return connection.in_transaction
    except sqlite3.ProgrammingError:  # it is closed
        return False


def _as_storage_error(path: Path, error: BaseException) -> BaseException:
    if isinstance(error, sqlite3.Error):
        wrapped = StorageError(f"{path}: {error}; nothing was written")
        wrapped.__cause__ = error
        return wrapped
    return error


def resolve(future: asyncio.Future[Any], value: Any) -> None:
    """Answer whoever still waits."""
    if not future.done():
        future.set_result(value)


def reject(future: asyncio.Future[Any], error: BaseException) -> None:
    """Tell whoever still waits what went wrong."""
    if not future.done():
        future.set_exception(error)
