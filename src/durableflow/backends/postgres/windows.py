"""Windows of debounced starts."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from durableflow.backends.base import DebouncedStart, Outgoing
from durableflow.backends.postgres.database import Connection
from durableflow.backends.postgres.store import Store
from durableflow.errors import InstancesExist
from durableflow.model.status import Status

_OPEN: Final = """
    insert into {s}.windows (key, instance, changed, start_at_us, until_us, name) values ($1, $2, $3, $4, $5, $6)
    on conflict (key) do nothing returning 1
"""


class Windows(Store):
    """The part of the backend that keeps windows."""

    async def debounce(self, start: DebouncedStart) -> str:
        """See `Backend.debounce`."""
        key = window_key(start.new.workflow, start.new.version, start.key)

        async def work(connection: Connection) -> str | None:
            row = await connection.fetchrow(
                self._sql("select instance, until_us from {s}.windows where key = $1 for update"), key
            )
            if row is not None:
                instance_id, until_us = row
                record = await self._record_in(connection, instance_id, "for no key update")
                if record is not None and not record.status.is_terminal:
                    start_at_us = start.start_at_us if until_us is None else min(start.start_at_us, until_us)
                    await connection.execute(
                        self._sql("update {s}.windows set changed = $2, start_at_us = $3 where key = $1"),
                        key,
                        start.changed,
                        start_at_us,
                    )
                    await connection.execute(
                        self._sql(
                            "update {s}.instances set wake_us = $2 where id = $1 and status = $3 and wake_us > 0"
                        ),
                        instance_id,
                        start_at_us,
                        Status.PENDING.value,
                    )
                    return str(instance_id)
                await connection.execute(self._sql("delete from {s}.windows where key = $1"), key)
            new_id = start.new.id
            if (
                await connection.fetchval(
                    self._sql(_OPEN), key, new_id, start.changed, start.start_at_us, start.until_us, start.key
                )
                is None
            ):
                return None  # another start has opened it meanwhile
            if await self._send_in(connection, [Outgoing(new_id, start.started, start.new)]) != ["delivered"]:
                raise InstancesExist({new_id})
            return new_id

        instance_id: str | None = None
        while instance_id is None:
            instance_id = await self._transaction(work)
        self._hint_tasks([Outgoing(start.new.id, start.started, start.new)])
        await self._hint_owners([instance_id])
        return instance_id

    async def close_window(self, instance_id: str, now_us: int) -> int | None:
        """See `Backend.close_window`."""

        async def work(connection: Connection) -> int | None:
            row = await connection.fetchrow(
                self._sql("select changed, start_at_us from {s}.windows where instance = $1 for update"), instance_id
            )
            if row is None:
                return None
            changed, start_at_us = row
            if start_at_us > now_us:
                return int(start_at_us)
            await connection.execute(self._sql("delete from {s}.windows where instance = $1"), instance_id)
            await self._send_in(connection, [Outgoing(instance_id, changed)])  # refused when it is over: nobody waits
            return None

        return await self._transaction(work)


def window_key(workflow: str, version: int, key: str) -> bytes:
    """A digest: the three parts together can be longer than what an index holds."""
    text = "\0".join((workflow, str(version), key))
    return blake2b(text.encode(), digest_size=16).digest()
