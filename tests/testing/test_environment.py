"""The environment: a whole engine for one test, with and without an event loop, on each store."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from durableflow import Context, EventTimeout, InstanceNotFound, Settings, Status, WorkflowFailed, activity, workflow
from durableflow.backends.base import InstanceRecord, Lease
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.core.view import HistoryEvent
from durableflow.testing import (
    BlockingEnvironment,
    History,
    NothingHappens,
    VirtualClock,
    WorkflowEnvironment,
    replay,
)
from durableflow.testing.clock import START


@activity
def shelve(item: str) -> str:
    return f"{item} from shelf 7"


@activity
async def bill(item: str) -> str:
    return f"paid {item}"


@workflow
async def fulfil_lamp(ctx: Context, item: str) -> str:
    goods = await ctx.call_activity(shelve, item)
    try:
        approved = await ctx.wait_for_event("approved", bool, timeout=timedelta(days=2))
    except EventTimeout:
        return "given up"
    if not approved:
        raise ValueError(item)
    return await ctx.call_activity(bill, goods)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'test.db'}"


async def test_an_async_test_drives_a_workflow_to_its_end(store: str) -> None:
    async with WorkflowEnvironment(store) as env:
        handle = await env.start(fulfil_lamp.options(instance_id="o-1", tags={"shop": "north"}), "lamp")
        await env.advance(days=1)
        await handle.raise_event("approved", True)
        assert await handle.result() == "paid lamp from shelf 7"
        assert env.now() == START + timedelta(days=1)
        assert [each.instance_id for each in (await env.engine.list(tags={"shop": "north"})).instances] == ["o-1"]
        assert (await env.handle("o-1", fulfil_lamp).status()).status is Status.COMPLETED
        assert (await handle.assert_replays()).status is Status.COMPLETED


def test_a_plain_test_does_the_same(store: str) -> None:
    with BlockingEnvironment(store) as df:
        handle = df.start(fulfil_lamp.options(instance_id="o-1", tags={"shop": "north"}), "lamp")
        df.advance(days=1)
        handle.raise_event("approved", True)
        assert handle.result() == "paid lamp from shelf 7"
        assert df.now() == START + timedelta(days=1)
        assert [each.instance_id for each in df.engine.list(tags={"shop": "north"}).instances] == ["o-1"]
        assert df.handle("o-1", fulfil_lamp).status().status is Status.COMPLETED
        assert handle.assert_replays().status is Status.COMPLETED


class SlowToTell(SqliteBackend):
    """A store that takes its time over a question, as one on a busy machine does."""

    async def record(self, instance_id: str) -> InstanceRecord | None:
        record = await super().record(instance_id)
        await asyncio.sleep(0.05)
        return record


async def test_no_time_passes_while_who_waits_has_not_been_answered(tmp_path: Path) -> None:
    """A timer that is not wanted any more would else have it pass."""
    async with WorkflowEnvironment(SlowToTell(tmp_path / "test.db")) as env:
        handle = await env.start(fulfil_lamp, "lamp")
        await env.settle()
        await handle.raise_event("approved", True)
        await env.settle()
        assert await handle.result() == "paid lamp from shelf 7"
        assert env.now() == START


def test_every_way_to_say_how_long_comes_to_the_same() -> None:
    with BlockingEnvironment() as df:
        df.advance(90)
        df.advance(timedelta(seconds=90))
        df.advance(weeks=1, days=1, hours=1, minutes=1, seconds=1)
        df.advance(0.5, minutes=1)
        assert df.now() - START == timedelta(weeks=1, days=1, hours=1, minutes=5, seconds=1.5)
        assert df.asynchronous.engine.virtual_clock is df.clock


async def test_run_starts_waits_and_raises_as_result_does() -> None:
    async with WorkflowEnvironment() as env:
        assert await env.run(fulfil_lamp, "lamp") == "given up"
        assert env.now() == START + timedelta(days=2)
    with BlockingEnvironment() as df:
        assert df.run(fulfil_lamp, "lamp") == "given up"
        handle = df.start(fulfil_lamp, "lamp")
        handle.raise_event("approved", False)
        with pytest.raises(WorkflowFailed, match="ValueError: lamp"):
            handle.result()
        with pytest.raises(InstanceNotFound):
            df.handle("nobody").result()


async def test_a_restart_in_the_middle_changes_nothing(store: str) -> None:
    async with WorkflowEnvironment(store) as env:
        env.mock(bill, returns="paid by the stand-in")
        handle = await env.start(fulfil_lamp, "lamp")
        await env.advance(days=1)
        await env.restart()
        await handle.raise_event("approved", True)
        await env.restart()
        assert await handle.result() == "paid by the stand-in"
        env.assert_called(shelve, times=1)
        env.assert_called(bill, times=1)


async def test_a_restart_finds_what_fell_due_meanwhile(store: str) -> None:
    async with WorkflowEnvironment(store) as env:
        handle = await env.start(fulfil_lamp, "lamp")
        await env.advance(days=1)
        await env.restart()
        assert await handle.result() == "given up"
        assert env.now() == START + timedelta(days=2)


class SlowToRecover(MemoryBackend):
    async def due(
        self, after: tuple[int, str], until_us: int, limit: int, lease: Lease | None = None
    ) -> list[tuple[int, str]]:
        await asyncio.sleep(0.02)
        return await super().due(after, until_us, limit, lease)


async def test_time_waits_until_an_engine_has_found_what_is_open() -> None:
    async with WorkflowEnvironment(SlowToRecover(), clock=VirtualClock(patience_s=0.0)) as env:
        handle = await env.start(fulfil_lamp, "lamp")
        await env.settle()
        await env.restart()
        assert await handle.result() == "given up"


async def test_settled_means_that_nothing_more_can_happen_now(store: str) -> None:
    async with WorkflowEnvironment(store) as env:
        handle = await env.start(fulfil_lamp, "lamp")
        await env.settle()
        assert [task.state for task in (await handle.view()).tasks] == ["done", "waiting"]
        assert env.now() == START


async def test_time_skips_alike_on_a_store_that_forgets_nothing(store: str) -> None:
    """With room for one instance only, every alarm has to bring its instance back from the store."""
    async with WorkflowEnvironment(store, settings=Settings(cached_instances=1, check_replay=True)) as env:
        handles = [await env.start(fulfil_lamp, f"lamp {number}") for number in range(5)]
        assert [await handle.result() for handle in handles] == ["given up"] * 5
        assert env.now() == START + timedelta(days=2)
        assert env.engine.statistics().evictions > 0


async def test_leaving_the_environment_does_not_wait_for_what_still_works() -> None:
    release = threading.Event()

    @activity
    def stuck() -> None:
        release.wait(30)

    @workflow
    async def calls_stuck(ctx: Context) -> None:
        await ctx.call_activity(stuck)

    began_s = time.monotonic()
    async with WorkflowEnvironment() as env:
        await env.start(calls_stuck)
    release.set()
    assert time.monotonic() - began_s < 2  # the grace time of an engine is 5 s


async def test_the_history_of_a_handle_can_be_saved_and_replayed(tmp_path: Path) -> None:
    async with WorkflowEnvironment() as env:
        handle = await env.start(fulfil_lamp, "lamp")
        await handle.result()
        await handle.save_history(tmp_path / "fulfil.jsonl")
        assert replay(fulfil_lamp, tmp_path / "fulfil.jsonl").status is Status.COMPLETED
        assert (await handle.saved_history()).events == await handle.history()
        by_id = env.handle(handle.id)
        assert (await by_id.assert_replays()).workflow == "fulfil_lamp"


async def test_the_turns_of_a_history_are_those_that_were_committed(store: str) -> None:
    async with WorkflowEnvironment(store) as env:
        handle = await env.start(fulfil_lamp, "lamp")
        await handle.result()
        rows = await env.engine._backend.history(handle.id, 1, 1_000)
        history = History.of(handle.id, await handle.history())
        assert [(row.first_seq, row.at_us) for row in history.rows] == [(row.first_seq, row.at_us) for row in rows]
        first, *rest = await handle.history()
        assert first == HistoryEvent(1, first.at_us, first.event, 1)
        assert rest


@pytest.fixture
def df() -> Iterator[BlockingEnvironment]:
    with BlockingEnvironment() as environment:
        yield environment


def test_a_plain_test_hears_at_once_what_nobody_will_send(df: BlockingEnvironment) -> None:
    df.clock._patience_s = 0.0

    @workflow
    async def waits(ctx: Context) -> None:
        await ctx.wait_for_event("never")

    with pytest.raises(NothingHappens, match="waits for event 'never'"):
        df.run(waits)


async def test_an_async_test_may_use_the_blocking_environment(df: BlockingEnvironment) -> None:
    df.mock(shelve, returns="goods")
    handle = df.start(fulfil_lamp, "lamp")
    handle.raise_event("approved", True)
    assert handle.result() == "paid goods"
    assert [call.activity for call in df.calls()] == ["shelve", "bill"]


def test_environments_say_what_they_are(df: BlockingEnvironment) -> None:
    assert "2030-01-01T00:00:00+00:00" in repr(df)
    assert repr(df.clock) == "<virtual clock at 2030-01-01T00:00:00+00:00>"
    assert repr(df.mock(shelve, returns="x")) == "<stand-in for activity 'shelve'>"
