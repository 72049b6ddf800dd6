"""Dead letters: what failed for good is kept, shown with its errors, tried again or put away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    ActivityFailed,
    Client,
    Context,
    Engine,
    InstanceNotFound,
    RetryPolicy,
    Status,
    UsageError,
    activity,
    workflow,
)
from durableflow.backends.base import InstanceRecord
from durableflow.backends.memory import MemoryBackend
from durableflow.model import events as ev

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of the runtime's conftest.py


class Plumbing:
    """What the activities below depend on."""

    is_broken = True


@pytest.fixture
def plumbing() -> Any:
    Plumbing.is_broken = True
    yield Plumbing
    Plumbing.is_broken = True


@activity(retry=RetryPolicy(max_attempts=2, initial=0))
async def pump(litres: int) -> int:
    if Plumbing.is_broken:
        raise ValueError(f"no pressure for {litres}")
    return litres


@workflow
async def water(ctx: Context, litres: int) -> int:
    return await ctx.call_activity(pump, litres)


@workflow
async def copes(ctx: Context) -> str:
    try:
        await ctx.call_activity(pump, 1)
    except ActivityFailed:
        return "dry"
    return "wet"


@workflow
async def late(ctx: Context) -> None:
    await ctx.wait_for_event("never")


async def failed(engine: Any, count: int, first: int = 0) -> list[Any]:
    handles = [
        await engine.start(water.options(instance_id=f"w{number}"), number) for number in range(first, first + count)
    ]
    for handle in handles:
        await handle.wait_for_status(Status.FAILED, timeout=5)
    return handles


async def keys(client: Any, **asked: Any) -> list[tuple[str, int, str]]:
    return [(each.instance_id, each.task, each.kind) for each in (await client.dead_letters.list(**asked)).letters]


async def test_an_exhausted_activity_and_its_failed_instance_are_two_letters(world: World, plumbing: Any) -> None:
    async with world.engine(workflows=[water]) as engine:
        await failed(engine, 1)
        assert sorted(await keys(engine)) == [("w0", 0, "failed"), ("w0", 1, "activity")]
        (letter,) = (await engine.dead_letters.list(kind="activity")).letters
        assert (letter.name, letter.attempts, letter.type_name, letter.message) == (
            "pump",
            2,
            "ValueError",
            "no pressure for 0",
        )
        (whole,) = (await engine.dead_letters.list(kind="failed")).letters
        assert (whole.name, whole.task) == ("water", 0)
        assert "no pressure for 0" in whole.message


async def test_a_letter_is_shown_with_its_input_its_attempts_and_the_history(world: World, plumbing: Any) -> None:
    async with world.engine(workflows=[water]) as engine:
        (handle,) = await failed(engine, 1, first=7)
        shown = await engine.dead_letters.get(handle.id, 1)
        assert shown.input == b"[7]"
        assert [(each.attempt, each.failure.message) for each in shown.attempts] == [
            (1, "no pressure for 7"),
            (2, "no pressure for 7"),
        ]
        assert "pump" in shown.attempts[0].failure.traceback_text
        assert shown.history == await handle.history()
        of_instance = await engine.dead_letters.get(handle.id)
        assert of_instance.input == b"[7]"
        assert [each.failure.type_name for each in of_instance.attempts] == ["durableflow.errors.ActivityFailed"]


async def test_an_instance_that_timed_out_is_a_letter(world: World) -> None:
    async with world.engine(workflows=[late]) as engine:
        handle = await engine.start(late.options(instance_id="late", timeout=10))
        world.clock.move(world.clock.now + 11_000_000)
        await handle.wait_for_status(Status.FAILED, timeout=5)
        (letter,) = (await engine.dead_letters.list()).letters
        assert (letter.instance_id, letter.kind, letter.type_name) == ("late", "failed", "TimeoutError")


async def test_an_activity_that_the_workflow_coped_with_is_a_letter_which_cannot_be_redriven(
    world: World, plumbing: Any
) -> None:
    async with world.engine(workflows=[copes]) as engine:
        handle = await engine.start(copes)
        assert await handle.result(timeout=5) == "dry"
        assert await keys(engine) == [(handle.id, 1, "activity")]
        with pytest.raises(UsageError, match="discard the letter, or fork"):
            await engine.dead_letters.redrive(handle.id)
        assert await engine.dead_letters.discard(handle.id) == 1
        assert await keys(engine) == []


@pytest.mark.parametrize("who", ["engine", "client"])
async def test_redriving_goes_on_from_before_the_failure_and_takes_the_letters_away(
    world: World, plumbing: Any, who: str
) -> None:
    async with world.engine(workflows=[water]) as engine, Client(world.backend(), clock=world.clock) as client:
        asker = engine if who == "engine" else client
        (handle,) = await failed(engine, 1, first=3)
        plumbing.is_broken = False
        await asker.dead_letters.redrive(handle.id)
        assert await handle.result(timeout=5) == 3
        assert await keys(engine) == []
        assert ev.InstanceRewound in [type(entry.event) for entry in await handle.history()]


async def test_what_fails_again_is_a_letter_again_with_all_attempts_anew(world: World, plumbing: Any) -> None:
    async with world.engine(workflows=[water]) as engine:
        (handle,) = await failed(engine, 1)
        await engine.dead_letters.redrive(handle.id)
        await handle.wait_for_status(Status.FAILED, timeout=5)
        (letter,) = (await engine.dead_letters.list(kind="activity")).letters
        assert letter.attempts == 2
        assert [each.attempt for each in (await engine.dead_letters.get(handle.id, 1)).attempts] == [1, 3, 4]


async def test_many_are_redriven_and_one_that_refuses_hurts_no_other(world: World, plumbing: Any) -> None:
    async with world.engine(workflows=[water, copes]) as engine:
        handles = await failed(engine, 5)
        other = await engine.start(copes.options(instance_id="other"))
        await other.result(timeout=5)
        plumbing.is_broken = False
        dry = await engine.dead_letters.redrive_all(dry_run=True)
        assert (dry.matched, dry.redriven, dry.refused) == (6, 6, {})
        assert len(await keys(engine)) == 11, "nothing has changed"
        report = await engine.dead_letters.redrive_all()
        assert (report.matched, report.redriven, report.refused_count) == (6, 5, 1)
        assert "dealt with the failure itself" in report.refused["other"]
        assert [await handle.result(timeout=5) for handle in handles] == [0, 1, 2, 3, 4]
        assert await keys(engine) == [("other", 1, "activity")]


async def test_letters_are_filtered_and_paged(world: World, plumbing: Any) -> None:
    async with world.engine(workflows=[water, copes]) as engine:
        await failed(engine, 4)
        assert len(await keys(engine, name="pump")) == 4
        assert len(await keys(engine, name="water")) == 4
        assert len(await keys(engine, type_name="ValueError")) == 4
        assert await keys(engine, instance_id="w2", kind="failed") == [("w2", 0, "failed")]
        assert await keys(engine, kind="stalled") == []
        pages: list[tuple[str, int]] = []
        cursor = None
        while True:
            page = await engine.dead_letters.list(limit=3, cursor=cursor)
            pages += [(letter.instance_id, letter.task) for letter in page.letters]
            cursor = page.cursor
            if cursor is None:
                break
        assert len(pages) == len(set(pages)) == 8
        for bad in (0, 1_001):
            with pytest.raises(UsageError, match="limit"):
                await engine.dead_letters.list(limit=bad)
        with pytest.raises(UsageError, match="cursor"):
            await engine.dead_letters.list(cursor="?")


async def test_a_stalled_instance_is_a_letter_until_it_goes_on(world: World) -> None:
    async with world.engine() as engine:
        async with Client(world.backend(), clock=world.clock) as client:
            await client.start(late.options(instance_id="late"))
        await engine.wait_for_status("late", Status.STALLED, timeout=5)
        (letter,) = (await engine.dead_letters.list()).letters
        assert (letter.instance_id, letter.kind, letter.name) == ("late", "stalled", "late")
        assert "DF3004" in letter.message
        await engine.dead_letters.redrive("late")  # the cause is still there
        assert await keys(engine) == [("late", 0, "stalled")]
        engine.register(late)
        await engine.wait_for_status("late", Status.RUNNING, timeout=5)
        assert await keys(engine) == []


async def test_a_stalled_instance_that_is_terminated_is_no_letter_any_more(world: World) -> None:
    async with world.engine() as engine:
        async with Client(world.backend(), clock=world.clock) as client:
            await client.start(late.options(instance_id="late"))
        await engine.wait_for_status("late", Status.STALLED, timeout=5)
        await engine.terminate("late")
        await engine.wait_for_status("late", Status.TERMINATED, timeout=5)
        assert await keys(engine) == []


async def test_letters_go_with_their_instance_and_are_discarded_by_filter(world: World, plumbing: Any) -> None:
    async with world.engine(workflows=[water]) as engine:
        handles = await failed(engine, 3)
        await handles[0].purge()
        assert len(await keys(engine)) == 4
        assert await engine.dead_letters.discard("w1", 1) == 1
        assert await engine.dead_letters.discard("w1", 1) == 0
        assert await engine.dead_letters.discard_all(kind="failed", dry_run=True) == 2
        assert await engine.dead_letters.discard_all(kind="failed") == 2
        assert await keys(engine) == [("w2", 1, "activity")]
        assert (await handles[2].status()).status is Status.FAILED, "the instance stays as it is"
        plumbing.is_broken = False
        await handles[2].rewind()
        assert await handles[2].result(timeout=5) == 2
        assert await keys(engine) == []


async def test_what_is_not_there_is_said(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(UsageError, match="no dead letter of instance 'nobody'"):
            await engine.dead_letters.get("nobody")
        with pytest.raises(UsageError, match="activity 3 of instance"):
            await engine.dead_letters.get("nobody", 3)
        with pytest.raises(InstanceNotFound):
            await engine.dead_letters.redrive("nobody")
        assert await engine.dead_letters.discard("nobody") == 0


async def test_letters_survive_the_engine(world: World, plumbing: Any) -> None:
    engine = await world.open(workflows=[water])
    await failed(engine, 2)
    await world.crash(engine)
    async with world.engine(workflows=[water]) as again:
        assert len(await keys(again)) == 4
        plumbing.is_broken = False
        report = await again.dead_letters.redrive_all()
        assert report.redriven == 2
        assert [await again.result(f"w{number}", timeout=5) for number in range(2)] == [0, 1]


async def test_an_end_that_is_another_one_by_the_time_the_store_answers_is_not_told(plumbing: Any) -> None:
    store = SlowToAnswer()
    async with Engine(store, workflows=[water]) as engine:
        (handle,) = await failed(engine, 1)
        plumbing.is_broken = False
        await engine.rewind(handle.id)
        store.gate.clear()
        result = asyncio.ensure_future(handle.result(timeout=5))
        while store._instances[handle.id].record.status is not Status.COMPLETED:  # noqa: ASYNC110  # nobody is told
            await asyncio.sleep(0)
        store.gate.set()
        assert await result == 0


class SlowToAnswer(MemoryBackend):
    """Whoever asks for a record gets it when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def record(self, instance_id: str) -> InstanceRecord | None:
        await self.gate.wait()
        return await super().record(instance_id)
