"""Debounced starts: the latest input counts, a window has one instance, and a crash takes nothing back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Client,
    Context,
    Flow,
    InstanceNotActive,
    Status,
    UsageError,
    WorkflowFailed,
    WorkflowTerminated,
    activity,
    workflow,
)
from durableflow.errors import StorageError
from durableflow.model import events as ev
from durableflow.testing import WorkflowEnvironment

if TYPE_CHECKING:
    World = Any  # of conftest.py


@activity
async def index(text: str) -> str:
    return f"indexed {text}"


@workflow
def reindex(ctx: Context, text: str) -> Flow[str]:
    return (yield from ctx.call_activity(index, text))


@workflow
def slow(ctx: Context, text: str) -> Flow[str]:
    yield from ctx.sleep(100)
    return text


LATEST = reindex.options(instance_id="page", debounce=5)
KNOWN: dict[str, Any] = {"workflows": [reindex, slow], "activities": [index]}


async def kinds(client: Client, instance_id: str) -> list[str]:
    return [entry.kind for entry in await client.history(instance_id)]


async def test_the_input_of_the_latest_start_counts_and_each_start_pushes_it_on(world: World) -> None:
    async with world.engine() as engine:
        handles = []
        for n in range(4):
            handles.append(await engine.start(LATEST, f"text {n}"))
            await world.advance(3)
        assert len({handle.id for handle in handles}) == 1
        assert handles[0].id.startswith("page/")
        status = await handles[0].status()
        assert status.status is Status.PENDING
        await world.advance(1.9)
        assert (await handles[0].status()).status is Status.PENDING
        await world.advance(0.1)
        assert await handles[0].result() == "indexed text 3"
        assert await kinds(engine, handles[0].id) == [
            "instance_started", "start_changed", "instance_began", "activity_scheduled", "activity_completed",
            "instance_completed",
        ]  # fmt: skip
        assert (await engine.view(handles[0].id)).input == b'["text 3"]'
        assert len((await engine.list()).instances) == 1


async def test_the_limit_counts_from_the_first_start(world: World) -> None:
    limited = LATEST.options(debounce_limit=timedelta(seconds=8))
    async with world.engine() as engine:
        for n in range(5):
            handle = await engine.start(limited, f"text {n}")
            await world.advance(2)
            if n < 3:
                assert (await handle.status()).status is Status.PENDING
        first, second = sorted((await engine.list()).instances, key=lambda each: each.instance_id)
        assert first.status is Status.COMPLETED
        assert await engine.result(first.instance_id) == "indexed text 3"
        assert (second.instance_id, second.status) == (handle.id, Status.PENDING)
        await world.advance(3)
        assert await handle.result() == "indexed text 4"


async def test_a_start_while_the_one_before_is_under_way_begins_the_next_window(world: World) -> None:
    """Nothing that was started is lost, and nobody who runs is disturbed."""
    debounced = slow.options(instance_id="page", debounce=5)
    async with world.engine() as engine:
        first = await engine.start(debounced, "one")
        await world.advance(6)
        second = await engine.start(debounced, "two")
        assert second.id != first.id
        assert second.id == (await engine.start(debounced, "three")).id
        await world.advance(200)
        assert [await first.result(), await second.result()] == ["one", "three"]


async def test_of_fifty_racing_starts_one_instance_is_made_and_the_last_one_written_counts(world: World) -> None:
    async with world.engine(**KNOWN) as engine, Client(world.backend()) as client:
        debounced = LATEST.options(instance_id="race")
        starts = [(engine if n % 2 else client).start(debounced, f"text {n}") for n in range(50)]
        handles = await asyncio.gather(*starts)
        assert len({handle.id for handle in handles}) == 1
        await world.until(lambda: handles[0].id in world.worker(engine).instances.live)
        await world.advance(6)
        await world.until(lambda: world.worker(engine).knows_end_of(handles[0].id))
        assert (await handles[0].result()).startswith("indexed text")
        assert len((await engine.list()).instances) == 1
        assert (await kinds(engine, handles[0].id)).count("start_changed") == 1


@pytest.mark.parametrize("crash_after_s", [0, 3, 4.99, 5])
async def test_a_crash_at_any_moment_takes_no_start_back(world: World, crash_after_s: float) -> None:
    engine = await world.open(**KNOWN)
    await engine.start(LATEST, "one")
    handle = await engine.start(LATEST, "two")
    if crash_after_s:
        await world.advance(crash_after_s)
    await world.crash(engine)
    async with world.engine(**KNOWN) as engine:
        if crash_after_s < 5:
            assert (await engine.start(LATEST, "three")).id == handle.id
        await world.advance(11)
        assert await engine.result(handle.id) == ("indexed three" if crash_after_s < 5 else "indexed two")


async def test_a_crash_between_the_closing_of_the_window_and_the_beginning_takes_nothing_back(world: World) -> None:
    engine = await world.open(**KNOWN)
    await engine.start(LATEST, "one")
    handle = await engine.start(LATEST, "two")
    await world.advance(4)
    await world.crash(engine)
    world.clock.move(world.clock.now + 10_000_000)
    async with Client(world.backend()) as client:  # as the worker would have, before it died
        assert await client._backend.close_window(handle.id, world.clock.now) is None
        later = await client.start(LATEST, "three")
        assert later.id != handle.id
    async with world.engine(**KNOWN) as engine:
        await world.advance(20)
        assert await engine.result(handle.id) == "indexed two"
        assert await engine.result(later.id) == "indexed three"


async def test_starts_while_no_worker_is_there_are_debounced_too(world: World) -> None:
    async with Client(world.backend(), clock=world.clock) as client:
        ids = {(await client.start(LATEST, f"text {n}")).id for n in range(3)}
        assert len(ids) == 1
    world.clock.move(world.clock.now + 60_000_000)
    async with world.engine(**KNOWN) as engine:
        await world.settle()
        await world.advance(1)
        assert await engine.result(ids.pop()) == "indexed text 2"


async def test_a_store_that_cannot_answer_for_a_while_only_delays_the_beginning(world: World, faulty: Any) -> None:
    faults = ["one", "two"]
    real = faulty._real.close_window

    async def close_window(instance_id: str, now_us: int) -> int | None:
        if faults:
            faults.pop()
            raise StorageError("planted")
        closed: int | None = await real(instance_id, now_us)
        return closed

    faulty.close_window = close_window
    async with world.engine(faulty) as engine:
        handle = await engine.start(LATEST, "one")
        await world.advance(10)
        assert not faults
        assert await handle.result() == "indexed one"


async def test_one_that_is_put_out_of_memory_begins_in_time(world: World) -> None:
    async with world.engine(cached_instances=0) as engine:
        handle = await engine.start(LATEST, "one")
        await world.advance(3)
        await engine.start(LATEST, "two")
        await world.advance(4)
        assert (await handle.status()).status is Status.PENDING
        await world.advance(2)
        assert await handle.result() == "indexed two"


async def test_a_waiting_one_can_be_terminated_and_the_next_start_opens_another_window(world: World) -> None:
    async with world.engine() as engine:
        first = await engine.start(LATEST, "one")
        await first.terminate("not wanted")
        second = await engine.start(LATEST, "two")
        assert second.id != first.id
        await world.advance(6)
        assert await second.result() == "indexed two"
        with pytest.raises(WorkflowTerminated):
            await first.result()
        with pytest.raises(InstanceNotActive):
            await first.cancel()


async def test_a_suspended_one_begins_when_it_is_resumed(world: World) -> None:
    async with world.engine() as engine:
        handle = await engine.start(LATEST, "one")
        await handle.suspend()
        await engine.start(LATEST, "two")
        await world.advance(20)
        assert (await handle.status()).status is Status.SUSPENDED
        await handle.resume()
        await world.settle()
        assert await handle.result() == "indexed two"


async def test_the_time_out_counts_from_the_beginning_of_the_latest_start(world: World) -> None:
    hurried = slow.options(instance_id="page", debounce=5, timeout=20)
    async with world.engine() as engine:
        for n in range(10):
            handle = await engine.start(hurried, f"text {n}")
            await world.advance(4)
        assert (await handle.status()).status is Status.PENDING, "36 seconds after the first start"
        await world.advance(20)
        assert (await handle.status()).status is Status.RUNNING
        await world.advance(2)
        with pytest.raises(WorkflowFailed, match="TimeoutError"):
            await handle.result()


async def test_events_that_come_before_it_begins_are_kept(world: World) -> None:
    @workflow
    def listens(ctx: Context, text: str) -> Flow[list[Any]]:
        return [text, (yield from ctx.wait_for_event("go"))]

    debounced = listens.options(instance_id="page", debounce=5)
    async with world.engine() as engine:
        handle = await engine.start(debounced, "one")
        await handle.raise_event("go", 7)
        await engine.start(debounced, "two")
        await world.advance(6)
        assert await handle.result() == ["two", 7]


async def test_a_restart_takes_the_input_that_counted(world: World) -> None:
    async with world.engine() as engine:
        await engine.start(LATEST, "one")
        handle = await engine.start(LATEST, "two")
        await world.advance(6)
        again = await engine.restart(handle.id)
        await world.settle()
        assert await again.result() == "indexed two"


async def test_on_the_virtual_clock_a_window_takes_no_time() -> None:
    async with WorkflowEnvironment() as env:
        debounced = LATEST.options(debounce=timedelta(days=1))
        await env.start(debounced, "one")
        handle = await env.start(debounced, "two")
        assert await handle.result() == "indexed two"


async def test_a_debounced_child_is_refused(world: World) -> None:
    @workflow
    def parent(ctx: Context) -> Flow[str]:
        return (yield from ctx.call_workflow(LATEST, "one"))

    async with world.engine() as engine:
        handle = await engine.start(parent)
        await world.settle()
        with pytest.raises(WorkflowFailed, match="cannot be debounced"):
            await handle.result()


# -- what users write -----------------------------------------------------------------------------------------------


async def test_without_an_id_nobody_knows_which_starts_belong_together(memory_world: World) -> None:
    async with memory_world.engine() as engine:
        with pytest.raises(UsageError, match="has no instance_id"):
            await engine.start(reindex.options(debounce=5), "one")
        with pytest.raises(UsageError, match="over the limit of 500"):
            await engine.start(reindex.options(debounce=5, instance_id="x" * 490), "one")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"debounce_limit": 5}, "without debounce"),
        ({"debounce": 5, "debounce_limit": 4}, "must not be shorter"),
        ({"debounce": 5, "start_delay": 4}, "neither start_at nor start_delay"),
        ({"debounce": 5, "start_at": datetime(2030, 1, 1, tzinfo=UTC)}, "neither start_at nor start_delay"),
        ({"debounce": 5, "on_conflict": "replace"}, "does not go with debounce"),
        ({"debounce": -1}, "debounce is -1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        reindex.options(instance_id="page", **options)


def test_the_event_of_a_changed_start_comes_from_outside() -> None:
    from durableflow.runtime.messages import FROM_OUTSIDE

    assert ev.StartChanged in FROM_OUTSIDE
