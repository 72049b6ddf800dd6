"""The events: every fact that a history can hold, and the bytes they become.

Rules for whoever changes this file:

1. Tags and the order of fields are stored. A tag is never renamed nor used again.
2. A new field goes last and has a default. An old field stays.
3. A change of meaning raises `FORMAT`, which every history records in its first event.

Three kinds. A *decision* is what the workflow asked for; replay must ask for it
again, in this order. An *observation* came in from outside. A *note* is the
engine's own book-keeping and is never shown to workflow code. Decisions that may
be answered carry a `task` number, counted from 1 by the workflow's own asking;
nothing that the engine needs for itself takes one.

A history row holds one turn: `[observations..., decisions..., notes...]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from durableflow.model.failure import Failure
from durableflow.model.options import COMPENSATION, ActivityOptions, ChildOptions
from durableflow.model.round import KeptEvent, KeptRequest, Origin, Round

__all__ = [
    "COMPENSATION", "DECISIONS", "ENDS", "FORMAT", "NOTES", "ActivityCompleted", "ActivityFailed", "ActivityHandedOver",
    "ActivityOptions", "ActivityQueued", "ActivityRetried", "ActivityScheduled", "ActivityStarted", "AttemptFailed",
    "CancelRequested", "CheckpointTaken", "ChildCompleted", "ChildFailed", "ChildOptions", "ChildScheduled",
    "ContinuedAsNew", "CustomStatusSet", "Decision", "Event", "EventAwaited", "EventReceived", "InstanceBegan",
    "InstanceCancelled", "InstanceCompleted", "InstanceFailed", "InstanceResumed", "InstanceRewound", "InstanceStarted",
    "InstanceSuspended", "InstanceTerminated", "InstanceTimedOut", "KeptEvent", "KeptRequest", "MessageAnswered",
    "MessageSent", "Note", "Observation", "Origin", "PatchRecorded", "RequestAnswered", "RequestReceived", "Round",
    "SideEffectRecorded", "StartChanged", "TaskCancelled", "TimerCreated", "TimerFired", "dump_event", "dump_events",
    "end_of", "load_event", "load_events", "tag_of",
]  # fmt: skip

FORMAT: Final = 2
"""Version of the meaning of histories, recorded in each first event.

1. The first.
2. A wait for an external event that a cancellation interrupts gives up its place in line.
"""


# -- observations ---------------------------------------------------------------------------------------------


class InstanceStarted(msgspec.Struct, frozen=True, array_like=True, tag="instance_started"):
    """First event of every history, and of each later round of it.

    `start_at_us` is 0, or the moment before which the code must not begin;
    `deadline_us` is 0, or the moment at which the instance fails. With a `queue`, the code
    does not begin before that queue admits the instance. One that is `debounced` does
    not begin before it is told so, also when its moment has come: its input may yet be replaced.
    """

    workflow: str
    version: int
    input: bytes
    format: int = FORMAT
    start_at_us: int = 0
    deadline_us: int = 0
    origin: Origin | None = None
    round: Round | None = None
    queue: str = ""
    debounced: bool = False


class InstanceBegan(msgspec.Struct, frozen=True, array_like=True, tag="instance_began", gc=False):
    """The start time of a delayed instance has come, or its queue has admitted it."""


class ActivityStarted(msgspec.Struct, frozen=True, array_like=True, tag="activity_started", gc=False):
    """Attempt `attempt` may run from this commit on."""

    task: int
    attempt: int


class AttemptFailed(msgspec.Struct, frozen=True, array_like=True, tag="attempt_failed"):
    """An attempt failed and another follows, not before `retry_at_us`.

    `counts` is false when it was the engine that took the attempt away (a graceful
    stop), which the retry policy does not count. `details` is the last heartbeat's.
    """

    task: int
    attempt: int
    failure: Failure
    retry_at_us: int
    counts: bool = True
    details: bytes | None = None


class ActivityHandedOver(msgspec.Struct, frozen=True, array_like=True, tag="activity_handed_over", gc=False):
    """Attempt `attempt` has left its worker: whoever holds its token says what comes of it."""

    task: int
    attempt: int


class ActivityCompleted(msgspec.Struct, frozen=True, array_like=True, tag="activity_completed", gc=False):
    """The result of an activity; final."""

    task: int
    output: bytes
    attempt: int = 1


WHATEVER_ATTEMPT: Final = 0
"""Stands in `ActivityFailed` where nobody can say any more at which attempt an activity was."""


class ActivityFailed(msgspec.Struct, frozen=True, array_like=True, tag="activity_failed"):
    """The last attempt of an activity failed; final."""

    task: int
    failure: Failure
    attempts: int
    attempt: int


class ActivityRetried(msgspec.Struct, frozen=True, array_like=True, tag="activity_retried", gc=False):
    """Somebody wants attempt `attempt`, which failed or is gone, to be followed by others, counted from the start."""

    task: int
    attempt: int


class ChildCompleted(msgspec.Struct, frozen=True, array_like=True, tag="child_completed", gc=False):
    """What a child returned; final."""

    task: int
    output: bytes


class ChildFailed(msgspec.Struct, frozen=True, array_like=True, tag="child_failed"):
    """A child ended otherwise, as `status` says, or could not be started (`""`); final."""

    task: int
    failure: Failure
    status: str = ""


class MessageAnswered(msgspec.Struct, frozen=True, array_like=True, tag="message_answered", gc=False):
    """What became of a message to another instance: `"delivered"`, `"missing"` or `"over"`."""

    task: int
    outcome: str


class TimerFired(msgspec.Struct, frozen=True, array_like=True, tag="timer_fired", gc=False):
    """The due time of a timer, or of a wait for an event, has passed."""

    task: int


class EventReceived(msgspec.Struct, frozen=True, array_like=True, tag="event_received", gc=False):
    """An external event; goes to the oldest waiter of this name, or is kept."""

    name: str
    payload: bytes
    event_id: str | None = None


class RequestReceived(msgspec.Struct, frozen=True, array_like=True, tag="request_received", gc=False):
    """A message that wants an answer; kept until the workflow has a handler for `name`."""

    request_id: str
    name: str
    arguments: bytes


class CancelRequested(msgspec.Struct, frozen=True, array_like=True, tag="cancel_requested", gc=False):
    """Somebody asked for the instance to be cancelled."""

    reason: str = ""


class InstanceSuspended(msgspec.Struct, frozen=True, array_like=True, tag="instance_suspended", gc=False):
    """From here on nothing is delivered."""

    reason: str = ""


class InstanceResumed(msgspec.Struct, frozen=True, array_like=True, tag="instance_resumed", gc=False):
    """What was held back is delivered, in order."""


class InstanceTerminated(msgspec.Struct, frozen=True, array_like=True, tag="instance_terminated", gc=False):
    """Over, at once; no user code runs after it."""

    reason: str = ""


class InstanceTimedOut(msgspec.Struct, frozen=True, array_like=True, tag="instance_timed_out", gc=False):
    """The deadline of the instance has passed: it fails, at once."""


class StartChanged(msgspec.Struct, frozen=True, array_like=True, tag="start_changed", gc=False):
    """Of a debounced instance that has not begun: the input of the latest start, which is the one that counts."""

    input: bytes
    deadline_us: int = 0


# -- decisions ------------------------------------------------------------------------------------------------


class ActivityScheduled(msgspec.Struct, frozen=True, array_like=True, tag="activity_scheduled"):
    """The workflow called an activity. `digest` is of `input`, as `converter.digest` makes it."""

    task: int
    name: str
    input: bytes
    digest: bytes
    options: ActivityOptions | None = None


class TimerCreated(msgspec.Struct, frozen=True, array_like=True, tag="timer_created", gc=False):
    """The workflow asked to be woken at `due_us`."""

    task: int
    due_us: int


class EventAwaited(msgspec.Struct, frozen=True, array_like=True, tag="event_awaited", gc=False):
    """The workflow waits for an event of this name (casefolded); `due_us` 0 means for ever."""

    task: int
    name: str
    due_us: int = 0


class ChildScheduled(msgspec.Struct, frozen=True, array_like=True, tag="child_scheduled"):
    """The workflow called another. `child_id` is empty when it is made of the parent's id and `task`."""

    task: int
    workflow: str
    version: int
    input: bytes
    digest: bytes
    child_id: str = ""
    options: ChildOptions | None = None


class MessageSent(msgspec.Struct, frozen=True, array_like=True, tag="message_sent", gc=False):
    """The workflow sent `message` (an observation, as `dump_event` makes it) to another instance."""

    task: int
    instance_id: str
    message: bytes


class RequestAnswered(msgspec.Struct, frozen=True, array_like=True, tag="request_answered"):
    """The answer of a handler, or the failure that it raised; final."""

    request_id: str
    output: bytes
    failure: Failure | None = None


class CheckpointTaken(msgspec.Struct, frozen=True, array_like=True, tag="checkpoint_taken", gc=False):
    """The workflow declared that it can begin again with `state`; the next row begins a round."""

    state: bytes


class ContinuedAsNew(msgspec.Struct, frozen=True, array_like=True, tag="continued_as_new", gc=False):
    """The workflow begins anew with another input; the next row begins a round. `version` is 0 for the same."""

    input: bytes
    version: int = 0


class TaskCancelled(msgspec.Struct, frozen=True, array_like=True, tag="task_cancelled", gc=False):
    """The workflow no longer wants the answer to `task`."""

    task: int


class SideEffectRecorded(msgspec.Struct, frozen=True, array_like=True, tag="side_effect_recorded"):
    """The value that `side_effect` gave, or the failure that it raised; used for ever."""

    task: int
    value: bytes
    failure: Failure | None = None


class CustomStatusSet(msgspec.Struct, frozen=True, array_like=True, tag="custom_status_set", gc=False):
    """What the workflow says of itself to whoever looks."""

    value: bytes


class PatchRecorded(msgspec.Struct, frozen=True, array_like=True, tag="patch_recorded", gc=False):
    """The workflow asked for the first time whether it is patched, and it was: it takes the new way ever after.

    Unlike all other decisions it need not be asked for again: a patch is taken out of the code by leaving it out.
    """

    name: str


class InstanceCompleted(msgspec.Struct, frozen=True, array_like=True, tag="instance_completed", gc=False):
    """The workflow returned."""

    output: bytes


class InstanceFailed(msgspec.Struct, frozen=True, array_like=True, tag="instance_failed"):
    """The workflow raised."""

    failure: Failure


class InstanceCancelled(msgspec.Struct, frozen=True, array_like=True, tag="instance_cancelled", gc=False):
    """The workflow let the cancellation through."""

    reason: str = ""


# -- notes ----------------------------------------------------------------------------------------------------


class ActivityQueued(msgspec.Struct, frozen=True, array_like=True, tag="activity_queued", gc=False):
    """No room yet: unlike what `ActivityScheduled` alone means, attempt 1 does not run from this commit on."""

    task: int


class InstanceRewound(msgspec.Struct, frozen=True, array_like=True, tag="instance_rewound", gc=False):
    """The end before this does not count: the next rows are those before #`seq` again, and it goes on from there."""

    seq: int
    reason: str = ""


Observation: TypeAlias = (
    InstanceStarted
    | InstanceBegan
    | ActivityStarted
    | ActivityHandedOver
    | AttemptFailed
    | ActivityCompleted
    | ActivityFailed
    | ActivityRetried
    | ChildCompleted
    | ChildFailed
    | MessageAnswered
    | TimerFired
    | EventReceived
    | RequestReceived
    | CancelRequested
    | InstanceSuspended
    | InstanceResumed
    | InstanceTerminated
    | InstanceTimedOut
    | StartChanged
)
Decision: TypeAlias = (
    ActivityScheduled
    | TimerCreated
    | EventAwaited
    | ChildScheduled
    | MessageSent
    | RequestAnswered
    | CheckpointTaken
    | ContinuedAsNew
    | TaskCancelled
    | SideEffectRecorded
    | CustomStatusSet
    | PatchRecorded
    | InstanceCompleted
    | InstanceFailed
    | InstanceCancelled
)
Note: TypeAlias = ActivityQueued | InstanceRewound
Event: TypeAlias = Observation | Decision | Note

DECISIONS: Final[frozenset[type]] = frozenset(
    {
        ActivityScheduled,
        TimerCreated,
        EventAwaited,
        ChildScheduled,
        MessageSent,
        RequestAnswered,
        CheckpointTaken,
        ContinuedAsNew,
        TaskCancelled,
        SideEffectRecorded,
        CustomStatusSet,
        PatchRecorded,
        InstanceCompleted,
        InstanceFailed,
        InstanceCancelled,
    }
)
NOTES: Final[frozenset[type]] = frozenset({ActivityQueued, InstanceRewound})
ENDS: Final[frozenset[type]] = frozenset(
    {InstanceCompleted, InstanceFailed, InstanceCancelled, InstanceTerminated, InstanceTimedOut}
)
"""The events that end an instance; one of them is in the last row of a finished history, as `end_of` says."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[Event])
_ONE_DECODER: Final[msgspec.msgpack.Decoder[Event]] = msgspec.msgpack.Decoder(Event)


def dump_events(events: Sequence[Event]) -> bytes:
    """The bytes of one history row."""
    return _ENCODER.encode(events)


def load_events(data: bytes) -> list[Event]:
    """The events of one history row.

    Raises:
        msgspec.DecodeError: the bytes are not a row that this version knows; nothing is ever skipped.
    """
    try:
        return _DECODER.decode(data)
    except TypeError as error:  # no bytes: a SQLite file holds whatever somebody has put there
        raise msgspec.DecodeError(str(error)) from error


def dump_event(event: Event) -> bytes:
    """The bytes of one event alone, as messages hold it."""
    return _ENCODER.encode(event)


def end_of(row: Sequence[Event]) -> Event | None:
    """The event of a row that ends the instance, if one does.

    It need not be the last: what came in before a termination, in the same turn, may have caused decisions, and in a
    row they stand behind all that came in.
    """
    return next((event for event in reversed(row) if type(event) in ENDS), None)


def load_event(data: bytes) -> Event:
    """One event from its bytes; raises `msgspec.DecodeError` as `load_events` does."""
    try:
        return _ONE_DECODER.decode(data)
    except TypeError as error:  # as above
        raise msgspec.DecodeError(str(error)) from error


def tag_of(event: Event) -> str:
    """The stable name of the event's kind, such as `"activity_completed"`."""
    tag = type(event).__struct_config__.tag
    assert isinstance(tag, str)
    return tag
