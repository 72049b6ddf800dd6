"""Claims that come to nothing: nobody wants them any more, their process died, or is taken for dead."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import ActivityFailed, Client, Context, RetryPolicy, Status, activity, activity_context, workflow
from durableflow.errors import ActivityCancelled
from durableflow.runtime import serving

if TYPE_CHECKING:
    World = Any  # of conftest.py

LONG_S = 1_000_000.0
"""A lease that outlasts every move of the clock: nobody is taken for dead who is not."""
NEVER_US = 10**15
"""Later than the end of every lease."""


@pytest.fixture(autouse=True)
def many_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server learns when it gives a sign of life, it learns soon."""
    monkeypatch.setattr(serving, "_LONGEST_WAIT_S", 0.02)


@activity(queue="mail")
async def good(n: int) -> int:
    return n


def caller(called: Any, *args: Any) -> Any:
    """A workflow that calls one activity: its result, or what the error says."""

    @workflow(name=f"caller of {called.name} {args}")
    async def calls(ctx: Context) -> Any:
        try:
            return await ctx.call_activity(called, *args)
        except ActivityFailed as error:
            return [error.type_name, error.message, error.attempts]

    return calls


# -- no longer wanted -------------------------------------------------------------------------------------------------


class Held:
    """An activity that runs until it is stopped, and tells with which words it was."""

    def __init__(self) -> None:
        self.stopped: list[str] = []
        self.running = 0

        @activity(name="held", queue="mail")
        async def held() -> str:
            self.running += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.stopped.append(activity_context().cancel_reason)
                raise
            finally:
                self.running -= 1
            return "never"

        self.activity = held


@workflow
async def changes_its_mind(ctx: Context) -> str:
    task = ctx.call_activity_by_name("held", result_type=str, queue="mail")
    await ctx.wait_for_event("enough", bool)
    task.cancel()
    await ctx.wait_for_event("end", bool)
    return "done"


@pytest.mark.parametrize("how", ["cancelled", "terminated", "timed out"])
@pytest.mark.parametrize("served", ["by the owner", "by another"])
async def test_a_running_claim_that_nobody_wants_is_told_to_stop(world: World, how: str, served: str) -> None:
    held = Held()
    known = {"activities": [held.activity], "lease_s": LONG_S}
    async with AsyncExitStack() as engines:
        queues = [] if served == "by another" else None
        leading = await engines.enter_async_context(world.engine(workflows=[changes_its_mind], queues=queues, **known))
        if served == "by another":
            await engines.enter_async_context(world.engine(**known))
        handle = await leading.start(changes_its_mind.options(timeout=60))
        await world.until(lambda: held.running)
        if how == "cancelled":
            await handle.raise_event("enough", True)
        elif how == "terminated":
            await handle.terminate()
        else:
            await world.advance(60)
        await world.until(lambda: not held.running)
        assert held.stopped == ["the result is no longer wanted"]
        assert await world.counts(leading) == (0, 0, 0, 0)
        is_now = {"cancelled": Status.RUNNING, "terminated": Status.TERMINATED, "timed out": Status.FAILED}[how]
        assert (await handle.status()).status is is_now
        assert "attempt_failed" not in await world.kinds(leading, handle.id)


async def test_a_place_that_a_claim_leaves_which_nobody_wants_is_taken_by_the_next(world: World) -> None:
    held = Held()
    known = {"activities": [held.activity], "lease_s": LONG_S}
    async with (
        world.engine(workflows=[changes_its_mind], queues=[], **known) as leading,
        world.engine(queues={"mail": 1}, **known),
    ):
        first = await leading.start(changes_its_mind)
        await world.until(lambda: held.running)
        second = await leading.start(changes_its_mind)
        await world.settle()
        assert await world.counts(leading) == (1, 0, 1, 0)
        await first.terminate()
        await world.until(lambda: len(held.stopped) == 1 and held.running == 1)
        assert await world.counts(leading) == (0, 0, 1, 0)
        await second.terminate()
        await world.until(lambda: len(held.stopped) == 2)


async def test_a_heartbeat_of_what_nobody_wants_is_refused(world: World) -> None:
    refused: list[str] = []
    over = asyncio.Event()

    @activity(name="held", queue="mail")
    async def held() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                activity_context().heartbeat(1)
            except ActivityCancelled as error:
                refused.append(str(error))
            over.set()
            raise

    async with world.engine(workflows=[changes_its_mind], activities=[held]) as engine:
        handle = await engine.start(changes_its_mind)
        await world.settle()
        await handle.raise_event("enough", True)
        await asyncio.wait_for(over.wait(), 5)
        assert refused == ["activity 'held' is no longer wanted: the result is no longer wanted"]


# -- lost -----------------------------------------------------------------------------------------------------------


async def test_attempts_whose_process_died_count_and_follow_at_once(world: World) -> None:
    made: list[int] = []

    @activity(queue="mail", retry=RetryPolicy(max_attempts=2, initial=1_000))
    async def kills() -> str:
        made.append(activity_context().attempt)
        await asyncio.Event().wait()
        return "never"

    called = caller(kills)
    known = {"workflows": [called], "activities": [kills]}
    for n in (1, 2):
        engine = await world.open(**known)
        if n == 1:
            await engine.start(called.options(instance_id="a"))
        await world.settle()
        assert made == list(range(1, n + 1))
        await world.crash(engine)
    async with world.engine(**known) as engine:
        type_name, message, attempts = await engine.result("a", timeout=5)
        assert (type_name, attempts) == ("WorkerLost", 2)
        assert message == "the process that had claimed this attempt ended, or gave no sign of life"
        assert made == [1, 2]
        assert await world.counts(engine) == (0, 0, 0, 0)


async def test_attempts_that_were_lost_twice_run_one_at_a_time_and_hold_up_nobody(world: World) -> None:
    running: set[int] = set()
    most = 0
    go = asyncio.Event()

    @activity(queue="mail", retry=RetryPolicy(max_attempts=9))
    async def suspect(n: int) -> int:
        nonlocal most
        running.add(n)
        most = max(most, len(running))
        try:
            await go.wait()
            return activity_context().attempt
        finally:
            running.discard(n)

    @workflow
    async def suspects(ctx: Context) -> list[int]:
        return list(await ctx.when_all([ctx.call_activity(suspect, n) for n in range(4)]))

    called = caller(good, 7)
    known = {"workflows": [suspects, called], "activities": [suspect, good]}
    engine = await world.open(**known)
    await engine.start(suspects.options(instance_id="a"))
    for _ in range(2):
        await world.settle()
        assert len(running) == 4, "after the first loss they run beside each other"
        await world.crash(engine)
        assert not running
        engine = await world.open(**known)
    await world.settle()
    assert len(running) == 1
    assert await world.counts(engine) == (3, 0, 1, 0), "what cannot run here now is left for others"
    assert await (await engine.start(called)).result(timeout=5) == 7
    most = 0
    go.set()
    assert await engine.result("a", timeout=5) == [3, 3, 3, 3]
    assert most == 1
    await world.crash(engine)


async def test_a_server_that_was_declared_dead_gives_up_what_it_has_and_begins_anew(world: World) -> None:
    held = Held()
    called = caller(held.activity)
    async with world.engine(workflows=[called], activities=[held.activity], lease_s=LONG_S) as engine:
        handle = await engine.start(called)
        await world.until(lambda: held.running)
        async with Client(world.backend(), clock=world.clock) as client:
            (claimed,) = await client._backend.overdue_tasks(0, world.clock.now + NEVER_US, 9)
            assert claimed.attempt == 1
        await world.until(lambda: held.stopped == ["this process was declared dead"] and held.running == 1)
        task = await engine._backend.task(handle.id, 1)
        assert (task.attempt, task.losses) == (2, 1)
        assert task.claimed_by != claimed.claimed_by
        await handle.terminate()


async def test_the_result_of_a_server_that_was_declared_dead_is_not_recorded(world: World) -> None:
    go = asyncio.Event()
    made: list[int] = []

    @activity(queue="mail")
    async def waits() -> int:
        made.append(activity_context().attempt)
        if len(made) == 1:
            await go.wait()
        return activity_context().attempt

    called = caller(waits)
    async with world.engine(workflows=[called], activities=[waits], lease_s=LONG_S) as engine:
        handle = await engine.start(called)
        await world.settle()
        async with Client(world.backend(), clock=world.clock) as client:
            await client._backend.overdue_tasks(0, world.clock.now + NEVER_US, 9)
        go.set()
        assert await handle.result(timeout=5) == 2
        assert made == [1, 2]
        assert await world.kinds(engine, handle.id) == [
            "instance_started", "activity_scheduled", "attempt_failed", "activity_completed", "instance_completed",
        ]  # fmt: skip
