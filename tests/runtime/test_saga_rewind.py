"""Compensations that failed are made again, once their cause is gone; and sagas beside rounds and children."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Context,
    NonRetryableError,
    Status,
    UsageError,
    WorkflowFailed,
    activity,
    activity_context,
    workflow,
)

if TYPE_CHECKING:
    World = Any  # of conftest.py

called: list[str] = []
keys: set[str] = set()
broken: set[str] = set()


@activity
async def do(what: str) -> None:
    called.append(f"do {what}")
    if what == "last":
        raise NonRetryableError("not to be had")


@activity
async def undo(what: str) -> None:
    called.append(f"undo {what}")
    keys.add(activity_context().idempotency_key)
    if what in broken:
        raise NonRetryableError(f"{what} is stuck")


@workflow
async def undone(ctx: Context, mode: str) -> None:
    saga = ctx.saga(parallel=mode == "parallel", on_failure="stop" if mode == "stop" else "go_on")
    async with saga:
        for what in ("a", "b", "last"):
            saga.compensate_with(undo, what)
            await ctx.call_activity(do, what)


@pytest.fixture(autouse=True)
def fresh() -> None:
    called.clear()
    keys.clear()
    broken.clear()


@pytest.mark.parametrize(
    ("mode", "first", "again"),
    [
        ("stop", ["undo last", "undo b"], ["undo b", "undo a"]),
        ("parallel", ["undo last", "undo b", "undo a"], ["undo b"]),
    ],
)
@pytest.mark.parametrize("crash", [False, True])
async def test_a_rewind_makes_the_failed_compensation_again_and_no_other(
    world: World, mode: str, first: list[str], again: list[str], crash: bool
) -> None:
    broken.add("b")
    engine = await world.open()
    handle = await engine.start(undone.options(instance_id="i"), mode)
    with pytest.raises(WorkflowFailed, match=r"1 of 3 compensations failed: 'undo' with .*b is stuck"):
        await handle.result()
    assert called == ["do a", "do b", "do last", *first]
    called.clear()
    broken.clear()
    if crash:
        await world.crash(engine)
        engine = await world.open(workflows=[undone], activities=[do, undo])
    await engine.rewind("i", reason="b is mended")
    with pytest.raises(WorkflowFailed, match="NonRetryableError: not to be had"):
        await engine.result("i")
    assert called == again
    assert len(keys) == 3, "the same call has the same key"
    await world.crash(engine)


async def test_compensations_that_followed_on_a_failed_one_are_made_again_only_when_that_is_wanted(
    world: World,
) -> None:
    broken.add("b")
    async with world.engine() as engine:
        handle = await engine.start(undone.options(instance_id="i"), "go on")
        with pytest.raises(WorkflowFailed, match="1 of 3 compensations failed"):
            await handle.result()
        broken.clear()
        called.clear()
        with pytest.raises(UsageError, match=r"did more after that failure.*activity 'undo' \[\"a\"\]"):
            await handle.rewind()
        await handle.rewind(force=True)
        with pytest.raises(WorkflowFailed, match="NonRetryableError: not to be had"):
            await handle.result()
        assert called == ["undo b", "undo a"]
        assert len(keys) == 3, "the same call has the same key"


async def test_what_still_fails_after_a_rewind_can_be_rewound_again(memory_world: World) -> None:
    broken.add("b")
    async with memory_world.engine() as engine:
        handle = await engine.start(undone, "stop")
        for tries_left in (2, 1, 0):
            with pytest.raises(WorkflowFailed, match="b is stuck"):
                await handle.result()
            if not tries_left:
                broken.clear()
            await handle.rewind()
        with pytest.raises(WorkflowFailed, match="not to be had"):
            await handle.result()
        assert called.count("undo b") == 4


async def test_a_failed_compensation_is_a_dead_letter_that_can_be_redriven(memory_world: World) -> None:
    broken.add("b")
    async with memory_world.engine() as engine:
        handle = await engine.start(undone, "stop")
        with pytest.raises(WorkflowFailed, match="b is stuck"):
            await handle.result()
        letters = (await engine.dead_letters.list(kind="activity", name="undo")).letters
        assert [(letter.instance_id, letter.task) for letter in letters] == [(handle.id, 5)]
        broken.clear()
        await engine.dead_letters.redrive(handle.id)
        with pytest.raises(WorkflowFailed, match="not to be had"):
            await handle.result()
        assert (await engine.dead_letters.list(kind="activity", name="undo")).letters == []


async def test_what_was_undone_to_the_end_is_not_rewound_by_mistake(memory_world: World) -> None:
    async with memory_world.engine() as engine:
        handle = await engine.start(undone, "go on")
        with pytest.raises(WorkflowFailed, match="not to be had"):
            await handle.result()
        with pytest.raises(UsageError, match="which rewinding would forget, not undo: activity 'undo'"):
            await handle.rewind()


@workflow
async def rounds(ctx: Context, number: int) -> int:
    async with ctx.saga() as saga:
        saga.compensate_with(undo, f"round {number}")
        await ctx.call_activity(do, f"round {number}")
        if number < 3:
            return ctx.continue_as_new(number + 1)
        await ctx.call_activity(do, "last")
    return number


async def test_a_workflow_that_begins_anew_has_not_failed(world: World) -> None:
    async with world.engine() as engine:
        handle = await engine.start(rounds, 1)
        with pytest.raises(WorkflowFailed, match="not to be had"):
            await handle.result()
        assert called == ["do round 1", "do round 2", "do round 3", "do last", "undo round 3"]


@workflow
async def checkpoints(ctx: Context) -> None:
    for number in range(ctx.restore(int) or 0, 3):
        async with ctx.saga() as saga:
            saga.compensate_with(undo, f"part {number}")
            await ctx.call_activity(do, f"part {number}")
            if number == 2:
                await ctx.wait_for_event("go")
                await ctx.call_activity(do, "last")
        ctx.checkpoint(number + 1)


async def test_a_saga_behind_a_checkpoint_is_undone_after_a_crash(world: World) -> None:
    engine = await world.open()
    handle = await engine.start(checkpoints.options(instance_id="i"))
    await world.settle()
    await world.crash(engine)
    async with world.engine(workflows=[checkpoints], activities=[do, undo]) as engine:
        handle = engine.handle("i")
        await handle.raise_event("go")
        with pytest.raises(WorkflowFailed, match="not to be had"):
            await handle.result()
    assert called == ["do part 0", "do part 1", "do part 2", "do last", "undo part 2"]


@workflow
async def begins_anew_while_undoing(ctx: Context) -> None:
    async def again() -> None:
        await ctx.call_activity(do, "more")
        ctx.continue_as_new()

    async with ctx.saga() as saga:
        saga.compensate_with(undo, "a")
        saga.compensate_with(again)
        await ctx.call_activity(do, "last")


async def test_a_compensation_cannot_begin_anew_and_does_not_stop_the_others(world: World) -> None:
    async with world.engine() as engine:
        handle = await engine.start(begins_anew_while_undoing)
        with pytest.raises(
            WorkflowFailed, match=r"'again' with .*continue_as_new works only in .*not in a compensation"
        ):
            await handle.result()
        assert called == ["do last", "do more", "undo a"]


@workflow
async def undoing_child(ctx: Context, what: str) -> None:
    await ctx.call_activity(undo, what)


@workflow
async def with_children(ctx: Context) -> None:
    async def by_child(what: str) -> None:
        await ctx.call_workflow(undoing_child, what)

    async with ctx.saga() as saga:
        saga.compensate_with(by_child, "a")
        await ctx.call_workflow(rounds, 3)


async def test_children_may_fail_a_saga_and_undo_for_it(world: World) -> None:
    async with world.engine() as engine:
        handle = await engine.start(with_children)
        with pytest.raises(WorkflowFailed, match="ChildFailed"):
            await handle.result()
        assert called == ["do round 3", "do last", "undo round 3", "undo a"]


async def test_what_failed_and_was_undone_is_a_failed_instance(world: World) -> None:
    async with world.engine() as engine:
        handle = await engine.start(undone, "go on")
        status = await handle.wait_for_status()
        assert status.status is Status.FAILED
        view = await handle.view()
        assert [task.role for task in view.tasks] == ["", "", "", "compensation", "compensation", "compensation"]
