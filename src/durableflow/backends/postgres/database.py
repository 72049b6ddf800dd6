"""Connections to a Postgres server, and what its answers mean; the driver is known here only.

Each call is a transaction, and nobody's to cancel: a caller that is cancelled leaves, the transaction goes on.

What an error means for what was written:

- The server refused a statement: nothing was. It is told as `Refused`, or, if the server only asks to try again
  (a deadlock, a serialization failure), the whole transaction is made again.
- The connection was lost, or the server was shut down, before COMMIT was sent: nothing was.
- The same while a COMMIT, or a statement that is a transaction of its own, was under way: nobody knows. The server may
  still be at work on it, or may not have begun. So the lost session is ended first: when `CommitOutcomeUnknown` is
  raised, nothing more comes of it, and whoever looks sees what has. (Behind a pooler that cannot be done.)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
import msgspec

from durableflow.errors import CommitOutcomeUnknown, EngineClosed, StorageError, StoreSealed, UsageError

T = TypeVar("T")

Connection: TypeAlias = Any
"""A connection of the driver's; its types say less than they promise."""

_LANES: Final = 4
_CONNECT_TIMEOUT_S: Final = 5.0
_TRIES: Final = 10
_AGAIN: Final = frozenset({"40001", "40P01", "55P03"})
"""Nothing was written, and the same may succeed when it is made again."""
SEALED: Final = "DF005"
"""SQLSTATE: the store is being moved, or has been; the detail says where, as JSON."""
_GONE: Final = ("08", "57P")
"""The connection is lost, or the server ends it: beginnings of SQLSTATE."""
_END_SESSION: Final = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where pid = $1 and usename = session_user and backend_start < clock_timestamp() - $2 * interval '1 second'
"""
"""How many sessions there still are of that number, which began before it was lost; numbers are given out again."""
_LOOK_AGAIN_S: Final = 0.005
_CONNECT_AGAIN_S: Final = 0.1
LOST: Final = (
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class Refused(StorageError):
    """The server refused a statement; nothing was written.

    Attributes:
        state: the SQLSTATE.
        detail: what the server adds, or empty.
    """

    def __init__(self, message: str, state: str, detail: str) -> None:
        super().__init__(message)
        self.state = state
        self.detail = detail


class _Lost(Exception):
    """The connection is of no use any more.

    Attributes:
        session: the number of the server's process that it led to.
    """

    session: int | None = None


class Database:
    """A few connections to one database.

    Args:
        url: as the driver takes it, `postgresql://user@host/database`.
        settings: server settings of each connection; empty behind a pooler, which refuses them.
        statement_cache_size: 0 behind a pooler that hands connections on between transactions.
        command_timeout_s: a server that does not answer for so long is taken for lost.

    Attributes:
        hook: for tests: called with "begin", "before commit" and "after commit"; may raise.
    """

    def __init__(
        self, url: str, *, settings: Mapping[str, str], statement_cache_size: int, command_timeout_s: float
    ) -> None:
        self._url = url
        self._settings = dict(settings)
        self._statement_cache_size = statement_cache_size
        self._command_timeout_s = command_timeout_s
        self.hook: Callable[[str], None] | None = None
        self._idle: list[Connection] = []
        self._busy: dict[Connection, float] = {}
        """Since when each has had something to do."""
        self._attempts: dict[asyncio.Future[Connection], float] = {}
        """To connect, and since when."""
        self._places = asyncio.Semaphore(_LANES)
        self._own_place = asyncio.Semaphore(1)
        self._turns = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._is_open = False

    def __str__(self) -> str:
        return safe_url(self._url)

    async def open(self) -> None:
        """Connect once, to know that it can be done.

        Raises:
            StorageError: it cannot.
        """
        self._places, self._turns = asyncio.Semaphore(_LANES), asyncio.Lock()
        self._own_place = asyncio.Semaphore(1)
        self._idle = [await self.connect()]
        self._is_open = True

    async def close(self) -> None:
        """Let what is under way end, then let go of everything."""
        while self._under_way:
            await asyncio.wait(list(self._under_way), timeout=self._command_timeout_s)
            self._is_open = False
        self._is_open = False
        idle, self._idle = self._idle, []
        for connection in idle:
            await dismiss(connection)

    def hang_up(self, silence_s: float) -> None:
        """Take for lost what has been under way for so long; a silence of the network can last for ever."""
        now_s = asyncio.get_running_loop().time()
        for connection in [connection for connection, since_s in self._busy.items() if now_s - since_s > silence_s]:
            connection.terminate()
        for attempt in [attempt for attempt, since_s in self._attempts.items() if now_s - since_s > silence_s]:
            attempt.cancel()

    async def connect(self) -> Connection:
        """A connection of the caller's own.

        Raises:
            StorageError: the server cannot be reached, or does not let us in.
        """
        attempt: asyncio.Future[Connection] = asyncio.ensure_future(
            asyncpg.connect(
                self._url,
                statement_cache_size=self._statement_cache_size,
                server_settings=self._settings or None,
                timeout=_CONNECT_TIMEOUT_S,
            )
        )
        self._attempts[attempt] = asyncio.get_running_loop().time()
        try:
            await asyncio.wait([attempt], timeout=_CONNECT_TIMEOUT_S)
        except BaseException:
            attempt.add_done_callback(_terminate)
            raise
        finally:
            del self._attempts[attempt]
            attempt.cancel()
        try:
            return await attempt
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise StorageError(f"cannot connect to {self}: it does not answer") from None
        except (*LOST, asyncpg.PostgresError) as error:
            raise StorageError(f"cannot connect to {self}: {str(error) or type(error).__name__}") from error
        except ValueError as error:
            raise UsageError(f"{self} is not the address of a Postgres database: {error}") from error

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """What a connection of the caller's own has to say.

        Raises:
            StorageError: it is lost.
        """
        try:
            async with answers(self._command_timeout_s):
                return await call()
        except _Lost as error:
            raise StorageError(f"{self}: the connection was lost: {error.__cause__!r}") from error

    # -- the three kinds of calls ---------------------------------------------------------------------------

    async def read(self, sql: str, *parameters: object) -> Sequence[Any]:
        """The rows that answer a question."""

        async def ask() -> Sequence[Any]:
            for is_last in (False, True):
                try:
                    return await self._on_a_connection(lambda connection: self._fetch(connection, sql, parameters))
                except _Lost as error:
                    if is_last:
                        raise StorageError(f"{self}: the connection was lost: {error.__cause__!r}") from error
            raise AssertionError

        return await self.to_its_end(ask())

    async def moment(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Call `work`, which only reads, in a transaction that sees the store as it is at one moment."""

        async def look(connection: Connection) -> T:
            async with answers(self._command_timeout_s):
                await connection.execute("begin isolation level repeatable read read only")
            try:
                async with answers(self._command_timeout_s):
                    return await work(connection)
            finally:
                if not connection.is_closed():
                    async with answers(self._command_timeout_s):
                        await connection.execute("rollback")

        async def call() -> T:
            for is_last in (False, True):
                try:
                    return await self._on_a_connection(look)
                except _Lost as error:
                    if is_last:
                        raise StorageError(f"{self}: the connection was lost: {error.__cause__!r}") from error
            raise AssertionError

        return await self.to_its_end(call())

    async def write_in_turn(self, sql: str, *parameters: object) -> Sequence[Any]:
        """As `write`, but not before those that were asked for earlier by this method are through."""

        async def call() -> Sequence[Any]:
            async with self._turns:
                return await self.write(sql, *parameters)

        return await self.to_its_end(call())

    async def write_at_once(self, sql: str, *parameters: object) -> Sequence[Any]:
        """As `write`, but it waits for no others than its own kind, however many there are."""
        return await self._write(sql, parameters, self._own_place)

    async def write(self, sql: str, *parameters: object) -> Sequence[Any]:
        """One statement, which is a transaction of its own; its rows.

        Raises:
            Refused: nothing was written.
            CommitOutcomeUnknown: the connection was lost meanwhile.
        """
        return await self._write(sql, parameters, self._places)

    async def _write(self, sql: str, parameters: Sequence[object], places: asyncio.Semaphore) -> Sequence[Any]:
        if self.hook is not None:
            return await self.transaction(lambda connection: self._fetch(connection, sql, parameters))

        async def call() -> Sequence[Any]:
            try:
                return await self._patiently(lambda connection: self._fetch(connection, sql, parameters), places)
            except _Lost as error:
                await self._end_session(error.session)
                raise self._unknown(error.__cause__) from error

        return await self.to_its_end(call())

    async def transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Call `work` inside a transaction, again if the server asks for it; whatever it raises, nothing is written.

        Raises:
            CommitOutcomeUnknown: the connection was lost while it was being committed.
        """

        async def call() -> T:
            try:
                return await self._patiently(lambda connection: self._transact(connection, work), self._places)
            except _Lost as error:
                raise StorageError(f"{self}: {error.__cause__}; nothing was written") from error

        return await self.to_its_end(call())

    # -- how they are made ----------------------------------------------------------------------------------

    async def to_its_end(self, call: Coroutine[Any, Any, T]) -> T:
        """What `call` gives; a caller that is cancelled leaves, the call goes on, and closing waits for it."""
        if not self._is_open:
            call.close()
            raise EngineClosed(f"the connection to {self} is not open")
        task = asyncio.ensure_future(call)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits still gets it; a caller that has left is no warning

    async def _patiently(self, work: Callable[[Connection], Awaitable[T]], places: asyncio.Semaphore) -> T:
        for tried in range(1, _TRIES + 1):
            try:
                return await self._on_a_connection(work, places)
            except Refused as error:
                if error.state not in _AGAIN or tried == _TRIES:
                    raise
            await asyncio.sleep(random.uniform(0, 0.002 * 2**tried))  # noqa: S311  # so that two do not meet again
        raise AssertionError

    async def _on_a_connection(
        self, work: Callable[[Connection], Awaitable[T]], places: asyncio.Semaphore | None = None
    ) -> T:
        async with places or self._places:
            connection = self._idle.pop() if self._idle else None
            if connection is None or connection.is_closed():
                connection = await self.connect()
            self._busy[connection] = asyncio.get_running_loop().time()
            session = connection.get_server_pid()
            try:
                return await work(connection)
            except _Lost as error:
                error.session = session
                connection.terminate()
                for other in self._idle:  # what befell it may have befallen them
                    other.terminate()
                self._idle.clear()
                raise
            finally:
                del self._busy[connection]
                if not connection.is_closed():
                    self._idle.append(connection)

    async def _fetch(self, connection: Connection, sql: str, parameters: Sequence[object]) -> Sequence[Any]:
        async with answers(self._command_timeout_s):
            rows: Sequence[Any] = await connection.fetch(sql, *parameters)
        return rows

    async def _transact(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        hook, session = self.hook, connection.get_server_pid()
        async with answers(self._command_timeout_s):
            # A transaction has its number before it draws one for a message: readers of the inbox count on it.
            await connection.execute("begin; select txid_current()")
        try:
            if hook is not None:
                hook("begin")
            async with answers(self._command_timeout_s):
                result = await work(connection)
            if hook is not None:
                hook("before commit")
        except _Lost:
            raise
        except BaseException:
            async with answers(self._command_timeout_s):
                await connection.execute("rollback")
            raise
        try:
            async with answers(self._command_timeout_s):
                await connection.execute("commit")
            if hook is not None:
                hook("after commit")
        except Refused:
            raise
        except BaseException as error:
            connection.terminate()
            await self._end_session(session)
            raise self._unknown(error) from error
        return result

    async def _end_session(self, session: int | None) -> None:
        """Return when nothing more can come of a session whose connection was lost."""
        if session is None or not self._statement_cache_size:  # behind a pooler the numbers are the pooler's own
            return
        loop = asyncio.get_running_loop()
        lost_s = loop.time()
        while self._is_open:
            with suppress(StorageError, _Lost):
                connection = await self.connect()
                self._busy[connection] = loop.time()
                try:
                    async with answers(self._command_timeout_s):
                        # The server tells nobody when a session has ended.
                        while await connection.fetchval(_END_SESSION, session, loop.time() - lost_s):  # noqa: ASYNC110
                            await asyncio.sleep(_LOOK_AGAIN_S)
                    return
                finally:
                    del self._busy[connection]
                    await dismiss(connection)
            await asyncio.sleep(_CONNECT_AGAIN_S)

    def _unknown(self, cause: BaseException | None) -> CommitOutcomeUnknown:
        return CommitOutcomeUnknown(f"{self}: the commit did not answer: {cause!r}")


class answers:  # noqa: N801  # reads as a word where it is used
    """Inside, errors of the driver become `Refused`, or the sign that the connection is lost; so does a silence."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._timeout = asyncio.timeout(timeout_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:  # which has no words of its own
            raise _Lost from TimeoutError(f"the server has not answered for {self._timeout_s:g} s")
        if isinstance(error, asyncpg.PostgresError):
            state = error.sqlstate or ""
            if state.startswith(_GONE):
                raise _Lost from error
            if state == SEALED:
                raise StoreSealed(**msgspec.json.decode(error.detail or "{}")) from error
            raise Refused(str(error), state, getattr(error, "detail", None) or "") from error
        if isinstance(error, LOST):
            raise _Lost from error


def _terminate(attempt: asyncio.Future[Connection]) -> None:
    """Nobody wants the connection any more."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()


async def dismiss(connection: Connection) -> None:
    """Close a connection, politely if that is quick."""
    with suppress(*LOST, asyncpg.PostgresError):
        await connection.close(timeout=2.0)
    connection.terminate()


def safe_url(url: str) -> str:
    """The address without the password, for messages."""
    scheme, separator, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    user = login.partition(":")[0]
    return f"{scheme}{separator}{user}{at}{place.partition('?')[0]}"
