"""The store: one method, one transaction, as `backends/base.py` says."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from durableflow.backends.base import (
    Arrival,
    Commit,
    DeadLetter,
    DeadLetterQuery,
    DebouncedStart,
    Ending,
    HistoryRow,
    InstanceRecord,
    Lease,
    LoadedInstance,
    Message,
    Outgoing,
    Query,
    Rewrite,
    ScheduleRow,
    ScheduleWrite,
    SendResult,
    Topic,
    UserWork,
    UserWorkForm,
)
from durableflow.backends.ownership import SoleOwner
from durableflow.backends.sqlite.alerts import AlertTables, note_takeover
from durableflow.backends.sqlite.arrivals import take_in
from durableflow.backends.sqlite.circuits import CIRCUITS_SQL, as_circuit, swap
from durableflow.backends.sqlite.commit import (
    REFUSALS,
    Packed,
    create_commit_view,
    lease_lost,
    pack,
    write_packed,
    write_row_by_row,
)
from durableflow.backends.sqlite.dead_letters import dead_letters_sql, discard
from durableflow.backends.sqlite.inbox import inbox, send
from durableflow.backends.sqlite.instances import purge
from durableflow.backends.sqlite.loading import due, load, next_wake
from durableflow.backends.sqlite.lock import WorkerLock
from durableflow.backends.sqlite.moving import MovingTables, refusal
from durableflow.backends.sqlite.reader import Reader
from durableflow.backends.sqlite.records import (
    ENDS_SQL,
    HISTORY_SQL,
    LAST_ROW_SQL,
    RECORD_SQL,
    as_ending,
    as_record,
    finished_sql,
    lenient_text,
    list_sql,
)
from durableflow.backends.sqlite.relaying import RelayTables
from durableflow.backends.sqlite.rewriting import write_rewrites
from durableflow.backends.sqlite.schedules import (
    DUE_SCHEDULES_SQL,
    SCHEDULE_SQL,
    SCHEDULES_SQL,
    as_rows,
    write_schedule,
)
from durableflow.backends.sqlite.schema import MIGRATIONS, migrate, schema_version
from durableflow.backends.sqlite.serving import TaskTables
from durableflow.backends.sqlite.thread import ConnectionThread
from durableflow.backends.sqlite.transact import UserTransactions
from durableflow.backends.sqlite.watch import ChangeWatch
from durableflow.backends.sqlite.windows import close_window, debounce
from durableflow.errors import CommitOutcomeUnknown, EngineClosed, StorageError, UsageError
from durableflow.model.circuit import Circuit
from durableflow.model.status import Status

T = TypeVar("T")

_LARGE_COMMIT_ROWS: Final = 32
"""Whoever makes such a commit has much to do meanwhile, and must not keep the thread from beginning with it."""


class SqliteBackend(SoleOwner, TaskTables, AlertTables, MovingTables, RelayTables):
    """Histories in one SQLite file.

    Args:
        path: of the file; made when missing. `":memory:"` is refused: use `memory://`.
        power_loss_safe: False means `synchronous=NORMAL`: faster on slow disks, and the last
            acknowledged commits may be gone after a loss of power (not after a crash of the process).

    Attributes:
        hook: for tests: called with "begin", "before commit" and "after commit" on the
            connection's thread; may raise.
    """

    shared = True
    user_work: UserWorkForm = "plain"

    def __init__(self, path: str | Path, *, power_loss_safe: bool = True) -> None:
        if str(path) in ("", ":memory:"):
            raise UsageError("SQLite needs a file here; for a store in memory write Engine('memory://')")
        self.path = Path(path).absolute()
        self.power_loss_safe = power_loss_safe
        self.hook: Callable[[str], None] | None = None
        self._thread: ConnectionThread | None = None
        self._reader: Reader | None = None
        self._watch: ChangeWatch | None = None
        self._user_transactions = UserTransactions(self.path, self._configure_for_users)
        self._lock = WorkerLock(self.path)
        TaskTables.__init__(self, self.path)

    @classmethod
    def from_url(cls, rest: str) -> SqliteBackend:
        """From what follows `sqlite://`: `/relative.db`, `//absolute.db`, with `?power_loss_safe=false` or not."""
        path, _, options = rest.partition("?")
        given = dict(parse_qsl(options))
        safe = given.pop("power_loss_safe", "true").lower()
        if given or safe not in ("true", "false"):
            raise UsageError(f"unknown options {options!r} of a sqlite URL; known: power_loss_safe=true|false")
        if not path.startswith("/") or len(path) < 2:
            raise UsageError(f"'sqlite://{rest}' names no file; write sqlite:///orders.db or sqlite:////var/orders.db")
        return cls(path[1:], power_loss_safe=safe == "true")

    def __repr__(self) -> str:
        return f"SqliteBackend({str(self.path)!r})"

    # -- life cycle -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `Backend.open`."""
        if not self.path.parent.is_dir():
            raise StorageError(f"cannot open {self.path}: the folder {self.path.parent} does not exist")
        if self._thread is not None:
            raise UsageError(f"{self!r} is open already; make another backend to open the file twice")
        thread = ConnectionThread(self.path, self._prepare, self._user_transactions.close)
        try:
            await thread.call(_exist)
        except BaseException:
            await thread.stop()
            raise
        self._thread, self._reader, self._watch = thread, Reader(self.path), ChangeWatch(thread)

    async def close(self) -> None:
        """See `Backend.close`."""
        thread, self._thread = self._thread, None
        reader, self._reader = self._reader, None
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()
        try:
            if reader is not None:
                await reader.close()
        finally:
            try:
                if thread is not None:
                    await thread.stop()
            finally:
                self._lock.release()
                self._release_servers()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make a connection ready for writing: the first one, and one that takes the place of one beyond use."""
        self._configure(connection)
        if schema_version(connection, self.path) < len(MIGRATIONS):
            self._transact(connection, partial(migrate, where=self.path))
        create_commit_view(connection)

    def _configure(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = lenient_text
        execute = connection.execute
        mode = execute("pragma journal_mode=wal").fetchone()[0]
        if mode != "wal":
            raise StorageError(f"{self.path} is in a place where SQLite cannot keep a write-ahead log ({mode!r})")
        execute(f"pragma synchronous={'full' if self.power_loss_safe else 'normal'}")
        execute("pragma temp_store=memory")
        execute("pragma cache_size=-65536")
        execute("pragma wal_autocheckpoint=4000")

    def _configure_for_users(self, connection: sqlite3.Connection) -> None:
        """A connection for transactional activities: it enforces the foreign keys that they declare."""
        self._configure(connection)
        connection.text_factory = str
        connection.execute("pragma foreign_keys=on")

    # -- the one wrapper of BEGIN and COMMIT ----------------------------------------------------------------

    async def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        return await self._connection().call(self._transact, change)

    def _connection(self) -> ConnectionThread:
        if self._thread is None:
            raise self._not_open()
        return self._thread

    def _not_open(self) -> EngineClosed:
        return EngineClosed(f"{self!r} is not open")

    def _transact(self, connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run `change` in one transaction; whatever happens, none is left open.

        A worker's commit that nobody watches by a hook is the one writer that does without: see `commit`.
        """
        hook = self.hook
        connection.execute("begin immediate")  # when the file is busy, the thread calls this again
        try:
            if hook is not None:
                hook("begin")
            result = change(connection)
            if hook is not None:
                hook("before commit")
        except BaseException as error:
            _roll_back(connection)
            if isinstance(error, sqlite3.Error):
                told = StorageError(f"{self.path}: {error}; nothing was written")
                raise refusal(connection, error) or told from error
            raise
        try:
            connection.execute("commit")
            if hook is not None:
                hook("after commit")
        except BaseException as error:
            _roll_back(connection)  # whatever comes of it: the outcome is unknown
            raise self._no_answer(error) from error
        return result

    # -- the worker's side ----------------------------------------------------------------------------------

    async def acquire(self, name: str, ttl_us: int, now_us: int) -> Lease | None:
        """See `Backend.acquire`."""

        def change(connection: sqlite3.Connection) -> Lease | None:
            for worker_id, expires_us in connection.execute("select id, expires_us from workers").fetchall():
                if expires_us > now_us and not self._lock.is_dead(worker_id):
                    return None
                connection.execute("delete from workers where id = ?", (worker_id,))
                self._lock.bury(worker_id)
            cursor = connection.execute("insert into workers (name, expires_us) values (?, ?)", (name, now_us + ttl_us))
            worker_id = cursor.lastrowid
            assert worker_id is not None
            note_takeover(connection, worker_id, name, now_us)
            self._lock.take(worker_id)
            return Lease(worker_id, now_us + ttl_us)

        def acquire(connection: sqlite3.Connection) -> Lease | None:
            try:
                return self._transact(connection, change)
            except BaseException:
                self._lock.release()  # if there is a worker row after all, its lease alone decides
                raise

        return await self._connection().call(acquire)

    async def renew(self, lease: Lease, ttl_us: int, now_us: int) -> Lease:
        """See `Backend.renew`."""

        def change(connection: sqlite3.Connection) -> Lease:
            cursor = connection.execute(
                "update workers set expires_us = ? where id = ?", (now_us + ttl_us, lease.worker_id)
            )
            if cursor.rowcount != 1:
                raise lease_lost(lease)
            return Lease(lease.worker_id, now_us + ttl_us)

        return await self._write(change)

    async def release(self, lease: Lease) -> None:
        """See `Backend.release`."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("delete from workers where id = ?", (lease.worker_id,))

        await self._write(change)
        self._lock.release()

    async def commit(self, lease: Lease, commit: Commit) -> None:
        """See `Backend.commit`. One statement, which is its own transaction.

        With a hook set, the same statement runs between a BEGIN and a COMMIT of `_transact`, so that there are the
        moments at which the hook is called.
        """
        packed = pack(lease, commit)

        def one_by_one(connection: sqlite3.Connection) -> None:
            write_row_by_row(connection, lease, commit)

        def at_once(connection: sqlite3.Connection) -> None:
            assert packed is not None
            try:
                write_packed(connection, packed)
            except sqlite3.IntegrityError:  # took back this statement, not the transaction
                one_by_one(connection)

        def write(connection: sqlite3.Connection) -> None:
            if packed is None:
                self._transact(connection, one_by_one)
            elif self.hook is not None:
                self._transact(connection, at_once)
            elif not self._autocommit(connection, packed):
                self._transact(connection, one_by_one)  # which says what is in the way, or finds it gone and writes

        thread = self._connection()
        await (thread.hand_over if len(commit.rows) >= _LARGE_COMMIT_ROWS else thread.call)(write)

    def _autocommit(self, connection: sqlite3.Connection, packed: Packed) -> bool:
        """Write all of a commit in a transaction of its own; False when there is something in the way."""
        try:
            write_packed(connection, packed)
        except sqlite3.IntegrityError:
            return False
        except MemoryError as error:  # SQLITE_NOMEM
            raise self._no_answer(error) from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)  # absent: the statement was not even begun
            if code is None or code & 0xFF in REFUSALS:
                raise  # when the file is busy, the thread calls this again; what else it is, it tells
            raise self._no_answer(error) from error
        return True

    def _no_answer(self, error: BaseException) -> CommitOutcomeUnknown:
        return CommitOutcomeUnknown(f"{self.path}: the commit did not answer: {error}")

    async def transact(self, lease: Lease, instance_id: str, work: UserWork) -> SendResult:
        """See `Backend.transact`."""

        def run(_: sqlite3.Connection) -> SendResult | BaseException:
            return self._user_transactions.run(lease, instance_id, work, self.hook)

        outcome = await self._connection().call(run)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def load(
        self,
        instance_ids: Sequence[str],
        lease: Lease | None = None,  # noqa: ARG002  # a sole owner's
    ) -> list[LoadedInstance]:
        """See `Backend.load`."""
        return await self._connection().call(load, instance_ids)

    async def due(
        self,
        after: tuple[int, str],
        until_us: int,
        limit: int,
        lease: Lease | None = None,  # noqa: ARG002  # a sole owner's
    ) -> list[tuple[int, str]]:
        """See `Backend.due`."""
        return await self._connection().call(due, after, until_us, limit)

    async def next_wake(self, from_us: int, lease: Lease | None = None) -> int | None:  # noqa: ARG002  # a sole owner's
        """See `Backend.next_wake`."""
        return await self._connection().call(next_wake, from_us)

    async def inbox(self, after: int, limit: int) -> list[Message]:
        """See `Backend.inbox`."""
        return await self._connection().call(inbox, after, limit)

    async def wait_for_change(self, timeout_s: float, topic: Topic = "anything") -> bool:  # noqa: ARG002  # all are told
        """See `Backend.wait_for_change`."""
        if self._watch is None:
            raise self._not_open()
        return await self._watch.wait(timeout_s)

    async def circuits(self) -> list[Circuit]:
        """See `Backend.circuits`."""
        return [as_circuit(row) for row in await self._read(CIRCUITS_SQL, ())]

    async def swap_circuit(self, circuit: Circuit) -> Circuit | None:
        """See `Backend.swap_circuit`."""
        return await self._write(lambda connection: swap(connection, circuit))

    # -- the client's side ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        """See `Backend.send`."""
        return await self._write(partial(send, messages=messages))

    async def write_schedule(self, write: ScheduleWrite, lease: Lease | None = None) -> bool:
        """See `Backend.write_schedule`."""
        return await self._write(partial(write_schedule, write=write, lease=lease))

    async def schedule(self, schedule_id: str) -> ScheduleRow | None:
        """See `Backend.schedule`."""
        return next(iter(as_rows(await self._read(SCHEDULE_SQL, (schedule_id,)))), None)

    async def list_schedules(self, after: str, limit: int) -> list[ScheduleRow]:
        """See `Backend.list_schedules`."""
        return as_rows(await self._read(SCHEDULES_SQL, (after, limit)))

    async def due_schedules(self, after: tuple[int, str], limit: int) -> list[ScheduleRow]:
        """See `Backend.due_schedules`."""
        return as_rows(await self._read(DUE_SCHEDULES_SQL, (*after, limit)))

    async def rewrite(self, rewrites: Sequence[Rewrite]) -> None:
        """See `Backend.rewrite`."""
        await self._write(partial(write_rewrites, rewrites=rewrites))

    async def debounce(self, start: DebouncedStart) -> str:
        """See `Backend.debounce`."""
        return await self._write(lambda connection: debounce(connection, start))

    async def close_window(self, instance_id: str, now_us: int) -> int | None:
        """See `Backend.close_window`."""
        return await self._write(lambda connection: close_window(connection, instance_id, now_us))

    async def record(self, instance_id: str) -> InstanceRecord | None:
        """See `Backend.record`."""
        rows = await self._read(RECORD_SQL, (instance_id,))
        return as_record(rows[0]) if rows else None

    async def history(self, instance_id: str, from_seq: int, limit: int) -> list[HistoryRow]:
        """See `Backend.history`."""
        return [HistoryRow(*row) for row in await self._read(HISTORY_SQL, (instance_id, instance_id, from_seq, limit))]

    async def last_row(self, instance_id: str) -> HistoryRow | None:
        """See `Backend.last_row`."""
        rows = await self._read(LAST_ROW_SQL, (instance_id,))
        return HistoryRow(*rows[0]) if rows else None

    async def ends(self, instance_ids: Sequence[str]) -> list[Ending]:
        """See `Backend.ends`."""
        asked = msgspec.json.encode(instance_ids).decode()
        return [as_ending(row) for row in await self._read(ENDS_SQL, (asked,))]

    async def list_records(self, query: Query) -> list[InstanceRecord]:
        """See `Backend.list_records`."""
        sql, parameters = list_sql(query)
        return [as_record(row) for row in await self._read(sql, parameters)]

    async def finished(
        self, statuses: Collection[Status], before_us: int, after: tuple[int, str], limit: int
    ) -> list[tuple[int, str]]:
        """See `Backend.finished`."""
        sql, parameters = finished_sql(statuses, before_us, after, limit)
        return [(created_us, instance_id) for created_us, instance_id in await self._read(sql, parameters)]

    async def dead_letters(self, query: DeadLetterQuery) -> list[DeadLetter]:
        """See `Backend.dead_letters`."""
        sql, parameters = dead_letters_sql(query)
        return [DeadLetter(*row) for row in await self._read(sql, parameters)]

    async def discard(self, letters: Sequence[tuple[str, int]]) -> int:
        """See `Backend.discard`."""
        return await self._write(partial(discard, letters=letters))

    async def purge(self, instance_ids: Sequence[str]) -> list[str]:
        """See `Backend.purge`."""
        return await self._write(partial(purge, instance_ids=instance_ids))

    async def take_in(self, arrivals: Sequence[Arrival]) -> set[str]:
        """See `Backend.take_in`."""
        return await self._write(partial(take_in, arrivals=arrivals))

    async def _read(self, sql: str, parameters: Sequence[object]) -> Sequence[Any]:
        """Rows of a question that must not hold up the writer."""
        if self._reader is None:
            raise self._not_open()
        return await self._reader.ask(sql, parameters)


def _exist(_: sqlite3.Connection) -> None:
    """Asked of the thread, this makes it connect."""


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with suppress(sqlite3.Error):  # the thread closes a connection that stays in a transaction
            connection.execute("rollback")
