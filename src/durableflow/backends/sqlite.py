"""SQLite: the embedded default. One file, write-ahead log, `synchronous=FULL`.

All writing is done by one thread that owns the connection: a whole transaction is one hop
to it, nobody can cancel it half way, and it is a daemon, so that an engine which was never
closed does not hang the interpreter's exit. Listing and looking is done by aiosqlite on a
connection of its own, so that a long list does not hold up the commits.

Only one worker owns the file at a time. It holds a row of `workers` and, while its process
lives, an operating-system lock on a small file beside the database, which tells the next
worker at once that it is dead, without waiting for the lease to end.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from durableflow.backends.base import (
    Commit,
    Heartbeat,
    HistoryRow,
    InstanceRecord,
    Lease,
    LoadedInstance,
    Message,
    NewInstance,
    Outgoing,
    Query,
    SendResult,
)
from durableflow.errors import (
    AppendConflict,
    CommitOutcomeUnknown,
    EngineClosed,
    InstancesExist,
    LeaseLost,
    SchemaMismatch,
    StorageError,
    UsageError,
)
from durableflow.model.status import TERMINAL, Status

if TYPE_CHECKING:
    import aiosqlite

T = TypeVar("T")

_BUSY_TIMEOUT_S: Final = 60.0
_BUSY_PAUSE_S: Final = 0.001
_POLL_S: Final = 0.02
_TERMINAL_SQL: Final = "(" + ", ".join(repr(status.value) for status in sorted(TERMINAL)) + ")"

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    create table workers (
        id integer primary key autoincrement,
        name text not null,
        expires_us integer not null
    );
    create table instances (
        id text primary key,
        workflow text not null,
        version integer not null,
        status text not null,
        created_us integer not null,
        finished_us integer,
        wake_us integer,
        tags text,
        custom_status blob,
        stall_reason text
    ) without rowid;
    create index instances_wake on instances (wake_us) where wake_us is not null;
    create index instances_created on instances (created_us, id);
    create table history (
        instance text not null,
        first_seq integer not null,
        at_us integer not null,
        events blob not null,
        primary key (instance, first_seq)
    ) without rowid;
    create table inbox (
        number integer primary key autoincrement,
        instance text not null,
        data blob not null,
        event_id text
    );
    create index inbox_instance on inbox (instance, number);
    create unique index inbox_event_id on inbox (instance, event_id) where event_id is not null;
    create table heartbeats (
        instance text not null,
        task integer not null,
        attempt integer not null,
        details blob not null,
        primary key (instance, task)
    ) without rowid;
    create table tags (
        key text not null,
        value text not null,
        instance text not null,
        primary key (key, value, instance)
    ) without rowid;
    create index tags_instance on tags (instance);
    """,
)
"""Schema changes in order; `pragma user_version` counts those that were made."""

_RECORD_COLUMNS: Final = (
    "id, workflow, version, status, created_us, finished_us, wake_us, tags, custom_status, stall_reason"
)


class SqliteBackend:
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

    def __init__(self, path: str | Path, *, power_loss_safe: bool = True) -> None:
        if str(path) in ("", ":memory:"):
            raise UsageError("SQLite needs a file here; for a store in memory write Engine('memory://')")
        self.path = Path(path).absolute()
        self.power_loss_safe = power_loss_safe
        self.hook: Callable[[str], None] | None = None
        self._thread: _ConnectionThread | None = None
        self._reader: asyncio.Future[aiosqlite.Connection] | None = None
        self._reader_lock = asyncio.Lock()
        self._data_version: int | None = None
        self._watchers: list[asyncio.Future[bool]] = []
        self._watch: asyncio.Task[None] | None = None
        self._lock: tuple[IO[bytes], Path] | None = None

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
        self._reader_lock = asyncio.Lock()
        self._data_version = None
        thread = _ConnectionThread(self.path, self._configure)
        try:
            await thread.call(self._migrate)
        except BaseException:
            await thread.stop()
            raise
        self._thread = thread

    async def close(self) -> None:
        """See `Backend.close`."""
        thread, self._thread = self._thread, None
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
        reader, self._reader = self._reader, None
        try:
            if reader is not None:
                await asyncio.shield(_close_reader(reader))
        finally:
            try:
                if thread is not None:
                    await thread.stop()
            finally:
                self._unlock()

    def _configure(self, connection: sqlite3.Connection) -> None:
        execute = connection.execute
        mode = execute("pragma journal_mode=wal").fetchone()[0]
        if mode != "wal":
            raise StorageError(f"{self.path} is in a place where SQLite cannot keep a write-ahead log ({mode!r})")
        execute(f"pragma synchronous={'full' if self.power_loss_safe else 'normal'}")
        execute("pragma temp_store=memory")
        execute("pragma cache_size=-65536")
        execute("pragma wal_autocheckpoint=4000")

    def _migrate(self, connection: sqlite3.Connection) -> None:
        def change(connection: sqlite3.Connection) -> None:
            made = connection.execute("pragma user_version").fetchone()[0]
            if made > len(MIGRATIONS):
                raise SchemaMismatch(
                    f"{self.path} has schema version {made}, written by a newer durableflow; "
                    f"this one knows up to {len(MIGRATIONS)}: upgrade durableflow"
                )
            for number, script in enumerate(MIGRATIONS[made:], made + 1):
                for statement in script.split(";"):
                    if statement.strip():
                        connection.execute(statement)
                connection.execute(f"pragma user_version={number}")

        self._transact(connection, change)

    # -- the one wrapper of BEGIN and COMMIT ----------------------------------------------------------------

    async def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        return await self._connection().call(self._transact, change)

    def _connection(self) -> _ConnectionThread:
        if self._thread is None:
            raise EngineClosed(f"{self!r} is not open")
        return self._thread

    def _transact(self, connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run `change` in one transaction; whatever happens, none is left open."""
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
                raise StorageError(f"{self.path}: {error}; nothing was written") from error
            raise
        try:
            connection.execute("commit")
            if hook is not None:
                hook("after commit")
        except BaseException as error:
            _roll_back(connection)  # whatever comes of it: the outcome is unknown
            raise CommitOutcomeUnknown(f"{self.path}: the commit did not answer: {error}") from error
        return result

    # -- the worker's side ----------------------------------------------------------------------------------

    async def acquire(self, name: str, ttl_us: int, now_us: int) -> Lease | None:
        """See `Backend.acquire`."""

        def change(connection: sqlite3.Connection) -> Lease | None:
            for worker_id, expires_us in connection.execute("select id, expires_us from workers").fetchall():
                if expires_us > now_us and not self._is_dead(worker_id):
                    return None
                connection.execute("delete from workers where id = ?", (worker_id,))
                self._lock_path(worker_id).unlink(missing_ok=True)
            cursor = connection.execute("insert into workers (name, expires_us) values (?, ?)", (name, now_us + ttl_us))
            worker_id = cursor.lastrowid
            assert worker_id is not None
            self._take_lock(worker_id)
            return Lease(worker_id, now_us + ttl_us)

        def acquire(connection: sqlite3.Connection) -> Lease | None:
            try:
                return self._transact(connection, change)
            except BaseException:
                self._unlock()  # if there is a worker row after all, its lease alone decides
                raise

        return await self._connection().call(acquire)

    async def renew(self, lease: Lease, ttl_us: int, now_us: int) -> Lease:
        """See `Backend.renew`."""

        def change(connection: sqlite3.Connection) -> Lease:
            cursor = connection.execute(
                "update workers set expires_us = ? where id = ?", (now_us + ttl_us, lease.worker_id)
            )
            if cursor.rowcount != 1:
                raise _lease_lost(lease)
            return Lease(lease.worker_id, now_us + ttl_us)

        return await self._write(change)

    async def release(self, lease: Lease) -> None:
        """See `Backend.release`."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("delete from workers where id = ?", (lease.worker_id,))

        await self._write(change)
        self._unlock()

    async def commit(self, lease: Lease, commit: Commit) -> None:
        """See `Backend.commit`."""

        def change(connection: sqlite3.Connection) -> None:
            alive = connection.execute("select 1 from workers where id = ?", (lease.worker_id,)).fetchone()
            if alive is None:
                raise _lease_lost(lease)
            _write_commit(connection, commit)

        await self._write(change)

    async def load(self, instance_ids: Sequence[str]) -> list[LoadedInstance]:
        """See `Backend.load`."""
        return await self._connection().call(_load, instance_ids)

    async def due(self, after: tuple[int, str], until_us: int, limit: int) -> list[tuple[int, str]]:
        """See `Backend.due`."""

        def read(connection: sqlite3.Connection) -> list[tuple[int, str]]:
            return connection.execute(
                "select wake_us, id from instances where (wake_us, id) > (?, ?) and wake_us < ? "
                "order by wake_us, id limit ?",
                (*after, until_us, limit),
            ).fetchall()

        return await self._connection().call(read)

    async def next_wake(self, from_us: int) -> int | None:
        """See `Backend.next_wake`."""

        def read(connection: sqlite3.Connection) -> int | None:
            row = connection.execute("select min(wake_us) from instances where wake_us >= ?", (from_us,)).fetchone()
            return None if row is None else row[0]

        return await self._connection().call(read)

    async def inbox(self, after: int, limit: int) -> list[Message]:
        """See `Backend.inbox`."""

        def read(connection: sqlite3.Connection) -> list[Message]:
            rows = connection.execute(
                "select number, instance, data from inbox where number > ? order by number limit ?", (after, limit)
            )
            return [Message(*row) for row in rows]

        return await self._connection().call(read)

    async def wait_for_change(self, timeout_s: float) -> bool:
        """See `Backend.wait_for_change`. However many wait, one task looks."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._watchers.append(future)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_version(), name="durableflow sqlite watch")
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return False
        finally:
            if future in self._watchers:
                self._watchers.remove(future)

    async def _watch_version(self) -> None:
        """Look for commits of other connections as long as somebody waits for one."""
        try:
            while self._watchers:
                version = await self._connection().call(_data_version)
                if version != self._data_version:
                    self._data_version = version
                    watchers, self._watchers = self._watchers, []
                    for future in watchers:
                        _resolve(future, True)
                else:
                    await asyncio.sleep(_POLL_S)
        except StorageError as error:
            for future in self._watchers:
                _reject(future, error)

    # -- the client's side ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        """See `Backend.send`."""

        def change(connection: sqlite3.Connection) -> list[SendResult]:
            return [_send_one(connection, message) for message in messages]

        return await self._write(change)

    async def record(self, instance_id: str) -> InstanceRecord | None:
        """See `Backend.record`."""
        rows = await self._read(f"select {_RECORD_COLUMNS} from instances where id = ?", (instance_id,))  # noqa: S608  # constant columns
        return _record(rows[0]) if rows else None

    async def history(self, instance_id: str, from_seq: int, limit: int) -> list[HistoryRow]:
        """See `Backend.history`."""
        rows = await self._read(
            "select instance, first_seq, at_us, events from history where instance = ? and first_seq >= coalesce("
            "(select max(first_seq) from history where instance = ? and first_seq <= ?), 0) order by first_seq limit ?",
            (instance_id, instance_id, from_seq, limit),
        )
        return [HistoryRow(*row) for row in rows]

    async def last_row(self, instance_id: str) -> HistoryRow | None:
        """See `Backend.last_row`."""
        rows = await self._read(
            "select instance, first_seq, at_us, events from history where instance = ? order by first_seq desc limit 1",
            (instance_id,),
        )
        return HistoryRow(*rows[0]) if rows else None

    async def list_records(self, query: Query) -> list[InstanceRecord]:
        """See `Backend.list`."""
        sql, parameters = _list_sql(query)
        return [_record(row) for row in await self._read(sql, parameters)]

    async def purge(self, instance_ids: Sequence[str]) -> list[str]:
        """See `Backend.purge`."""

        def change(connection: sqlite3.Connection) -> list[str]:
            return [instance_id for instance_id in instance_ids if _purge_one(connection, instance_id)]

        return await self._write(change)

    async def _read(self, sql: str, parameters: Sequence[object]) -> Sequence[Any]:
        """Rows of a question that must not hold up the writer."""
        import aiosqlite  # loaded by the first question, not by the import of the package

        try:
            async with self._reader_lock:
                self._connection()
                if self._reader is None:
                    connecting = aiosqlite.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
                    self._reader = asyncio.ensure_future(_open_reader(connecting))
                # Whoever is cancelled here leaves the connecting be: its thread is no daemon, `close` must find it.
                try:
                    reader = await asyncio.shield(self._reader)
                except sqlite3.Error:
                    self._reader = None
                    raise
                return list(await reader.execute_fetchall(sql, parameters))
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: {error}") from error
        except ValueError as error:  # what aiosqlite says of a connection that `close` took away meanwhile
            if self._thread is not None:
                raise
            raise EngineClosed(f"{self!r} was closed before it could answer") from error

    # -- the lock that tells the living from the dead -------------------------------------------------------

    def _lock_path(self, worker_id: int) -> Path:
        return self.path.with_name(f"{self.path.name}-worker-{worker_id}")

    def _take_lock(self, worker_id: int) -> None:
        self._unlock()  # of an earlier worker of this engine
        path = self._lock_path(worker_id)
        file = path.open("wb")
        if _try_lock(file):
            self._lock = (file, path)
        else:
            file.close()

    def _is_dead(self, worker_id: int) -> bool:
        try:
            file = self._lock_path(worker_id).open("rb+")
        except FileNotFoundError:
            return False
        with file:
            return _try_lock(file)

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock[1].unlink(missing_ok=True)
            lock[0].close()


async def _open_reader(connecting: aiosqlite.Connection) -> aiosqlite.Connection:
    reader = await connecting
    await reader.execute("pragma query_only=1")
    return reader


async def _close_reader(opening: asyncio.Future[aiosqlite.Connection]) -> None:
    with suppress(sqlite3.Error):
        await (await opening).close()


def _try_lock(file: IO[bytes]) -> bool:
    """Lock `file` until it is closed or the process ends; False when another holds it, or none can be had."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: the lease alone decides
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _data_version(connection: sqlite3.Connection) -> int:
    """Differs from what it was when another connection has committed."""
    version: int = connection.execute("pragma data_version").fetchone()[0]
    return version


def _lease_lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"worker {lease.worker_id} was declared dead: another worker took over, nothing was written")


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with suppress(sqlite3.Error):  # the thread closes a connection that stays in a transaction
            connection.execute("rollback")


# -- statements -------------------------------------------------------------------------------------------------


def _write_commit(connection: sqlite3.Connection, commit: Commit) -> None:
    if commit.new:
        _insert_instances(connection, commit.new)
    if commit.rows:
        try:
            connection.executemany("insert into history values (?, ?, ?, ?)", commit.rows)
        except sqlite3.IntegrityError as error:
            raise AppendConflict(_conflicting(connection, commit.rows)) from error
    if commit.changes:
        connection.executemany(
            "update instances set status = ?, wake_us = ?, finished_us = ?, custom_status = ?, stall_reason = ? "
            "where id = ?",
            [(c.status.value, c.wake_us, c.finished_us, c.custom_status, c.stall_reason, c.id) for c in commit.changes],
        )
    if commit.consumed:
        connection.executemany("delete from inbox where number = ?", [(number,) for number in commit.consumed])
    if commit.heartbeats:
        connection.executemany("insert or replace into heartbeats values (?, ?, ?, ?)", commit.heartbeats)


def _insert_instances(connection: sqlite3.Connection, new: Sequence[NewInstance]) -> None:
    for instance in new:
        if instance.replace:
            _purge_one(connection, instance.id)
    cursor = connection.executemany(
        "insert into instances values (?, ?, ?, ?, ?, ?, ?, ?, ?, null) on conflict do nothing",
        [
            (
                i.id,
                i.workflow,
                i.version,
                i.status.value,
                i.created_us,
                i.finished_us,
                i.wake_us,
                msgspec.json.encode(i.tags).decode() if i.tags else None,
                i.custom_status,
            )
            for i in new
        ],
    )
    if cursor.rowcount != len(new):
        connection.execute("rollback")
        raise InstancesExist(_taken(connection, new))
    tags = [(key, value, i.id) for i in new for key, value in i.tags.items()]
    if tags:
        connection.executemany("insert into tags values (?, ?, ?)", tags)


def _taken(connection: sqlite3.Connection, new: Sequence[NewInstance]) -> set[str]:
    """Ids that cannot be had: they are in the store and may not be replaced, or come twice."""
    seen: set[str] = set()
    taken: set[str] = set()
    for instance in new:
        record = _read_record(connection, instance.id)
        if instance.id in seen or (record is not None and not (instance.replace and record.status.is_terminal)):
            taken.add(instance.id)
        seen.add(instance.id)
    return taken


def _conflicting(connection: sqlite3.Connection, rows: Sequence[HistoryRow]) -> set[str]:
    """Instances of which a row is in the store already, or comes twice. Takes the transaction back first."""
    connection.execute("rollback")
    there = "select 1 from history where instance = ? and first_seq = ?"
    seen: set[tuple[str, int]] = set()
    found: set[str] = set()
    for row in rows:
        key = (row.instance_id, row.first_seq)
        if key in seen or connection.execute(there, key).fetchone():
            found.add(row.instance_id)
        seen.add(key)
    return found


def _purge_one(connection: sqlite3.Connection, instance_id: str) -> bool:
    """Remove an instance that is over, whole; False when it is not there or not over."""
    cursor = connection.execute(
        f"delete from instances where id = ? and status in {_TERMINAL_SQL}",  # noqa: S608  # constant statuses
        (instance_id,),
    )
    if cursor.rowcount != 1:
        return False
    for table in ("history", "inbox", "heartbeats", "tags"):
        connection.execute(f"delete from {table} where instance = ?", (instance_id,))  # noqa: S608  # constant names
    return True


def _send_one(connection: sqlite3.Connection, message: Outgoing) -> SendResult:
    if message.new is not None:
        try:
            _insert_instances_of_client(connection, message.new)
        except InstancesExist:
            return SendResult("exists", _read_record(connection, message.instance_id))
    else:
        record = _read_record(connection, message.instance_id)
        if record is None:
            return SendResult("missing")
        if record.status.is_terminal:
            return SendResult("over", record)
    waits = "select 1 from inbox where instance = ? and event_id = ?"  # a conflict would use up a number
    event_id = message.event_id
    if event_id is None or connection.execute(waits, (message.instance_id, event_id)).fetchone() is None:
        connection.execute(
            "insert into inbox (instance, data, event_id) values (?, ?, ?)",
            (message.instance_id, message.data, event_id),
        )
    return SendResult("delivered")


def _insert_instances_of_client(connection: sqlite3.Connection, new: NewInstance) -> None:
    if new.replace:
        _purge_one(connection, new.id)
    if connection.execute("select 1 from instances where id = ?", (new.id,)).fetchone():
        raise InstancesExist({new.id})
    _insert_instances(connection, [new._replace(replace=False)])


def _record(row: Sequence[Any]) -> InstanceRecord:
    instance_id, workflow, version, status, created_us, finished_us, wake_us, tags, custom_status, stall = row
    return InstanceRecord(
        instance_id,
        workflow,
        version,
        Status(status),
        created_us,
        finished_us,
        wake_us,
        msgspec.json.decode(tags) if tags else {},
        custom_status,
        stall,
    )


def _read_record(connection: sqlite3.Connection, instance_id: str) -> InstanceRecord | None:
    row = connection.execute(f"select {_RECORD_COLUMNS} from instances where id = ?", (instance_id,)).fetchone()  # noqa: S608  # constant columns
    return None if row is None else _record(row)


def _load(connection: sqlite3.Connection, instance_ids: Sequence[str]) -> list[LoadedInstance]:
    """Four questions for all of them together, not four for each."""
    ids = (msgspec.json.encode(instance_ids).decode(),)
    among = "in (select value from json_each(?))"
    loaded: dict[str, LoadedInstance] = {}
    for row in connection.execute(f"select {_RECORD_COLUMNS} from instances where id {among}", ids):  # noqa: S608  # constants
        loaded[row[0]] = LoadedInstance(_record(row), [], [], [])
    history = f"select instance, first_seq, at_us, events from history where instance {among} order by 1, 2"  # noqa: S608
    for row in connection.execute(history, ids):
        if row[0] in loaded:
            loaded[row[0]].rows.append(HistoryRow(*row))
    inbox = f"select number, instance, data from inbox where instance {among} order by number"  # noqa: S608
    for row in connection.execute(inbox, ids):
        if row[1] in loaded:
            loaded[row[1]].messages.append(Message(*row))
    beats = f"select instance, task, attempt, details from heartbeats where instance {among}"  # noqa: S608
    for row in connection.execute(beats, ids):
        if row[0] in loaded:
            loaded[row[0]].heartbeats.append(Heartbeat(*row))
    return [loaded[instance_id] for instance_id in instance_ids if instance_id in loaded]


def _list_sql(query: Query) -> tuple[str, list[object]]:
    conditions: list[str] = []
    parameters: list[object] = []

    def where(condition: str, *values: object) -> None:
        conditions.append(condition)
        parameters.extend(values)

    if query.statuses:
        where(f"status in ({', '.join('?' * len(query.statuses))})", *sorted(s.value for s in query.statuses))
    if query.workflow is not None:
        where("workflow = ?", query.workflow)
    if query.id_prefix:
        where("substr(id, 1, ?) = ?", len(query.id_prefix), query.id_prefix)
    if query.created_from_us is not None:
        where("created_us >= ?", query.created_from_us)
    if query.created_before_us is not None:
        where("created_us < ?", query.created_before_us)
    if query.after is not None:
        where("(created_us, id) < (?, ?)", *query.after)
    for key, value in query.tags.items():
        where("id in (select instance from tags where key = ? and value = ?)", key, value)
    clause = f"where {' and '.join(conditions)} " if conditions else ""
    sql = f"select {_RECORD_COLUMNS} from instances {clause}order by created_us desc, id desc limit ?"  # noqa: S608  # values are bound
    return sql, [*parameters, query.limit]


# -- the thread -------------------------------------------------------------------------------------------------

_Call = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class _ConnectionThread:
    """One SQLite connection and the only thread that touches it."""

    def __init__(self, path: Path, configure: Callable[[sqlite3.Connection], None]) -> None:
        self._path = path
        self._configure = configure
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name=f"durableflow {path.name}", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """`function(connection, *args)` on the thread; it runs to its end whoever stops waiting for it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put((loop, future, function, args))
        return await future

    async def stop(self) -> None:
        """Finish what was asked, close the connection, end the thread."""
        if not self._stopped:
            self._stopped = True
            try:
                with suppress(StorageError):  # it could not even be connected
                    await self.call(sqlite3.Connection.close)
            finally:
                self._calls.put(None)

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        while (call := self._calls.get()) is not None:
            loop, future, function, args = call
            busy_since: float | None = None
            try:
                while True:
                    try:
                        if connection is None:
                            connection = self._connect()
                        result = function(connection, *args)
                        break
                    except sqlite3.OperationalError as error:
                        busy_since = busy_since or monotonic()
                        if not _is_busy(error) or monotonic() - busy_since > _BUSY_TIMEOUT_S:
                            raise
                        sleep(_BUSY_PAUSE_S)
            except BaseException as error:
                answer: Callable[[asyncio.Future[Any], Any], None] = _reject
                value: Any = _as_storage_error(self._path, error)
            else:
                answer, value = _resolve, result
            if connection is not None and _is_left_open(connection):
                connection.close()  # not even a rollback went through: this one is beyond use
                connection = None
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(answer, future, value)
            del call, future, function, args, value

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=True)
        try:
            self._configure(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """True when another connection has the file; nothing was done.

    SQLite's own waiting sleeps ever longer, up to 0.1 s, and so starves beside a connection that writes all the
    time. Short even pauses get their turn.
    """
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


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


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _reject(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
