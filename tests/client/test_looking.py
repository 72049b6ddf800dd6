"""Looking: status, results, histories, lists, waits."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Client,
    Context,
    InstanceNotActive,
    InstanceNotFound,
    Status,
    UsageError,
    WorkflowFailed,
    WorkflowTerminated,
    activity,
    repair,
    workflow,
)
from durableflow.model.duration import to_datetime

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of the runtime's conftest.py


@activity
async def double(number: int) -> int:
    return 2 * number


@workflow
async def waits(ctx: Context) -> list[Any]:
    heard = []
    while (word := await ctx.wait_for_event("word")) != "end":
        heard.append(word)
    return heard


@workflow
async def typed(ctx: Context) -> datetime:
    return ctx.now()


@workflow
async def shows(ctx: Context) -> None:
    ctx.set_custom_status({"at": 1})
    await ctx.sleep(60)
    ctx.set_custom_status(None)
    await ctx.wait_for_event("word")


async def test_a_status_says_what_there_is_to_say(world: World) -> None:
    async with world.engine() as engine:
        handle = await engine.start(shows.options(instance_id="i", tags={"k": "v"}))
        now = to_datetime(world.clock.now)
        status = await handle.status()
        assert (status.instance_id, status.workflow, status.version, status.status) == ("i", "shows", 1, Status.RUNNING)
        assert (status.created_at, status.finished_at, status.wakes_at) == (now, None, now + timedelta(seconds=60))
        assert (status.tags, status.custom_status, status.stall_reason) == ({"k": "v"}, {"at": 1}, None)
        await world.advance(60)
        status = await handle.status()
        assert (status.wakes_at, status.custom_status) == (None, None)
        await handle.raise_event("word")
        status = await handle.status()
        assert (status.status, status.finished_at) == (Status.COMPLETED, now + timedelta(seconds=60))


@pytest.mark.parametrize(
    "spoilt",
    [
        "custom_status = x'ff'",
        "created_us = 9000000000000000000",
        "created_us = -9000000000000000000",
        "finished_us = 'never'",
        "wake_us = 9000000000000000000",
        "wake_us = 'never'",
    ],
)
async def test_a_value_that_cannot_be_shown_hides_no_other_instance(sqlite_world: World, spoilt: str) -> None:
    world = sqlite_world
    async with world.engine() as engine:
        for instance_id in ("i", "j"):
            await engine.start(shows.options(instance_id=instance_id))
    with closing(sqlite3.connect(world.path)) as connection:
        connection.execute(f"update instances set {spoilt} where id = 'i'")
        connection.commit()
    async with Client(world.backend(), clock=world.clock) as client:
        found = {each.instance_id: each.custom_status for each in (await client.list()).instances}
    assert found["j"] == {"at": 1}
    assert found["i"] == ("(cannot be read: b'\\xff')" if "custom" in spoilt else {"at": 1})


async def test_results_are_of_the_annotated_type_when_the_workflow_is_known(world: World) -> None:
    async with world.engine() as engine:
        handle = await engine.start(typed)
        expected = to_datetime(world.clock.now)
        assert await handle.result() == expected
        assert await engine.result(handle.id, workflow=typed) == expected
        assert datetime.fromisoformat(await engine.result(handle.id)) == expected


async def test_a_result_that_does_not_come_in_time_is_a_timeout_and_nothing_happens_to_the_instance(
    world: World,
) -> None:
    async with world.engine() as engine, Client(world.backend(), clock=world.clock) as client:
        handle = await engine.start(waits)
        for asker in (engine, client):
            with pytest.raises(TimeoutError, match=r"is not over after 0\.01; it goes on"):
                await asker.result(handle.id, timeout=0.01)
            with pytest.raises(TimeoutError, match="was not COMPLETED within"):
                await asker.wait_for_status(handle.id, Status.COMPLETED, timeout=timedelta(milliseconds=10))
        await handle.raise_event("word", "end")
        assert await handle.result() == []


async def test_a_termination_is_the_end_also_when_the_same_turn_had_decided_something(world: World) -> None:
    """In a row, what was decided before it stands behind it."""
    async with Client(world.backend(), clock=world.clock) as client:
        handle = await client.start(waits.options(instance_id="i"))
        await client.terminate("i", "enough")
        async with world.engine(workflows=[waits]) as engine:
            with pytest.raises(WorkflowTerminated):
                await engine.result("i")
        kinds = [event.kind for event in await client.history("i")]
        assert kinds == ["instance_started", "instance_terminated", "event_awaited"]
        with pytest.raises(WorkflowTerminated):
            await handle.result(timeout=5)
        with pytest.raises(UsageError, match="nothing to go on from"):
            await client.fork("i")


async def test_many_wait_for_one_result(world: World) -> None:
    async with world.engine() as engine, Client(world.backend(), clock=world.clock) as client:
        handle = await engine.start(waits)
        askers = [engine, client] * 25
        waiting = [asyncio.ensure_future(asker.result(handle.id)) for asker in askers]
        await asyncio.sleep(0.01)
        await handle.raise_event("word", "end")
        async with asyncio.timeout(5):
            assert await asyncio.gather(*waiting) == [[]] * 50


@pytest.mark.parametrize("size", [1, 5_000])
async def test_a_result_can_be_asked_for_again_and_after_a_restart(world: World, size: int) -> None:
    @workflow
    async def large(ctx: Context) -> str:
        return "x" * size

    async with world.engine() as engine:
        handle = await engine.start(large)
        assert [len(await handle.result()) for _ in range(3)] == [size] * 3
    async with world.engine() as engine, Client(world.backend(), clock=world.clock) as client:
        assert len(await engine.result(handle.id)) == len(await client.result(handle.id)) == size


async def test_waiting_for_a_status_ends_when_it_is_there_or_can_never_be(world: World) -> None:
    async with world.engine() as engine, Client(world.backend(), clock=world.clock) as client:
        for asker in (engine, client):
            handle = await engine.start(waits)
            suspended = asyncio.ensure_future(asker.wait_for_status(handle.id, Status.SUSPENDED, timeout=5))
            over = asyncio.ensure_future(asker.wait_for_status(handle.id, timeout=5))
            failed = asyncio.ensure_future(asker.wait_for_status(handle.id, Status.FAILED, Status.STALLED, timeout=5))
            await asyncio.sleep(0.01)
            await handle.suspend()
            assert (await suspended).status is Status.SUSPENDED
            await handle.resume()
            await handle.raise_event("word", "end")
            assert (await over).status is Status.COMPLETED
            with pytest.raises(InstanceNotActive, match="the wait for FAILED or STALLED"):
                await failed


async def test_a_history_is_whole_however_many_pages_it_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.engine() as engine:
        handle = await engine.start(waits)
        for n in range(5):
            await handle.raise_event("word", n)
        expected = await handle.history()
        assert [each.seq for each in expected] == list(range(1, 13))
        assert len({each.first_seq for each in expected}) == 6
        for rows in (1, 2, 3, 5, 6, 7):
            monkeypatch.setattr(repair, "_PAGE_ROWS", rows)
            assert await handle.history() == expected
        assert [task.name for task in (await handle.view()).tasks] == ["word"] * 6


async def test_times_in_a_history_never_go_back(world: World) -> None:
    """I9."""
    async with world.engine() as engine:
        handle = await engine.start(waits)
        world.clock.now -= 5_000_000
        await handle.raise_event("word", 1)
        world.clock.now += 9_000_000
        await handle.raise_event("word", "end")
        times = [each.at_us for each in await handle.history()]
        assert times == sorted(times)
        assert len(set(times)) == 2


async def test_instances_are_listed_page_by_page_newest_first(world: World) -> None:
    async with world.engine() as engine:
        made = []
        for n in range(25):
            made.append((await engine.start(waits.options(instance_id=f"i{n:02}", tags={"odd": str(n % 2)}))).id)
            await world.advance(0.001 * (n % 3))
        await engine.terminate("i03")
        page = await engine.list(limit=10)
        found = [*page.instances]
        while page.cursor is not None:
            page = await engine.list(limit=10, cursor=page.cursor)
            found += page.instances
        assert len(found) == 25
        assert [each.created_at for each in found] == sorted((each.created_at for each in found), reverse=True)
        assert {each.instance_id for each in found} == set(made)
        odd = await engine.list(
            tags={"odd": "1"}, status=[Status.RUNNING, Status.PENDING], workflow=waits, id_prefix="i0"
        )
        assert {each.instance_id for each in odd.instances} == {"i01", "i05", "i07", "i09"}
        since = found[4].created_at
        assert {each.instance_id for each in (await engine.list(created_from=since)).instances} == {
            each.instance_id for each in found if each.created_at >= since
        }
        assert {each.instance_id for each in (await engine.list(created_before=since)).instances} == {
            each.instance_id for each in found if each.created_at < since
        }


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1_001}, {"cursor": "x"}, {"cursor": '["a", 1]'}])
async def test_a_list_that_is_asked_for_wrongly_is_refused(memory_world: World, wrong: dict[str, Any]) -> None:
    async with memory_world.engine() as engine:
        with pytest.raises(UsageError):
            await engine.list(**wrong)
        with pytest.raises(ValueError, match="time zone"):
            await engine.list(created_from=datetime(2030, 1, 1))  # noqa: DTZ001  # the mistake
        assert (await engine.list(created_from=datetime(2030, 1, 1, tzinfo=UTC))).cursor is None


async def test_a_result_of_an_instance_that_is_replaced_or_purged_meanwhile_is_never_another_ones(world: World) -> None:
    async with world.engine() as engine, Client(world.backend(), clock=world.clock) as client:
        made = waits.options(instance_id="i", on_conflict="replace")
        for n in range(10):
            handle = await engine.start(made)
            waiting = asyncio.ensure_future(client.result("i"))
            await handle.raise_event("word", n)
            await asyncio.sleep(0.002 * (n % 3))
            await handle.raise_event("word", "end")
            if n % 2:
                await client.purge("i")
            try:
                async with asyncio.timeout(5):
                    assert await waiting == [n]
            except InstanceNotFound:
                assert n % 2


async def test_a_handle_asks_nothing_until_it_is_used(memory_world: World) -> None:
    async with memory_world.engine() as engine:
        handle = engine.handle("nobody")
        assert "nobody" in repr(handle)
        with pytest.raises(InstanceNotFound):
            await handle.status()
        with pytest.raises(UsageError):
            engine.handle("")


async def test_an_instance_that_ran_out_of_time_fails_so(world: World) -> None:
    async with world.engine() as engine:
        handle = await engine.start(waits.options(timeout=5))
        await world.advance(5)
        with pytest.raises(WorkflowFailed, match="TimeoutError"):
            await handle.result()
