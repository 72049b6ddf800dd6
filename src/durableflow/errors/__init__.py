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
    │   │   └── StoreSealed        the store is being moved, or has been: open the other one
    │   ├── MoveRefused            a store cannot be moved so
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

from durableflow.errors.activities import (
    ActivityCancelled,
    HandedOver,
    NonRetryableError,
    TokenRefused,
    TransactionMisused,
)
from durableflow.errors.instances import (
    CorruptHistory,
    HistoryTooLong,
    InstanceError,
    InstanceExists,
    InstanceNotActive,
    InstanceNotFound,
    InstanceStalled,
    NondeterminismError,
    NotRegistered,
    ReplayError,
    RequestFailed,
    TurnTooLong,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
)
from durableflow.errors.root import DurableflowError, RemoteError, matches_type_name, qualified_name
from durableflow.errors.schedules import CorruptSchedule, ScheduleError, ScheduleExists, ScheduleNotFound
from durableflow.errors.storage import (
    AppendConflict,
    CommitOutcomeUnknown,
    EngineClosed,
    InstancesExist,
    LeaseLost,
    MoveRefused,
    SchemaMismatch,
    StorageError,
    StoreSealed,
)
from durableflow.errors.tasks import (
    ActivityFailed,
    Cancelled,
    ChildFailed,
    CompensationFailed,
    EventTimeout,
    FailedCompensation,
    MessageFailed,
    SideEffectFailed,
    TaskCancelled,
    TaskError,
)
from durableflow.errors.usage import (
    DeterminismWarning,
    DirectCallError,
    ForeignAwaitError,
    PayloadError,
    PayloadTooLarge,
    RegistrationError,
    UsageError,
)

__all__ = [
    "ActivityCancelled",
    "ActivityFailed",
    "AppendConflict",
    "Cancelled",
    "ChildFailed",
    "CommitOutcomeUnknown",
    "CompensationFailed",
    "CorruptHistory",
    "CorruptSchedule",
    "DeterminismWarning",
    "DirectCallError",
    "DurableflowError",
    "EngineClosed",
    "EventTimeout",
    "FailedCompensation",
    "ForeignAwaitError",
    "HandedOver",
    "HistoryTooLong",
    "InstanceError",
    "InstanceExists",
    "InstanceNotActive",
    "InstanceNotFound",
    "InstanceStalled",
    "InstancesExist",
    "LeaseLost",
    "MessageFailed",
    "MoveRefused",
    "NonRetryableError",
    "NondeterminismError",
    "NotRegistered",
    "PayloadError",
    "PayloadTooLarge",
    "RegistrationError",
    "RemoteError",
    "ReplayError",
    "RequestFailed",
    "ScheduleError",
    "ScheduleExists",
    "ScheduleNotFound",
    "SchemaMismatch",
    "SideEffectFailed",
    "StorageError",
    "StoreSealed",
    "TaskCancelled",
    "TaskError",
    "TokenRefused",
    "TransactionMisused",
    "TurnTooLong",
    "UsageError",
    "WorkflowCancelled",
    "WorkflowFailed",
    "WorkflowTerminated",
    "matches_type_name",
    "qualified_name",
]

# Histories and retry policies hold the names of exceptions with this module, wherever in the package a class stands.
for _name in __all__:
    globals()[_name].__module__ = __name__
