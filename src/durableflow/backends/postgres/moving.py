"""Moving house: the seal of a schema, and its tables in the order of their keys.

A seal is a row of `moves`, and triggers on all other tables of the schema, made in the transaction that makes the row,
which waits for all who are writing. So it costs nothing until there is one, and holds for every session, whenever it
began. A mover writes between two changes of its own row that let the triggers look away, all in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from durableflow.backends.base import DeadLetter, Heartbeat, HistoryRow
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
from durableflow.backends.postgres.commit import event_key
from durableflow.backends.postgres.database import Connection, safe_url
from durableflow.backends.postgres.keeping import CIRCUIT_COLUMNS, as_circuit, circuit_key
from durableflow.backends.postgres.records import INSERT_ROW, as_record
from durableflow.backends.postgres.schema import HANGING_TABLES
from durableflow.backends.postgres.store import Store
from durableflow.backends.postgres.windows import window_key
from durableflow.backends.rows import RECORD_COLUMNS, values_of
from durableflow.backends.schedules import ScheduleRow
from durableflow.backends.tasks import QueueLimits, StoredTask
from durableflow.model.circuit import Circuit

_SEAL_COLUMNS: Final = ", ".join(Seal._fields)
_ROW_BYTES: Final = 100
"""What a row takes beside its bulk, about."""
_TASK_COLUMNS: Final = (
    "task, attempt, queue, name, input, options, priority, fairness_key, state, not_before_us, expires_us, claimed_by, "
    "started_us, token_digest, details, scheduled_at_us, uncounted, losses, is_suspect, vtime"
)
_LIMITS: Final = "concurrency, rate_count, rate_period_us, rate_burst, is_paused, full_us"
_LANES: Final = """
    (select coalesce(json_agg(json_build_array(l.priority, l.vtime)), '[]')::text from {s}.lanes l where l.queue = t.id)
"""
_PLACE: Final = "insert into {s}.lanes (queue, priority, vtime) select id, $2, $3 from {s}.queues where name = $1"
_OTHER_TABLES: Final = """
    select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = $1 and c.relkind in ('r', 'p') and c.relname not in ('moves', 'schema_version') order by c.relname
"""
_LIVING: Final = """
    select 'worker', name, (extract(epoch from expires) * 1000000)::bigint from {s}.workers
        where expires > clock_timestamp()
    union all select 'server', name, (extract(epoch from expires) * 1000000)::bigint from {s}.servers
        where expires > clock_timestamp()
"""
_NOW: Final = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint"
_GO_BEHIND: Final = (
    "select setval('{s}.inbox_number_seq', greatest((select max(number) from {s}.inbox), 1))",
    "select setval('{s}.tasks_number_seq', greatest((select max(number) from {s}.tasks), 1))",
    # The claims of the store before are those of dead servers: no living one may have the number of one of them.
    "select setval('{s}.servers_id_seq', greatest((select max(claimed_by) from {s}.tasks), 1))",
)


class _Table(NamedTuple):
    """How a part is stored.

    Attributes:
        name: of the table, or what is joined in its place.
        columns: what is read, of `t`.
        key: of the columns by which it is in order.
        bulk: the expression that may be large, or None.
        write: the statement for one row.
    """

    name: str
    columns: str
    key: tuple[str, ...]
    bulk: str | None
    row: Callable[[Sequence[Any]], MovedRow]
    write: str
    values: Callable[[Any], Sequence[Any]] = tuple

    def read(self, *, behind: bool) -> str:
        """A page, that ends behind the row with which it is so large as $1 says; behind the key in $2 and $3."""
        keys = ", ".join(f"t.{key}" for key in self.key)
        size = f"{_ROW_BYTES}" + (f" + coalesce(octet_length(t.{self.bulk}), 0)" if self.bulk else "")
        places = ", ".join(f"${number}" for number in range(2, 2 + len(self.key)))
        # The first key by itself too: an index can begin there, even where the others are of a joined table.
        condition = f"where t.{self.key[0]} >= $2 and ({keys}) > ({places})" if behind else ""
        # Sizes are added up over the keys alone: what is too much is not even read.
        return (
            f"select {self.columns} from ("
            f"select k.*, sum(k.size) over (order by {self._of_k}) - k.size as before from ("
            f"select {keys}, ({size})::bigint as size from {self.name} t {condition} "
            f"order by {keys} limit {PAGE_ROWS}) k) p join {self.name} t on ({keys}) = ({self._of_p}) "
            f"where p.before < $1::bigint order by {keys}"
        )

    @property
    def _of_k(self) -> str:
        return ", ".join(f"k.{key}" for key in self.key)

    @property
    def _of_p(self) -> str:
        return ", ".join(f"p.{key}" for key in self.key)

    def last(self) -> str:
        """The last key."""
        order = ", ".join(f"{key} desc" for key in self.key)
        return f"select {', '.join(self.key)} from {self.name} t order by {order} limit 1"


def _insert(table: str, columns: str, *, overriding: bool = False, values: str = "") -> str:
    places = values or ", ".join(f"${number}" for number in range(1, len(columns.split(", ")) + 1))
    system = "overriding system value " if overriding else ""
    return f"insert into {{s}}.{table} ({columns}) {system}values ({places})"


def _of_t(columns: str) -> str:
    return ", ".join(f"t.{column}" for column in columns.split(", "))


def _as_queue(row: Sequence[Any]) -> KeptQueue:
    lanes = msgspec.json.decode(row[7], type=list[tuple[int, int]])
    return KeptQueue(row[0], QueueLimits(*row[1:5]), row[5], row[6], tuple(sorted(lanes)))


def _as_message(row: Sequence[Any]) -> KeptMessage:
    return KeptMessage(row[0], row[1], row[2], None)


def _as_task(row: Sequence[Any]) -> KeptTask:
    *task, vtime = row
    return KeptTask(StoredTask._make(task), vtime)


def _values_of_queue(queue: KeptQueue) -> Sequence[Any]:
    limits = queue.limits
    rate = (limits.rate_count, limits.rate_period_us, limits.rate_burst)
    return (queue.name, limits.concurrency, *rate, queue.is_paused, queue.full_us)


def _values_of_task(kept: KeptTask) -> Sequence[Any]:
    return (*kept.task, kept.vtime)


def _values_of_message(kept: KeptMessage) -> Sequence[Any]:
    return (kept.number, kept.instance_id, kept.data, event_key(kept.event_id))


def _values_of_window(kept: KeptWindow) -> Sequence[Any]:
    key = window_key(kept.workflow, kept.version, kept.key)
    return (key, kept.key, kept.instance_id, kept.changed, kept.start_at_us, kept.until_us)


def _values_of_circuit(circuit: Circuit) -> Sequence[Any]:
    return (circuit_key(circuit.name), *(getattr(circuit, name) for name in Circuit.__struct_fields__))


_LETTERS: Final = "instance, task, kind, name, at_us, attempts, type_name, message"
_QUEUE_NAME: Final = "coalesce((select q.name from {s}.queues q where q.id = t.queue), '')"
_TASK_PLACES: Final = ", ".join(
    "coalesce((select q.id from {s}.queues q where q.name = $5), 0)" if number == 5 else f"${number}"
    for number in range(1, 23)
)
_HISTORY: Final = """
    (select i.id as instance, h.first_seq, h.at_us, h.events
        from {s}.instances i join {s}.history h on h.instance_number = i.number)
"""
_TABLES: Final[dict[Part, _Table]] = {
    Part.INSTANCES: _Table(
        "{s}.instances",
        _of_t(RECORD_COLUMNS),
        ("id",),
        "custom_status",
        as_record,
        _insert("instances", RECORD_COLUMNS),
        values_of,
    ),
    Part.HISTORY: _Table(
        _HISTORY,
        "t.instance, t.first_seq, t.at_us, t.events",
        ("instance", "first_seq"),
        "events",
        HistoryRow._make,
        INSERT_ROW,
    ),
    Part.INBOX: _Table(
        "{s}.inbox",
        "t.number, t.instance, t.data",
        ("instance", "number"),
        "data",
        _as_message,
        _insert("inbox", "number, instance, data, event_key", overriding=True),
        _values_of_message,
    ),
    Part.HEARTBEATS: _Table(
        "{s}.heartbeats",
        "t.instance, t.task, t.attempt, t.details",
        ("instance", "task"),
        "details",
        Heartbeat._make,
        _insert("heartbeats", "instance, task, attempt, details"),
    ),
    Part.DEAD_LETTERS: _Table(
        "{s}.dead_letters",
        _of_t(_LETTERS),
        ("instance", "task"),
        "message",
        DeadLetter._make,
        _insert("dead_letters", _LETTERS),
    ),
    Part.WINDOWS: _Table(
        "{s}.windows",
        "t.instance, (select i.workflow from {s}.instances i where i.id = t.instance), "
        "(select i.version from {s}.instances i where i.id = t.instance), t.name, t.changed, t.start_at_us, t.until_us",
        ("instance",),
        "changed",
        KeptWindow._make,
        _insert("windows", "key, name, instance, changed, start_at_us, until_us"),
        _values_of_window,
    ),
    Part.QUEUES: _Table(
        "{s}.queues",
        f"t.name, {_of_t(_LIMITS)}, {_LANES}",
        ("name",),
        None,
        _as_queue,
        _insert("queues", f"name, {_LIMITS}"),
        _values_of_queue,
    ),
    Part.TASKS: _Table(
        "{s}.tasks",
        f"t.number, t.instance, {_of_t(_TASK_COLUMNS).replace('t.queue', _QUEUE_NAME)}",
        ("instance", "task"),
        "input",
        _as_task,
        _insert("tasks", f"number, instance, {_TASK_COLUMNS}", overriding=True, values=_TASK_PLACES),
        _values_of_task,
    ),
    Part.SCHEDULES: _Table(
        "{s}.schedules",
        "t.id, t.revision, t.due_us, t.data",
        ("id",),
        "data",
        ScheduleRow._make,
        _insert("schedules", "id, revision, due_us, data"),
    ),
    Part.CIRCUITS: _Table(
        "{s}.circuits",
        _of_t(CIRCUIT_COLUMNS),
        ("name",),
        None,
        as_circuit,
        _insert("circuits", f"key, {CIRCUIT_COLUMNS}"),
        _values_of_circuit,
    ),
}
_MOVED_TABLES: Final = (*HANGING_TABLES, "history", "instances", "lanes", "queues", "servers", "schedules", "circuits")


class Moving(Store):
    """The part of the backend that can be moved, and moved into."""

    _address: str
    _schema_name: str

    @property
    def address(self) -> str:
        """See `MoveStore.address`."""
        return f"{safe_url(self._address)}?schema={self._schema_name}"

    async def read_seal(self) -> Seal | None:
        """See `MoveStore.read_seal`."""
        rows = await self._read(f"select {_SEAL_COLUMNS} from {{s}}.moves")
        return Seal(*rows[0]) if rows else None

    async def living(self, now_us: int) -> list[Living]:  # noqa: ARG002  # the server's time counts
        """See `MoveStore.living`."""
        return [Living(*row) for row in await self._read(_LIVING)]

    async def foreign_tables(self) -> list[str]:
        """See `MoveStore.foreign_tables`; other schemas of the database are not looked into."""
        return []

    async def seal(self, seal: Seal, now_us: int) -> None:  # noqa: ARG002  # the server's time counts
        """See `MoveStore.seal`."""

        async def work(connection: Connection) -> None:
            await connection.execute(self._sql("lock table {s}.moves in exclusive mode"))
            there = await self._seal_in(connection)
            if not seal.succeeds(there):
                return
            if there is None:
                await self._shut(connection)
                living = [Living(*row) for row in await connection.fetch(self._sql(_LIVING))]
                check_idle(living, await connection.fetchval(_NOW))
                if seal.side == "target":
                    check_empty(await self._counts_in(connection))
            await connection.execute(self._sql("delete from {s}.moves"))
            await connection.execute(self._sql(_insert("moves", _SEAL_COLUMNS)), *seal)

        await self._transaction(work)

    async def _shut(self, connection: Connection) -> None:
        """Wait for all who are writing, and make the triggers."""
        tables = await self._tables_in(connection)
        await connection.execute(f"lock table {', '.join(tables)} in share row exclusive mode")
        for table in tables:
            await connection.execute(
                f"create trigger sealed before insert or update or delete on {table} "
                f"for each statement execute function {self._schema}.refuse_writes()"
            )

    async def _tables_in(self, connection: Connection) -> list[str]:
        rows = await connection.fetch(_OTHER_TABLES, self._schema_name)
        return [f'{self._schema}."{name}"' for (name,) in rows]

    async def _seal_in(self, connection: Connection) -> Seal | None:
        row = await connection.fetchrow(self._sql(f"select {_SEAL_COLUMNS} from {{s}}.moves"))
        return None if row is None else Seal(*row)

    async def _check_held(self, connection: Connection, seal: Seal) -> None:
        await connection.execute(self._sql("lock table {s}.moves in exclusive mode"))
        there = await self._seal_in(connection)
        if there != seal:
            raise not_held(seal, there)

    async def unseal(self, seal: Seal, *, clear: bool) -> None:
        """See `MoveStore.unseal`."""

        async def work(connection: Connection) -> None:
            await self._check_held(connection, seal)
            for table in await self._tables_in(connection):
                await connection.execute(f"drop trigger sealed on {table}")
            if clear:
                tables = ", ".join(f"{self._schema}.{table}" for table in _MOVED_TABLES)
                await connection.execute(f"truncate {tables}")
            elif seal.side == "target":
                for statement in _GO_BEHIND:
                    await connection.execute(self._sql(statement))
            await connection.execute(self._sql("delete from {s}.moves"))

        await self._transaction(work)
        self._hint(["o", "t", "s"])

    # -- the parts ------------------------------------------------------------------------------------------

    async def count_parts(self) -> dict[Part, int]:
        """See `MoveStore.count_parts`."""
        return await self._database.moment(self._counts_in)

    async def _counts_in(self, connection: Connection) -> dict[Part, int]:
        return {
            part: int(await connection.fetchval(self._sql(f"select count(*) from {table.name} t")))
            for part, table in _TABLES.items()
        }

    async def read_part(self, part: Part, after: Key | None, limit_bytes: int) -> list[MovedRow]:
        """See `MoveStore.read_part`."""
        table = _TABLES[part]
        rows = await self._read(table.read(behind=after is not None), limit_bytes, *(after or ()))
        return [table.row(row) for row in rows]

    async def last_key(self, part: Part) -> Key | None:
        """See `MoveStore.last_key`."""
        rows = await self._read(_TABLES[part].last())
        return tuple(rows[0]) if rows else None

    async def write_part(self, seal: Seal, part: Part, rows: Sequence[MovedRow]) -> None:
        """See `MoveStore.write_part`."""
        table = _TABLES[part]

        async def work(connection: Connection) -> None:
            await self._check_held(connection, seal)
            await connection.execute(self._sql("update {s}.moves set is_writing = true"))
            await connection.executemany(self._sql(table.write), [table.values(row) for row in rows])
            lanes = [(row.name, *lane) for row in rows if isinstance(row, KeptQueue) for lane in row.lanes]
            await connection.executemany(self._sql(_PLACE), lanes)
            await connection.execute(self._sql("update {s}.moves set is_writing = false"))

        await self._transaction(work)
