"""What several stores keep besides instances: schedules where their ids say, circuits at home, alerts of all."""

from __future__ import annotations

from durableflow.backends.base import Backend, Lease, ScheduleRow, ScheduleWrite
from durableflow.backends.sharded.parts import Parts
from durableflow.backends.sharded.routing import placed_by
from durableflow.errors import UsageError
from durableflow.model.alert import AlertRecord
from durableflow.model.circuit import Circuit
from durableflow.model.schedule import slot_id


class ShardedKeeper(Parts):
    """The part of `ShardedBackend` that keeps schedules, circuits and alerts."""

    async def write_schedule(self, write: ScheduleWrite, lease: Lease | None = None) -> bool:
        """See `Backend.write_schedule`; the instances that it starts are in the schedule's own shard.

        Raises:
            UsageError: by their ids they are not.
        """
        name = self.map.shard_of_schedule(write.id)
        strays = [each.instance_id for each in write.messages if self.map.shard_of(each.instance_id) != name]
        if placed_by(slot_id(write.id, 0)) != write.id or strays:
            told = f" makes {strays[0]!r}" if strays else ""
            raise UsageError(
                f"schedule {write.id!r}{told}: over several shards the id of a schedule must not end with '/trigger', "
                "nor a trigger id have a '/', for the id of an instance says in which shard it is"
            )
        return await self.stores[name].write_schedule(write, lease)

    async def schedule(self, schedule_id: str) -> ScheduleRow | None:
        """See `Backend.schedule`."""
        return await self.stores[self.map.shard_of_schedule(schedule_id)].schedule(schedule_id)

    async def list_schedules(self, after: str, limit: int) -> list[ScheduleRow]:
        """See `Backend.list_schedules`."""

        async def ask(store: Backend) -> list[ScheduleRow]:
            return await store.list_schedules(after, limit)

        found = [row for page in await self._of_all(ask) for row in page]
        return sorted(found, key=lambda row: row.id)[:limit]

    async def circuits(self) -> list[Circuit]:
        """See `Backend.circuits`."""
        return await self.home.circuits()

    async def swap_circuit(self, circuit: Circuit) -> Circuit | None:
        """See `Backend.swap_circuit`."""
        return await self.home.swap_circuit(circuit)

    async def alerts(self) -> list[AlertRecord]:
        """See `Backend.alerts`; of what several shards say of the same circuit or queue, the one that began first."""

        async def ask(store: Backend) -> list[AlertRecord]:
            return await store.alerts()

        found = [alert for alerts in await self._of_all(ask) for alert in alerts]
        found.sort(key=lambda alert: (*alert.key, alert.since_us))
        first = {alert.key: alert for alert in reversed(found)}
        return [first[key] for key in sorted(first)]
