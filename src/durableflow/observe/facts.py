"""The facts. A listener is called on the engine's loop and must not block."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from durableflow.model.alert import AlertKind, Severity
from durableflow.model.status import Status


class WorkerLeads(msgspec.Struct, frozen=True):
    """This engine's worker owns the store now."""

    worker: str


class WorkerLost(msgspec.Struct, frozen=True):
    """This engine's worker was declared dead by another; it has dropped its memory."""

    worker: str


class InstancesClaimed(msgspec.Struct, frozen=True):
    """This worker of a fleet took over instances that nobody owned."""

    count: int


class InstancesHandedOver(msgspec.Struct, frozen=True):
    """This worker of a fleet gave instances away that were more than its share."""

    count: int


class ActivityDropped(msgspec.Struct, frozen=True):
    """A workflow, or its end, no longer wants the result of an activity that is under way; that is durable."""

    instance_id: str
    task: int


class InstanceRecovered(msgspec.Struct, frozen=True):
    """An instance was replayed from its history into memory."""

    instance_id: str
    events: int


class InstanceEnded(msgspec.Struct, frozen=True):
    """An instance reached a final status, durably."""

    instance_id: str
    workflow: str
    status: Status


class InstanceStalled(msgspec.Struct, frozen=True):
    """The engine will not go on with an instance until the cause is gone."""

    instance_id: str
    reason: str


class HistoryLong(msgspec.Struct, frozen=True):
    """A history passed the soft limit."""

    instance_id: str
    events: int


class AttemptEnded(msgspec.Struct, frozen=True):
    """An attempt of an activity failed; `final` when no other follows."""

    instance_id: str
    activity: str
    attempt: int
    type_name: str
    message: str
    final: bool


class BranchFailed(msgspec.Struct, frozen=True):
    """A branch that the workflow spawned failed, and nobody waited for it or looked at its result until the end."""

    instance_id: str
    branch: str
    type_name: str
    message: str


class TurnBlocked(msgspec.Struct, frozen=True):
    """A turn has been blocking the event loop; `location` is the line it is at."""

    instance_id: str
    seconds: float
    location: str


class CommitRetried(msgspec.Struct, frozen=True):
    """The store refused a commit; nothing was written and it is tried again."""

    reason: str


class CommitUnanswered(msgspec.Struct, frozen=True):
    """Whether a commit was written is not known; its instances are forgotten and read from the store."""

    reason: str


class TurnsCommitted(msgspec.Struct, frozen=True):
    """A group of turns became durable in one commit."""

    instances: int
    events: int


class ScheduleFired(msgspec.Struct, frozen=True):
    """A schedule started an instance, durably; `late_us` after its slot."""

    schedule_id: str
    instance_id: str
    slot_us: int
    late_us: int


class SlotsMissed(msgspec.Struct, frozen=True):
    """Slots of a schedule that nobody could fire are older than its catch-up window: they will not fire."""

    schedule_id: str
    slots: int


class SlotsSkipped(msgspec.Struct, frozen=True):
    """Slots of a schedule did not fire, by its overlap policy."""

    schedule_id: str
    slots: int


class ScheduleUnreadable(msgspec.Struct, frozen=True):
    """What the store keeps of a schedule cannot be read; it does not fire."""

    schedule_id: str
    reason: str


class TaskUnreadable(msgspec.Struct, frozen=True):
    """What the store keeps of an activity in a queue cannot be read; the activity fails, or its instance stalls."""

    instance_id: str
    reason: str


class QueueUnreadable(msgspec.Struct, frozen=True):
    """The limits that the store keeps of a queue cannot be read; nothing is taken from it until they are set anew."""

    queue: str


class AttemptLost(msgspec.Struct, frozen=True):
    """An attempt was running when its worker's process ended; it was made again, or given up, by the retry policy."""

    instance_id: str
    activity: str
    attempt: int


class StallHealed(msgspec.Struct, frozen=True):
    """The cause of an instance's stall is gone: it goes on."""

    instance_id: str


class AlertRaised(msgspec.Struct, frozen=True):
    """Something needs a person; `repeated` when it was raised before and lasts."""

    kind: AlertKind
    subject: str
    severity: Severity
    details: str
    repeated: bool


class AlertResolved(msgspec.Struct, frozen=True):
    """What an alert was raised for is over."""

    kind: AlertKind
    subject: str


class NoticeGivenUp(msgspec.Struct, frozen=True):
    """A sink of alerts did not take a notice, however often it was tried."""

    sink: str
    notice: int
    attempts: int
    reason: str


class CircuitOpened(msgspec.Struct, frozen=True):
    """So many attempts failed in a row that none is made for a while."""

    circuit: str
    failures: int


class CircuitClosed(msgspec.Struct, frozen=True):
    """Probes succeeded, or somebody reset the circuit: attempts are made again."""

    circuit: str


class JobSent(msgspec.Struct, frozen=True):
    """The Job of an attempt is in its cluster."""

    job: str
    instance_id: str
    activity: str
    is_adopted: bool


class JobEnded(msgspec.Struct, frozen=True):
    """An attempt whose Job it was has its end, durably; or nobody wanted it any more, and it is gone."""

    job: str
    instance_id: str
    workflow: str
    activity: str
    outcome: str
    reason: str
    queue_wait_us: int
    run_us: int
    gpu_us: int


class WatchBroken(msgspec.Struct, frozen=True):
    """What is known of a cluster may be old: it is listed and watched anew."""

    path: str
    reason: str


Fact: TypeAlias = (
    WorkerLeads
    | WorkerLost
    | InstancesClaimed
    | InstancesHandedOver
    | ActivityDropped
    | InstanceRecovered
    | InstanceEnded
    | InstanceStalled
    | HistoryLong
    | AttemptEnded
    | BranchFailed
    | TurnBlocked
    | CommitRetried
    | CommitUnanswered
    | TurnsCommitted
    | ScheduleFired
    | SlotsMissed
    | SlotsSkipped
    | ScheduleUnreadable
    | TaskUnreadable
    | QueueUnreadable
    | AttemptLost
    | StallHealed
    | AlertRaised
    | AlertResolved
    | NoticeGivenUp
    | CircuitOpened
    | CircuitClosed
    | JobSent
    | JobEnded
    | WatchBroken
)
Listener: TypeAlias = Callable[[Fact], None]
