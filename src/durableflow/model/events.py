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
from durableflow.model.retry import StoredRetry

FORMAT: Final = 2
"""Version of the meaning of histories, recorded in each first event.

1. The first.
2. A wait for an external event that a cancellation interrupts gives up its place in line.
"""


COMPENSATION: Final = "compensation"
"""Role of an activity that a saga called to undo something."""


class ActivityOptions(msgspec.Struct, frozen=True, array_like=True):
    """What an activity call was asked to obey; times in microseconds, 0 for none.

    With a `queue`, any worker that serves it takes the attempts; `priority` and `fairness_key` say when.
    `role` is for those who look: what the call is for, when that is something particular.
    """

    retry: StoredRetry | None = None
    schedule_to_start_us: int = 0
    start_to_close_us: int = 0
    schedule_to_close_us: int = 0
    heartbeat_us: int = 0
    queue: str = ""
    priority: int = 0
    fairness_key: str = ""
    role: str = ""


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Where an instance comes from, when it was not simply started.

    Attributes:
        parent_id, parent_task: the instance whose child it is, and the number of the call there.
        forked_from, forked_at: the instance of which it is a copy up to that event.
        seed: what its dice are seeded with; empty for its own id.
    """

    parent_id: str = ""
    parent_task: int = 0
    forked_from: str = ""
    forked_at: int = 0
    seed: str = ""


class KeptEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An external event that nobody had waited for when a round ended; `name` is casefolded."""

    name: str
    payload: bytes


class KeptRequest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request that no handler had taken when a round ended."""

    request_id: str
    name: str
    arguments: bytes


class Round(msgspec.Struct, frozen=True, array_like=True):
    """What a later round of an instance begins with: replay needs nothing from before it.

    Attributes:
        number: 1 for the first that follows the beginning.
        tasks: how many task numbers earlier rounds have used; they are never used again.
        kept: external events that wait for a waiter, in order.
        event_ids: of the latest events, so that a repeated one is not delivered again.
        requests: requests that wait for a handler, in order.
        request_ids: of the latest requests.
        state: what was passed to `checkpoint`; None after `continue_as_new`.
        patches: after a checkpoint, the patches that this instance takes the new way at.
        unpatched: after a checkpoint, those that it had passed before they were made.
        custom_status: what the workflow last said of itself.
        in_queue: whether it may have a place in a queue, or activities in one.
        cancel_requested: after a checkpoint, whether its code had been told of a cancellation.
    """

    number: int
    tasks: int
    kept: tuple[KeptEvent, ...] = ()
    event_ids: tuple[str, ...] = ()
    requests: tuple[KeptRequest, ...] = ()
    request_ids: tuple[str, ...] = ()
    state: bytes | None = None
    patches: tuple[str, ...] = ()
    unpatched: tuple[str, ...] = ()
    custom_status: bytes | None = None
    cancel_requested: bool = False
    in_queue: bool = False


class ChildOptions(msgspec.Struct, frozen=True, array_like=True):
    """How a child is started, and what becomes of it when its parent ends; times in microseconds, 0 for none.

    Attributes:
        parent_close: `"terminate"`, `"cancel"` or `"abandon"`.
        replace: whether one of the same id that is over goes first.
    """

    parent_close: str = "terminate"
    timeout_us: int = 0
    start_delay_us: int = 0
    tags: dict[str, str] = {}
    replace: bool = False


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
"""The events that end an instance; one of them is the last of a finished history."""

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
    return _DECODER.decode(data)


def dump_event(event: Event) -> bytes:
    """The bytes of one event alone, as messages hold it."""
    return _ENCODER.encode(event)


def load_event(data: bytes) -> Event:
    """One event from its bytes; raises `msgspec.DecodeError` as `load_events` does."""
    return _ONE_DECODER.decode(data)


def tag_of(event: Event) -> str:
    """The stable name of the event's kind, such as `"activity_completed"`."""
    tag = type(event).__struct_config__.tag
    assert isinstance(tag, str)
    return tag
