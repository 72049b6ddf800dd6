"""Sagas: what was done is undone, last first, whenever and however the work fails, also across crashes."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
from stories import NOON, SECOND, Story, done, failed, number, other, received, work

from durableflow import ActivityFailed, Cancelled, CompensationFailed, Context, Saga, Status, TaskCancelled, UsageError
from durableflow.core.view import fold, numbered
from durableflow.errors import PayloadError, PayloadTooLarge
from durableflow.model import events as ev
from durableflow.model.events import COMPENSATION

Live = Callable[..., Story]

# `work` does, `other` undoes; tasks are numbered as they are asked for.


async def three(ctx: Context, **options: Any) -> str:
    async with ctx.saga(**options) as saga:
        for what in "abc":
            saga.compensate_with(other, what)
            await ctx.call_activity(work, what)
    return "done"


def three_too(ctx: Context, **options: Any) -> Any:
    saga = ctx.saga(**options)
    return (yield from saga.guard(book(ctx, saga)))


def book(ctx: Context, saga: Saga) -> Any:
    for what in "abc":
        saga.compensate_with(other, what)
        yield from ctx.call_activity(work, what)
    return "done"


def three_mixed(ctx: Context, **options: Any) -> Any:
    """A coroutine within a generator."""
    saga = ctx.saga(**options)
    return (yield from saga.guard(book_too(ctx, saga)))


async def book_too(ctx: Context, saga: Saga) -> str:
    for what in "abc":
        saga.compensate_with(other, what)
        await ctx.call_activity(work, what)
    return "done"


EITHER = pytest.mark.parametrize("flow", [three, three_too, three_mixed])


def calls(story: Story) -> list[str]:
    """What was asked for, as `work a` and so on."""
    return [
        f"{event.name} {event.input.decode()[2:-2]}"
        for event in story.decisions
        if isinstance(event, ev.ActivityScheduled)
    ]


def with_options(flow: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    async def coroutine(ctx: Context) -> Any:
        return await flow(ctx, **options)

    def generator(ctx: Context) -> Any:
        return (yield from flow(ctx, **options))

    return coroutine if flow is three else generator


# -- the work fails, or not -----------------------------------------------------------------------------------


@EITHER
def test_nothing_is_undone_when_all_goes_well(live: Live, flow: Any) -> None:
    story = live(flow)
    for task in (1, 2, 3):
        story.complete(task)
    assert story.result == "done"
    assert calls(story) == ["work a", "work b", "work c"]


@EITHER
def test_a_failure_is_undone_in_reverse_one_after_the_other_and_goes_on(live: Live, flow: Any) -> None:
    story = live(flow)
    story.complete(1)
    story.complete(2)
    story.fail(3, message="no cars")
    assert calls(story)[3:] == ["other c"], "what failed is undone, too: it may have done its work"
    story.complete(4)
    assert calls(story)[3:] == ["other c", "other b"]
    story.complete(5)
    story.complete(6)
    assert calls(story)[3:] == ["other c", "other b", "other a"]
    assert story.status is Status.FAILED
    assert (story.failure.type_name, story.failure.message) == (
        "durableflow.errors.ActivityFailed",
        "activity 'work' failed after 1 attempt: ValueError: no cars",
    )


@EITHER
def test_a_cancelled_workflow_is_undone_and_ends_cancelled(live: Live, flow: Any) -> None:
    story = live(flow)
    story.complete(1)
    story.tell(ev.CancelRequested("enough"))
    assert calls(story)[2:] == ["other b"]
    story.complete(3)
    story.complete(4)
    assert story.events[-1] == ev.InstanceCancelled("enough")


@EITHER
def test_an_error_of_the_workflows_own_code_is_undone_alike(live: Live, flow: Any) -> None:
    async def broken(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(other, "a")
            raise LookupError("of its own")

    def broken_too(ctx: Context) -> Any:
        def inner() -> Any:
            saga.compensate_with(other, "a")
            raise LookupError("of its own")
            yield

        saga = ctx.saga()
        yield from saga.guard(inner())

    story = live(broken if flow is three else broken_too)
    assert calls(story) == ["other a"]
    story.complete(1)
    assert (story.failure.type_name, story.failure.message) == ("LookupError", "of its own")


def test_the_error_can_be_caught_outside_of_the_saga(live: Live) -> None:
    async def flow(ctx: Context) -> str:
        try:
            return await three(ctx)
        except ActivityFailed as failed:
            return f"undone after {failed.message}"

    story = live(flow)
    story.fail(1)
    story.complete(2)
    assert story.result == "undone after no"


def test_a_failure_before_anything_was_registered_goes_straight_on(live: Live) -> None:
    async def flow(ctx: Context) -> None:
        async with ctx.saga():
            await ctx.call_activity(work)

    story = live(flow)
    assert story.fail(1).events[-1].__class__ is ev.InstanceFailed


@pytest.mark.parametrize("error", [SystemExit(3), Cancelled("mine")])
def test_what_ends_an_instance_without_being_an_exception_is_undone(live: Live, error: BaseException) -> None:
    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(other, "a")
            raise error

    story = live(flow)
    story.complete(1)
    assert (calls(story), story.status) == (["other a"], Status.FAILED)


class Unwinding(BaseException):
    """As the engine raises it to leave code that has not failed."""


def test_what_merely_unwinds_the_code_undoes_nothing(live: Live) -> None:
    async def flow(ctx: Context) -> str:
        try:
            async with ctx.saga() as saga:
                saga.compensate_with(other, "a")
                raise Unwinding
        except Unwinding:
            await ctx.sleep(1)
            return "left"

    story = live(flow)
    story.wait(1)
    assert (calls(story), story.result) == ([], "left")


# -- put away, crashed, ended -----------------------------------------------------------------------------------


@EITHER
def test_a_workflow_that_is_put_away_undoes_nothing(live: Live, flow: Any) -> None:
    story = live(flow)
    story.complete(1)
    before = list(story.events)
    story.crash()
    assert story.events == before
    story.complete(2)
    story.complete(3)
    assert (calls(story), story.result) == (["work a", "work b", "work c"], "done")


@EITHER
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("end", ["failure", "cancel", "failing compensation"])
def test_a_crash_at_any_commit_changes_nothing(live: Live, flow: Any, parallel: bool, end: str) -> None:
    told: list[ev.Observation] = [done(1), failed(2) if end != "cancel" else ev.CancelRequested()]
    told += [done(3) if end != "failing compensation" else failed(3), done(4)]
    whole = live(with_options(flow, parallel=parallel))
    for observation in told:
        whole.tell(observation)
    assert whole.status is (Status.CANCELLED if end == "cancel" else Status.FAILED)
    for crash_at in range(len(told) + 1):
        story = live(with_options(flow, parallel=parallel))
        for n, observation in enumerate(told):
            if n == crash_at or crash_at == len(told):
                story.crash()
            story.tell(observation)
        assert [without_trace(event) for event in story.events] == [without_trace(event) for event in whole.events]


def without_trace(event: ev.Event) -> Any:
    return (event.failure.type_name, event.failure.message) if isinstance(event, ev.InstanceFailed) else event


@pytest.mark.parametrize("end", [ev.InstanceTerminated(), ev.InstanceTimedOut()], ids=ev.tag_of)
@pytest.mark.parametrize("undoing", [False, True])
def test_terminated_or_out_of_time_nothing_more_is_undone(live: Live, end: ev.Observation, undoing: bool) -> None:
    story = live(three, deadline_s=5)
    story.complete(1)
    if undoing:
        story.fail(2)
    story.now_us += 5 * SECOND
    assert story.tell(end).events == [end]


def test_a_suspended_workflow_undoes_when_it_is_resumed(live: Live) -> None:
    story = live(three)
    story.tell(ev.InstanceSuspended())
    story.fail(1)
    assert calls(story) == ["work a"]
    story.tell(ev.InstanceResumed())
    assert calls(story) == ["work a", "other a"]


def test_a_retry_of_a_compensation_is_that_of_any_activity(live: Live) -> None:
    story = live(three)
    story.fail(1)
    story.tell(ev.AttemptFailed(2, 1, ev.Failure("ValueError"), NOON + SECOND))
    story.crash()
    story.now_us += SECOND
    story.tell(ev.ActivityStarted(2, 2))
    story.tell(done(2, attempt=2))
    assert story.status is Status.FAILED


# -- cancelled while it is undone ---------------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize("parallel", [False, True])
def test_a_cancel_does_not_stop_the_undoing_and_is_raised_after_it(live: Live, flow: Any, parallel: bool) -> None:
    story = live(with_options(flow, parallel=parallel))
    story.complete(1)
    story.fail(2)
    turn = story.tell(ev.CancelRequested("enough"))
    assert (turn.events, turn.cancelled) == ([ev.CancelRequested("enough")], ())
    story.complete(3)
    story.complete(4)
    assert calls(story) == ["work a", "work b", "other b", "other a"]
    assert story.events[-1] == ev.InstanceCancelled("enough")


def test_a_cancel_while_a_failing_compensation_is_waited_for_leaves_its_failure(live: Live) -> None:
    story = live(three)
    story.fail(1)
    story.tell(ev.CancelRequested())
    story.fail(2)
    assert story.failure.type_name == "durableflow.errors.CompensationFailed"


def test_a_cancel_and_the_last_result_in_one_turn_are_both_heard(live: Live) -> None:
    for observed in ([ev.CancelRequested("x"), done(2)], [done(2), ev.CancelRequested("x")]):
        story = live(three)
        story.fail(1)
        story.tell(*observed)
        assert story.status in (Status.CANCELLED, Status.FAILED)
        assert story.execution.ended is not None


def test_an_activity_under_way_is_over_before_it_is_undone(live: Live) -> None:
    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            await saga.compensate_with(other, "a").after(ctx.call_activity(work, "a"))
            await saga.compensate_with(other, "b").after(ctx.call_activity(work, "b"))

    for answer in (done(2), failed(2)):
        story = live(flow)
        story.complete(1)
        story.tell(ev.CancelRequested())
        assert calls(story) == ["work a", "work b"], "it is waited for"
        story.crash()
        story.tell(answer)
        assert calls(story) == ["work a", "work b", "other b"]
        story.complete(3)
        story.complete(4)
        assert story.status is Status.CANCELLED


# -- compensations that fail --------------------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize("parallel", [False, True])
def test_the_others_go_on_when_one_fails_and_the_failure_tells_all(live: Live, flow: Any, parallel: bool) -> None:
    story = live(with_options(flow, parallel=parallel))
    story.complete(1)
    story.complete(2)
    story.fail(3, message="no cars")
    story.fail(4, "KeyError", "lost")
    story.complete(5)
    story.fail(6, "OSError", "gone", attempts=2)
    failure = story.failure
    assert (failure.type_name, failure.message) == (
        "durableflow.errors.CompensationFailed",
        (
            "2 of 3 compensations failed: "
            "'other' with durableflow.errors.ActivityFailed: activity 'other' failed after 1 attempt: KeyError: lost; "
            "'other' with durableflow.errors.ActivityFailed: activity 'other' failed after 2 attempts: OSError: gone"
        ),
    )
    assert failure.cause is not None
    assert failure.cause.message == "activity 'work' failed after 1 attempt: ValueError: no cars"
    assert failure.cause.cause is not None
    assert failure.cause.cause.type_name == "ValueError"


@EITHER
def test_with_stop_those_behind_a_failed_one_are_not_begun(live: Live, flow: Any) -> None:
    story = live(with_options(flow, on_failure="stop"))
    story.complete(1)
    story.complete(2)
    story.fail(3)
    story.complete(4)
    story.fail(5)
    assert calls(story)[3:] == ["other c", "other b"]
    assert story.failure.message.startswith("1 of 3 compensations failed: 'other' with ")
    assert story.failure.message.endswith("; not begun after that: 'other'")


def test_the_error_has_the_failures_for_programs(live: Live) -> None:
    async def flow(ctx: Context) -> list[Any]:
        try:
            await three(ctx, on_failure="stop")
        except CompensationFailed as failed:
            names = [[each.name, type(each.error).__name__] for each in failed.failures]
            return [names, failed.skipped, type(failed.__cause__).__name__]
        return []

    story = live(flow)
    story.complete(1)
    story.fail(2)
    story.fail(3)
    assert story.result == [[["other", "ActivityFailed"]], ["other"], "ActivityFailed"]


def test_a_bug_in_a_compensation_is_a_failure_of_it_alone(live: Live) -> None:
    def broken(what: str) -> Any:
        raise LookupError(what)
        yield

    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(other, "a")
            saga.compensate_with(broken, "b")
            await ctx.call_activity(work)

    story = live(flow)
    story.fail(1)
    story.complete(2)
    assert story.failure.message.startswith("1 of 2 compensations failed: 'broken'")
    assert story.failure.message.endswith("with LookupError: b")


# -- compensations of several activities -----------------------------------------------------------------------------


async def undo_twice(ctx: Context, what: str, *, times: int = 2) -> None:
    for n in range(times):
        await ctx.call_activity(other, f"{what}{n}")


def undo_twice_too(ctx: Context, what: str, *, times: int = 2) -> Any:
    for n in range(times):
        yield from ctx.call_activity(other, f"{what}{n}")


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


# -- what it leaves behind ---------------------------------------------------------------------------------------


def test_the_history_says_which_activities_were_compensations(live: Live) -> None:
    story = live(with_options(three))
    story.fail(1)
    story.fail(2)
    view = fold(numbered(story.rows))
    assert [(task.name, task.role, task.state) for task in view.tasks] == [
        ("work", "", "failed"),
        ("other", COMPENSATION, "failed"),
    ]


def test_a_compensation_keeps_the_options_of_its_activity(live: Live) -> None:
    undo = other.options(retry=9, timeout=3)

    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(undo, "a")
            await ctx.call_activity(work)

    story = live(flow)
    options = story.fail(1).scheduled[0].options
    assert options is not None
    assert undo.stored_options is not None
    assert (options.retry, options.start_to_close_us) == (undo.stored_options.retry, 3 * SECOND)
    assert undo.stored_options.role == ""


def test_what_was_undone_by_a_list_is_followed_by_a_saga() -> None:
    """So that code may change to it while instances are open."""

    async def by_hand(ctx: Context) -> None:
        undo: list[str] = []
        try:
            for what in "abc":
                undo.append(what)
                await ctx.call_activity(work, what)
        except ActivityFailed:
            for what in reversed(undo):
                await ctx.call_activity(other, what)
            raise

    story = Story(by_hand)
    story.complete(1)
    story.fail(2)
    story.complete(3)
    flow = three
    flow_named = with_options(flow)
    flow_named.__name__ = "by_hand"
    replayed = story.replayed(flow_named)
    assert replayed.status is Status.RUNNING
    replayed.put_away()
    story.execution.put_away()


def test_arguments_are_what_they_were_when_they_were_registered(live: Live) -> None:
    async def flow(ctx: Context) -> None:
        seats = ["12A"]
        async with ctx.saga() as saga:
            saga.compensate_with(other, seats)
            seats.clear()
            await ctx.call_activity(work)

    story = live(flow)
    assert story.fail(1).scheduled[0].input == b'[["12A"]]'
    story.complete(2)


def _undone() -> None:
    story = Story(three)
    story.fail(1)
    story.complete(2)


def _undone_too() -> None:
    story = Story(three_too)
    story.fail(1)
    story.complete(2)


def _half_undone() -> None:
    story = Story(three)
    story.complete(1)
    story.fail(2)
    story.fail(3)
    story.complete(4)


def _half_undone_too() -> None:
    story = Story(three_too)
    story.complete(1)
    story.fail(2)
    story.tell(ev.CancelRequested())
    story.fail(3)
    story.fail(4)


def _cancelled() -> None:
    story = Story(three)
    story.fail(1)
    story.tell(ev.CancelRequested())
    story.complete(2)


def _put_away() -> None:
    story = Story(three)
    story.fail(1)
    story.execution.put_away()


@pytest.mark.parametrize("lives", [_undone, _undone_too, _half_undone, _half_undone_too, _cancelled, _put_away])
def test_a_saga_leaves_nothing_to_the_garbage_collector(lives: Callable[[], None]) -> None:
    lives()
    while gc.collect():
        pass
    gc.disable()
    try:
        lives()
        assert gc.collect() == 0
    finally:
        gc.enable()


# -- what is refused ---------------------------------------------------------------------------------------------


def plain(what: str) -> None: ...


async def unwound(ctx: Context) -> None: ...


WRONG: dict[str, tuple[Callable[[Saga, Context], Any], str]] = {
    "a plain function": (
        lambda saga, ctx: saga.compensate_with(plain, "a"),  # type: ignore[arg-type]
        "an activity, or a generator or coroutine function, not <function plain.*decorate it: @activity def plain",
    ),
    "no function": (lambda saga, ctx: saga.compensate_with(5), "not 5$"),  # type: ignore[arg-type,call-arg]
    "a call": (
        lambda saga, ctx: saga.compensate_with(undo_twice_too(ctx, "a")),
        r"takes the function and its arguments, not its call: compensate_with\(undo_twice_too, ...\)",
    ),
    "a task": (lambda saga, ctx: saga.compensate_with(ctx.call_activity(other)), "not its call"),  # type: ignore[arg-type,call-arg]
    "other arguments of a function": (
        lambda saga, ctx: saga.compensate_with(undo_twice, ctx),  # type: ignore[call-arg]
        "has other arguments than it takes: missing a required argument: 'what'",
    ),
    "a task to be undone that is none": (
        lambda saga, ctx: saga.compensate_with(other).after(5),  # type: ignore[arg-type]
        "after takes a task, as ctx.call_activity gives it, not 5",
    ),
    "guard without a call": (
        lambda saga, ctx: ctx.saga().guard(book),  # type: ignore[arg-type]
        r"guard takes a generator or coroutine, not <function book.*saga.guard\(book\(ctx, saga\)\)",
    ),
    "guard of a saga in use": (
        lambda saga, ctx: next(saga.guard(book(ctx, saga))),
        "cannot be entered a second time",
    ),
    "a part of what is none": (lambda saga, ctx: ctx.saga(part_of=5), "part_of takes the saga"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_use_says_what_to_write(live: Live, wrong: str) -> None:
    use, message = WRONG[wrong]

    async def flow(ctx: Context) -> str:
        async with ctx.saga() as saga:
            with pytest.raises(UsageError, match=message):
                use(saga, ctx)
        return "refused"

    assert live(flow).result == "refused"


def test_arguments_that_cannot_be_stored_are_refused_before_anything_is_done(live: Live) -> None:
    async def flow(ctx: Context) -> str:
        async with ctx.saga() as saga:
            with pytest.raises(PayloadError):
                saga.compensate_with(other, object())
            with pytest.raises(PayloadTooLarge, match="the arguments of activity 'other'"):
                saga.compensate_with(other, "x" * 200)
            with pytest.raises(UsageError, match="the arguments of activity 'other': too many positional arguments"):
                saga.compensate_with(other, 1, 2)  # type: ignore[call-arg]
        return "refused"

    assert live(flow, payload_limit_bytes=100).result == "refused"


def test_a_saga_that_nobody_would_undo_takes_nothing(live: Live) -> None:
    async def flow(ctx: Context) -> str:
        saga = ctx.saga()
        with pytest.raises(UsageError, match=r"was not entered; enter it with `async with ctx.saga\(\) as saga:`"):
            saga.compensate_with(other, "a")
        with pytest.raises(UsageError, match=r"compensate\(\) has nothing to undo: the saga was not entered"):
            saga.compensate()
        async with saga:
            pass
        with pytest.raises(UsageError, match="the saga is over"):
            saga.compensate_with(other, "a")
        with pytest.raises(UsageError, match="make another with"):
            async with saga:
                pass
        return repr(saga)

    assert live(flow).result == "<saga with 0 compensations, which is over>"


def test_options_that_do_not_go_together_are_refused(live: Live) -> None:
    async def flow(ctx: Context) -> str:
        with pytest.raises(ValueError, match="on_failure is 'ignore', but must be 'go_on' or 'stop'"):
            ctx.saga(on_failure="ignore")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="on_failure='stop' needs an order"):
            ctx.saga(parallel=True, on_failure="stop")
        return "refused"

    assert live(flow).result == "refused"


def test_an_event_goes_to_the_compensation_that_waits_for_it(live: Live) -> None:
    async def ask(ctx: Context) -> None:
        await ctx.call_activity(other, await ctx.wait_for_event("how", str))

    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(ask, ctx)
            await ctx.call_activity(number)

    story = live(flow)
    story.fail(1)
    story.tell(received("how", "gently"))
    assert calls(story)[1:] == ["other gently"]
    story.complete(3)
