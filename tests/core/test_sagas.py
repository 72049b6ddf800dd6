"""Sagas: what was done is undone, last first, whenever and however the work fails, also across crashes."""

from collections.abc import Callable
from typing import Any

import pytest
from saga_flows import EITHER, calls, three, with_options
from stories import NOON, SECOND, Story, done, failed, other, work

from durableflow import ActivityFailed, Cancelled, CompensationFailed, Context, Status
from durableflow.model import events as ev

Live = Callable[..., Story]


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
