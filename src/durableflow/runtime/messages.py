"""What comes and goes by the inbox: events as messages, and what they mean when they are read back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeGuard

import msgspec

from durableflow.backends.base import HistoryRow, Message, NewInstance, Outgoing, SendResult
from durableflow.core.turn import PendingActivity, Send
from durableflow.errors import CorruptHistory, InstanceNotActive, InstanceNotFound
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.model.status import Status

Answer = ev.ActivityCompleted | ev.ActivityFailed | ev.AttemptFailed | ev.ActivityRetried
"""What is to be said of an attempt: by itself, or that others are wanted instead."""

Word = Answer | ev.ActivityHandedOver
"""The same, or that it has left its worker."""

FROM_OUTSIDE: Final = frozenset(
    {
        ev.InstanceStarted,
        ev.InstanceBegan,
        ev.EventReceived,
        ev.RequestReceived,
        ev.ChildCompleted,
        ev.ChildFailed,
        ev.MessageAnswered,
        ev.CancelRequested,
        ev.InstanceSuspended,
        ev.InstanceResumed,
        ev.InstanceTerminated,
        ev.StartChanged,
    }
)
"""What clients and other instances send, and the queue that admits an instance."""

_INTERRUPTED: Final = Failure("Interrupted", "the engine took this attempt away; it does not count")


def is_answer(event: ev.Event) -> TypeGuard[Answer]:
    """True for what is to be said of an attempt."""
    return isinstance(event, (ev.ActivityCompleted, ev.ActivityFailed, ev.AttemptFailed, ev.ActivityRetried))


LOOK_AGAIN: Final = ev.ActivityRetried(0, 0)
"""Says nothing to an instance, but makes the worker look at it: there is no activity of this number."""


def is_word(event: ev.Event) -> TypeGuard[Word]:
    """True for what an attempt has to say, or that it has left its worker."""
    return type(event) is ev.ActivityHandedOver or is_answer(event)


def interrupted(activities: Iterable[PendingActivity], now_us: int) -> list[Answer]:
    """What is recorded of current attempts that the engine itself took away: they are made again and do not count."""
    return [
        ev.AttemptFailed(a.task, a.attempt, _INTERRUPTED, now_us, counts=False, details=a.details) for a in activities
    ]


def outgoing(instance_id: str, event: ev.Observation, new: NewInstance | None = None) -> Outgoing:
    """`event` as a message to an instance."""
    event_id = event.event_id if isinstance(event, ev.EventReceived) else None
    return Outgoing(instance_id, ev.dump_event(event), new, event_id)


def sent_by(sender: str, send: Send, now_us: int) -> Outgoing:
    """What an instance sends, as a message that leaves with its turn."""
    task, birth = send.task, send.birth
    data = ev.dump_event(send.message)
    if birth is not None:
        options = birth.options or ev.ChildOptions()
        new = NewInstance(
            send.instance_id,
            birth.workflow,
            birth.version,
            Status.PENDING,
            now_us,
            0,
            options.tags,
            replace=options.replace,
            parent=sender,
        )
        taken = f"instance {send.instance_id!r} exists already; give the child another id, or none"
        refused = ev.dump_event(ev.ChildFailed(task, Failure("InstanceExists", taken)))
        return Outgoing(send.instance_id, data, new, None, sender, {"exists": refused})
    event_id = send.message.event_id if isinstance(send.message, ev.EventReceived) else None
    answers = (
        {outcome: ev.dump_event(ev.MessageAnswered(task, outcome)) for outcome in ("delivered", "missing", "over")}
        if task
        else {}
    )
    return Outgoing(send.instance_id, data, None, event_id, sender, answers)


def check_sent(instance_id: str, result: SendResult, asked: str) -> None:
    """Say why a message for an instance was not written.

    Raises:
        InstanceNotFound, InstanceNotActive: nothing was written.
    """
    if result.outcome == "missing":
        raise InstanceNotFound(instance_id)
    if result.outcome == "over" and result.record is not None:
        raise InstanceNotActive(instance_id, result.record.status, asked)


def event_in(message: Message) -> ev.Event:
    """The event that a message is.

    Raises:
        CorruptHistory: it cannot be read.
    """
    try:
        return ev.load_event(message.data)
    except msgspec.DecodeError as error:
        raise CorruptHistory(f"message {message.number} in its inbox cannot be read: {error}") from error


def is_termination(message: Message) -> bool:
    """True when it can be read and orders the end."""
    try:
        return type(event_in(message)) is ev.InstanceTerminated
    except CorruptHistory:
        return False


def events_of(row: HistoryRow) -> list[ev.Event]:
    """The events of a stored turn.

    Raises:
        CorruptHistory: it cannot be read.
    """
    try:
        return ev.load_events(row.events)
    except msgspec.DecodeError as error:
        raise CorruptHistory(
            f"the history row at #{row.first_seq} of {row.instance_id!r} cannot be read: {error}"
        ) from error


def time_after(rows: Sequence[HistoryRow], now_us: int) -> int:
    """Not before the last of them; one whose time cannot be read does not count."""
    try:
        return max([now_us, *(row.at_us for row in rows[-1:])])
    except TypeError:
        return now_us


def seq_after(rows: Sequence[HistoryRow]) -> int:
    """The number of the next event; behind a row that cannot be read, just one that is free."""
    if not rows:
        return 1
    try:
        return rows[-1].first_seq + len(events_of(rows[-1]))
    except CorruptHistory:
        return rows[-1].first_seq + 1
