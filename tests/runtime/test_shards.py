"""Two stores that are one: families and conversations across them, through crashes of the relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durableflow import ChildFailed, Client, Context, MessageFailed, Status, activity, workflow
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sharded import ShardedBackend, ShardMap
from durableflow.backends.sqlite import SqliteBackend
from durableflow.errors import UsageError
from durableflow.sharding import Shards, adopt_map


@activity
async def double(n: int) -> int:
    return 2 * n


@workflow
async def child(ctx: Context, n: int) -> int:
    if n < 0:
        raise ValueError("negative")
    return await ctx.call_activity(double, n)


@workflow
async def parent(ctx: Context, count: int) -> list[int]:
    return list(await ctx.when_all([ctx.call_workflow(child, n) for n in range(count)]))


@workflow
async def unlucky(ctx: Context) -> str:
    try:
        await ctx.call_workflow(child, -1)
    except ChildFailed as failed:
        return failed.message
    return "lucky"


@workflow
async def talker(ctx: Context, to: str, count: int) -> str:
    for n in range(count):
        await ctx.raise_event(to, "said", n)
    try:
        await ctx.raise_event("nobody", "said", 0)
    except MessageFailed as failed:
        return failed.outcome
    return "somebody"


@workflow
async def listener(ctx: Context, count: int) -> list[int]:
    return [await ctx.wait_for_event("said", int) for _ in range(count)]


FLOWS = [child, parent, unlucky, talker, listener]


Stores = Callable[..., dict[str, Any]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """The same stores each time, by these names, to be opened once more."""
    url_of = request.getfixturevalue("store_url") if request.param == "postgres" else None
    in_memory: dict[str, MemoryBackend] = {}

    def store(name: str) -> Any:
        if url_of is not None:
            return url_of((tmp_path, name))
        if request.param == "memory":
            return in_memory.setdefault(name, MemoryBackend())
        return SqliteBackend(tmp_path / f"{name}.db", power_loss_safe=False)

    return lambda *names: {name: store(name) for name in names or ("north", "south")}


@pytest.fixture
def shards(stores: Stores) -> Callable[[], Shards]:
    """Makes engines on the same two stores each time."""
    return lambda: Shards(stores(), workflows=FLOWS, activities=[double])


def id_in(name: str, beginning: str) -> str:
    placed = ShardMap.over(["north", "south"])
    return next(each for n in range(1_000) if placed.shard_of(each := f"{beginning}-{n}") == name)


@pytest.mark.slow
async def test_children_and_their_results_cross_shards(shards: Callable[[], Shards]) -> None:
    async with shards() as fleet:
        handles = [await fleet.start(parent, 10) for _ in range(5)]
        for handle in handles:
            assert await handle.result(timeout=20) == [2 * n for n in range(10)]
        assert await (await fleet.start(unlucky)).result(timeout=20) == "negative"
        found = (await fleet.list(limit=1_000)).instances
        assert len(found) == 5 * 11 + 2
        per_shard = [len((await engine.list(limit=1_000)).instances) for engine in fleet.engines.values()]
        assert min(per_shard) > 10
        for name, engine in fleet.engines.items():
            for each in (await engine.list(limit=1_000)).instances:
                assert fleet.map.shard_of(each.instance_id) == name


@pytest.mark.slow
async def test_what_one_instance_tells_another_crosses_shards_in_order(shards: Callable[[], Shards]) -> None:
    to, by = id_in("south", "listener"), id_in("north", "talker")
    async with shards() as fleet:
        listening = await fleet.start(listener.options(instance_id=to), 20)
        talking = await fleet.start(talker.options(instance_id=by), to, 20)
        assert await listening.result(timeout=20) == list(range(20))
        assert await talking.result(timeout=20) == "missing"


@pytest.mark.slow
async def test_shards_that_were_closed_go_on_where_they_were(shards: Callable[[], Shards]) -> None:
    to, by = id_in("south", "listener"), id_in("north", "talker")
    async with shards() as fleet:
        await fleet.start(listener.options(instance_id=to), 50)
        await fleet.start(talker.options(instance_id=by), to, 50)
        parents = [(await fleet.start(parent, 10)).id for _ in range(5)]
    for _ in range(5):
        async with shards():
            await asyncio.sleep(0.03)
    async with shards() as fleet:
        assert await fleet.result(to, timeout=20) == list(range(50))
        assert await fleet.result(by, timeout=20) == "missing"
        for each in parents:
            assert await fleet.result(each, timeout=20) == [2 * n for n in range(10)]


def test_a_map_of_other_shards_is_refused() -> None:
    with pytest.raises(UsageError, match="map"):
        Shards({"north": "memory://"}, shard_map=ShardMap.over(["south"]))


# -- the map that the stores keep ---------------------------------------------------------------------------


@pytest.mark.slow
async def test_stores_keep_their_map_and_refuse_another(stores: Stores) -> None:
    async with Client(ShardedBackend(stores())):
        pass
    async with Shards(stores(), workflows=FLOWS, activities=[double]):
        pass
    exchanged = dict(zip(("north", "south"), stores("south", "north").values(), strict=True))
    later = msgspec.structs.replace(ShardMap.over(["north", "south"]), version=2)
    for wrong, told in (
        (ShardedBackend(stores("south", "north")), "shards north, south there, south, north here; 4,096 slots"),
        (ShardedBackend(stores("north")), "shards north, south there, north here; 2,048 slots are another shard's"),
        (ShardedBackend(exchanged), "given as shard 'north', but it is shard 'south'"),
        (ShardedBackend(stores(), later), "version 1 there, 2 here; pass the map"),
    ):
        with pytest.raises(UsageError, match=told):
            async with Client(wrong):
                pass
    with pytest.raises(UsageError, match="keeps another map"):
        async with Shards(stores("south", "north"), workflows=FLOWS, activities=[double]):
            pass


@pytest.mark.slow
async def test_a_store_with_instances_of_other_shards_does_not_become_a_shard(stores: Stores) -> None:
    (alone,) = stores("north").values()
    async with Client(alone) as client:
        await client.start(child.options(instance_id=id_in("south", "c")), 1)
        await client.start(child.options(instance_id=id_in("north", "c")), 1)
    with pytest.raises(UsageError, match=r"holds 1 instances and schedules that .* such as 'c-"):
        async with Client(ShardedBackend(stores())):
            pass


@pytest.mark.slow
async def test_a_later_map_is_adopted_when_nothing_is_in_the_wrong_place_and_nobody_works(stores: Stores) -> None:
    names = ("north", "south", "west")
    before = ShardMap.over(names[:2])
    later = before.with_shard("west")
    moved = next(each for n in range(1_000) if later.shard_of(each := f"c-{n}") == "west")
    async with Shards(stores(), workflows=FLOWS, activities=[double]) as fleet:
        handle = await fleet.start(child.options(instance_id=moved), 4)
        assert await handle.result(timeout=20) == 8
        with pytest.raises(UsageError, match=r"(worker|server) .* works on"):
            await adopt_map(stores(*names), later)
    with pytest.raises(UsageError, match=f"holds 1 instances and schedules .* such as '{moved}'"):
        await adopt_map(stores(*names), later)
    async with Client(ShardedBackend(stores())) as client:
        await client.purge(moved)
    with pytest.raises(UsageError, match="but must have a later one"):
        await adopt_map(stores(*names), msgspec.structs.replace(later, version=1))
    for _ in range(2):
        await adopt_map(stores(*names), later)
    with pytest.raises(UsageError, match="version 2 there, 1 here"):
        async with Client(ShardedBackend(stores())):
            pass
    async with Shards(stores(*names), shard_map=later, workflows=FLOWS, activities=[double]) as fleet:
        handle = await fleet.start(parent.options(instance_id=moved), 12)
        assert await handle.result(timeout=20) == [2 * n for n in range(12)]
        assert (await fleet.engines["west"].status(moved)).status is Status.COMPLETED
