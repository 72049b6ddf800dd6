"""A workflow as it goes on for the first time: whole turns, with all that they say to the caller."""

from collections.abc import Callable
from typing import Any

import pytest
from stories import NOON, SECOND, Story, done, number, other, received, work

from durableflow import Context, RetryPolicy, Status
from durableflow.model import events as ev
from durableflow.model.converter import digest
from durableflow.model.retry import StoredRetry

Live = Callable[..., Story]


def test_a_start_asks_for_the_first_activity(live: Live) -> None:
    def flow(ctx: Context, x: int) -> Any:
        return (yield from ctx.call_activity(work, x, "two"))

    # `work` takes one argument: the call is refused where it is made, before anything is asked for.
    refused = live(flow, 1)
    assert "too many positional arguments" in refused.failure.message

    def mended(ctx: Context, x: int) -> Any:
        return (yield from ctx.call_activity(work, [x, "two"]))

    story = live(mended, 1)
    scheduled = ev.ActivityScheduled(1, "work", b'[[1,"two"]]', digest(b'[[1,"two"]]'), None)
    assert story.turn.events == [story.started, scheduled]
    assert (story.turn.first_seq, story.turn.at_us) == (1, NOON)
    assert [(a.task, a.name, a.attempt, a.started) for a in story.turn.scheduled] == [(1, "work", 1, True)]
    assert (story.turn.started, story.turn.cancelled, story.turn.refused) == ((), (), ())
    assert (story.status, story.execution.wake_us()) == (Status.RUNNING, 0)


def test_a_result_rides_in_the_row_of_the_decision_that_it_causes(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        first = yield from ctx.call_activity(work, "a")
        second = yield from ctx.call_activity(other, first)
        return [first, second]

    story = live(flow)
    turn = story.complete(1, "A")
    assert turn.events == [done(1, "A"), ev.ActivityScheduled(2, "other", b'["A"]', digest(b'["A"]'), None)]
    assert turn.first_seq == 3
    turn = story.complete(2, "B")
    assert turn.events == [done(2, "B"), ev.InstanceCompleted(b'["A","B"]')]
    assert (story.status, story.execution.wake_us()) == (Status.COMPLETED, None)


def test_calls_are_scheduled_when_made_not_when_awaited(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        second = ctx.call_activity(other)
        first = ctx.call_activity(work)
        timer = ctx.sleep(5)
        answer = ctx.wait_for_event("answer")
        return [(yield from first), (yield from second), (yield from answer), (yield from timer)]

    story = live(flow)
    assert [(type(e).__name__, getattr(e, "task", None)) for e in story.decisions] == [
        ("ActivityScheduled", 1),
        ("ActivityScheduled", 2),
        ("TimerCreated", 3),
        ("EventAwaited", 4),
    ]
    story.complete(1, "other")
    story.event("answer", 42)
    story.wait(5)
    assert story.complete(2, "work").events[-1] == ev.InstanceCompleted(b'["work","other",42,null]')


def test_options_of_the_call_are_recorded_and_defaults_take_no_room(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.call_activity(work.options(retry=RetryPolicy(max_attempts=7, initial=0.5), timeout=3))

    (scheduled,) = live(flow).decisions
    assert isinstance(scheduled, ev.ActivityScheduled)
    assert scheduled.options == ev.ActivityOptions(StoredRetry(7, 500_000), start_to_close_us=3 * SECOND)


def test_an_activity_called_by_name_gives_plain_values_or_the_type_asked_for(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        plain = yield from ctx.call_activity_by_name("elsewhere", {"b": 1, "a": (2,)})
        typed = yield from ctx.call_activity_by_name("elsewhere", result_type=tuple[int, ...])
        return [repr(plain), repr(typed)]

    story = live(flow)
    assert story.execution.activities[1].input == b'[{"a":[2],"b":1}]'
    story.complete(1, (1, 2))
    story.complete(2, (1, 2))
    assert story.result == ["[1, 2]", "(1, 2)"]


def test_the_live_value_is_the_stored_one(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        got = yield from ctx.call_activity(work, (1, 2))
        return repr(got)

    story = live(flow)
    story.complete(1, (1, {"b": 0, "a": 1}))
    assert story.result == "[1, {'b': 0, 'a': 1}]"  # a list, live as in replay


def test_a_result_that_is_not_of_the_annotated_type_is_raised_at_the_wait(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.call_activity(number)
        except ValueError as error:
            return f"{type(error).__name__}: {error}"

    story = live(flow)
    story.complete(1, "seven")
    assert story.result.startswith("PayloadError: a stored value does not fit int")


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}])
def test_empty_values_are_values(live: Live, value: object) -> None:
    def flow(ctx: Context, given: Any) -> Any:
        return [given, (yield from ctx.call_activity(work, given)), (yield from ctx.wait_for_event("e"))]

    story = live(flow, value)
    story.complete(1, value)
    story.event("e", value)
    assert story.result == [value] * 3


def test_a_batch_is_taken_one_by_one(live: Live) -> None:
    """Two results in one turn: the code runs after each, as if they had come apart."""

    def flow(ctx: Context) -> Any:
        waiting = [ctx.call_activity(work, "a"), ctx.call_activity(work, "b")]
        order: list[Any] = []
        while waiting:
            winner = yield from ctx.when_any(waiting)
            waiting.remove(winner)
            order.append(winner.result())
            ctx.call_activity(other, len(order))
        return order

    apart, batched = live(flow), live(flow)
    apart.complete(2, "B")
    apart.complete(1, "A")
    batched.tell(done(2, "B"), done(1, "A"))
    assert apart.result == batched.result == ["B", "A"]
    assert apart.decisions == batched.decisions
    assert (len(apart.rows), len(batched.rows)) == (3, 2)


def test_what_changes_nothing_is_refused_and_not_recorded(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.call_activity(work)

    story = live(flow)
    useless = [done(9), ev.TimerFired(1), ev.InstanceResumed(), ev.InstanceBegan(), ev.ActivityStarted(1, 1)]
    turn = story.tell(*useless)
    assert (turn.events, turn.refused) == ([], useless)
    assert len(story.rows) == 1


def test_an_instance_hears_nothing_before_its_start(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return (yield from ctx.wait_for_event("e"))

    story = live(flow, begin=False)
    early = [received("e"), ev.InstanceSuspended(), ev.CancelRequested(), ev.InstanceTerminated()]
    assert story.tell(*early).refused == early
    assert story.tell(story.started, story.started).refused == [story.started]
    assert story.event("e", 1).events[-1] == ev.InstanceCompleted(b"1")


def test_workflow_time_stands_still_in_a_turn_and_never_runs_back(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        times = [ctx.now(), ctx.now()]
        yield from ctx.call_activity(work)
        times.append(ctx.now())
        yield from ctx.call_activity(work)
        times.append(ctx.now())
        return [round((t - times[0]).total_seconds(), 6) for t in times]

    story = live(flow)
    story.now_us += 2 * SECOND
    story.complete(1)
    story.now_us -= 1_000 * SECOND  # somebody set the clock back
    story.complete(2)
    assert story.result == [0, 0, 2, 2]
    assert story.rows[-1][1] == NOON + 2 * SECOND


def test_now_is_in_utc(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return ctx.now().isoformat()

    assert live(flow).result == "2027-01-15T08:00:00+00:00"


def test_a_start_in_the_future_begins_when_its_time_has_come(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return ctx.now().isoformat()

    story = live(flow, start_at_s=60)
    assert (story.status, story.execution.wake_us()) == (Status.PENDING, NOON + 60 * SECOND)
    assert story.tell(ev.InstanceBegan()).refused == [ev.InstanceBegan()], "not before"
    assert story.execution.due_observations(NOON + 59 * SECOND) == []
    turn = story.wait(61)
    assert turn.events[0] == ev.InstanceBegan()
    assert story.result == "2027-01-15T08:01:01+00:00"


def test_a_start_in_the_past_begins_at_once(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return "begun"

    assert live(flow, start_at_s=-60).result == "begun"


def test_events_that_come_before_a_delayed_start_are_kept(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return (yield from ctx.wait_for_event("early"))

    story = live(flow, start_at_s=60)
    story.event("EARLY", 1)
    assert story.status is Status.PENDING
    story.wait(60)
    assert story.result == 1


def test_a_custom_status_is_recorded_each_time_it_is_set(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        ctx.set_custom_status({"step": 1})
        yield from ctx.sleep(1)
        ctx.set_custom_status(None)

    story = live(flow)
    assert story.execution.custom_status == b'{"step":1}'
    story.wait(1)
    assert story.execution.custom_status == b"null"
    assert [e for e in story.decisions if isinstance(e, ev.CustomStatusSet)] == [
        ev.CustomStatusSet(b'{"step":1}'),
        ev.CustomStatusSet(b"null"),
    ]
