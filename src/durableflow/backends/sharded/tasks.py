"""Tasks and queues of several stores: tokens, and limits of which each shard has its part.

The number of a task is its shard's own, so that here it is the number and the place of the shard together.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from durableflow.backends.base import Backend
from durableflow.backends.sharded.parts import Parts
from durableflow.backends.sharded.routing import SLOTS
from durableflow.backends.tasks import QueueLimits, QueueRecord, StoredTask, TaskBeat, TaskEnd
from durableflow.errors import UsageError


class ShardedTasks(Parts):
    """The part of `ShardedBackend` for those who hold tokens, and who look after queues."""

    async def task(self, instance_id: str, task: int) -> StoredTask | None:
        """See `Backend.task`."""
        name = self.map.shard_of(instance_id)
        found = await self.stores[name].task(instance_id, task)
        if found is None:
            return None
        return found._replace(number=found.number * SLOTS + self.map.shards.index(name))

    def _parted(self, number: int) -> tuple[str, int]:
        """The shard of a task, and its number there."""
        own, place = divmod(number, SLOTS)
        return self.map.shards[place], own

    async def finish_tasks(self, ends: Sequence[TaskEnd], server_id: int | None) -> list[bool]:
        """See `Backend.finish_tasks`, for who holds a token."""
        if server_id is not None:
            raise UsageError("a server of queues belongs to one store; run durableflow.sharding.Shards")
        shards: dict[str, list[TaskEnd]] = {}
        names: list[str] = []
        for end in ends:
            name, number = self._parted(end.seen[0])
            names.append(name)
            shards.setdefault(name, []).append(end._replace(seen=(number, *end.seen[1:])))
        answers = await self._written({n: self.stores[n].finish_tasks(mine, None) for n, mine in shards.items()})
        following = {name: iter(each) for name, each in answers.items()}
        return [next(following[name]) for name in names]

    async def beat_tasks(self, beats: Sequence[TaskBeat]) -> list[bool]:
        """See `Backend.beat_tasks`."""
        shards: dict[str, list[TaskBeat]] = {}
        names: list[str] = []
        for beat in beats:
            name, number = self._parted(beat.number)
            names.append(name)
            shards.setdefault(name, []).append(beat._replace(number=number))
        answers = await self._written({n: self.stores[n].beat_tasks(mine) for n, mine in shards.items()})
        following = {name: iter(each) for name, each in answers.items()}
        return [next(following[name]) for name in names]

    async def queues(self, name: str | None = None) -> list[QueueRecord]:
        """See `Backend.queues`; what is in them and what bounds them, added up."""

        async def ask(store: Backend) -> list[QueueRecord]:
            return await store.queues(name)

        by_name: dict[str, list[QueueRecord]] = {}
        for found in await self._of_all(ask):
            for record in found:
                by_name.setdefault(record.name, []).append(record)
        return [_together(by_name[each]) for each in sorted(by_name)]

    async def limit_queue(self, name: str, limits: QueueLimits) -> None:
        """See `Backend.limit_queue`; each shard gets its part."""
        parts = parts_of(limits, len(self.stores))
        stores = zip(self.stores.items(), parts, strict=True)
        await self._written({shard: store.limit_queue(name, part) for (shard, store), part in stores})

    async def pause_queue(self, name: str, *, is_paused: bool) -> None:
        """See `Backend.pause_queue`."""
        calls = {shard: store.pause_queue(name, is_paused=is_paused) for shard, store in self.stores.items()}
        await self._written(calls)


def parts_of(limits: QueueLimits, count: int) -> list[QueueLimits]:
    """What each of so many shards may do, so that all of them together keep the limits.

    Raises:
        UsageError: a part would be nothing.
    """
    if count == 1:
        return [limits]
    if limits.concurrency is not None and limits.concurrency < count:
        raise UsageError(
            f"concurrency is {limits.concurrency}, but each of {count} shards needs at least one place; "
            f"set {count} or more, or none"
        )
    parts: list[QueueLimits] = []
    for place in range(count):
        concurrency = None if limits.concurrency is None else _part(limits.concurrency, place, count)
        parts.append(
            msgspec.structs.replace(
                limits,
                concurrency=concurrency,
                rate_period_us=limits.rate_period_us * count,  # as many, in so many times as long
                rate_burst=max(1, _part(limits.rate_burst, place, count)) if limits.rate_count else limits.rate_burst,
            )
        )
    return parts


def _part(whole: int, place: int, count: int) -> int:
    return whole // count + (place < whole % count)


def _together(records: Sequence[QueueRecord]) -> QueueRecord:
    """One queue of what it is in each shard; a shard that does not know it has no limit there, and nothing waits."""
    bounded = [record.limits for record in records]
    rated = [limits for limits in bounded if limits.rate_count]
    places = [limits.concurrency for limits in bounded if limits.concurrency is not None]
    period_us = rated[0].rate_period_us // len(rated) if rated else 0
    oldest = [record.oldest_us for record in records if record.oldest_us is not None]
    return QueueRecord(
        records[0].name,
        QueueLimits(
            sum(places) if places else None,
            round(sum(limits.rate_count * period_us / limits.rate_period_us for limits in rated)),
            period_us,
            sum(limits.rate_burst for limits in rated),
        ),
        all(record.is_paused for record in records),
        sum(record.waiting for record in records),
        sum(record.delayed for record in records),
        sum(record.claimed for record in records),
        sum(record.handed_over for record in records),
        min(oldest) if oldest else None,
    )
