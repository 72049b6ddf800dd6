"""Histories to go on from: a failed one from before its failure, any one as a copy from some event on.

Pure: from the rows of a round to the rows and messages that make it so. A history is never changed: what goes on is
written behind what is there, or under another id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from durableflow.core.describe import describe
from durableflow.core.others import derived_id
from durableflow.errors import UsageError
from durableflow.model import events as ev

Row = tuple[int, int, Sequence[ev.Event]]
"""`(first_seq, at_us, events)`."""

_ASKS = (ev.ActivityScheduled, ev.TimerCreated, ev.EventAwaited, ev.ChildScheduled, ev.MessageSent)


class Plan(NamedTuple):
    """How a history goes on.

    Attributes:
        rows: what it is followed by, or begins with.
        messages: what it is told then, in order.
        children: calls whose child is to be made to go on, too; or to be started, in a copy.
        sent: messages to others that a copy sends again.
        lost: what was done and will be forgotten, in words.
        waiting: calls whose child had not answered; if it has ended since, it has told nobody.
    """

    rows: list[Row]
    messages: list[ev.Observation]
    children: list[ev.ChildScheduled]
    sent: list[ev.MessageSent]
    lost: list[str]
    waiting: list[ev.ChildScheduled]


class _Attempt:
    """Where an activity stands, as far as rows were read."""

    def __init__(self, *, is_queued: bool) -> None:
        self.number = 1
        self.started = True
        self.is_queued = is_queued
        """It is to go into its queue again, wherever it stands."""


def rewind(instance_id: str, rows: Sequence[Row], seq: int | None, deadline_us: int | None) -> Plan:
    """From before event `seq`, by default from before the failure that ended it.

    Args:
        rows: of the latest round; the last one holds its end.
        deadline_us: the new one; None to leave it as it is.

    Raises:
        UsageError: there is nothing before `seq` in this round, or the deadline has ended it.
    """
    if isinstance(ev.end_of(rows[-1][2]), ev.InstanceTimedOut) and deadline_us is None:
        raise UsageError(
            f"instance {instance_id!r} failed because its timeout had passed, and would at once again; "
            "say how long it has now: rewind(..., timeout=timedelta(hours=1))"
        )
    first_seq, last_seq = rows[0][0], rows[-1][0] + len(rows[-1][2]) - 1
    cut = _failing_row(rows) if seq is None else _row_of(rows, seq)
    if cut is None:
        raise UsageError(
            f"instance {instance_id!r} has no event #{seq} that it could be rewound to; its latest round has "
            f"#{first_seq} to #{last_seq}; to go further back, fork or restart it"
        )
    if cut == 0:
        raise UsageError(
            f"instance {instance_id!r} cannot be rewound to before #{first_seq if seq is None else seq}: "
            "that is how it begins; restart it"
        )
    kept, dropped = list(rows[:cut]), rows[cut:]
    messages, children, waiting = _told_again(kept, dropped)
    lost = _lost(dropped)
    if deadline_us is not None:
        kept[0] = _with_deadline(kept[0], deadline_us)
    return Plan(kept, messages, children, [], lost, waiting)


def fork(rows: Sequence[Row], seq: int | None, origin: ev.Origin, version: int | None) -> Plan:
    """A copy up to event `seq`, by default up to the last turn but the one that ended it.

    Args:
        rows: of the round that holds `seq`.
        version: of the workflow that the copy goes on with.

    Raises:
        UsageError: not even the first turn is before `seq`.
    """
    last = rows[-1]
    if seq is None:
        until = len(rows) - (ev.end_of(last[2]) is not None)
    else:
        until = sum(first + len(events) - 1 <= seq for first, _, events in rows)
    if until == 0:
        first, _, events = rows[0]
        ends = first + len(events) - 1
        place = "its beginning" if seq is None else f"#{seq}, only at #{ends}"
        raise UsageError(
            f"the first turn there ends with #{ends}, so there is nothing to go on from at {place}; restart it instead"
        )
    kept = list(rows[:until])
    first_seq, at_us, events = kept[0]
    started = events[0]
    assert isinstance(started, ev.InstanceStarted)
    if (started.queue or started.debounced) and not any(isinstance(event, ev.InstanceBegan) for event in _all(kept)):
        raise UsageError("its code had not begun there, so there is nothing to go on from; start another instance")
    started = msgspec.structs.replace(started, origin=origin, version=version or started.version, deadline_us=0)
    kept[0] = (first_seq, at_us, [started, *events[1:]])
    base = first_seq - 1
    kept = [(first - base, at, events) for first, at, events in kept]
    attempts = _attempts(kept)
    messages: list[ev.Observation] = [
        ev.ActivityRetried(task, attempt.number) for task, attempt in attempts.items() if attempt.started
    ]
    return Plan(kept, messages, list(_open_children(kept).values()), list(_open_messages(kept).values()), [], [])


def _failing_row(rows: Sequence[Row]) -> int | None:
    """The earliest of the rows with failures that led to the end: those behind which the code asked for nothing."""
    found: int | None = None
    for index in range(len(rows) - 1, -1, -1):
        events = rows[index][2]
        asks = any(isinstance(event, _ASKS) for event in events)
        if asks and index < len(rows) - 1 and found is not None:
            break
        if any(isinstance(event, (ev.ActivityFailed, ev.ChildFailed)) for event in events):
            found = index
            if asks:
                break
    return len(rows) - 1 if found is None else found


def _row_of(rows: Sequence[Row], seq: int) -> int | None:
    for index, (first, _, events) in enumerate(rows):
        if first <= seq < first + len(events):
            return index
    return None


def _told_again(
    kept: Sequence[Row], dropped: Sequence[Row]
) -> tuple[list[ev.Observation], list[ev.ChildScheduled], list[ev.ChildScheduled]]:
    """What came from outside in `dropped`, and the answers to what `kept` asks for; failures are asked for again.

    Returns:
        That; calls of children that failed; calls of children that have not answered.
    """
    attempts, children, sent = _attempts(kept), _open_children(kept), _open_messages(kept)
    answered = {event.request_id for event in _all(dropped) if isinstance(event, ev.RequestAnswered)}
    messages: list[ev.Observation] = []
    again: list[ev.ChildScheduled] = []
    for event in _all(dropped):
        match event:
            case ev.EventReceived() | ev.StartChanged() | ev.InstanceBegan():
                messages.append(event)
            case ev.RequestReceived(request_id=request_id) if request_id not in answered:
                messages.append(event)
            case ev.ActivityCompleted(task=task, output=output) if task in attempts:
                messages.append(ev.ActivityCompleted(task, output, attempts.pop(task).number))
            case ev.ChildCompleted(task=task) if task in children:
                messages.append(event)
                del children[task]
            case ev.ChildFailed(task=task) if task in children:
                again.append(children.pop(task))
            case ev.MessageAnswered(task=task) if task in sent:
                messages.append(event)
                del sent[task]
            case _:
                pass
    # What failed, or was under way at the end, is made again; what was sent has been sent.
    messages += [ev.ActivityRetried(task, attempt.number) for task, attempt in attempts.items() if attempt.started]
    messages += [ev.MessageAnswered(task, "delivered") for task in sent]
    return messages, again, list(children.values())


def _all(rows: Iterable[Row]) -> Iterator[ev.Event]:
    return (event for _, _, events in rows for event in events)


def _attempts(rows: Iterable[Row]) -> dict[int, _Attempt]:
    """Activities without a result."""
    open_: dict[int, _Attempt] = {}
    for event in _all(rows):
        match event:
            case ev.ActivityScheduled(task=task, options=options):
                open_[task] = _Attempt(is_queued=options is not None and bool(options.queue))
            case ev.ActivityQueued(task=task) if task in open_:
                open_[task].started = False
            case ev.ActivityStarted(task=task) if task in open_:
                open_[task].started = True
            case ev.AttemptFailed(task=task) | ev.ActivityRetried(task=task) if task in open_:
                attempt = open_[task]
                is_new = attempt.is_queued and isinstance(event, ev.ActivityRetried)
                attempt.number = 1 if is_new else attempt.number + 1
                attempt.started = attempt.is_queued
            case ev.ActivityCompleted(task=task) | ev.ActivityFailed(task=task) | ev.TaskCancelled(task=task):
                open_.pop(task, None)
            case _:
                pass
    return open_


def _open_children(rows: Iterable[Row]) -> dict[int, ev.ChildScheduled]:
    """Calls of children without a result."""
    open_: dict[int, ev.ChildScheduled] = {}
    for event in _all(rows):
        match event:
            case ev.ChildScheduled(task=task):
                open_[task] = event
            case ev.ChildCompleted(task=task) | ev.ChildFailed(task=task) | ev.TaskCancelled(task=task):
                open_.pop(task, None)
            case _:
                pass
    return open_


def _open_messages(rows: Iterable[Row]) -> dict[int, ev.MessageSent]:
    """Messages of which is not known what became of them."""
    open_: dict[int, ev.MessageSent] = {}
    for event in _all(rows):
        match event:
            case ev.MessageSent(task=task):
                open_[task] = event
            case ev.MessageAnswered(task=task) | ev.TaskCancelled(task=task):
                open_.pop(task, None)
            case _:
                pass
    return open_


def custom_status_of(rows: Sequence[Row]) -> bytes | None:
    """What the workflow had said of itself at the end of these rows of a round."""
    said: bytes | None = None
    for event in _all(rows):
        if isinstance(event, ev.CustomStatusSet):
            said = event.value
        elif isinstance(event, ev.InstanceStarted) and event.round is not None:
            said = event.round.custom_status
    return said


def child_id_of(parent_id: str, call: ev.ChildScheduled) -> str:
    """The id of the child of a call."""
    return call.child_id or derived_id(parent_id, call.task)


def _lost(dropped: Sequence[Row]) -> list[str]:
    """What the code asked for in `dropped` and got: it will be forgotten, not undone."""
    asked = (ev.ActivityScheduled, ev.ChildScheduled, ev.MessageSent)
    known = {event.task: describe(event) for event in _all(dropped) if isinstance(event, asked)}
    done = (ev.ActivityCompleted, ev.ChildCompleted, ev.MessageAnswered)
    return [known[event.task] for event in _all(dropped) if isinstance(event, done) and event.task in known]


def _with_deadline(row: Row, deadline_us: int) -> Row:
    first_seq, at_us, events = row
    started = events[0]
    assert isinstance(started, ev.InstanceStarted)
    return first_seq, at_us, [msgspec.structs.replace(started, deadline_us=deadline_us), *events[1:]]
