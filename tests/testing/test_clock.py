"""Time under test: it stands still, moves in order, and waits for whoever really works."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from durableflow import Context, EventTimeout, RetryPolicy, Settings, Status, WorkflowFailed, activity, workflow
from durableflow.testing import NothingHappens, VirtualClock, VirtualEngine, WorkflowEnvironment
from durableflow.testing import clock as clock_module
from durableflow.testing.clock import START


@asynccontextmanager
async def environment(clock: VirtualClock) -> AsyncIterator[WorkflowEnvironment]:
    async with WorkflowEnvironment(clock=clock) as env:
        yield env


@activity(retry=RetryPolicy(max_attempts=5, initial=60.0, backoff=2))
async def note_tick(what: str) -> str:
    return what


@workflow
async def ticking(ctx: Context, hours: list[int]) -> list[datetime]:
    rung = list[datetime]()
    for each in hours:
        await ctx.sleep(timedelta(hours=each))
        rung.append(ctx.now())
        await ctx.call_activity(note_tick, f"{ctx.instance_id} {each}")
    return rung


@workflow
async def tick_approval(ctx: Context) -> str:
    try:
        return await ctx.wait_for_event("approved", str, timeout=timedelta(days=2))
    except EventTimeout:
        return "too late"


@workflow
async def waiting_for_ever(ctx: Context) -> str:
    return await ctx.wait_for_event("Approved", str)


async def test_time_stands_still_until_somebody_moves_it() -> None:
    async with WorkflowEnvironment() as env:
        handle = await env.start(ticking, [1])
        await asyncio.sleep(0.02)
        assert env.now() == START
        assert (await handle.status()).status is Status.RUNNING
        await env.advance(minutes=59)
        assert env.calls(note_tick) == []
        await env.advance(minutes=1)
        assert (await handle.status()).status is Status.COMPLETED
        assert env.now() == START + timedelta(hours=1)


async def test_a_wait_for_the_result_skips_to_the_end_and_not_beyond() -> None:
    async with WorkflowEnvironment() as env:
        assert await env.run(ticking, [1, 2, 3]) == [START + timedelta(hours=n) for n in (1, 3, 6)]
        assert env.now() == START + timedelta(hours=6)


async def test_a_long_advance_rings_each_alarm_at_its_own_moment_in_order() -> None:
    async with WorkflowEnvironment() as env:
        for name, hours in (("a", [5, 5]), ("b", [1, 7]), ("c", [9])):
            await env.start(ticking.options(instance_id=name), hours)
        await env.advance(days=30)
        rung = [(call.args[0], (call.at - START) / timedelta(hours=1)) for call in env.calls(note_tick)]
        assert rung == [("b 1", 1), ("a 5", 5), ("b 7", 8), ("c 9", 9), ("a 5", 10)]
        assert env.now() == START + timedelta(days=30)


async def test_what_one_alarm_sets_off_is_over_before_the_next_one_rings() -> None:
    """The call at 1:00 takes half an hour, and what follows it must come before 2:00."""
    async with WorkflowEnvironment() as env:
        env.mock(note_tick, takes=timedelta(minutes=30), calls=lambda what: what)
        await env.start(ticking.options(instance_id="a"), [1, 1])
        await env.start(ticking.options(instance_id="b"), [2])
        await env.advance(days=1)
        rung = [(call.args[0], (call.at - START) / timedelta(minutes=1)) for call in env.calls(note_tick)]
        assert rung == [("a 1", 60), ("b 2", 120), ("a 1", 150)]


async def test_attempts_come_at_the_moments_of_their_retry_policy() -> None:
    async with WorkflowEnvironment() as env:
        env.mock(note_tick, fail_on=[1, 2, 3])
        handle = await env.start(ticking, [1])
        await handle.result()
        waits = [(call.attempt, (call.at - START).total_seconds() - 3600) for call in env.calls(note_tick)]
        assert waits == [(1, 0), (2, 60), (3, 180), (4, 420)]


async def test_thirty_days_with_retries_and_events_take_far_less_than_a_second() -> None:
    async with WorkflowEnvironment() as env:
        env.mock(note_tick, fail_on=[1, 2])
        began_s = time.process_time()
        handle = await env.start(tick_daily, 30)
        for day in range(30):
            await env.advance(hours=12)
            if day % 2:
                await handle.raise_event("approved", True)
            await env.advance(hours=12)
        assert await handle.result() == [bool(day % 2) for day in range(30)]
        took_s = time.process_time() - began_s
        assert len(env.calls(note_tick)) == 90
        assert env.now() - START >= timedelta(days=30)
        assert took_s < 0.5, f"{took_s:.3f} s of CPU"


@workflow
async def tick_daily(ctx: Context, days: int) -> list[bool]:
    approved = list[bool]()
    for _ in range(days):
        today = ctx.create_timer(timedelta(days=1))
        await ctx.call_activity(note_tick, "day")
        try:
            approved.append(await ctx.wait_for_event("approved", bool, timeout=timedelta(hours=20)))
        except EventTimeout:
            approved.append(False)
        await today
    return approved


# -- whoever really works ---------------------------------------------------------------------------------------------


async def test_time_waits_for_an_activity_in_a_thread() -> None:
    release = threading.Event()

    @activity(timeout=1)
    def slow() -> str:
        assert release.wait(10)
        return threading.current_thread().name

    @workflow
    async def calls_slow(ctx: Context) -> str:
        return await ctx.call_activity(slow)

    async with WorkflowEnvironment() as env:
        handle = await env.start(calls_slow)
        result = asyncio.create_task(handle.result())
        await asyncio.sleep(0.05)
        assert not result.done()
        release.set()
        assert (await result).startswith("durableflow activity")
        assert env.now() == START  # the time-out of one second did not come nearer


async def test_time_waits_for_a_socket() -> None:
    @activity(timeout=1)
    async def fetch(port: int) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return (await reader.read()).decode()
        finally:
            writer.close()

    @workflow
    async def fetches(ctx: Context, port: int) -> str:
        return await ctx.call_activity(fetch, port)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, WorkflowEnvironment() as env:
        assert await env.run(fetches, server.sockets[0].getsockname()[1]) == "hello"
        assert env.now() == START


@pytest.mark.slow
async def test_waiting_for_a_thread_is_no_hot_loop() -> None:
    @activity
    def slow() -> None:
        time.sleep(0.4)

    @workflow
    async def calls_slow(ctx: Context) -> None:
        await ctx.call_activity(slow)

    async with WorkflowEnvironment() as env:
        began_s = time.process_time()
        await env.run(calls_slow)
        assert time.process_time() - began_s < 0.15


async def test_a_hanging_activity_is_named_instead_of_hanging_the_test() -> None:
    @activity
    async def hangs() -> None:
        await asyncio.Event().wait()

    @workflow
    async def calls_hanging(ctx: Context) -> None:
        await ctx.call_activity(hangs)

    async with environment(VirtualClock(attempt_patience_s=0.05)) as env:
        handle = await env.start(calls_hanging)
        with pytest.raises(NothingHappens, match="1 attempts of activities are still running"):
            await env.advance(days=1)
        assert env.now() == START
        with pytest.raises(NothingHappens, match="still running"):
            await handle.result()


async def test_an_activity_that_takes_virtual_time_runs_into_its_timeout() -> None:
    @activity(timeout=timedelta(minutes=5), retry=1)
    async def slow() -> str:
        return "done"

    @workflow
    async def calls_slow(ctx: Context) -> str:
        return await ctx.call_activity(slow)

    async with WorkflowEnvironment() as env:
        env.mock(slow, takes=timedelta(minutes=4))
        assert await env.run(calls_slow) == "done"
        env.mock(slow, takes=timedelta(minutes=6))
        with pytest.raises(WorkflowFailed, match="did not end within 300 s"):
            await env.run(calls_slow)
        assert env.now() - START == timedelta(minutes=9)


async def test_a_sleep_of_the_test_itself_does_not_hide_an_attempt_that_works() -> None:
    clock = VirtualClock()
    release = asyncio.Event()

    @activity
    async def works() -> datetime:
        await release.wait()
        return clock.now()

    @workflow
    async def calls_works(ctx: Context) -> datetime:
        return await ctx.call_activity(works)

    async with environment(clock) as env:
        sleeping = asyncio.create_task(clock.sleep(60))
        handle = await env.start(calls_works)
        result = asyncio.create_task(handle.result())
        await asyncio.sleep(0.03)
        assert (clock.now(), sleeping.done()) == (START, False)
        release.set()
        assert await result == START
        await env.advance(60)
        await sleeping


# -- several at once --------------------------------------------------------------------------------------------------


async def test_two_engines_share_one_clock_and_time_waits_for_both(tmp_path: Path) -> None:
    """The one on a disk is the slower one, and the other must not run ahead of it."""
    clock = VirtualClock()
    on_disk = WorkflowEnvironment(f"sqlite:///{tmp_path / 'test.db'}", clock=clock)
    async with on_disk as one, environment(clock) as two:
        await one.start(ticking.options(instance_id="one"), [1, 2, 2])
        await two.start(ticking.options(instance_id="two"), [2, 2])
        await one.advance(hours=5)
        calls = sorted([*one.calls(), *two.calls()], key=lambda call: call.at)
        assert [(call.args[0], (call.at - START) / timedelta(hours=1)) for call in calls] == [
            ("one 1", 1), ("two 2", 2), ("one 2", 3), ("two 2", 4), ("one 2", 5),
        ]  # fmt: skip


@pytest.mark.slow
async def test_a_standby_engine_does_not_take_over_because_time_skips() -> None:
    clock = VirtualClock()
    async with environment(clock) as env:
        backend = env.engine._backend
        async with VirtualEngine(backend, clock=clock, name="standby") as standby:
            assert await env.run(ticking, [24 * 365, 24 * 365])
            await asyncio.sleep(0.25)  # it asks for the lease every 0.2 s of real time
            assert (env.engine.is_leading, standby.is_leading) == (True, False)


async def test_two_waits_at_once_do_not_move_time_past_each_other() -> None:
    async with WorkflowEnvironment() as env:
        handles = [await env.start(ticking, hours) for hours in ([3, 3], [1, 1, 1, 1], [2])]
        ends = [result[-1] for result in await asyncio.gather(*(handle.result() for handle in handles))]
        assert [(end - START) / timedelta(hours=1) for end in ends] == [6, 4, 2]
        times = [call.at for call in env.calls(note_tick)]
        assert times == sorted(times)


async def test_a_wait_gives_the_rest_of_the_test_time_to_act() -> None:
    async with WorkflowEnvironment() as env:
        handle = await env.start(waiting_for_ever)
        result = asyncio.create_task(handle.result())
        await asyncio.sleep(0.05)
        await handle.raise_event("approved", "yes")
        assert await result == "yes"


# -- what cannot happen -----------------------------------------------------------------------------------------------


async def test_a_wait_for_what_nobody_sends_is_an_error_that_names_it() -> None:
    async with environment(VirtualClock(patience_s=0.0)) as env:
        handle = await env.start(waiting_for_ever.options(instance_id="order-1"))
        with pytest.raises(NothingHappens) as caught:
            await handle.result()
        assert str(caught.value) == (
            "instance 'order-1' of workflow 'waiting_for_ever' will not be over by itself: "
            "at 2030-01-01T00:00:00+00:00 it is RUNNING and waits for event 'approved'; "
            "let it happen before you wait for the end"
        )
        await handle.suspend()
        with pytest.raises(NothingHappens, match="SUSPENDED; resume it first"):
            await handle.result()
        with pytest.raises(NothingHappens, match="will not be COMPLETED by itself"):
            await handle.wait_for_status(Status.COMPLETED)


async def test_timers_that_go_round_for_ever_do_not_hang_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "_MOVES_MAX", 20)
    async with WorkflowEnvironment() as env:
        await env.start(ticking, [1] * 100)
        handle = await env.start(waiting_for_ever)
        with pytest.raises(NothingHappens, match="20 alarms have rung, it is 2030-01-01T"):
            await handle.result()


async def test_a_timeout_of_the_wait_is_virtual_time() -> None:
    async with WorkflowEnvironment() as env:
        handle = await env.start(tick_approval)
        with pytest.raises(TimeoutError, match="is not over after 1 day, 0:00:00; it goes on"):
            await handle.result(timeout=timedelta(days=1))
        assert env.now() == START + timedelta(days=1)
        with pytest.raises(TimeoutError, match="is not SUSPENDED after 60; it goes on"):
            await handle.wait_for_status(Status.SUSPENDED, timeout=60)
        assert await handle.result(timeout=timedelta(days=1)) == "too late"
        assert env.now() == START + timedelta(days=2)


# -- dice -------------------------------------------------------------------------------------------------------------


async def ids_and_retries(seed: int) -> list[object]:
    @activity(retry=RetryPolicy(jitter=1.0))
    async def jittery() -> None: ...

    @workflow
    async def calls_jittery(ctx: Context) -> None:
        await ctx.call_activity(jittery)

    async with WorkflowEnvironment(seed=seed) as env:
        env.mock(jittery, fail_on=[1, 2])
        handle = await env.start(calls_jittery)
        await handle.result()
        return [handle.id, *(call.at for call in env.calls(jittery))]


async def test_ids_and_jitter_are_the_same_for_the_same_seed() -> None:
    assert await ids_and_retries(1) == await ids_and_retries(1)
    assert await ids_and_retries(1) != await ids_and_retries(2)


async def test_a_test_may_begin_at_any_moment() -> None:
    start = datetime(1999, 12, 31, 23, 59, tzinfo=UTC)
    async with WorkflowEnvironment(start=start, settings=Settings()) as env:
        assert (await env.run(ticking, [1]))[0] == start + timedelta(hours=1)


async def test_the_clock_never_goes_back() -> None:
    with pytest.raises(ValueError, match="duration of advance"):
        await VirtualClock().advance(-1)
