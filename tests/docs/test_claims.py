"""What the pages say in words and no block shows, tried as a reader would."""

import asyncio
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durableflow import (
    ActivityFailed,
    Cancelled,
    Client,
    Context,
    Engine,
    InstanceNotActive,
    InstanceStalled,
    PayloadError,
    RetryPolicy,
    Settings,
    Status,
    TaskCancelled,
    UsageError,
    Workflow,
    WorkflowFailed,
    WorkflowTerminated,
    activity,
    activity_context,
    workflow,
)
from durableflow.backends.memory import MemoryBackend
from durableflow.runtime.clock import SystemClock


@activity
def double(x: int) -> int:
    return 2 * x


@activity
def echo(text: str) -> str:
    return text


@workflow
async def waits(ctx: Context) -> Any:
    return await ctx.wait_for_event("go")


def changed_workflow(argument: int) -> Workflow[[], Any]:
    @workflow(name="changed")
    async def changed(ctx: Context) -> Any:
        doubled = await ctx.call_activity(double, argument)
        return doubled, await ctx.wait_for_event("go")

    return changed


async def leave_one_waiting(store: MemoryBackend | str) -> None:
    """Instance 'c' has the result of double(1) and waits; the tests come with code that asks for double(2)."""
    async with Engine(store, workflows=[old := changed_workflow(1)]) as engine:
        handle = await engine.start(old.options(instance_id="c"))
        async with asyncio.timeout(10):
            while len(await handle.history()) < 4:  # noqa: ASYNC110  # nothing tells of a turn that ends nothing
                await asyncio.sleep(0.001)


async def waiting_store() -> MemoryBackend:
    store = MemoryBackend()
    await leave_one_waiting(store)
    return store


# -- stalled instances ------------------------------------------------------------------------------------------------


async def test_a_stalled_instance_keeps_what_it_is_sent_and_goes_on_with_the_old_code() -> None:
    store = await waiting_store()
    async with Engine(store, workflows=[changed_workflow(2)]) as engine:
        await engine.raise_event("c", "go", "kept")
        status = await engine.wait_for_status("c", Status.STALLED)
        assert "recorded activity 'double' [1]" in str(status.stall_reason)
        with pytest.raises(InstanceStalled, match=r"asks for activity 'double' \[2\] at .*test_claims.py:\d+"):
            await engine.result("c")
    async with Engine(store, workflows=[changed_workflow(1)], activities=[double]) as engine:
        assert await engine.result("c") == [2, "kept"]


async def test_an_instance_that_wants_an_unknown_activity_goes_on_when_it_is_registered() -> None:
    @workflow
    async def by_name(ctx: Context) -> int:
        return await ctx.call_activity_by_name("triple", 4, result_type=int)

    @activity
    def triple(x: int) -> int:
        return 3 * x

    async with Engine("memory://") as engine:
        handle = await engine.start(by_name)
        with pytest.raises(InstanceStalled, match="activity 'triple' is not registered here"):
            await handle.result()
        engine.register(triple)
        assert await handle.result() == 12


async def test_a_stalled_instance_can_be_terminated_and_purged() -> None:
    store = await waiting_store()
    async with Engine(store, workflows=[changed_workflow(2)]) as engine:
        await engine.raise_event("c", "go", "kept")
        await engine.terminate("c", "enough")
        with pytest.raises(WorkflowTerminated, match="enough"):
            await engine.result("c")
        assert [entry.kind for entry in await engine.history("c")][-1] == "instance_terminated"
        assert (await engine.history("c"))[-1].seq == 5
        await engine.purge("c")


async def test_an_instance_with_an_unreadable_message_stalls_and_can_be_terminated(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with Engine(url) as engine:
        await engine.start(waits.options(instance_id="p"))
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("insert into inbox (instance, data) values ('p', x'00ff')")
    connection.close()
    async with Engine(url) as engine, asyncio.timeout(10):
        await engine.raise_event("p", "go")
        status = await engine.wait_for_status("p", Status.STALLED)
        assert "message 1 in its inbox cannot be read" in str(status.stall_reason)
        await engine.terminate("p")
        assert (await engine.status("p")).status is Status.TERMINATED


async def test_a_client_terminates_a_stalled_instance_through_the_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    await leave_one_waiting(url)
    async with Engine(url, workflows=[changed_workflow(2)]) as engine, Client(url) as client, asyncio.timeout(10):
        await client.raise_event("c", "go")
        await engine.wait_for_status("c", Status.STALLED)
        await client.terminate("c")
        assert (await client.wait_for_status("c")).status is Status.TERMINATED


# -- limits of time ---------------------------------------------------------------------------------------------------


async def test_schedule_to_close_ends_an_attempt_that_runs() -> None:
    stopped = asyncio.Event()

    @activity(schedule_to_close=0.05)
    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    @workflow
    async def impatient(ctx: Context) -> None:
        await ctx.call_activity(endless)

    async with Engine("memory://") as engine:
        handle = await engine.start(impatient)
        with pytest.raises(WorkflowFailed, match=r"TimeoutError.*was not done within 0.05 s of being scheduled"):
            await handle.result(timeout=10)
        async with asyncio.timeout(10):
            await stopped.wait()


async def test_the_timeout_of_an_instance_counts_while_it_is_suspended() -> None:
    async with Engine("memory://") as engine:
        handle = await engine.start(waits.options(timeout=0.05))
        await handle.suspend()
        with pytest.raises(WorkflowFailed, match="was not over before its timeout"):
            await handle.result(timeout=10)


async def test_of_two_start_times_the_later_counts() -> None:
    async with Engine("memory://") as engine:
        late = datetime.now(UTC) + timedelta(days=2)
        handle = await engine.start(waits.options(start_at=late, start_delay=timedelta(days=1)))
        status = await handle.status()
        assert status.status is Status.PENDING
        assert status.wakes_at == late


async def test_a_wait_of_a_caller_that_ends_says_for_what() -> None:
    async with Engine("memory://") as engine:
        handle = await engine.start(waits.options(instance_id="w"))
        with pytest.raises(TimeoutError, match=r"instance 'w' is not over after 0.01; it goes on"):
            await handle.result(timeout=0.01)
        with pytest.raises(TimeoutError, match=r"instance 'w' was not COMPLETED within 0.01; it goes on"):
            await handle.wait_for_status(Status.COMPLETED, timeout=0.01)


# -- control ----------------------------------------------------------------------------------------------------------


async def test_what_comes_too_late_is_refused_by_its_name() -> None:
    async with Engine("memory://") as engine:
        handle = await engine.start(waits.options(instance_id="w"))
        await handle.raise_event("go")
        await handle.result()
        for ask, name in (
            (handle.raise_event("go"), "event 'go'"),
            (handle.suspend(), "suspend"),
            (handle.terminate(), "terminate"),
        ):
            with pytest.raises(InstanceNotActive, match=f"instance 'w' is COMPLETED, so it cannot take {name}"):
                await ask


async def test_a_workflow_may_refuse_its_cancellation_and_is_asked_once() -> None:
    asked = list[str]()

    @workflow
    async def stubborn(ctx: Context) -> str:
        wait = ctx.wait_for_event("go", str)
        try:
            return await wait
        except Cancelled as cancelled:
            asked.append(cancelled.reason)
        return f"{await wait}, cancelled={ctx.is_cancelled}"  # the wait itself is still open

    async with Engine("memory://") as engine:
        handle = await engine.start(stubborn)
        await handle.cancel("first")
        await handle.cancel("second")
        await handle.raise_event("go", "went")
        assert await handle.result() == "went, cancelled=True"
        assert asked == ["first"]


async def test_cancelling_an_instance_interrupts_its_own_wait_and_no_branch() -> None:
    @workflow
    async def parent(ctx: Context) -> str:
        async def branch() -> str:
            return await ctx.wait_for_event("branch", str)

        task = ctx.spawn(branch())
        try:
            await ctx.wait_for_event("never")
        except Cancelled:
            return await task
        raise AssertionError

    async with Engine("memory://") as engine:
        handle = await engine.start(parent)
        await handle.cancel()
        await handle.raise_event("branch", "undisturbed")
        assert await handle.result() == "undisturbed"


async def test_a_cancelled_branch_cleans_up_before_its_task_is_done() -> None:
    @workflow
    async def parent(ctx: Context) -> list[str]:
        told = list[str]()

        async def branch() -> None:
            try:
                await ctx.wait_for_event("never")
            finally:
                told.append(str(await ctx.call_activity(double, 4)))

        task = ctx.spawn(branch())
        await ctx.sleep(0)
        assert task.cancel()
        try:
            await task
        except TaskCancelled:
            told.append("cancelled")
        return told

    async with Engine("memory://") as engine:
        assert await (await engine.start(parent)).result() == ["8", "cancelled"]


async def test_an_event_that_does_not_fit_is_used_up() -> None:
    @workflow
    async def picky(ctx: Context) -> str:
        try:
            return str(await ctx.wait_for_event("count", int))
        except PayloadError:
            return f"second: {await ctx.wait_for_event('COUNT', int)}"

    async with Engine("memory://") as engine:
        handle = await engine.start(picky)
        await handle.raise_event("count", "many")
        await handle.raise_event("Count", 2)
        assert await handle.result() == "second: 2"


# -- activities -------------------------------------------------------------------------------------------------------


async def test_attempts_share_a_key_and_see_the_last_heartbeat() -> None:
    seen = list[tuple[int, str, Any]]()

    @activity(retry=RetryPolicy(max_attempts=2, initial=0))
    async def resumes() -> None:
        attempt = activity_context()
        seen.append((attempt.attempt, attempt.idempotency_key, attempt.heartbeat_details))
        attempt.heartbeat({"page": attempt.attempt})
        await asyncio.sleep(0.01)  # recorded with the next commit
        raise ValueError

    @workflow
    async def parent(ctx: Context) -> int:
        try:
            await ctx.call_activity(resumes)
        except ActivityFailed as failed:
            return failed.attempts if failed.is_type(ValueError) else 0
        return 0

    async with Engine("memory://") as engine:
        assert await (await engine.start(parent.options(instance_id="i"))).result() == 2
    assert seen == [(1, "i/1", None), (2, "i/1", {"page": 1})]


async def test_subclasses_of_what_must_not_be_retried_are_not_retried_either() -> None:
    @activity(retry=RetryPolicy(initial=0, no_retry_on=[LookupError]))
    def fails() -> None:
        raise KeyError("x")

    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.call_activity(fails)

    async with Engine("memory://") as engine:
        with pytest.raises(WorkflowFailed, match="failed after 1 attempt: KeyError"):
            await (await engine.start(parent)).result()


def test_the_context_of_an_activity_is_refused_elsewhere() -> None:
    with pytest.raises(UsageError, match="works only inside an activity"):
        activity_context()


# -- engines and stores -----------------------------------------------------------------------------------------------


@pytest.mark.slow  # the second engine looks five times a second
async def test_a_second_engine_is_a_client_and_takes_over(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with Engine(url) as second_to_close:
        assert second_to_close.is_leading
        async with Engine(url) as engine, asyncio.timeout(10):
            assert not engine.is_leading
            handle = await engine.start(waits)
            await handle.raise_event("go", 1)
            assert await handle.result() == 1
            await second_to_close.__aexit__()
            await engine.wait_until_leading()
            handle = await engine.start(waits)
            await handle.raise_event("go", 2)
            assert await handle.result() == 2


def test_an_instance_that_is_run_again_by_its_id_gives_the_recorded_result(tmp_path: Path) -> None:
    calls = list[int]()

    @activity
    def noted(x: int) -> int:
        calls.append(x)
        return x

    @workflow
    async def once(ctx: Context, x: int) -> int:
        return await ctx.call_activity(noted, x)

    for argument in (1, 2):
        assert Engine(f"sqlite:///{tmp_path}/store.db").run(once.options(instance_id="the-one"), argument) == 1
    assert calls == [1]


async def test_no_store_loses_time_to_a_cache_of_none() -> None:
    async with Engine("memory://", settings=Settings(cached_instances=0)) as engine:
        began = time.monotonic()
        handles = [await engine.start(waits) for _ in range(50)]
        for handle in handles:
            await handle.raise_event("go", 1)
            assert await handle.result() == 1
        assert time.monotonic() - began < 5
        assert engine.statistics().live_instances == 0


async def test_a_wait_that_is_cancelled_at_the_moment_of_its_news_ends() -> None:
    # Else an engine that closes at such a moment never ends: `asyncio.wait_for` of Python 3.11 swallows it.
    store, changed = MemoryBackend(), asyncio.Event()
    for wait, news in (
        (lambda: store.wait_for_change(10), lambda: asyncio.ensure_future(store.send([]))),
        (lambda: SystemClock().wait(changed, None), changed.set),
    ):
        for ticks in range(4):
            changed.clear()
            waiting = asyncio.ensure_future(wait())
            await asyncio.sleep(0.001)
            news()
            for _ in range(ticks):
                await asyncio.sleep(0)
            if waiting.cancel():
                await asyncio.wait([waiting])
                assert waiting.cancelled(), ticks


async def test_a_copy_of_an_instance_that_passes_its_id_on_stalls() -> None:
    @workflow
    async def passes_on(ctx: Context) -> Any:
        await ctx.call_activity(echo, ctx.instance_id)
        return await ctx.wait_for_event("go")

    async with Engine(MemoryBackend(), workflows=[passes_on], activities=[echo]) as engine:
        first = await engine.start(passes_on.options(instance_id="first"))
        await engine.wait_for_status("first", Status.RUNNING)
        async with asyncio.timeout(10):
            while len(await first.history()) < 4:  # noqa: ASYNC110  # nothing tells of a turn that ends nothing
                await asyncio.sleep(0.001)
        await first.fork(new_id="second")
        status = await engine.wait_for_status("second", Status.STALLED, timeout=10)
        assert "activity 'echo'" in str(status.stall_reason)
