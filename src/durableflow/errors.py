"""Every exception of durableflow, in one family tree.

Branches are cut by what the caller does next::

    DurableflowError
    ├── UsageError                 fix the code that made the call
    │   ├── RegistrationError      a name is taken, or not known here
    │   ├── DirectCallError        an activity was called inside a workflow
    │   ├── ForeignAwaitError      a workflow yielded what is not a task of its context
    │   ├── PayloadError           a value cannot be stored, or not read back as its type
    │   │   └── PayloadTooLarge
    │   └── TransactionMisused     also a NonRetryableError: a transactional activity overstepped its transaction
    ├── InstanceError              look at the instance
    │   ├── InstanceNotFound
    │   ├── InstanceExists
    │   ├── InstanceNotActive      it is over: nothing was written
    │   ├── InstanceStalled        the engine will not go on until the cause is gone
    │   ├── WorkflowFailed         what `result` raises for FAILED
    │   ├── WorkflowTerminated     ... for TERMINATED
    │   ├── WorkflowCancelled      ... for CANCELLED
    │   └── RequestFailed          the workflow answered a request with a failure
    ├── ReplayError                the history cannot be followed; the instance stalls, unharmed
    │   ├── NondeterminismError    code and history disagree
    │   ├── CorruptHistory         the stored history is not a history
    │   ├── TurnTooLong            a turn of the workflow did not come to a wait
    │   ├── NotRegistered          the workflow, its version or an activity is not known here
    │   └── HistoryTooLong         the history is over its hard limit
    ├── TaskError                  raised inside a workflow, where it waits
    │   ├── ActivityFailed
    │   ├── ChildFailed            a child workflow did not complete, or could not be started
    │   ├── MessageFailed          another instance is not there, or over: it was told nothing
    │   ├── EventTimeout           also a TimeoutError
    │   ├── TaskCancelled          the workflow itself cancelled the task
    │   ├── SideEffectFailed       what `ctx.side_effect` called has raised
    │   └── CompensationFailed     a saga could not undo all of it
    ├── NonRetryableError          raise it in an activity: no further attempt
    ├── ActivityCancelled          raised inside an activity that is no longer wanted
    ├── TokenRefused               the token of an activity that was handed over is none, or none any more
    ├── StorageError               try again, or mend the store
    │   ├── LeaseLost              another worker owns the store now
    │   ├── InstancesExist         ids to be made are taken
    │   ├── AppendConflict         somebody else wrote this part of a history
    │   ├── CommitOutcomeUnknown   read the log before anything else
    │   ├── SchemaMismatch         the store was written by another version
    │   └── EngineClosed
    └── ScheduleError              look at the schedule
        ├── ScheduleNotFound
        ├── ScheduleExists
        └── CorruptSchedule        its row in the store cannot be read

    Cancelled (BaseException)      raised once at a cancelled workflow's wait
    HandedOver (BaseException)     raise it in an activity that has given its token away
    DeterminismWarning (UserWarning)

`Cancelled` is a `BaseException`, as `asyncio.CancelledError` is, so that an
`except Exception` around a retry loop does not swallow it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class DurableflowError(Exception):
    """Root of the family; `code` is stable and documented, the message is for people."""

    code: ClassVar[str] = "DF0000"


class UsageError(DurableflowError):
    """The call or the definition is wrong; change the code."""

    code = "DF1000"


class RegistrationError(UsageError):
    """A workflow or activity name is taken by another function, or is not known here."""

    code = "DF1001"


class DirectCallError(UsageError):
    """An activity was called as a plain function inside a workflow."""

    code = "DF1002"


class ForeignAwaitError(UsageError, TypeError):
    """A workflow yielded or awaited something that its context did not give it."""

    code = "DF1003"


class PayloadError(UsageError, ValueError):
    """A value cannot be stored as JSON and read back the same, or does not fit its type."""

    code = "DF1004"


class PayloadTooLarge(PayloadError):
    """A stored value would be larger than the limit of the engine."""

    code = "DF1005"

    def __init__(self, what: str, payload_bytes: int, limit_bytes: int) -> None:
        self.what = what
        self.payload_bytes = payload_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"{what} takes {payload_bytes:,} bytes, over the limit of {limit_bytes:,}; "
            "store it elsewhere and pass a reference, or raise Engine(payload_limit_bytes=...)"
        )


class InstanceError(DurableflowError):
    """Something about one instance; `instance_id` says which."""

    code = "DF2000"

    def __init__(self, instance_id: str, message: str) -> None:
        self.instance_id = instance_id
        super().__init__(message)


class InstanceNotFound(InstanceError):
    """No instance has this id."""

    code = "DF2001"

    def __init__(self, instance_id: str) -> None:
        super().__init__(instance_id, f"there is no instance {instance_id!r} in this store")


class InstanceExists(InstanceError):
    """The id is taken and the id policy does not allow to share or replace it."""

    code = "DF2002"


class InstanceNotActive(InstanceError):
    """The instance is over, or is not in a status that allows the call; nothing was written."""

    code = "DF2003"

    def __init__(self, instance_id: str, status: str, asked: str) -> None:
        self.status = status
        super().__init__(instance_id, f"instance {instance_id!r} is {status}, so it cannot take {asked}")


class InstanceStalled(InstanceError):
    """The engine will not go on with the instance; it does by itself once the cause is gone."""

    code = "DF2004"

    def __init__(self, instance_id: str, reason: str) -> None:
        self.reason = reason
        super().__init__(instance_id, f"instance {instance_id!r} is STALLED: {reason}")


class RemoteError(Exception):
    """Stands for an exception of which only the record is left, as the `__cause__` of a failure.

    Attributes:
        type_name: qualified name of the class that was raised.
        message: its text.
        traceback_text: where it was raised, as text; empty when unknown.
    """

    def __init__(self, type_name: str, message: str, traceback_text: str) -> None:
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        super().__init__(f"{type_name}: {message}" if message else type_name)


class _RecordedFailure:
    """What the recorded failures share: the type's name, its message, its traceback."""

    type_name: str
    message: str
    traceback_text: str

    def is_type(self, *types: type[BaseException] | str) -> bool:
        """True when the recorded exception was raised by one of `types` (class or name, not subclasses)."""
        return matches_type_name(self.type_name, types)


def matches_type_name(type_name: str, types: Iterable[type[BaseException] | str]) -> bool:
    """True when `type_name` is the qualified or the bare name of one of `types`."""
    bare = type_name.rpartition(".")[2]
    for wanted in types:
        if isinstance(wanted, str):
            if wanted in (type_name, bare):
                return True
        elif type_name == qualified_name(wanted):
            return True
    return False


def qualified_name(exception_type: type[BaseException]) -> str:
    """`module.QualName`, and the bare name for builtins, as it is recorded in histories."""
    if exception_type.__module__ == "builtins":
        return exception_type.__qualname__
    return f"{exception_type.__module__}.{exception_type.__qualname__}"


class WorkflowFailed(InstanceError, _RecordedFailure):
    """The workflow raised; the record of what it raised is in the attributes and in `__cause__`."""

    code = "DF2005"

    def __init__(self, instance_id: str, type_name: str, message: str, traceback_text: str) -> None:
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        super().__init__(instance_id, f"instance {instance_id!r} failed: {type_name}: {message}")


class WorkflowTerminated(InstanceError):
    """The instance was terminated."""

    code = "DF2006"

    def __init__(self, instance_id: str, reason: str) -> None:
        self.reason = reason
        super().__init__(instance_id, f"instance {instance_id!r} was terminated: {reason or 'no reason given'}")


class WorkflowCancelled(InstanceError):
    """The instance was cancelled and its workflow let the cancellation through."""

    code = "DF2007"

    def __init__(self, instance_id: str, reason: str) -> None:
        self.reason = reason
        super().__init__(instance_id, f"instance {instance_id!r} was cancelled: {reason or 'no reason given'}")


class RequestFailed(InstanceError, _RecordedFailure):
    """A workflow's handler refused a request, or raised; the instance goes on.

    Attributes:
        request: name of the request.
        type_name: qualified name of the exception.
        message: its text.
        traceback_text: its traceback, as text.
    """

    code = "DF2008"

    def __init__(self, instance_id: str, request: str, type_name: str, message: str, traceback_text: str) -> None:
        self.request = request
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        super().__init__(instance_id, f"request {request!r} to instance {instance_id!r} failed: {type_name}: {message}")


class ReplayError(DurableflowError):
    """A history cannot be followed with the code at hand; the instance stalls, unharmed."""

    code = "DF3000"


class CorruptHistory(ReplayError):
    """What is stored is not a history that this version can read."""

    code = "DF3002"


class TurnTooLong(ReplayError):
    """A turn was stopped because its workflow did not come to a wait in time."""

    code = "DF3003"


class NotRegistered(ReplayError):
    """The code that an instance needs is not registered in this engine; where it is, the instance goes on."""

    code = "DF3004"


class HistoryTooLong(ReplayError):
    """A history holds more events than `Settings.history_hard_limit` allows."""

    code = "DF3005"


class NondeterminismError(ReplayError):
    """The workflow's code does not ask for what its history records.

    Attributes:
        instance_id: whose history it is.
        seq: sequence number of the recorded decision, or of the place where the history ends.
        recorded: what the history holds there.
        asked: what the code asked for instead.
        location: `file:line` of the user code that asked; empty when it asked for nothing.
    """

    code = "DF3001"

    def __init__(self, instance_id: str, workflow: str, seq: int, recorded: str, asked: str, location: str) -> None:
        self.instance_id = instance_id
        self.workflow = workflow
        self.seq = seq
        self.recorded = recorded
        self.asked = asked
        self.location = location
        where = f" at {location}" if location else ""
        super().__init__(
            f"history #{seq} of instance {instance_id!r} recorded {recorded} but workflow {workflow!r} "
            f"now asks for {asked}{where}; did its code change while this instance was open? "
            "Nothing is lost: with the recorded code back, the instance goes on"
        )


class TaskError(DurableflowError):
    """Raised inside a workflow, at the wait for a task that did not succeed."""

    code = "DF4000"


class ActivityFailed(TaskError, _RecordedFailure):
    """All attempts of an activity failed; the same error is raised live and in replay.

    Attributes:
        activity: name of the activity.
        type_name: qualified name of the exception of the last attempt.
        message: its text.
        traceback_text: its traceback, as text.
        attempts: how many were made.
    """

    code = "DF4001"

    def __init__(self, activity: str, type_name: str, message: str, traceback_text: str, attempts: int) -> None:
        self.activity = activity
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        self.attempts = attempts
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(f"activity {activity!r} failed after {tries}: {type_name}: {message}")


class ChildFailed(TaskError, _RecordedFailure):
    """A child workflow did not complete; the same error is raised live and in replay.

    Attributes:
        workflow: name of the child's workflow.
        child_id: its instance id.
        status: how it ended, `"FAILED"`, `"TERMINATED"` or `"CANCELLED"`; None when it could not be started.
        type_name: qualified name of the exception that it failed with.
        message: its text.
        traceback_text: its traceback, as text.
    """

    code = "DF4005"

    def __init__(
        self, workflow: str, child_id: str, status: str | None, type_name: str, message: str, traceback_text: str
    ) -> None:
        self.workflow = workflow
        self.child_id = child_id
        self.status = status
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        what = "could not be started" if status is None else f"is {status}"
        super().__init__(f"child {child_id!r} (workflow {workflow!r}) {what}: {type_name}: {message}")


class MessageFailed(TaskError):
    """A message to another instance was not written: `outcome` is `"missing"` or `"over"`."""

    code = "DF4006"

    def __init__(self, instance_id: str, outcome: str) -> None:
        self.instance_id = instance_id
        self.outcome = outcome
        reason = "there is no such instance" if outcome == "missing" else "it is over"
        super().__init__(f"instance {instance_id!r} was told nothing: {reason}")


class EventTimeout(TaskError, TimeoutError):
    """No event of this name came before the timeout of `wait_for_event`."""

    code = "DF4002"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no event {name!r} came in time")


class TaskCancelled(TaskError):
    """The workflow waited for a task that it had cancelled."""

    code = "DF4003"


class SideEffectFailed(TaskError, _RecordedFailure):
    """What `ctx.side_effect` called has raised; recorded, so that replay raises the same.

    Attributes:
        type_name: qualified name of the exception.
        message: its text.
        traceback_text: its traceback, as text.
    """

    code = "DF4004"

    def __init__(self, type_name: str, message: str, traceback_text: str) -> None:
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        super().__init__(f"a side effect failed: {type_name}: {message}")


class FailedCompensation(NamedTuple):
    """One compensation that failed: its name (of the activity or function), and what it raised."""

    name: str
    error: BaseException


class CompensationFailed(TaskError):
    """A saga could not undo everything; its `__cause__` is the error because of which it tried.

    Attributes:
        failures: what failed, in the order in which it was tried.
        skipped: names of the compensations that were not begun after that, in the order of the saga.
    """

    code = "DF4010"

    def __init__(self, failures: Iterable[FailedCompensation], count: int, skipped: tuple[str, ...]) -> None:
        self.failures = tuple(failures)
        self.skipped = skipped
        told = "; ".join(
            f"{each.name!r} with {qualified_name(type(each.error))}: {each.error}" for each in self.failures
        )
        rest = f"; not begun after that: {', '.join(map(repr, skipped))}" if skipped else ""
        super().__init__(f"{len(self.failures)} of {count} compensations failed: {told}{rest}")


class NonRetryableError(DurableflowError):
    """Raise it (or a subclass) in an activity to fail at once, whatever the retry policy says."""

    code = "DF5001"


class TransactionMisused(UsageError, NonRetryableError):
    """A transactional activity did with its connection what would break its transaction, or has none here."""

    code = "DF1020"


class ActivityCancelled(DurableflowError):
    """Raised inside an activity whose result is no longer wanted."""

    code = "DF5002"


class TokenRefused(DurableflowError):
    """A token does not finish an activity (any more); nothing was written.

    Attributes:
        reason: `"malformed"` (no token at all), `"wrong"` (not the one that was given out), `"stale"` (of an
            attempt that is over), `"expired"` (its time is over) or `"over"` (it was used, the activity was
            cancelled, or its instance is over).
    """

    code = "DF5003"

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class StorageError(DurableflowError):
    """The store refused or could not answer; nothing was written unless the subclass says so."""

    code = "DF6000"


class LeaseLost(StorageError):
    """This worker's lease is gone: it can write nothing more."""

    code = "DF6001"


class InstancesExist(StorageError):
    """Instances to be made are there already; nothing of the commit was written.

    Attributes:
        instance_ids: which.
    """

    code = "DF6006"

    def __init__(self, instance_ids: Iterable[str]) -> None:
        self.instance_ids = frozenset(instance_ids)
        super().__init__(f"instances {sorted(self.instance_ids)!r} are in the store already")


class AppendConflict(StorageError):
    """Rows of these instances are already in the store: the log is ahead of this worker's memory.

    Attributes:
        instance_ids: whose.
    """

    code = "DF6002"

    def __init__(self, instance_ids: Iterable[str]) -> None:
        self.instance_ids = frozenset(instance_ids)
        super().__init__(f"the store already holds what was to be written for {sorted(self.instance_ids)!r}")


class CommitOutcomeUnknown(StorageError):
    """The commit may or may not have happened; only the log can tell."""

    code = "DF6003"


class SchemaMismatch(StorageError):
    """The store was written by a version of durableflow that this one does not know."""

    code = "DF6004"


class EngineClosed(StorageError):
    """The engine is not open, or closed while the call was waiting."""

    code = "DF6005"


class ScheduleError(DurableflowError):
    """Something about one schedule; `schedule_id` says which."""

    code = "DF7000"

    def __init__(self, schedule_id: str, message: str) -> None:
        self.schedule_id = schedule_id
        super().__init__(message)


class ScheduleNotFound(ScheduleError):
    """No schedule has this id."""

    code = "DF7001"

    def __init__(self, schedule_id: str) -> None:
        super().__init__(schedule_id, f"there is no schedule {schedule_id!r} in this store")


class ScheduleExists(ScheduleError):
    """The id is taken by another schedule."""

    code = "DF7002"

    def __init__(self, schedule_id: str) -> None:
        super().__init__(
            schedule_id,
            f"schedule {schedule_id!r} exists; write put(...) to make it as you want it to be, or not at all",
        )


class CorruptSchedule(ScheduleError):
    """What the store keeps of the schedule cannot be read; it does not fire. `reason` says why."""

    code = "DF7003"

    def __init__(self, schedule_id: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            schedule_id,
            f"schedule {schedule_id!r} cannot be read: {reason}; mend that, or delete it and create it again",
        )


class Cancelled(BaseException):
    """Raised once at the current wait of a workflow whose instance was cancelled.

    Let it through after cleaning up; clean-up may call activities.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason or "the instance was cancelled")


class HandedOver(BaseException):
    """Raise it in an activity after `hand_over()`: whoever holds the token says what comes of this attempt."""


class DeterminismWarning(UserWarning):
    """A workflow's source uses something whose answer may differ in replay."""
