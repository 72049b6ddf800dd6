"""What each noun of the backend works with: the stores, the map, and ways to ask several of them side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from durableflow.backends.base import Backend
from durableflow.backends.sharded.routing import ShardMap
from durableflow.errors import CommitOutcomeUnknown, StorageError

T = TypeVar("T")
Answer = TypeVar("Answer")


class Parts:
    """Stores that are one.

    Attributes:
        map: whose each slot is.
        stores: by name, in the order of the map.
    """

    map: ShardMap
    stores: Mapping[str, Backend]

    def of(self, instance_id: str) -> Backend:
        """The store of an instance, whether it is there or not."""
        return self.stores[self.map.shard_of(instance_id)]

    @property
    def home(self) -> Backend:
        """The store of what belongs to no instance."""
        return self.stores[self.map.home]

    def _by_shard(self, items: Iterable[T], id_of: Callable[[T], str]) -> dict[str, list[T]]:
        """Items of instances, each with those of its shard, in their order."""
        found: dict[str, list[T]] = {}
        for item in items:
            found.setdefault(self.map.shard_of(id_of(item)), []).append(item)
        return found

    async def _of_all(self, ask: Callable[[Backend], Awaitable[T]]) -> list[T]:
        """What all stores answer.

        Raises:
            StorageError: one of them cannot; then all of it is not known.
        """
        return await _all(list(map(ask, self.stores.values())))

    async def _in_parts(
        self,
        items: Sequence[T],
        id_of: Callable[[T], str],
        ask: Callable[[Backend, list[T]], Awaitable[Sequence[Answer]]],
    ) -> list[Answer]:
        """What stores answer, each for its items, in the order of `items`.

        Raises:
            CommitOutcomeUnknown: some of them answered, and others could not.
        """
        shards = self._by_shard(items, id_of)
        answers = await self._written({name: ask(self.stores[name], mine) for name, mine in shards.items()})
        following = {name: iter(answered) for name, answered in answers.items()}
        return [next(following[self.map.shard_of(id_of(item))]) for item in items]

    async def _written(self, calls: Mapping[str, Awaitable[T]]) -> dict[str, T]:
        """What the stores say that were written to, each in a transaction of its own.

        Raises:
            CommitOutcomeUnknown: some of them wrote, and others could not.
        """
        results = dict(zip(calls, await asyncio.gather(*calls.values(), return_exceptions=True), strict=True))
        errors = {name: each for name, each in results.items() if isinstance(each, BaseException)}
        for name, error in errors.items():
            if len(errors) < len(results) and isinstance(error, StorageError):
                done = ", ".join(each for each in results if each not in errors)
                raise CommitOutcomeUnknown(
                    f"shard {name} could not be written: {error}; what was for {done} is written"
                ) from error
        for error in errors.values():
            raise error
        return {name: each for name, each in results.items() if not isinstance(each, BaseException)}


async def _all(calls: Sequence[Awaitable[T]]) -> list[T]:
    """What all of these give, side by side; the first error when all have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
