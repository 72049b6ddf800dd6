"""Instances without an engine: told what comes in, asked what they want, replayed from what they recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from durableflow import Workflow
from durableflow.authoring.activity import Activity
from durableflow.core.execution import Execution, replay_rows
from durableflow.core.turn import Send, Turn
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.model.status import Status, may_become

Row = tuple[int, int, list[ev.Event]]

SECOND = 1_000_000
NOON = 1_800_000_000 * SECOND
"""When all stories begin."""


def _work(x: Any = None) -> Any:
    raise AssertionError("the core never calls activities")


def _other(x: Any = None) -> Any:
    raise AssertionError("the core never calls activities")


def _number(x: Any = None) -> int:
    raise AssertionError("the core never calls activities")


# Not decorated: what is decorated at the top of a module is registered for the whole test session.
work = Activity(_work, name="work")
other = Activity(_other, name="other")
number = Activity(_number, name="number")


def program_of(flow: Callable[..., Any]) -> Workflow[..., Any]:
    """The workflow made of `flow`, registered nowhere."""
    return flow if isinstance(flow, Workflow) else Workflow(flow)


class Watched(Execution):
    """An execution whose status may only move along the table."""

    __slots__ = ("path",)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "status":
            if hasattr(self, "path"):
                old = self.path[-1]
                assert may_become(old, value), f"{old} became {value}"
                self.path.append(value)
            else:
                self.path = [value]
        super().__setattr__(name, value)


class Story:
    """One instance, its rows as a store would hold them, and the time.

    Args:
        flow: a workflow, or the function of one.
        args: what it is started with.
        crashing: its memory is lost after every turn.
        versions: workflows of the same name that it may go over to.
    """

    def __init__(
        self,
        flow: Callable[..., Any],
        *args: object,
        instance_id: str = "i",
        start_at_s: float = 0,
        deadline_s: float = 0,
        begin: bool = True,
        crashing: bool = False,
        origin: ev.Origin | None = None,
        versions: Sequence[Callable[..., Any]] = (),
        **limits: int,
    ) -> None:
        self.program = program_of(flow)
        self.versions = {program.version: program for program in map(program_of, versions)}
        self.args = args
        self.crashing = crashing
        self.limits = limits
        self.instance_id = instance_id
        self.now_us = NOON
        self.execution: Execution = self.fresh()
        self.rows: list[Row] = []
        self.turn = Turn(1, 0)
        self.sends: list[Send] = []
        self.answers: dict[str, Any] = {}
        self.started = ev.InstanceStarted(
            self.program.name,
            self.program.version,
            self.program.arguments.dump(args, {}, "the input"),
            start_at_us=NOON + round(start_at_s * SECOND) if start_at_s else 0,
            deadline_us=NOON + round(deadline_s * SECOND) if deadline_s else 0,
            origin=origin,
        )
        if begin:
            self.tell(self.started)

    def fresh(self, flow: Callable[..., Any] | None = None, rows: Sequence[Row] = ()) -> Execution:
        """One that knows nothing yet, to replay `rows`."""
        program = self.program if flow is None else program_of(flow)
        base_seq = 1
        if rows and rows[0][2] and isinstance(started := rows[0][2][0], ev.InstanceStarted) and started.round:
            base_seq = rows[0][0]
            program = self.versions.get(started.version, program)
        made = Watched(self.instance_id, program, **self.limits)
        made.next_seq = base_seq
        return made

    # -- forward --------------------------------------------------------------------------------------------

    def tell(self, *observed: ev.Observation) -> Turn:
        """One turn, and the rounds that it begins; rows go through bytes, as in a store."""
        turn = self.turn = self.execution.advance(observed, now_us=self.now_us)
        self._write(turn)
        carried: Sequence[ev.Observation] = ()
        late: list[ev.Observation] = []
        while (started := self.execution.continued) is not None:
            old = self.execution
            late += [event for event in turn.refused if not any(event is each for each in carried)]
            carried = [*old.left_over, *(event for event in carried if any(event is each for each in turn.refused))]
            program = self.versions.get(started.version)
            self.execution = self.fresh(program)
            self.execution.next_seq = turn.first_seq + len(turn.events)
            turn = self.turn = self.execution.advance([started, *carried], now_us=self.now_us)
            self._write(turn)
        if late:
            return self.tell(*late)
        if self.crashing:
            self.crash()
        return turn

    def _write(self, turn: Turn) -> None:
        for first_seq, events in [*turn.closed, (turn.first_seq, turn.events)]:
            if events:
                self.rows.append((first_seq, turn.at_us, ev.load_events(ev.dump_events(events))))
        self.sends += turn.sends
        for answer in turn.answered:
            value = None if answer.failure is not None else msgspec.json.decode(answer.output)
            assert answer.request_id not in self.answers
            self.answers[answer.request_id] = answer.failure or value

    def complete(self, task: int, value: object = None, attempt: int = 1) -> Turn:
        return self.tell(done(task, value, attempt))

    def fail(self, task: int, type_name: str = "ValueError", message: str = "no", attempts: int = 1) -> Turn:
        return self.tell(failed(task, type_name, message, attempts))

    def event(self, name: str, payload: object = None, event_id: str | None = None) -> Turn:
        return self.tell(received(name, payload, event_id))

    def ask(self, request_id: str, name: str, *args: object) -> Turn:
        """A request comes in."""
        return self.tell(asked(request_id, name, *args))

    def wait(self, seconds: float) -> Turn:
        """Time passes; what is due then is told."""
        self.now_us += round(seconds * SECOND)
        return self.tell(*self.execution.due_observations(self.now_us))

    # -- looking --------------------------------------------------------------------------------------------

    @property
    def events(self) -> list[ev.Event]:
        return [event for _, _, row in self.rows for event in row]

    @property
    def rounds(self) -> list[list[Row]]:
        """The rows, round by round."""
        found: list[list[Row]] = []
        for row in self.rows:
            if isinstance(row[2][0], ev.InstanceStarted):
                found.append([])
            found[-1].append(row)
        return found

    @property
    def sent(self) -> list[tuple[str, ev.Observation]]:
        """What went to others, in order."""
        return [(send.instance_id, send.message) for send in self.sends]

    @property
    def decisions(self) -> list[ev.Decision]:
        return [event for event in self.events if type(event) in ev.DECISIONS]

    @property
    def status(self) -> Status:
        return self.execution.status

    @property
    def result(self) -> Any:
        """What it returned; an AssertionError that tells how it ended when it did not return."""
        ended = self.execution.ended
        assert isinstance(ended, ev.InstanceCompleted), ended
        return msgspec.json.decode(ended.output)

    @property
    def failure(self) -> Failure:
        ended = self.execution.ended
        assert isinstance(ended, ev.InstanceFailed), ended
        return ended.failure

    # -- again ----------------------------------------------------------------------------------------------

    def replayed(self, flow: Callable[..., Any] | None = None, rows: Iterable[Row] | None = None) -> Execution:
        """Another execution, replayed over the rows of the latest round so far."""
        known = self.rounds[-1] if rows is None and self.rows else list(rows or ())
        execution = self.fresh(flow, known)
        try:
            replay_rows(execution, known)
        except BaseException:
            execution.put_away()
            raise
        return execution

    def crash(self) -> None:
        """Forget the memory and go on from the rows."""
        self.execution.put_away()
        self.execution = self.replayed()

    def check(self) -> None:
        """Live and replayed are alike, after every row; a replay adds nothing. Each round is replayed by itself."""
        check_shape(self.rows)
        for rows in self.rounds[:-1]:
            twin = self.replayed(rows=rows)
            assert twin.continued is not None or twin.inert
            twin.put_away()
        rows = self.rounds[-1] if self.rows else []
        twin = self.fresh(rows=rows)
        try:
            for row in rows:
                twin.replay(*row)
            assert state(twin) == state(self.execution)
            assert twin.advance([], now_us=self.now_us).events == [], "a replay has nothing to add"
        finally:
            twin.put_away()


def state(execution: Execution) -> dict[str, Any]:
    """All that a caller can see of an execution."""
    return {
        "status": execution.status,
        "next_seq": execution.next_seq,
        "ended": None if execution.ended is None else ev.tag_of(execution.ended),
        "cancel_requested": execution.cancel_requested,
        "custom_status": execution.custom_status,
        "wake_us": execution.wake_us(),
        "activities": {
            number: (
                activity.name,
                activity.input,
                activity.attempt,
                activity.started,
                activity.uncounted,
                activity.retry_at_us,
                activity.scheduled_at_us,
                activity.details,
                activity.losses,
            )
            for number, activity in execution.activities.items()
        },
        "unstarted": list(execution.unstarted),
        "children": dict(execution.children or {}),
        "messages": dict(execution.messages or {}),
        "requests": [[], []] if execution.desk is None else [list(execution.desk.kept), list(execution.desk.open)],
        "restored": execution.restored,
        "observed": execution.observed,
    }


def check_shape(rows: Sequence[Row]) -> None:
    """Dense numbers, time that does not run back, one start, at most one end, and that last."""
    next_seq, last_us = 1, 0
    for first_seq, at_us, events in rows:
        assert first_seq == next_seq
        assert at_us >= last_us
        assert events, "a turn without events has no row"
        next_seq, last_us = first_seq + len(events), at_us
        kinds = [2 if type(e) in ev.NOTES else type(e) in ev.DECISIONS for e in events]
        assert kinds == sorted(kinds), "observations, then decisions, then notes"
    begins = [row[0] for _, _, row in rows if type(row[0]) is ev.InstanceStarted]
    rounds = [0 if begun.round is None else begun.round.number for begun in begins]
    assert rounds == list(range(len(rounds)))
    events = [event for _, _, row in rows for event in row]
    assert sum(type(event) is ev.InstanceStarted for event in events) == len(begins)
    for before, (_, _, row) in pairwise(rows):
        closed = any(type(event) in (ev.ContinuedAsNew, ev.CheckpointTaken) for event in before[2])
        assert closed == (type(row[0]) is ev.InstanceStarted), "a round ends with the row that says so"
    tasks = [event.task for event in events if isinstance(event, ASKS)]
    assert tasks == sorted(set(tasks)), "no number is given twice, in no round"
    ends = [n for n, event in enumerate(events) if type(event) in ev.ENDS]
    assert len(ends) <= 1
    if ends:
        last_observation = max(n for n, event in enumerate(events) if type(event) not in ev.DECISIONS)
        assert ends[0] == len(events) - 1 or (type(events[ends[0]]) not in ev.DECISIONS and last_observation == ends[0])


ASKS = (ev.ActivityScheduled, ev.TimerCreated, ev.EventAwaited, ev.ChildScheduled, ev.MessageSent)


def done(task: int, value: object = None, attempt: int = 1) -> ev.ActivityCompleted:
    return ev.ActivityCompleted(task, msgspec.json.encode(value), attempt)


def failed(
    task: int, type_name: str = "ValueError", message: str = "no", attempts: int = 1, attempt: int = 1
) -> ev.ActivityFailed:
    return ev.ActivityFailed(task, Failure(type_name, message, "at line 1"), attempts, attempt)


def received(name: str, payload: object = None, event_id: str | None = None) -> ev.EventReceived:
    return ev.EventReceived(name, msgspec.json.encode(payload), event_id)


def asked(request_id: str, name: str, *args: object) -> ev.RequestReceived:
    return ev.RequestReceived(request_id, name, msgspec.json.encode(args))


def returned(task: int, value: object = None) -> ev.ChildCompleted:
    return ev.ChildCompleted(task, msgspec.json.encode(value))


def ended(task: int, status: str = "FAILED", type_name: str = "ValueError", message: str = "no") -> ev.ChildFailed:
    return ev.ChildFailed(task, Failure(type_name, message, "at line 1"), status)
