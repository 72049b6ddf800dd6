"""Two stores that are one: families and conversations across them, through crashes of the relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durableflow import ChildFailed, Context, MessageFailed, activity, workflow
from durableflow.backends.sharded import ShardMap
from durableflow.backends.sqlite import SqliteBackend
from durableflow.errors import UsageError
from durableflow.sharding import Shards


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


@pytest.fixture(params=["sqlite", "postgres"])
def shards(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Shards]:
    """Makes engines on the same two stores each time."""
    url_of = request.getfixturevalue("store_url") if request.param == "postgres" else None

    def store(name: str) -> Any:
        if url_of is not None:
            return url_of((tmp_path, name))
        return SqliteBackend(tmp_path / f"{name}.db", power_loss_safe=False)

    def make() -> Shards:
        stores = {name: store(name) for name in ("north", "south")}
        return Shards(stores, workflows=FLOWS, activities=[double])

    return make


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
        found = list(await fleet.list(limit=1_000))
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
        assert await fleet.of(to).result(to, timeout=20) == list(range(50))
        assert await fleet.of(by).result(by, timeout=20) == "missing"
        for each in parents:
            assert await fleet.of(each).result(each, timeout=20) == [2 * n for n in range(10)]


def test_a_map_of_other_shards_is_refused() -> None:
    with pytest.raises(UsageError, match="map"):
        Shards({"north": "memory://"}, shard_map=ShardMap.over(["south"]))
