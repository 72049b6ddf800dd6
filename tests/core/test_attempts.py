"""Where an attempt stands, as far as the history knows."""

from collections.abc import Callable
from typing import Any

import pytest
from stories import NOON, SECOND, Story, done, failed, work

from durableflow import ActivityFailed, Context, Status
from durableflow.core.execution import WORKER_LOST
from durableflow.errors import RemoteError
from durableflow.model import events as ev
from durableflow.model.failure import Failure

Live = Callable[..., Story]
NO = Failure("ValueError", "no")


def one(ctx: Context) -> Any:
    try:
        return (yield from ctx.call_activity(work))
    except ActivityFailed as error:
        return [error.type_name, error.attempts]


def test_a_failed_attempt_is_not_told_to_the_code(live: Live) -> None:
    story = live(one)
    turn = story.tell(ev.AttemptFailed(1, 1, NO, NOON + SECOND))
    assert turn.events == [ev.AttemptFailed(1, 1, NO, NOON + SECOND)]
    (activity,) = story.execution.activities.values()
    assert (activity.attempt, activity.started, activity.retry_at_us) == (2, False, NOON + SECOND)
    assert story.execution.wake_us() == NOON + SECOND
    assert story.execution.due_retries(NOON) == []
    assert story.execution.due_retries(NOON + SECOND) == [activity]
    turn = story.tell(ev.ActivityStarted(1, 2))
    assert turn.started == [activity]
    assert (activity.started, activity.retry_at_us) == (True, 0)
    assert story.execution.wake_us() == 0
    story.complete(1, "at last", attempt=2)
    assert story.result == "at last"


def test_the_results_of_other_attempts_are_refused(live: Live) -> None:
    story = live(one)
    story.tell(ev.AttemptFailed(1, 1, NO, NOON))
    late = [done(1, "late"), failed(1), ev.AttemptFailed(1, 1, NO, NOON), done(1, "early", attempt=3)]
    assert story.tell(*late).refused == late
    assert story.tell(done(1, "not allowed to run yet", attempt=2)).refused
    story.tell(ev.ActivityStarted(1, 2))
    assert story.tell(ev.ActivityStarted(1, 2), ev.ActivityStarted(1, 1)).events == []
    assert story.tell(*late[:3]).refused == late[:3]
    story.complete(1, "right", attempt=2)
    assert story.result == "right"


def test_a_failure_of_whatever_attempt_ends_an_activity_at_any(live: Live) -> None:
    """Of a task whose row cannot be read nobody knows at which attempt it was."""
    story = live(one)
    story.tell(ev.AttemptFailed(1, 1, NO, NOON))
    assert story.tell(done(1, "no result is of no attempt", attempt=ev.WHATEVER_ATTEMPT)).refused
    assert not story.tell(ev.ActivityFailed(1, NO, 1, ev.WHATEVER_ATTEMPT)).refused
    assert story.result == ["ValueError", 1]


def test_a_second_result_is_refused(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        first = yield from ctx.call_activity(work)
        return [first, (yield from ctx.call_activity(work))]

    story = live(flow)
    assert story.tell(done(1, "a"), done(1, "b")).refused == [done(1, "b")]
    story.complete(2)
    assert story.result == ["a", None]


def test_without_room_an_activity_is_noted_as_queued_and_not_as_running(live: Live) -> None:
    story = live(one)
    story.rows.pop()
    (activity,) = story.turn.scheduled
    story.execution.note_queued(activity)
    story.rows.append((1, NOON, list(story.turn.events)))
    assert story.turn.events[-1] == ev.ActivityQueued(1)
    assert story.execution.unstarted == {1: activity}
    assert story.tell(done(1)).refused == [done(1)], "it never ran"
    story.check()
    story.tell(ev.ActivityStarted(1, 1))
    story.complete(1, 5)
    assert story.result == 5


def test_an_activity_that_found_no_place_in_time_fails_without_an_attempt(live: Live) -> None:
    story = live(one)
    story.rows.pop()
    story.execution.note_queued(story.turn.scheduled[0])
    story.rows.append((1, NOON, list(story.turn.events)))
    story.fail(1, "TimeoutError", attempts=0)
    assert story.result == ["TimeoutError", 0]


def test_attempts_that_do_not_count_and_those_that_were_lost_are_counted_apart(live: Live) -> None:
    story = live(one)
    lost = Failure(WORKER_LOST)
    story.tell(ev.AttemptFailed(1, 1, lost, NOON, details=b"1"))
    story.tell(ev.ActivityStarted(1, 2))
    story.tell(ev.AttemptFailed(1, 2, lost, NOON))
    story.tell(ev.ActivityStarted(1, 3))
    (activity,) = story.execution.activities.values()
    assert (activity.losses, activity.uncounted, activity.details) == (2, 0, b"1")
    story.tell(ev.AttemptFailed(1, 3, Failure("WorkerStopped"), NOON, counts=False, details=b"2"))
    assert (activity.losses, activity.uncounted, activity.details, activity.attempt) == (0, 1, b"2", 4)
    assert story.status is Status.RUNNING


def test_a_failure_is_the_same_live_and_in_replay(live: Live) -> None:
    seen: list[Any] = []

    def look(error: BaseException | None) -> Any:
        if isinstance(error, RemoteError):
            return [error.type_name, error.message, error.traceback_text, look(error.__cause__)]
        return error

    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.call_activity(work, "x")
        except ActivityFailed as error:
            kinds = [error.is_type(KeyError, "shop.Sold"), error.is_type("Sold"), error.is_type(ValueError)]
            texts = [str(error), error.activity, error.attempts, error.traceback_text]
            seen.append([*texts, look(error.__cause__), kinds])
        yield from ctx.sleep(1)

    cause = Failure("OSError", "disk", "in os")
    failure = Failure("shop.Sold", "gone", "in shop", cause)
    story = live(flow)
    story.tell(ev.ActivityFailed(1, failure, 3, 1))
    story.replayed().put_away()
    once, again = seen
    assert once == again
    assert once == [
        "activity 'work' failed after 3 attempts: shop.Sold: gone",
        "work",
        3,
        "in shop",
        ["shop.Sold", "gone", "in shop", ["OSError", "disk", "in os", None]],
        [True, True, False],
    ]


def test_two_waiters_get_a_failure_each_of_its_own(live: Live) -> None:
    def branch(task: Any) -> Any:
        try:
            yield from task
        except ActivityFailed as error:
            return error

    def flow(ctx: Context) -> Any:
        task = ctx.call_activity(work)
        one, two = yield from ctx.when_all(ctx.spawn(branch(task)), ctx.spawn(branch(task)))
        return [one is two, str(one) == str(two)]

    story = live(flow)
    story.fail(1)
    assert story.result == [False, True]


@pytest.mark.parametrize("message", ["", "line\nline", "\0", "\ud800", "é" * 10_000])
def test_any_message_of_a_failure_can_be_stored(live: Live, message: str) -> None:
    def flow(ctx: Context) -> Any:
        raise LookupError(message)

    story = live(flow)
    assert story.failure.type_name == "LookupError"
    assert "\0" not in story.failure.message
    assert len(story.failure.message) <= 4_000
