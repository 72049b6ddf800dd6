"""Histories in tests: written as a story, saved as a file, replayed without any store.

A file holds one history as JSON lines: a first line that says what it is, then one line for each event,
with what it carries as plain JSON. Reading it gives back every byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec

from durableflow.authoring.registry import DEFAULT, AnyWorkflow
from durableflow.core.execution import Execution
from durableflow.core.lines import UNREADABLE, entry_of, line_of, turns_of
from durableflow.core.view import HistoryEvent, numbered
from durableflow.errors import CorruptHistory, NondeterminismError, ReplayError, UsageError
from durableflow.model import events as ev
from durableflow.model.converter import PAYLOAD_LIMIT_BYTES
from durableflow.model.duration import Duration, from_datetime, to_us
from durableflow.model.status import Status
from durableflow.runtime.exports import arrivals_in
from durableflow.testing.words import (
    Timed,
    activity_retried,
    attempt_failed,
    attempt_started,
    cancel_requested,
    checkpoint_taken,
    child_called,
    child_completed,
    child_failed,
    completed,
    continued_as_new,
    custom_status,
    event_awaited,
    event_received,
    failed,
    handed_over,
    instance_cancelled,
    instance_completed,
    instance_failed,
    message_answered,
    message_sent,
    patch,
    queued,
    request_answered,
    request_received,
    resumed,
    rewound,
    scheduled,
    side_effect,
    start_changed,
    started,
    suspended,
    task_cancelled,
    terminated,
    timer_created,
    timer_fired,
)

__all__ = [
    "FILE_FORMAT",
    "START",
    "History",
    "ReplayReport",
    "Row",
    "Timed",
    "activity_retried",
    "attempt_failed",
    "attempt_started",
    "cancel_requested",
    "checkpoint_taken",
    "child_called",
    "child_completed",
    "child_failed",
    "completed",
    "continued_as_new",
    "custom_status",
    "event_awaited",
    "event_received",
    "failed",
    "handed_over",
    "instance_cancelled",
    "instance_completed",
    "instance_failed",
    "load_histories",
    "load_history",
    "message_answered",
    "message_sent",
    "patch",
    "queued",
    "replay",
    "replay_directory",
    "request_answered",
    "request_received",
    "resumed",
    "rewound",
    "save_history",
    "scheduled",
    "side_effect",
    "start_changed",
    "started",
    "suspended",
    "task_cancelled",
    "terminated",
    "timer_created",
    "timer_fired",
]

FILE_FORMAT: Final = 1
START: Final = datetime(2030, 1, 1, tzinfo=UTC)

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
        rows = turns_of(instance_id, events)
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

    def next_round(self, *events: ev.Event | Timed, **left: Any) -> Self:
        """Add the row with which the round begins that the last row asked for, and these events of it.

        Args:
            left: fields of `Round` that tell what the round before has left, such as `kept`.
        """
        last, started = self.rows[-1], self.rounds[-1][0].events[0]
        asked = next((e for e in last.events if isinstance(e, (ev.CheckpointTaken, ev.ContinuedAsNew))), None)
        if asked is None or not isinstance(started, ev.InstanceStarted):
            raise UsageError("no round begins here: the last turn holds neither a checkpoint nor a beginning anew")
        state = asked.state if isinstance(asked, ev.CheckpointTaken) else None
        number = 1 if started.round is None else started.round.number + 1
        tasks = max((getattr(entry.event, "task", 0) for entry in self.events), default=0)
        following = msgspec.structs.replace(
            started,
            version=(asked.version if isinstance(asked, ev.ContinuedAsNew) else 0) or started.version,
            input=asked.input if isinstance(asked, ev.ContinuedAsNew) else started.input,
            start_at_us=0,
            round=msgspec.structs.replace(ev.Round(number, tasks, state=state), **_tuples(left)),
        )
        return self.turn(following, *events)

    @property
    def rounds(self) -> list[list[Row]]:
        """Its turns, round by round; one begins with `continue_as_new`, a checkpoint, or a rewind.

        Each is replayed by itself. That a rewind was made is no turn of any.
        """
        found: list[list[Row]] = [[]]
        for row in self.rows:
            if found[-1] and row.events and isinstance(row.events[0], ev.InstanceStarted):
                found.append([])
            if not (row.events and isinstance(row.events[0], ev.InstanceRewound)):
                found[-1].append(row)
        return found

    def until(self, turns: int) -> History:
        """Its first turns."""
        return History(self.instance_id, self.rows[:turns])

    def save(self, path: str | Path) -> None:
        """See `save_history`."""
        save_history(path, self)


# -- replay -----------------------------------------------------------------------------------------------------------


class ReplayReport(msgspec.Struct, frozen=True):
    """A history that today's code followed from its first event to its last.

    Of a history with several rounds it tells of those that were followed.

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


def replay(
    workflow: AnyWorkflow | None,
    history: History | str | Path,
    *,
    every_prefix: bool = False,
    every_round: bool = False,
) -> ReplayReport:
    """Follow a history with today's code, without any store: nothing is called but the workflow itself.

    Of an instance that began anew, took a checkpoint or was rewound, the latest round is followed, as an engine does.

    Args:
        workflow: the code; None takes what is registered under the name that the history says.
        history: itself, or the path of a file that holds it.
        every_prefix: also begin anew for each turn and end with it, as a crash after it would.
        every_round: also follow the rounds before, which no engine needs any more, each by itself.

    Raises:
        NondeterminismError: the code asks for something else than is recorded; the message says where.
        CorruptHistory: it is no history that can be read, or one of another version of the workflow.
        UsageError: it is another workflow's.
    """
    path = None if isinstance(history, History) else Path(history)
    story = history if isinstance(history, History) else load_history(history)
    name = story.started.workflow
    turns = events = decisions = 0
    status = Status.PENDING
    for rows in story.rounds if every_round else story.rounds[-1:]:
        program = _program(workflow, History(story.instance_id, rows).started)
        for until in range(1 if every_prefix else len(rows), len(rows) + 1):
            status = _follow(program, story.instance_id, rows[:until])
        turns += len(rows)
        events += sum(len(row.events) for row in rows)
        decisions += sum(type(event) in ev.DECISIONS for row in rows for event in row.events)
    return ReplayReport(story.instance_id, name, status, turns, events, decisions, path)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    made = dict(fields)
    for name, item in fields.items():
        if isinstance(item, list):
            made[name] = tuple(item)  # pyright: ignore[reportUnknownArgumentType]  # of anything
    return made


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


def _follow(program: AnyWorkflow, instance_id: str, rows: Sequence[Row]) -> Status:
    """Follow them under no limit of payloads, or else under the usual one: a history does not say which there was."""
    try:
        return _follow_within(program, instance_id, rows, _NO_LIMIT_BYTES)
    except NondeterminismError:
        with suppress(ReplayError):
            return _follow_within(program, instance_id, rows, PAYLOAD_LIMIT_BYTES)
        raise


def _follow_within(program: AnyWorkflow, instance_id: str, rows: Sequence[Row], payload_limit_bytes: int) -> Status:
    execution = Execution(instance_id, program, payload_limit_bytes=payload_limit_bytes)
    execution.next_seq = rows[0].first_seq
    try:
        for row in rows:
            execution.replay(row.first_seq, row.at_us, row.events)
        return execution.status
    finally:
        execution.put_away()


def replay_directory(path: str | Path, *workflows: AnyWorkflow) -> list[ReplayReport]:
    """Replay every `*.jsonl` file under a directory, saved histories and exports.

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
            histories = load_histories(each)
        except Exception as error:
            error.add_note(f"in {each}")
            errors.append(error)
            continue
        for history in histories:
            try:
                latest = History(history.instance_id, history.rounds[-1])
                report = replay(_chosen(workflows, latest.started), history)
            except Exception as error:
                error.add_note(f"in {each}")
                errors.append(error)
            else:
                reports.append(msgspec.structs.replace(report, path=each))
    if errors:
        count = len(errors) + len(reports)
        raise ExceptionGroup(f"{len(errors)} of {count} histories under {str(path)!r} do not replay", errors)
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
    lines = [head, *(line_of(entry) for entry in history.events)]
    Path(path).write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def load_history(path: str | Path) -> History:
    """Read what `save_history` wrote, or the export of one instance.

    Raises:
        CorruptHistory: it is not such a file, or this version does not know all that is in it; nothing is skipped.
    """
    found = load_histories(path)
    if len(found) != 1:
        raise CorruptHistory(f"{path} holds {len(found)} histories, not one; use load_histories")
    return found[0]


def load_histories(path: str | Path) -> list[History]:
    """Read all histories of a file: the one that `save_history` wrote, or those of an export.

    Of an export, instances that have no history yet are left out.

    Raises:
        CorruptHistory: as `load_history` does.
    """
    lines = Path(path).read_bytes().splitlines()
    if _decode(path, 1, lines[0] if lines else b"").get("durableflow_export") is None:
        return [_load_saved(path, lines)]
    return [
        History(arrival.record.id, [Row(row.first_seq, row.at_us, ev.load_events(row.events)) for row in arrival.rows])
        for arrival in arrivals_in(lines, str(path))
        if arrival.rows
    ]


def _load_saved(path: str | Path, lines: Sequence[bytes]) -> History:
    head = _decode(path, 1, lines[0])
    if head.get("durableflow_history") != FILE_FORMAT or not isinstance(head.get("instance_id"), str):
        raise CorruptHistory(f"{path}, line 1: this is not the beginning of a saved history of format {FILE_FORMAT}")
    entries: list[HistoryEvent] = []
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            fields = _decode(path, number, line)
            try:
                entries.append(entry_of(fields))
            except UNREADABLE as error:
                raise CorruptHistory(f"{path}, line {number}: this is no event: {error!r}") from error
    return History.of(head["instance_id"], entries)


def _decode(path: str | Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except UNREADABLE as error:
        raise CorruptHistory(f"{path}, line {number}: this is not a line of a saved history: {error}") from error
