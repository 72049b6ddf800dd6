"""Suspended: nothing is delivered, nothing is lost, the order is kept."""

from collections.abc import Callable
from typing import Any

import pytest
from stories import NOON, SECOND, Story, done, failed, received, work

from durableflow import Cancelled, Context, Status
from durableflow.core.execution import WORKER_LOST
from durableflow.model import events as ev
from durableflow.model.failure import Failure

Live = Callable[..., Story]


def gather(ctx: Context) -> Any:
    """Notes what comes in the order in which it comes, until told to stop."""
    log: list[str] = []

    def note(name: str, task: Any) -> Any:
        yield from ctx.when_any(task)
        log.append(name)

    tasks = {"result": ctx.call_activity(work), "timer": ctx.sleep(10), "event": ctx.wait_for_event("e")}
    for name, task in tasks.items():
        ctx.spawn(note(name, task))
    stop = ctx.wait_for_event("stop")
    try:
        yield from stop
    except Cancelled:
        log.append("cancel")
        yield from stop
    return log


OBSERVED: dict[str, ev.Observation] = {
    "result": done(1, "r"),
    "timer": ev.TimerFired(2),
    "event": received("e", 1),
    "cancel": ev.CancelRequested(),
}


ORDERS = ["result timer event cancel", "cancel event timer result", "event cancel result timer"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("crash", [True, False])
def test_what_comes_meanwhile_is_delivered_in_order_at_the_resume(
    live: Live, order: str, batched: bool, crash: bool
) -> None:
    story = live(gather)
    story.now_us += 10 * SECOND
    story.tell(ev.InstanceSuspended("lunch"))
    names = order.split()
    observed = [OBSERVED[name] for name in names]
    for batch in [observed] if batched else [[each] for each in observed]:
        turn = story.tell(*batch)
        assert (turn.events, turn.refused) == (batch, ()), "recorded, and no decision follows"
        if crash:
            story.crash()
    assert story.status is Status.SUSPENDED
    story.tell(ev.InstanceResumed())
    story.event("stop")
    assert story.result == names


def test_nothing_is_asked_for_while_suspended(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        while True:
            yield from ctx.call_activity(work)

    story = live(flow)
    story.tell(ev.InstanceSuspended(), done(1), ev.EventReceived("x", b"1"))
    assert len(story.decisions) == 1
    assert story.execution.activities == {}
    assert story.execution.wake_us() is None
    turn = story.tell(ev.InstanceResumed())
    assert [type(event).__name__ for event in turn.events] == ["InstanceResumed", "ActivityScheduled"]


def test_a_timer_that_falls_due_is_held_and_fires_once(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(5)
        return ctx.now().second

    story = live(flow)
    story.tell(ev.InstanceSuspended())
    assert story.execution.wake_us() == NOON + 5 * SECOND
    story.wait(5)
    assert story.status is Status.SUSPENDED
    assert story.wait(5).events == []
    story.now_us += SECOND
    story.tell(ev.InstanceResumed())
    assert story.result == 11, "the code sees the time of the turn in which it goes on"


def test_an_event_that_came_in_time_beats_the_timer_that_fell_due_while_suspended(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return (yield from ctx.wait_for_event("e", timeout=5))

    story = live(flow)
    story.tell(ev.InstanceSuspended(), received("e", "in time"))
    assert story.wait(5).events == [ev.TimerFired(1)]
    story.tell(ev.InstanceResumed())
    assert story.result == "in time"


def test_where_attempts_stand_is_noted_at_once(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return (yield from ctx.call_activity(work))

    story = live(flow)
    story.tell(ev.InstanceSuspended())
    story.tell(ev.AttemptFailed(1, 1, Failure(WORKER_LOST), NOON))
    assert story.execution.unstarted
    assert story.tell(ev.ActivityStarted(1, 2)).started, "a retry goes on: the workflow sleeps, not its activities"
    story.complete(1, "r", attempt=2)
    assert story.status is Status.SUSPENDED
    story.tell(ev.InstanceResumed())
    assert story.result == "r"


def test_suspend_and_resume_are_taken_once_each(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return (yield from ctx.wait_for_event("e"))

    story = live(flow)
    assert story.tell(ev.InstanceResumed()).events == []
    story.tell(ev.InstanceSuspended())
    assert story.tell(ev.InstanceSuspended()).events == []
    story.tell(ev.InstanceResumed(), ev.InstanceSuspended(), received("e", 1), ev.InstanceResumed())
    assert story.result == 1


def test_a_second_suspend_holds_what_the_first_resume_did_not_reach(live: Live) -> None:
    story = live(gather)
    story.tell(ev.InstanceSuspended(), done(1), ev.InstanceResumed(), ev.InstanceSuspended(), received("e", 1))
    story.crash()
    story.tell(ev.InstanceResumed())
    story.event("stop")
    assert story.result == ["result", "event"]


def test_a_cancel_held_before_the_beginning_runs_no_code(live: Live) -> None:
    begun: list[int] = []

    def flow(ctx: Context) -> Any:
        begun.append(1)

    story = live(flow, start_at_s=5)
    story.tell(ev.InstanceSuspended(), ev.CancelRequested("early"))
    assert story.wait(5).events == [ev.InstanceBegan()]
    assert story.tell(ev.InstanceResumed()).events[-1] == ev.InstanceCancelled("early")
    assert begun == []


def test_an_end_among_what_was_held_drops_what_came_after_it(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return (yield from ctx.call_activity(work))

    story = live(flow)
    story.tell(ev.InstanceSuspended(), done(1, 5), received("too late"), ev.CancelRequested())
    turn = story.tell(ev.InstanceResumed(), received("refused"))
    assert turn.refused == [received("refused")]
    assert story.result == 5


def test_before_the_beginning_it_waits_for_both_the_time_and_the_resume(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return ctx.now().second

    first, second = live(flow, start_at_s=5), live(flow, start_at_s=5)
    first.tell(ev.InstanceSuspended())
    first.wait(5)
    assert first.status is Status.SUSPENDED
    first.now_us += 2 * SECOND
    first.tell(ev.InstanceResumed())
    assert first.result == 7
    second.tell(ev.InstanceSuspended())
    second.tell(ev.InstanceResumed())
    assert second.status is Status.PENDING
    second.wait(5)
    assert second.result == 5


@pytest.mark.parametrize(
    ("event", "status"),
    [(ev.InstanceTerminated("no"), Status.TERMINATED), (ev.InstanceTimedOut(), Status.FAILED)],
    ids=["terminate", "deadline"],
)
def test_terminate_and_deadline_do_not_wait_for_a_resume(live: Live, event: ev.Observation, status: Status) -> None:
    log: list[str] = []

    def flow(ctx: Context) -> Any:
        yield from ctx.call_activity(work)
        log.append("went on")

    story = live(flow, deadline_s=5)
    story.tell(ev.InstanceSuspended(), done(1))
    story.now_us += 5 * SECOND
    story.tell(event)
    assert (story.status, log) == (status, [])
    assert story.tell(ev.InstanceResumed()).refused


def test_a_failure_is_held_like_a_result(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.call_activity(work)
        except Exception as error:
            return str(error)

    story = live(flow)
    story.tell(ev.InstanceSuspended(), failed(1, message="held"))
    story.tell(ev.InstanceResumed())
    assert "held" in story.result
