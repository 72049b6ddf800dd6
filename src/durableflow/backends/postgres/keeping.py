"""Dead letters, schedules and circuits in their tables."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from durableflow.backends.base import (
    DeadLetter,
    DeadLetterQuery,
    Lease,
    ScheduleRow,
    ScheduleWrite,
)
from durableflow.backends.postgres.database import Connection
from durableflow.backends.postgres.records import Conditions
from durableflow.backends.postgres.store import Store
from durableflow.model.circuit import Circuit, CircuitState

_LETTERS: Final = "instance, task, kind, name, at_us, attempts, type_name, message"
_SCHEDULES: Final = "id, revision, due_us, data"
CIRCUIT_COLUMNS: Final = ", ".join(Circuit.__struct_fields__)


class Keeping(Store):
    """The part of the backend that keeps small things."""

    # -- dead letters ---------------------------------------------------------------------------------------

    async def dead_letters(self, query: DeadLetterQuery) -> list[DeadLetter]:
        """See `Backend.dead_letters`."""
        where = Conditions()
        given = {
            "kind = {}": query.kind,
            "name = {}": query.name,
            "type_name = {}": query.type_name,
            "instance = {}": query.instance_id,
        }
        for condition, value in given.items():
            if value is not None:
                where.add(condition, value)
        if query.after is not None:
            where.add("(at_us, instance, task) < ({}, {}, {})", *query.after)
        limit = where.parameter(query.limit)
        rows = await self._read(
            f"select {_LETTERS} from {{s}}.dead_letters {where} "
            f"order by at_us desc, instance desc, task desc limit {limit}",
            *where.parameters,
        )
        return [DeadLetter(*row) for row in rows]

    async def discard(self, letters: Sequence[tuple[str, int]]) -> int:
        """See `Backend.discard`."""
        rows = await self._write(
            "delete from {s}.dead_letters as d using unnest($1::text[], $2::bigint[]) as l(instance, task) "
            "where d.instance = l.instance and d.task = l.task returning 1",
            [instance_id for instance_id, _ in letters],
            [task for _, task in letters],
        )
        return len(rows)

    # -- schedules ------------------------------------------------------------------------------------------

    async def write_schedule(self, write: ScheduleWrite, lease: Lease | None = None) -> bool:
        """See `Backend.write_schedule`."""

        async def work(connection: Connection) -> bool:
            if lease is not None:
                await self._fence(connection, lease)
            if not await self._swap_schedule(connection, write):
                return False
            await self._send_in(connection, write.messages)
            return True

        is_written = await self._transaction(work)
        if is_written:
            self._hint(["s"])
            self._hint_tasks(write.messages)
            await self._hint_owners([message.instance_id for message in write.messages])
        return is_written

    async def _swap_schedule(self, connection: Connection, write: ScheduleWrite) -> bool:
        """False when the row that is there has another revision; it stays as it is until the transaction ends."""
        if not write.revision:
            if write.row is None:
                there = await connection.fetchval(self._sql("select 1 from {s}.schedules where id = $1"), write.id)
                return there is None
            sql = (
                f"insert into {{s}}.schedules ({_SCHEDULES}) values ($1, $2, $3, $4) "
                "on conflict (id) do nothing returning 1"
            )
            return await connection.fetchval(self._sql(sql), *write.row) is not None
        if write.row is None:
            sql = "delete from {s}.schedules where id = $1 and revision = $2 returning 1"
            return await connection.fetchval(self._sql(sql), write.id, write.revision) is not None
        sql = (
            "update {s}.schedules set revision = $2, due_us = $3, data = $4 where id = $1 and revision = $5 returning 1"
        )
        return await connection.fetchval(self._sql(sql), *write.row, write.revision) is not None

    async def schedule(self, schedule_id: str) -> ScheduleRow | None:
        """See `Backend.schedule`."""
        rows = await self._read(f"select {_SCHEDULES} from {{s}}.schedules where id = $1", schedule_id)
        return ScheduleRow(*rows[0]) if rows else None

    async def list_schedules(self, after: str, limit: int) -> list[ScheduleRow]:
        """See `Backend.list_schedules`."""
        sql = f"select {_SCHEDULES} from {{s}}.schedules where id > $1 order by id limit $2"
        return [ScheduleRow(*row) for row in await self._read(sql, after, limit)]

    async def due_schedules(self, after: tuple[int, str], limit: int) -> list[ScheduleRow]:
        """See `Backend.due_schedules`."""
        sql = (
            f"select {_SCHEDULES} from {{s}}.schedules where due_us is not null and (due_us, id) > ($1, $2) "
            "order by due_us, id limit $3"
        )
        return [ScheduleRow(*row) for row in await self._read(sql, *after, limit)]

    # -- circuits -------------------------------------------------------------------------------------------

    async def circuits(self) -> list[Circuit]:
        """See `Backend.circuits`."""
        rows = await self._read(f"select {CIRCUIT_COLUMNS} from {{s}}.circuits order by name")
        return [as_circuit(row) for row in rows]

    async def swap_circuit(self, circuit: Circuit) -> Circuit | None:
        """See `Backend.swap_circuit`."""
        key = circuit_key(circuit.name)

        async def work(connection: Connection) -> Circuit | None:
            # A lock on a row that is not there yet is none: so it is made first, as one that nobody has written.
            await connection.execute(
                self._sql(
                    f"insert into {{s}}.circuits (key, {CIRCUIT_COLUMNS}) values ($1, $2, $3, 0, 0, 0, 0, 0, 0) "
                    "on conflict (key) do nothing"
                ),
                key,
                circuit.name,
                CircuitState.CLOSED.value,
            )
            row = await connection.fetchrow(
                self._sql(f"select {CIRCUIT_COLUMNS} from {{s}}.circuits where key = $1 for update"), key
            )
            there = as_circuit(row)
            if there.revision != circuit.revision - 1:
                if not there.revision:
                    raise _Unchanged(there)
                return there
            await connection.execute(
                self._sql(
                    "update {s}.circuits set state = $2, failures = $3, successes = $4, probes_out = $5, "
                    "opened_us = $6, probe_at_us = $7, revision = $8 where key = $1"
                ),
                key,
                circuit.state.value,
                circuit.failures,
                circuit.successes,
                circuit.probes_out,
                circuit.opened_us,
                circuit.probe_at_us,
                circuit.revision,
            )
            return None

        try:
            return await self._transaction(work)
        except _Unchanged as unchanged:
            return unchanged.circuit


class _Unchanged(Exception):
    """Nothing is to be written, not even the row that was made to be locked."""

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit


def circuit_key(name: str) -> bytes:
    """A digest: a name can be longer than what an index holds."""
    return blake2b(name.encode(), digest_size=16).digest()


def as_circuit(row: Sequence[Any]) -> Circuit:
    """The circuit of a row; one that cannot be read is as new, so that it holds nobody back."""
    try:
        return msgspec.convert(dict(zip(Circuit.__struct_fields__, row, strict=True)), Circuit)
    except msgspec.ValidationError:
        return Circuit(str(row[0]), CircuitState.CLOSED, revision=row[-1])
