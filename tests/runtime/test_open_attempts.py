"""Attempts that are finished by who has the store, failures that are nobody's fault, and losses that do no harm."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    ActivityFailed,
    Client,
    Context,
    HandedOver,
    OpenAttempt,
    RetryPolicy,
    TokenRefused,
    activity,
    activity_context,
    workflow,
)
from durableflow.errors import RemoteError
from durableflow.observe import facts

if TYPE_CHECKING:
    World = Any  # of conftest.py


class Asking:
    """An activity that hands each attempt over, and what each attempt could read."""

    def __init__(self, queue: str | None = None, retry: RetryPolicy | int = 2) -> None:
        self.read: list[Any] = []
        self.attempts: list[int] = []

        @activity(name="ask", queue=queue, retry=retry)
        async def ask() -> str:
            context = activity_context()
            self.read.append(context.heartbeat_details)
            self.attempts.append(context.attempt)
            self.scheduled_at_us = context.scheduled_at_us
            await context.hand_over()
            raise HandedOver

        @workflow(name="asking")
        async def asking(ctx: Context) -> Any:
            try:
                return await ctx.call_activity(ask)
            except ActivityFailed as error:
                return [error.type_name, error.attempts]

        self.workflow = asking
        self.known = {"workflows": [asking], "activities": [ask]}

    async def begin(self, world: World, engine: Any) -> Any:
        handle = await engine.start(self.workflow.options(instance_id="a"))
        await world.until(lambda: self.attempts)
        await self.open_attempt(world, engine)
        return handle

    async def open_attempt(self, world: World, engine: Any) -> OpenAttempt:
        """The one that was made last, when its token is durable."""
        await world.settle()
        attempt: OpenAttempt | None = None
        while attempt is None or attempt.attempt != self.attempts[-1]:
            attempt = await engine.open_attempt("a", 1)
        return attempt


both = pytest.mark.parametrize("queue", [None, "asking"], ids=["owned", "queued"])


@both
async def test_who_has_the_store_finishes_an_attempt_without_its_token(world: World, queue: str | None) -> None:
    asking = Asking(queue)
    async with world.engine(**asking.known) as engine:
        handle = await asking.begin(world, engine)
        assert await engine.open_attempt("a", 2) is None
        attempt = await engine.open_attempt("a", 1)
        assert attempt == OpenAttempt("a", 1, 1, "ask", None, asking.scheduled_at_us)
        assert await engine.open_attempts() == ([] if queue else [("a", 1)])
        assert await engine.heartbeat(attempt, {"step": 3})
        assert (await engine.open_attempt("a", 1)).details == {"step": 3}
        await engine.complete(attempt, "yes")
        assert await handle.result(timeout=5) == "yes"
        with pytest.raises(TokenRefused, match=r"open attempt of task 1 of instance 'a'") as caught:
            await engine.complete(attempt, "again")
        assert caught.value.reason == "over"
        assert await engine.open_attempt("a", 1) is None


@both
async def test_an_open_attempt_that_was_read_is_stale_when_another_follows(world: World, queue: str | None) -> None:
    asking = Asking(queue, retry=RetryPolicy(max_attempts=3, initial=0))
    async with world.engine(**asking.known) as engine:
        await asking.begin(world, engine)
        first = await asking.open_attempt(world, engine)
        assert await engine.fail(first, "Broken")
        await world.until(lambda: asking.attempts == [1, 2])
        await world.settle()
        with pytest.raises(TokenRefused) as caught:
            await engine.complete(first, "late")
        assert caught.value.reason == "stale"


@both
async def test_a_failure_that_does_not_count_leaves_all_attempts_and_its_details(
    world: World, queue: str | None
) -> None:
    asking = Asking(queue, retry=RetryPolicy(max_attempts=2, initial=0))
    async with world.engine(**asking.known) as engine:
        handle = await asking.begin(world, engine)
        for number in range(1, 5):
            attempt = await asking.open_attempt(world, engine)
            assert attempt.attempt == number
            assert await engine.fail(attempt, "Preempted", counts=False, details={"job": number + 1})
            await world.until(lambda number=number: len(asking.attempts) == number + 1)
            await world.settle()
        assert asking.read == [None, {"job": 2}, {"job": 3}, {"job": 4}, {"job": 5}]
        assert await engine.fail(await asking.open_attempt(world, engine), "Mine")
        await world.until(lambda: len(asking.attempts) == 6)
        await world.settle()
        assert asking.read[-1] == {"job": 5}
        assert not await engine.fail(await asking.open_attempt(world, engine), "Mine")
        assert await handle.result(timeout=5) == ["Mine", 2]


@both
async def test_a_failure_that_does_not_count_can_still_be_final(world: World, queue: str | None) -> None:
    asking = Asking(queue, retry=RetryPolicy(max_attempts=5, no_retry_on=["Preempted"]))
    async with world.engine(**asking.known) as engine:
        handle = await asking.begin(world, engine)
        assert not await engine.fail(await asking.open_attempt(world, engine), "Preempted", counts=False)
        assert await handle.result(timeout=5) == ["Preempted", 1]


@pytest.mark.slow
@both
async def test_an_error_that_is_passed_on_keeps_its_name_for_the_policy_and_its_traceback(
    world: World, queue: str | None
) -> None:
    asking = Asking(queue, retry=RetryPolicy(max_attempts=5, no_retry_on=["OutOfMemory"]))
    async with world.engine(**asking.known) as engine:
        handle = await asking.begin(world, engine)
        attempt = await asking.open_attempt(world, engine)
        assert not await engine.fail(attempt, RemoteError("OutOfMemory", "too large", "the last lines"))
        assert await handle.result(timeout=5) == ["OutOfMemory", 1]
        (failed,) = [each for each in (await engine.view("a")).tasks if each.failure is not None]
        assert failed.failure.traceback_text == "the last lines"


@pytest.mark.slow
async def test_losses_in_a_row_are_not_counted_as_far_as_the_policy_says(world: World) -> None:
    attempts: list[int] = []

    @activity(retry=RetryPolicy(max_attempts=2, uncounted_losses=3))
    async def kills() -> None:
        attempts.append(activity_context().attempt)
        await asyncio.get_running_loop().create_future()

    @workflow
    async def called(ctx: Context) -> Any:
        try:
            return await ctx.call_activity(kills)
        except ActivityFailed as error:
            return [error.type_name, error.attempts]

    engine = await world.open()
    handle = await engine.start(called)
    await world.settle()
    for _ in range(5):
        await world.crash(engine)
        engine = await world.open(workflows=[called], activities=[kills])
        await world.settle()
    assert await engine.result(handle.id) == ["WorkerLost", 2]
    assert attempts == [1, 2, 3, 4, 5]
    await world.crash(engine)


def test_a_negative_number_of_losses_is_refused() -> None:
    with pytest.raises(ValueError, match="uncounted_losses"):
        RetryPolicy(uncounted_losses=-1)


async def test_listeners_hear_that_an_activity_was_dropped_and_nothing_after_they_left(world: World) -> None:
    heard: list[facts.Fact] = []
    asking = Asking()

    @workflow
    async def gives_up(ctx: Context) -> str:
        task = ctx.call_activity_by_name("ask")
        await ctx.wait_for_event("enough")
        task.cancel()
        await ctx.wait_for_event("more")
        return "gave up"

    async with world.engine(workflows=[gives_up, asking.workflow], activities=asking.known["activities"]) as engine:
        leave = engine.listen(heard.append)
        await engine.start(gives_up.options(instance_id="b"))
        await asking.begin(world, engine)
        await engine.raise_event("b", "enough")
        await world.settle()
        await engine.terminate("a")
        await world.settle()
        dropped = [fact for fact in heard if type(fact) is facts.ActivityDropped]
        assert dropped == [facts.ActivityDropped("b", 1), facts.ActivityDropped("a", 1)]
        leave()
        heard.clear()
        await engine.raise_event("b", "more")
        await world.settle()
        assert heard == []


async def test_a_client_of_another_process_finds_the_open_attempt(world: World) -> None:
    asking = Asking()
    async with world.engine(**asking.known) as engine:
        handle = await asking.begin(world, engine)
        async with Client(world.backend(), clock=world.clock) as client:
            await client.complete(await client.open_attempt("a", 1), "from there")
        assert await handle.result(timeout=5) == "from there"
