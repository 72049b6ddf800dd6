"""Tokens: whoever holds one may finish its attempt, once, while it is the current one and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    ActivityFailed,
    Client,
    Context,
    HandedOver,
    NonRetryableError,
    PayloadError,
    RetryPolicy,
    StorageError,
    TokenRefused,
    activity,
    activity_context,
    workflow,
)
from durableflow.backends.base import Outgoing
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.model.tokens import SECRET_BITS, new_token
from durableflow.runtime import serving

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of conftest.py

pytestmark = pytest.mark.parametrize("queue", [None, "asking"], ids=["owned", "queued"])


class Asking:
    """An activity that hands each of its attempts over, or stays with it while it may, and the tokens that it gave."""

    def __init__(self, queue: str | None, *, stays: bool = False, blocking: bool = False, **options: Any) -> None:
        self.tokens: list[str] = []
        self.known_details: list[Any] = []
        self.go = asyncio.Event()
        self.stopped: list[str] = []
        options.setdefault("retry", RetryPolicy(max_attempts=3, initial=0))

        def ask_blocking() -> str:
            self.tokens.append(activity_context().hand_over_blocking())
            raise HandedOver

        async def ask() -> str:
            context = activity_context()
            self.known_details.append(context.heartbeat_details)
            token = await context.hand_over()
            self.tokens.append(token)
            if stays:
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    self.stopped.append(context.cancel_reason)
                    raise
            raise HandedOver

        self.activity = activity(name="ask", queue=queue, **options)(ask_blocking if blocking else ask)

        @workflow(name="asking")
        async def asking(ctx: Context) -> Any:
            try:
                return await ctx.call_activity(self.activity)
            except ActivityFailed as error:
                return [error.type_name, error.message, error.attempts]

        self.workflow = asking
        self.known = {"workflows": [asking], "activities": [self.activity]}

    async def begin(self, world: World, engine: Any, attempts: int = 1) -> Any:
        handle = await engine.start(self.workflow.options(instance_id="a"))
        await world.until(lambda: len(self.tokens) == attempts)
        await world.settle()
        return handle


async def refused(ask: Awaitable[Any]) -> str:
    with pytest.raises(TokenRefused) as caught:
        await ask
    return caught.value.reason


async def test_a_token_survives_a_restart_and_is_good_once(world: World, queue: str | None) -> None:
    asking = Asking(queue, blocking=True)
    async with world.engine(**asking.known) as engine:
        await asking.begin(world, engine)
        assert await world.counts(engine, "asking") == (0, 0, 0, 1 if queue else 0)
    async with world.engine(**asking.known) as engine:
        (token,) = asking.tokens
        assert await engine.heartbeat(token, 1)
        await engine.complete(token, "yes")
        assert await engine.result("a", timeout=5) == "yes"
        for ask in (engine.complete(token, "no"), engine.fail(token, "Error")):
            assert await refused(ask) == "over"
        assert not await engine.heartbeat(token)
        assert await refused(engine.complete("no token")) == "malformed"
        assert await world.counts(engine, "asking") == (0, 0, 0, 0)
    assert len(asking.tokens) == 1


async def test_a_token_survives_a_crash_of_everybody_and_is_used_while_nobody_works(
    world: World, queue: str | None
) -> None:
    asking = Asking(queue)
    engine = await world.open(**asking.known)
    await asking.begin(world, engine)
    await world.crash(engine)
    async with Client(world.backend(), clock=world.clock) as client:
        await client.complete(asking.tokens[0], "yes")
        assert await refused(client.complete(asking.tokens[0], "no")) == "over"
    async with world.engine(**asking.known) as engine:
        assert await engine.result("a", timeout=5) == "yes"
    assert len(asking.tokens) == 1


async def test_a_failure_by_token_is_followed_by_an_attempt_with_a_token_of_its_own(
    world: World, queue: str | None
) -> None:
    asking = Asking(queue, retry=RetryPolicy(max_attempts=3, initial=10))
    async with world.engine(**asking.known) as engine:
        await asking.begin(world, engine)
        first = asking.tokens[0]
        assert await engine.fail(first, ValueError("not today"))
        await world.settle()
        stale_or_over = {await refused(engine.complete(first, "late")), await refused(engine.fail(first, "E"))}
        assert stale_or_over == {"stale" if queue else "over"}
        assert not await engine.heartbeat(first)
        await world.advance(9.9)
        assert len(asking.tokens) == 1
        await world.advance(0.1)
        await world.until(lambda: len(asking.tokens) == 2)
        second = asking.tokens[1]
        assert await refused(engine.complete(first, "late")) == "stale"
        await engine.complete(second, "yes")
        assert await engine.result("a", timeout=5) == "yes"
        kinds = await world.kinds(engine, "a")
        assert (kinds.count("attempt_failed"), kinds.count("activity_completed")) == (1, 1)


async def test_the_last_failure_by_token_fails_the_activity(world: World, queue: str | None) -> None:
    asking = Asking(queue)
    async with world.engine(**asking.known) as engine:
        handle = await asking.begin(world, engine)
        for attempt in (1, 2):
            assert await engine.fail(asking.tokens[-1], "Busy", f"attempt {attempt}")
            await world.until(lambda attempt=attempt: len(asking.tokens) == attempt + 1)
            await world.settle()
        assert not await engine.fail(asking.tokens[-1], "Busy", "for good")
        assert await handle.result(timeout=5) == ["Busy", "for good", 3]
        assert await world.counts(engine, "asking") == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("error", "retryable"), [("Hopeless", False), (NonRetryableError("no"), True), (ValueError("no"), False)]
)
async def test_a_failure_that_must_not_be_retried_ends_the_activity(
    world: World, queue: str | None, error: Any, retryable: bool
) -> None:
    asking = Asking(queue)
    async with world.engine(**asking.known) as engine:
        handle = await asking.begin(world, engine)
        assert not await engine.fail(asking.tokens[0], error, retryable=retryable)
        assert (await handle.result(timeout=5))[2] == 1


async def test_who_knows_whose_a_token_is_but_not_its_secret_finishes_nothing(world: World, queue: str | None) -> None:
    asking = Asking(queue)
    async with world.engine(**asking.known) as engine:
        await asking.begin(world, engine)
        forged, _ = new_token("a", 1, 1, 2**SECRET_BITS - 1)
        asks: list[Callable[[str], Awaitable[Any]]] = [
            lambda token: engine.complete(token, "yes"),
            lambda token: engine.fail(token, "Error"),
            engine.heartbeat,
        ]
        assert [await refused(ask(forged)) for ask in asks] == ["wrong"] * 3
        for numbers, reason in [((2, 1), "over"), ((1, 2), "stale")]:
            strange, _ = new_token("a", *numbers, 1)
            assert [await refused(ask(strange)) for ask in asks[:2]] == [reason] * 2
            assert not await engine.heartbeat(strange)
        assert await refused(engine.complete(new_token("nobody", 1, 1, 1)[0])) == "over"
        assert "activity_completed" not in await world.kinds(engine, "a")
        await engine.complete(asking.tokens[0], "yes")


async def test_a_token_that_was_asked_for_a_second_time_takes_the_place_of_the_first(
    world: World, queue: str | None
) -> None:
    tokens: list[str] = []

    @activity(name="twice", queue=queue)
    async def twice() -> str:
        tokens.extend([await activity_context().hand_over(), await activity_context().hand_over()])
        raise HandedOver

    @workflow
    async def asking(ctx: Context) -> str:
        return await ctx.call_activity(twice)

    async with world.engine(workflows=[asking], activities=[twice]) as engine:
        handle = await engine.start(asking)
        await world.until(lambda: len(tokens) == 2)
        await world.settle()
        assert await refused(engine.complete(tokens[0], "first")) == "wrong"
        await engine.complete(tokens[1], "second")
        assert await handle.result(timeout=5) == "second"


async def test_a_token_is_used_while_the_code_that_gave_it_still_runs(world: World, queue: str | None) -> None:
    asking = Asking(queue, stays=True)
    async with world.engine(**asking.known) as engine:
        handle = await asking.begin(world, engine)
        await engine.complete(asking.tokens[0], "early")
        assert await handle.result(timeout=5) == "early"
        asking.go.set()
        await world.settle()
        assert "activity_handed_over" not in await world.kinds(engine, "a")
        assert await world.counts(engine, "asking") == (0, 0, 0, 0)


async def test_a_failure_by_token_while_the_code_still_runs_is_followed_by_another_attempt(
    world: World, queue: str | None
) -> None:
    asking = Asking(queue, stays=True)
    async with world.engine(**asking.known) as engine:
        handle = await asking.begin(world, engine)
        assert await engine.fail(asking.tokens[0], "Busy")
        await world.until(lambda: len(asking.tokens) == 2)
        assert asking.stopped == ["its token was used"]
        assert await refused(engine.complete(asking.tokens[0], "first")) == "stale"
        asking.go.set()
        await world.settle()
        await engine.complete(asking.tokens[1], "second")
        assert await handle.result(timeout=5) == "second"
        kinds = await world.kinds(engine, "a")
        assert (kinds.count("attempt_failed"), kinds.count("activity_completed")) == (1, 1)


async def test_code_that_stays_is_told_to_stop_when_its_token_was_used(
    world: World, queue: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_LONGEST_WAIT_S", 0.02)
    asking = Asking(queue, stays=True)

    @workflow
    async def goes_on(ctx: Context) -> str:
        result = await ctx.call_activity(asking.activity)
        await ctx.wait_for_event("end", bool)
        return result

    async with world.engine(workflows=[goes_on], activities=[asking.activity]) as engine:
        handle = await engine.start(goes_on)
        await world.until(lambda: asking.tokens)
        await engine.complete(asking.tokens[0], "early")
        await world.until(lambda: asking.stopped)
        assert asking.stopped == ["the result is no longer wanted" if queue else "its token was used"]
        await handle.raise_event("end", True)
        assert await handle.result(timeout=5) == "early"


async def test_a_late_word_of_an_attempt_before_leaves_the_token_of_this_one_good(
    world: World, queue: str | None
) -> None:
    asking = Asking(queue)
    async with world.engine(**asking.known) as engine:
        await asking.begin(world, engine)
        await engine.fail(asking.tokens[0], "Busy")
        await world.until(lambda: len(asking.tokens) == 2)
        await world.settle()
        late = ev.AttemptFailed(1, 1, Failure("Busy", "again"), world.clock.now)
        await engine._backend.send([Outgoing("a", ev.dump_event(late))])
        engine._note_written()
        await world.settle()
        await engine.complete(asking.tokens[1], "yes")
        assert await engine.result("a", timeout=5) == "yes"
        assert (await world.kinds(engine, "a")).count("attempt_failed") == 1


@pytest.mark.parametrize("options", [{"timeout": 60}, {"schedule_to_close": 60}, {"heartbeat_timeout": 60}])
async def test_a_token_is_good_until_its_attempt_is_overdue(
    world: World, queue: str | None, options: dict[str, Any]
) -> None:
    asking = Asking(queue, retry=1, **options)
    async with world.engine(**asking.known) as engine:
        await asking.begin(world, engine)
    (token,) = asking.tokens
    world.clock.move(world.clock.now + 60_000_000)
    async with Client(world.backend(), clock=world.clock) as client:
        assert await refused(client.complete(token, "late")) == "expired"
        assert await refused(client.fail(token, "Late")) == "expired"
        assert not await client.heartbeat(token)
    async with world.engine(**asking.known) as engine:
        type_name, message, attempts = await engine.result("a", timeout=5)
        assert (type_name, attempts) == ("TimeoutError", 1)
        assert message == "attempt 1 of activity 'ask' was handed over, but nobody has finished it in time"
        assert await refused(engine.complete(token, "late")) == "over"


async def test_what_nobody_brings_is_attempted_again(world: World, queue: str | None) -> None:
    asking = Asking(queue, timeout=60)
    async with world.engine(**asking.known) as engine:
        await asking.begin(world, engine)
        await world.advance(59.9)
        assert len(asking.tokens) == 1
        await world.advance(0.1)
        assert len(asking.tokens) == 2
        assert await refused(engine.complete(asking.tokens[0], "late")) == "stale"
        await engine.complete(asking.tokens[1], "in time")
        assert await engine.result("a", timeout=5) == "in time"


async def test_heartbeats_keep_an_attempt_alive_and_tell_the_next_one(world: World, queue: str | None) -> None:
    asking = Asking(queue, heartbeat_timeout=60)
    async with world.engine(**asking.known) as engine:
        await asking.begin(world, engine)
        for n in range(3):
            await world.advance(50)
            assert await engine.heartbeat(asking.tokens[0], {"page": n})
        await world.advance(59.9)
        assert len(asking.tokens) == 1
        await world.advance(0.1)
        assert len(asking.tokens) == 2
        assert asking.known_details == [None, {"page": 2}]
        messages = [e.event.failure.message for e in await engine.history("a") if e.kind == "attempt_failed"]
        assert messages == ["attempt 1 of activity 'ask' was handed over, but gave no result, or no heartbeat, in time"]


async def test_a_heartbeat_that_comes_before_the_code_has_left_is_not_forgotten(
    world: World, queue: str | None
) -> None:
    asking = Asking(queue, stays=True, heartbeat_timeout=60)
    async with world.engine(**asking.known) as engine:
        await asking.begin(world, engine)
        assert await engine.heartbeat(asking.tokens[0], "of the token")
        asking.go.set()
        await world.settle()
        assert await engine.fail(asking.tokens[0], "Busy")
        await world.until(lambda: len(asking.known_details) == 2)
        assert asking.known_details == [None, "of the token"]


async def test_a_heartbeat_with_the_token_of_an_attempt_that_is_lost_before_its_code_has_left_is_not_forgotten(
    world: World, queue: str | None
) -> None:
    asking = Asking(queue, stays=True)
    engine = await world.open(**asking.known)
    await asking.begin(world, engine)
    assert await engine.heartbeat(asking.tokens[0], "of the token")
    await world.crash(engine)
    engine = await world.open(**asking.known)
    await world.until(lambda: len(asking.known_details) == 2)
    assert asking.known_details == [None, "of the token"]
    await world.crash(engine)


async def test_what_comes_while_the_words_of_a_lost_attempt_are_read_is_heard_after_what_came_before(
    world: World, queue: str | None
) -> None:
    asking = Asking(queue, stays=True)

    @workflow(name="hearing")
    async def hearing(ctx: Context) -> list[int]:
        ctx.call_activity(asking.activity)
        return [await ctx.wait_for_event("n", int), await ctx.wait_for_event("n", int)]

    asking.known["workflows"] = [hearing]
    engine = await world.open(**asking.known)
    handle = await engine.start(hearing.options(instance_id="a"))
    await world.until(lambda: len(asking.tokens) == 1)
    await world.crash(engine)
    backend = world.backend()
    asked, answer, task = asyncio.Event(), asyncio.Event(), backend.task

    async def slow_task(*words: Any) -> Any:
        asked.set()
        await answer.wait()
        return await task(*words)

    backend.task = slow_task
    async with Client(world.backend(), clock=world.clock) as client:
        await client.raise_event(handle.id, "n", 1)
        engine = await world.open(backend, **asking.known)
        if queue is None:  # else it is the server that knows what was said
            await asyncio.wait_for(asked.wait(), 30)
            assert handle.id not in world.worker(engine).instances.live, "or it would be told what comes at once"
        await client.raise_event(handle.id, "n", 2)
        for _ in range(20):
            await asyncio.sleep(0.005)
        answer.set()
        assert await client.result(handle.id, timeout=30) == [1, 2]
    await world.crash(engine)


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_the_code_said_itself_before_it_left_is_known_to_the_next_attempt(
    world: World, queue: str | None, restarts: bool
) -> None:
    tokens: list[str] = []
    known: list[Any] = []

    @activity(name="says", queue=queue, retry=RetryPolicy(max_attempts=3, initial=0))
    async def says() -> str:
        known.append(activity_context().heartbeat_details)
        tokens.append(await activity_context().hand_over())
        activity_context().heartbeat(f"attempt {activity_context().attempt}")
        raise HandedOver

    @workflow
    async def asking(ctx: Context) -> str:
        return await ctx.call_activity(says)

    engine = await world.open(workflows=[asking], activities=[says])
    await engine.start(asking.options(instance_id="a"))
    for n in (1, 2):
        await world.until(lambda n=n: len(tokens) == n)
        await world.settle()
        if restarts:
            await world.crash(engine)
            engine = await world.open(workflows=[asking], activities=[says])
        assert await engine.fail(tokens[-1], "Busy")
    await world.until(lambda: len(tokens) == 3)
    await world.settle()
    assert known == [None, "attempt 1", "attempt 2"]
    await engine.complete(tokens[-1], "done")
    assert await engine.result("a", timeout=5) == "done"
    await world.crash(engine)


async def test_the_token_of_what_nobody_wants_any_more_finishes_nothing(world: World, queue: str | None) -> None:
    asking = Asking(queue)
    async with world.engine(**asking.known) as engine:
        handle = await asking.begin(world, engine)
        await handle.terminate()
        await world.settle()
        assert await refused(engine.complete(asking.tokens[0], "late")) == "over"
        assert not await engine.heartbeat(asking.tokens[0])
        assert await engine._backend.task("a", 1) is None
        assert await engine._backend.inbox(0, 10) == []


async def test_a_result_that_cannot_be_stored_is_refused_and_the_token_stays_good(
    world: World, queue: str | None
) -> None:
    asking = Asking(queue)
    async with world.engine(**asking.known, payload_limit_bytes=1_000) as engine:
        await asking.begin(world, engine)
        (token,) = asking.tokens
        for ask in (
            engine.complete(token, object()),
            engine.complete(token, "x" * 2_000),
            engine.heartbeat(token, "x" * 2_000),
            engine.heartbeat(token, float("nan")),
        ):
            with pytest.raises(PayloadError):
                await ask
        await engine.complete(token, "x" * 500)
        assert await engine.result("a", timeout=5) == "x" * 500


@pytest.mark.parametrize(("fault", "again"), [("refuse", None), ("lose", None), ("hide", "over")])
async def test_who_hears_nothing_of_a_completion_asks_again_and_knows(
    world: World, faulty_class: Any, queue: str | None, fault: str, again: str | None
) -> None:
    asking = Asking(queue)
    async with world.engine(**asking.known) as engine:
        handle = await asking.begin(world, engine)
        faulty = faulty_class(world.backend())
        faulty.plan["finish_tasks"] = [fault]
        async with Client(faulty, clock=world.clock) as client:
            with pytest.raises(StorageError):
                await client.complete(asking.tokens[0], "yes")
            if again is None:
                await client.complete(asking.tokens[0], "yes")
            else:
                assert await refused(client.complete(asking.tokens[0], "yes")) == again
        assert await handle.result(timeout=5) == "yes"


@pytest.mark.parametrize("fault", ["hang", "hang after"])
async def test_a_crash_while_an_attempt_is_handed_over_leaves_one_token_that_is_good(
    world: World, faulty_class: Any, queue: str | None, fault: str
) -> None:
    asking = Asking(queue)
    faulty = faulty_class(world.backend())
    method = "offer_claimed" if queue else "offer_task"
    faulty.plan[method] = [fault]
    engine = await world.open(faulty, **asking.known)
    await engine.start(asking.workflow.options(instance_id="a"))
    await world.until(lambda: faulty.hanging == [method])
    await world.crash(engine)
    async with world.engine(**asking.known) as engine:
        await world.until(lambda: asking.tokens)
        await world.settle()
        (token,) = asking.tokens
        await engine.complete(token, "yes")
        assert await engine.result("a", timeout=5) == "yes"
        kinds = await world.kinds(engine, "a")
        assert (kinds.count("attempt_failed"), kinds.count("activity_handed_over")) == (1, 1)


async def test_many_who_hold_one_token_finish_it_once(world: World, queue: str | None) -> None:
    asking = Asking(queue)
    async with world.engine(**asking.known) as engine, Client(world.backend(), clock=world.clock) as client:
        await asking.begin(world, engine)
        asked = [each.complete(asking.tokens[0], str(n)) for n, each in enumerate([engine, client] * 10)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        (winner,) = [str(n) for n, outcome in enumerate(outcomes) if outcome is None]
        assert {each.reason for each in outcomes if each is not None} == {"over"}
        assert await engine.result("a", timeout=5) == winner
        assert (await world.kinds(engine, "a")).count("activity_completed") == 1


async def test_who_raises_handed_over_without_a_token_has_failed(world: World, queue: str | None) -> None:
    @activity(name="forgets", queue=queue, retry=1)
    def forgets() -> None:
        raise HandedOver

    @workflow
    async def asking(ctx: Context) -> str:
        try:
            await ctx.call_activity(forgets)
        except ActivityFailed as error:
            return error.message
        return "no failure"

    async with world.engine(workflows=[asking], activities=[forgets]) as engine:
        handle = await engine.start(asking)
        expected = "an activity raised HandedOver without a token; call hand_over() first"
        assert await handle.result(timeout=5) == expected
