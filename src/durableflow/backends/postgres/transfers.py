"""Histories that clients write: of copies, of instances that were over and go on, and of those from other stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from durableflow.backends.base import Arrival, NewInstance, Outgoing, Rewrite
from durableflow.backends.postgres.commit import WRITE_TASKS, event_key, task_arrays
from durableflow.backends.postgres.database import Connection
from durableflow.backends.postgres.records import INSERT_RECORD, INSERT_ROW
from durableflow.backends.postgres.store import Store
from durableflow.backends.rows import tags_text, values_of
from durableflow.errors import AppendConflict, InstancesExist

_MAKE: Final = """
    insert into {s}.instances (id, workflow, version, status, created_us, finished_us, wake_us, tags, custom_status,
        base_seq, parent, owner) values ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, $10, $11, {s}.pick_worker())
    on conflict (id) do nothing returning 1
"""
_CHANGE: Final = """
    update {s}.instances set status = $2, wake_us = $3, finished_us = null, custom_status = $4, stall_reason = null,
        base_seq = $5, version = $6, owner = {s}.pick_worker() where id = $1
"""
_LETTERS_GO: Final = "delete from {s}.dead_letters where instance = $1"
_MESSAGE: Final = """
    insert into {s}.inbox (instance, data, event_key) values ($1, $2, $3)
    on conflict (instance, event_key) where event_key is not null do nothing
"""
_BEAT: Final = "insert into {s}.heartbeats (instance, task, attempt, details) values ($1, $2, $3, $4)"


class Transfers(Store):
    """The part of the backend that writes whole histories."""

    async def rewrite(self, rewrites: Sequence[Rewrite]) -> None:
        """See `Backend.rewrite`."""

        async def work(connection: Connection) -> None:
            taken = {
                each.instance.id
                for each in rewrites
                if not each.after_seq and not await self._make(connection, each.instance)
            }
            if taken:
                raise InstancesExist(taken)
            changed = {
                each.instance.id for each in rewrites if each.after_seq and not await self._may_go_on(connection, each)
            }
            if changed:
                raise AppendConflict(changed)
            for each in rewrites:
                await connection.executemany(self._sql(INSERT_ROW), each.rows)
                if each.after_seq:
                    new = each.instance
                    await connection.execute(
                        self._sql(_CHANGE),
                        new.id,
                        new.status.value,
                        new.wake_us,
                        new.custom_status,
                        new.base_seq,
                        new.version,
                    )
                    await connection.execute(self._sql(_LETTERS_GO), new.id)
            for each in rewrites:
                for message in each.messages:
                    await self._send_for(connection, message)

        await self._transaction(work)
        if any(each.instance.admission is not None for each in rewrites):
            self._hint(["t"])
        await self._hint_owners([each.instance.id for each in rewrites])

    async def _send_for(self, connection: Connection, message: Outgoing) -> None:
        """Write what an instance sends, and for it what became of that."""
        (outcome,) = await self._send_in(connection, [message])
        answer = message.answers.get(outcome)
        if answer is not None:
            await connection.execute(
                self._sql(
                    "insert into {s}.inbox (instance, data) "
                    "select $1, $2 where exists (select 1 from {s}.instances where id = $1)"
                ),
                message.sender,
                answer,
            )

    async def _make(self, connection: Connection, new: NewInstance) -> bool:
        if new.replace:
            await connection.execute(self._sql("select {s}.purge_one($1)"), new.id)
        made = await connection.fetchval(
            self._sql(_MAKE),
            new.id,
            new.workflow,
            new.version,
            new.status.value,
            new.created_us,
            new.finished_us,
            new.wake_us,
            tags_text(new),
            new.custom_status,
            new.base_seq,
            new.parent,
        )
        if made is not None and new.admission is not None:
            await connection.execute(self._sql(WRITE_TASKS), *task_arrays([new.admission]))
        return made is not None

    async def _may_go_on(self, connection: Connection, rewrite: Rewrite) -> bool:
        record = await self._record_in(connection, rewrite.instance.id, "for no key update")
        if record is None or not record.status.is_terminal:
            return False
        last = await connection.fetchval(
            self._sql(
                "select max(h.first_seq) from {s}.instances i join {s}.history h on h.instance_number = i.number "
                "where i.id = $1"
            ),
            record.id,
        )
        return bool(last == rewrite.after_seq)

    async def take_in(self, arrivals: Sequence[Arrival]) -> set[str]:
        """See `Backend.take_in`."""

        async def work(connection: Connection) -> set[str]:
            taken: set[str] = set()
            for record, rows, messages, beats in arrivals:
                sql = self._sql(INSERT_RECORD) + " on conflict (id) do nothing returning 1"
                if await connection.fetchval(sql, *values_of(record)) is None:
                    taken.add(record.id)
                    continue
                await connection.executemany(self._sql(INSERT_ROW), rows)
                for message in messages:
                    key = event_key(message.event_id)
                    await connection.execute(self._sql(_MESSAGE), message.instance_id, message.data, key)
                await connection.executemany(self._sql(_BEAT), beats)
            return taken

        taken = await self._transaction(work)
        self._hint(["o"])
        return taken
