"""Serving: who takes what of which queue, within which limits, and when its time is over."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import ActivityFailed, Context, RetryPolicy, activity, activity_context, workflow
from durableflow.observe import facts

if TYPE_CHECKING:
    World = Any  # of conftest.py

LONG_S = 1_000_000.0
"""A lease that outlasts every move of the clock: nobody is taken for dead who is not."""


@activity(queue="mail")
async def good(n: int) -> int:
    return n


@activity(queue="mail", retry=RetryPolicy(max_attempts=2, initial=0))
async def poison() -> None:
    raise ValueError("poison")


@workflow
async def fan(ctx: Context, count: int) -> str:
    bad = ctx.call_activity(poison)
    total = sum(await ctx.when_all([ctx.call_activity(good, 1) for _ in range(count)]))
    try:
        await bad
    except ActivityFailed as error:
        return f"{total} and {error.attempts}"
    return "no poison"


def caller(called: Any, *args: Any) -> Any:
    """A workflow that calls one activity: its result, or what the error says."""

    @workflow(name=f"caller of {called.name} {args}")
    async def calls(ctx: Context) -> Any:
        try:
            return await ctx.call_activity(called, *args)
        except ActivityFailed as error:
            return [error.type_name, error.message, error.attempts]

    return calls


# -- who takes what -----------------------------------------------------------------------------------------------


async def test_poison_uses_up_its_own_attempts_and_holds_up_nobody(world: World) -> None:
    async with world.engine(workflows=[fan], activities=[good, poison]) as engine:
        handle = await engine.start(fan, 100)
        assert await handle.result(timeout=10) == "100 and 2"
        assert await world.counts(engine) == (0, 0, 0, 0)


async def test_an_engine_that_stands_by_serves_a_queue(sqlite_world: World) -> None:
    world = sqlite_world
    async with world.engine(workflows=[fan]) as leading, world.engine(activities=[good, poison]) as standing_by:
        assert not standing_by.is_leading
        assert await (await leading.start(fan, 20)).result(timeout=10) == "20 and 2"


async def test_tasks_wait_while_their_queue_is_paused_and_survive_a_crash(world: World) -> None:
    engine = await world.open(workflows=[fan], activities=[good, poison])
    await engine.pause_queue("mail")
    await engine.start(fan.options(instance_id="a"), 3)
    await world.settle()
    assert await world.counts(engine) == (4, 0, 0, 0)
    await world.crash(engine)
    async with world.engine(workflows=[fan], activities=[good, poison]) as again:
        assert (await again.queue("mail")).is_paused
        await again.resume_queue("mail")
        assert await again.handle("a").result(timeout=10) == "3 and 2"


async def test_a_server_takes_of_each_queue_as_many_as_it_was_told(world: World) -> None:
    go = asyncio.Event()

    @activity
    async def held(n: int) -> int:
        await go.wait()
        return n

    @workflow
    async def holds(ctx: Context) -> int:
        calls = [ctx.call_activity(held.options(queue=name), 1) for name in ["a", "b", "c"] for _ in range(5)]
        return sum(await ctx.when_all(calls))

    known = {"workflows": [holds], "activities": [held]}
    async with world.engine(queues={"a": 2, "b": 3}, **known) as engine:
        handle = await engine.start(holds)
        await world.settle()
        assert [await world.counts(engine, name) for name in "abc"] == [(3, 0, 2, 0), (2, 0, 3, 0), (5, 0, 0, 0)]
        go.set()
        await world.settle()
        assert [await world.counts(engine, name) for name in "abc"] == [(0, 0, 0, 0), (0, 0, 0, 0), (5, 0, 0, 0)]
        async with world.engine(queues=["c"], **known):
            assert await handle.result(timeout=5) == 15


async def test_an_activity_that_is_registered_later_is_served_from_then_on(world: World) -> None:
    @activity(queue="mail")
    async def late() -> str:
        return "at last"

    called = caller(late)
    async with world.engine(workflows=[called], queues=[]) as leading, world.engine(lease_s=LONG_S) as other:
        handle = await leading.start(called)
        await world.settle()
        assert await world.counts(leading) == (1, 0, 0, 0)
        other.register(late)
        assert await handle.result(timeout=5) == "at last"


# -- time ---------------------------------------------------------------------------------------------------------


async def test_a_claimed_attempt_without_heartbeat_times_out_and_the_next_knows_what_it_said(world: World) -> None:
    seen: list[tuple[float, int, Any]] = []
    beat = asyncio.Event()

    @activity(queue="mail", heartbeat_timeout=5, retry=RetryPolicy(max_attempts=2, initial=3))
    async def silent() -> str:
        context = activity_context()
        seen.append((world.clock.since_start_s, context.attempt, context.heartbeat_details))
        if context.attempt == 2:
            return "done"
        context.heartbeat("begun")
        await beat.wait()
        context.heartbeat("half")
        await asyncio.Event().wait()
        return "never"

    called = caller(silent)
    async with world.engine(workflows=[called], activities=[silent]) as engine:
        handle = await engine.start(called)
        await world.advance(4)
        beat.set()
        await world.advance(4.9)
        assert await world.counts(engine) == (0, 0, 1, 0), "a heartbeat gives it five seconds more"
        await world.advance(0.1)
        assert await world.counts(engine) == (0, 1, 0, 0)
        await world.advance(3)
        assert await handle.result(timeout=5) == "done"
        assert seen == [(0, 1, None), (12, 2, "half")]
        (ended,) = world.told(facts.AttemptEnded)
        assert (ended.type_name, ended.message) == (
            "TimeoutError",
            "attempt 1 of activity 'silent' gave no heartbeat for 5 s",
        )


async def test_a_claimed_attempt_that_takes_too_long_is_told_to_stop_and_its_late_result_is_ignored(
    world: World,
) -> None:
    stopped = threading.Event()
    go = threading.Event()

    @activity(queue="mail", timeout=5, retry=1)
    def slow() -> str:
        if activity_context().wait_cancelled(10):
            stopped.set()
        go.wait(10)
        return "too late"

    called = caller(slow)
    async with world.engine(workflows=[called], activities=[slow]) as engine:
        handle = await engine.start(called)
        await world.advance(5)
        text = "attempt 1 of activity 'slow' did not end within 5 s"
        assert await handle.result(timeout=5) == ["TimeoutError", text, 1]
        await world.until(stopped.is_set)
        go.set()
        await world.settle()
        assert (await world.kinds(engine, handle.id)).count("activity_completed") == 0
        assert await world.counts(engine) == (0, 0, 0, 0)


@pytest.mark.parametrize("options", [{"schedule_to_start": 7}, {"schedule_to_close": 7}])
async def test_what_nobody_takes_in_time_fails_without_an_attempt(world: World, options: dict[str, Any]) -> None:
    called = caller(good.options(**options), 1)
    async with world.engine(workflows=[called], activities=[good], queues=[]) as engine:
        handle = await engine.start(called)
        await world.advance(6.9)
        assert await world.counts(engine) == (1, 0, 0, 0)
        await world.advance(0.1)
        text = "activity 'good' was not taken from queue 'mail' in time"
        assert await handle.result(timeout=5) == ["TimeoutError", text, 0]
        assert await world.counts(engine) == (0, 0, 0, 0)


async def test_the_wait_for_each_attempt_is_bounded_by_itself(world: World) -> None:
    @activity(queue="mail", schedule_to_start=5, retry=RetryPolicy(max_attempts=3, initial=10))
    async def fails() -> None:
        raise ValueError("no")

    called = caller(fails)
    async with world.engine(workflows=[called], activities=[fails]) as engine:
        handle = await engine.start(called)
        await world.settle()
        await engine.pause_queue("mail")
        await world.advance(14.9)
        assert await world.counts(engine) == (1, 0, 0, 0)
        await world.advance(0.1)
        assert await handle.result(timeout=5) == [
            "TimeoutError",
            "activity 'fails' was not taken from queue 'mail' in time",
            1,
        ]


async def test_what_was_taken_and_finds_no_place_in_time_fails(world: World) -> None:
    go = asyncio.Event()

    @activity(queue="mail", schedule_to_start=5, max_concurrency=1)
    async def one_at_a_time() -> str:
        await go.wait()
        return "done"

    called = caller(one_at_a_time)
    async with world.engine(workflows=[called], activities=[one_at_a_time]) as engine:
        first, second = await engine.start(called), await engine.start(called)
        await world.settle()
        assert await world.counts(engine) == (0, 0, 2, 0)
        await world.advance(5)
        failed = ["TimeoutError", "activity 'one_at_a_time' found no place within 5 s", 0]
        assert await second.result(timeout=5) == failed
        go.set()
        assert await first.result(timeout=5) == "done"


async def test_all_attempts_together_are_bounded(world: World) -> None:
    begun: list[tuple[float, int]] = []

    @activity(queue="mail", schedule_to_close=20, retry=RetryPolicy(max_attempts=9, initial=6, backoff=1))
    async def fails() -> None:
        begun.append((world.clock.since_start_s, activity_context().attempt))
        if len(begun) == 3:
            await asyncio.Event().wait()
        raise ValueError("no")

    called = caller(fails)
    async with world.engine(workflows=[called], activities=[fails]) as engine:
        handle = await engine.start(called)
        await world.advance(19.9)
        assert begun == [(0, 1), (6, 2), (12, 3)]
        await world.advance(0.1)
        text = "attempt 3 of activity 'fails' was not done within 20 s of being scheduled"
        assert await handle.result(timeout=5) == ["TimeoutError", text, 3]
        assert await world.counts(engine) == (0, 0, 0, 0)


# -- two servers ------------------------------------------------------------------------------------------------------


async def test_two_servers_of_one_store_share_a_limit(world: World) -> None:
    running: list[str] = []
    most = 0
    turns = asyncio.Semaphore(0)

    def bounded(where: str) -> Any:
        @activity(name="bounded", queue="mail")
        async def runs(n: int) -> str:
            nonlocal most
            running.append(where)
            most = max(most, len(running))
            await turns.acquire()
            running.remove(where)
            return where

        return runs

    @workflow
    async def many(ctx: Context) -> list[str]:
        calls = [ctx.call_activity_by_name("bounded", n, result_type=str, queue="mail") for n in range(20)]
        return list(await ctx.when_all(calls))

    async with (
        world.engine(workflows=[many], activities=[bounded("one")], queues={"mail": 2}, lease_s=LONG_S) as one,
        world.engine(activities=[bounded("other")], queues={"mail": 4}, lease_s=LONG_S),
    ):
        await one.set_queue("mail", concurrency=5)
        handle = await one.start(many)
        await world.until(lambda: len(running) == 5)
        await world.settle()
        assert await world.counts(one) == (15, 0, 5, 0)
        assert {"one", "other"} == set(running)
        for _ in range(20):
            turns.release()
        where = await handle.result(timeout=5)
        assert most == 5
        assert set(where) == {"one", "other"}


async def test_two_servers_of_one_store_share_a_rate(world: World) -> None:
    began: list[float] = []

    def limited() -> Any:
        @activity(name="limited", queue="mail")
        async def runs(n: int) -> None:
            began.append(world.clock.since_start_s)

        return runs

    @workflow
    async def many(ctx: Context) -> None:
        await ctx.when_all([ctx.call_activity_by_name("limited", n, queue="mail") for n in range(7)])

    async with (
        world.engine(workflows=[many], activities=[limited()], lease_s=LONG_S) as one,
        world.engine(activities=[limited()], lease_s=LONG_S),
    ):
        await one.set_queue("mail", rate="2/min", burst=1)
        handle = await one.start(many)
        await world.advance(179)
        assert began == [0, 30, 60, 90, 120, 150]
        await world.advance(1)
        assert began[6:] == [180]
        await handle.result(timeout=5)
