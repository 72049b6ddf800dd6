"""Looking at several stores as if they were one: what is asked of one instance, and lists that are merged.

A page asks each shard for a whole page behind the same place, and keeps the first of them all. The order is a total one
and the same everywhere, so the next page begins exactly behind it in every shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from durableflow.backends.base import (
    Backend,
    DeadLetter,
    DeadLetterQuery,
    Ending,
    HistoryRow,
    InstanceRecord,
    Lease,
    LoadedInstance,
    Query,
    Topic,
)
from durableflow.backends.sharded.parts import Parts
from durableflow.errors import EngineClosed, StorageError
from durableflow.model.status import Status


class ShardedReader(Parts):
    """The part of `ShardedBackend` that answers those who only look."""

    async def record(self, instance_id: str) -> InstanceRecord | None:
        """See `Backend.record`."""
        return await self.of(instance_id).record(instance_id)

    async def history(self, instance_id: str, from_seq: int, limit: int) -> list[HistoryRow]:
        """See `Backend.history`."""
        return await self.of(instance_id).history(instance_id, from_seq, limit)

    async def last_row(self, instance_id: str) -> HistoryRow | None:
        """See `Backend.last_row`."""
        return await self.of(instance_id).last_row(instance_id)

    async def load(self, instance_ids: Sequence[str], lease: Lease | None = None) -> list[LoadedInstance]:
        """See `Backend.load`; each instance is as it was at one moment, not all of them."""
        shards = self._by_shard(instance_ids, str)
        answers = await self._written({name: self.stores[name].load(ids, lease) for name, ids in shards.items()})
        found = {each.record.id: each for loaded in answers.values() for each in loaded}
        return [found[each] for each in instance_ids if each in found]

    async def ends(self, instance_ids: Sequence[str]) -> list[Ending]:
        """See `Backend.ends`; a shard that cannot answer holds up nobody who waits for an end in another."""
        shards = self._by_shard(instance_ids, str)
        calls = [self.stores[name].ends(ids) for name, ids in shards.items()]
        found: list[Ending] = []
        errors: list[BaseException] = []
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, BaseException):
                errors.append(answer)
            else:
                found += answer
        for error in errors:
            if len(errors) == len(calls) or isinstance(error, EngineClosed) or not isinstance(error, StorageError):
                raise error
        return found

    async def list_records(self, query: Query) -> list[InstanceRecord]:
        """See `Backend.list_records`."""

        async def ask(store: Backend) -> list[InstanceRecord]:
            return await store.list_records(query)

        found = [record for page in await self._of_all(ask) for record in page]
        found.sort(key=lambda record: (record.created_us, record.id), reverse=True)
        return found[: query.limit]

    async def finished(
        self, statuses: Collection[Status], before_us: int, after: tuple[int, str], limit: int
    ) -> list[tuple[int, str]]:
        """See `Backend.finished`."""

        async def ask(store: Backend) -> list[tuple[int, str]]:
            return await store.finished(statuses, before_us, after, limit)

        return sorted(each for page in await self._of_all(ask) for each in page)[:limit]

    async def dead_letters(self, query: DeadLetterQuery) -> list[DeadLetter]:
        """See `Backend.dead_letters`."""
        if query.instance_id is not None:
            return await self.of(query.instance_id).dead_letters(query)

        async def ask(store: Backend) -> list[DeadLetter]:
            return await store.dead_letters(query)

        found = [letter for page in await self._of_all(ask) for letter in page]
        found.sort(key=lambda letter: (letter.at_us, letter.instance_id, letter.task), reverse=True)
        return found[: query.limit]

    async def discard(self, letters: Sequence[tuple[str, int]]) -> int:
        """See `Backend.discard`."""
        shards = self._by_shard(letters, _instance_of)
        return sum((await self._written({n: self.stores[n].discard(mine) for n, mine in shards.items()})).values())

    async def wait_for_change(self, timeout_s: float, topic: Topic = "anything") -> bool:
        """See `Backend.wait_for_change`; a change in any of them."""
        waits = [asyncio.ensure_future(store.wait_for_change(timeout_s, topic)) for store in self.stores.values()]
        try:
            return await _first_true(waits)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


async def _first_true(waits: Collection[asyncio.Future[bool]]) -> bool:
    """True as soon as one is; raises what went wrong when a store is closed, or none of them could wait."""
    pending = set(waits)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            error = each.exception()
            if isinstance(error, EngineClosed):
                raise error
            if error is None and each.result():
                return True
    errors = [error for each in waits if (error := each.exception()) is not None]
    if len(errors) == len(waits):
        raise errors[0]
    return False


def _instance_of(letter: tuple[str, int]) -> str:
    return letter[0]
