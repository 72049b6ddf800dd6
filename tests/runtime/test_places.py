"""Places for attempts: whoever had one gives it back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from durableflow import ActivityFailed, Context, Flow, activity, workflow

if TYPE_CHECKING:
    World = Any  # of conftest.py
    FaultyBackend = Any


async def test_an_attempt_whose_time_is_over_before_its_first_step_gives_its_place_back(
    world: World, faulty: FaultyBackend
) -> None:
    """It is cancelled then, and a coroutine that is cancelled before it was entered runs not even its `finally`."""
    go_on = asyncio.Event()
    begun: list[str] = []

    @activity
    async def work(name: str) -> str:
        begun.append(name)
        await go_on.wait()
        return name

    @workflow
    def three(ctx: Context) -> Flow[Any]:
        first = ctx.call_activity(work, "first")
        second = ctx.call_activity(work.options(schedule_to_close=5), "second")
        third = ctx.call_activity(work, "third")
        try:
            yield from second
        except ActivityFailed as error:
            refused = error.message
        else:
            refused = ""
        return [refused, (yield from first), (yield from third)]

    async with world.engine(faulty, workflows=[three], activities=[work], activity_concurrency=1) as engine:
        handle = await engine.start(three)
        await world.settle()
        faulty.gate.clear()
        go_on.set()  # the second one has a place, and begins as soon as that is durable
        await world.until(lambda: len(faulty.commits) == 2)
        world.clock.move(world.clock.now + 6_000_000)
        faulty.gate.set()
        refused, *others = await handle.result(timeout=60)
        assert "was not done within 5 s of being scheduled" in refused
        assert others == ["first", "third"]
        assert begun == ["first", "third"]
        await world.until(lambda: engine.statistics().running_attempts == 0)


async def test_an_attempt_that_is_abandoned_before_its_first_step_never_runs_and_is_not_left_over(world: World) -> None:
    begun: list[str] = []

    @activity
    async def work() -> None:
        begun.append("work")

    @workflow
    def calls(ctx: Context) -> Flow[Any]:
        return (yield from ctx.call_activity(work))

    async with world.engine(workflows=[calls], activities=[work]) as engine:
        attempts = world.worker(engine).attempts
        begin, abandoned = attempts.begin, asyncio.Event()

        def begin_and_abandon(*args: Any) -> None:
            begin(*args)
            attempts.abandon()
            abandoned.set()

        attempts.begin = begin_and_abandon
        await engine.start(calls)
        await abandoned.wait()
        await attempts.join()
        assert not attempts.running
        assert begun == []


async def test_what_a_closing_engine_interrupts_is_recorded_in_the_order_in_which_it_began(world: World) -> None:
    """And not in that of addresses in memory: the same again is the same to the last row."""

    @activity
    async def hangs(n: int) -> None:
        await asyncio.get_running_loop().create_future()

    @workflow
    def calls(ctx: Context) -> Flow[Any]:
        yield from ctx.when_all([ctx.call_activity(hangs, n) for n in range(20)])

    engine = await world.open(workflows=[calls], activities=[hangs])
    handle = await engine.start(calls)
    await world.settle()
    await world.close(engine)
    async with world.engine() as again:
        stopped = [each.event.task for each in await again.history(handle.id) if each.kind == "attempt_failed"]
    assert stopped == list(range(1, 21))
