"""Histories in tests: written as a story, saved as a file, replayed without any store.

A file holds one history as JSON lines: a first line that says what it is, then one line for each event,
with what it carries as plain JSON. Reading it gives back every byte.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeAlias, TypeGuard, get_args

import msgspec

from durableflow.authoring.registry import DEFAULT, AnyActivity, AnyWorkflow
from durableflow.core.execution import Execution
from durableflow.core.view import HistoryEvent, numbered
from durableflow.errors import CorruptHistory, UsageError
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.duration import Duration, from_datetime, to_datetime, to_us
from durableflow.model.failure import record
from durableflow.model.status import Status

FILE_FORMAT: Final = 1
START: Final = datetime(2030, 1, 1, tzinfo=UTC)

Timed: TypeAlias = Callable[[int], ev.Event]
"""An event that needs to know the time of its turn."""


_KINDS: Final[dict[str, type[msgspec.Struct]]] = {str(kind.__struct_config__.tag): kind for kind in get_args(ev.Event)}
_NO_LIMIT_BYTES: Final = 2**62


class Row(NamedTuple):
    """One turn: its events, the first of which is number `first_seq`."""

    first_seq: int
    at_us: int
    events: Sequence[ev.Event]


class History:
    """The history of one instance, turn by turn: read from a file, taken from an engine, or written as a story.

        history = (
            History("order-1")
            .turn(started(fulfil, "a lamp"), scheduled(1, reserve, "a lamp"))
            .turn(completed(1, "shelf 7"), instance_completed("shelf 7"), after=2)
        )

    Args:
        instance_id: whose it is; the dice of the workflow depend on it.
        rows: its turns so far.
        at: the moment of the first turn that is added.
    """

    def __init__(self, instance_id: str, rows: Iterable[Row] = (), *, at: datetime = START) -> None:
        self.instance_id = instance_id
        self.rows = list(rows)
        self._at_us = self.rows[-1].at_us if self.rows else from_datetime(at, "at")

    @classmethod
    def of(cls, instance_id: str, events: Iterable[HistoryEvent]) -> Self:
        """What `await engine.history(instance_id)` gave, as turns again.

        Raises:
            CorruptHistory: the numbers of the events are no history's, or do not say which turn each belongs to.
        """
        rows: list[tuple[int, int, list[ev.Event]]] = []
        for seq, entry in enumerate(events, 1):
            continues = bool(rows) and rows[-1][0] == entry.first_seq
            if (
                entry.seq != seq
                or not (entry.first_seq == seq or continues)
                or (continues and entry.at_us != rows[-1][1])
            ):
                raise CorruptHistory(
                    f"the history of instance {instance_id!r} has {entry} where #{seq} must follow, in the turn that "
                    f"begins at #{entry.first_seq} ({entry.at_us} µs)"
                )
            if continues:
                rows[-1][2].append(entry.event)
            else:
                rows.append((seq, entry.at_us, [entry.event]))
        return cls(instance_id, (Row(*row) for row in rows))

    def __repr__(self) -> str:
        return f"<history of {self.instance_id!r}: {len(self.events)} events in {len(self.rows)} turns>"

    @property
    def events(self) -> list[HistoryEvent]:
        """Its events, as `await engine.history(...)` gives them."""
        return numbered(self.rows)

    @property
    def started(self) -> ev.InstanceStarted:
        """The first event; raises `CorruptHistory` when it is another."""
        first = self.rows[0].events[0] if self.rows and self.rows[0].events else None
        if not isinstance(first, ev.InstanceStarted):
            raise CorruptHistory(f"the history of instance {self.instance_id!r} does not begin with its start")
        return first

    def turn(self, *events: ev.Event | Timed, after: Duration = 0) -> Self:
        """Add a turn of these events, `after` the one before."""
        self._at_us += to_us(after, "after")
        first_seq = self.rows[-1].first_seq + len(self.rows[-1].events) if self.rows else 1
        made = [event(self._at_us) if callable(event) else event for event in events]
        self.rows.append(Row(first_seq, self._at_us, made))
        return self

    def until(self, turns: int) -> History:
        """Its first turns."""
        return History(self.instance_id, self.rows[:turns])

    def save(self, path: str | Path) -> None:
        """See `save_history`."""
        save_history(path, self)


# -- replay -----------------------------------------------------------------------------------------------------------


class ReplayReport(msgspec.Struct, frozen=True):
    """A history that today's code followed from its first event to its last.

    Attributes:
        status: where the instance stands after it.
        turns: how many there are.
        events: how many there are.
        decisions: how many of the events the code asked for again, each the same as recorded.
        path: of the file, if it came from one.
    """

    instance_id: str
    workflow: str
    status: Status
    turns: int
    events: int
    decisions: int
    path: Path | None = None


def replay(workflow: AnyWorkflow | None, history: History | str | Path, *, every_prefix: bool = False) -> ReplayReport:
    """Follow a history with today's code, without any store: nothing is called but the workflow itself.

    Args:
        workflow: the code; None takes what is registered under the name that the history says.
        history: itself, or the path of a file that holds it.
        every_prefix: also begin anew for each turn and end with it, as a crash after it would.

    Raises:
        NondeterminismError: the code asks for something else than is recorded; the message says where.
        CorruptHistory: it is no history that can be read, or one of another version of the workflow.
        UsageError: it is another workflow's.
    """
    path = None if isinstance(history, History) else Path(history)
    story = history if isinstance(history, History) else load_history(history)
    started = story.started
    program = _program(workflow, started)
    if every_prefix:
        for turns in range(1, len(story.rows)):
            _follow(program, story.until(turns))
    status = _follow(program, story)
    events = story.events
    decisions = sum(type(entry.event) in ev.DECISIONS for entry in events)
    return ReplayReport(story.instance_id, started.workflow, status, len(story.rows), len(events), decisions, path)


def _program(workflow: AnyWorkflow | None, started: ev.InstanceStarted) -> AnyWorkflow:
    program = _registered(started) if workflow is None else workflow
    if program is None:
        known = ", ".join(repr(name) for name in sorted({name for name, _ in DEFAULT.workflows})) or "none"
        raise UsageError(
            f"the history is of workflow {started.workflow!r}, which is not known here (known: {known}); "
            "import the module that defines it"
        )
    if program.name != started.workflow:
        raise UsageError(f"the history is of workflow {started.workflow!r}, not of {program.name!r}")
    if program.version != started.version:
        raise CorruptHistory(
            f"the history was begun by version {started.version} of workflow {program.name!r}, "
            f"but the code here is version {program.version}"
        )
    return program


def _registered(started: ev.InstanceStarted) -> AnyWorkflow | None:
    """The code of its version; if only others are known, the latest of them, to be refused by its version."""
    name = started.workflow
    versions = DEFAULT.versions(name)
    version = started.version if started.version in versions or not versions else versions[-1]
    return DEFAULT.workflows.get((name, version))


def _chosen(workflows: Sequence[AnyWorkflow], started: ev.InstanceStarted) -> AnyWorkflow | None:
    named = [workflow for workflow in workflows if workflow.name == started.workflow]
    return next((workflow for workflow in named if workflow.version == started.version), named[-1] if named else None)


def _follow(program: AnyWorkflow, history: History) -> Status:
    execution = Execution(history.instance_id, program, payload_limit_bytes=_NO_LIMIT_BYTES)
    try:
        for row in history.rows:
            execution.replay(row.first_seq, row.at_us, row.events)
        return execution.status
    finally:
        execution.put_away()


def replay_directory(path: str | Path, *workflows: AnyWorkflow) -> list[ReplayReport]:
    """Replay every `*.jsonl` file under a directory.

    Args:
        workflows: the code; by default what is registered under the names that the histories say.

    Raises:
        ExceptionGroup: what `replay` raised, for each file that could not be followed.
        UsageError: there is no history in the directory: a test that tests nothing.
    """
    paths = sorted(Path(path).rglob("*.jsonl"))
    if not paths:
        raise UsageError(f"there is no *.jsonl file under {str(path)!r}, so nothing was replayed")
    reports: list[ReplayReport] = []
    errors: list[Exception] = []
    for each in paths:
        try:
            history = load_history(each)
            report = replay(_chosen(workflows, history.started), history)
        except Exception as error:
            error.add_note(f"in {each}")
            errors.append(error)
        else:
            reports.append(msgspec.structs.replace(report, path=each))
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(paths)} histories under {str(path)!r} do not replay", errors)
    return reports


# -- files ------------------------------------------------------------------------------------------------------------


def save_history(
    path: str | Path, history: History | Iterable[HistoryEvent], *, instance_id: str | None = None
) -> None:
    """Write a history as JSON lines.

    Args:
        history: itself, or what `await engine.history(instance_id)` gave; then `instance_id` is needed.

    Raises:
        UsageError: it is not said whose history it is.
        CorruptHistory: these events are no history.
    """
    if not isinstance(history, History):
        if instance_id is None:
            raise UsageError("events do not say whose they are: save_history(path, events, instance_id=...)")
        history = History.of(instance_id, history)
    started = history.started
    head = {
        "durableflow_history": FILE_FORMAT,
        "instance_id": history.instance_id,
        "workflow": started.workflow,
        "version": started.version,
    }
    lines = [head, *(_line(entry) for entry in history.events)]
    Path(path).write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def load_history(path: str | Path) -> History:
    """Read what `save_history` wrote.

    Raises:
        CorruptHistory: it is not such a file, or this version does not know all that is in it; nothing is skipped.
    """
    lines = Path(path).read_bytes().splitlines()
    head = _decode(path, 1, lines[0] if lines else b"")
    if head.get("durableflow_history") != FILE_FORMAT or not isinstance(head.get("instance_id"), str):
        raise CorruptHistory(f"{path}, line 1: this is not the beginning of a saved history of format {FILE_FORMAT}")
    entries: list[HistoryEvent] = []
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            fields = _decode(path, number, line)
            try:
                entries.append(_entry(fields))
            except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
                raise CorruptHistory(f"{path}, line {number}: this is no event: {error!r}") from error
    return History.of(head["instance_id"], entries)


def _decode(path: str | Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise CorruptHistory(f"{path}, line {number}: this is not a line of a saved history: {error}") from error


def _line(entry: HistoryEvent) -> dict[str, Any]:
    at = to_datetime(entry.at_us).isoformat(timespec="microseconds")
    return {"seq": entry.seq, "turn": entry.first_seq, "at": at, "kind": entry.kind} | _fields_out(entry.event)


def _entry(fields: dict[str, Any]) -> HistoryEvent:
    seq, first_seq, at, kind = (fields.pop(name) for name in ("seq", "turn", "at", "kind"))
    at_us = from_datetime(datetime.fromisoformat(at), "at")
    return HistoryEvent(int(seq), at_us, _fields_in(_KINDS[kind], fields), int(first_seq))


def _fields_out(value: msgspec.Struct) -> dict[str, Any]:
    """The fields that differ from their defaults, by name; the default of `format` is another in each."""
    written: dict[str, Any] = {}
    for field in msgspec.structs.fields(value):
        item = getattr(value, field.name)
        if item != field.default or field.name == "format":
            written[field.name] = item.hex() if field.name == "digest" else _value_out(item)
    return written


def _value_out(value: Any) -> Any:
    if isinstance(value, bytes):
        return _payload_out(value)
    return _fields_out(value) if isinstance(value, msgspec.Struct) else value


def _fields_in(kind: type[msgspec.Struct], written: dict[str, Any]) -> Any:
    """The struct whose fields `_fields_out` wrote."""
    known = {field.name: field for field in msgspec.structs.fields(kind)}
    unknown = sorted(written.keys() - known.keys())
    if unknown:
        raise ValueError(f"unknown fields {unknown!r}")
    if kind is ev.InstanceStarted:
        written = {"format": 1} | written  # the first format was not written down
    values = {name: _value_in(known[name].type, name, item) for name, item in written.items()}
    made = kind(**values)
    # Constructors do not look at types: what is read from a file must pass where stored bytes must pass.
    return msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=kind)


def _value_in(annotation: Any, name: str, item: Any) -> Any:
    kinds: tuple[Any, ...] = get_args(annotation) or (annotation,)
    if name == "digest":
        return bytes.fromhex(item)
    if bytes in kinds:
        return _payload_in(item)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return _fields_in(kind, item)
    return item


_TEXT: Final = "$text"
_BASE64: Final = "$base64"


def _payload_out(data: bytes) -> Any:
    """JSON where writing and reading it gives the same bytes again, else marked text or base 64."""
    try:
        value = msgspec.json.decode(data)
        if msgspec.json.encode(value) == data and not _is_marked(value):
            return value
        return {_TEXT: data.decode()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {_BASE64: base64.b64encode(data).decode()}


def _payload_in(value: Any) -> bytes:
    if _is_marked(value):
        ((mark, text),) = value.items()
        return text.encode() if mark == _TEXT else base64.b64decode(text, validate=True)
    return msgspec.json.encode(value)


def _is_marked(value: Any) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and len(value) == 1 and (_TEXT in value or _BASE64 in value)  # pyright: ignore[reportUnknownArgumentType]  # whatever JSON holds


# -- the words of a story ---------------------------------------------------------------------------------------------


def started(workflow: AnyWorkflow, *args: object, **kwargs: object) -> ev.InstanceStarted:
    """An instance of `workflow` was started with these arguments."""
    data = workflow.arguments.dump(args, kwargs, f"the input of workflow {workflow.name!r}")
    return ev.InstanceStarted(workflow.name, workflow.version, data)


def scheduled(task: int, activity: AnyActivity | str, *args: object, **kwargs: object) -> ev.ActivityScheduled:
    """The workflow called an activity."""
    if isinstance(activity, str):
        name, options = activity, None
        data = converter.dump(args, "the arguments") if args else converter.EMPTY_ARGUMENTS
    else:
        name, options = activity.name, activity.stored_options
        data = activity.arguments.dump(args, kwargs, "the arguments")
    return ev.ActivityScheduled(task, name, data, converter.digest(data), options)


def queued(task: int) -> ev.ActivityQueued:
    """There was no place yet for the activity."""
    return ev.ActivityQueued(task)


def attempt_started(task: int, attempt: int) -> ev.ActivityStarted:
    """An attempt after the first began."""
    return ev.ActivityStarted(task, attempt)


def handed_over(task: int, *, attempt: int = 1) -> ev.ActivityHandedOver:
    """An attempt left its worker: whoever holds its token says what comes of it."""
    return ev.ActivityHandedOver(task, attempt)


def attempt_failed(task: int, error: BaseException, *, attempt: int = 1, retry_after: Duration = 1) -> Timed:
    """An attempt failed, and another follows."""
    delay_us = to_us(retry_after, "retry_after")
    return lambda at_us: ev.AttemptFailed(task, attempt, record(error), at_us + delay_us)


def completed(task: int, value: object = None, *, attempt: int = 1) -> ev.ActivityCompleted:
    """The activity returned `value`."""
    return ev.ActivityCompleted(task, converter.dump(value), attempt)


def failed(task: int, error: BaseException, *, attempts: int = 1) -> ev.ActivityFailed:
    """The last attempt of the activity failed."""
    return ev.ActivityFailed(task, record(error), attempts, attempts)


def timer_created(task: int, delay: Duration) -> Timed:
    """The workflow asked to be woken."""
    delay_us = to_us(delay, "delay")
    return lambda at_us: ev.TimerCreated(task, at_us + delay_us)


def timer_fired(task: int) -> ev.TimerFired:
    """The due time of a timer, or of a wait, has passed."""
    return ev.TimerFired(task)


def event_awaited(task: int, name: str, *, timeout: Duration | None = None) -> Timed:
    """The workflow waits for an external event."""
    timeout_us = None if timeout is None else to_us(timeout, "timeout")
    return lambda at_us: ev.EventAwaited(task, name.casefold(), 0 if timeout_us is None else at_us + timeout_us)


def event_received(name: str, payload: object = None, *, event_id: str | None = None) -> ev.EventReceived:
    """An external event came."""
    return ev.EventReceived(name, converter.dump(payload), event_id)


def side_effect(task: int, value: object) -> ev.SideEffectRecorded:
    """A side effect gave `value`."""
    return ev.SideEffectRecorded(task, converter.dump(value))


def custom_status(value: object) -> ev.CustomStatusSet:
    """The workflow showed `value` as its status."""
    return ev.CustomStatusSet(converter.dump(value))


def patch(name: str) -> ev.PatchRecorded:
    """The workflow asked whether it is patched, and it was."""
    return ev.PatchRecorded(name)


def task_cancelled(task: int) -> ev.TaskCancelled:
    """The workflow gave a task up."""
    return ev.TaskCancelled(task)


def cancel_requested(reason: str = "") -> ev.CancelRequested:
    """Somebody asked for the instance to be cancelled."""
    return ev.CancelRequested(reason)


def suspended(reason: str = "") -> ev.InstanceSuspended:
    """The instance was suspended."""
    return ev.InstanceSuspended(reason)


def resumed() -> ev.InstanceResumed:
    """The instance was resumed."""
    return ev.InstanceResumed()


def terminated(reason: str = "") -> ev.InstanceTerminated:
    """The instance was terminated."""
    return ev.InstanceTerminated(reason)


def instance_completed(value: object = None) -> ev.InstanceCompleted:
    """The workflow returned `value`."""
    return ev.InstanceCompleted(converter.dump(value))


def instance_failed(error: BaseException) -> ev.InstanceFailed:
    """The workflow raised `error`."""
    return ev.InstanceFailed(record(error))


def instance_cancelled(reason: str = "") -> ev.InstanceCancelled:
    """The workflow let the cancellation through."""
    return ev.InstanceCancelled(reason)
