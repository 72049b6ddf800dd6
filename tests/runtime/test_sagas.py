"""An engine that dies between any two commits of a saga: what was done is undone all the same, and each undone once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Client,
    CompensationFailed,
    Context,
    Flow,
    InstanceNotActive,
    NonRetryableError,
    Saga,
    Status,
    StorageError,
    WorkflowCancelled,
    WorkflowFailed,
    activity,
    activity_context,
    workflow,
)
from durableflow.model import events as ev

if TYPE_CHECKING:
    World = Any  # of conftest.py

keys: list[tuple[str, str, str]] = []
seats_taken: set[str] = set()
broken: set[str] = set()


@activity
async def reserve(seat: str) -> str:
    keys.append(("reserve", seat, activity_context().idempotency_key))
    if seat == "none":
        raise NonRetryableError("no seats left")
    seats_taken.add(seat)
    return seat


@activity(retry=9)
async def release(seat: str) -> None:
    keys.append(("release", seat, activity_context().idempotency_key))
    if seat in broken:
        raise NonRetryableError(f"cannot release {seat}")
    seats_taken.discard(seat)


@workflow
async def booking(ctx: Context, seats: list[str], parallel: bool = False) -> list[str]:
    async with ctx.saga(parallel=parallel) as saga:
        for seat in seats:
            await saga.compensate_with(release, seat).after(ctx.call_activity(reserve, seat))
    return seats


@workflow
def booking_too(ctx: Context, seats: list[str], parallel: bool = False) -> Flow[list[str]]:
    saga = ctx.saga(parallel=parallel)
    return (yield from saga.guard(reserve_all(ctx, saga, seats)))


def reserve_all(ctx: Context, saga: Saga, seats: list[str]) -> Flow[list[str]]:
    for seat in seats:
        yield from saga.compensate_with(release, seat).after(ctx.call_activity(reserve, seat))
    return seats


ALL = ["1A", "1B", "none"]


@pytest.fixture(autouse=True)
def fresh() -> None:
    keys.clear()
    seats_taken.clear()
    broken.clear()


def mortal(faulty_class: Any, real: Any, commit: int, *, written: bool) -> Any:
    """A backend whose commit number `commit` is written, or not, and never answers."""

    class Mortal(faulty_class):  # type: ignore[misc]  # it is given
        def __init__(self) -> None:
            super().__init__(real)
            self.dying = asyncio.Event()

        async def commit(self, lease: Any, commit_: Any) -> None:
            if len(self.commits) < commit or self.dying.is_set():
                await super().commit(lease, commit_)
                return
            if written:
                await super().commit(lease, commit_)
            self.dying.set()
            await asyncio.get_running_loop().create_future()

    return Mortal()


@pytest.mark.slow
@pytest.mark.parametrize("flow", [booking, booking_too], ids=lambda flow: flow.name)
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("written", [False, True])
async def test_a_death_at_any_commit_leaves_nothing_reserved(
    world: World, faulty_class: Any, flow: Any, parallel: bool, written: bool
) -> None:
    commits_in_all = 5 if parallel else 7  # the start, three results, and the releases: together, or one by one
    for commit in range(commits_in_all):
        keys.clear()
        booked = flow.options(instance_id=f"b{commit}")
        backend = mortal(faulty_class, world.backend(), commit, written=written)
        engine = await world.open(backend)
        starting = asyncio.ensure_future(engine.start(booked, ALL, parallel))
        async with asyncio.timeout(5):
            await backend.dying.wait()
        await world.crash(engine)
        starting.cancel()
        with suppress(StorageError, asyncio.CancelledError):
            await starting
        async with world.engine() as engine:
            handle = await engine.start(booked, ALL, parallel)
            with pytest.raises(WorkflowFailed, match="no seats left"):
                await handle.result()
            history = await handle.history()
            tasks = (await engine.view(handle.id)).tasks
        assert seats_taken == set()
        assert [(task.name, task.role, task.state) for task in tasks] == [
            ("reserve", "", "done"),
            ("reserve", "", "done"),
            ("reserve", "", "failed"),
            *[("release", "compensation", "done")] * 3,
        ]
        assert Counter(each.kind for each in history)["activity_completed"] == 5
        wanted = {(name, seat) for name, seat, _ in keys}
        assert len({key for _, _, key in keys}) == len(wanted), "one key for all attempts of a call"


class Weather(list[Any]):
    """Endless faults by dice, as a plan that never runs out."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice
        self.on = True

    def __bool__(self) -> bool:
        return self.on

    def pop(self, _: Any = 0) -> str | None:
        return self._dice.choice(["refuse", "lose", "hide", "conflict", *[None] * 6])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_in_bad_weather_nothing_stays_reserved_and_no_compensation_is_recorded_twice(
    world: World, faulty_class: Any, seed: int
) -> None:
    dice = random.Random(seed)
    weather = Weather(dice)
    known: dict[str, Any] = {
        "workflows": [booking, booking_too],
        "activities": [reserve, release],
        "cached_instances": dice.choice([0, 2, 100]),
        "commit_retries": dice.choice([0, 1, 6]),
    }

    def backend() -> Any:
        made = faulty_class(world.backend())
        made.faults = weather
        return made

    ids = [f"b{n}" for n in range(6)]
    engine = await world.open(backend(), **known)
    async with Client(world.backend(), clock=world.clock) as client:
        for n, instance_id in enumerate(ids):
            flow = (booking, booking_too)[n % 2].options(instance_id=instance_id)
            await client.start(flow, [f"{n}A", f"{n}B", "none"], bool(n & 2))
        for _ in range(6):
            await world.advance(dice.choice([0, 1, 5]))
            with suppress(InstanceNotActive):  # it is over already
                await client.cancel(dice.choice(ids), "the storm")
            await world.crash(engine)
            engine = await world.open(backend(), **known)
        weather.on = False
        for _ in range(200):
            await world.advance(2)
            await asyncio.sleep(0.005)
            statuses = {(await client.status(instance_id)).status for instance_id in ids}
            if statuses <= {Status.FAILED, Status.CANCELLED}:
                break
        assert statuses <= {Status.FAILED, Status.CANCELLED}
        assert seats_taken == set()
        for instance_id in ids:
            asked = Counter(
                (each.event.name, each.event.input)
                for each in await client.history(instance_id)
                if isinstance(each.event, ev.ActivityScheduled)
            )
            assert set(asked.values()) == {1}
            undone = {data for name, data in asked if name == "release"}
            assert {data for name, data in asked if name == "reserve"} == undone
    await world.crash(engine)


async def test_a_cancel_in_the_middle_of_the_undoing_waits_for_its_end(world: World) -> None:
    going_on = asyncio.Event()

    @activity
    async def slowly() -> None:
        await going_on.wait()
        seats_taken.discard("1A")

    @workflow
    async def leaves(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(slowly)
            seats_taken.add("1A")
            await ctx.wait_for_event("never")

    async with world.engine(activities=[slowly]) as engine:
        handle = await engine.start(leaves)
        await handle.cancel("first")
        await world.settle()
        await handle.cancel("second")
        assert seats_taken == {"1A"}
        going_on.set()
        with pytest.raises(WorkflowCancelled, match="first"):
            await handle.result()
        assert seats_taken == set()


async def test_what_could_not_be_undone_is_told_by_the_instance_and_its_view(world: World) -> None:
    broken.add("1A")
    async with world.engine(workflows=[booking], activities=[reserve, release]) as engine:
        handle = await engine.start(booking, ALL)
        with pytest.raises(WorkflowFailed) as caught:
            await handle.result()
        assert caught.value.is_type(CompensationFailed)
        assert caught.value.message == (
            "1 of 3 compensations failed: 'release' with durableflow.errors.ActivityFailed: "
            "activity 'release' failed after 1 attempt: durableflow.errors.NonRetryableError: cannot release 1A"
        )
        assert "no seats left" in str(caught.value.__cause__.__cause__)
        left = [t for t in (await handle.view()).tasks if t.role == "compensation" and t.state == "failed"]
        assert [(task.name, task.input) for task in left] == [("release", b'["1A"]')]
    assert seats_taken == {"1A"}


async def test_an_idle_saga_is_put_away_and_undone_when_its_time_comes(world: World) -> None:
    @workflow
    async def waits(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(release, "1A")
            await ctx.call_activity(reserve, "1A")
            await ctx.wait_for_event("paid", timeout=60)

    async with world.engine(activities=[reserve, release], cached_instances=0) as engine:
        handle = await engine.start(waits)
        await world.settle()
        assert engine.statistics().evictions
        assert seats_taken == {"1A"}
        await world.advance(60)
        with pytest.raises(WorkflowFailed, match="no event 'paid' came in time"):
            await handle.result()
        assert [name for name, _, _ in keys] == ["reserve", "release"]
