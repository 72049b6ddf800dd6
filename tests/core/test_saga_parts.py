"""Sagas in sagas and in branches, compensations of several activities, and what is kept or undone without a failure."""

from collections.abc import Callable
from typing import Any

import pytest
from saga_flows import calls, undo_twice, undo_twice_too
from stories import Story, done, failed, other, work

from durableflow import ActivityFailed, Context, Saga, Status, TaskCancelled, UsageError
from durableflow.model import events as ev

Live = Callable[..., Story]


# -- compensations of several activities -----------------------------------------------------------------------------


@pytest.mark.parametrize("undo", [undo_twice, undo_twice_too])
def test_a_compensation_may_be_a_part_of_the_workflow(live: Live, undo: Any) -> None:
    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(other, "a")
            saga.compensate_with(undo, ctx, "b", times=2)
            await ctx.call_activity(work)

    story = live(flow)
    story.fail(1)
    story.complete(2)
    story.crash()
    story.tell(ev.CancelRequested())
    story.complete(3)
    story.complete(4)
    assert calls(story)[1:] == ["other b0", "other b1", "other a"]
    assert story.status is Status.CANCELLED


def test_parallel_compensations_begin_together_in_reverse(live: Live) -> None:
    async def flow(ctx: Context) -> None:
        async with ctx.saga(parallel=True) as saga:
            saga.compensate_with(other, "a")
            saga.compensate_with(undo_twice, ctx, "b")
            saga.compensate_with(other, "c")
            await ctx.call_activity(work)

    story = live(flow)
    story.fail(1)
    assert calls(story)[1:] == ["other c", "other b0", "other a"]
    for task in (4, 2, 3, 5):
        assert story.execution.ended is None
        story.complete(task)
    assert story.status is Status.FAILED


# -- what shall stay ---------------------------------------------------------------------------------------------


def test_what_is_kept_or_discarded_is_not_undone(live: Live) -> None:
    async def flow(ctx: Context) -> list[bool]:
        answers: list[bool] = []
        try:
            async with ctx.saga() as saga:
                saga.compensate_with(other, "a")
                saga.keep()
                b = saga.compensate_with(other, "b")
                saga.compensate_with(other, "c")
                answers += [b.discard(), b.discard()]
                await ctx.call_activity(work)
        except ActivityFailed:
            answers.append(b.discard())
        return answers

    story = live(flow)
    story.fail(1)
    assert calls(story)[1:] == ["other c"]
    story.complete(2)
    assert story.result == [True, False, False]


@pytest.mark.parametrize("waits", [True, False])
def test_a_workflow_may_undo_without_a_failure_and_go_on(live: Live, waits: bool) -> None:
    async def flow(ctx: Context) -> str:
        async with ctx.saga() as saga:
            saga.compensate_with(other, "a")
            undoing = saga.compensate()
            if not waits:
                return "forgot to wait"  # but does not leave before it is undone
            await undoing
            saga.compensate_with(other, "b")
            await saga.compensate()
            saga.compensate_with(other, "c")
        return "undone"

    story = live(flow)
    story.complete(1)
    if waits:
        story.complete(2)
    assert calls(story) == ["other a", "other b"][: 1 + waits]
    assert story.result == ("undone" if waits else "forgot to wait")


def test_a_saga_that_ended_while_it_undid_by_hand_stays_over(live: Live) -> None:
    async def flow(ctx: Context) -> str:
        async with ctx.saga() as saga:
            saga.compensate_with(other, "a")
            saga.compensate()
        with pytest.raises(UsageError, match="the saga is over"):
            saga.compensate_with(other, "b")
        return "over"

    story = live(flow)
    story.complete(1)
    assert story.result == "over"


def test_a_failure_while_it_undoes_by_hand_leaves_when_that_is_over(live: Live) -> None:
    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(other, "a")
            saga.compensate()
            raise LookupError("meanwhile")

    story = live(flow)
    assert story.execution.ended is None
    story.complete(1)
    assert story.failure.type_name == "LookupError"


def test_what_was_undone_by_hand_is_not_undone_again(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        def inner() -> Any:
            saga.compensate_with(other, "a")
            yield from saga.compensate()
            raise LookupError

        saga = ctx.saga()
        yield from saga.guard(inner())

    story = live(flow)
    story.complete(1)
    assert (calls(story), story.failure.type_name) == (["other a"], "LookupError")


def test_undoing_by_hand_raises_what_failed(live: Live) -> None:
    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(other, "a")
            await saga.compensate()

    story = live(flow)
    story.fail(1, "KeyError", "lost")
    assert story.failure.type_name == "durableflow.errors.CompensationFailed"
    assert story.failure.cause is not None
    assert story.failure.cause.message == "activity 'other' failed after 1 attempt: KeyError: lost"


def test_a_cancel_while_it_undoes_by_hand_is_raised_after_it(live: Live) -> None:
    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(other, "a")
            saga.compensate_with(other, "b")
            await saga.compensate()

    story = live(flow)
    story.tell(ev.CancelRequested("x"))
    story.complete(1)
    story.complete(2)
    assert (calls(story), story.events[-1]) == (["other b", "other a"], ev.InstanceCancelled("x"))


# -- sagas in sagas, sagas in branches -------------------------------------------------------------------------------


def nested(part_of: bool) -> Callable[..., Any]:
    async def flow(ctx: Context) -> str:
        async with ctx.saga() as outer:
            outer.compensate_with(other, "outer")
            async with ctx.saga(part_of=outer if part_of else None) as inner:
                inner.compensate_with(other, "a")
                inner.compensate_with(other, "b")
                await ctx.call_activity(work, "inner")
            outer.compensate_with(other, "last")
            await ctx.call_activity(work, "outer")
        return "done"

    return flow


@pytest.mark.parametrize("part_of", [False, True])
def test_a_failure_inside_undoes_the_inner_saga_then_the_outer(live: Live, part_of: bool) -> None:
    story = live(nested(part_of))
    story.fail(1)
    for task in (2, 3, 4):
        story.complete(task)
    assert calls(story)[1:] == ["other b", "other a", "other outer"]
    assert story.status is Status.FAILED


@pytest.mark.parametrize("part_of", [False, True])
def test_an_inner_saga_that_ended_well_is_undone_with_the_outer_only_as_a_part_of_it(live: Live, part_of: bool) -> None:
    story = live(nested(part_of))
    story.complete(1)
    story.fail(2)
    for task in (3, 4, 5, 6)[: 4 if part_of else 2]:
        story.complete(task)
    inner = ["other b", "other a"] if part_of else []
    assert calls(story)[2:] == ["other last", *inner, "other outer"]
    assert story.status is Status.FAILED


def test_a_failed_compensation_inside_still_undoes_outside(live: Live) -> None:
    story = live(nested(part_of=False))
    story.fail(1)
    story.fail(2)
    story.complete(3)
    story.fail(4)
    assert calls(story)[1:] == ["other b", "other a", "other outer"]
    assert story.failure.message.startswith("1 of 1 compensations failed")
    assert story.failure.cause is not None
    assert story.failure.cause.message.startswith("1 of 2 compensations failed")


def test_what_was_handed_over_can_still_be_discarded(live: Live) -> None:
    async def flow(ctx: Context) -> None:
        async with ctx.saga() as outer:
            async with ctx.saga(part_of=outer) as inner:
                a = inner.compensate_with(other, "a")
                inner.compensate_with(other, "b")
            assert a.discard()
            await ctx.call_activity(work)

    story = live(flow)
    story.fail(1)
    assert calls(story)[1:] == ["other b"]
    story.complete(2)


async def trip(ctx: Context, what: str, part_of: Saga | None = None) -> str:
    async with ctx.saga(part_of=part_of) as saga:
        saga.compensate_with(other, what)
        await ctx.call_activity(work, what)
        await ctx.sleep(1)
    return what


def test_sagas_in_branches_undo_each_for_itself(live: Live) -> None:
    async def flow(ctx: Context) -> list[str]:
        a, b = ctx.spawn(trip(ctx, "a")), ctx.spawn(trip(ctx, "b"))
        try:
            return await ctx.when_all([a, b])
        except ActivityFailed:
            return [a.result()]

    story = live(flow)
    story.tell(done(1), failed(2))
    assert calls(story) == ["work a", "work b", "other b"]
    story.crash()
    story.wait(1)
    story.complete(4)
    assert story.result == ["a"]


def test_a_cancelled_branch_is_undone(live: Live) -> None:
    async def flow(ctx: Context) -> bool:
        a = ctx.spawn(trip(ctx, "a"))
        await ctx.wait_for_event("stop")
        a.cancel()
        with pytest.raises(TaskCancelled):
            await a
        return a.cancelled

    story = live(flow)
    story.complete(2)
    story.event("stop")
    assert calls(story) == ["work a", "other a"]
    story.complete(4)
    assert story.result is True


def test_a_branch_that_is_dropped_at_the_end_undoes_nothing(live: Live) -> None:
    async def flow(ctx: Context) -> str:
        ctx.spawn(trip(ctx, "a"))
        await ctx.wait_for_event("stop")
        return "left"

    story = live(flow)
    story.event("stop")
    assert (calls(story), story.result) == (["work a"], "left")


def test_a_branch_cannot_go_on_in_a_saga_that_is_being_undone(live: Live) -> None:
    errors: list[str] = []

    async def beside(ctx: Context, saga: Saga) -> None:
        await ctx.sleep(1)
        try:
            saga.compensate_with(other, "late")
        except UsageError as error:
            errors.append(str(error))

    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(other, "a")
            ctx.spawn(beside(ctx, saga))
            await ctx.call_activity(work)

    story = live(flow)
    story.fail(1)
    story.wait(1)
    story.complete(3)
    assert calls(story)[1:] == ["other a"]
    assert errors[0] == "compensate_with(other, ...) would register for nothing: the saga is being undone"


def test_a_part_that_ends_while_the_whole_is_undone_is_undone_too(live: Live) -> None:
    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(other, "whole")
            part = ctx.spawn(trip(ctx, "part", part_of=saga))
            try:
                await ctx.wait_for_event("never")
            finally:
                saga.compensate_with(wait_for, part)

    async def wait_for(part: Any) -> None:
        await part

    story = live(flow)
    story.tell(ev.CancelRequested("enough"))
    story.complete(2)
    story.wait(1)
    assert calls(story) == ["work part", "other part"]
    story.complete(4)
    assert calls(story) == ["work part", "other part", "other whole"]
    story.complete(5)
    assert "a part of it ended, and is undone: the saga is being undone" in story.failure.message
