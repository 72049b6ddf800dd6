"""Connections that user code is lent, each for one transaction; beside `database.py` only here the driver is known.

They are others than the engine's, so that user code waits for nothing of the engine's, nor the engine for it, and their
plans are made as the server would make them for anybody. What was done to one ends with the transaction for which it
was lent: it is reset before anybody else has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum, auto
from typing import Any, Final

import asyncpg

from durableflow.backends.postgres.database import LOST, Connection
from durableflow.errors import StorageError

LANES_MAX: Final = 8
_CONNECT_TIMEOUT_S: Final = 10.0
_RESET_TIMEOUT_S: Final = 5.0
_UNUSED_S: Final = 300.0
"""One that was not needed for so long is closed."""
_WATCHFUL: Final = "set client_connection_check_interval = '5s'"
"""The server notices in the midst of a statement that its client has died; before 14, or on some systems, it cannot."""


class Lane(asyncpg.Connection):
    """A connection whose COMMIT takes along what belongs directly before it, in one message to the server.

    So nothing is locked while a message is on its way, and a process that is frozen between the two holds nobody up.

    Attributes:
        watchful: a statement that makes the server watch its client; empty where it cannot.
    """

    _before = ""
    watchful = ""

    def put_before_commit(self, statement: str) -> None:
        """The next statement, which must be the COMMIT, goes behind this one."""
        self._before = f"{statement}; "

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """See `asyncpg.Connection.execute`."""
        before, self._before = self._before, ""
        return await super().execute(before + query, *args, timeout=timeout)


class Lanes:
    """A few of them, made when they are needed.

    Args:
        is_pooled: somebody hands server connections on between transactions: what a session remembers is of no use.
    """

    def __init__(self, url: str, name: str, *, is_pooled: bool) -> None:
        self._url = url
        self._name = name
        self._is_pooled = is_pooled
        self._pool: Any = None
        self._given_back: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Be ready; nobody connects before a connection is needed."""
        settings: Mapping[str, str] | None = None if self._is_pooled else {"application_name": "durableflow activity"}
        create: Any = asyncpg.create_pool  # whose types do not know that it makes connections of any class
        self._pool = await create(
            self._url,
            min_size=0,
            max_size=LANES_MAX,
            max_inactive_connection_lifetime=_UNUSED_S,
            connection_class=Lane,
            init=None if self._is_pooled else _make_watchful,
            reset=_leave if self._is_pooled else _reset,
            statement_cache_size=0 if self._is_pooled else 100,
            server_settings=settings,
            timeout=_CONNECT_TIMEOUT_S,
        )

    async def close(self) -> None:
        """Let all of them go; what is under way must have ended."""
        pool, self._pool = self._pool, None
        while self._given_back:
            await asyncio.wait(list(self._given_back))
        if pool is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RESET_TIMEOUT_S):
                    await pool.close()
            pool.terminate()

    async def borrow(self) -> Connection:
        """One that nobody else has.

        Raises:
            StorageError: there is none, and none can be made.
        """
        try:
            return await self._pool.acquire()
        except DRIVER_ERRORS as error:
            raise StorageError(f"cannot connect to {self._name}: {str(error) or type(error).__name__}") from error

    def give_back(self, connection: Connection) -> None:
        """It is reset, beside what goes on, and lent again; one that is of no use is replaced."""
        task = asyncio.ensure_future(self._give_back(self._pool, connection))
        self._given_back.add(task)
        task.add_done_callback(self._given_back.discard)

    async def _give_back(self, pool: Any, connection: Connection) -> None:
        with suppress(*DRIVER_ERRORS):
            await pool.release(connection, timeout=_RESET_TIMEOUT_S)


async def _make_watchful(connection: Lane) -> None:
    with suppress(asyncpg.PostgresError):
        await connection.execute(_WATCHFUL)
        connection.watchful = _WATCHFUL


async def _reset(connection: Lane) -> None:
    """As nobody had had it: settings, locks of the session, temporary tables, cursors."""
    await connection.execute(f"{connection.get_reset_query()}\ndiscard temp; {connection.watchful}")


async def _leave(_: Lane) -> None:
    """The session is not ours alone, and remembers nothing."""


# -- what an error says -----------------------------------------------------------------------------------------------

DRIVER_ERRORS: Final = (*LOST, asyncpg.PostgresError)
"""What the driver may raise."""

_AGAIN: Final = frozenset({"40001", "40P01"})
_UNFIT: Final = "25"
_STORES_FAULT: Final = ("53", "57", "58", "XX")


class Verdict(Enum):
    """What an error of a transaction means."""

    AGAIN = auto()
    """The server only asks to make the whole of it again: a deadlock, a serialization failure."""
    LOST = auto()
    """The connection is lost."""
    UNFIT = auto()
    """Its state does not allow it: it failed before, or may only read."""
    BUSY = auto()
    """The driver refused it: the connection is in use."""
    STORES = auto()
    """The server is full, stopping, or ill."""
    USERS = auto()
    """Anything else that the server does not like."""

    @property
    def is_refusal(self) -> bool:
        """Whether nothing of it was, or will be, done."""
        return self is not Verdict.LOST


def verdict(error: BaseException, connection: Connection) -> Verdict:
    """What is to be thought of an error that came from using this connection."""
    if is_gone(connection):
        return Verdict.LOST
    state = (error.sqlstate or "") if isinstance(error, asyncpg.PostgresError) else ""
    if state in _AGAIN:
        return Verdict.AGAIN
    if state.startswith(_UNFIT):
        return Verdict.UNFIT
    if state.startswith(_STORES_FAULT):
        return Verdict.STORES
    if state:
        return Verdict.USERS
    return Verdict.BUSY if isinstance(error, asyncpg.InterfaceError) else Verdict.LOST


def is_gone(connection: Connection) -> bool:
    """Whether it is lost; the pool may have taken it back for that already."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True
