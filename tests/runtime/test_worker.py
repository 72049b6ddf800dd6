"""The worker: what is written when, what is told when, and what it remembers."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Client,
    Context,
    EngineClosed,
    InstanceNotFound,
    RetryPolicy,
    Status,
    StorageError,
    WorkflowTerminated,
    activity,
    activity_context,
    workflow,
)
from durableflow.backends.base import Commit, Outgoing
from durableflow.errors import CommitOutcomeUnknown, LeaseLost
from durableflow.model import events as ev
from durableflow.observe import facts

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of conftest.py


@activity
async def double(number: int) -> int:
    return 2 * number


@workflow
async def one(ctx: Context, number: int) -> int:
    return await ctx.call_activity(double, number)


@workflow
async def ten(ctx: Context, number: int) -> int:
    for _ in range(10):
        number = (await ctx.call_activity(double, number)) % 1_000
    return number


@workflow
async def wide(ctx: Context, count: int) -> int:
    return sum(await ctx.when_all([ctx.call_activity(double, n) for n in range(count)]))


@workflow
async def nothing(ctx: Context) -> str:
    return "nothing"


@workflow
async def waits(ctx: Context) -> list[Any]:
    heard = []
    while (word := await ctx.wait_for_event("word")) != "end":
        heard.append(word)
    return heard


@workflow
async def sleeps(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return ctx.now().isoformat()


# -- how much is written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flow", "argument", "commits"), [(nothing, None, 1), (one, 1, 2), (ten, 1, 11), (wide, 500, 2)]
)
async def test_the_number_of_commits_is_one_more_than_that_of_causal_stages(
    world: World, faulty: FaultyBackend, flow: Any, argument: Any, commits: int
) -> None:
    async with world.engine(faulty) as engine:
        handle = await (engine.start(flow) if argument is None else engine.start(flow, argument))
        await handle.result()
        await world.settle()
        assert len(faulty.commits) == engine.statistics().commits == commits
        assert sum(len(commit.rows) for commit in faulty.commits) == commits


async def test_while_one_commit_is_under_way_all_others_gather_for_the_next(
    world: World, faulty: FaultyBackend
) -> None:
    async with world.engine(faulty) as engine:
        faulty.gate.clear()
        first = asyncio.ensure_future(engine.start(nothing))
        await world.until(lambda: len(faulty.commits) == 1)
        others = [asyncio.ensure_future(engine.start(one, n)) for n in range(100)]
        await asyncio.sleep(0.01)
        assert len(faulty.commits) == 1
        assert not any(task.done() for task in [first, *others])
        faulty.gate.set()
        await asyncio.gather(first, *others)
        assert [len(commit.new) for commit in faulty.commits[:2]] == [1, 100]
        assert await asyncio.gather(*[(await task).result() for task in others]) == [2 * n for n in range(100)]


async def test_a_commit_holds_no_more_turns_than_it_may(world: World, faulty: FaultyBackend) -> None:
    async with world.engine(faulty, turns_per_commit=7) as engine:
        handles = await asyncio.gather(*(engine.start(one, n) for n in range(50)))
        await asyncio.gather(*(handle.result() for handle in handles))
    assert max(len(commit.rows) for commit in faulty.commits) == 7


# -- nothing leaves before its commit --------------------------------------------------------------------------


async def test_nothing_is_told_and_nothing_begins_before_the_commit(world: World, faulty: FaultyBackend) -> None:
    began: list[int] = []

    @activity
    async def note(number: int) -> int:
        began.append(number)
        return number

    @workflow
    async def notes(ctx: Context) -> int:
        await ctx.call_activity(note, 1)
        await ctx.wait_for_event("go")
        return await ctx.call_activity(note, 2)

    async def held(work: Any) -> asyncio.Future[Any]:
        faulty.gate.clear()
        seen = len(faulty.commits)
        task = asyncio.ensure_future(work)
        await world.until(lambda: len(faulty.commits) > seen)
        await asyncio.sleep(0.005)
        assert not task.done()
        return task

    async with world.engine(faulty) as engine:
        starting = await held(engine.start(notes.options(instance_id="i")))
        assert began == []
        with pytest.raises(InstanceNotFound):
            await engine.status("i")
        faulty.gate.set()
        handle = await starting
        await world.settle()
        assert began == [1]
        raising = await held(handle.raise_event("go"))
        assert began == [1]
        faulty.gate.set()
        await raising
        await world.settle()
        assert began == [1, 2]
        assert await handle.result() == 2


async def test_a_result_is_told_when_it_is_durable(world: World, faulty: FaultyBackend) -> None:
    async with world.engine(faulty) as engine:
        handle = await engine.start(waits)
        waiting = asyncio.ensure_future(handle.result())
        faulty.gate.clear()
        seen = len(faulty.commits)
        ending = asyncio.ensure_future(handle.raise_event("word", "end"))
        await world.until(lambda: len(faulty.commits) > seen)
        await asyncio.sleep(0.005)
        assert not waiting.done()
        assert world.told(facts.InstanceEnded) == []
        faulty.gate.set()
        assert await waiting == []
        await ending


# -- commits that fail -----------------------------------------------------------------------------------------


async def test_a_refused_commit_is_tried_again_until_it_goes_through(world: World, faulty: FaultyBackend) -> None:
    async with world.engine(faulty) as engine:
        faulty.faults = ["refuse", "refuse"]
        handle = await engine.start(one, 4)
        assert await handle.result() == 8
        assert len(world.told(facts.CommitRetried)) == 2
        assert len(await handle.history()) == 4


async def test_who_waits_is_told_when_the_store_stays_broken_and_nothing_is_there(
    world: World, faulty: FaultyBackend
) -> None:
    async with world.engine(faulty, commit_retries=1) as engine:
        faulty.faults = ["refuse", "refuse"]
        with pytest.raises(StorageError, match="planted"):
            await engine.start(one.options(instance_id="i"), 4)
        with pytest.raises(InstanceNotFound):
            await engine.status("i")
        assert await (await engine.start(one.options(instance_id="i"), 5)).result() == 10


async def test_a_result_that_could_not_be_written_is_kept_and_not_made_again(
    world: World, faulty: FaultyBackend
) -> None:
    calls: list[int] = []

    @activity(retry=1)
    async def once() -> int:
        calls.append(activity_context().attempt)
        return 7

    @workflow
    async def calls_once(ctx: Context) -> int:
        return await ctx.call_activity(once)

    async with world.engine(faulty, commit_retries=0) as engine:
        faulty.faults = [None, "refuse", "refuse", "lose"]
        handle = await engine.start(calls_once)
        waiting = asyncio.ensure_future(handle.result())
        for _ in range(20):
            await world.advance(1)
        assert faulty.faults == []
        assert await waiting == 7
        assert calls == [1]
        assert [each.kind for each in await handle.history()] == [
            "instance_started", "activity_scheduled", "activity_completed", "instance_completed",
        ]  # fmt: skip


@pytest.mark.parametrize("fault", ["refuse", "lose", "hide", "conflict"])
async def test_what_runs_beside_a_failed_commit_is_made_again_without_counting(
    world: World, faulty: FaultyBackend, fault: str
) -> None:
    attempts: list[int] = []

    @activity(retry=1)
    async def long() -> str:
        attempts.append(activity_context().attempt)
        if len(attempts) == 1:
            await asyncio.get_running_loop().create_future()
        return "done"

    @workflow
    async def calls_and_listens(ctx: Context) -> list[Any]:
        task = ctx.call_activity(long)
        word = await ctx.wait_for_event("word")
        return [word, await task]

    async with world.engine(faulty, commit_retries=0) as engine:
        handle = await engine.start(calls_and_listens)
        await world.settle()
        faulty.faults = [fault]
        if fault == "hide":
            await handle.raise_event("word", 1)
        else:
            with pytest.raises(StorageError):
                await handle.raise_event("word", 1)
            await handle.raise_event("word", 1)
        assert await handle.result() == [1, "done"]
        assert attempts == [1, 2]


async def test_a_commit_that_went_through_unheard_is_acknowledged_and_nothing_is_done_twice(
    world: World, faulty: FaultyBackend
) -> None:
    """I44."""
    calls: list[int] = []

    @activity(retry=1)
    async def once(number: int) -> int:
        calls.append(number)
        return number

    @workflow
    async def calls_once(ctx: Context) -> list[int]:
        heard = [
            await ctx.call_activity(once, 1),
            await ctx.wait_for_event("word", int),
            await ctx.call_activity(once, 2),
        ]
        return [*heard, await ctx.wait_for_event("word", int)]

    async with world.engine(faulty) as engine:
        faulty.faults = ["hide"]
        handle = await engine.start(calls_once.options(on_conflict="fail"))
        await world.settle()
        assert calls == [1]
        faulty.faults = ["hide"]
        await handle.raise_event("word", 5, event_id="e")
        await handle.raise_event("word", 6, event_id="e")
        await handle.raise_event("word", 7, event_id="f")
        assert await handle.result() == [1, 5, 2, 7]
        assert calls == [1, 2]
        history = [each.kind for each in await handle.history()]
        assert history.count("event_received") == 2
        assert history.count("activity_scheduled") == history.count("activity_completed") == 2


async def test_an_end_that_went_through_unheard_is_told(world: World, faulty: FaultyBackend) -> None:
    async with world.engine(faulty) as engine:
        handle = await engine.start(waits)
        waiting = asyncio.ensure_future(handle.result())
        await world.settle()
        faulty.faults = ["hide"]
        await handle.raise_event("word", "end")
        assert await waiting == []


async def test_a_commit_that_was_lost_is_told_as_unknown_and_can_be_sent_again(
    world: World, faulty: FaultyBackend
) -> None:
    async with world.engine(faulty) as engine:
        faulty.faults = ["lose"]
        with pytest.raises(CommitOutcomeUnknown, match="not in the log; try again: planted"):
            await engine.start(waits.options(instance_id="i"))
        assert len(world.told(facts.CommitUnanswered)) == 1
        with pytest.raises(InstanceNotFound):
            await engine.status("i")
        handle = await engine.start(waits.options(instance_id="i"))
        faulty.faults = ["lose"]
        with pytest.raises(CommitOutcomeUnknown):
            await handle.raise_event("word", "lost")
        await handle.raise_event("word", "heard")
        await handle.raise_event("word", "end")
        assert await handle.result() == ["heard"]


async def test_a_timer_whose_commit_failed_still_fires(world: World, faulty: FaultyBackend) -> None:
    for fault in ("refuse", "lose", "hide", "conflict"):
        async with world.engine(faulty, commit_retries=0) as engine:
            handle = await engine.start(sleeps, 5.0)
            await world.settle()
            faulty.faults = [fault]
            await world.advance(5)
            await world.advance(2)
            async with asyncio.timeout(5):
                await handle.result()
            assert [each.kind for each in await handle.history()].count("timer_fired") == 1


async def test_who_waits_for_an_end_is_not_forgotten_when_a_start_fails(world: World, faulty: FaultyBackend) -> None:
    """The waiter saw the instance in memory; it never became durable."""
    async with world.engine(faulty, commit_retries=0) as engine:
        for fault in ("refuse", "lose"):
            faulty.faults = [fault]
            faulty.gate.clear()
            starting = asyncio.ensure_future(engine.start(waits.options(instance_id="i")))
            await world.until(lambda: world.worker(engine).instances.live)
            waiting = asyncio.ensure_future(engine.result("i"))
            await asyncio.sleep(0.002)
            faulty.gate.set()
            with pytest.raises(StorageError):
                await starting
            with pytest.raises(InstanceNotFound):
                async with asyncio.timeout(5):
                    await waiting


# -- the lease -------------------------------------------------------------------------------------------------


async def test_who_lost_the_lease_forgets_all_says_so_stands_by_and_leads_again(world: World) -> None:
    @activity
    async def endless() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            stopped.append(True)

    @workflow
    async def calls(ctx: Context) -> None:
        task = ctx.call_activity(endless)
        await ctx.wait_for_event("word")
        await task

    stopped: list[bool] = []
    async with world.engine() as engine:
        handle = await engine.start(calls)
        waiting = asyncio.ensure_future(handle.result())
        await world.settle()
        usurper = world.backend()
        await usurper.open()
        lease = await usurper.acquire("usurper", 1_000_000, world.clock.now + 20_000_000)
        assert lease is not None
        with pytest.raises(LeaseLost):
            await handle.raise_event("word")
        with pytest.raises(EngineClosed):
            await waiting
        await world.until(lambda: stopped)
        assert not engine.is_leading
        assert [type(fact) for fact in world.facts if isinstance(fact, (facts.WorkerLeads, facts.WorkerLost))] == [
            facts.WorkerLeads, facts.WorkerLost,
        ]  # fmt: skip
        assert not [each for each in await handle.history() if each.kind == "event_received"]
        await handle.terminate("by the stand-by")  # now it is a client: the message waits in the inbox
        await usurper.release(lease)
        async with asyncio.timeout(5):
            await engine.wait_until_leading()
            with pytest.raises(WorkflowTerminated):
                await handle.result()
        await usurper.close()


@pytest.mark.slow
async def test_a_lease_is_renewed_in_time(world: World, faulty: FaultyBackend) -> None:
    async with world.engine(faulty, lease_s=0.06) as engine:
        await world.until(lambda: faulty.renewals >= 3)
        assert engine.is_leading


@pytest.mark.slow
async def test_a_lease_is_kept_from_the_first_moment_on_also_when_the_store_does_not_answer(
    world: World, faulty: FaultyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is over, and nobody has noticed, when the store answers at last."""

    async def hang() -> list[tuple[str, int]]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(faulty, "offered_tasks", hang, raising=False)
    async with world.engine(faulty, lease_s=0.06):
        await asyncio.sleep(0.1)
        assert faulty.renewals >= 3


async def test_a_second_engine_stands_by_as_a_client_and_takes_over(world: World) -> None:
    first = await world.open(workflows=[waits, sleeps])
    handle = await first.start(waits)
    async with world.engine(workflows=[waits, sleeps]) as second:
        assert not second.is_leading
        with pytest.raises(EngineClosed, match="not leading"):
            second.statistics()
        await second.raise_event(handle.id, "word", "through the inbox")
        waiting = asyncio.ensure_future(second.result(handle.id))
        started = await second.start(sleeps.options(instance_id="by the second"), 5.0)
        await world.until(lambda: started.id in world.worker(first).instances.live)
        await world.crash(first)
        async with asyncio.timeout(5):
            await second.wait_until_leading()
        await second.raise_event(handle.id, "word", "end")
        assert await waiting == ["through the inbox"]
        await world.advance(5)
        async with asyncio.timeout(5):
            await started.result()


async def test_messages_that_waited_for_a_worker_are_read_by_the_next_one(world: World) -> None:
    """Also for an instance that only a message can wake, and whose message came while nobody looked."""
    async with world.engine() as engine:
        handle = await engine.start(waits)
    backend = world.backend()
    async with Client(backend, clock=world.clock) as client:
        await client.raise_event(handle.id, "word", "early")
        await client.raise_event(handle.id, "word", "end")
    async with world.engine(workflows=[waits]) as engine:
        async with asyncio.timeout(5):
            assert await engine.result(handle.id) == ["early"]


# -- the cache -------------------------------------------------------------------------------------------------


@workflow
async def mixed(ctx: Context, number: int) -> list[Any]:
    first = await ctx.wait_for_event("first", int)
    await ctx.sleep(1 + number % 7)
    both = await ctx.when_all(ctx.call_activity(double, number), ctx.wait_for_event("second", int))
    return [first, *both]


@pytest.mark.slow
@pytest.mark.parametrize("cached", [0, 1, 3])
async def test_eviction_changes_no_result(world: World, cached: int) -> None:
    count = 120
    async with world.engine(cached_instances=cached) as engine:
        handles = await asyncio.gather(*(engine.start(mixed.options(instance_id=f"i{n}"), n) for n in range(count)))
        await world.settle()
        assert engine.statistics().live_instances <= max(cached, 1) + 16
        await asyncio.gather(*(handle.raise_event("first", n) for n, handle in enumerate(handles)))
        await world.advance(4)
        await asyncio.gather(*(handle.raise_event("second", -n) for n, handle in enumerate(handles)))
        waiting = [asyncio.ensure_future(handle.result()) for handle in handles]
        await world.advance(10)
        async with asyncio.timeout(10):
            results = await asyncio.gather(*waiting)
        assert results == [[n, 2 * n, -n] for n in range(count)]
        assert engine.statistics().evictions >= count
        assert engine.statistics().live_instances == 0


async def test_events_reach_instances_that_are_being_loaded_and_put_away_all_the_time(world: World) -> None:
    async with world.engine(cached_instances=1) as engine:
        handles = [await engine.start(waits) for _ in range(8)]
        await asyncio.gather(*(handle.raise_event("word", n) for n in range(12) for handle in handles))
        await asyncio.gather(*(handle.raise_event("word", "end") for handle in handles))
        async with asyncio.timeout(10):
            results = await asyncio.gather(*(handle.result() for handle in handles))
        assert [sorted(result) for result in results] == [list(range(12))] * 8


@pytest.mark.slow
async def test_an_evicted_instance_keeps_no_alarm_of_its_own(world: World) -> None:
    """I48: loading and evicting it again and again does not pile anything up."""
    async with world.engine(cached_instances=0) as engine:
        handle = await engine.start(patient)
        await world.settle()
        for n in range(120):
            await handle.raise_event("word", n)
            await asyncio.sleep(0)
        assert engine.statistics().evictions > 60
        assert len(world.worker(engine)._means.alarms._heap) < 80


@workflow
async def patient(ctx: Context) -> None:
    timer = ctx.sleep(30)
    for _ in range(1_000):
        await ctx.when_any(timer, ctx.wait_for_event("word"))


async def test_what_was_told_to_an_instance_in_the_moment_of_its_eviction_is_not_lost(memory_world: World) -> None:
    async with memory_world.engine(cached_instances=0) as engine:
        handle = await engine.start(waits)
        await memory_world.settle()
        worker = memory_world.worker(engine)
        live = await worker.instances.load(handle.id)
        raising = asyncio.ensure_future(worker_message(worker, handle.id))
        await asyncio.sleep(0)
        worker.instances.forget(live, None)
        async with asyncio.timeout(5):
            await raising
        await handle.raise_event("word", "end")
        assert await handle.result() == ["heard"]


async def worker_message(worker: Any, instance_id: str) -> None:
    from durableflow.model import events as ev

    await worker.message(instance_id, ev.EventReceived("word", b'"heard"'), "event")


# -- starting up -----------------------------------------------------------------------------------------------


async def test_starting_up_reads_nothing_of_instances_that_only_wait(world: World, faulty: FaultyBackend) -> None:
    async with world.engine() as engine:
        for n in range(30):
            await engine.start(waits.options(instance_id=f"event {n}"))
            await engine.start(sleeps.options(instance_id=f"soon {n}"), 30.0)
            await engine.start(sleeps.options(instance_id=f"late {n}"), 300.0)
        await (await engine.start(nothing)).result()
        await world.settle()
    async with world.engine(faulty, workflows=[waits, sleeps]) as engine:
        await world.settle()
        assert (faulty.loaded, engine.statistics().live_instances) == ([], 0)
        await world.advance(30)
        assert sorted(faulty.loaded) == sorted(f"soon {n}" for n in range(30))
        await engine.raise_event("event 7", "word", "end")
        assert await engine.result("event 7") == []
        await world.advance(300)
        assert len(faulty.loaded) == 61
        assert (await engine.list(status=Status.COMPLETED, workflow=sleeps)).instances[0].workflow == "sleeps"
        assert len((await engine.list(status=Status.COMPLETED, workflow=sleeps)).instances) == 60


async def test_starting_up_goes_on_with_what_was_running(world: World) -> None:
    gate = asyncio.Event()
    attempts: list[int] = []

    @activity
    async def held(number: int) -> int:
        attempts.append(activity_context().attempt)
        if activity_context().attempt == 1:
            await gate.wait()
        return number

    @workflow
    async def calls(ctx: Context, number: int) -> int:
        return await ctx.call_activity(held, number)

    engine = await world.open()
    handles = [await engine.start(calls, n) for n in range(50)]
    await world.settle()
    await world.crash(engine)
    async with world.engine(workflows=[calls], activities=[held]) as engine:
        assert await asyncio.gather(*(engine.result(handle.id) for handle in handles)) == list(range(50))
    assert sorted(attempts) == [1] * 50 + [2] * 50


async def test_a_start_that_is_repeated_at_start_up_does_not_hide_the_instance_that_is_there(world: World) -> None:
    """Recovery finds the id taken by a start that is then refused."""
    calls: list[int] = []

    @activity
    async def note() -> str:
        calls.append(activity_context().attempt)
        if len(calls) == 1:
            await asyncio.get_running_loop().create_future()
        return "done"

    @workflow
    async def notes(ctx: Context) -> str:
        return await ctx.call_activity(note)

    engine = await world.open()
    await engine.start(notes.options(instance_id="order-1"))
    await world.settle()
    await world.crash(engine)
    async with world.engine(workflows=[notes], activities=[note]) as engine:
        again = await engine.start(notes.options(instance_id="order-1"))
        async with asyncio.timeout(5):
            assert await again.result() == "done"
    assert calls == [1, 2]


async def test_a_store_that_cannot_answer_at_start_up_is_asked_again(world: World, faulty: FaultyBackend) -> None:
    engine = await world.open()
    handle = await engine.start(sleeps, 5.0)
    running = await engine.start(waits)
    await world.settle()
    await world.crash(engine)
    faulty.load_faults, faulty.read_faults = 2, 2
    async with world.engine(faulty, workflows=[waits, sleeps]) as engine:
        await world.until(lambda: faulty.read_faults == 0)
        await world.advance(5)
        await world.advance(3)
        assert (await engine.status(handle.id)).status is Status.COMPLETED
        await engine.raise_event(running.id, "word", "end")
        assert await engine.result(running.id) == []


# -- time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 0.5, 59.9, 60.0, 60.1, 90.0, 3_600.0, 86_400.0 * 30])
@pytest.mark.parametrize("how", ["live", "evicted", "restarted"])
async def test_a_timer_fires_at_its_moment_however_far_off_it_is(world: World, seconds: float, how: str) -> None:
    """I29: never early; and, with a clock that can be held, not late either."""
    cached = 0 if how == "evicted" else 100
    engine = await world.open(cached_instances=cached)
    handle = await engine.start(sleeps, seconds)
    due = world.clock.now + round(seconds * 1_000_000)
    await world.settle()
    if how == "restarted":
        await world.crash(engine)
        engine = await world.open(workflows=[sleeps], cached_instances=cached)
    if seconds:
        await world.advance(seconds - 0.000_001)
        assert (await engine.status(handle.id)).status is Status.RUNNING
        await world.advance(0.000_001)
    assert world.clock.now == due
    assert (await engine.status(handle.id)).status is Status.COMPLETED
    await world.crash(engine)


async def test_timers_that_fell_due_while_nobody_was_there_fire_at_once_in_their_order(world: World) -> None:
    @workflow
    async def two(ctx: Context) -> list[str]:
        late, early = ctx.sleep(20), ctx.sleep(10)
        order = []
        for _ in range(2):
            done = await ctx.when_any([task for task in (late, early) if not task.done])
            order.append("early" if done is early else "late")
        return order

    engine = await world.open()
    handle = await engine.start(two)
    await world.settle()
    await world.crash(engine)
    await world.advance(100)
    async with world.engine(workflows=[two]) as engine:
        assert await engine.result(handle.id) == ["early", "late"]


async def test_an_instance_fails_at_its_timeout_and_begins_at_its_start_time(world: World) -> None:
    engine = await world.open()
    late = await engine.start(sleeps.options(start_delay=100, timeout=50, instance_id="late"), 10.0)
    dead = await engine.start(waits.options(timeout=timedelta(hours=1), instance_id="dead"))
    assert (await late.status()).status is Status.PENDING
    await world.crash(engine)
    async with world.engine(workflows=[waits, sleeps]) as engine:
        await world.advance(99)
        assert (await engine.status("late")).status is Status.PENDING
        await world.advance(1)
        assert (await engine.status("late")).status is Status.RUNNING
        await world.advance(10)
        assert (await engine.status("late")).status is Status.COMPLETED
        await world.advance(3_600 - 111)
        assert (await engine.status(dead.id)).status is Status.RUNNING
        await world.advance(1)
        assert (await engine.status(dead.id)).status is Status.FAILED


async def test_a_retry_that_waits_is_evicted_and_comes_back_in_time(world: World) -> None:
    at: list[float] = []

    @activity(retry=RetryPolicy(max_attempts=3, initial=timedelta(minutes=10), backoff=1))
    async def fails() -> str:
        at.append(world.clock.since_start_s)
        if activity_context().attempt < 3:
            raise ValueError
        return "third"

    @workflow
    async def calls(ctx: Context) -> str:
        return await ctx.call_activity(fails)

    async with world.engine(cached_instances=0) as engine:
        handles = [await engine.start(calls) for _ in range(3)]
        await world.settle()
        assert engine.statistics().live_instances <= 1
        await world.advance(1_300)
        assert [await handle.result() for handle in handles] == ["third"] * 3
    assert sorted(at) == [0] * 3 + [600] * 3 + [1_200] * 3


# -- listening and counting ------------------------------------------------------------------------------------


async def test_facts_are_told_in_their_order(world: World) -> None:
    async with world.engine() as engine:
        handle = await engine.start(one.options(instance_id="i"), 1)
        await handle.result()
        await world.settle()
    assert [fact for fact in world.facts if not isinstance(fact, facts.WorkerLeads)] == [
        facts.TurnsCommitted(1, 2),
        facts.InstanceEnded("i", "one", Status.COMPLETED),
        facts.TurnsCommitted(1, 2),
    ]


async def test_a_branch_that_failed_and_that_nobody_waited_for_is_told(world: World) -> None:
    @workflow
    async def careless(ctx: Context) -> str:
        async def fails(reason: str) -> None:
            await ctx.sleep(1)
            raise ValueError(reason)

        forgotten = ctx.spawn(fails("forgotten"))
        heeded = ctx.spawn(fails("heeded"))
        await ctx.sleep(2)
        with pytest.raises(ValueError, match="heeded"):
            heeded.result()
        return f"{forgotten.done}"

    async with world.engine() as engine:
        handle = await engine.start(careless)
        await world.advance(3)
        assert await handle.result() == "True"
    (told,) = world.told(facts.BranchFailed)
    assert (told.instance_id, told.type_name, told.message) == (handle.id, "ValueError", "forgotten")
    assert told.branch.endswith("fails")


async def test_a_listener_that_fails_stops_nothing(world: World) -> None:
    engine = world.new_engine()

    def broken(_: object) -> None:
        raise ValueError("a broken listener")

    engine.listen(broken)
    async with engine:
        assert await (await engine.start(one, 3)).result() == 6


async def test_statistics_count_what_is_and_what_was(world: World) -> None:
    async with world.engine(cached_instances=2) as engine:
        assert engine.statistics().commits == 0
        handles = [await engine.start(waits) for _ in range(5)]
        await world.settle()
        counted = engine.statistics()
        assert (counted.turns, counted.evictions, counted.live_instances, counted.loads) == (5, 3, 2, 0)
        await handles[0].raise_event("word", "end")
        assert engine.statistics().loads == 1


async def test_a_long_history_is_warned_of_once(world: World) -> None:
    async with world.engine(history_soft_limit=20) as engine:
        handle = await engine.start(waits)
        for n in range(30):
            await handle.raise_event("word", n)
    assert [fact.instance_id for fact in world.told(facts.HistoryLong)] == [handle.id]


async def test_nothing_is_left_behind_by_those_who_stopped_waiting(world: World) -> None:
    """I48: no unbounded growth."""
    async with world.engine() as engine:
        handle = await engine.start(waits)
        worker = world.worker(engine)
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await handle.result(timeout=0.0005)
            with pytest.raises(TimeoutError):
                await handle.wait_for_status(Status.COMPLETED, timeout=0.0005)
            await handle.wait_for_status(Status.RUNNING)
            with pytest.raises(InstanceNotFound):
                await engine.result("nobody")
        await world.settle()
        assert (worker.ends._waiting, worker.ends._watchers) == ({}, {})


async def test_messages_that_came_too_late_do_not_stay_in_the_store(world: World) -> None:
    """I37: they are removed with the next commit, and an engine that starts up later does not stumble over them."""
    backend = world.backend()
    async with world.engine() as engine, Client(backend, clock=world.clock):
        handle = await engine.start(waits)
        words = [ev.dump_event(ev.EventReceived("word", word)) for word in (b'"end"', b'"late"', b'"later"')]
        await backend.send([Outgoing(handle.id, word) for word in words])  # in one transaction: none is refused
        assert await handle.result() == []
        await world.until(lambda: False, lambda: no_messages(backend))


async def no_messages(backend: Any) -> bool:
    return await backend.inbox(0, 100) == []


async def test_commits_of_many_threads_heartbeats_are_not_lost(world: World, faulty: FaultyBackend) -> None:
    beaten = threading.Event()

    @activity
    def beats() -> None:
        for n in range(50):
            activity_context().heartbeat(n)
        beaten.set()
        activity_context().wait_cancelled(10)

    @workflow
    async def calls(ctx: Context) -> None:
        await ctx.call_activity(beats)

    async with world.engine(faulty) as engine:
        handle = await engine.start(calls)
        await world.until(beaten.is_set)
        await world.settle()
        (loaded,) = await faulty.load([handle.id])
        assert [beat.details for beat in loaded.heartbeats] == [b"49"]
        await handle.terminate()
    assert all(isinstance(commit, Commit) for commit in faulty.commits)
