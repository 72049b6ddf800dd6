"""Histories made to go on: rewound to before a failure, copied up to an event."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from stories import NOON, SECOND, Row, Story, asked, done, ended, failed, other, received, returned, work

from durableflow import ActivityFailed, ChildFailed, Context, EventTimeout, Status, UsageError
from durableflow.authoring.workflow import Workflow
from durableflow.core import rewriting
from durableflow.core.rewriting import Plan, child_id_of
from durableflow.model import events as ev
from durableflow.model.failure import Failure

Live = Callable[..., Story]


def _kid(ctx: Context, n: int) -> int:
    raise AssertionError("the core starts no children")


kid = Workflow(_kid, name="kid")


def gone_on(story: Story, plan: Plan) -> Story:
    """Another story, of the rows of a plan and of what it is told then, as a store would bring it in."""
    following = Story(story.program, *story.args, instance_id=story.instance_id, begin=False)
    following.now_us = story.now_us
    following.rows = [(first, at_us, ev.load_events(ev.dump_events(events))) for first, at_us, events in plan.rows]
    following.execution = following.replayed()
    for message in plan.messages:
        activity = following.execution.activities.get(message.task) if hasattr(message, "task") else None
        if activity is not None and isinstance(message, ev.ActivityCompleted) and not activity.started:
            following.tell(ev.ActivityStarted(message.task, message.attempt))
        following.tell(message)
    following.tell(ev.InstanceResumed())
    return following


def rewound(story: Story, seq: int | None = None, deadline_us: int | None = None) -> tuple[Plan, Story]:
    plan = rewriting.rewind(story.instance_id, story.rounds[-1], seq, deadline_us)
    return plan, gone_on(story, plan)


def start_attempts(story: Story) -> None:
    """As the worker does when there is room."""
    for activity in list(story.execution.unstarted.values()):
        story.tell(ev.ActivityStarted(activity.task, activity.attempt))


# -- rewind ---------------------------------------------------------------------------------------------------


def two_steps(ctx: Context) -> Any:
    first = yield from ctx.call_activity(work, 1)
    second = yield from ctx.call_activity(work, 2)
    return [first, second]


def test_a_failed_activity_is_made_again_and_all_before_it_stays() -> None:
    story = Story(two_steps)
    story.complete(1, "a")
    story.fail(2)
    assert story.status is Status.FAILED
    plan, again = rewound(story)
    assert plan.rows == story.rows[:2]
    assert plan.messages == [ev.ActivityRetried(2, 1)]
    assert plan.lost == []
    assert again.execution.activities[2].attempt == 2
    start_attempts(again)
    again.complete(2, "b", attempt=2)
    assert again.result == ["a", "b"]
    again.check()


def test_attempts_of_before_do_not_count_for_the_retry_policy() -> None:
    story = Story(two_steps)
    story.tell(ev.AttemptFailed(1, 1, Failure("E"), NOON))
    story.tell(ev.ActivityStarted(1, 2))
    story.fail(1, attempts=2)
    story.tell(failed(1, attempts=2, attempt=2))
    assert story.status is Status.FAILED
    _, again = rewound(story)
    activity = again.execution.activities[1]
    assert (activity.attempt, activity.uncounted) == (3, 2)


def test_of_parallel_failures_all_are_made_again_and_results_are_kept() -> None:
    def flow(ctx: Context) -> Any:
        return (yield from ctx.when_all([ctx.call_activity(work, n) for n in range(4)]))

    story = Story(flow)
    story.fail(2)
    story.complete(3, "c")
    story.fail(4)
    story.complete(1, "a")
    assert story.status is Status.FAILED
    plan, again = rewound(story)
    assert plan.rows == story.rows[:1], "from before the first of the failures that led to it"
    assert sorted(again.execution.activities) == [2, 4]
    assert plan.lost == [], "what was done is told again"
    start_attempts(again)
    again.complete(2, "b", attempt=2)
    again.complete(4, "d", attempt=2)
    assert again.result == ["a", "b", "c", "d"]


def test_a_failure_that_the_code_handled_is_no_cause() -> None:
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.call_activity(work, 1)
        except ActivityFailed:
            yield from ctx.call_activity(other)
        yield from ctx.call_activity(work, 2)

    story = Story(flow)
    story.fail(1)
    story.complete(2)
    story.fail(3)
    plan, again = rewound(story)
    assert plan.rows == story.rows[:3]
    assert list(again.execution.activities) == [3]


def test_clean_up_after_the_failure_is_named_as_what_would_be_forgotten() -> None:
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.call_activity(work, 1)
        except ActivityFailed:
            yield from ctx.call_activity(other, "undo")
            raise

    story = Story(flow)
    story.fail(1)
    story.complete(2)
    assert story.status is Status.FAILED
    plan = rewriting.rewind("i", story.rows, None, None)
    assert plan.rows == story.rows[:1]
    assert len(plan.lost) == 1
    assert "'other'" in plan.lost[0]


def test_code_that_raised_by_itself_is_rewound_to_before_its_last_turn() -> None:
    def flow(ctx: Context) -> Any:
        got = yield from ctx.wait_for_event("n", int)
        extra = yield from ctx.call_activity(work, got)
        if extra == "bad":
            raise LookupError(extra)
        return extra

    story = Story(flow)
    story.event("n", 5)
    story.complete(2, "bad")
    plan, again = rewound(story)
    assert plan.rows == story.rows[:2]
    assert plan.messages == [ev.ActivityCompleted(2, b'"bad"', 1)], "the result is told again, to mended code"
    assert again.failure.type_name == "LookupError"


def test_failing_at_the_first_turn_cannot_be_rewound() -> None:
    def flow(ctx: Context) -> Any:
        raise LookupError

    story = Story(flow)
    with pytest.raises(UsageError, match="that is how it begins; restart it"):
        rewound(story)


@pytest.mark.parametrize("how", [{"queue": "imports"}, {"debounced": True}, {"start_at_us": NOON + SECOND}])
def test_what_was_let_in_and_failed_at_once_is_let_in_again(how: dict[str, Any]) -> None:
    """With the input of the latest start; no queue, and no window, has anything of it any more."""

    def flow(ctx: Context, n: int) -> int:
        raise LookupError(n)

    started = ev.InstanceStarted("flow", 1, b"[1]", **how)
    let_in = [*([ev.StartChanged(b"[2]")] if "debounced" in how else []), ev.InstanceBegan()]
    story = Story(flow, 1, begin=False)
    story.tell(started)
    story.now_us += SECOND
    story.tell(*let_in)
    assert story.status is Status.FAILED
    plan = rewriting.rewind("i", story.rows, None, None)
    assert plan.rows == story.rows[:1]
    assert plan.messages == let_in
    again = gone_on(story, plan)
    assert again.failure.message == story.failure.message == str(1 + len(let_in[1:]))


def test_an_event_before_which_there_is_nothing_is_refused() -> None:
    story = Story(two_steps)
    story.fail(1)
    for seq in (1, 2, 99):
        with pytest.raises(UsageError, match=f"#{seq}"):
            rewound(story, seq)


def test_a_timeout_needs_a_new_one() -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.call_activity(work)
        return "in time"

    story = Story(flow, deadline_s=5)
    story.wait(5)
    with pytest.raises(UsageError, match="say how long it has now"):
        rewound(story)
    plan, again = rewound(story, deadline_us=story.now_us + 60 * SECOND)
    started = plan.rows[0][2][0]
    assert isinstance(started, ev.InstanceStarted)
    assert started.deadline_us == story.now_us + 60 * SECOND
    start_attempts(again)
    again.complete(1, attempt=2)
    assert again.result == "in time"


def test_what_came_from_outside_after_the_cut_is_told_again_in_order() -> None:
    def flow(ctx: Context) -> Any:
        made = yield from ctx.call_activity(work, 1)
        first = yield from ctx.wait_for_event("e")
        second = yield from ctx.wait_for_event("e")
        return [made, first, second, (yield from ctx.wait_for_event("e"))]

    story = Story(flow)
    story.event("e", "before", "id 0")
    story.event("e", "two", "id 1")
    story.fail(1)
    plan, again = rewound(story, story.rows[1][0])
    assert [each for each in plan.messages if isinstance(each, ev.EventReceived)] == [
        received("e", "before", "id 0"),
        received("e", "two", "id 1"),
    ]
    start_attempts(again)
    again.complete(1, "w", attempt=2)
    again.event("e", "three")
    assert again.result == ["w", "before", "two", "three"]


def test_requests_that_were_not_answered_are_told_again_and_answered_ones_are_not() -> None:
    def flow(ctx: Context) -> Any:
        @ctx.on_request("quick")
        def quick() -> int:
            return 1

        @ctx.on_request("slow")
        def slow() -> Any:
            yield from ctx.call_activity(other)
            return 2

        yield from ctx.call_activity(work, 1)
        return "over"

    story = Story(flow)
    story.ask("r1", "quick")
    story.ask("r2", "slow")
    story.fail(1)
    assert story.status is Status.FAILED
    plan, again = rewound(story, story.rows[1][0])
    assert [each for each in plan.messages if isinstance(each, ev.RequestReceived)] == [asked("r2", "slow")]
    assert "r1" not in again.answers
    (slow,) = [each for each in again.execution.activities.values() if each.name == "other"]
    again.complete(slow.task)
    assert again.answers == {"r2": 2}


def test_a_wait_that_timed_out_is_due_at_once_again() -> None:
    def flow(ctx: Context) -> Any:
        try:
            return (yield from ctx.wait_for_event("e", timeout=5))
        except EventTimeout:
            raise LookupError("too late") from None

    story = Story(flow)
    story.wait(5)
    plan, again = rewound(story)
    assert plan.rows == story.rows[:1]
    again.tell(*again.execution.due_observations(again.now_us))
    assert again.failure.message == "too late"
    plan, again = rewound(story)
    again.event("e", "after all")
    assert again.result == "after all"


# -- children and messages ------------------------------------------------------------------------------------


def family(ctx: Context) -> Any:
    return (yield from ctx.when_all([ctx.call_workflow(kid, n) for n in range(3)]))


def test_children_that_failed_are_named_and_results_of_others_are_told_again() -> None:
    story = Story(family)
    story.tell(ended(2))
    story.tell(returned(1, 10), ended(3, "TERMINATED"))
    assert story.status is Status.FAILED
    plan, again = rewound(story)
    assert [child_id_of("i", call) for call in plan.children] == ["i/2", "i/3"]
    assert plan.messages == [returned(1, 10)]
    again.tell(returned(2, 20))
    again.tell(returned(3, 30))
    assert again.result == [10, 20, 30]


def test_a_child_whose_failure_was_handled_is_none_of_them() -> None:
    def flow(ctx: Context) -> Any:
        with suppress(ChildFailed):
            yield from ctx.call_workflow(kid, 1)
        yield from ctx.call_workflow(kid.options(instance_id="named"), 2)

    story = Story(flow)
    story.tell(ended(1))
    story.tell(ended(2))
    plan, _ = rewound(story)
    assert [child_id_of("i", call) for call in plan.children] == ["named"]


def test_a_message_that_was_sent_counts_as_delivered() -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.raise_event("them", "n")
        yield from ctx.call_activity(work)
        return "over"

    story = Story(flow)
    story.tell(ev.MessageAnswered(1, "delivered"))
    story.fail(2)
    plan, again = rewound(story, 3)
    assert plan.messages == [ev.MessageAnswered(1, "delivered")]
    assert plan.lost == [], "it is not sent again, and its answer is known"
    assert not [to for to, message in again.sent if isinstance(message, ev.EventReceived)]


def test_a_later_round_is_rewound_within_itself() -> None:
    def flow(ctx: Context, n: int) -> Any:
        yield from ctx.call_activity(work, n)
        if n == 0:
            ctx.continue_as_new(1)
        return "over"

    story = Story(flow, 0)
    story.complete(1)
    story.fail(2)
    plan, again = rewound(story)
    assert plan.rows == story.rounds[1][:1]
    start_attempts(again)
    again.complete(2, attempt=2)
    assert again.result == "over"
    with pytest.raises(UsageError, match="restart it"):
        rewound(story, 2)


# -- fork -----------------------------------------------------------------------------------------------------


def many_things(ctx: Context) -> Any:
    dice = [ctx.random().random(), str(ctx.uuid4())]
    ctx.set_custom_status(dice)
    task = ctx.call_workflow(kid, 1)
    message = ctx.raise_event("them", "n")
    first = yield from ctx.call_activity(work, 1)
    event = yield from ctx.wait_for_event("e")
    child = yield from task
    yield from message
    nap = ctx.side_effect(lambda: 5)
    yield from ctx.sleep(nap)
    return [first, event, child, dice]


def told_to_its_end(flow: Any = many_things) -> Story:
    story = Story(flow)
    story.event("e", "early")
    story.complete(2 + 1, "w")
    story.tell(returned(1, 10))
    story.tell(ev.MessageAnswered(2, "delivered"))
    story.wait(5)
    assert story.result[:3] == ["w", "early", 10]
    return story


def forked(story: Story, seq: int | None, rows: Sequence[Row] | None = None) -> tuple[Plan, Story]:
    origin = ev.Origin(forked_from=story.instance_id, forked_at=seq or 0, seed=story.instance_id)
    plan = rewriting.fork(story.rows if rows is None else rows, seq, origin, None)
    copy = Story(story.program, *story.args, instance_id="copy", begin=False)
    copy.now_us = story.now_us
    copy.rows = [(first, at_us, list(events)) for first, at_us, events in plan.rows]
    copy.execution = copy.replayed()
    copy.tell(*plan.messages)
    return plan, copy


@pytest.mark.parametrize("seq", range(1, 20))
def test_a_copy_up_to_any_event_goes_on_to_the_same_end(seq: int) -> None:
    story = told_to_its_end()
    last_of_first_turn = len(story.rows[0][2])
    if seq < last_of_first_turn:
        with pytest.raises(UsageError, match="restart it instead"):
            forked(story, seq)
        return
    if seq >= story.execution.next_seq - 1:
        return
    plan, copy = forked(story, seq)
    assert plan.rows[0][0] == 1
    assert all(first + len(events) - 1 <= seq for first, _, events in plan.rows), "whole turns only"
    open_children = [call.task for call in plan.children]
    open_messages = [sent.task for sent in plan.sent]
    start_attempts(copy)
    for activity in list(copy.execution.activities.values()):
        copy.complete(activity.task, "w", attempt=activity.attempt)
    if copy.status is Status.RUNNING and ev.EventReceived not in {type(each) for each in copy.events}:
        copy.event("e", "early")
    for task in open_children:
        copy.tell(returned(task, 10))
    for task in open_messages:
        copy.tell(ev.MessageAnswered(task, "delivered"))
    copy.wait(10)
    assert copy.result == story.result, "its dice are those of the original"
    copy.check()


def test_without_a_place_all_but_the_last_turn_is_copied() -> None:
    story = told_to_its_end()
    plan, copy = forked(story, None)
    assert [events for _, _, events in plan.rows[1:]] == [events for _, _, events in story.rows[1:-1]]
    assert copy.status is Status.RUNNING


def test_of_one_that_is_not_over_all_is_copied() -> None:
    story = Story(many_things)
    story.event("e", 1)
    plan, copy = forked(story, None)
    assert len(plan.rows) == 2
    assert [call.task for call in plan.children] == [1]
    assert [sent.task for sent in plan.sent] == [2]
    assert plan.messages == [ev.ActivityRetried(3, 1)], "its activities are its own"
    assert copy.execution.activities[3].attempt == 2


def test_a_copy_has_a_version_and_no_parent_and_no_deadline() -> None:
    story = Story(two_steps, origin=ev.Origin("mother", 3), deadline_s=60)
    origin = ev.Origin(forked_from="i", forked_at=2, seed="i")
    plan = rewriting.fork(story.rows, None, origin, 7)
    started = plan.rows[0][2][0]
    assert isinstance(started, ev.InstanceStarted)
    assert (started.version, started.origin, started.deadline_us) == (7, origin, 0)
    assert started == msgspec.structs.replace(story.started, version=7, origin=origin, deadline_us=0)


def test_a_round_is_copied_by_itself_with_numbers_from_one() -> None:
    def flow(ctx: Context, n: int) -> Any:
        dice = ctx.random().random()
        got = yield from ctx.call_activity(work, n)
        if n < 2:
            ctx.continue_as_new(n + 1)
        return [got, dice]

    story = Story(flow, 0)
    for number in (1, 2, 3):
        story.complete(number, number)
    for number, rows in enumerate(story.rounds):
        plan, copy = forked(story, rows[0][0] + 1, rows)
        assert plan.rows[0][0] == 1
        started = plan.rows[0][2][0]
        assert isinstance(started, ev.InstanceStarted)
        assert (started.round.number if started.round else 0) == number
        assert copy.rows[0][0] == 1
    start_attempts(copy)
    copy.complete(3, 3, attempt=2)
    assert copy.result == story.result, "the dice of a later round are the original's, too"


def test_a_copy_tells_no_parent_and_starts_children_of_its_own() -> None:
    story = Story(many_things, origin=ev.Origin("mother", 3))
    plan, copy = forked(story, None)
    (call,) = plan.children
    assert child_id_of("copy", call) == "copy/1"
    copy.tell(ev.InstanceTerminated())
    assert ("mother", ev.ChildFailed(3, Failure("Terminated", ""), "TERMINATED")) not in copy.sent
    assert copy.sent == [("copy/1", ev.InstanceTerminated("its parent is TERMINATED"))]


def test_results_told_to_an_old_attempt_do_not_reach_a_copy() -> None:
    story = Story(two_steps)
    _, copy = forked(story, None)
    assert copy.tell(done(1, "stale")).refused == [done(1, "stale")]


@pytest.mark.parametrize("how", [{"queue": "imports"}, {"debounced": True}])
def test_what_waits_to_be_let_in_is_no_place_to_fork_from(how: dict[str, Any]) -> None:
    waiting = [(1, NOON, [ev.InstanceStarted("flow", 1, b"[]", **how)])]
    with pytest.raises(UsageError, match="had not begun there"):
        rewriting.fork(waiting, None, ev.Origin(forked_from="i"), None)
    begun = [*waiting, (2, NOON, [ev.InstanceBegan(), ev.TimerCreated(1, NOON)])]
    assert len(rewriting.fork(begun, None, ev.Origin(forked_from="i"), None).rows) == 2
