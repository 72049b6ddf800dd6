"""What an engine fires: each slot makes one instance, whatever crashes, and however long nobody was there."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Calendar,
    Client,
    Context,
    Cron,
    Engine,
    Interval,
    Schedule,
    Status,
    slot_of,
    workflow,
)
from durableflow.backends.base import InstanceRecord, Lease, ScheduleRow, ScheduleWrite
from durableflow.errors import CommitOutcomeUnknown, StorageError
from durableflow.model.schedule import Overlap
from durableflow.observe import facts
from durableflow.testing import VirtualClock, VirtualEngine

if TYPE_CHECKING:
    World = Any  # of the runtime's conftest.py

HOUR = timedelta(hours=1)
HOURS = 3_600.0
MINUTE_US = 60_000_000


@workflow
async def report(ctx: Context, name: str) -> str:
    slot = slot_of(ctx.instance_id)
    return f"{name} of {slot:%H:%M}" if slot else f"{name} by hand"


@workflow
async def until_told(ctx: Context) -> str:
    return await ctx.wait_for_event("go", str)


FLOWS = [report, until_told]


async def ids(client: Client, *statuses: Status) -> list[str]:
    """Instances, the oldest slot first, without the name of their schedule and the date."""
    page = await client.list(status=statuses or None, limit=1_000)
    return sorted(each.instance_id.partition("/")[2][-9:-1] for each in page.instances)


# -- the ordinary way -----------------------------------------------------------------------------------------------


async def test_each_slot_starts_an_instance_with_the_arguments_and_tags(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        view = await engine.schedules.create("sales", Interval(HOUR), report.options(tags={"of": "eu"}), name="sales")
        first, second = view.next[:2]
        await world.advance(2 * HOURS)
        record, other = (await engine.list(tags={"schedule": "sales"})).instances
        assert record.instance_id == f"sales/{second:%Y-%m-%dT%H:%M:%S}Z"
        assert other.instance_id == f"sales/{first:%Y-%m-%dT%H:%M:%S}Z"
        assert record.tags == {"of": "eu", "schedule": "sales", "slot": second.isoformat()}
        assert record.created_at == second
        assert await engine.result(record.instance_id) == f"sales of {second:%H:%M}"
        assert [(f.schedule_id, f.late_us) for f in world.told(facts.ScheduleFired)] == [("sales", 0)] * 2


async def test_a_schedule_is_heard_of_that_another_process_makes_changes_or_deletes(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine, Client(world.backend(), clock=world.clock) as client:

        async def wait_for(count: int) -> None:
            await world.until(lambda: None, lambda: fired(count))

        async def fired(count: int) -> bool:
            await world.settle()
            return len(await ids(engine)) == count

        await client.schedules.create("s", Interval(HOUR), report, "a")
        await world.until(lambda: world.worker(engine).schedules._alarm is not None)
        await world.advance(1 * HOURS)
        await wait_for(1)
        await client.schedules.trigger("s")
        await wait_for(2)
        await client.schedules.update("s", Interval(60))
        await world.until(lambda: (world.clock.next_due_us() or 0) <= world.clock.now + MINUTE_US)
        await world.advance(60)
        await wait_for(3)
        await client.schedules.delete("s")
        await asyncio.sleep(0.05)
        await world.advance(10 * HOURS)
        assert len(await ids(engine)) == 3


@pytest.mark.slow
async def test_many_schedules_fire_each_at_its_own_time(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        for number in range(110):
            await engine.schedules.create(f"s{number}", Interval(900 + number), report, "a")
        await world.advance(0.5 * HOURS)
        fired = [(await engine.schedules.get(f"s{number}")).fired for number in range(110)]
        for number, count in enumerate(fired):
            assert abs(count - 1_800 // (900 + number)) <= 1
        assert len({(f.schedule_id, f.slot_us) for f in world.told(facts.ScheduleFired)}) == sum(fired)
        assert {f.late_us for f in world.told(facts.ScheduleFired)} == {0}


# -- clocks that are changed, and times when nobody is there ---------------------------------------------------------


@pytest.mark.parametrize(
    "spec", [Cron("30 2 * * *", "Europe/Berlin"), Calendar(2, 30, tz="Europe/Berlin")], ids=["cron", "calendar"]
)
@pytest.mark.parametrize(
    ("day", "moments"),
    [
        (datetime(2026, 3, 28, tzinfo=UTC), ["28 01:30", "29 01:00", "30 00:30"]),
        (datetime(2026, 10, 24, tzinfo=UTC), ["24 00:30", "25 00:30", "26 01:30"]),
    ],
    ids=["spring", "autumn"],
)
async def test_a_nightly_schedule_fires_once_each_night_also_when_the_clock_is_changed(
    spec: Any, day: datetime, moments: list[str]
) -> None:
    clock = VirtualClock(day)
    async with VirtualEngine(clock=clock) as engine:
        await engine.schedules.create("nightly", spec, report, "a")
        await clock.advance(timedelta(days=3))
        made = [each.created_at.strftime("%d %H:%M") for each in (await engine.list()).instances]
        assert made[::-1] == moments


async def down_for(hours: float, world: World, schedule: Schedule) -> Engine:
    """An engine that was away for so long, and has looked again."""
    engine = await world.open(workflows=FLOWS)
    await engine.schedules.create("hourly", schedule, report, "a")
    await world.advance(HOURS)
    await world.crash(engine)
    world.clock.move(world.clock.now + round(hours * 3_600_000_000))
    engine = await world.open(workflows=FLOWS)
    await world.settle()
    return engine


async def test_after_three_hours_without_an_engine_the_slots_within_the_window_fire(world: World) -> None:
    engine = await down_for(3, world, Schedule(Interval(HOUR), overlap="allow"))
    view = await engine.schedules.get("hourly")
    assert (view.fired, view.missed, view.skipped) == (4, 0, 0)
    assert len(await ids(engine, Status.COMPLETED)) == 4
    late = [f.late_us // MINUTE_US for f in world.told(facts.ScheduleFired)]
    assert late[0] == 0
    assert late[1:] == [late[1], late[1] - 60, late[1] - 120]
    await world.crash(engine)


async def test_slots_that_are_older_than_the_window_are_missed_and_told(world: World) -> None:
    engine = await down_for(3, world, Schedule(Interval(HOUR), overlap="allow", catch_up=1.5 * HOURS))
    view = await engine.schedules.get("hourly")
    assert view.missed >= 1
    assert view.fired + view.missed == 4
    assert [f.slots for f in world.told(facts.SlotsMissed)] == [view.missed]
    await world.crash(engine)


async def test_after_a_pause_of_the_engine_one_that_skips_fires_once_and_one_that_buffers_one_after_the_other(
    world: World,
) -> None:
    engine = await world.open(workflows=FLOWS)
    await engine.schedules.create("skips", Interval(HOUR), report, "a")
    await engine.schedules.create("buffers", Schedule(Interval(HOUR), overlap="buffer_all"), report, "a")
    await world.crash(engine)
    world.clock.move(world.clock.now + 3 * 3_600_000_000)
    async with world.engine(workflows=FLOWS) as engine:
        await world.settle()
        await world.until(lambda: None, lambda: has_fired(engine, "buffers", 3))
        assert (await engine.schedules.get("skips")).skipped == 2
        assert [each.status for each in (await engine.list(id_prefix="buffers/")).instances] == [Status.COMPLETED] * 3


async def has_fired(engine: Engine, schedule_id: str, count: int) -> bool:
    return (await engine.schedules.get(schedule_id)).fired == count


async def test_a_long_time_without_an_engine_is_settled_in_parts(world: World) -> None:
    engine = await world.open(workflows=FLOWS)
    await engine.schedules.create("s", Schedule(Interval(60), catch_up=600), report, "a")
    await world.crash(engine)
    world.clock.move(world.clock.now + 1_000 * MINUTE_US)
    async with world.engine(workflows=FLOWS) as engine:
        await world.settle()
        view = await engine.schedules.get("s")
        assert 988 <= view.missed <= 990
        assert (view.fired, view.fired + view.missed + view.skipped) == (1, 1_000)


# -- the one before is not over ---------------------------------------------------------------------------------------


async def with_overlap(engine: Engine, overlap: Overlap) -> None:
    await engine.schedules.create("s", Schedule(Interval(HOUR), overlap=overlap), until_told)


@pytest.mark.parametrize(
    ("overlap", "statuses", "fired", "skipped", "waiting"),
    [
        ("skip", [Status.RUNNING], 1, 2, 0),
        ("allow", [Status.RUNNING] * 3, 3, 0, 0),
        ("buffer_one", [Status.RUNNING], 1, 1, 1),
        ("buffer_all", [Status.RUNNING], 1, 0, 2),
        ("cancel_previous", [Status.RUNNING, Status.CANCELLED, Status.CANCELLED], 3, 0, 0),
        ("terminate_previous", [Status.RUNNING, Status.TERMINATED, Status.TERMINATED], 3, 0, 0),
    ],
)
async def test_while_the_one_before_is_open_the_policy_decides(
    world: World, overlap: Overlap, statuses: list[Status], fired: int, skipped: int, waiting: int
) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await with_overlap(engine, overlap)
        await world.advance(3 * HOURS)
        assert [each.status for each in (await engine.list()).instances] == statuses
        view = await engine.schedules.get("s")
        assert (view.fired, view.skipped, len(view.waiting)) == (fired, skipped, waiting)
        assert sum(fact.slots for fact in world.told(facts.SlotsSkipped)) == skipped


async def test_what_waits_starts_when_the_one_before_is_over_without_time_passing(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await with_overlap(engine, "buffer_all")
        await world.advance(3 * HOURS)
        for count in (2, 3):
            (open_now,) = (await engine.list(status=Status.RUNNING)).instances
            await engine.raise_event(open_now.instance_id, "go", "on")
            await engine.result(open_now.instance_id)
            await world.settle()
            assert (await engine.schedules.get("s")).fired == count


async def test_what_waits_starts_when_the_one_before_ends_while_it_is_looked_at(world: World, faulty: Any) -> None:
    """The store answers late: what it says to be open is over by then, and nobody has said that its end is awaited."""
    real, asked = faulty._real, []

    async def write_schedule(write: ScheduleWrite, lease: Lease | None = None) -> bool:
        asked.extend(message for message in write.messages if message.new is None)
        is_written: bool = await real.write_schedule(write, lease)
        return is_written

    async def record(instance_id: str) -> InstanceRecord | None:
        found: InstanceRecord | None = await real.record(instance_id)
        if asked and found is not None and not found.status.is_terminal:
            await world.until(lambda: world.told(facts.InstanceEnded))
        return found

    faulty.write_schedule, faulty.record = write_schedule, record
    async with world.engine(faulty, workflows=FLOWS) as engine:
        await with_overlap(engine, "cancel_previous")
        await world.advance(2 * HOURS)
        asked.clear()
        assert [each.status for each in (await engine.list()).instances] == [Status.RUNNING, Status.CANCELLED]


async def test_what_waits_starts_after_a_crash(world: World) -> None:
    engine = await world.open(workflows=FLOWS)
    await with_overlap(engine, "buffer_one")
    await world.advance(2 * HOURS)
    (open_now,) = (await engine.list(status=Status.RUNNING)).instances
    await world.crash(engine)
    async with Client(world.backend(), clock=world.clock) as client:
        await client.raise_event(open_now.instance_id, "go", "on")
    async with world.engine(workflows=FLOWS) as engine:
        await engine.result(open_now.instance_id)
        await world.settle()
        assert (await engine.schedules.get("s")).fired == 2


async def test_a_schedule_that_skips_goes_on_when_the_one_before_was_purged(world: World) -> None:
    async with world.engine(workflows=FLOWS) as engine:
        await with_overlap(engine, "skip")
        await world.advance(HOURS)
        (first,) = (await engine.list()).instances
        await engine.terminate(first.instance_id)
        await engine.purge(first.instance_id)
        await world.advance(HOURS)
        assert (await engine.schedules.get("s")).fired == 2


# -- crashes and other trouble ----------------------------------------------------------------------------------------


class Schedules:
    """A backend whose writes of schedules go wrong as planned.

    "refuse" and "lose" write nothing, "hide" writes and does not say so, "die" and "write and die" never return.
    """

    def __init__(self, real: Any, *faults: str) -> None:
        self._real = real
        self.faults = list(faults)
        self.is_stuck = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def write_schedule(self, write: ScheduleWrite, lease: Lease | None = None) -> bool:
        if lease is None:
            return await self._real.write_schedule(write)
        fault = self.faults.pop(0) if self.faults else ""
        if fault in ("hide", "write and die", ""):
            written: bool = await self._real.write_schedule(write, lease)
            if not fault:
                return written
        if fault == "refuse":
            raise StorageError("planted")
        if fault in ("lose", "hide"):
            raise CommitOutcomeUnknown("planted")
        self.is_stuck.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


@pytest.mark.parametrize("fault", ["refuse", "lose", "hide"])
async def test_a_write_that_fails_or_does_not_answer_fires_the_slot_once(world: World, fault: str) -> None:
    backend = Schedules(world.backend(), fault)
    async with world.engine(backend, workflows=FLOWS) as engine:
        await engine.schedules.create("s", Interval(HOUR), report, "a")
        await world.advance(HOURS)
        await world.until(lambda: None, lambda: has_fired(engine, "s", 1))
        await world.advance(HOURS)
        view = await engine.schedules.get("s")
        assert (view.fired, view.skipped, len(await ids(engine, Status.COMPLETED))) == (2, 0, 2)


@pytest.mark.parametrize("fault", ["die", "write and die"])
async def test_a_slot_is_fired_once_when_the_engine_dies_before_or_after_its_commit(world: World, fault: str) -> None:
    backend = Schedules(world.backend(), fault)
    engine = await world.open(backend, workflows=FLOWS)
    await engine.schedules.create("s", Interval(HOUR), report, "a")
    await world.settle()
    world.clock.move(world.clock.now + 60 * MINUTE_US)
    await backend.is_stuck.wait()
    engine._backend = backend._real
    await world.crash(engine)
    async with world.engine(workflows=FLOWS) as engine:
        await world.settle()
        await world.advance(HOURS)
        view = await engine.schedules.get("s")
        assert (view.fired, view.missed, view.skipped) == (2, 0, 0)
        assert len(await ids(engine, Status.COMPLETED)) == 2


async def test_a_worker_that_lost_its_lease_fires_nothing_more(world: World) -> None:
    backend = world.backend()
    async with world.engine(backend, workflows=FLOWS) as engine:
        await engine.schedules.create("s", Interval(HOUR), report, "a")
        await world.settle()
        await backend.release(world.worker(engine).lease)
        await world.advance(HOURS)
        assert await ids(engine) == []


async def test_an_engine_can_be_closed_while_its_store_does_not_answer_for_schedules(world: World) -> None:
    backend = Schedules(world.backend(), *["refuse"] * 1_000)
    async with asyncio.timeout(5):
        async with world.engine(backend, workflows=FLOWS) as engine:
            await engine.schedules.create("s", Interval(HOUR), report, "a")
            await world.settle()
            world.clock.move(world.clock.now + 60 * MINUTE_US)
            await world.until(lambda: world.told(facts.CommitRetried))
    async with world.engine(workflows=FLOWS) as engine:
        await world.settle()
        assert (await engine.schedules.get("s")).fired == 1


async def test_a_row_that_cannot_be_read_is_told_of_once_and_holds_up_no_other(world: World) -> None:
    backend = world.backend()
    async with world.engine(backend, workflows=FLOWS) as engine:
        await backend.write_schedule(ScheduleWrite("broken", 0, ScheduleRow("broken", 1, 0, b"{")))
        await engine.schedules.create("s", Interval(HOUR), report, "a")
        await world.advance(2 * HOURS)
        assert (await engine.schedules.get("s")).fired == 2
        (told,) = world.told(facts.ScheduleUnreadable)
        assert told.schedule_id == "broken"
        page = await engine.schedules.list()
        assert ([each.id for each in page.schedules], list(page.unreadable)) == (["s"], ["broken"])


async def test_two_that_fire_the_same_slot_by_hand_and_by_the_clock_make_one_instance(world: World) -> None:
    engine = await world.open(workflows=FLOWS)
    await engine.schedules.create("s", Schedule(Interval(HOUR), overlap="allow"), report, "a")
    await world.crash(engine)
    began = datetime.fromtimestamp(world.clock.now / 1_000_000, UTC)
    world.clock.move(world.clock.now + 3 * 60 * MINUTE_US)
    async with Client(world.backend(), clock=world.clock) as client:
        now = datetime.fromtimestamp(world.clock.now / 1_000_000, UTC)
        both = await asyncio.gather(*(client.schedules.backfill("s", began, now) for _ in range(2)))
        assert sorted(len(each) for each in both) == [0, 3]
    async with world.engine(workflows=FLOWS) as engine:
        await world.settle()
        view = await engine.schedules.get("s")
        assert (view.fired, len(await ids(engine, Status.COMPLETED))) == (3, 3)
