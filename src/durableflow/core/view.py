"""Histories folded into what people look at: numbered events, and what became of each task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from durableflow.core.describe import describe
from durableflow.model import events as ev
from durableflow.model.failure import Failure


class HistoryEvent(msgspec.Struct, frozen=True):
    """One event with its place in the history.

    Attributes:
        seq: 1 for the first.
        at_us: time of its turn, in microseconds since 1970 (UTC).
        first_seq: the `seq` of the first event of its turn; 0 when that is not known.
        kind: stable name such as `"activity_completed"`.
    """

    seq: int
    at_us: int
    event: ev.Event
    first_seq: int = 0

    @property
    def kind(self) -> str:
        """Stable name of the kind of event."""
        return ev.tag_of(self.event)

    def __str__(self) -> str:
        return f"#{self.seq} {describe(self.event)}"


class TaskView(msgspec.Struct):
    """What became of one thing that the workflow asked for.

    Attributes:
        kind: `"activity"`, `"timer"`, `"event"` or `"side effect"`.
        state: `"running"`, `"waiting"`, `"done"`, `"failed"`, `"timed out"` or `"cancelled"`.
        attempts: how many the history knows of; 0 for what is not an activity.
    """

    task: int
    kind: str
    name: str
    state: str
    scheduled_at_us: int
    ended_at_us: int | None = None
    attempts: int = 0
    input: bytes | None = None
    output: bytes | None = None
    failure: Failure | None = None


class InstanceView(msgspec.Struct):
    """A history, folded: what was asked for, in order, and how the instance ended."""

    workflow: str = ""
    version: int = 0
    started_at_us: int = 0
    ended_at_us: int | None = None
    input: bytes = b"[]"
    output: bytes | None = None
    failure: Failure | None = None
    tasks: list[TaskView] = []
    events_kept: list[str] = []


def numbered(rows: Iterable[tuple[int, int, Sequence[ev.Event]]]) -> list[HistoryEvent]:
    """The events of rows `(first_seq, at_us, events)`, each with its number and time."""
    return [
        HistoryEvent(seq, at_us, event, first) for first, at_us, row in rows for seq, event in enumerate(row, first)
    ]


def fold(history: Iterable[HistoryEvent]) -> InstanceView:
    """What the history says became of everything."""
    view = InstanceView(tasks=[], events_kept=[])
    tasks: dict[int, TaskView] = {}
    waiting: dict[str, list[int]] = {}
    for entry in history:
        _fold_one(view, tasks, waiting, entry)
    view.tasks = list(tasks.values())
    return view


def _fold_one(  # noqa: C901  # one case an event, each a line or two
    view: InstanceView, tasks: dict[int, TaskView], waiting: dict[str, list[int]], entry: HistoryEvent
) -> None:
    at_us = entry.at_us

    def end(task: int, state: str, output: bytes | None = None, failure: Failure | None = None) -> None:
        known = tasks.get(task)
        if known is not None:
            known.state, known.ended_at_us, known.output, known.failure = state, at_us, output, failure

    match entry.event:
        case ev.InstanceStarted(workflow=workflow, version=version, input=data):
            view.workflow, view.version, view.started_at_us, view.input = workflow, version, at_us, data
        case ev.ActivityScheduled(task=task, name=name, input=data):
            tasks[task] = TaskView(task, "activity", name, "running", at_us, attempts=1, input=data)
        case ev.ActivityStarted(task=task, attempt=attempt) if task in tasks:
            tasks[task].attempts, tasks[task].state = attempt, "running"
        case ev.ActivityQueued(task=task) if task in tasks:
            tasks[task].attempts, tasks[task].state = 0, "waiting"
        case ev.AttemptFailed(task=task, failure=failure) if task in tasks:
            tasks[task].state, tasks[task].failure = "waiting", failure
        case ev.ActivityCompleted(task=task, output=output):
            end(task, "done", output)
        case ev.ActivityFailed(task=task, failure=failure):
            end(task, "failed", failure=failure)
        case ev.TimerCreated(task=task):
            tasks[task] = TaskView(task, "timer", "timer", "waiting", at_us)
        case ev.EventAwaited(task=task, name=name):
            tasks[task] = TaskView(task, "event", name, "waiting", at_us)
            if name in view.events_kept:
                view.events_kept.remove(name)
                end(task, "done")
            else:
                waiting.setdefault(name, []).append(task)
        case ev.TimerFired(task=task):
            end(task, "timed out" if task in tasks and tasks[task].kind == "event" else "done")
        case ev.EventReceived(name=name, payload=payload):
            open_waits = [task for task in waiting.get(name.casefold(), ()) if tasks[task].state == "waiting"]
            if open_waits:
                end(open_waits[0], "done", payload)
            else:
                view.events_kept.append(name.casefold())
        case ev.SideEffectRecorded(task=task, value=value):
            tasks[task] = TaskView(task, "side effect", "side effect", "done", at_us, at_us, output=value)
        case ev.TaskCancelled(task=task):
            end(task, "cancelled")
        case ev.InstanceCompleted(output=output):
            view.ended_at_us, view.output = at_us, output
        case ev.InstanceFailed(failure=failure):
            view.ended_at_us, view.failure = at_us, failure
        case ev.InstanceCancelled() | ev.InstanceTerminated() | ev.InstanceTimedOut():
            view.ended_at_us = at_us
        case _:
            pass
