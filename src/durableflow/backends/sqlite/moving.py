"""Moving house: the seal of a file, and its tables in the order of their keys.

A seal is a row of `moves`, and triggers on all other tables of the store, made in the transaction that makes the row.
So it costs nothing until there is one, and holds for every connection, whenever it was opened and whatever wrote on it.
A mover writes between two changes of its own row that let the triggers look away, all in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from durableflow.backends.base import DeadLetter, Heartbeat, HistoryRow, InstanceRecord
from durableflow.backends.moving import (
    PAGE_ROWS,
    KeptMessage,
    KeptQueue,
    KeptTask,
    KeptWindow,
    Key,
    Living,
    MovedRow,
    Part,
    Seal,
    check_empty,
    check_idle,
    not_held,
)
from durableflow.backends.rows import RECORD_COLUMNS, values_of
from durableflow.backends.schedules import ScheduleRow
from durableflow.backends.sqlite.circuits import CIRCUIT_COLUMNS, as_circuit, values_of_circuit
from durableflow.backends.sqlite.instances import HANGING_TABLES
from durableflow.backends.sqlite.lock import WorkerLock
from durableflow.backends.sqlite.records import as_record
from durableflow.backends.sqlite.schema import TABLES
from durableflow.backends.sqlite.tasks import LIMIT_COLUMNS, STORED_COLUMNS, as_task
from durableflow.backends.sqlite.thread import ConnectionThread
from durableflow.backends.tasks import CLAIMED, QueueLimits
from durableflow.errors import StoreSealed

T = TypeVar("T")

_SEALED: Final = "durableflow: this store is sealed by a move"
_SEAL_COLUMNS: Final = ", ".join(Seal._fields)
_MOVED_TABLES: Final = (*HANGING_TABLES, "instances", "queues", "lanes", "servers", "schedules", "circuits")
_ROW_BYTES: Final = 100
"""What a row takes beside its bulk, about."""
_DEAD_SERVER: Final = "insert or ignore into servers (id, name, expires_us) values (?, 'of another store', -1)"


class _Table(NamedTuple):
    """How a part is stored: its columns, those of its key, the one that may be large; a row, and the values of one."""

    name: str
    columns: str
    key: tuple[str, ...]
    bulk: int
    row: Callable[[Sequence[Any]], MovedRow]
    values: Callable[[Any], Sequence[Any]]
    also: str = ""
    """What is read beside the columns."""

    def read(self, *, behind: bool) -> str:
        keys = ", ".join(self.key)
        condition = f"where ({keys}) > ({', '.join('?' * len(self.key))}) " if behind else ""
        return f"select {self.columns}{self.also} from {self.name} {condition}order by {keys} limit {PAGE_ROWS}"

    def last(self) -> str:
        order = ", ".join(f"{each} desc" for each in self.key)
        return f"select {', '.join(self.key)} from {self.name} order by {order} limit 1"

    def write(self) -> str:
        places = ", ".join("?" * len(self.columns.split(", ")))
        return f"insert into {self.name} ({self.columns}) values ({places})"


_LANES: Final = ", (select json_group_array(json_array(priority, vtime)) from lanes where queue = queues.name)"


def _as_queue(row: Sequence[Any]) -> KeptQueue:
    lanes = msgspec.json.decode(row[7], type=list[tuple[int, int]])
    return KeptQueue(row[0], QueueLimits(*row[1:5]), bool(row[5]), row[6], tuple(sorted(lanes)))


def _as_kept_task(row: Sequence[Any]) -> KeptTask:
    return KeptTask(as_task(row), row[21])


def _values_of_queue(queue: KeptQueue) -> Sequence[Any]:
    limits = queue.limits
    rate = (limits.rate_count, limits.rate_period_us, limits.rate_burst)
    return (queue.name, limits.concurrency, *rate, queue.is_paused, queue.full_us)


def _values_of_task(kept: KeptTask) -> Sequence[Any]:
    return (*kept.task, kept.vtime)


_TABLES: Final[dict[Part, _Table]] = {
    Part.INSTANCES: _Table("instances", RECORD_COLUMNS, ("id",), 8, as_record, values_of),
    Part.HISTORY: _Table(
        "history", "instance, first_seq, at_us, events", ("instance", "first_seq"), 3, HistoryRow._make, tuple
    ),
    Part.INBOX: _Table(
        "inbox", "number, instance, data, event_id", ("instance", "number"), 2, KeptMessage._make, tuple
    ),
    Part.HEARTBEATS: _Table(
        "heartbeats", "instance, task, attempt, details", ("instance", "task"), 3, Heartbeat._make, tuple
    ),
    Part.DEAD_LETTERS: _Table(
        "dead_letters",
        "instance, task, kind, name, at_us, attempts, type_name, message",
        ("instance", "task"),
        7,
        DeadLetter._make,
        tuple,
    ),
    Part.WINDOWS: _Table(
        "windows",
        "instance, workflow, version, key, changed, start_at_us, until_us",
        ("instance",),
        4,
        KeptWindow._make,
        tuple,
    ),
    Part.QUEUES: _Table(
        "queues", f"name, {LIMIT_COLUMNS}, is_paused, full_us", ("name",), 0, _as_queue, _values_of_queue, _LANES
    ),
    Part.TASKS: _Table(
        "tasks",
        f"{STORED_COLUMNS}, vtime",
        ("instance", "task"),
        6,
        _as_kept_task,
        _values_of_task,
    ),
    Part.SCHEDULES: _Table("schedules", "id, revision, due_us, data", ("id",), 3, ScheduleRow._make, tuple),
    Part.CIRCUITS: _Table("circuits", CIRCUIT_COLUMNS, ("name",), 0, as_circuit, values_of_circuit),
}


class MovingTables:
    """What `SqliteBackend` is besides: a store that can be moved, and moved into."""

    path: Path

    async def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        raise NotImplementedError

    def _connection(self) -> ConnectionThread:
        raise NotImplementedError

    @property
    def address(self) -> str:
        """See `MoveStore.address`."""
        return f"sqlite:///{self.path.resolve()}"

    async def read_seal(self) -> Seal | None:
        """See `MoveStore.read_seal`."""
        return await self._connection().call(read_seal)

    async def living(self, now_us: int) -> list[Living]:
        """See `MoveStore.living`."""
        return await self._connection().call(_living, self.path, now_us)

    async def foreign_tables(self) -> list[str]:
        """See `MoveStore.foreign_tables`."""
        return await self._connection().call(_foreign_tables)

    async def seal(self, seal: Seal, now_us: int) -> None:
        """See `MoveStore.seal`."""
        await self._write(partial(_seal, seal=seal, path=self.path, now_us=now_us))

    async def unseal(self, seal: Seal, *, clear: bool) -> None:
        """See `MoveStore.unseal`."""
        await self._write(partial(_unseal, seal=seal, clear=clear))

    async def count_parts(self) -> dict[Part, int]:
        """See `MoveStore.count_parts`."""
        return await self._connection().call(_count_parts)

    async def read_part(self, part: Part, after: Key | None, limit_bytes: int) -> list[MovedRow]:
        """See `MoveStore.read_part`."""
        return await self._connection().call(_read_part, part, after, limit_bytes)

    async def last_key(self, part: Part) -> Key | None:
        """See `MoveStore.last_key`."""
        return await self._connection().call(_last_key, part)

    async def write_part(self, seal: Seal, part: Part, rows: Sequence[MovedRow]) -> None:
        """See `MoveStore.write_part`."""
        await self._write(partial(_write_part, seal=seal, part=part, rows=rows))


# -- the seal -------------------------------------------------------------------------------------------------


def read_seal(connection: sqlite3.Connection) -> Seal | None:
    """The seal of the store, if it has one."""
    row = connection.execute(f"select {_SEAL_COLUMNS} from moves").fetchone()
    return None if row is None else Seal._make((*row[:-1], bool(row[-1])))


def refusal(connection: sqlite3.Connection, error: sqlite3.Error) -> StoreSealed | None:
    """What `error` means, when it is the refusal of a sealed store."""
    if not isinstance(error, sqlite3.IntegrityError) or _SEALED not in str(error):
        return None
    seal = read_seal(connection)
    return None if seal is None else seal.refusal()


def _living(connection: sqlite3.Connection, path: Path, now_us: int) -> list[Living]:
    found: list[Living] = []
    for kind, table in (("worker", "workers"), ("server", "servers")):
        lock = WorkerLock(path, kind)
        rows = connection.execute(
            f"select id, name, expires_us from {table} where expires_us > ?", (now_us,)
        ).fetchall()
        found += [
            Living("worker" if kind == "worker" else "server", name, expires_us)
            for each, name, expires_us in rows
            if not lock.is_dead(each)
        ]
    return found


def _foreign_tables(connection: sqlite3.Connection) -> list[str]:
    tables = connection.execute("select name from sqlite_master where type = 'table' order by name").fetchall()
    return [name for (name,) in tables if not name.startswith("sqlite_") and name not in TABLES]


def _seal(connection: sqlite3.Connection, seal: Seal, path: Path, now_us: int) -> None:
    there = read_seal(connection)
    if not seal.succeeds(there):
        return
    if there is None:
        check_idle(_living(connection, path, now_us), now_us)
        if seal.side == "target":
            check_empty(_count_parts(connection))
        for statement in _triggers(seal):
            connection.execute(statement)
    connection.execute("delete from moves")
    connection.execute(f"insert into moves ({_SEAL_COLUMNS}) values (?, ?, ?, ?, ?, ?)", seal)


def _trigger_names() -> list[tuple[str, str, str]]:
    return [
        (f"sealed_{table}_{change}", change, table)
        for table in TABLES
        if table != "moves"
        for change in ("insert", "update", "delete")
    ]


def _triggers(seal: Seal) -> list[str]:
    """Each names the other store, for those who write on a connection of their own."""
    told = f"{_SEALED}: see {seal.other}".replace("'", "''")
    return [
        f"create trigger {name} before {change} on {table} when (select is_writing from moves) = 0 "
        f"begin select raise(abort, '{told}'); end"
        for name, change, table in _trigger_names()
    ]


def _check_held(connection: sqlite3.Connection, seal: Seal) -> None:
    there = read_seal(connection)
    if there != seal:
        raise not_held(seal, there)


def _unseal(connection: sqlite3.Connection, seal: Seal, *, clear: bool) -> None:
    _check_held(connection, seal)
    for name, _, _ in _trigger_names():
        connection.execute(f"drop trigger {name}")
    if clear:
        for table in _MOVED_TABLES:
            connection.execute(f"delete from {table}")
    connection.execute("delete from moves")


# -- the parts ------------------------------------------------------------------------------------------------


def _count_parts(connection: sqlite3.Connection) -> dict[Part, int]:
    return {
        part: connection.execute(f"select count(*) from {table.name}").fetchone()[0] for part, table in _TABLES.items()
    }


def _read_part(connection: sqlite3.Connection, part: Part, after: Key | None, limit_bytes: int) -> list[MovedRow]:
    table = _TABLES[part]
    page: list[MovedRow] = []
    size = 0
    rows = connection.execute(table.read(behind=after is not None), after or ())
    for row in rows:  # one by one: what is too much is not even read
        if size >= limit_bytes:
            break
        page.append(table.row(row))
        bulk = row[table.bulk]
        size += _ROW_BYTES + (len(bulk) if isinstance(bulk, (bytes, str)) else 0)
    rows.close()
    return page


def _last_key(connection: sqlite3.Connection, part: Part) -> Key | None:
    row: Key | None = connection.execute(_TABLES[part].last()).fetchone()
    return row


def _write_part(connection: sqlite3.Connection, seal: Seal, part: Part, rows: Sequence[MovedRow]) -> None:
    _check_held(connection, seal)
    connection.execute("update moves set is_writing = 1")
    table = _TABLES[part]
    connection.executemany(table.write(), [table.values(row) for row in rows])
    for row in rows:
        match row:
            case InstanceRecord():
                tags = [(key, value, row.id) for key, value in row.tags.items()]
                connection.executemany("insert into tags (key, value, instance) values (?, ?, ?)", tags)
            case KeptQueue():
                lanes = [(row.name, priority, vtime) for priority, vtime in row.lanes]
                connection.executemany("insert into lanes (queue, priority, vtime) values (?, ?, ?)", lanes)
            case KeptTask():
                connection.execute("update task_numbers set last = max(last, ?)", (row.task.number,))
                if row.task.state == CLAIMED and row.task.claimed_by > 0:
                    connection.execute(_DEAD_SERVER, (row.task.claimed_by,))
            case _:
                break
    connection.execute("update moves set is_writing = 0")
