"""Instances without an engine: told what comes in, asked what they want, replayed from what they recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from durableflow import Workflow
from durableflow.authoring.activity import Activity
from durableflow.core.execution import Execution, replay_rows
from durableflow.core.turn import Turn
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
    """

    def __init__(
        self,
        flow: Callable[..., Any],
        *args: object,
        instance_id: str = "i",
        start_at_s: float = 0,
        deadline_s: float = 0,
        begin: bool = True,
        **limits: int,
    ) -> None:
        self.program = program_of(flow)
        self.limits = limits
        self.instance_id = instance_id
        self.now_us = NOON
        self.execution: Execution = self.fresh()
        self.rows: list[Row] = []
        self.turn = Turn(1, 0)
        self.started = ev.InstanceStarted(
            self.program.name,
            self.program.version,
            self.program.arguments.dump(args, {}, "the input"),
            start_at_us=NOON + round(start_at_s * SECOND) if start_at_s else 0,
            deadline_us=NOON + round(deadline_s * SECOND) if deadline_s else 0,
        )
        if begin:
            self.tell(self.started)

    def fresh(self, flow: Callable[..., Any] | None = None) -> Execution:
        program = self.program if flow is None else program_of(flow)
        return Watched(self.instance_id, program, **self.limits)

    # -- forward --------------------------------------------------------------------------------------------

    def tell(self, *observed: ev.Observation) -> Turn:
        """One turn; its row goes through bytes, as in a store."""
        turn = self.turn = self.execution.advance(observed, now_us=self.now_us)
        if turn.events:
            self.rows.append((turn.first_seq, turn.at_us, ev.load_events(ev.dump_events(turn.events))))
        return turn

    def complete(self, task: int, value: object = None, attempt: int = 1) -> Turn:
        return self.tell(done(task, value, attempt))

    def fail(self, task: int, type_name: str = "ValueError", message: str = "no", attempts: int = 1) -> Turn:
        return self.tell(failed(task, type_name, message, attempts))

    def event(self, name: str, payload: object = None, event_id: str | None = None) -> Turn:
        return self.tell(received(name, payload, event_id))

    def wait(self, seconds: float) -> Turn:
        """Time passes; what is due then is told."""
        self.now_us += round(seconds * SECOND)
        return self.tell(*self.execution.due_observations(self.now_us))

    # -- looking --------------------------------------------------------------------------------------------

    @property
    def events(self) -> list[ev.Event]:
        return [event for _, _, row in self.rows for event in row]

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
        """Another execution, replayed over the rows so far."""
        execution = self.fresh(flow)
        try:
            replay_rows(execution, self.rows if rows is None else rows)
        except BaseException:
            execution.put_away()
            raise
        return execution

    def crash(self) -> None:
        """Forget the memory and go on from the rows."""
        self.execution.put_away()
        self.execution = self.replayed()

    def check(self) -> None:
        """Live and replayed are alike, after every row; a replay adds nothing."""
        check_shape(self.rows)
        twin = self.fresh()
        try:
            for row in self.rows:
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
    events = [event for _, _, row in rows for event in row]
    assert [type(event) is ev.InstanceStarted for event in events] == [True, *([False] * (len(events) - 1))]
    ends = [n for n, event in enumerate(events) if type(event) in ev.ENDS]
    assert len(ends) <= 1
    if ends:
        last_observation = max(n for n, event in enumerate(events) if type(event) not in ev.DECISIONS)
        assert ends[0] == len(events) - 1 or (type(events[ends[0]]) not in ev.DECISIONS and last_observation == ends[0])


def done(task: int, value: object = None, attempt: int = 1) -> ev.ActivityCompleted:
    return ev.ActivityCompleted(task, msgspec.json.encode(value), attempt)


def failed(
    task: int, type_name: str = "ValueError", message: str = "no", attempts: int = 1, attempt: int = 1
) -> ev.ActivityFailed:
    return ev.ActivityFailed(task, Failure(type_name, message, "at line 1"), attempts, attempt)


def received(name: str, payload: object = None, event_id: str | None = None) -> ev.EventReceived:
    return ev.EventReceived(name, msgspec.json.encode(payload), event_id)
