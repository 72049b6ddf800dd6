"""Several stores as one, for all that clients do: each instance is where its id says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from durableflow.backends.base import (
    Arrival,
    Backend,
    DebouncedStart,
    Outgoing,
    Rewrite,
    SendResult,
    UserWorkForm,
)
from durableflow.backends.moving import Seal
from durableflow.backends.sharded.agreeing import agree
from durableflow.backends.sharded.keeping import ShardedKeeper
from durableflow.backends.sharded.looking import ShardedReader
from durableflow.backends.sharded.refusals import OneStoreAtATime
from durableflow.backends.sharded.routing import ShardMap, parted
from durableflow.backends.sharded.tasks import ShardedTasks
from durableflow.backends.stores import open_backend
from durableflow.backends.transfers import dump_rewrites
from durableflow.errors import UsageError


class ShardedBackend(ShardedReader, ShardedTasks, ShardedKeeper, OneStoreAtATime):
    """Several stores that are one, for processes that only ask: `Client(ShardedBackend({"north": ..., "south": ...}))`.

    What is said to one instance goes to its shard. Batches are split, and are one transaction in each shard; lists are
    merged, counts added up. What only a worker does is refused: `Shards` runs an engine on each store.

    Args:
        stores: by name, as URLs or backends. A name is for ever: it is in the map, and in what the stores know of
            each other.
        shard_map: by default all slots are spread over `stores` evenly, in the order given. The stores keep it; with
            another one they are not opened.

    Attributes:
        map: whose each slot is.
        stores: by name, in the order of the map.

    Raises:
        UsageError: the map is of other shards.
    """

    shared = True
    is_fleet = False
    user_work: UserWorkForm = None
    clock_skew_us: int | None = None
    """That of the home shard when it was opened."""

    def __init__(self, stores: Mapping[str, str | Backend], shard_map: ShardMap | None = None) -> None:
        self.map = shard_map or ShardMap.over(list(stores))
        if set(self.map.shards) != set(stores):
            raise UsageError(f"the map is of shards {sorted(self.map.shards)}, but the stores are {sorted(stores)}")
        self.stores = {
            name: open_backend(store) if isinstance(store := stores[name], str) else store for name in self.map.shards
        }

    def __repr__(self) -> str:
        return f"<ShardedBackend of {', '.join(f'{name}: {store!r}' for name, store in self.stores.items())}>"

    async def open(self) -> None:
        """See `Backend.open`; all of them, or none."""
        opened: list[Backend] = []
        try:
            for store in self.stores.values():
                await store.open()
                opened.append(store)
            for name, store in self.stores.items():
                if await store.read_seal() is None:  # the client that opens this will be told
                    await agree(store, name, self.map)
        except BaseException:
            for store in reversed(opened):
                await store.close()
            raise
        self.clock_skew_us = self.home.clock_skew_us

    async def close(self) -> None:
        """See `Backend.close`."""
        errors: list[Exception] = []
        for store in reversed(list(self.stores.values())):
            try:
                await store.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    # -- what clients write ---------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        """See `Backend.send`."""
        return await self._in_parts(messages, _instance_of, lambda store, mine: store.send(mine))

    async def purge(self, instance_ids: Sequence[str]) -> list[str]:
        """See `Backend.purge`."""
        shards = self._by_shard(instance_ids, str)
        answers = await self._written({name: self.stores[name].purge(ids) for name, ids in shards.items()})
        purged = {each for ids in answers.values() for each in ids}
        return [each for each in dict.fromkeys(instance_ids) if each in purged]

    async def debounce(self, start: DebouncedStart) -> str:
        """See `Backend.debounce`; the ids of all instances of a key say the same shard."""
        return await self.of(start.new.id).debounce(start)

    async def take_in(self, arrivals: Sequence[Arrival]) -> set[str]:
        """See `Backend.take_in`."""
        shards = self._by_shard(arrivals, lambda arrival: arrival.record.id)
        answers = await self._written({name: self.stores[name].take_in(mine) for name, mine in shards.items()})
        return {each for taken in answers.values() for each in taken}

    async def rewrite(self, rewrites: Sequence[Rewrite]) -> None:
        """See `Backend.rewrite`; children in other shards follow by the outbox of their parents' shard."""
        ids = {each.instance.id for each in rewrites}
        children: dict[str | None, list[Rewrite]] = {}
        for each in rewrites:
            parent = each.instance.parent
            children.setdefault(parent if parent in ids else None, []).append(each)
        families: dict[str, list[Rewrite]] = {}
        for root in children[None]:
            families.setdefault(self.map.shard_of(root.instance.id), []).extend(self._family(root, children))
        await self._written({name: self.stores[name].rewrite(each) for name, each in families.items()})

    def _family(self, root: Rewrite, children: Mapping[str | None, Sequence[Rewrite]]) -> list[Rewrite]:
        """With its descendants in the same shard; those in others are in its outbox, and go on after it does."""
        name = self.map.shard_of(root.instance.id)
        here, elsewhere = parted(root.messages, lambda each: self.map.shard_of(each) == name)
        near: list[Rewrite] = []
        outbox = [*root.outbox, *elsewhere]
        for child in children.get(root.instance.id, ()):
            family = self._family(child, children)
            if self.map.shard_of(child.instance.id) == name:
                near += family
            else:
                outbox.append(Outgoing(child.instance.id, b"", rewrites=dump_rewrites(family)))
        return [root._replace(messages=here, outbox=outbox), *near]

    # -- what is known of the stores ------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """See `Backend.address`; those of all."""
        return ", ".join(f"{name}: {store.address}" for name, store in self.stores.items())

    async def read_seal(self) -> Seal | None:
        """See `Backend.read_seal`; of the first that has one."""
        seals = await self._of_all(lambda store: store.read_seal())
        return next((seal for seal in seals if seal is not None), None)

    async def count_relayed(self) -> int:
        """See `Backend.count_relayed`; nothing of it is 0 only between two messages."""
        return sum(await self._of_all(lambda store: store.count_relayed()))


def _instance_of(message: Outgoing) -> str:
    return message.instance_id
