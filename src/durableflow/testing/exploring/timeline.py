"""A story as people read it: numbered moves, each with its time and what followed."""

from __future__ import annotations

from typing import Any, Final

from durableflow.core.describe import describe
from durableflow.core.turn import Turn
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.testing.exploring.actor import Actor
from durableflow.testing.exploring.flight import Flight
from durableflow.testing.exploring.story import (
    COMES,
    CRASHES,
    ENDS,
    SPOILS,
    TAKES,
    WORKS,
    WORKS_LATE,
    Move,
    Plot,
    Story,
)

_TOLD_BY_WORK: Final = {
    ENDS: "works, {}",
    WORKS: "works, {}; that is not recorded yet",
    SPOILS: "works, {}; but its answer is lost, and it counts as failed",
    WORKS_LATE: "was given up but works all the same, {}; nobody hears of it",
}
_SHOWN: Final = 120


class TracedStory(Story):
    """A story that keeps record of itself.

    Attributes:
        lines: the timeline so far.
    """

    def __init__(self, plot: Plot, world: Any) -> None:
        super().__init__(plot, world)
        self.lines: list[str] = []
        self._followed: list[str] = []
        self._number = 0

    def begin(self) -> None:
        """See `Story.begin`."""
        super().begin()
        data = self.plot.started.input
        self._close_entry(f"{self.root.id} is started with {_short(data.decode())}", is_usual=True)

    def take_named(self, move: Move, *, is_usual: bool) -> None:
        """As `take`, and written down."""
        kind, subject = move
        self._number += 1
        before = self._before(kind, subject)
        try:
            self.take(move)
        finally:
            self._close_entry(before or _after(kind, subject), is_usual=is_usual)

    def _before(self, kind: int, subject: Any) -> str:
        """What a move is, of those that are told by what was there before it."""
        if kind == COMES:
            return f"{self._comes(subject)} comes"
        if kind == TAKES:
            return f"{subject.id} takes a message: {describe(self.posts[subject.id][0])}"
        if kind == CRASHES:
            return f"CRASH. Lost: {', '.join(_loss(flight) for flight in self.flights if not flight.begins_us)}"
        if kind == ENDS and subject.has_worked:
            return f"{subject.name}: its answer is recorded"
        return "" if kind in _TOLD_BY_WORK else self.name_of((kind, subject))

    def _comes(self, lane: int) -> str:
        event = self.plot.lanes[lane][1][self.sent[lane]]
        return (
            f"event {event.name!r} {_short(event.payload.decode())}"
            if isinstance(event, ev.EventReceived)
            else (describe(event))
        )

    def _apply(self, actor: Actor, turn: Turn) -> None:
        for event in [*(event for _, row in turn.closed for event in row), *turn.events]:
            told = _followed(event)
            if told:
                self._followed.append(actor.prefix + told)
        for event in turn.refused:
            self._followed.append(f"{actor.prefix}{describe(event)} changes nothing")
        super()._apply(actor, turn)

    def _close_entry(self, what: str, *, is_usual: bool) -> None:
        seconds = (self.clock.at_us - self.plot.start_us) / 1_000_000
        mark = " " if is_usual else "*"
        self.lines.append(f"{mark}{self._number:>3}  {f'+{seconds:,.10g} s':>10}  {what}")
        self.lines += [f"{'':>18}  -> {each}" for each in self._followed]
        self._followed = []


def _after(kind: int, flight: Flight) -> str:
    """What a move is in which a function was called."""
    if flight.output is not None:
        answer = f"returns {_short(flight.output.decode())}"
    elif flight.failure is not None:
        answer = f"raises {_bare(flight.failure)}: {_short(flight.failure.message)}"
    else:
        answer = "and cannot be explored"
    return f"{flight.name} {_TOLD_BY_WORK[kind].format(answer)}"


def _loss(flight: Flight) -> str:
    return f"{flight.name}, which had worked" if flight.has_worked else flight.name


def _followed(event: ev.Event) -> str:
    """What an event of a turn says that its move does not; empty for nothing."""
    match event:
        case ev.ActivityStarted(task=task, attempt=attempt):
            return f"attempt {attempt} of task {task} begins"
        case ev.AttemptFailed(task=task, attempt=attempt, failure=failure):
            return f"attempt {attempt} of task {task} has failed with {_bare(failure)}; another follows"
        case ev.ActivityFailed(task=task, attempt=attempt, failure=failure):
            return f"attempt {attempt} of task {task} has failed with {_bare(failure)}; no other follows"
        case ev.TimerFired(task=task):
            return f"task {task} is due"
        case ev.TaskCancelled():
            return describe(event)
        case _:
            number = getattr(event, "task", 0)
            told = describe(event) if type(event) in ev.DECISIONS else ""
            return f"{told}, task {number}" if told and number else told


def _bare(failure: Failure) -> str:
    return failure.type_name.rpartition(".")[2]


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
