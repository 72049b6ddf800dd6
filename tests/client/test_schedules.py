"""Schedules as their users see them: made, put, changed, paused, triggered, backfilled, looked at, deleted."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    BlockingEngine,
    Client,
    Context,
    Cron,
    Interval,
    PayloadError,
    PayloadTooLarge,
    Schedule,
    ScheduleExists,
    ScheduleNotFound,
    Status,
    UsageError,
    workflow,
)
from durableflow.backends.base import ScheduleRow, ScheduleWrite
from durableflow.blocking import BlockingSchedules
from durableflow.errors import CorruptSchedule
from durableflow.schedules import Schedules

if TYPE_CHECKING:
    World = Any  # of the runtime's conftest.py

HOURS = 3_600.0
HOUR = timedelta(hours=1)


@workflow
async def report(ctx: Context, name: str, pages: int = 1) -> str:
    return f"{pages} of {name}"


@workflow(version=2, timeout=60)
async def waits(ctx: Context) -> str:
    return await ctx.wait_for_event("go", str)


FLOWS = [report, waits]


def now(world: World) -> datetime:
    return datetime.fromtimestamp(world.clock.now / 1_000_000, UTC)


# -- making -----------------------------------------------------------------------------------------------------------


async def test_a_view_says_all_of_a_schedule(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        schedule = Schedule(Interval(HOUR), overlap="buffer_one", catch_up=60, jitter=0)
        made = await engine.schedules.create("s", schedule, report.options(tags={"a": "b"}), "sales", pages=3)
        assert (made.id, made.schedule, made.workflow, made.version) == ("s", schedule, "report", 1)
        assert (made.tags, made.is_paused, made.note, made.waiting, made.recent) == ({"a": "b"}, False, "", [], [])
        assert (made.created_at, made.changed_at) == (now(world), now(world))
        assert len(made.next) == 5
        assert made.next[1] - made.next[0] == HOUR
        await world.advance(12 * HOURS)
        view = await engine.schedules.get("s")
        assert (view.fired, view.missed, view.skipped) == (12, 0, 0)
        assert len(view.recent) == 10
        latest = view.recent[0]
        assert (latest.kind, latest.slot, latest.at) == ("slot", latest.at, latest.slot)
        assert latest.slot > view.recent[1].slot
        assert await engine.result(latest.instance_id) == "3 of sales"


async def test_an_id_is_taken_once_and_free_when_its_schedule_is_deleted(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await engine.schedules.create("s", Interval(HOUR), report, "a")
        with pytest.raises(ScheduleExists, match="'s' exists; write put"):
            await engine.schedules.create("s", Interval(HOUR), report, "a")
        await world.advance(HOURS)
        await engine.schedules.delete("s")
        with pytest.raises(ScheduleNotFound):
            await engine.schedules.get("s")
        await world.advance(2 * HOURS)
        assert len((await engine.list()).instances) == 1, "what was started stays, and no other is"
        await engine.schedules.create("s", Interval(HOUR), report, "b")
        await world.advance(HOURS)
        assert (await engine.schedules.get("s")).fired == 1


async def test_of_many_who_create_the_same_one_does(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        made = await asyncio.gather(
            *(engine.schedules.create("s", Interval(HOUR), report, "a") for _ in range(10)), return_exceptions=True
        )
        assert sum(isinstance(each, ScheduleExists) for each in made) == 9
        await asyncio.gather(*(engine.schedules.put("s", Interval(HOUR), report, str(n)) for n in range(10)))
        await world.advance(HOURS)
        assert (await engine.schedules.get("s")).fired == 1


async def test_put_changes_what_is_asked_and_keeps_the_rest(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        made = await engine.schedules.put("s", Interval(HOUR), report, "a")
        await world.advance(HOURS)
        await engine.schedules.pause("s", "holidays")
        kept = await engine.schedules.put("s", Interval(HOUR), report, "a")
        assert (kept.fired, kept.is_paused, kept.note, kept.created_at) == (1, True, "holidays", made.created_at)
        changed = await engine.schedules.put("s", Schedule(Interval(HOUR), overlap="allow"), waits)
        assert (changed.workflow, changed.version, changed.input) == ("waits", 2, b"[]")
        assert (changed.fired, changed.schedule.overlap, changed.is_paused) == (1, "allow", True)


async def test_put_of_the_same_slots_at_the_start_of_a_program_forgets_no_slot_of_the_time_before(world: World) -> None:
    engine = await world.open(workflows=FLOWS)
    await engine.schedules.put("s", Schedule(Interval(HOUR), overlap="allow"), report, "a")
    await world.crash(engine)
    world.clock.move(world.clock.now + 3 * 3_600_000_000)
    async with Client(world.backend(), clock=world.clock) as client:
        await client.schedules.put("s", Schedule(Interval(HOUR), overlap="allow", jitter=1), report, "b")
    async with world.engine(workflows=FLOWS) as engine:
        await world.advance(1)
        assert (await engine.schedules.get("s")).fired == 3


async def test_an_engine_knows_the_workflow_that_its_schedule_starts(world: World) -> None:
    async with world.engine() as engine:
        await engine.schedules.create("s", Interval(HOUR), report, "a")
        await world.advance(HOURS)
        assert [each.status for each in (await engine.list()).instances] == [Status.COMPLETED]


async def test_the_timeout_of_the_workflow_counts_from_the_start_of_each_instance(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await engine.schedules.create("s", Interval(HOUR), waits)
        await world.advance(HOURS)
        await world.advance(60)
        assert [each.status for each in (await engine.list()).instances] == [Status.FAILED]


@pytest.mark.parametrize(
    ("flow", "said"),
    [
        (report.options(instance_id="i"), "leave instance_id out"),
        (report.options(start_delay=5), "leave start_at and start_delay out"),
        (print, "a schedule starts a workflow, not <built-in function print>"),
    ],
    ids=["instance_id", "start_delay", "no workflow"],
)
async def test_what_a_schedule_cannot_start_is_refused(memory_world: World, flow: Any, said: str) -> None:
    async with memory_world.engine() as engine:
        with pytest.raises(UsageError, match=said):
            await engine.schedules.create("s", Interval(HOUR), flow, "a")


async def test_arguments_that_cannot_be_stored_are_refused(memory_world: World) -> None:
    async with memory_world.engine(payload_limit_bytes=100) as engine:
        with pytest.raises(PayloadTooLarge):
            await engine.schedules.create("s", Interval(HOUR), report, "x" * 200)
        with pytest.raises(PayloadError):
            await engine.schedules.create("s", Interval(HOUR), report, object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(UsageError, match="the schedule id"):
            await engine.schedules.create(" ", Interval(HOUR), report, "a")
        assert not (await engine.schedules.list()).schedules


# -- changing ---------------------------------------------------------------------------------------------------------


async def test_a_pause_starts_nothing_and_what_passed_is_not_caught_up(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await engine.schedules.create("s", Interval(HOUR), report, "a")
        paused = await engine.schedules.pause("s", "holidays")
        assert (paused.is_paused, paused.note, paused.next) == (True, "holidays", [])
        await world.advance(5 * HOURS)
        assert not (await engine.list()).instances
        assert (await engine.schedules.pause("s")).note == "holidays", "a second time changes nothing"
        resumed = await engine.schedules.resume("s", "back")
        assert (resumed.is_paused, resumed.note) == (False, "back")
        await world.advance(HOURS)
        view = await engine.schedules.get("s")
        assert (view.fired, view.missed, view.skipped) == (1, 0, 0)
        assert (await engine.schedules.resume("s", "back")).changed_at == view.changed_at


async def test_new_slots_count_from_now(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await engine.schedules.create("s", Interval(30 * HOUR), report, "a")
        await world.advance(5 * HOURS)
        changed = await engine.schedules.update("s", Interval(HOUR))
        assert changed.next[0] > now(world)
        assert changed.next[0] <= now(world) + HOUR
        await world.advance(HOURS)
        view = await engine.schedules.update("s", Schedule(Interval(HOUR), overlap="allow"))
        assert (view.fired, view.missed, view.schedule.overlap) == (1, 0, "allow")


@pytest.mark.parametrize("call", ["get", "pause", "resume", "delete", "trigger"])
async def test_what_is_not_there_is_not_found(memory_world: World, call: str) -> None:
    async with memory_world.engine() as engine:
        with pytest.raises(ScheduleNotFound, match="there is no schedule 'nobody'"):
            await getattr(engine.schedules, call)("nobody")
        with pytest.raises(ScheduleNotFound):
            await engine.schedules.update("nobody", Interval(1))
        with pytest.raises(ScheduleNotFound):
            await engine.schedules.backfill("nobody", now(memory_world) - HOUR, now(memory_world))


# -- by hand ----------------------------------------------------------------------------------------------------------


async def test_a_trigger_starts_one_at_once_paused_or_not_and_the_same_id_no_other(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await engine.schedules.create("s", Interval(HOUR), report, "a")
        await engine.schedules.pause("s")
        first = await engine.schedules.trigger("s", trigger_id="by-hand")
        assert first == "s/trigger/by-hand"
        assert await engine.result(first) == "1 of a"
        assert await engine.schedules.trigger("s", trigger_id="by-hand") == first
        both = await asyncio.gather(*(engine.schedules.trigger("s", trigger_id="again") for _ in range(5)))
        assert set(both) == {"s/trigger/again"}
        other = await engine.schedules.trigger("s")
        assert await engine.result(other) == "1 of a"
        view = await engine.schedules.get("s")
        assert (view.fired, view.is_paused) == (3, True)
        assert [each.kind for each in view.recent] == ["trigger"] * 3


async def test_a_slot_is_skipped_while_a_triggered_one_is_open(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await engine.schedules.create("s", Interval(HOUR), waits.options(timeout=10 * HOUR))
        await engine.schedules.trigger("s")
        await world.advance(HOURS)
        view = await engine.schedules.get("s")
        assert (view.fired, view.skipped) == (1, 1)


async def test_a_backfill_fires_what_has_not_been_fired_and_nothing_twice(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await engine.schedules.create("s", Interval(HOUR), report, "a")
        await world.advance(2 * HOURS)
        start, end = now(world) - 10 * HOUR, now(world)
        started = await engine.schedules.backfill("s", start, end)
        assert len(started) >= 8
        assert await engine.schedules.backfill("s", start, end) == []
        for each in started:
            assert await engine.result(each) == "1 of a"
        assert len((await engine.list()).instances) == 2 + len(started)
        view = await engine.schedules.get("s")
        assert (view.fired, view.recent[0].kind) == (2 + len(started), "backfill")


async def test_a_backfill_until_now_may_go_by_a_clock_that_is_ahead(memory_world: World) -> None:
    async with memory_world.engine(workflows=FLOWS) as engine:
        await engine.schedules.create("s", Interval(timedelta(seconds=10)), report, "a")
        at = now(memory_world)
        ahead = await engine.schedules.backfill("s", at - timedelta(seconds=30), at + timedelta(seconds=59))
        assert len(ahead) == 3, "what is not due yet fires by itself"


async def test_a_backfill_of_hundreds_goes_in_parts(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await engine.schedules.create("s", Cron("0 0 * * *"), report, "a")
        started = await engine.schedules.backfill("s", now(world) - timedelta(days=250), now(world))
        assert len(set(started)) == 250
        assert (await engine.schedules.get("s")).fired == 250


async def test_a_backfill_one_by_one_starts_each_when_the_one_before_is_over(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await engine.schedules.create("s", Schedule(Interval(HOUR), overlap="allow"), waits.options(timeout=HOUR))
        began = now(world)
        await world.advance(0.2 * HOURS)
        line = await engine.schedules.backfill("s", began - 3 * HOUR, began, one_by_one=True)
        assert len(line) == 3
        assert await engine.schedules.backfill("s", began - 3 * HOUR, began, one_by_one=True) == []
        for each in line:
            await world.settle()
            assert [i.instance_id for i in (await engine.list(status=Status.RUNNING)).instances] == [each]
            await engine.raise_event(each, "go", "on")
            assert await engine.result(each) == "on"


async def test_a_backfill_that_cannot_be_is_refused(memory_world: World) -> None:
    async with memory_world.engine(workflows=FLOWS) as engine:
        await engine.schedules.create("s", Interval(1), report, "a")
        schedules, at = engine.schedules, now(memory_world)
        with pytest.raises(UsageError, match="nothing lies between"):
            await schedules.backfill("s", at, at)
        with pytest.raises(UsageError, match="in the future"):
            await schedules.backfill("s", at, at + HOUR)
        with pytest.raises(UsageError, match="more than 10,000 slots"):
            await schedules.backfill("s", at - timedelta(days=1), at)
        with pytest.raises(UsageError, match="more than 1,000 slots"):
            await schedules.backfill("s", at - HOUR, at, one_by_one=True)
        await schedules.pause("s")
        await schedules.backfill("s", at - timedelta(seconds=800), at, one_by_one=True)
        with pytest.raises(UsageError, match="1,600 slots that wait"):
            await schedules.backfill("s", at - timedelta(seconds=1_600), at - timedelta(seconds=800), one_by_one=True)
        with pytest.raises(ValueError, match="time zone"):
            await schedules.backfill("s", at.replace(tzinfo=None), at)


# -- looking ----------------------------------------------------------------------------------------------------------


async def test_schedules_are_listed_in_pages(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        for each in "bca":
            await engine.schedules.create(each, Interval(HOUR), report, each)
        first = await engine.schedules.list(limit=2)
        assert [each.id for each in first.schedules] == ["a", "b"]
        rest = await engine.schedules.list(limit=2, cursor=first.cursor)
        assert ([each.id for each in rest.schedules], rest.cursor) == (["c"], None)
        with pytest.raises(UsageError, match="limit is 0"):
            await engine.schedules.list(limit=0)


async def test_what_cannot_be_read_says_so_and_can_be_deleted(world: World) -> None:
    backend = world.backend()
    async with world.engine(backend, workflows=FLOWS) as engine:
        await backend.write_schedule(ScheduleWrite("s", 0, ScheduleRow("s", 1, None, b"[]")))
        with pytest.raises(CorruptSchedule, match=r"'s' cannot be read: .*delete it"):
            await engine.schedules.get("s")
        assert list((await engine.schedules.list()).unreadable) == ["s"]
        await engine.schedules.delete("s")
        assert not (await engine.schedules.list()).unreadable


# -- without an event loop --------------------------------------------------------------------------------------------


def test_the_twin_has_all_that_there_is() -> None:
    def surface(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert surface(Schedules) == surface(BlockingSchedules) - {"asynchronous", "loop_thread"}


def test_code_without_an_event_loop_can_do_the_same(memory_world: World) -> None:
    with BlockingEngine(memory_world.backend(), workflows=FLOWS, activities=(), clock=memory_world.clock) as engine:
        assert engine.schedules.create("s", Interval(HOUR), report, "a").fired == 0
        assert engine.schedules.put("s", Interval(HOUR), report, "b", 2).input == b'["b",2]'
        assert engine.result(engine.schedules.trigger("s")) == "2 of b"
        assert engine.schedules.pause("s").is_paused
        assert not engine.schedules.resume("s").is_paused
        assert engine.schedules.update("s", Interval(60)).schedule.spec == Interval(60)
        assert len(engine.schedules.backfill("s", now(memory_world) - HOUR, now(memory_world))) == 60
        assert [each.id for each in engine.schedules.list().schedules] == ["s"]
        assert engine.schedules.get("s").fired == 61
        engine.schedules.delete("s")
        with pytest.raises(ScheduleNotFound):
            engine.schedules.get("s")
