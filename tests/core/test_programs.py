"""Random programs under random observations: what must hold of all of them.

The programs are those of the simulator, drawn by hypothesis from the tables of their language. What comes in is drawn
too: results, failures, retries, events, requests, what became of children and messages, timers,
suspensions, cancellations, results of attempts that are over. The laws are the names of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
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
    received,
    returned,
    state,
)

from durableflow import Status
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.testing.simulation.interpreter import VERSIONS, WORDS, workflow_of
from durableflow.testing.simulation.language import (
    AT_LAST,
    BEFORE_TIDY,
    BLOCK_MAX,
    BLOCK_WORDS,
    DEPTH_MAX,
    HEADS,
    OPENINGS,
    PLAIN_WORDS,
    TIDY,
    Program,
    Word,
)

pytestmark = pytest.mark.slow


@st.composite
def spelled(draw: Any, words: Sequence[Word], depth: int) -> list[Any]:
    """An instruction of one of these words, each as often as it is in there."""
    word = draw(st.sampled_from(words)) if len(words) > 1 else words[0]
    number = draw(st.integers(0, word.spellings - 1)) if word.spellings > 1 else 0
    return word.spell(number, lambda block: draw(blocks(0 if block.is_flat else depth - 1, block.least)))


def weighted(words: Sequence[Word]) -> list[Word]:
    return [word for word in words for _ in range(word.weight)]


@cache
def blocks(depth: int, least: int = 1) -> st.SearchStrategy[Program]:
    """Blocks that go so deep."""
    plain = spelled(weighted(PLAIN_WORDS), 0)
    instruction = plain if depth <= 0 else st.one_of(plain, plain, plain, plain, spelled(weighted(BLOCK_WORDS), depth))
    return st.lists(instruction, min_size=least, max_size=BLOCK_MAX if depth == DEPTH_MAX else 3)


def _joined(head: list[Any] | None, *parts: Program) -> Program:
    return [*([] if head is None else [head]), *(instruction for part in parts for instruction in part)]


_HEAD = st.none() | st.none() | spelled(weighted(HEADS), 0)
_TIDY = st.sampled_from(TIDY).flatmap(lambda words: st.tuples(*(spelled([word], DEPTH_MAX - 1) for word in words)))
PROGRAMS: st.SearchStrategy[Program] = st.one_of(
    st.builds(_joined, _HEAD, st.sampled_from(OPENINGS), blocks(DEPTH_MAX), st.just(AT_LAST)),
    st.builds(lambda head, parts: _joined(head, BEFORE_TIDY, *parts), _HEAD, st.lists(_TIDY, min_size=2, max_size=8)),
)
"""The whole language, by the tables that the simulator draws from, too."""

KINDS = (
    "child", "child", "message", "request", "request",
    "result", "result", "result", "failure", "retry", "stale", "handed", "again", "time", "time",
    "event", "event", "event", "cancel", "suspend", "resume", "resume", "terminate",
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
        return [asked(f"request {which}", ("r", "late", "p")[which % 3], which // 2)]
    children, told = list(story.execution.children or ()), list(story.execution.messages or ())
    if kind == "child" and children:
        child = children[which % len(children)]
        return [ended(child, "" if which % 2 else "FAILED") if which % 3 == 0 else returned(child, which)]
    if kind == "message" and told:
        outcomes = ("delivered", "missing", "over")
        return [ev.MessageAnswered(told[which % len(told)], outcomes[which % 3])]
    activities = list(story.execution.activities.values())
    if kind == "time" or not activities:
        story.now_us += (30 if which == 11 else which % 4) * SECOND
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
    if kind == "handed":
        return [ev.ActivityHandedOver(task, attempt)]
    if kind == "again":
        return [ev.ActivityRetried(task, attempt)]
    return [done(task, which if which % 5 == 4 else f"result {which}", attempt)]


def story_of(program: Program, *, begin: bool = True) -> Story:
    """One of the workflow that runs `program`, with the times that the program asks for."""
    flow = workflow_of(program)
    options = flow.start_options
    return Story(
        flow,
        program,
        begin=begin,
        versions=list(VERSIONS.values()),
        start_at_s=options.start_delay_us / SECOND,
        deadline_s=options.timeout_us / SECOND,
    )


class Taken(NamedTuple):
    """An observation, its time, and which of those beside it could have come in the same turn."""

    turn: int
    now_us: int
    event: ev.Observation


class Told:
    """A story that was told to its end, with what it took and how it stood after each row."""

    def __init__(self, program: Program, choices: Choices) -> None:
        self.program = program
        self.story = story = story_of(program)
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
            here = [a for a in story.turn.scheduled if a.options is None or not a.options.queue]
            scheduled = [a.task for a in here if a.task in story.execution.activities]
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
    apart, batched = (story_of(told.program, begin=False) for _ in range(2))
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
    plain, halted = (story_of(program, begin=False) for _ in range(2))
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


def words_of(program: Program) -> Iterator[str]:
    for word, *operands in program:
        yield word
        for operand in operands:
            if isinstance(operand, list):
                yield from words_of(operand)


def test_the_language_reaches_what_it_is_meant_to_reach() -> None:
    """A net that catches nothing proves nothing: the drawn stories hold every kind of event."""
    seen: set[str] = set()
    words: set[str] = set()
    replays = 0

    @settings(max_examples=600, database=None, derandomize=True)
    @given(PROGRAMS, CHOICES)
    def draw(program: Program, choices: Choices) -> None:
        nonlocal replays
        told = Told(program, choices)
        words.update(words_of(program))
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
            ev.RequestAnswered("r", b""), ev.CheckpointTaken(b""), ev.ContinuedAsNew(b""), ev.InstanceBegan(),
            ev.InstanceTimedOut(), ev.ActivityHandedOver(1, 1), ev.ActivityRetried(1, 1),
        )
    }  # fmt: skip
    assert words == WORDS
    assert replays > 40
