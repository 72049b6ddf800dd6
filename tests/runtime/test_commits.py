"""Commits one behind the other: what is gathered meanwhile, what may overtake what, and what a failure leaves whole."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import Context, EngineClosed, StorageError, activity, workflow
from durableflow.errors import LeaseLost
from durableflow.observe import facts

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of conftest.py


@workflow
async def nothing(ctx: Context, number: int) -> int:
    return number


@workflow
async def waits(ctx: Context) -> list[Any]:
    heard = []
    while (word := await ctx.wait_for_event("word")) != "end":
        heard.append(word)
    return heard


@activity
async def double(number: int) -> int:
    return 2 * number


@workflow
async def long(ctx: Context, length: int) -> int:
    number = 1
    for _ in range(length):
        number = (await ctx.call_activity(double, number)) % 1_000
    await ctx.wait_for_event("end")
    return number


class Replaced:
    """A backend some of whose methods are others."""

    def __init__(self, real: Any, **methods: Any) -> None:
        self.real = real
        self.__dict__ |= methods

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


async def start_behind_the_gate(
    world: World, faulty: FaultyBackend, engine: Any, count: int
) -> tuple[asyncio.Future[Any], list[asyncio.Future[Any]]]:
    """One start whose commit waits at the gate, and `count` that come in meanwhile."""
    faulty.gate.clear()
    first = asyncio.ensure_future(engine.start(nothing, -1))
    await world.until(lambda: len(faulty.commits) == 1)
    others = [asyncio.ensure_future(engine.start(nothing, n)) for n in range(count)]
    for _ in range(5):
        await asyncio.sleep(0)
    return first, others


async def test_many_with_news_take_their_turns_while_a_commit_is_under_way(world: World, faulty: FaultyBackend) -> None:
    async with world.engine(faulty) as engine:
        first, others = await start_behind_the_gate(world, faulty, engine, 40)
        assert len(world.worker(engine)._commits._next.taken) == 40
        assert not any(task.done() for task in [first, *others])
        faulty.gate.set()
        await asyncio.gather(first, *others)
        assert [len(commit.rows) for commit in faulty.commits] == [1, 40]


async def test_the_next_commit_is_under_way_before_the_effects_of_the_last_are_made_so(
    world: World, faulty: FaultyBackend
) -> None:
    handed_over: list[int] = []

    def note(fact: facts.Fact) -> None:
        if isinstance(fact, facts.TurnsCommitted):
            handed_over.append(len(faulty.commits))

    engine = world.new_engine(faulty)
    engine.listen(note)
    async with engine:
        first, others = await start_behind_the_gate(world, faulty, engine, 40)
        faulty.gate.set()
        await asyncio.gather(first, *others)
    assert handed_over == [2, 2]


async def test_an_instance_takes_no_turn_before_its_last_one_is_durable(world: World, faulty: FaultyBackend) -> None:
    async with world.engine(faulty) as engine:
        handle = await engine.start(waits)
        await world.settle()
        faulty.gate.clear()
        raised = [asyncio.ensure_future(handle.raise_event("word", "first"))]
        await world.until(lambda: len(faulty.commits) == 2)
        raised += [asyncio.ensure_future(handle.raise_event("word", word)) for word in ("second", "end")]
        others = [asyncio.ensure_future(engine.start(nothing, n)) for n in range(40)]
        for _ in range(5):
            await asyncio.sleep(0)
        ahead = world.worker(engine)._commits._next
        assert len(ahead.taken) == 40
        assert handle.id not in {taken.live.id for taken in ahead.taken}
        faulty.gate.set()
        await asyncio.gather(*raised, *others)
        assert await handle.result() == ["first", "second"]
        assert [row.instance_id for commit in faulty.commits for row in commit.rows].count(handle.id) == 3


@pytest.mark.parametrize("fault", ["refuse", "lose", "hide", "conflict"])
async def test_a_commit_that_fails_leaves_the_one_behind_it_whole(
    world: World, faulty: FaultyBackend, fault: str
) -> None:
    async with world.engine(faulty, commit_retries=0) as engine:
        first, others = await start_behind_the_gate(world, faulty, engine, 40)
        faulty.faults = [fault]
        faulty.gate.set()
        handles = await asyncio.gather(*others)
        assert sorted(await asyncio.gather(*(handle.result() for handle in handles))) == list(range(40))
        if fault == "hide":
            assert await (await first).result() == -1
        else:
            with pytest.raises(StorageError):
                await first


async def test_whoever_waits_for_a_turn_is_told_when_the_engine_ends_before_it_is_durable(
    world: World, faulty: FaultyBackend
) -> None:
    engine = await world.open(faulty)
    first, others = await start_behind_the_gate(world, faulty, engine, 40)
    await world.crash(engine)
    async with asyncio.timeout(5):
        results = await asyncio.gather(first, *others, return_exceptions=True)
    assert {type(result) for result in results} == {EngineClosed}
    assert "look whether it is there" in str(results[0])
    assert all("before this was durable" in str(result) for result in results[1:])


async def test_what_is_durable_is_acknowledged_though_the_engine_ends_before_its_effects_are_made_so(
    world: World, faulty: FaultyBackend
) -> None:
    commit = faulty.commit

    async def cancel_at_the_second(lease: Any, made: Any) -> None:
        if len(faulty.commits) == 1:
            (loop,) = [task for task in asyncio.all_tasks() if task.get_name() == "durableflow commits"]
            loop.cancel()
        await commit(lease, made)

    engine = await world.open(faulty)
    faulty.commit = cancel_at_the_second
    first, others = await start_behind_the_gate(world, faulty, engine, 40)
    faulty.gate.set()
    async with asyncio.timeout(5):
        assert (await first).id
        await world.crash(engine)
        results = await asyncio.gather(*others, return_exceptions=True)
    assert {type(result) for result in results} == {EngineClosed}


async def test_a_lost_lease_fails_what_was_under_way_and_what_was_gathered(world: World, faulty: FaultyBackend) -> None:
    async def lost(_: Any, commit: Any) -> None:
        faulty.commits.append(commit)
        await faulty.gate.wait()
        raise LeaseLost("planted")

    async with world.engine(faulty) as engine:
        faulty.commit = lost
        first, others = await start_behind_the_gate(world, faulty, engine, 40)
        faulty.gate.set()
        async with asyncio.timeout(5):
            results = await asyncio.gather(first, *others, return_exceptions=True)
        assert {type(result) for result in results} <= {LeaseLost, EngineClosed}
        del faulty.commit
        world.clock.move(world.clock.now + 11_000_000)  # the lease ends
        async with asyncio.timeout(10):
            await engine.wait_until_leading()
            assert await (await engine.start(nothing, 7)).result() == 7


@pytest.mark.slow
@pytest.mark.parametrize("closing", [True, False])
async def test_an_engine_that_is_ended_in_the_moment_in_which_it_loses_its_lease_ends(
    world: World, faulty: FaultyBackend, closing: bool
) -> None:
    engine = await world.open(faulty, workflows=[nothing])
    faulty.gate.clear()
    asked = asyncio.ensure_future(engine.start(nothing, 1))
    await world.until(lambda: faulty.commits)

    async def lost(*_: Any) -> None:
        raise LeaseLost("planted")

    faulty._real = Replaced(faulty._real, commit=lost)
    faulty.gate.set()
    task = engine._task
    engine._closing = closing
    task.cancel()  # before the loop has heard of the loss
    done, _ = await asyncio.wait([task], timeout=5)
    assert done
    with pytest.raises(StorageError):
        await asked
    faulty._real = faulty._real.real
    await world.close(engine)


async def test_others_have_their_turn_while_a_long_history_is_replayed(memory_world: World) -> None:
    async with memory_world.engine() as engine:
        handle = await engine.start(long.options(instance_id="long"), 2_000)
        await memory_world.settle()
        assert len(await handle.history()) > 4_000
    async with memory_world.engine(workflows=[long], activities=[double]) as engine:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.ensure_future(tick())
        worker = memory_world.worker(engine)
        await worker.instances.load("long")
        ticking.cancel()
        assert ticks >= 4
        await engine.raise_event("long", "end")
        await engine.result("long")
