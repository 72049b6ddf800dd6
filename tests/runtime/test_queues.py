"""Queues: what bounds them and holds them, and instances that start through one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import Client, Context, InstanceNotActive, Status, UsageError, WorkflowFailed, activity, workflow

if TYPE_CHECKING:
    World = Any  # of conftest.py

LONG_S = 1_000_000.0
"""A lease that outlasts every move of the clock."""
PENDING, RUNNING = Status.PENDING, Status.RUNNING


@workflow
async def held(ctx: Context, name: str = "") -> str:
    began.append(name)
    return await ctx.wait_for_event("go", str)


@activity(queue="mail")
async def send(n: int) -> int:
    sent.append(n)
    return n


@workflow
async def sends(ctx: Context, count: int) -> int:
    return sum(await ctx.when_all([ctx.call_activity(send, n) for n in range(count)]))


began: list[str] = []
sent: list[int] = []


@pytest.fixture(autouse=True)
def nothing_yet() -> None:
    began.clear()
    sent.clear()


def holding(go: asyncio.Event) -> tuple[Any, Any]:
    """A workflow and its activity, which ends when it may."""

    @activity(queue="mail")
    async def holds(n: int) -> int:
        await go.wait()
        return n

    @workflow
    async def call(ctx: Context, count: int) -> int:
        return sum(await ctx.when_all([ctx.call_activity(holds, n) for n in range(count)]))

    return call, holds


class Imports:
    """An engine whose queue `imports` admits one instance at a time, and some that were started through it."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    async def start(self, *names: str, **options: Any) -> list[Any]:
        await self.engine.set_queue("imports", concurrency=1)
        options = {"queue": "imports", **options}
        return [await self.engine.start(held.options(instance_id=name, **options), name) for name in names]

    async def statuses(self, *handles: Any) -> list[Status]:
        return [(await each.status()).status for each in handles]


# -- limits and pauses ----------------------------------------------------------------------------------------------


async def test_a_queue_shows_its_limits_and_a_pause_leaves_them(world: World) -> None:
    async with world.engine() as engine, Client(world.backend(), clock=world.clock) as client:
        assert list(await client.queues()) == []
        await engine.set_queue("mail", concurrency=5, rate="100/min", burst=10)
        await client.pause_queue("mail")
        (status,) = await engine.queues()
        assert (status.concurrency, status.rate, status.burst, status.is_paused) == (
            5,
            (100, timedelta(minutes=1)),
            10,
            True,
        )
        await client.set_queue("mail", rate=(7, timedelta(seconds=1)))
        status = await engine.queue("mail")
        assert (status.concurrency, status.rate, status.burst, status.is_paused) == (
            None,
            (7, timedelta(seconds=1)),
            7,
            True,
        )
        await engine.resume_queue("mail")
        status = await client.queue("mail")
        assert (status.rate, status.is_paused) == ((7, timedelta(seconds=1)), False)
        await engine.set_queue("mail")
        status = await client.queue("mail")
        assert (status.concurrency, status.rate, status.burst) == (None, None, None)


async def test_of_those_who_limit_and_pause_a_queue_at_once_each_is_heard(world: World) -> None:
    async with world.engine() as engine, Client(world.backend(), clock=world.clock) as client:
        for n in range(1, 20):
            asked = [
                engine.set_queue("mail", concurrency=n),
                client.pause_queue("mail") if n % 2 else client.resume_queue("mail"),
            ]
            await asyncio.gather(*asked[:: -1 if n % 3 else 1])
            status = await engine.queue("mail")
            assert (status.concurrency, status.is_paused) == (n, bool(n % 2))


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"concurrency": 0}, ValueError),
        ({"concurrency": True}, ValueError),
        ({"rate": "5 a minute"}, ValueError),
        ({"rate": (1, timedelta(0))}, ValueError),
        ({"rate": "5/s", "burst": 0}, ValueError),
        ({"burst": 5}, UsageError),
    ],
)
async def test_limits_that_make_no_sense_are_refused_and_nothing_is_written(
    memory_world: World, limits: dict[str, Any], error: type[Exception]
) -> None:
    async with memory_world.engine() as engine:
        with pytest.raises(error):
            await engine.set_queue("mail", **limits)
        for ask in (engine.set_queue("a\0b"), engine.pause_queue(""), engine.resume_queue("\ud800"), engine.queue("")):
            with pytest.raises(UsageError):
                await ask
        assert list(await engine.queues()) == []


@pytest.mark.parametrize("who", ["the engine itself", "another process"])
async def test_what_waits_in_a_paused_queue_goes_on_when_it_is_resumed(world: World, who: str) -> None:
    async with (
        world.engine(workflows=[sends], activities=[send]) as engine,
        Client(world.backend(), clock=world.clock) as client,
    ):
        asker = engine if who == "the engine itself" else client
        await asker.pause_queue("mail")
        handle = await engine.start(sends, 3)
        await world.settle()
        assert await world.counts(engine) == (3, 0, 0, 0)
        assert (await engine.queue("mail")).oldest_at is not None
        await asker.resume_queue("mail")
        assert await handle.result(timeout=5) == 3


@pytest.mark.parametrize("who", ["the engine itself", "another process"])
async def test_a_limit_that_is_raised_is_used_at_once(world: World, who: str) -> None:
    go = asyncio.Event()
    call, holds = holding(go)
    async with (
        world.engine(workflows=[call], activities=[holds]) as engine,
        Client(world.backend(), clock=world.clock) as client,
    ):
        asker = engine if who == "the engine itself" else client
        await asker.set_queue("mail", concurrency=2)
        handle = await engine.start(call, 9)
        await world.until(lambda: engine._server.running_attempts == 2)
        await asker.set_queue("mail", concurrency=4)
        await world.until(lambda: engine._server.running_attempts == 4)
        await world.settle()
        assert await world.counts(engine) == (5, 0, 4, 0)
        go.set()
        assert await handle.result(timeout=5) == sum(range(9))


async def test_nothing_is_asked_of_a_store_for_a_queue_that_is_full_or_paused(world: World, faulty_class: Any) -> None:
    faulty = faulty_class(world.backend())
    go = asyncio.Event()
    call, holds = holding(go)
    async with world.engine(faulty, workflows=[call, held], activities=[holds]) as engine:
        await engine.set_queue("mail", concurrency=2)
        handle = await engine.start(call, 9)
        await world.settle()
        asked = faulty.asked["claim"]
        for n in range(5):
            await engine.start(held.options(instance_id=f"other {n}"))
            await engine.set_queue("other", concurrency=n + 1)
            await world.settle()
        await engine.pause_queue("mail")
        go.set()
        await world.settle()
        assert faulty.asked["claim"] == asked
        await engine.resume_queue("mail")
        assert await handle.result(timeout=5) == sum(range(9))


async def test_a_rate_holds_tasks_back_until_their_moment(world: World) -> None:
    async with world.engine(workflows=[sends], activities=[send]) as engine:
        await engine.set_queue("mail", rate="2/min")
        handle = await engine.start(sends, 5)
        await world.advance(29)
        assert len(sent) == 2
        await world.advance(1)
        assert len(sent) == 3
        await world.advance(60)
        assert len(sent) == 5
        await handle.result(timeout=5)


async def test_the_highest_priority_goes_first_and_keys_take_turns(world: World) -> None:
    @workflow
    async def mixed(ctx: Context) -> None:
        urgent = [ctx.call_activity(send.options(priority=9), n) for n in (90, 91)]
        keys = [("a", 0), ("a", 1), ("a", 2), ("b", 10), ("b", 11), ("c", 20)]
        await ctx.when_all([*[ctx.call_activity(send.options(fairness_key=key), n) for key, n in keys], *urgent])

    async with world.engine(workflows=[mixed], activities=[send], queues={"mail": 1}) as engine:
        await engine.pause_queue("mail")
        handle = await engine.start(mixed)
        await world.settle()
        await engine.resume_queue("mail")
        await handle.result(timeout=5)
        assert sent == [90, 91, 0, 10, 20, 1, 11, 2]


# -- instances that start through a queue -----------------------------------------------------------------------------


async def test_a_queue_admits_so_many_instances_and_the_next_when_one_is_over(world: World) -> None:
    async with world.engine(workflows=[held]) as engine:
        imports = Imports(engine)
        handles = await imports.start("one", "two", "three")
        await world.settle()
        assert await imports.statuses(*handles) == [RUNNING, PENDING, PENDING]
        assert await world.counts(engine, "imports") == (2, 0, 1, 0)
        await handles[0].raise_event("go", "done")
        await world.settle()
        assert await imports.statuses(*handles) == [Status.COMPLETED, RUNNING, PENDING]
        await handles[1].terminate()
        await world.settle()
        assert await imports.statuses(*handles[1:]) == [Status.TERMINATED, RUNNING]
        await handles[2].cancel()
        await world.settle()
        assert await imports.statuses(handles[2]) == [Status.CANCELLED]
        assert await world.counts(engine, "imports") == (0, 0, 0, 0)
        assert began == ["one", "two", "three"]


@pytest.mark.parametrize("how", ["terminate", "cancel"])
@pytest.mark.parametrize("who", ["the engine itself", "another process"])
async def test_an_instance_that_is_stopped_while_it_waits_never_begins(world: World, how: str, who: str) -> None:
    async with world.engine(workflows=[held]) as engine, Client(world.backend(), clock=world.clock) as client:
        imports = Imports(engine)
        one, two, three = await imports.start("one", "two", "three")
        await world.settle()
        asker = engine if who == "the engine itself" else client
        await getattr(asker, how)("two")
        await world.until(lambda: None, lambda: _is_over(two))
        await world.settle()
        assert await world.counts(engine, "imports") == (1, 0, 1, 0)
        await one.raise_event("go", "done")
        await world.settle()
        assert await imports.statuses(two, three) == [
            Status.TERMINATED if how == "terminate" else Status.CANCELLED, RUNNING,
        ]  # fmt: skip
        assert began == ["one", "three"]
        with pytest.raises(InstanceNotActive):
            await two.raise_event("go", "late")


async def _is_over(handle: Any) -> bool:
    return (await handle.status()).status.is_terminal


async def test_the_timeout_of_an_instance_counts_while_it_waits(world: World) -> None:
    async with world.engine(workflows=[held]) as engine:
        imports = Imports(engine)
        (one,) = await imports.start("one")
        (two,) = await imports.start("two", timeout=60)
        await world.advance(59.9)
        assert await imports.statuses(one, two) == [RUNNING, PENDING]
        await world.advance(0.1)
        with pytest.raises(WorkflowFailed):
            await two.result(timeout=5)
        assert await world.counts(engine, "imports") == (0, 0, 1, 0)
        assert began == ["one"]


async def test_events_that_come_while_an_instance_waits_are_kept_for_it(world: World) -> None:
    async with world.engine(workflows=[held]) as engine:
        imports = Imports(engine)
        one, two = await imports.start("one", "two")
        await two.raise_event("go", "early")
        await world.settle()
        assert await imports.statuses(one, two) == [RUNNING, PENDING]
        await one.raise_event("go", "done")
        assert await two.result(timeout=5) == "early"


async def test_an_instance_that_is_suspended_while_it_waits_is_admitted_and_begins_when_it_is_resumed(
    world: World,
) -> None:
    async with world.engine(workflows=[held]) as engine:
        imports = Imports(engine)
        one, two = await imports.start("one", "two")
        await world.settle()
        await two.suspend()
        await one.raise_event("go", "done")
        await world.settle()
        assert await imports.statuses(two) == [Status.SUSPENDED]
        assert began == ["one"]
        assert await world.counts(engine, "imports") == (0, 0, 1, 0), "it has its place"
        await two.resume()
        await two.raise_event("go", "done")
        assert await two.result(timeout=5) == "done"
        assert await world.counts(engine, "imports") == (0, 0, 0, 0)


async def test_a_start_that_is_delayed_waits_for_its_moment_and_then_for_its_place(world: World) -> None:
    async with world.engine(workflows=[held]) as engine:
        imports = Imports(engine)
        (late,) = await imports.start("late", start_delay=60)
        await world.advance(30)
        (one,) = await imports.start("one")
        await world.advance(29.9)
        assert await world.counts(engine, "imports") == (0, 1, 1, 0)
        await world.advance(10)
        assert await imports.statuses(one, late) == [RUNNING, PENDING]
        await one.raise_event("go", "done")
        await world.settle()
        assert await imports.statuses(late) == [RUNNING]
        assert began == ["one", "late"]


async def test_admitted_instances_keep_their_places_over_a_crash_and_those_that_wait_theirs(world: World) -> None:
    engine = await world.open(workflows=[held])
    imports = Imports(engine)
    await imports.start("one", "two", "three")
    await world.settle()
    await world.crash(engine)
    async with world.engine(workflows=[held]) as engine:
        imports = Imports(engine)
        handles = [engine.handle(each) for each in ("one", "two", "three")]
        await world.settle()
        assert await imports.statuses(*handles) == [RUNNING, PENDING, PENDING]
        for n, handle in enumerate(handles):
            await handle.raise_event("go", "done")
            await world.settle()
            assert await world.counts(engine, "imports") == (max(0, 1 - n), 0, min(1, 2 - n), 0)
        assert list(dict.fromkeys(began)) == ["one", "two", "three"]


async def test_two_engines_admit_no_more_than_one_and_whoever_leads_admits(world: World) -> None:
    first = await world.open(workflows=[held], queues=[], lease_s=LONG_S)
    async with world.engine(workflows=[held], lease_s=LONG_S) as second:
        imports = Imports(first)
        handles = await imports.start("one", "two", "three")
        await world.settle()
        assert await imports.statuses(*handles) == [RUNNING, PENDING, PENDING]
        await handles[0].raise_event("go", "done")
        await world.settle()
        assert await imports.statuses(*handles[1:]) == [RUNNING, PENDING]
        await world.crash(first)
        await asyncio.wait_for(second.wait_until_leading(), 5)
        await second.handle("two").raise_event("go", "done")
        await world.until(lambda: "three" in began)
        assert await world.counts(second, "imports") == (0, 0, 1, 0)


async def test_an_id_that_is_taken_takes_no_second_place(world: World) -> None:
    async with world.engine(workflows=[held]) as engine:
        imports = Imports(engine)
        await imports.start("one", "two", "two", "two")
        await world.settle()
        assert await world.counts(engine, "imports") == (1, 0, 1, 0)


async def test_priorities_and_keys_say_which_instance_is_next(world: World) -> None:
    async with world.engine(workflows=[held]) as engine:
        imports = Imports(engine)
        await engine.pause_queue("imports")
        await imports.start("a1", "a2", fairness_key="a")
        await imports.start("b1", fairness_key="b")
        await imports.start("urgent", priority=5)
        await engine.resume_queue("imports")
        for name in ("urgent", "a1", "b1", "a2"):
            await world.settle()
            assert began[-1] == name
            await engine.raise_event(name, "go", "done")
