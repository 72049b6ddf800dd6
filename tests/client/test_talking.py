"""Talking to instances: events, suspend and resume, cancel, terminate, purge, in every status."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Cancelled,
    Client,
    Context,
    InstanceNotActive,
    InstanceNotFound,
    PayloadError,
    PayloadTooLarge,
    Status,
    UsageError,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
    activity,
    workflow,
)
from durableflow.backends.base import Outgoing

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of the runtime's conftest.py


@workflow
async def waits(ctx: Context) -> list[Any]:
    heard = []
    while (word := await ctx.wait_for_event("word")) != "end":
        heard.append(word)
    return heard


@workflow
async def cleans_up(ctx: Context) -> str:
    try:
        await ctx.wait_for_event("word")
    except Cancelled as cancelled:
        await ctx.sleep(5)
        if cancelled.reason == "stay":
            return "stayed"
        raise
    return "heard"


@workflow
async def fails(ctx: Context) -> None:
    raise ValueError("no")


@workflow
async def ends_at_once(ctx: Context) -> str:
    return "over"


WHO = pytest.mark.parametrize("who", ["engine", "client"])


async def asking(world: World, engine: Any, who: str, stack: AsyncExitStack) -> Any:
    if who == "engine":
        return engine
    return await stack.enter_async_context(Client(world.backend(), clock=world.clock))


async def in_status(world: World, engine: Any, status: Status) -> str:
    """An instance in this status."""
    instance_id = f"{status.value} {len((await engine.list()).instances)}"
    made = waits.options(instance_id=instance_id)
    match status:
        case Status.PENDING:
            await engine.start(made.options(start_delay=1_000))
        case Status.RUNNING:
            await engine.start(made)
        case Status.SUSPENDED:
            await (await engine.start(made)).suspend()
        case Status.COMPLETED:
            await (await engine.start(made)).raise_event("word", "end")
        case Status.FAILED:
            await engine.start(fails.options(instance_id=instance_id))
        case Status.TERMINATED:
            await (await engine.start(made)).terminate("before")
        case Status.CANCELLED:
            await (await engine.start(made)).cancel("before")
        case Status.STALLED:
            async with Client(world.backend(), clock=world.clock) as client:
                await client.start(unknown.options(instance_id=instance_id))
                await engine.wait_for_status(instance_id, Status.STALLED, timeout=5)
    await engine.wait_for_status(instance_id, status, timeout=5)
    return instance_id


@workflow
async def unknown(ctx: Context) -> None:
    await ctx.wait_for_event("word")


async def status_of(engine: Any, instance_id: str) -> Status:
    status: Status = (await engine.status(instance_id)).status
    return status


OVER = [status for status in Status if status.is_terminal]
ACTIVE = [status for status in Status if not status.is_terminal]


@WHO
@pytest.mark.parametrize("status", OVER)
async def test_what_is_over_takes_nothing_and_nothing_is_written(world: World, who: str, status: Status) -> None:
    async with world.engine(workflows=[waits, fails]) as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        instance_id = await in_status(world, engine, status)
        before = await engine.history(instance_id)
        for ask, named in (
            (asker.raise_event(instance_id, "word", 1), "event 'word'"),
            (asker.suspend(instance_id), "suspend"),
            (asker.resume(instance_id), "resume"),
            (asker.cancel(instance_id), "cancel"),
            (asker.terminate(instance_id), "terminate"),
        ):
            with pytest.raises(InstanceNotActive, match=f"is {status.value}, so it cannot take {named}") as refusal:
                await ask
            assert refusal.value.status == status
        assert await engine.history(instance_id) == before
        assert await world.backend().inbox(0, 10) == [] if world.kind == "memory" else True


@WHO
async def test_what_is_not_there_takes_nothing(world: World, who: str) -> None:
    async with world.engine() as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        for ask in (
            asker.raise_event("nobody", "word"), asker.suspend("nobody"), asker.resume("nobody"),
            asker.cancel("nobody"), asker.terminate("nobody"), asker.purge("nobody"), asker.status("nobody"),
            asker.history("nobody"), asker.result("nobody"), asker.wait_for_status("nobody"), asker.view("nobody"),
        ):  # fmt: skip
            with pytest.raises(InstanceNotFound, match="there is no instance 'nobody'"):
                await ask
        assert (await asker.list()).instances == []


@WHO
@pytest.mark.parametrize("status", ACTIVE)
async def test_terminate_wins_once_in_every_status(world: World, who: str, status: Status) -> None:
    """I36."""
    async with world.engine(workflows=[waits]) as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        instance_id = await in_status(world, engine, status)
        await asker.terminate(instance_id, "enough")
        await engine.wait_for_status(instance_id, Status.TERMINATED, timeout=5)
        with pytest.raises(WorkflowTerminated, match="enough"):
            await asker.result(instance_id, timeout=5)
        with pytest.raises(InstanceNotActive):
            await asker.terminate(instance_id, "again")


@WHO
@pytest.mark.parametrize("status", [Status.PENDING, Status.RUNNING, Status.SUSPENDED])
async def test_suspend_and_resume_in_every_status(world: World, who: str, status: Status) -> None:
    """I35: suspended, nothing is delivered and nothing is lost."""
    async with world.engine(workflows=[waits]) as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        instance_id = await in_status(world, engine, status)
        await asker.suspend(instance_id)
        await engine.wait_for_status(instance_id, Status.SUSPENDED, timeout=5)
        for word in (1, 2, "end"):
            await asker.raise_event(instance_id, "word", word)
        await world.advance(2_000)
        assert await status_of(engine, instance_id) is Status.SUSPENDED
        await asker.resume(instance_id)
        assert await asker.result(instance_id, timeout=5) == [1, 2]


async def test_a_suspended_instance_outlives_a_crash_and_an_eviction(world: World) -> None:
    engine = await world.open(workflows=[waits], cached_instances=0)
    handle = await engine.start(waits)
    await handle.suspend()
    await handle.raise_event("word", 1)
    await world.crash(engine)
    async with world.engine(workflows=[waits], cached_instances=0) as engine:
        await engine.raise_event(handle.id, "word", "end")
        assert await status_of(engine, handle.id) is Status.SUSPENDED
        await engine.resume(handle.id)
        assert await engine.result(handle.id) == [1]


@WHO
async def test_cancel_lets_the_workflow_clean_up_or_stay(world: World, who: str) -> None:
    async with world.engine(workflows=[cleans_up]) as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        goes, stays = await engine.start(cleans_up), await engine.start(cleans_up)
        await world.settle()
        await asker.cancel(goes.id, "go")
        await asker.cancel(goes.id, "a second time changes nothing")
        await asker.cancel(stays.id, "stay")
        await world.until(lambda: False, lambda: both_cancelled(engine, goes.id, stays.id))
        await world.advance(4)
        assert await status_of(engine, goes.id) is Status.RUNNING
        await world.advance(1)
        with pytest.raises(WorkflowCancelled, match="go"):
            await asker.result(goes.id, timeout=5)
        assert await asker.result(stays.id, timeout=5) == "stayed"


async def both_cancelled(engine: Any, *instance_ids: str) -> bool:
    histories = [await engine.history(instance_id) for instance_id in instance_ids]
    return all(any(each.kind == "cancel_requested" for each in history) for history in histories)


async def test_cancel_before_the_beginning_ends_it_at_once(world: World) -> None:
    async with world.engine(workflows=[waits]) as engine:
        instance_id = await in_status(world, engine, Status.PENDING)
        await engine.cancel(instance_id, "never mind")
        assert await status_of(engine, instance_id) is Status.CANCELLED


@WHO
@pytest.mark.parametrize("status", Status)
async def test_only_what_is_over_is_purged(world: World, who: str, status: Status) -> None:
    """I40."""
    async with world.engine(workflows=[waits, fails]) as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        instance_id = await in_status(world, engine, status)
        if status.is_terminal:
            await asker.purge(instance_id)
            with pytest.raises(InstanceNotFound):
                await asker.status(instance_id)
            with pytest.raises(InstanceNotFound):
                await asker.result(instance_id)
        else:
            with pytest.raises(InstanceNotActive, match="purge"):
                await asker.purge(instance_id)
            assert await status_of(engine, instance_id) is status


async def test_what_ended_long_ago_is_removed_in_batches_and_the_rest_stays(world: World) -> None:
    async with world.engine() as engine:
        old = [await engine.start(ends_at_once.options(instance_id=f"old-{n}")) for n in range(5)]
        await asyncio.gather(*(handle.result() for handle in old))
        failed = await engine.start(fails.options(instance_id="failed"))
        with pytest.raises(WorkflowFailed):
            await failed.result()
        await engine.start(waits.options(instance_id="open"))
        await world.advance(3_600)
        await (await engine.start(ends_at_once.options(instance_id="new"))).result()
        assert await engine.purge_finished(older_than=7_200) == 0
        assert await engine.purge_finished(older_than=1_800, status=Status.COMPLETED, batch=2) == 5
        assert {each.instance_id for each in (await engine.list()).instances} == {"failed", "open", "new"}
        assert await engine.purge_finished(older_than=timedelta(minutes=30)) == 1
        assert {each.instance_id for each in (await engine.list()).instances} == {"open", "new"}
        await engine.start(ends_at_once.options(instance_id="old-0"))  # its end is forgotten, too


async def test_what_is_not_over_cannot_be_asked_to_be_removed_by_age(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(UsageError, match="instances that are RUNNING, STALLED are not over"):
            await engine.purge_finished(older_than=1, status=[Status.RUNNING, Status.STALLED, Status.FAILED])
        for batch in (0, 1_001):
            with pytest.raises(UsageError, match="must be from 1 to 1,000"):
                await engine.purge_finished(older_than=1, batch=batch)


async def test_many_are_purged_together(world: World) -> None:
    async with world.engine(workflows=[waits, fails]) as engine:
        ids = [await in_status(world, engine, status) for status in Status]
        purged = await engine.purge_many([*ids, "nobody"])
        assert set(purged) == {each for each, status in zip(ids, Status, strict=True) if status.is_terminal}
        assert {each.instance_id for each in (await engine.list()).instances} == set(ids) - set(purged)


# -- events ----------------------------------------------------------------------------------------------------


@WHO
@pytest.mark.parametrize("cached", [0, 100])
async def test_events_of_one_sender_come_in_their_order_whatever_the_case_of_the_name(
    world: World, who: str, cached: int
) -> None:
    """I22."""
    async with world.engine(workflows=[waits], cached_instances=cached) as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        handle = await engine.start(waits)
        for n in range(20):
            await asker.raise_event(handle.id, "WORD" if n % 2 else "word", n)
        await asker.raise_event(handle.id, "Word", "end")
        assert await asker.result(handle.id, timeout=5) == list(range(20))


@pytest.mark.parametrize("cached", [0, 100])
async def test_an_event_with_an_id_is_delivered_once_however_it_is_sent(world: World, cached: int) -> None:
    """I20: by the engine, by others, by both at once, after it was taken, and after a crash."""
    engine = await world.open(workflows=[waits], cached_instances=cached)
    async with Client(world.backend(), clock=world.clock) as client:
        handle = await engine.start(waits.options(instance_id="i"))
        send = [asker.raise_event("i", "word", 1, event_id="e") for _ in range(3) for asker in (engine, client)]
        await asyncio.gather(*send)
        await engine.raise_event("i", "word", 2, event_id="f")
        await world.settle()
        await engine.raise_event("i", "word", 1, event_id="e")
        await client.raise_event("i", "word", 1, event_id="e")
        await world.crash(engine)
        await client.raise_event("i", "word", 1, event_id="e")
        await client.raise_event("i", "word", 2, event_id="f")
        async with world.engine(workflows=[waits], cached_instances=cached) as engine:
            await engine.raise_event("i", "word", 1, event_id="e")
            await engine.raise_event(handle.id, "word", "end", event_id="g")
            async with asyncio.timeout(5):
                assert sorted(await engine.result("i")) == [1, 2]


async def test_acknowledged_events_survive_a_crash_in_the_next_moment(world: World) -> None:
    """I18, I21."""
    engine = await world.open(workflows=[waits])
    handle = await engine.start(waits)
    for n in range(10):
        await handle.raise_event("word", n)
        await world.crash(engine)
        engine = await world.open(workflows=[waits])
        handle = engine.handle(handle.id)
    await handle.raise_event("word", "end")
    assert await handle.result() == list(range(10))
    await world.crash(engine)


async def test_events_wait_for_their_waiter_and_each_wakes_exactly_one(world: World) -> None:
    @workflow
    async def two_waiters(ctx: Context) -> list[Any]:
        await ctx.sleep(10)
        early = ctx.wait_for_event("word")
        late = ctx.wait_for_event("word")
        other = ctx.wait_for_event("other")
        return await ctx.when_all([late, other, early])

    async with world.engine() as engine:
        handle = await engine.start(two_waiters)
        await handle.raise_event("word", 1)
        await handle.raise_event("other", 2)
        await world.advance(10)
        await handle.raise_event("word", 3)
        assert await handle.result() == [3, 2, 1]


async def test_what_cannot_be_sent_is_refused_at_the_door(world: World) -> None:
    async with world.engine(workflows=[waits], payload_limit_bytes=1_000) as engine:
        handle = await engine.start(waits)
        with pytest.raises(PayloadTooLarge):
            await handle.raise_event("word", "x" * 2_000)
        with pytest.raises(PayloadError):
            await handle.raise_event("word", object())
        for bad in ("", "\0"):
            with pytest.raises(UsageError):
                await handle.raise_event(bad)
            with pytest.raises(UsageError):
                await handle.raise_event("word", event_id=bad)
            with pytest.raises(UsageError):
                await engine.raise_event(bad, "word")
        await handle.raise_event("word", "end")
        assert await handle.result() == []


async def test_a_message_of_an_unexpected_kind_is_left_alone(world: World) -> None:
    """What only the engine itself may say is not believed when it comes by the inbox."""
    from durableflow.model import events as ev

    @activity
    async def endless() -> int:
        await asyncio.get_running_loop().create_future()
        return 1

    @workflow
    async def calls(ctx: Context) -> Any:
        task = ctx.call_activity(endless)
        return [(await ctx.when_any(task, ctx.wait_for_event("word"))).result()]

    backend = world.backend()
    async with world.engine() as engine, Client(backend, clock=world.clock):
        handle = await engine.start(calls.options(instance_id="i"))
        for event in (ev.TimerFired(1), ev.InstanceBegan(), ev.InstanceCompleted(b"3"), ev.InstanceTimedOut()):
            await backend.send([Outgoing("i", ev.dump_event(event))])
        await world.settle()
        await handle.raise_event("word", "true")
        assert await handle.result() == ["true"]


async def test_who_fails_is_told_as_it_failed(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(WorkflowFailed, match="ValueError: no") as told:
            await (await engine.start(fails)).result()
        assert (told.value.type_name, told.value.message) == ("ValueError", "no")
        assert "test_talking.py" in told.value.traceback_text


async def test_what_is_terminated_in_its_first_turn_is_seen_to_be_over(world: World, tmp_path: Path) -> None:
    """Start and termination come together: what the code decides in between stands behind the end."""
    async with Client(world.backend(), clock=world.clock) as client:
        handle = await client.start(waits)
        await handle.terminate("at once")
        async with world.engine(workflows=[waits]) as engine:
            for asker in (client, engine):
                with pytest.raises(WorkflowTerminated, match="at once"):
                    await asker.result(handle.id, timeout=5)
            kinds = [entry.kind for entry in await handle.history()]
            assert kinds == ["instance_started", "instance_terminated", "event_awaited"]
            await client.export_instances(tmp_path / "over.jsonl", [handle.id])
            await client.purge(handle.id)
            assert (await client.import_instances(tmp_path / "over.jsonl")).imported == 1
