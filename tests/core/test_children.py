"""Workflows that call workflows: exactly one child a call, what becomes of it, and what becomes of it without them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from stories import NOON, SECOND, Story, ended, program_of, received, returned, work

from durableflow import Cancelled, ChildFailed, Context, RetryPolicy, Status
from durableflow.authoring.workflow import Workflow
from durableflow.core.others import derived_id, last_words, result_message
from durableflow.errors import NondeterminismError, PayloadError, PayloadTooLarge, UsageError
from durableflow.model import events as ev
from durableflow.model.failure import Failure

Live = Callable[..., Story]


def _kid(ctx: Context, n: int) -> int:
    raise AssertionError("the core starts no children")


def _pair(ctx: Context, n: int, m: int = 2) -> tuple[int, int]:
    raise AssertionError("the core starts no children")


kid = Workflow(_kid, name="kid")
pair = Workflow(_pair, name="pair")


def births(story: Story) -> list[tuple[str, bytes]]:
    """Id and input of each child that was started."""
    return [(to, message.input) for to, message in story.sent if isinstance(message, ev.InstanceStarted)]


def messages(story: Story) -> list[tuple[str, ev.Observation]]:
    """What was sent that starts nobody."""
    return [each for each in story.sent if not isinstance(each[1], ev.InstanceStarted)]


# -- one call, one child --------------------------------------------------------------------------------------


def calls_one(ctx: Context) -> Any:
    return (yield from ctx.call_workflow(kid, 5))


async def calls_one_too(ctx: Context) -> Any:
    return await ctx.call_workflow(kid, 5)


@pytest.mark.parametrize("flow", [calls_one, calls_one_too])
def test_a_call_starts_one_child_and_gives_what_it_returned(told: Live, flow: Any) -> None:
    story = told(flow)
    (scheduled,) = story.decisions
    assert scheduled == ev.ChildScheduled(1, "kid", 1, b"[5]", scheduled.digest)  # type: ignore[union-attr]
    (send,) = story.sends
    assert (send.instance_id, send.task, send.birth) == ("i/1", 1, scheduled)
    assert send.message == ev.InstanceStarted("kid", 1, b"[5]", origin=ev.Origin("i", 1))
    story.tell(returned(1, 50))
    assert story.result == 50
    assert births(story) == [("i/1", b"[5]")], "one, whatever was forgotten and replayed"


def test_children_of_one_turn_leave_in_the_order_of_their_calls(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        tasks = [ctx.call_workflow(kid, n) for n in range(3)]
        assert [task.child_id for task in tasks] == ["i/1", "i/2", "i/3"]
        return (yield from ctx.when_all(tasks))

    story = told(flow)
    assert births(story) == [("i/1", b"[0]"), ("i/2", b"[1]"), ("i/3", b"[2]")]
    story.tell(returned(3, 30), returned(1, 10))
    story.tell(returned(2, 20))
    assert story.result == [10, 20, 30]


def test_a_result_that_is_not_what_the_child_is_annotated_with_fails_the_wait(told: Live) -> None:
    story = told(calls_one)
    story.tell(returned(1, "five"))
    assert story.failure.type_name == "durableflow.errors.PayloadError"


def test_results_of_children_come_back_as_their_types_and_keyword_arguments_go_there(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        a, b = yield from ctx.call_workflow(pair, 1, m=7)
        return b - a

    story = told(flow)
    assert births(story) == [("i/1", b'{"args":[1],"kwargs":{"m":7}}')]
    story.tell(returned(1, [1, 7]))
    assert story.result == 6


def test_a_child_by_name_with_its_version_id_and_type(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.call_workflow_by_name(
            "far away", 1, "b", result_type=list[int], version=3, instance_id="far", parent_close="abandon"
        )
        assert task.child_id == "far"
        return sum((yield from task))

    story = told(flow)
    (scheduled,) = story.decisions
    assert isinstance(scheduled, ev.ChildScheduled)
    assert (scheduled.workflow, scheduled.version, scheduled.input) == ("far away", 3, b'[1,"b"]')
    assert (scheduled.child_id, scheduled.options) == ("far", ev.ChildOptions("abandon"))
    story.tell(returned(1, [1, 2]))
    assert story.result == 3


def test_options_of_the_workflow_are_the_childs(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        options = kid.options(
            instance_id="k", tags={"a": "b"}, timeout=60, start_delay=timedelta(seconds=5), on_conflict="replace"
        )
        return (yield from ctx.call_workflow(options, 1))

    story = told(flow)
    (send,) = story.sends
    assert send.birth is not None
    assert send.birth.options == ev.ChildOptions("terminate", 60 * SECOND, 5 * SECOND, {"a": "b"}, replace=True)
    assert isinstance(send.message, ev.InstanceStarted)
    assert send.message.start_at_us == NOON + 5 * SECOND
    assert send.message.deadline_us == NOON + 65 * SECOND, "the timeout counts from its start"


def test_what_cannot_be_a_call_is_refused_where_it_is_made(live: Live) -> None:
    texts: list[str] = []

    def flow(ctx: Context) -> Any:
        texts.clear()
        uses: list[Callable[[], Any]] = [
            lambda: ctx.call_workflow(work, 1),  # type: ignore[arg-type]
            lambda: ctx.call_workflow("kid", 1),  # type: ignore[arg-type]
            lambda: ctx.call_workflow(kid, object()),
            lambda: ctx.call_workflow(kid, "x" * 200),
            lambda: ctx.call_workflow_by_name("", 1),
            lambda: ctx.call_workflow_by_name("k", instance_id=""),
        ]
        for use in uses:
            with pytest.raises((UsageError, PayloadError, PayloadTooLarge, ValueError, TypeError)) as caught:
                use()
            texts.append(str(caught.value))
        return len(texts)

    story = live(flow, payload_limit_bytes=100)
    assert story.result == 6
    assert not story.sends
    assert [type(each) for each in story.decisions] == [ev.InstanceCompleted]
    assert "write ctx.call_activity(...)" in texts[0]
    assert "write ctx.call_workflow_by_name('kid', ...)" in texts[1]


def test_a_child_knows_its_parent_and_who_has_none_none(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return ctx.parent_instance_id

    assert live(flow, origin=ev.Origin("mother", 4)).result == "mother"
    assert live(flow).result is None


# -- how it ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["FAILED", "TERMINATED", "CANCELLED", ""])
def test_a_child_that_did_not_return_fails_its_task_with_its_story(told: Live, status: str) -> None:
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.call_workflow(kid, 5)
        except ChildFailed as error:
            return [error.workflow, error.child_id, error.status, error.type_name, error.message, str(error)]

    story = told(flow)
    story.tell(ended(1, status, "app.Broke", "in two"))
    assert story.result[:5] == ["kid", "i/1", status or None, "app.Broke", "in two"]
    assert ("could not be started" if not status else f"is {status}") in story.result[5]


def test_a_result_comes_once_and_for_what_was_asked_only(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        first = yield from ctx.call_workflow(kid, 1)
        return first + (yield from ctx.wait_for_event("e", int))

    story = told(flow)
    assert story.tell(returned(2, 9)).refused == [returned(2, 9)]
    assert story.tell(ended(7)).refused == [ended(7)]
    assert story.tell(returned(1, 1), returned(1, 5)).refused == [returned(1, 5)]
    assert story.tell(ended(1)).refused == [ended(1)]
    story.event("e", 10)
    assert story.result == 11


def test_what_comes_while_suspended_is_held(told: Live) -> None:
    story = told(calls_one)
    story.tell(ev.InstanceSuspended())
    assert story.tell(returned(1, 3)).events == [returned(1, 3)]
    assert story.status is Status.SUSPENDED
    story.tell(ev.InstanceResumed())
    assert story.result == 3


def test_while_suspended_the_first_answer_is_recorded_and_no_other(told: Live) -> None:
    """A child that was rewound meanwhile ends twice."""
    story = told(calls_one)
    story.tell(ev.InstanceSuspended())
    assert story.tell(returned(1, 3)).refused == ()
    assert story.tell(returned(1, 4), ended(1)).refused == [returned(1, 4), ended(1)]
    story.tell(ev.InstanceResumed())
    assert story.result == 3


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (ev.InstanceCompleted(b"7"), ev.ChildCompleted(3, b"7")),
        (ev.InstanceFailed(Failure("E", "x")), ev.ChildFailed(3, Failure("E", "x"), "FAILED")),
        (ev.InstanceCancelled("bye"), ev.ChildFailed(3, Failure("Cancelled", "bye"), "CANCELLED")),
        (ev.InstanceTerminated("now"), ev.ChildFailed(3, Failure("Terminated", "now"), "TERMINATED")),
    ],
    ids=ev.tag_of,
)
def test_every_end_of_a_child_is_told_to_its_parent(end: ev.Event, message: ev.Observation) -> None:
    send = result_message(ev.Origin("mother", 3), end)
    assert send is not None
    assert (send.instance_id, send.message, send.task) == ("mother", message, 0)
    assert result_message(ev.Origin(forked_from="mother"), end) is None, "a copy is nobody's child"


def test_a_timeout_of_a_child_is_told_as_a_failure(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(60)

    story = live(flow, origin=ev.Origin("mother", 3), deadline_s=5)
    story.wait(5)
    ((to, message),) = story.sent
    assert to == "mother"
    assert isinstance(message, ev.ChildFailed)
    assert (message.failure.type_name, message.status) == ("TimeoutError", "FAILED")


def test_a_child_tells_its_parent_in_the_turn_in_which_it_ends_and_once(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        return "x"

    story = told(flow, origin=ev.Origin("mother", 3))
    assert story.sent == []
    story.wait(1)
    assert story.sent == [("mother", ev.ChildCompleted(3, b'"x"'))]
    story.tell(ev.InstanceTerminated())
    assert len(story.sent) == 1


# -- given up -------------------------------------------------------------------------------------------------


def test_cancelling_the_task_of_a_child_cancels_the_child_and_its_answer_is_not_heard(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.call_workflow(kid, 1)
        yield from ctx.when_any(task, ctx.sleep(1))
        assert task.cancel()
        yield from ctx.wait_for_event("e")
        return "gone on"

    story = told(flow)
    story.wait(1)
    assert messages(story) == [("i/1", ev.CancelRequested("its parent no longer wants the result"))]
    late = ended(1, "CANCELLED")
    assert story.tell(late).refused == [late]
    story.event("e")
    assert story.result == "gone on"
    assert len(messages(story)) == 1, "it is not told again that its parent is over"


def test_a_child_that_was_given_up_while_its_result_was_held_is_not_cancelled_twice(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.call_workflow(kid, 1)
        yield from ctx.wait_for_event("e")
        task.cancel()
        yield from ctx.wait_for_event("e")
        return "over"

    story = told(flow)
    story.tell(ev.InstanceSuspended())
    story.tell(received("e"), returned(1, 5), received("e"))
    story.tell(ev.InstanceResumed())
    assert story.result == "over"


CLOSES: dict[str, ev.Observation | None] = {
    "terminate": ev.InstanceTerminated("its parent is {}"),
    "cancel": ev.CancelRequested("its parent is {}"),
    "abandon": None,
}
ENDS: dict[str, Callable[[Story], Any]] = {
    "COMPLETED": lambda story: story.event("go"),
    "FAILED": lambda story: story.event("fail"),
    "CANCELLED": lambda story: story.tell(ev.CancelRequested()),
    "TERMINATED": lambda story: story.tell(ev.InstanceTerminated()),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("close", CLOSES)
def test_when_the_parent_ends_its_open_children_are_told_as_their_calls_said(told: Live, close: str, end: str) -> None:
    def flow(ctx: Context) -> Any:
        ctx.call_workflow(kid.options(parent_close=close), 1)
        over = ctx.call_workflow(kid, 2)
        yield from over
        winner = yield from ctx.when_any(go := ctx.wait_for_event("go"), ctx.wait_for_event("fail"))
        if winner is not go:
            raise ValueError

    story = told(flow)
    story.tell(returned(2, 5))
    ENDS[end](story)
    assert story.status == end
    expected = CLOSES[close]
    kind = None if expected is None else type(expected)
    said = messages(story)
    assert said == ([] if kind is None else [("i/1", kind(f"its parent is {end}"))])


def test_a_deadline_parts_with_children_too(live: Live) -> None:
    story = live(calls_one, deadline_s=5)
    story.wait(5)
    assert messages(story) == [("i/1", ev.InstanceTerminated("its parent is FAILED"))]


def test_last_words_are_what_the_code_would_have_said() -> None:
    """An instance that is ended without its code says the same as one whose code was there."""

    def flow(ctx: Context) -> Any:
        ctx.call_workflow(kid, 1)
        ctx.call_workflow(kid.options(parent_close="cancel", instance_id="named"), 2)
        ctx.call_workflow(kid.options(parent_close="abandon"), 3)
        ctx.call_workflow(kid, 4).cancel()
        yield from ctx.when_all(ctx.call_workflow(kid, 5), ctx.call_workflow(kid, 6))

    story = Story(flow, origin=ev.Origin("mother", 9))
    story.tell(returned(6, 1))
    known = story.events
    before = len(story.sent)
    end = ev.InstanceTerminated("enough")
    story.tell(end)
    with_code = story.sent[before:]
    without = [(send.instance_id, send.message) for send in last_words("i", known, end, "its parent is TERMINATED")]
    # The child tells its parent first where its code is; there is no order between two others.
    assert sorted(map(str, with_code)) == sorted(map(str, without))
    assert len(without) == 4


# -- retried --------------------------------------------------------------------------------------------------


RETRY = RetryPolicy(max_attempts=3, initial=10, backoff=2, jitter=0)


def retries(ctx: Context) -> Any:
    try:
        return (yield from ctx.call_workflow(kid.options(retry=RETRY), 1))
    except ChildFailed as error:
        return str(error.status)


def test_a_child_that_fails_is_followed_by_another_after_the_policys_time(told: Live) -> None:
    story = told(retries)
    story.tell(ended(1))
    assert births(story) == [("i/1", b"[1]")]
    story.wait(10)
    assert births(story)[1:] == [("i/3", b"[1]")]
    story.tell(ended(3))
    story.wait(19)
    assert len(births(story)) == 2
    story.wait(1)
    assert births(story)[2:] == [("i/5", b"[1]")]
    story.tell(returned(5, 7))
    assert story.result == 7


def test_after_the_last_attempt_its_failure_is_the_calls(told: Live) -> None:
    story = told(retries)
    for task in (1, 3, 5):
        story.tell(ended(task, "TERMINATED"))
        story.wait(60)
    assert story.result == "TERMINATED"


def test_a_child_with_an_id_is_retried_under_others(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.call_workflow(kid.options(retry=RETRY, instance_id="k"), 1)
        assert task.child_id == "k"
        return (yield from task)

    story = told(flow)
    story.tell(ended(1))
    story.wait(10)
    assert [child_id for child_id, _ in births(story)] == ["k", "k#2"]
    story.tell(returned(3, 5))
    assert story.result == 5


def test_an_id_that_is_taken_is_not_tried_again(told: Live) -> None:
    story = told(retries)
    story.tell(ended(1, "", "InstanceExists", "taken"))
    assert story.result == "None"


def test_an_error_that_is_not_to_be_retried_is_not(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        policy = RetryPolicy(max_attempts=3, initial=1, no_retry_on=["Declined"])
        return (yield from ctx.call_workflow(kid.options(retry=policy), 1))

    story = told(flow)
    story.tell(ended(1, "FAILED", "Declined"))
    assert story.failure.type_name == "durableflow.errors.ChildFailed"


@pytest.mark.parametrize("when", ["while it runs", "between two"])
def test_cancelling_a_call_that_is_retried_cancels_what_there_is(told: Live, when: str) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.call_workflow(kid.options(retry=RETRY), 1)
        yield from ctx.wait_for_event("e")
        task.cancel()
        yield from ctx.wait_for_event("e")
        return "over"

    story = told(flow)
    if when == "between two":
        story.tell(ended(1))
    story.event("e")
    expected = [("i/1", ev.CancelRequested("its parent no longer wants the result"))]
    assert messages(story) == ([] if when == "between two" else expected)
    story.wait(600)
    story.event("e")
    assert story.result == "over"
    assert len(births(story)) == 1


def test_a_parent_that_is_cancelled_while_its_child_is_retried_ends(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.call_workflow(kid.options(retry=RETRY), 1)

    story = told(flow)
    story.tell(ended(1))
    story.tell(ev.CancelRequested("enough"))
    assert story.status is Status.CANCELLED


def test_children_are_awaited_in_branches_and_combinations(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        def branch(n: int) -> Any:
            try:
                got = yield from ctx.call_workflow(kid, n)
            except (ChildFailed, Cancelled) as error:
                return type(error).__name__
            return got

        first, second = ctx.spawn(branch(1)), ctx.spawn(branch(2))
        quick = yield from ctx.when_any(first, second)
        return [quick is second, *(yield from ctx.when_all(first, second))]

    story = told(flow)
    story.tell(ended(2))
    story.tell(returned(1, 4))
    assert story.result == [True, 4, "ChildFailed"]


# -- other code -----------------------------------------------------------------------------------------------


def test_a_code_that_calls_another_child_is_noticed(live: Live) -> None:
    story = live(calls_one)

    def other_input(ctx: Context) -> Any:
        yield from ctx.call_workflow(kid, 6)

    def other_workflow(ctx: Context) -> Any:
        yield from ctx.call_workflow(pair, 5)

    def other_id(ctx: Context) -> Any:
        yield from ctx.call_workflow(kid.options(instance_id="x"), 5)

    def activity_instead(ctx: Context) -> Any:
        yield from ctx.call_activity(work, 5)

    for flow in (other_input, other_workflow, other_id, activity_instead):
        with pytest.raises(NondeterminismError, match=r"history #2 recorded child workflow 'kid'|#2 .*'kid'"):
            story.replayed(Workflow(flow, name="calls_one"))


def test_other_options_of_a_child_and_another_version_are_no_difference(live: Live) -> None:
    """What is recorded counts: the child has been started."""
    story = live(calls_one)

    def other_options(ctx: Context) -> Any:
        yield from ctx.call_workflow(kid.options(parent_close="abandon", timeout=5), 5)

    twin = story.replayed(Workflow(other_options, name="calls_one"))
    twin.put_away()


def test_names_of_children_can_not_meet() -> None:
    assert derived_id("a", 11) != derived_id("a/1", 1)
    assert program_of(kid) is kid


def test_a_child_can_neither_go_through_a_queue_nor_be_debounced(live: Live) -> None:
    tried: list[str] = []

    def parent(ctx: Context) -> Any:
        each: dict[str, Any]
        for each in ({"queue": "imports"}, {"instance_id": "c", "debounce": 1}):
            try:
                ctx.call_workflow(kid.options(**each), 1)
            except UsageError as error:
                tried.append(str(error))
        yield from ctx.sleep(1)

    live(parent)
    assert "started through a queue" in tried[0]
    assert "cannot be debounced" in tried[1]
