"""A client of several stores that are one, beside the engines that run them: it can do all that a client can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from durableflow import (
    Client,
    Context,
    HandedOver,
    Handle,
    InstanceExists,
    InstanceNotActive,
    InstanceNotFound,
    Interval,
    Schedule,
    Status,
    UsageError,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
    activity,
    activity_context,
    workflow,
)
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sharded import ShardedBackend, ShardMap
from durableflow.backends.sqlite import SqliteBackend
from durableflow.engine import Engine
from durableflow.sharding import Shards

pytestmark = pytest.mark.slow  # engines on several stores

NAMES = ("north", "south")
PLACED = ShardMap.over(NAMES)
_broken: set[str] = set()
"""Instances whose activity fails."""
_tokens: dict[str, str] = {}


@activity(retry=1)
async def work(n: int) -> int:
    if activity_context().instance_id in _broken:
        raise ValueError("broken")
    return 2 * n


@activity(queue="mail")
async def post(n: int) -> int:
    return n + 1


@activity
async def hand_over(n: int) -> int:
    context = activity_context()
    token = await context.hand_over()
    _tokens[context.instance_id] = token
    raise HandedOver


@workflow
async def single(ctx: Context, n: int) -> int:
    return await ctx.call_activity(work, n)


@workflow
async def posted(ctx: Context, n: int) -> int:
    return await ctx.call_activity(post, n)


@workflow
async def handed(ctx: Context, n: int) -> int:
    return await ctx.call_activity(hand_over, n)


@workflow
async def waits(ctx: Context, n: int) -> Any:
    @ctx.on_request("double")
    def double(x: int) -> int:
        return 2 * x

    @ctx.on_query("first")
    def first() -> int:
        return n

    return await ctx.wait_for_event("go")


@workflow
async def family(ctx: Context, depth: int, width: int) -> int:
    """A tree: each has children, and the leaves do the work."""
    if not depth:
        return await ctx.call_activity(work, 1)
    return sum(await ctx.when_all([ctx.call_workflow(family, depth - 1, width) for _ in range(width)]))


@workflow
async def waiting_parent(ctx: Context, width: int) -> int:
    """Its children wait for an event; so may it."""
    children = [ctx.call_workflow(waits, n) for n in range(width)]
    await ctx.wait_for_event("on")
    return sum(await ctx.when_all(children))


FLOWS = [single, posted, handed, waits, family, waiting_parent]
ACTIVITIES = [work, post, hand_over]
T = TypeVar("T")
Stores = Callable[[], Mapping[str, Any]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """The same two stores each time, to be opened once more."""
    if request.param == "memory":
        kept = {name: MemoryBackend() for name in NAMES}
        return lambda: kept
    if request.param == "sqlite":
        return lambda: {name: SqliteBackend(tmp_path / f"{name}.db", power_loss_safe=False) for name in NAMES}
    url_of = request.getfixturevalue("store_url")
    return lambda: {name: url_of((tmp_path, name)) for name in NAMES}


@pytest.fixture
async def shards(stores: Stores) -> AsyncIterator[Shards]:
    _broken.clear()
    _tokens.clear()
    async with Shards(stores(), workflows=FLOWS, activities=ACTIVITIES) as shards:
        yield shards


@pytest.fixture(params=["beside", "same"])
async def client(request: pytest.FixtureRequest, stores: Stores, shards: Shards) -> AsyncIterator[Client]:
    """Of a process that only asks, or the one that also works."""
    if request.param == "same":
        yield shards
    else:
        async with Client(ShardedBackend(stores())) as client:
            yield client


async def eventually(look: Callable[[], Awaitable[T]]) -> T:
    """Look until there is something to see, and give it."""
    async with asyncio.timeout(20):
        while True:
            if seen := await look():
                return seen
            await asyncio.sleep(0.01)


def id_in(name: str, beginning: str) -> str:
    return next(each for n in range(1_000) if PLACED.shard_of(each := f"{beginning}-{n}") == name)


async def both(client: Client, kind: Any, beginning: str, *arguments: Any) -> list[Handle[Any]]:
    """An instance in each shard."""
    ids = [id_in(name, beginning) for name in NAMES]
    return [await client.start(kind.options(instance_id=each), *arguments) for each in ids]


async def test_instances_of_all_shards_are_started_listed_and_looked_at(client: Client, shards: Shards) -> None:
    handles = [await client.start(single.options(tags={"kind": "s"}), n) for n in range(20)]
    assert [await handle.result(timeout=20) for handle in handles] == [2 * n for n in range(20)]
    for handle in handles:
        assert (await handle.status()).status is Status.COMPLETED
        assert [entry.kind for entry in await handle.history()][-1] == "instance_completed"
        assert [task.name for task in (await handle.view()).tasks] == ["work"]
    seen: list[str] = []
    cursor = None
    while True:
        page = await client.list(tags={"kind": "s"}, limit=3, cursor=cursor)
        seen += [each.instance_id for each in page.instances]
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(seen) == sorted(handle.id for handle in handles), "nothing is missed or doubled"
    at = [(await client.status(each)).created_at for each in seen]
    assert at == sorted(at, reverse=True), "the newest first"
    for name, engine in shards.engines.items():
        there = {each.instance_id for each in (await engine.list(limit=1_000)).instances}
        assert there == {each for each in seen if PLACED.shard_of(each) == name} != set()


async def test_events_requests_and_queries_reach_the_instance(client: Client) -> None:
    for number, handle in enumerate(await both(client, waits, "w", 7)):
        assert await handle.request("double", 4, result_type=int) == 8
        assert await client.query(handle.id, "first", workflow=waits) == 7
        await handle.raise_event("go", number)
        assert await handle.result(timeout=20) == number
    with pytest.raises(InstanceNotActive):
        await handle.raise_event("go", 1)
    for name in NAMES:
        with pytest.raises(InstanceNotFound):
            await client.raise_event(id_in(name, "nobody"), "go")


async def test_control_reaches_the_instance(client: Client) -> None:
    for handle in await both(client, waits, "w", 1):
        await handle.suspend("hold")
        await handle.wait_for_status(Status.SUSPENDED, timeout=20)
        await handle.resume()
        await handle.wait_for_status(Status.RUNNING, timeout=20)
        await handle.cancel("enough")
        with pytest.raises(WorkflowCancelled):
            await handle.result(timeout=20)
        with pytest.raises(InstanceExists):
            await client.start(waits.options(instance_id=handle.id, on_conflict="fail"), 1)
        again = await handle.restart()
        await again.terminate()
        with pytest.raises(WorkflowTerminated):
            await again.result(timeout=20)
        await again.purge()
        with pytest.raises(InstanceNotFound):
            await again.status()
        assert (await handle.status()).status is Status.CANCELLED


async def test_many_are_dealt_with_at_once(client: Client, tmp_path: Path) -> None:
    handles = [await client.start(waits.options(tags={"kind": "many"}), n) for n in range(12)]
    report = await client.bulk("terminate", tags={"kind": "many"})
    assert (report.matched, report.failed) == (12, 0)
    for handle in handles:
        await handle.wait_for_status(Status.TERMINATED, timeout=20)
    exported = await client.export_instances(tmp_path / "all.jsonl", tags={"kind": "many"})
    assert exported.instances == 12
    assert (await client.import_instances(tmp_path / "all.jsonl")).skipped == 12
    assert sorted(await client.purge_many([handle.id for handle in handles[:5]])) == sorted(h.id for h in handles[:5])
    assert await client.purge_finished(older_than=timedelta(0), batch=2) == 7
    assert (await client.import_instances(tmp_path / "all.jsonl")).imported == 12
    assert len((await client.list(tags={"kind": "many"})).instances) == 12
    for handle in handles:
        assert (await handle.status()).status is Status.TERMINATED


async def test_starts_of_a_key_make_one_instance_wherever_they_are_made(client: Client, shards: Shards) -> None:
    for name in NAMES:
        key = id_in(name, "page")
        edited = single.options(instance_id=key, debounce=0.3)
        handles = [await each.start(edited, n) for n in range(6) for each in (client, shards)]
        assert len({handle.id for handle in handles}) == 1
        assert await handles[0].result(timeout=20) == 10, "the latest counts"


async def test_schedules_fire_in_the_shards_that_their_ids_say(client: Client, shards: Shards) -> None:
    since = datetime.now(UTC) - timedelta(hours=2)
    ids = [f"every-{n}" for n in range(6)]
    assert {PLACED.shard_of_schedule(each) for each in ids} == set(NAMES)
    for each in ids:
        await client.schedules.create(each, Schedule(Interval(timedelta(hours=1))), single, 3)
        triggered = await client.schedules.trigger(each)
        assert await client.result(triggered, timeout=20) == 6
        filled = await client.schedules.backfill(each, since, datetime.now(UTC))
        assert len(filled) == 2
        assert [await client.result(one, timeout=20) for one in filled] == [6, 6]
        assert (await client.schedules.get(each)).fired == 3
    assert [view.id for view in (await client.schedules.list()).schedules] == ids
    strays = [f"a/{n}" for n in range(20)]  # half of them would be in the other shard
    stray = next(s for s in strays if PLACED.shard_of(f"{ids[0]}/trigger/{s}") != PLACED.shard_of_schedule(ids[0]))
    with pytest.raises(UsageError, match="trigger id"):
        await client.schedules.trigger(ids[0], trigger_id=stray)
    for each in ids:
        await client.schedules.delete(each)
    assert (await client.schedules.list()).schedules == []


async def test_a_schedule_fires_by_itself_in_any_shard(client: Client) -> None:
    soon = [next(f"e-{n}" for n in range(99) if PLACED.shard_of_schedule(f"e-{n}") == name) for name in NAMES]
    for each in soon:
        await client.schedules.create(each, Schedule(Interval(timedelta(seconds=1))), single, 2)
    for each in soon:

        async def fired(schedule_id: str = each) -> Any:
            return (await client.schedules.get(schedule_id)).recent

        first = (await eventually(fired))[0]
        assert await client.result(first.instance_id, timeout=20) == 4
        await client.schedules.delete(each)


async def test_queues_and_tokens_work_over_all_shards(client: Client) -> None:
    await client.set_queue("mail", concurrency=4, rate="1000/s")
    queue = await client.queue("mail")
    assert (queue.concurrency, queue.rate, queue.is_paused) == (4, (1000, timedelta(seconds=1)), False)
    await client.pause_queue("mail")
    handles = await both(client, posted, "posted", 1)

    async def are_waiting() -> bool:
        return (await client.queue("mail")).waiting == 2

    await eventually(are_waiting)
    await client.resume_queue("mail")
    assert [await handle.result(timeout=20) for handle in handles] == [2, 2]
    for handle in await both(client, handed, "handed", 1):

        async def given(instance_id: str = handle.id) -> str | None:
            return _tokens.get(instance_id)

        token = await eventually(given)
        assert token is not None
        assert await client.heartbeat(token, "at it")
        await client.complete(token, 9)
        assert await handle.result(timeout=20) == 9


async def test_dead_letters_of_all_shards_are_one_list(client: Client) -> None:
    ids = [id_in(name, "dead") for name in NAMES]
    _broken.update(ids)
    for handle in await both(client, single, "dead", 1):
        with pytest.raises(WorkflowFailed):
            await handle.result(timeout=20)
    letters: list[tuple[str, int]] = []
    cursor = None
    while True:
        page = await client.dead_letters.list(limit=1, cursor=cursor)
        letters += [(each.instance_id, each.task) for each in page.letters]
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(letters) == sorted((each, task) for each in ids for task in (0, 1))
    assert (await client.dead_letters.get(ids[0], 1)).attempts[0].failure.message == "broken"
    _broken.clear()
    assert (await client.dead_letters.redrive_all(kind="failed")).redriven == 2
    assert [await client.result(each, timeout=20) for each in ids] == [2, 2]
    assert (await client.dead_letters.list()).letters == []


# -- families -----------------------------------------------------------------------------------------------


async def children_of(client: Client, instance_id: str, count: int) -> list[str]:
    """When they are all born."""

    async def look() -> list[str]:
        found = [each.instance_id for each in (await client.list(parent=instance_id)).instances]
        return found if len(found) == count else []

    return await eventually(look)


async def descendants(client: Client, instance_id: str) -> list[str]:
    children = [each.instance_id for each in (await client.list(parent=instance_id, limit=1_000)).instances]
    return children + [each for child in children for each in await descendants(client, child)]


async def test_rewinding_a_parent_rewinds_its_failed_children_wherever_they_are(client: Client) -> None:
    leaves = [f"{i}/{j}/{k}" for i in range(1, 4) for j in range(1, 4) for k in (1, 2, 3)]
    broken = {f"tree/{each}" for each in leaves[::4]}
    assert {PLACED.shard_of(each) for each in broken} == set(NAMES)
    _broken.update(broken)
    handle = await client.start(family.options(instance_id="tree"), 3, 3)
    with pytest.raises(WorkflowFailed):
        await handle.result(timeout=20)
    born = await descendants(client, "tree")
    for each in born:  # those that nobody waits for any more are over, too
        await client.wait_for_status(each, timeout=20)
    _broken.clear()
    await handle.rewind()
    assert await handle.result(timeout=20) == 54
    assert set(await descendants(client, "tree")) >= set(born)
    for each in await descendants(client, "tree"):
        rounds = [entry for entry in await client.history(each) if entry.kind == "instance_rewound"]
        assert len(rounds) <= 1, "once, and no more"


async def test_a_child_in_another_shard_goes_on_once_after_its_parent_whoever_comes_to_carry_that(
    stores: Stores,
) -> None:
    """The client that rewinds is gone before anything was carried, and the parent's shard has all that it takes."""
    _broken.clear()
    parent = next(each for n in range(99) if PLACED.shard_of(each := f"p-{n}") != PLACED.shard_of(f"{each}/1"))
    _broken.add(f"{parent}/1")
    async with Shards(stores(), workflows=FLOWS, activities=ACTIVITIES) as shards:
        with pytest.raises(WorkflowFailed):
            await (await shards.start(family.options(instance_id=parent), 1, 1)).result(timeout=20)
    _broken.clear()
    async with Client(ShardedBackend(stores())) as client:
        await client.rewind(parent)
        assert (await client.status(parent)).status is Status.RUNNING
        assert (await client.status(f"{parent}/1")).status is Status.FAILED, "its shard has heard of nothing"
        assert len(await client._backend.stores[PLACED.shard_of(parent)].read_outbox(0, 10)) == 1  # type: ignore[attr-defined]
        with pytest.raises(InstanceNotActive):
            await client.rewind(parent)
        await client.rewind(f"{parent}/1")  # somebody is faster
    async with Shards(stores(), workflows=FLOWS, activities=ACTIVITIES) as shards:
        assert await shards.result(parent, timeout=20) == 2
        kinds = [entry.kind for entry in await shards.history(f"{parent}/1")]
        assert kinds.count("instance_rewound") == 1

        async def is_carried() -> bool:
            return await shards._backend.count_relayed() == 0

        await eventually(is_carried)


async def test_a_fork_is_where_its_id_says_and_starts_its_children_where_theirs_do(client: Client) -> None:
    for name in NAMES:
        original = await client.start(waiting_parent.options(instance_id=id_in(name, "parent")), 4)
        await children_of(client, original.id, 4)
        for other in NAMES:
            fork = await original.fork(new_id=id_in(other, f"fork-{name}"))
            await fork.raise_event("on")
            for number, child in enumerate(await children_of(client, fork.id, 4)):
                await client.raise_event(child, "go", number)
            assert await fork.result(timeout=20) == 6
            assert (await original.status()).status is Status.RUNNING, "the original does not change"
            with pytest.raises(InstanceExists):
                await original.fork(new_id=fork.id)


# -- what is refused ----------------------------------------------------------------------------------------


async def test_an_engine_on_several_stores_is_refused_with_a_word_on_shards(stores: Stores) -> None:
    with pytest.raises(UsageError, match=r"durableflow\.Shards"):
        async with Engine(ShardedBackend(stores())):
            pass


async def test_an_instance_cannot_be_started_by_the_engine_of_another_shard(shards: Shards) -> None:
    north = id_in("north", "w")
    with pytest.raises(UsageError, match="belongs to another shard"):
        await shards.engines["south"].start(single.options(instance_id=north), 1)
    key = id_in("north", "page")
    with pytest.raises(UsageError, match="belongs to another shard"):
        await shards.engines["south"].start(single.options(instance_id=key, debounce=1), 1)
    assert await (await shards.engines["north"].start(single.options(instance_id=north), 1)).result(timeout=20) == 2
