"""Serving in bad weather: transactions of servers that fail, do not answer, or are the last that a process makes."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import ActivityFailed, Context, RetryPolicy, Status, activity, activity_context, workflow
from durableflow.observe import facts
from durableflow.runtime import serving

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of conftest.py

COUNT = 5


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server learns when it gives a sign of life it learns soon, and it asks again soon."""
    monkeypatch.setattr(serving, "_LONGEST_WAIT_S", 0.02)
    monkeypatch.setattr(serving, "_LOOK_AGAIN_S", 0.01)


class Work:
    """An activity of a queue, a workflow that calls it some times, and a list of the attempts that were made."""

    def __init__(self, *, fails: int = 0, count: int = COUNT) -> None:
        self.made: list[tuple[int, int]] = []

        @activity(name="works", queue="mail", retry=RetryPolicy(max_attempts=5, initial=0))
        async def works(n: int) -> int:
            attempt = activity_context().attempt
            self.made.append((n, attempt))
            await asyncio.sleep(0)
            if attempt <= fails:
                raise ValueError("now and then")
            return attempt

        @workflow(name="calls")
        async def calls(ctx: Context) -> list[int]:
            return list(await ctx.when_all([ctx.call_activity(works, n) for n in range(count)]))

        self.workflow = calls
        self.known = {"workflows": [calls], "activities": [works]}

    def of(self, n: int) -> list[int]:
        """The attempts that were made of the nth call."""
        return [attempt for each, attempt in self.made if each == n]


@workflow
async def held(ctx: Context) -> str:
    return await ctx.wait_for_event("go", str)


# -- what does not answer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refuse", "lose", "hide"])
@pytest.mark.parametrize("method", ["enlist_server", "claim", "finish_tasks", "renew_server"])
async def test_each_attempt_is_made_once_whatever_becomes_of_a_transaction(
    world: World, faulty: FaultyBackend, method: str, fault: str
) -> None:
    work = Work()
    faulty.plan[method] = [fault, None, fault]
    async with world.engine(faulty, **work.known) as engine:
        for _ in range(3):
            assert await (await engine.start(work.workflow)).result(timeout=5) == [1] * COUNT
        await world.until(lambda: faulty.asked[method] >= 2)
        assert await world.counts(engine) == (0, 0, 0, 0)
    assert sorted(work.made) == sorted([(n, 1) for n in range(COUNT)] * 3)
    assert world.told(facts.CommitRetried)


@pytest.mark.parametrize("fault", ["refuse", "hide"])
async def test_a_claim_that_was_not_even_found_afterwards_is_found_by_the_next_sign_of_life(
    world: World, faulty: FaultyBackend, fault: str
) -> None:
    work = Work()
    faulty.plan |= {"claim": ["hide"], "claimed_tasks": [fault]}
    async with world.engine(faulty, **work.known) as engine:
        assert await (await engine.start(work.workflow)).result(timeout=5) == [1] * COUNT
        assert faulty.asked["claimed_tasks"] >= 2
    assert len(work.made) == COUNT


async def test_what_is_over_when_the_store_says_at_last_that_it_was_claimed_is_not_made_again(
    world: World, faulty: FaultyBackend
) -> None:
    go = asyncio.Event()
    made: list[int] = []

    @activity(queue="mail")
    async def waits(n: int) -> int:
        made.append(n)
        await go.wait()
        return n

    @workflow
    async def calls(ctx: Context) -> list[int]:
        first = ctx.call_activity(waits, 1)
        await ctx.wait_for_event("more")
        return list(await ctx.when_all([first, ctx.call_activity(waits, 2)]))

    async with world.engine(faulty, workflows=[calls], activities=[waits]) as engine:
        handle = await engine.start(calls)
        await world.until(lambda: made == [1])
        faulty.plan |= {"claim": ["hide"], "claimed_tasks": ["late"]}
        await handle.raise_event("more")
        await world.until(lambda: faulty.asked["claimed_tasks"] == 1)
        go.set()
        async with asyncio.timeout(5):
            while "activity_completed" not in await world.kinds(engine, handle.id):  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.001)
        faulty.answering.set()
        assert await handle.result(timeout=5) == [1, 2]
    assert made == [1, 2]


@pytest.mark.parametrize("fault", ["refuse", "lose", "hide"])
async def test_the_attempt_behind_an_end_that_did_not_answer_is_made_once(
    world: World, faulty: FaultyBackend, fault: str
) -> None:
    work = Work(fails=2)
    faulty.plan["finish_tasks"] = [fault] * 4
    async with world.engine(faulty, **work.known) as engine:
        handle = await engine.start(work.workflow)
        assert await handle.result(timeout=5) == [3] * COUNT
        assert (await world.kinds(engine, handle.id)).count("attempt_failed") == 2 * COUNT
    assert all(work.of(n) == [1, 2, 3] for n in range(COUNT))


@pytest.mark.parametrize("fault", ["refuse", "lose", "hide"])
async def test_an_admission_that_did_not_answer_begins_the_instance_once(
    world: World, faulty: FaultyBackend, fault: str
) -> None:
    faulty.plan["claim"] = [fault]
    async with world.engine(faulty, workflows=[held]) as engine:
        await engine.set_queue("imports", concurrency=1)
        one, two = [await engine.start(held.options(queue="imports")) for _ in range(2)]
        await one.wait_for_status(Status.RUNNING, timeout=5)
        assert (await two.status()).status is Status.PENDING
        await one.raise_event("go", "done")
        await two.wait_for_status(Status.RUNNING, timeout=5)
        assert (await world.kinds(engine, one.id)).count("instance_began") == 1
        await two.raise_event("go", "done")
        await two.result(timeout=5)
        assert await world.counts(engine, "imports") == (0, 0, 0, 0)


@pytest.mark.parametrize("fault", ["refuse", "lose", "hide"])
async def test_attempts_that_were_lost_are_lost_once(world: World, faulty_class: Any, fault: str) -> None:
    go = asyncio.Event()
    made: list[int] = []

    @activity(queue="mail", retry=RetryPolicy(max_attempts=3, initial=0))
    async def waits() -> int:
        made.append(activity_context().attempt)
        await go.wait()
        return activity_context().attempt

    @workflow
    async def calls(ctx: Context) -> int:
        return await ctx.call_activity(waits)

    engine = await world.open(workflows=[calls], activities=[waits])
    await engine.start(calls.options(instance_id="a"))
    await world.settle()
    await world.crash(engine)
    go.set()
    faulty = faulty_class(world.backend())
    faulty.plan = {"overdue_tasks": [fault], "finish_tasks": [fault, fault]}
    async with world.engine(faulty, workflows=[calls], activities=[waits]) as engine:
        assert await engine.result("a", timeout=5) == 2
        assert (await world.kinds(engine, "a")).count("attempt_failed") == 1
    assert made == [1, 2]


@pytest.mark.parametrize("fault", ["refuse", "lose", "hide"])
async def test_a_heartbeat_is_written_again_until_it_is_known_to_be_there(
    world: World, faulty: FaultyBackend, fault: str
) -> None:
    seen: list[Any] = []

    @activity(queue="mail")
    async def beats() -> None:
        seen.append(activity_context().heartbeat_details)
        if len(seen) == 1:
            activity_context().heartbeat("half")
            await asyncio.Event().wait()

    @workflow
    async def calls(ctx: Context) -> None:
        await ctx.call_activity(beats)

    faulty.plan["beat_tasks"] = [fault, fault]
    engine = await world.open(faulty, workflows=[calls], activities=[beats])
    await engine.start(calls.options(instance_id="a"))
    await world.settle()
    assert faulty.asked["beat_tasks"] == 3
    await world.crash(engine)
    async with world.engine(workflows=[calls], activities=[beats]) as engine:
        await engine.result("a", timeout=5)
    assert seen == [None, "half"]


# -- crashes at each commit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "fault", "attempts"),
    [
        ("enlist_server", "hang", [1]),
        ("enlist_server", "hang after", [1]),
        ("claim", "hang", [1]),
        ("claim", "hang after", [2]),
        ("finish_tasks", "hang", [1, 2]),
        ("finish_tasks", "hang after", [1]),
    ],
)
async def test_a_crash_at_a_commit_of_a_server_loses_no_task_and_no_result(
    world: World, faulty: FaultyBackend, method: str, fault: str, attempts: list[int]
) -> None:
    work = Work()
    faulty.plan[method] = [fault]
    engine = await world.open(faulty, **work.known)
    await engine.start(work.workflow.options(instance_id="a"))
    await world.until(lambda: faulty.hanging == [method])
    await world.crash(engine)
    async with world.engine(**work.known) as again:
        assert await again.result("a", timeout=5) == [attempts[-1]] * COUNT
        kinds = await world.kinds(again, "a")
        assert kinds.count("activity_completed") == COUNT
        assert kinds.count("attempt_failed") == (attempts[-1] - 1) * COUNT
        assert await world.counts(again) == (0, 0, 0, 0)
    assert all(work.of(n) == attempts for n in range(COUNT))


@pytest.mark.parametrize(("fault", "known"), [("hang", None), ("hang after", "half")])
async def test_a_crash_at_a_heartbeat_leaves_it_written_or_not(
    world: World, faulty: FaultyBackend, fault: str, known: str | None
) -> None:
    seen: list[Any] = []

    @activity(queue="mail")
    def beats() -> None:
        seen.append(activity_context().heartbeat_details)
        if len(seen) == 1:
            activity_context().heartbeat("half")
            activity_context().wait_cancelled(10)

    @workflow
    async def calls(ctx: Context) -> None:
        await ctx.call_activity(beats)

    faulty.plan["beat_tasks"] = [fault]
    engine = await world.open(faulty, workflows=[calls], activities=[beats])
    await engine.start(calls.options(instance_id="a"))
    await world.until(lambda: faulty.hanging)
    await world.crash(engine)
    async with world.engine(workflows=[calls], activities=[beats]) as engine:
        await engine.result("a", timeout=5)
    assert seen == [None, known]


@pytest.mark.parametrize("fault", ["hang", "hang after"])
async def test_a_crash_while_lost_attempts_are_written_counts_each_once(
    world: World, faulty_class: Any, fault: str
) -> None:
    made: list[int] = []

    @activity(queue="mail", retry=RetryPolicy(max_attempts=3, initial=0))
    async def waits() -> int:
        made.append(activity_context().attempt)
        if len(made) == 1:
            await asyncio.Event().wait()
        return activity_context().attempt

    @workflow
    async def calls(ctx: Context) -> int:
        return await ctx.call_activity(waits)

    known = {"workflows": [calls], "activities": [waits]}
    engine = await world.open(**known)
    await engine.start(calls.options(instance_id="a"))
    await world.settle()
    await world.crash(engine)
    faulty = faulty_class(world.backend())
    faulty.plan["finish_tasks"] = [fault]
    engine = await world.open(faulty, **known)
    await world.until(lambda: faulty.hanging)
    await world.crash(engine)
    async with world.engine(**known) as engine:
        assert await engine.result("a", timeout=5) == 2
        assert (await world.kinds(engine, "a")).count("attempt_failed") == 1
    assert made == [1, 2]


# -- orderly stops ----------------------------------------------------------------------------------------------------


class Shift:
    """Of three calls the first is done, the second runs until it is stopped, and the third finds no place."""

    def __init__(self) -> None:
        self.made: list[tuple[int, int]] = []
        self.done = asyncio.Event()

        @activity(name="shift", queue="mail", retry=1, max_concurrency=1)
        async def shift(n: int) -> list[int]:
            attempt = activity_context().attempt
            self.made.append((n, attempt))
            if n == 1 and attempt == 1:
                self.done.set()
                await asyncio.Event().wait()
            return [n, attempt]

        @workflow(name="shifts")
        async def shifts(ctx: Context) -> list[Any]:
            tasks = [ctx.call_activity(shift, n) for n in range(3)]
            found: list[Any] = []
            for task in tasks:
                try:
                    found.append(await task)
                except ActivityFailed as error:
                    found.append(error.type_name)
            return found

        self.workflow = shifts
        self.known = {"workflows": [shifts], "activities": [shift]}


async def test_a_server_that_stops_gives_back_what_it_has_not_begun_and_counts_what_it_interrupts_not(
    world: World,
) -> None:
    shift = Shift()
    engine = await world.open(**shift.known)
    await engine.start(shift.workflow.options(instance_id="a"))
    await asyncio.wait_for(shift.done.wait(), 5)
    await world.settle()
    await world.close(engine)
    async with world.engine(**shift.known) as engine:
        assert await engine.result("a", timeout=5) == [[0, 1], [1, 2], [2, 1]]
    assert sorted(shift.made) == [(0, 1), (1, 1), (1, 2), (2, 1)]


async def test_what_could_not_be_written_before_is_written_when_a_server_retires(
    world: World, faulty: FaultyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_LAST_WORDS_S", 0.05)
    shift = Shift()
    faulty.plan["finish_tasks"] = ["refuse"] * 1_000
    engine = await world.open(faulty, **shift.known)
    await engine.start(shift.workflow.options(instance_id="a"))
    await asyncio.wait_for(shift.done.wait(), 5)
    await world.close(engine)
    async with world.engine(**shift.known) as engine:
        assert await engine.result("a", timeout=5) == [[0, 1], [1, 2], [2, 1]]
    assert sorted(shift.made) == [(0, 1), (1, 1), (1, 2), (2, 1)], "the first is not called again"


@pytest.mark.parametrize("fault", ["refuse", "lose"])
async def test_what_could_not_even_be_given_back_is_lost_when_the_lease_ends_and_never_made_under_its_number_again(
    world: World, faulty: FaultyBackend, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(serving, "_LAST_WORDS_S", 0.05)
    shift = Shift()
    faulty.plan |= {"finish_tasks": ["refuse"] * 1_000, "retire_server": [fault]}
    engine = await world.open(faulty, **shift.known)
    await engine.start(shift.workflow.options(instance_id="a"))
    await asyncio.wait_for(shift.done.wait(), 5)
    await world.close(engine)
    async with world.engine(**shift.known) as engine:
        await world.settle()
        assert await world.counts(engine) == (0, 0, 3, 0)
        await world.advance(10)
        assert await engine.result("a", timeout=5) == ["WorkerLost"] * 3, "each had one attempt, and it counts"
    assert sorted(shift.made) == [(0, 1), (1, 1)]


async def test_a_stop_that_did_not_answer_has_given_everything_back(world: World, faulty: FaultyBackend) -> None:
    shift = Shift()
    faulty.plan["retire_server"] = ["hide"]
    engine = await world.open(faulty, **shift.known)
    await engine.start(shift.workflow.options(instance_id="a"))
    await asyncio.wait_for(shift.done.wait(), 5)
    await world.close(engine)
    async with world.engine(**shift.known) as engine:
        assert await engine.result("a", timeout=5) == [[0, 1], [1, 2], [2, 1]]


@pytest.mark.parametrize(("fault", "last"), [("hang", "WorkerLost"), ("hang after", [2, 1])])
async def test_a_crash_at_the_end_of_a_stop_loses_what_was_not_given_back(
    world: World, faulty: FaultyBackend, fault: str, last: Any
) -> None:
    shift = Shift()
    faulty.plan["retire_server"] = [fault]
    engine = await world.open(faulty, **shift.known)
    await engine.start(shift.workflow.options(instance_id="a"))
    await asyncio.wait_for(shift.done.wait(), 5)
    closing = asyncio.create_task(world.close(engine))
    await world.until(lambda: faulty.hanging)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    async with world.engine(**shift.known) as engine:
        await world.advance(10)
        assert await engine.result("a", timeout=5) == [[0, 1], [1, 2], last]


async def test_code_that_outlives_the_grace_time_is_followed_by_another_attempt_which_it_cannot_disturb(
    world: World,
) -> None:
    made: list[tuple[int, str]] = []
    go, late = threading.Event(), threading.Event()

    @activity(queue="mail", retry=1)
    def stubborn() -> str:
        attempt = activity_context().attempt
        made.append((attempt, activity_context().idempotency_key))
        if attempt == 1:
            go.wait(10)
            late.set()
            return "too late"
        return "in time"

    @workflow
    async def calls(ctx: Context) -> str:
        return await ctx.call_activity(stubborn)

    known = {"workflows": [calls], "activities": [stubborn]}
    engine = await world.open(**known)
    await engine.start(calls.options(instance_id="a"))
    await world.until(lambda: made)
    await world.close(engine)
    async with world.engine(**known) as engine:
        assert await engine.result("a", timeout=5) == "in time", "an attempt that was interrupted does not count"
        go.set()
        await world.until(late.is_set)
        await world.settle()
        assert (await world.kinds(engine, "a")).count("activity_completed") == 1
    assert made == [(1, "a/1"), (2, "a/1")]
