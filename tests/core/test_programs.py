"""Random programs under random observations: what must hold of all of them.

A program is a list of small instructions that one workflow interprets. What comes in is drawn
too: results, failures, retries, events, requests, what became of children and messages, timers,
suspensions, cancellations, results of attempts that are over. The laws are the names of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stories import (
    NOON,
    SECOND,
    Row,
    Story,
    asked,
    check_shape,
    done,
    ended,
    failed,
    program_of,
    received,
    returned,
    state,
    work,
)

from durableflow import Cancelled, Context, RetryPolicy, Saga, Status, UsageError
from durableflow.authoring.workflow import Workflow
from durableflow.core.task import Task
from durableflow.errors import TaskError
from durableflow.model import events as ev
from durableflow.model.failure import Failure

pytestmark = pytest.mark.slow

Program = list[Any]


def _kid(ctx: Context, n: int) -> Any:
    raise AssertionError("the core starts no children")


kid = Workflow(_kid, name="kid")


def interpret(ctx: Context, program: Program, round_number: int = 0) -> Any:
    """Run `program`; its result is a log of all that it saw.

    Its own words, not those of a block inside, may begin it anew: with another number, or at a checkpoint, which
    knows the place and the log.
    """
    state: list[Any] = ctx.restore(list) or [0, [], False]
    begin, log, is_open = state
    tasks: list[Task[Any]] = []
    _answer(ctx, "r", log)
    if is_open:
        _answer(ctx, "late", log)
    for index, (word, *operands) in enumerate(program):
        if index < begin:
            continue
        try:
            if word == "again" and round_number < 2:
                ctx.continue_as_new(program, round_number + 1)
            elif word == "checkpoint":
                ctx.checkpoint([index + 1, [*log, "checkpoint"], is_open])
                log.append("checkpoint")
                tasks.clear()
            elif word == "open" and not is_open:
                is_open = True
                _answer(ctx, "late", log)
        except UsageError as error:
            log.append(str(error)[:20])
        yield from _block(ctx, [[word, *operands]], tasks, log)
    return log


def _answer(ctx: Context, name: str, log: list[Any]) -> None:
    @ctx.on_request(name)
    def handler(what: int) -> Any:
        if what % 3 == 0:
            raise LookupError(what)
        log.append([name, what])
        if what % 3 == 1:
            log.append((yield from ctx.call_activity(work, what)))
        return len(log)


def _block(  # noqa: C901  # a table of instructions
    ctx: Context, program: Program, tasks: list[Task[Any]], log: list[Any]
) -> Any:
    for word, *operands in program:
        match word, operands:
            case "activity", [n]:
                tasks.append(ctx.call_activity(work, n))
            case "timer", [seconds]:
                tasks.append(ctx.sleep(seconds))
            case "event", [name, timeout]:
                tasks.append(ctx.wait_for_event(name, timeout=timeout))
            case "child", [n, close]:
                options = kid.options(parent_close=close, retry=RetryPolicy(max_attempts=1 + n % 2, initial=1))
                tasks.append(ctx.call_workflow(options, n))
            case "message", [n]:
                tasks.append(ctx.raise_event(f"them {n}", "hi", n))
            case "all", [count]:
                tasks.append(ctx.when_all(tasks[-count:]))
            case "any", [count]:
                tasks.append(ctx.when_any(tasks[-count:]))
            case "spawn", [inner]:
                tasks.append(ctx.spawn(_block(ctx, inner, tasks, log)))
            case "guarded", [inner, clean_up]:
                try:
                    yield from _block(ctx, inner, tasks, log)
                except Cancelled:
                    log.append("cancelled")
                    yield from _block(ctx, clean_up, tasks, log)
            case "saga", [inner, parallel, undo]:
                saga = ctx.saga(parallel=parallel)
                try:
                    yield from saga.guard(_undoable(ctx, saga, inner, undo, tasks, log))
                except (TaskError, LookupError, Cancelled) as error:
                    log.append(str(error))
            case "cancel", [n]:
                if tasks:
                    log.append(tasks[n % len(tasks)].cancel())
            case "effect", []:
                log.append(ctx.side_effect(lambda: len(log)))
            case "status", []:
                ctx.set_custom_status(len(log))
            case "patch", [name]:
                log.append(ctx.patched(name))
            case "dice", []:
                log.append([ctx.random().random(), str(ctx.uuid4()), ctx.now().isoformat()])
            case "raise", []:
                raise LookupError(len(log))
            case "wait", [n]:
                if tasks:
                    log.append((yield from _seen(tasks[n % len(tasks)])))
            case "again" | "checkpoint" | "open", []:
                pass
            case _:
                raise AssertionError(word)


def _undoable(ctx: Context, saga: Saga, program: Program, undo: Program, tasks: list[Task[Any]], log: list[Any]) -> Any:
    for n, instruction in enumerate(program):
        if n % 2:
            saga.compensate_with(_block, ctx, undo, tasks, log)
        else:
            saga.compensate_with(work, n)
        yield from _block(ctx, [instruction], tasks, log)


def _seen(task: Task[Any]) -> Any:
    try:
        value = yield from task
    except TaskError as error:
        return str(error)
    return repr(value)


_SMALL = st.integers(0, 5)
_PLAIN = st.one_of(
    st.tuples(st.just("wait"), st.integers(0, 30)),
    st.tuples(st.just("wait"), st.integers(0, 30)),
    st.tuples(st.just("activity"), _SMALL),
    st.tuples(st.just("timer"), _SMALL),
    st.tuples(st.just("event"), st.sampled_from("aAb"), st.none() | _SMALL),
    st.tuples(st.just("patch"), st.sampled_from("pq")),
    st.tuples(st.sampled_from(["all", "any"]), st.integers(1, 4)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(
        st.sampled_from(["effect", "status", "dice", "raise", "raise", "again", "checkpoint", "checkpoint", "open"])
    ),
    st.tuples(st.just("child"), _SMALL, st.sampled_from(["terminate", "cancel", "abandon"])),
    st.tuples(st.just("message"), _SMALL),
).map(list)


def _blocks(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    nested = (
        st.tuples(st.just("spawn"), inner)
        | st.tuples(st.just("guarded"), inner, inner)
        | st.tuples(st.just("saga"), inner, st.booleans(), inner)
    )
    return st.lists(_PLAIN | nested.map(list), min_size=2, max_size=8)


PROGRAMS = st.recursive(st.lists(_PLAIN, min_size=1, max_size=8), _blocks, max_leaves=4).map(
    lambda program: [["activity", 0], ["timer", 1], *program, ["wait", 0], ["wait", 1]]
) | st.lists(
    # Words that leave nothing open, for checkpoints and further rounds are not allowed else.
    st.sampled_from([[["activity", 1], ["wait", -1]], [["event", "a", None], ["wait", -1]], [["dice"]],
                     [["patch", "p"]], [["child", 2, "cancel"], ["wait", -1]], [["message", 1], ["wait", -1]],
                     [["checkpoint"]],
                     [["checkpoint"]], [["again"]], [["again"]], [["open"]], [["status"]], [["effect"]], [["raise"]]]),
    min_size=3, max_size=12,
).map(lambda parts: [["activity", 1], ["wait", -1], *(word for part in parts for word in part)])  # fmt: skip
KINDS = (
    "child", "child", "message", "request", "request",
    "result", "result", "result", "failure", "retry", "stale", "time", "time", "event", "event", "event",
    "cancel", "suspend", "resume", "resume", "terminate",
)  # fmt: skip
CHOICES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 11)), min_size=4, max_size=20)
Choices = list[tuple[str, int]]


def observe(story: Story, kind: str, which: int) -> list[ev.Observation]:
    """What comes in next, of what can: nothing, one thing, or all timers of a moment."""
    rare: dict[str, ev.Observation] = {
        "cancel": ev.CancelRequested("enough"),
        "suspend": ev.InstanceSuspended(),
        "resume": ev.InstanceResumed(),
        "terminate": ev.InstanceTerminated(),
    }
    if kind in rare:
        return [rare[kind]]
    if kind == "event":
        return [received("aBab"[which % 4], which, f"id {which % 5}" if which % 2 else None)]
    if kind == "request":
        return [asked(f"request {which}", "late" if which % 2 else "r", which)]
    children, told = list(story.execution.children or ()), list(story.execution.messages or ())
    if kind == "child" and children:
        child = children[which % len(children)]
        return [ended(child) if which % 3 == 0 else returned(child, which)]
    if kind == "message" and told:
        outcomes = ("delivered", "missing", "over")
        return [ev.MessageAnswered(told[which % len(told)], outcomes[which % 3])]
    activities = list(story.execution.activities.values())
    if kind == "time" or not activities:
        story.now_us += which % 4 * SECOND
        return story.execution.due_observations(story.now_us)
    activity = activities[which % len(activities)]
    task, attempt = activity.task, activity.attempt
    if not activity.started:
        return [ev.ActivityStarted(task, attempt)]
    if kind == "failure":
        return [failed(task, attempts=attempt, attempt=attempt)]
    if kind == "retry":
        return [ev.AttemptFailed(task, attempt, Failure("E"), story.now_us + SECOND, counts=bool(which % 2))]
    if kind == "stale":
        return [done(task, "stale", attempt + (which % 2 or -1))]
    return [done(task, which, attempt)]


class Taken(NamedTuple):
    """An observation, its time, and which of those beside it could have come in the same turn."""

    turn: int
    now_us: int
    event: ev.Observation


class Told:
    """A story that was told to its end, with what it took and how it stood after each row."""

    def __init__(self, program: Program, choices: Choices) -> None:
        self.program = program
        self.story = story = Story(interpret, program)
        self.taken = [Taken(0, NOON, story.started)]
        self.queued: dict[int, list[int]] = {}
        self.states: dict[int, Any] = {}
        turn = 0
        for kind, which in [("begin", 0), *choices]:
            if kind != "begin":
                then_us = story.now_us
                observed = observe(story, kind, which)
                turn += story.now_us != then_us
                refused = story.tell(*observed).refused
                self.taken += [Taken(turn, story.now_us, e) for e in observed if e not in refused]
            # Now and then there is no room for an activity that the turn has asked for.
            scheduled = [a.task for a in story.turn.scheduled if a.task in story.execution.activities]
            if which % 3 == 0 and scheduled:
                self.queued[turn] = scheduled[:1]
                note_queued(story, scheduled[:1])
                turn += 1
            if story.rows:
                self.states[story.execution.next_seq] = state(story.execution)


def note_queued(story: Story, tasks: Sequence[int]) -> None:
    """As the caller does whose places are all taken."""
    for task in tasks:
        story.execution.note_queued(story.execution.activities[task])
    first_seq, at_us, _ = story.rows.pop()
    story.rows.append((first_seq, at_us, list(story.turn.events)))


def laws(test: Callable[[Told], None]) -> Callable[[], None]:
    """Make a test of a claim about any story."""

    @settings(max_examples=150)
    @given(PROGRAMS, CHOICES)
    def check(program: Program, choices: Choices) -> None:
        told = Told(program, choices)
        try:
            test(told)
        finally:
            told.story.execution.put_away()

    check.__name__, check.__doc__ = test.__name__, test.__doc__
    return check


@laws
def test_replay_at_every_row_gives_the_state_that_was_there(told: Told) -> None:
    compared = 0
    for rows in told.story.rounds:
        twin = told.story.fresh(rows=rows)
        for row in rows:
            twin.replay(*row)
            if twin.next_seq in told.states and (twin.ended is None or twin.continued is None) and not round_over(row):
                assert state(twin) == told.states[twin.next_seq]
                compared += 1
        twin.put_away()
    assert compared == len(told.states)


def round_over(row: Row) -> bool:
    return any(type(event) in (ev.ContinuedAsNew, ev.CheckpointTaken) for event in row[2])


@laws
def test_going_on_from_any_row_gives_the_rows_that_followed(told: Told) -> None:
    """The prefix property: what a history causes is a prefix of what a longer one causes."""
    for rows in told.story.rounds:
        for cut in range(len(rows)):
            twin = told.story.replayed(rows=rows[:cut]) if cut else told.story.fresh(rows=rows)
            for first_seq, at_us, row in rows[cut : cut + 2]:
                observed = [event for event in row if type(event) not in ev.DECISIONS | ev.NOTES]
                turn = twin.advance(observed, now_us=at_us)  # type: ignore[arg-type]
                if turn.closed:  # by a checkpoint: what came later in this turn is in the next row
                    assert (turn.closed[0][0], turn.at_us) == (first_seq, at_us)
                    assert without_tracebacks(turn.closed[0][1]) == without_tracebacks(row)
                    break
                for event in row:
                    if isinstance(event, ev.ActivityQueued):
                        twin.note_queued(twin.activities[event.task])
                assert (turn.first_seq, turn.at_us, turn.refused) == (first_seq, at_us, ())
                assert without_tracebacks(turn.events) == without_tracebacks(row)
            twin.put_away()


def without_tracebacks(events: Sequence[ev.Event]) -> list[ev.Event]:
    return [_without_traceback(event) for event in events]


def _without_traceback(event: ev.Event) -> ev.Event:
    if isinstance(event, ev.InstanceFailed):
        return ev.InstanceFailed(Failure(event.failure.type_name))
    if isinstance(event, ev.RequestAnswered) and event.failure is not None:
        return ev.RequestAnswered(event.request_id, event.output, Failure(event.failure.type_name))
    return event


@laws
def test_a_replay_adds_nothing(told: Told) -> None:
    twin = told.story.replayed()
    turn = twin.advance([], now_us=told.story.now_us)
    assert (turn.events, turn.scheduled, turn.cancelled) == ([], (), ())
    twin.put_away()


@laws
def test_numbers_are_dense_time_does_not_run_back_and_the_end_is_the_end(told: Told) -> None:
    check_shape(told.story.rows)
    if told.story.status.is_terminal:
        assert told.story.tell(received("a"), ev.InstanceTerminated(), ev.CancelRequested()).events == []
        assert told.story.execution.wake_us() is None


@laws
def test_one_by_one_gives_the_same_as_all_at_once(told: Told) -> None:
    """A turn for each observation, against one for all of a moment, against those of the story."""
    apart, batched = (Story(interpret, told.program, begin=False) for _ in range(2))
    for turn, group in groupby(told.taken, key=lambda item: item.turn):
        observed = list(group)
        apart.now_us = batched.now_us = observed[0].now_us
        for _, _, event in observed:
            assert not apart.tell(event).refused
        assert not batched.tell(*[event for *_, event in observed]).refused
        for story in (apart, batched):
            note_queued(story, told.queued.get(turn, []))
    for story in (apart, batched):
        assert without_tracebacks(story.decisions) == without_tracebacks(told.story.decisions)
        assert [send.task for send in story.sends] == [send.task for send in told.story.sends]
        assert state(story.execution) == state(told.story.execution)
        story.check()
        story.execution.put_away()


@settings(max_examples=150)
@given(PROGRAMS, CHOICES, st.integers(0, 25), st.integers(1, 6))
def test_a_suspension_inserted_anywhere_loses_nothing_and_changes_no_order(
    program: Program, choices: Choices, place: int, length: int
) -> None:
    told = Told(program, choices)
    assume(len(told.taken) > 1)
    place = 1 + place % (len(told.taken) - 1)
    here = told.taken[place].turn
    window = [event for turn, _, event in told.taken[place : place + length] if turn == here]
    assume(not any(isinstance(event, (ev.InstanceSuspended, ev.InstanceResumed)) for event in window))
    plain, halted = (Story(interpret, program, begin=False) for _ in range(2))
    for story in (plain, halted):
        for turn, group in groupby(told.taken[:place], key=lambda item: item.turn):
            for _, now_us, event in group:
                story.now_us = now_us
                story.tell(event)
            if turn != here:
                note_queued(story, told.queued.get(turn, []))
        story.now_us = told.taken[place].now_us
    assume(halted.status is not Status.SUSPENDED)
    for event in window:
        plain.tell(event)
    halted.tell(ev.InstanceSuspended())
    before, rounds = len(halted.decisions), len(plain.rounds)
    refused = [event for event in window if halted.tell(event).refused]
    assert len(halted.decisions) == before, "nothing was delivered"
    halted.tell(ev.InstanceResumed())
    # Refused is only what answers something that the code had asked for meanwhile, had it not been halted.
    # And what was held when somebody terminated the instance is heard by nobody.
    # A round that begins meanwhile has what was held from its first moment on, which its code may notice.
    if (
        not refused
        and not isinstance(plain.execution.ended, ev.InstanceTerminated)
        and rounds == len(plain.rounds) == len(halted.rounds)
    ):
        assert without_tracebacks(halted.decisions) == without_tracebacks(plain.decisions)
        assert halted.status is plain.status
    halted.check()
    for story in (plain, halted, told.story):
        story.execution.put_away()


def test_the_language_reaches_what_it_is_meant_to_reach() -> None:
    """A net that catches nothing proves nothing: the drawn stories hold every kind of event."""
    seen: set[str] = set()
    replays = 0

    @settings(max_examples=400, database=None, derandomize=True)
    @given(PROGRAMS, CHOICES)
    def draw(program: Program, choices: Choices) -> None:
        nonlocal replays
        told = Told(program, choices)
        seen.update(ev.tag_of(event) for event in told.story.events)
        replays += len(told.story.rows) > 4
        told.story.execution.put_away()

    draw()
    assert seen >= {
        ev.tag_of(example)
        for example in (
            received("a"), done(1), failed(1), ev.TimerFired(1), ev.CancelRequested(), ev.InstanceSuspended(),
            ev.InstanceResumed(), ev.InstanceTerminated(), ev.ActivityStarted(1, 1), ev.ActivityQueued(1),
            ev.AttemptFailed(1, 1, Failure("E"), 0), ev.TaskCancelled(1), ev.SideEffectRecorded(1, b""),
            ev.CustomStatusSet(b""), ev.InstanceCompleted(b""), ev.InstanceFailed(Failure("E")),
            ev.InstanceCancelled(), ev.PatchRecorded("p"), ev.EventAwaited(1, "a"), ev.TimerCreated(1, 1),
            ev.ChildScheduled(1, "kid", 1, b"", b""), ev.ChildCompleted(1, b""), ev.ChildFailed(1, Failure("E")),
            ev.MessageSent(1, "them", b""), ev.MessageAnswered(1, "over"), ev.RequestReceived("r", "r", b""),
            ev.RequestAnswered("r", b""), ev.CheckpointTaken(b""), ev.ContinuedAsNew(b""),
        )
    }  # fmt: skip
    assert replays > 40
    assert program_of(interpret).name == "interpret"
