"""Attempts of activities: when they begin, how often, what ends them, and that each leaves its place."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    ActivityFailed,
    Context,
    Flow,
    NonRetryableError,
    RetryPolicy,
    Status,
    WorkflowFailed,
    activity,
    activity_context,
    workflow,
)
from durableflow.errors import ActivityCancelled, PayloadTooLarge
from durableflow.model import events as ev
from durableflow.observe import facts

if TYPE_CHECKING:
    World = Any  # of conftest.py


def caller(called: Any, *args: Any, catch: bool = False) -> Any:
    """A workflow that calls one activity; its result, or what the error says."""

    @workflow(name=f"caller of {called.name} {args}")
    def calls(ctx: Context) -> Flow[Any]:
        try:
            return (yield from ctx.call_activity(called, *args))
        except ActivityFailed as error:
            if not catch:
                raise
            return [error.type_name, error.message, error.attempts]

    return calls


def kinds(history: list[Any]) -> list[str]:
    return [each.kind for each in history]


# -- retries ---------------------------------------------------------------------------------------------------


async def test_attempts_follow_each_other_with_growing_waits(world: World) -> None:
    at: list[float] = []

    @activity(retry=RetryPolicy(max_attempts=5, initial=2, backoff=3, max_delay=10))
    async def fails() -> None:
        at.append(world.clock.since_start_s)
        raise ValueError(f"attempt {activity_context().attempt}")

    async with world.engine() as engine:
        handle = await engine.start(caller(fails, catch=True))
        await world.advance(60)
        assert at == [0, 2, 8, 18, 28]
        assert await handle.result() == ["ValueError", "attempt 5", 5]
        ended = world.told(facts.AttemptEnded)
        assert [(fact.attempt, fact.final) for fact in ended] == [(n, n == 5) for n in range(1, 6)]


async def test_a_retry_keeps_its_moment_over_a_crash(world: World) -> None:
    at: list[tuple[float, int]] = []

    @activity(retry=RetryPolicy(max_attempts=3, initial=10))
    async def fails_once() -> str:
        at.append((world.clock.since_start_s, activity_context().attempt))
        if len(at) == 1:
            raise ValueError("first")
        return "done"

    called = caller(fails_once)
    engine = await world.open()
    handle = await engine.start(called)
    await world.advance(4)
    await world.crash(engine)
    async with world.engine(workflows=[called], activities=[fails_once]) as engine:
        await world.advance(5.9)
        assert at == [(0, 1)]
        await world.advance(0.1)
        assert at == [(0, 1), (10, 2)]
        assert await engine.result(handle.id) == "done"


class Fatal(Exception):
    pass


class MoreFatal(Fatal):
    pass


class Spoilt(NonRetryableError):
    pass


@pytest.mark.parametrize(
    ("error", "no_retry_on", "attempts"),
    [
        (MoreFatal, [Fatal], 1),
        (Fatal, [Fatal], 1),
        (MoreFatal, ["Fatal"], 1),
        (Fatal, [MoreFatal], 3),
        (Spoilt, [], 1),
        (NonRetryableError, [], 1),
        (KeyError, [LookupError], 1),
        (ValueError, [LookupError], 3),
    ],
)
async def test_what_must_not_be_retried_is_not_nor_what_derives_from_it(
    memory_world: World, error: type[Exception], no_retry_on: list[Any], attempts: int
) -> None:
    made: list[int] = []

    @activity(retry=RetryPolicy(max_attempts=3, initial=0, no_retry_on=no_retry_on))
    async def fails() -> None:
        made.append(activity_context().attempt)
        raise error("no")

    async with memory_world.engine() as engine:
        handle = await engine.start(caller(fails, catch=True))
        await memory_world.settle()
        assert made == list(range(1, attempts + 1))
        assert (await handle.result())[2] == attempts


async def test_the_key_is_the_same_for_all_attempts_and_different_for_all_calls(world: World) -> None:
    keys: list[tuple[str, int]] = []

    @activity(retry=RetryPolicy(max_attempts=2, initial=0))
    async def note() -> None:
        keys.append((activity_context().idempotency_key, activity_context().attempt))
        if activity_context().attempt == 1:
            raise ValueError

    @workflow
    def two(ctx: Context) -> Flow[None]:
        yield from ctx.call_activity(note)
        yield from ctx.call_activity(note)

    async with world.engine() as engine:
        await (await engine.start(two.options(instance_id="i"))).result()
    assert keys == [("i/1", 1), ("i/1", 2), ("i/2", 1), ("i/2", 2)]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, BaseException])
async def test_whatever_a_thread_raises_fails_the_attempt_and_not_the_engine(
    world: World, raised: type[BaseException]
) -> None:
    @activity(retry=1)
    def raises() -> None:
        raise raised

    async with world.engine() as engine:
        handle = await engine.start(caller(raises, catch=True))
        assert (await handle.result())[0].endswith(raised.__name__)


async def test_an_attempt_that_raises_what_ends_generators_has_failed(world: World) -> None:
    @activity(retry=1)
    async def raises() -> None:
        raise GeneratorExit

    async with world.engine() as engine:
        handle = await engine.start(caller(raises, catch=True))
        assert (await handle.result(timeout=5))[0] == "GeneratorExit"


async def test_an_unencodable_result_fails_the_attempt(world: World) -> None:
    @activity(retry=1)
    async def odd() -> Any:
        return object()

    @activity(retry=1)
    def large() -> str:
        return "x" * 2_000

    async with world.engine(payload_limit_bytes=1_000) as engine:
        kind, message, _ = await (await engine.start(caller(odd, catch=True))).result()
        assert kind == "durableflow.errors.PayloadError"
        assert "odd" in message
        kind, message, _ = await (await engine.start(caller(large, catch=True))).result()
        assert kind == "durableflow.errors.PayloadTooLarge"


async def test_arguments_that_do_not_fit_fail_the_attempt(world: World) -> None:
    @activity(retry=1)
    async def wants_a_number(number: int) -> int:
        return number

    async with world.engine() as engine:
        handle = await engine.start(caller(wants_a_number, "seven", catch=True))
        kind, message, _ = await handle.result()
        assert kind == "durableflow.errors.PayloadError"
        assert "int" in message


# -- time-outs -------------------------------------------------------------------------------------------------


def hanging(is_async: bool, began: list[int], released: threading.Event, **options: Any) -> Any:
    """An activity whose first attempts hang until released, and then say a late word."""
    if is_async:

        @activity(name="hangs", **options)
        async def hangs() -> str:
            attempt = activity_context().attempt
            began.append(attempt)
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                return f"late word of {attempt}"
            raise AssertionError
    else:

        @activity(name="hangs", **options)
        def hangs() -> str:
            attempt = activity_context().attempt
            began.append(attempt)
            released.wait(30)
            return f"late word of {attempt}"

    return hangs


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_attempt_over_its_time_fails_and_its_late_word_changes_nothing(world: World, is_async: bool) -> None:
    """I24."""
    began: list[int] = []
    released = threading.Event()
    hangs = hanging(is_async, began, released, timeout=5, retry=RetryPolicy(max_attempts=2, initial=1))
    async with world.engine() as engine:
        handle = await engine.start(caller(hangs, catch=True))
        await world.until(lambda: began == [1])
        await world.advance(4.999)
        assert world.told(facts.AttemptEnded) == []
        await world.advance(0.001)
        assert [fact.type_name for fact in world.told(facts.AttemptEnded)] == ["TimeoutError"]
        await world.advance(1)
        await world.until(lambda: began == [1, 2])
        await world.advance(5)
        kind, message, attempts = await handle.result()
        assert (kind, attempts) == ("TimeoutError", 2)
        assert "attempt 2 of activity 'hangs' did not end within 5 s" in message
        before = await handle.history()
        released.set()
        await world.until(lambda: engine.statistics().running_attempts == 0)
        assert await handle.history() == before


@pytest.mark.parametrize("is_async", [True, False])
async def test_schedule_to_close_ends_a_running_attempt_for_good(world: World, is_async: bool) -> None:
    began: list[int] = []
    released = threading.Event()
    hangs = hanging(
        is_async, began, released, schedule_to_close=7, timeout=4, retry=RetryPolicy(max_attempts=9, initial=1)
    )
    async with world.engine() as engine:
        handle = await engine.start(caller(hangs, catch=True))
        await world.until(lambda: began == [1])
        await world.advance(5)
        await world.until(lambda: began == [1, 2])
        await world.advance(1.999)
        assert (await handle.status()).status is Status.RUNNING
        await world.advance(0.001)
        kind, _, attempts = await handle.result()
        assert (kind, attempts) == ("TimeoutError", 2)
        released.set()


async def test_no_attempt_is_waited_for_that_would_begin_too_late(world: World) -> None:
    @activity(schedule_to_close=5, retry=RetryPolicy(max_attempts=9, initial=5))
    async def fails() -> None:
        raise ValueError("once")

    async with world.engine() as engine:
        handle = await engine.start(caller(fails, catch=True))
        assert await handle.result() == ["ValueError", "once", 1]


async def test_what_finds_no_place_in_time_is_given_up_and_leaves_the_queue(world: World) -> None:
    began: list[str] = []
    go_on = asyncio.Event()

    @activity(max_concurrency=1)
    async def narrow(name: str) -> str:
        began.append(name)
        await go_on.wait()
        return name

    quick = narrow.options(schedule_to_start=3)

    @workflow
    def three(ctx: Context) -> Flow[Any]:
        first = ctx.call_activity(narrow, "first")
        second = ctx.call_activity(quick, "second")
        third = ctx.call_activity(narrow, "third")
        try:
            yield from second
        except ActivityFailed as error:
            refused = [error.type_name, error.message, error.attempts]
        else:
            refused = []
        return [refused, (yield from first), (yield from third)]

    async with world.engine() as engine:
        handle = await engine.start(three)
        await world.advance(3)
        assert began == ["first"]
        go_on.set()
        refused, *others = await handle.result()
        assert refused == ["TimeoutError", "activity 'narrow' found no place within 3 s", 0]
        assert others == ["first", "third"]
        assert began == ["first", "third"]


async def test_schedule_to_start_counts_anew_for_each_attempt(world: World) -> None:
    """A long first attempt does not make the second come too late."""

    @activity(schedule_to_start=3, retry=RetryPolicy(max_attempts=2, initial=1), timeout=20)
    async def slow_then_quick() -> int:
        if activity_context().attempt == 1:
            await asyncio.get_running_loop().create_future()
        return activity_context().attempt

    async with world.engine() as engine:
        handle = await engine.start(caller(slow_then_quick))
        await world.advance(21)
        assert await handle.result() == 2


async def test_the_limits_of_the_queue_hold_after_a_crash(world: World) -> None:
    @activity(max_concurrency=1)
    async def narrow(name: str) -> None:
        await asyncio.get_running_loop().create_future()

    @workflow
    def two(ctx: Context) -> Flow[Any]:
        ctx.call_activity(narrow, "first")
        try:
            yield from ctx.call_activity(narrow.options(schedule_to_start=30, schedule_to_close=10), "second")
        except ActivityFailed as error:
            return error.message

    engine = await world.open()
    handle = await engine.start(two)
    await world.advance(4)
    await world.crash(engine)
    async with world.engine(workflows=[two], activities=[narrow]) as engine:
        await world.advance(5.999)
        assert (await engine.status(handle.id)).status is Status.RUNNING
        await world.advance(0.001)
        assert "within 10 s" in await engine.result(handle.id)


# -- heartbeats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_attempt_that_gives_no_heartbeat_fails(world: World, is_async: bool) -> None:
    beats = threading.Semaphore(0)
    beaten = threading.Semaphore(0)
    stopped: list[str] = []

    def beat_once(n: int) -> bool:
        try:
            activity_context().heartbeat(n)
        except ActivityCancelled as error:
            stopped.append(str(error))
            return False
        return True

    if is_async:

        @activity(heartbeat_timeout=5, retry=1)
        async def beats_on_demand() -> None:
            for n in range(100):
                while not beats.acquire(blocking=False):  # noqa: ASYNC110  # the same semaphore serves the thread
                    await asyncio.sleep(0.001)
                beat_once(n)
                beaten.release()
    else:

        @activity(heartbeat_timeout=5, retry=1)
        def beats_on_demand() -> None:
            for n in range(100):
                beats.acquire()
                if not beat_once(n):
                    return
                beaten.release()

    async with world.engine() as engine:
        handle = await engine.start(caller(beats_on_demand, catch=True))
        await world.settle()
        for _ in range(4):
            await world.advance(4.9)
            beats.release()
            await world.until(lambda: beaten.acquire(blocking=False))
        await world.advance(4.9)
        assert (await handle.status()).status is Status.RUNNING
        await world.advance(0.2)
        kind, message, _ = await handle.result()
        assert (kind, "gave no heartbeat for 5 s" in message) == ("TimeoutError", True)
        if not is_async:
            beats.release()
            await world.until(lambda: stopped)
            assert "no longer wanted" in stopped[0]


async def test_the_next_attempt_reads_the_latest_details(world: World) -> None:
    seen: list[Any] = []

    @activity(retry=RetryPolicy(max_attempts=3, initial=0))
    async def resumes() -> None:
        seen.append(activity_context().heartbeat_details)
        activity_context().heartbeat({"page": activity_context().attempt})
        activity_context().heartbeat({"page": activity_context().attempt * 10})
        if activity_context().attempt < 3:
            raise ValueError

    async with world.engine() as engine:
        await (await engine.start(caller(resumes))).result()
    assert seen == [None, {"page": 10}, {"page": 20}]


async def test_details_survive_a_crash(world: World) -> None:
    seen: list[Any] = []

    @activity
    async def resumes() -> str:
        seen.append((activity_context().attempt, activity_context().heartbeat_details))
        if activity_context().attempt == 1:
            activity_context().heartbeat("half way")
            await asyncio.get_running_loop().create_future()
        return "done"

    called = caller(resumes)
    engine = await world.open()
    handle = await engine.start(called)
    await world.settle()
    await world.crash(engine)
    async with world.engine(workflows=[called], activities=[resumes]) as engine:
        assert await engine.result(handle.id) == "done"
    assert seen == [(1, None), (2, "half way")]


async def test_details_over_the_limit_are_refused_where_they_are_given(world: World) -> None:
    """I46."""

    @activity(retry=1)
    async def boasts() -> str:
        with pytest.raises(PayloadTooLarge):
            activity_context().heartbeat("x" * 2_000)
        return "refused"

    async with world.engine(payload_limit_bytes=1_000) as engine:
        assert await (await engine.start(caller(boasts))).result() == "refused"


# -- places ----------------------------------------------------------------------------------------------------


def crowd(entered: list[int], most: list[int], go_on: asyncio.Event, **options: Any) -> Any:
    inside = 0

    @activity(name="crowds", **options)
    async def crowds(number: int) -> int:
        nonlocal inside
        inside += 1
        entered.append(number)
        most.append(inside)
        await go_on.wait()
        inside -= 1
        return number

    return crowds


@workflow
def fan(ctx: Context, name: str, count: int) -> Flow[list[int]]:
    return (yield from ctx.when_all([ctx.call_activity_by_name(name, n, result_type=int) for n in range(count)]))


@pytest.mark.parametrize("settings", [{"activity_concurrency": 3}, {}])
async def test_no_more_run_at_once_than_there_are_places_and_all_run_in_the_order_of_asking(
    world: World, settings: dict[str, Any]
) -> None:
    entered: list[int] = []
    most: list[int] = []
    go_on = asyncio.Event()
    crowds = crowd(entered, most, go_on, max_concurrency=None if settings else 3)
    async with world.engine(activities=[crowds], **settings) as engine:
        handle = await engine.start(fan, "crowds", 20)
        await world.settle()
        assert entered == [0, 1, 2]
        history = kinds(await handle.history())
        assert history.count("activity_queued") == 17
        go_on.set()
        assert await handle.result() == list(range(20))
        assert kinds(await handle.history()).count("activity_started") == 17
    assert entered == list(range(20))
    assert max(most) == 3


async def test_threads_have_places_of_their_own(world: World) -> None:
    lock = threading.Lock()
    inside: list[str] = []
    most: list[int] = []
    go_on = threading.Event()

    @activity
    def blocks(number: int) -> int:
        with lock:
            inside.append(threading.current_thread().name)
            most.append(len(inside))
        go_on.wait(10)
        with lock:
            inside.pop()
        return number

    @activity
    async def quick() -> str:
        return "quick"

    async with world.engine(activities=[blocks], activity_threads=2) as engine:
        handle = await engine.start(fan, "blocks", 6)
        await world.until(lambda: len(inside) == 2)
        assert await (await engine.start(caller(quick))).result() == "quick"
        go_on.set()
        assert await handle.result() == list(range(6))
    assert max(most) == 2


async def test_a_full_activity_does_not_hold_up_others_behind_it_in_the_queue(world: World) -> None:
    entered: list[int] = []
    go_on = asyncio.Event()
    narrow = crowd(entered, [], go_on, max_concurrency=1)

    @activity
    async def free() -> str:
        return "free"

    @activity
    async def holds(gate: int) -> None:
        await gates[gate].wait()

    gates = [asyncio.Event(), asyncio.Event()]

    async with world.engine(activities=[narrow], activity_concurrency=2) as engine:
        first = await engine.start(fan, "crowds", 5)
        holder = await engine.start(caller(holds, 0))
        await world.settle()
        last = await engine.start(caller(free))
        await world.settle()
        assert (await last.status()).status is Status.RUNNING
        gates[0].set()
        assert await last.result() == "free"
        await holder.result()
        go_on.set()
        assert await first.result() == list(range(5))


async def test_a_place_is_free_again_whatever_became_of_the_one_who_asked(world: World) -> None:
    """Cancelled by its workflow or terminated: while it ran, while it waited, and when its turn came."""
    running = asyncio.Event()

    @activity(max_concurrency=1)
    async def only_one(hold: bool) -> str:
        running.set()
        if hold:
            await asyncio.get_running_loop().create_future()
        return "mine"

    @workflow
    def holder(ctx: Context) -> Flow[Any]:
        task = ctx.call_activity(only_one, True)
        yield from ctx.wait_for_event("stop")
        task.cancel()
        yield from ctx.wait_for_event("end")

    @workflow
    def waiter(ctx: Context) -> Flow[Any]:
        task = ctx.call_activity(only_one, False)
        yield from ctx.wait_for_event("stop")
        task.cancel()

    async with world.engine() as engine:
        last = caller(only_one, False)
        for how in range(4):
            running.clear()
            first = await engine.start(holder)
            await running.wait()
            second = await engine.start(waiter)
            await world.settle()
            if how == 0:  # the running one is cancelled, the waiting one at the very same time
                await asyncio.gather(first.raise_event("stop"), second.raise_event("stop"))
            elif how == 1:  # the waiting one first
                await second.terminate()
                await first.terminate()
            elif how == 2:  # the place comes free in the turn in which the one who waits for it is terminated
                await asyncio.gather(first.terminate(), second.terminate())
            else:
                await first.cancel()
                await second.cancel()
            await world.settle()
            third = await engine.start(last)
            async with asyncio.timeout(5):
                assert await third.result() == "mine"


async def test_a_place_granted_in_the_same_turn_as_the_cancellation_is_given_back(memory_world: World) -> None:
    """The request is granted, and the turn that would take it cancels the task first: `ActivityStarted` is refused."""
    gate = asyncio.Event()

    @activity(max_concurrency=1)
    async def only_one(hold: bool) -> None:
        if hold:
            await gate.wait()

    @workflow
    def waiter(ctx: Context) -> Flow[Any]:
        task = ctx.call_activity(only_one, False)
        yield from ctx.wait_for_event("stop")
        task.cancel()
        yield from ctx.wait_for_event("end")

    async with memory_world.engine() as engine:
        first = await engine.start(caller(only_one, True))
        second = await engine.start(waiter.options(instance_id="waiter"))
        await memory_world.settle()
        worker = memory_world.worker(engine)
        live = worker.instances.live["waiter"]
        live.tell(ev.EventReceived("stop", b"null"))  # told, not yet taken
        gate.set()
        await first.result()
        await memory_world.settle()
        third = await engine.start(caller(only_one, False))
        async with asyncio.timeout(5):
            await third.result()
        await second.terminate()


# -- losses ----------------------------------------------------------------------------------------------------


async def test_an_attempt_that_was_lost_with_its_worker_counts(world: World) -> None:
    """I25: an activity that kills its process ends as a failure."""
    attempts: list[int] = []

    @activity(retry=3)
    async def kills() -> None:
        attempts.append(activity_context().attempt)
        await asyncio.get_running_loop().create_future()

    called = caller(kills, catch=True)
    engine = await world.open()
    handle = await engine.start(called)
    await world.settle()
    for expected in ([1], [1, 2], [1, 2, 3]):
        assert attempts == expected
        await world.crash(engine)
        engine = await world.open(workflows=[called], activities=[kills])
        await world.settle()
    assert await engine.result(handle.id) == [
        "WorkerLost",
        "the worker's process ended while this attempt was running",
        3,
    ]
    assert attempts == [1, 2, 3]
    await world.crash(engine)


async def test_suspects_run_one_at_a_time_so_that_neighbours_do_not_pay_for_a_killer(world: World) -> None:
    attempts: dict[str, list[int]] = {}
    alone: list[int] = []
    inside: set[str] = set()

    @activity(retry=3)
    async def work(name: str) -> str:
        mine = attempts.setdefault(name, [])
        mine.append(activity_context().attempt)
        inside.add(name)
        alone.append(len(inside))
        try:
            if name == "killer" or len(mine) < 3:
                await asyncio.get_running_loop().create_future()
        finally:
            inside.discard(name)
        return name

    @workflow
    def by_name(ctx: Context, name: str) -> Flow[Any]:
        try:
            return (yield from ctx.call_activity(work, name))
        except ActivityFailed as error:
            return error.type_name

    engine = await world.open()
    names = ["a", "killer", "b", "c"]
    for name in names:
        await engine.start(by_name.options(instance_id=name), name)
    await world.settle()
    for crash in range(8):
        alone.clear()
        await world.crash(engine)
        engine = await world.open(workflows=[by_name], activities=[work])
        await world.settle()
        if crash >= 1:
            assert max(alone, default=0) <= 1  # two losses in a row: the lane for one
    results = {name: await engine.result(name) for name in names}
    assert results == {"a": "a", "b": "b", "c": "c", "killer": "WorkerLost"}
    assert attempts["killer"] == [1, 2, 3]
    await world.crash(engine)


async def test_a_loss_is_forgotten_after_an_attempt_that_ended_by_itself(world: World) -> None:
    attempts: list[int] = []

    @activity(retry=RetryPolicy(max_attempts=5, initial=0))
    async def unlucky() -> str:
        attempts.append(activity_context().attempt)
        if len(attempts) == 2:
            raise ValueError("an ordinary failure")
        if len(attempts) in (1, 3):
            await asyncio.get_running_loop().create_future()
        return "done"

    called = caller(unlucky)
    engine = await world.open()
    handle = await engine.start(called)
    await world.settle()
    for _ in range(2):
        await world.crash(engine)
        engine = await world.open(workflows=[called], activities=[unlucky])
        await world.settle()
    assert await engine.result(handle.id) == "done"
    assert attempts == [1, 2, 3, 4]
    await world.crash(engine)


# -- closing ---------------------------------------------------------------------------------------------------


async def test_closing_waits_for_running_attempts_and_records_their_results(world: World) -> None:
    entered = asyncio.Event()

    @activity
    async def takes_a_moment() -> str:
        entered.set()
        await asyncio.sleep(0.02)
        return "in time"

    called = caller(takes_a_moment)
    async with world.engine(grace_s=5) as engine:
        handle = await engine.start(called)
        await entered.wait()
    async with world.engine() as engine:
        assert await engine.result(handle.id) == "in time"
        assert kinds(await engine.history(handle.id)) == [
            "instance_started", "activity_scheduled", "activity_completed", "instance_completed",
        ]  # fmt: skip


@pytest.mark.parametrize("is_async", [True, False])
async def test_what_is_interrupted_by_closing_is_made_again_and_does_not_count(world: World, is_async: bool) -> None:
    attempts: list[int] = []
    cancelled: list[str] = []

    if is_async:

        @activity(retry=1)
        async def long() -> str:
            attempts.append(activity_context().attempt)
            if len(attempts) > 2:
                return "done"
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cancelled.append(activity_context().cancel_reason)
            raise AssertionError
    else:

        @activity(retry=1)
        def long() -> str:
            attempts.append(activity_context().attempt)
            if len(attempts) > 2:
                return "done"
            assert activity_context().wait_cancelled(20)
            cancelled.append(activity_context().cancel_reason)
            return "too late"

    called = caller(long)
    for expected in range(1, 3):
        async with world.engine(workflows=[called], activities=[long], grace_s=0) as engine:
            handle = await engine.start(called.options(instance_id="i"))
            await world.until(lambda expected=expected: len(attempts) == expected)
            await world.settle()
        await world.until(lambda expected=expected: len(cancelled) == expected)
    async with world.engine(workflows=[called], activities=[long]) as engine:
        assert await engine.result(handle.id) == "done"
    assert attempts == [1, 2, 3]
    assert cancelled == ["the engine is closing"] * 2


async def test_closing_interrupts_attempts_in_the_order_in_which_they_began(world: World) -> None:
    began: list[int] = []
    interrupted: list[int] = []

    @activity
    async def long(number: int) -> None:
        began.append(number)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            interrupted.append(number)

    @workflow
    def calls_many(ctx: Context) -> Flow[None]:
        yield from ctx.when_all([ctx.call_activity(long, number) for number in range(50)])

    async with world.engine(grace_s=0) as engine:
        await engine.start(calls_many)
        await world.until(lambda: len(began) == 50)
    await world.until(lambda: len(interrupted) == 50)
    assert interrupted == began


async def test_no_attempt_begins_while_the_engine_closes(world: World) -> None:
    began: list[int] = []
    entered = asyncio.Event()

    @activity
    async def one(number: int) -> int:
        began.append(number)
        entered.set()
        await asyncio.sleep(0.01)
        return number

    @workflow
    def sequence(ctx: Context) -> Flow[list[int]]:
        done = []
        for n in range(5):
            done.append((yield from ctx.call_activity(one, n)))  # noqa: PERF401  # a comprehension cannot yield
        return done

    async with world.engine(grace_s=5) as engine:
        handle = await engine.start(sequence)
        await entered.wait()
    assert began == [0]
    async with world.engine(workflows=[sequence], activities=[one]) as engine:
        assert await engine.result(handle.id) == [0, 1, 2, 3, 4]
    assert began == [0, 1, 2, 3, 4]


ENDLESS = """
import asyncio, sys, threading
from durableflow import Context, Engine, Settings, activity, workflow

began = threading.Event()

@activity
def never_ends() -> None:
    began.set()
    threading.Event().wait()

@workflow
def waits(ctx: Context):
    yield from ctx.call_activity(never_ends)

async def main():
    async with Engine(sys.argv[1], settings=Settings(grace_s=0.05)) as engine:
        await engine.start(waits)
        await asyncio.to_thread(began.wait)

asyncio.run(main())
print("over")
"""


@pytest.mark.slow
def test_a_thread_that_never_ends_does_not_hang_the_interpreters_exit(tmp_path: Any) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS, f"sqlite:///{tmp_path / 'store.db'}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "over", "")
    assert time.monotonic() - began < 10


async def test_the_interrupted_do_not_tell_the_next_engine_anything(world: World) -> None:
    """A thread that outlives its engine says its late word to nobody."""
    released = threading.Event()
    ended = threading.Event()

    @activity(retry=1)
    def outlives() -> str:
        try:
            if activity_context().attempt == 1:
                released.wait(10)
                return "late"
            return "in time"
        finally:
            ended.set()

    called = caller(outlives)
    async with world.engine(grace_s=0) as engine:
        handle = await engine.start(called)
        await world.settle()
    async with world.engine(workflows=[called], activities=[outlives]) as engine:
        assert await engine.result(handle.id) == "in time"
        released.set()
        await world.until(ended.is_set)
        assert await engine.result(handle.id) == "in time"


async def test_a_failed_workflow_cancels_what_still_runs(world: World) -> None:
    stopped: list[str] = []

    @activity
    async def endless() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            stopped.append(activity_context().cancel_reason)

    @workflow
    def gives_up(ctx: Context) -> Flow[None]:
        ctx.call_activity(endless)
        yield from ctx.sleep(1)
        raise ValueError("enough")

    async with world.engine() as engine:
        handle = await engine.start(gives_up)
        await world.advance(1)
        with pytest.raises(WorkflowFailed, match="enough"):
            await handle.result()
        await world.settle()
        assert stopped == ["the instance is FAILED"]


async def test_jitter_only_shortens_a_wait(memory_world: World) -> None:
    at: list[float] = []

    @activity(retry=RetryPolicy(max_attempts=30, initial=10, backoff=1, jitter=0.5))
    async def fails() -> None:
        at.append(memory_world.clock.since_start_s)
        raise ValueError

    async with memory_world.engine() as engine:
        await engine.start(caller(fails, catch=True))
        await memory_world.advance(timedelta(minutes=10).total_seconds())
    waits = [later - earlier for earlier, later in pairwise(at)]
    assert len(at) == 30
    assert all(5 <= wait <= 10 for wait in waits)
    assert len(set(waits)) > 20
