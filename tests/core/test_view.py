"""Histories folded into what people look at."""

from collections.abc import Callable
from typing import Any

import pytest
from stories import NOON, SECOND, Story, asked, done, ended, failed, other, received, returned, work

from durableflow import Context
from durableflow.authoring.workflow import Workflow
from durableflow.core.describe import describe
from durableflow.core.view import InstanceView, RequestView, TaskView, fold, numbered
from durableflow.model import events as ev
from durableflow.model.failure import Failure

Live = Callable[..., Story]


def view(story: Story) -> InstanceView:
    return fold(numbered(story.rows))


def states(story: Story) -> list[tuple[str, str]]:
    return [(task.name, task.state) for task in view(story).tasks]


def test_each_event_has_its_number_its_time_its_turn_and_a_few_words(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.call_activity(work, "x")

    story = live(flow)
    story.now_us += SECOND
    story.complete(1)
    entries = numbered(story.rows)
    assert [(e.seq, e.at_us - NOON, e.first_seq, e.kind) for e in entries] == [
        (1, 0, 1, "instance_started"),
        (2, 0, 1, "activity_scheduled"),
        (3, SECOND, 3, "activity_completed"),
        (4, SECOND, 3, "instance_completed"),
    ]
    assert str(entries[1]) == "#2 activity 'work' [\"x\"]"


def test_a_view_tells_what_became_of_each_task(live: Live) -> None:
    def flow(ctx: Context, x: int) -> Any:
        a, b, c = (ctx.call_activity(work, name) for name in "abc")
        timer, given_up = ctx.sleep(1), ctx.sleep(9)
        event, late = ctx.wait_for_event("e"), ctx.wait_for_event("late", timeout=1)
        ctx.side_effect(lambda: 7)
        c.cancel()
        given_up.cancel()
        yield from ctx.when_any(ctx.when_all(a, b, timer, event, late))
        return x

    story = live(flow, 5)
    story.tell(done(1, "A"), failed(2), received("E", "payload"), received("unwanted"))
    story.wait(1)
    seen = view(story)
    assert (seen.workflow, seen.version, seen.input, seen.started_at_us) == ("flow", 1, b"[5]", NOON)
    assert (seen.output, seen.failure, seen.ended_at_us) == (b"5", None, NOON + SECOND)
    assert seen.events_kept == ["unwanted"]
    no = Failure("ValueError", "no", "at line 1")
    assert seen.tasks == [
        TaskView(1, "activity", "work", "done", NOON, NOON, 1, b'["a"]', b'"A"'),
        TaskView(2, "activity", "work", "failed", NOON, NOON, 1, b'["b"]', failure=no),
        TaskView(3, "activity", "work", "cancelled", NOON, NOON, 1, b'["c"]'),
        TaskView(4, "timer", "timer", "done", NOON, NOON + SECOND),
        TaskView(5, "timer", "timer", "cancelled", NOON, NOON),
        TaskView(6, "event", "e", "done", NOON, NOON, output=b'"payload"'),
        TaskView(7, "event", "late", "timed out", NOON, NOON + SECOND),
        TaskView(8, "side effect", "side effect", "done", NOON, NOON, output=b"7"),
    ]


def test_a_view_counts_attempts_and_says_what_waits_for_a_place(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.call_activity(work)

    story = live(flow)
    story.tell(ev.AttemptFailed(1, 1, Failure("E", "first"), NOON))
    assert states(story) == [("work", "waiting")]
    story.tell(ev.ActivityStarted(1, 2))
    (task,) = view(story).tasks
    assert (task.state, task.attempts, task.failure) == ("running", 2, Failure("E", "first"))
    queued = fold(numbered([(1, NOON, [*story.rows[0][2], ev.ActivityQueued(1)])]))
    assert [(task.state, task.attempts) for task in queued.tasks] == [("waiting", 0)]


def test_kept_events_answer_later_waits_with_their_payloads(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        for _ in range(2):
            yield from ctx.wait_for_event("e")

    story = live(flow)
    story.tell(received("E", 1), received("e", 2))
    assert view(story).events_kept == ["e", "e"]
    story.wait(1)
    assert [(task.state, task.output) for task in view(story).tasks[1:]] == [("done", b"1"), ("done", b"2")]
    assert view(story).events_kept == []


def test_an_event_held_while_suspended_stays_done_though_its_timer_falls_due(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.wait_for_event("e", timeout=1)

    story = live(flow)
    story.tell(ev.InstanceSuspended(), received("e", 1))
    story.wait(1)
    story.tell(ev.InstanceResumed())
    assert states(story) == [("e", "done")]


def test_an_event_in_the_turn_in_which_its_waiter_gave_up_is_the_next_ones(live: Live) -> None:
    """The row holds the event before the decision to cancel, though the code cancelled first."""

    def flow(ctx: Context) -> Any:
        first = ctx.wait_for_event("e")
        yield from ctx.call_activity(work)
        first.cancel()
        yield from ctx.wait_for_event("e")
        yield from ctx.sleep(1)

    story = live(flow)
    story.tell(done(2), received("e", "for the second"))
    assert [(task.state, task.output) for task in view(story).tasks if task.kind == "event"] == [
        ("cancelled", None),
        ("done", b'"for the second"'),
    ]


@pytest.mark.parametrize(
    "end",
    [ev.InstanceTerminated(), ev.CancelRequested(), done(1)],
    ids=["terminated", "cancelled", "failed"],
)
def test_when_an_instance_is_over_nothing_of_it_goes_on(live: Live, end: ev.Observation) -> None:
    def flow(ctx: Context) -> Any:
        ctx.sleep(9)
        yield from ctx.when_any(ctx.call_activity(other), ctx.call_activity(work))
        raise LookupError

    story = live(flow)
    story.tell(end if end != done(1) else done(2))
    seen = view(story)
    assert seen.ended_at_us == NOON
    assert {task.state for task in seen.tasks} <= {"cancelled", "done"}


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (ev.ActivityScheduled(1, "a", b"[1]", b""), "activity 'a' [1]"),
        (ev.ActivityScheduled(1, "a", b"[" + b"1" * 70 + b"]", b""), "activity 'a' (72 bytes)"),
        (ev.TimerCreated(1, NOON), "timer due 2027-01-15 08:00:00.000000"),
        (ev.EventAwaited(1, "e"), "wait for event 'e'"),
        (ev.EventAwaited(1, "e", NOON), "wait for event 'e' until 2027-01-15 08:00:00.000000"),
        (ev.TaskCancelled(3), "cancelling of task 3"),
        (ev.SideEffectRecorded(1, b"1"), "side effect"),
        (ev.CustomStatusSet(b"1"), "custom status 1"),
        (ev.PatchRecorded("p"), "patch 'p'"),
        (ev.InstanceCompleted(b"\xff"), "completion with \ufffd"),
        (ev.InstanceFailed(Failure("E", "m")), "failure with E: m"),
        (ev.InstanceCancelled(), "end by cancellation"),
        (received("e"), "event 'e'"),
        (ev.InstanceTimedOut(), "instance timed out"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_events_in_words(event: ev.Event, words: str) -> None:
    assert describe(event) == words


# -- others, requests, rounds ---------------------------------------------------------------------------------


def _kid(ctx: Context, n: int) -> int:
    raise AssertionError("the core starts no children")


kid = Workflow(_kid, name="kid")


def test_a_view_tells_what_became_of_children_and_messages(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        parts = [ctx.call_workflow(kid, n) for n in range(4)]
        sent = [ctx.raise_event(to, "n") for to in ("a", "b", "c")]
        parts[2].cancel()
        yield from ctx.when_any(*parts[3:], *sent[2:])

    story = live(flow)
    story.tell(returned(1, 10), ended(2, "TERMINATED", "Terminated", "enough"))
    story.tell(ev.MessageAnswered(5, "delivered"), ev.MessageAnswered(6, "over"))
    enough = Failure("Terminated", "enough", "at line 1")
    assert view(story).tasks == [
        TaskView(1, "child", "kid", "done", NOON, NOON, input=b"[0]", output=b"10"),
        TaskView(2, "child", "kid", "failed", NOON, NOON, input=b"[1]", failure=enough),
        TaskView(3, "child", "kid", "cancelled", NOON, NOON, input=b"[2]"),
        TaskView(4, "child", "kid", "running", NOON, input=b"[3]"),
        TaskView(5, "message", "a", "done", NOON, NOON),
        TaskView(6, "message", "b", "failed", NOON, NOON),
        TaskView(7, "message", "c", "waiting", NOON),
    ]


def test_a_view_tells_which_requests_wait_and_what_became_of_the_others(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        ctx.on_request("fine")(lambda n: n + 1)
        ctx.on_request("broken")(lambda: 1 / 0)
        yield from ctx.sleep(60)

    story = live(flow)
    story.tell(asked("1", "fine", 4), asked("2", "broken"), asked("3", "unknown"))
    seen = {each.request_id: each for each in view(story).requests}
    assert seen["1"] == RequestView("1", "fine", "answered", NOON, NOON, b"[4]", b"5")
    assert (seen["2"].state, seen["2"].failure and seen["2"].failure.type_name) == ("failed", "ZeroDivisionError")
    assert seen["3"] == RequestView("3", "unknown", "waiting", NOON)


def test_a_view_is_of_the_latest_round(live: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        done = ctx.restore(int) or 0
        if not done:
            ctx.patched("p")
            yield from ctx.call_activity(work, n)
            ctx.checkpoint(n + 7)
        yield from ctx.wait_for_event("night")
        return n or ctx.continue_as_new(1)

    story = live(flow, 0)
    story.event("kept", 5)
    story.complete(1)
    seen = view(story)
    assert (seen.rounds, seen.input, seen.patches, seen.events_kept) == (1, b"[0]", ["p"], ["kept"])
    assert states(story) == [("night", "waiting")]
    story.event("night")
    seen = view(story)
    assert (seen.rounds, seen.input, seen.patches, seen.events_kept) == (2, b"[1]", ["p"], ["kept"])
    assert states(story) == [("work", "running")]
    assert seen.started_at_us == NOON
    (work_task,) = seen.tasks
    story.complete(work_task.task)
    story.event("night")
    assert (view(story).output, view(story).rounds) == (b"1", 3)


def test_a_view_of_what_was_rewound_is_as_if_it_had_not_failed(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.call_activity(work)

    story = live(flow)
    story.fail(1)
    failed_view = view(story)
    assert failed_view.failure is not None
    rows = [*story.rows, (5, NOON, [ev.InstanceRewound(3)]), (6, NOON, story.rows[0][2])]
    seen = fold(numbered(rows))
    assert (seen.rewinds, seen.failure, seen.ended_at_us, seen.rounds) == (1, None, None, 0)
    assert [(task.name, task.state) for task in seen.tasks] == [("work", "running")]


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (ev.ChildScheduled(1, "ship", 1, b"[5]", b""), "child workflow 'ship' [5]"),
        (ev.ChildScheduled(1, "ship", 1, b"[5]", b"", "s-1"), "child workflow 'ship' as 's-1' [5]"),
        (ev.MessageSent(1, "x", ev.dump_event(received("e"))), "message to 'x': event 'e'"),
        (ev.MessageAnswered(1, "over"), "message of task 1 over"),
        (asked("1", "add", 5), "request 'add' [5]"),
        (ev.RequestAnswered("1", b"5"), "answer to request '1': 5"),
        (ev.RequestAnswered("1", b"", Failure("E", "m")), "answer to request '1': E: m"),
        (ev.ChildFailed(1, Failure("E", "m")), "child failed with E: m"),
        (ev.ChildCompleted(1, b"5"), "child completed"),
        (ev.CheckpointTaken(b"5"), "checkpoint with 5"),
        (ev.ContinuedAsNew(b"[5]"), "beginning anew with [5]"),
        (ev.InstanceStarted("f", 1, b"[]", round=ev.Round(4, 9)), "beginning of round 4"),
        (ev.InstanceRewound(7), "rewound to before #7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_events_about_others_and_rounds_in_words(event: ev.Event, words: str) -> None:
    assert describe(event) == words
