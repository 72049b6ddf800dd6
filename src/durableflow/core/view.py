"""Histories folded into what people look at: numbered events, and what became of each task."""

from __future__ import annotations

from collections import deque
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
        kind: `"activity"`, `"timer"`, `"event"`, `"child"`, `"message"` or `"side effect"`.
        state: `"running"`, `"waiting"`, `"done"`, `"failed"`, `"timed out"` or `"cancelled"`.
        attempts: how many the history knows of; 0 for what is not an activity.
        role: `"compensation"` of an activity that a saga called to undo something, else empty.
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
    role: str = ""


class RequestView(msgspec.Struct):
    """What became of one request.

    Attributes:
        state: `"waiting"`, `"answered"` or `"failed"`.
    """

    request_id: str
    name: str
    state: str
    received_at_us: int
    ended_at_us: int | None = None
    arguments: bytes = b"[]"
    output: bytes | None = None
    failure: Failure | None = None


class InstanceView(msgspec.Struct):
    """A history, folded: what was asked for, in order, and how the instance ended.

    Attributes:
        tasks: of the latest round.
        rounds: how often it began anew or took a checkpoint.
        rewinds: how often it was made to go on after it had failed.
    """

    workflow: str = ""
    version: int = 0
    started_at_us: int = 0
    ended_at_us: int | None = None
    input: bytes = b"[]"
    output: bytes | None = None
    failure: Failure | None = None
    tasks: list[TaskView] = []
    events_kept: list[str] = []
    patches: list[str] = []
    requests: list[RequestView] = []
    rounds: int = 0
    rewinds: int = 0


def numbered(rows: Iterable[tuple[int, int, Sequence[ev.Event]]]) -> list[HistoryEvent]:
    """The events of rows `(first_seq, at_us, events)`, each with its number and time."""
    return [
        HistoryEvent(seq, at_us, event, first) for first, at_us, row in rows for seq, event in enumerate(row, first)
    ]


def fold(history: Iterable[HistoryEvent]) -> InstanceView:
    """What the history says became of everything."""
    folding = _Folding()
    for entry in history:
        folding.take(entry.event, entry.at_us)
    view = folding.view
    view.tasks = list(folding.tasks.values())
    view.requests = list(folding.requests.values())
    view.events_kept = [
        name for _, name in sorted((place, name) for name, kept in folding.kept.items() for place, _ in kept)
    ]
    return view


class _Folding:
    """A view in the making.

    A row holds its observations before its decisions, though the code decided between them. It
    matters for external events alone, which do not say which task they answer. Nor is it recorded at
    which wait a cancellation found the code, and which others it then gave up: all that were older
    than the cancellation are taken to stand behind those that are younger.
    """

    def __init__(self) -> None:
        self.view = InstanceView(tasks=[], events_kept=[], patches=[], requests=[])
        self.tasks: dict[int, TaskView] = {}
        self.requests: dict[str, RequestView] = {}
        self.kept: dict[str, deque[tuple[int, bytes]]] = {}
        self._waiting: dict[str, deque[int]] = {}
        self._stood_back: dict[str, deque[int]] = {}
        self._format = ev.FORMAT
        self._received = 0

    def take(self, event: ev.Event, at_us: int) -> None:  # noqa: C901  # one case an event, each a line or two
        view, tasks = self.view, self.tasks
        match event:
            case ev.StartChanged(input=data):
                view.input = data
            case ev.InstanceStarted():
                self._start(event, at_us)
            case ev.CancelRequested() if self._format > 1:
                self._stood_back, self._waiting = self._waiting, {}
            case ev.ActivityScheduled(task=task, name=name, input=data, options=options):
                role = options.role if options is not None else ""
                tasks[task] = TaskView(task, "activity", name, "running", at_us, attempts=1, input=data, role=role)
            case ev.ActivityStarted(task=task, attempt=attempt) | ev.ActivityHandedOver(task=task, attempt=attempt) if (
                task in tasks
            ):
                tasks[task].attempts, tasks[task].state = attempt, "running"
            case ev.ActivityQueued(task=task) if task in tasks:
                tasks[task].attempts, tasks[task].state = 0, "waiting"
            case ev.AttemptFailed(task=task, failure=failure) if task in tasks:
                tasks[task].state, tasks[task].failure = "waiting", failure
            case ev.ActivityCompleted(task=task, output=output, attempt=attempt):
                self._end(task, "done", at_us, output)
                if task in tasks:
                    tasks[task].attempts = attempt
            case ev.ActivityFailed(task=task, failure=failure):
                self._end(task, "failed", at_us, failure=failure)
            case ev.TimerCreated(task=task):
                tasks[task] = TaskView(task, "timer", "timer", "waiting", at_us)
            case ev.TimerFired(task=task) if task in tasks and tasks[task].ended_at_us is None:
                self._end(task, "timed out" if tasks[task].kind == "event" else "done", at_us)
            case ev.EventAwaited(task=task, name=name):
                tasks[task] = TaskView(task, "event", name, "waiting", at_us)
                kept = self.kept.get(name)
                if kept:
                    self._end(task, "done", at_us, kept.popleft()[1])
                else:
                    self._waiting.setdefault(name, deque()).append(task)
            case ev.EventReceived(name=name, payload=payload):
                self._received += 1
                if not self._answer(name.casefold(), payload, at_us):
                    self.kept.setdefault(name.casefold(), deque()).append((self._received, payload))
            case ev.TaskCancelled(task=task) if task in tasks:
                self._cancel(tasks[task], at_us)
            case ev.SideEffectRecorded(task=task, value=value, failure=failure):
                tasks[task] = TaskView(task, "side effect", "side effect", "done", at_us, at_us, output=value)
                if failure is not None:
                    self._end(task, "failed", at_us, failure=failure)
            case ev.PatchRecorded(name=name):
                view.patches.append(name)
            case ev.ChildScheduled(task=task, workflow=name, input=data):
                tasks[task] = TaskView(task, "child", name, "running", at_us, input=data)
            case ev.ChildCompleted(task=task, output=output):
                self._end(task, "done", at_us, output)
            case ev.ChildFailed(task=task, failure=failure):
                self._end(task, "failed", at_us, failure=failure)
            case ev.MessageSent(task=task, instance_id=name):
                tasks[task] = TaskView(task, "message", name, "waiting", at_us)
            case ev.MessageAnswered(task=task, outcome=outcome):
                self._end(task, "done" if outcome == "delivered" else "failed", at_us)
            case ev.RequestReceived(request_id=request_id, name=name, arguments=arguments):
                self.requests[request_id] = RequestView(request_id, name, "waiting", at_us, arguments=arguments)
            case ev.RequestAnswered(request_id=request_id, output=output, failure=failure):
                self._answer_request(request_id, at_us, output, failure)
            case ev.InstanceRewound():
                view.rewinds += 1
            case ev.InstanceCompleted() | ev.InstanceFailed() | ev.InstanceCancelled():
                self._close(event, at_us)
            case ev.InstanceTerminated() | ev.InstanceTimedOut():
                self._close(event, at_us)
            case _:
                pass

    def _start(self, started: ev.InstanceStarted, at_us: int) -> None:
        """A history begins, or a round of it: the one before has left only what `started` says."""
        view, following = self.view, started.round
        is_first = not view.workflow
        view.workflow, view.version, view.input = started.workflow, started.version, started.input
        if is_first:
            view.started_at_us = at_us
        view.ended_at_us = view.output = view.failure = None
        self._format = started.format
        self.tasks, self.kept, self._waiting, self._stood_back = {}, {}, {}, {}
        self.requests = {key: each for key, each in self.requests.items() if each.state == "waiting" or following}
        if following is None:
            view.patches = []
            return
        view.rounds = following.number
        view.patches = [*following.patches]
        for event in following.kept:
            self._received += 1
            self.kept.setdefault(event.name, deque()).append((self._received, event.payload))

    def _answer_request(self, request_id: str, at_us: int, output: bytes, failure: Failure | None) -> None:
        known = self.requests.get(request_id)
        if known is not None:
            known.state, known.ended_at_us = "answered" if failure is None else "failed", at_us
            known.output, known.failure = (output, None) if failure is None else (None, failure)

    def _end(
        self, task: int, state: str, at_us: int, output: bytes | None = None, failure: Failure | None = None
    ) -> None:
        known = self.tasks.get(task)
        if known is not None:
            known.state, known.ended_at_us, known.output, known.failure = state, at_us, output, failure

    def _answer(self, name: str, payload: bytes, at_us: int) -> bool:
        """Give an event to the wait that is oldest; False when there is none."""
        for lines in (self._waiting, self._stood_back):
            waiting = lines.get(name)
            while waiting:
                task = waiting.popleft()
                if self.tasks[task].state == "waiting":
                    self._end(task, "done", at_us, payload)
                    return True
        return False

    def _cancel(self, task: TaskView, at_us: int) -> None:
        payload = task.output
        self._end(task.task, "cancelled", at_us)
        # When it has a payload: the code had given this wait up before the event came, which is the next one's.
        if task.kind == "event" and payload is not None and not self._answer(task.name, payload, at_us):
            self.kept.setdefault(task.name, deque()).appendleft((0, payload))

    def _close(self, end: ev.Event, at_us: int) -> None:
        view = self.view
        view.ended_at_us = at_us
        if isinstance(end, ev.InstanceCompleted):
            view.output = end.output
        elif isinstance(end, ev.InstanceFailed):
            view.failure = end.failure
        for task in self.tasks.values():
            if task.ended_at_us is None:
                task.state, task.ended_at_us = "cancelled", at_us
