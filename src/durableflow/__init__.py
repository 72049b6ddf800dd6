"""durableflow: ordinary functions that survive crashes.

A *workflow* is a deterministic function; what it learns from the world is recorded in an
append-only *history*; after a crash the function is replayed over its history and goes on
where it was. Start with `workflow`, `activity`, `Context` and `Engine`.

A name's module is loaded when the name is first asked for: a process that only asks loads no
engine, and the pytest plugin costs nothing to those who do not use it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durableflow.async_outbox import AsyncOutbox
    from durableflow.authoring.activity import Activity, ActivityContext, activity, activity_context
    from durableflow.authoring.context import Context
    from durableflow.authoring.handle import OtherInstance
    from durableflow.authoring.saga import Compensation, Saga
    from durableflow.authoring.transactional import TransactionalActivity
    from durableflow.authoring.workflow import Flow, Workflow, workflow
    from durableflow.blocking import BlockingClient, BlockingEngine, BlockingHandle, BlockingShards
    from durableflow.client import Client
    from durableflow.core.task import ChildTask, Task
    from durableflow.dead_letters import DeadLetter, DeadLetters
    from durableflow.engine import Engine
    from durableflow.errors import (
        ActivityCancelled,
        ActivityFailed,
        Cancelled,
        ChildFailed,
        CompensationFailed,
        DeterminismWarning,
        DurableflowError,
        EngineClosed,
        EventTimeout,
        HandedOver,
        InstanceExists,
        InstanceNotActive,
        InstanceNotFound,
        InstanceStalled,
        MessageFailed,
        NondeterminismError,
        NonRetryableError,
        PayloadError,
        PayloadTooLarge,
        RequestFailed,
        ScheduleExists,
        ScheduleNotFound,
        StorageError,
        TaskCancelled,
        TokenRefused,
        TransactionMisused,
        UsageError,
        WorkflowCancelled,
        WorkflowFailed,
        WorkflowTerminated,
    )
    from durableflow.handle import Handle
    from durableflow.looking import InstanceStatus, Page
    from durableflow.model.alert import Alert, AlertKind, Severity
    from durableflow.model.circuit import CircuitBreaker, CircuitState
    from durableflow.model.queues import QueueStatus
    from durableflow.model.retry import RetryPolicy
    from durableflow.model.schedule import Calendar, Cron, Interval, Schedule, slot_of
    from durableflow.model.status import Status
    from durableflow.model.tokens import OpenAttempt
    from durableflow.observe.webhook import WebhookSink
    from durableflow.outbox import Outbox
    from durableflow.runtime.alert_policy import AlertPolicy
    from durableflow.runtime.bulk import BulkReport
    from durableflow.runtime.circuit_reports import CircuitStatus
    from durableflow.runtime.exports import ExportReport, ImportReport
    from durableflow.runtime.settings import Settings
    from durableflow.schedules import Schedules, ScheduleView
    from durableflow.sharding import Shards
else:  # unseen by type checkers, to whom a module with `__getattr__` would have every name
    from importlib import import_module

    _NAMES = {
        "async_outbox": ("AsyncOutbox",),
        "authoring.activity": (
            "Activity",
            "ActivityContext",
            "activity",
            "activity_context",
        ),
        "authoring.context": ("Context",),
        "authoring.handle": ("OtherInstance",),
        "authoring.saga": (
            "Compensation",
            "Saga",
        ),
        "authoring.transactional": ("TransactionalActivity",),
        "authoring.workflow": (
            "Flow",
            "Workflow",
            "workflow",
        ),
        "blocking": (
            "BlockingClient",
            "BlockingEngine",
            "BlockingHandle",
            "BlockingShards",
        ),
        "client": ("Client",),
        "core.task": (
            "ChildTask",
            "Task",
        ),
        "dead_letters": (
            "DeadLetter",
            "DeadLetters",
        ),
        "engine": ("Engine",),
        "errors": (
            "ActivityCancelled",
            "ActivityFailed",
            "Cancelled",
            "ChildFailed",
            "CompensationFailed",
            "DeterminismWarning",
            "DurableflowError",
            "EngineClosed",
            "EventTimeout",
            "HandedOver",
            "InstanceExists",
            "InstanceNotActive",
            "InstanceNotFound",
            "InstanceStalled",
            "MessageFailed",
            "NonRetryableError",
            "NondeterminismError",
            "PayloadError",
            "PayloadTooLarge",
            "RequestFailed",
            "ScheduleExists",
            "ScheduleNotFound",
            "StorageError",
            "TaskCancelled",
            "TokenRefused",
            "TransactionMisused",
            "UsageError",
            "WorkflowCancelled",
            "WorkflowFailed",
            "WorkflowTerminated",
        ),
        "handle": ("Handle",),
        "looking": (
            "InstanceStatus",
            "Page",
        ),
        "model.alert": (
            "Alert",
            "AlertKind",
            "Severity",
        ),
        "model.circuit": (
            "CircuitBreaker",
            "CircuitState",
        ),
        "model.queues": ("QueueStatus",),
        "model.retry": ("RetryPolicy",),
        "model.schedule": (
            "Calendar",
            "Cron",
            "Interval",
            "Schedule",
            "slot_of",
        ),
        "model.status": ("Status",),
        "model.tokens": ("OpenAttempt",),
        "observe.webhook": ("WebhookSink",),
        "outbox": ("Outbox",),
        "runtime.alert_policy": ("AlertPolicy",),
        "runtime.bulk": ("BulkReport",),
        "runtime.circuit_reports": ("CircuitStatus",),
        "runtime.exports": (
            "ExportReport",
            "ImportReport",
        ),
        "runtime.settings": ("Settings",),
        "schedules": (
            "ScheduleView",
            "Schedules",
        ),
        "sharding": ("Shards",),
    }
    _HOMES = {name: f"durableflow.{home}" for home, names in _NAMES.items() for name in names}

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'durableflow' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Activity",
    "ActivityCancelled",
    "ActivityContext",
    "ActivityFailed",
    "Alert",
    "AlertKind",
    "AlertPolicy",
    "AsyncOutbox",
    "BlockingClient",
    "BlockingEngine",
    "BlockingHandle",
    "BlockingShards",
    "BulkReport",
    "Calendar",
    "Cancelled",
    "ChildFailed",
    "ChildTask",
    "CircuitBreaker",
    "CircuitState",
    "CircuitStatus",
    "Client",
    "Compensation",
    "CompensationFailed",
    "Context",
    "Cron",
    "DeadLetter",
    "DeadLetters",
    "DeterminismWarning",
    "DurableflowError",
    "Engine",
    "EngineClosed",
    "EventTimeout",
    "ExportReport",
    "Flow",
    "HandedOver",
    "Handle",
    "ImportReport",
    "InstanceExists",
    "InstanceNotActive",
    "InstanceNotFound",
    "InstanceStalled",
    "InstanceStatus",
    "Interval",
    "MessageFailed",
    "NonRetryableError",
    "NondeterminismError",
    "OpenAttempt",
    "OtherInstance",
    "Outbox",
    "Page",
    "PayloadError",
    "PayloadTooLarge",
    "QueueStatus",
    "RequestFailed",
    "RetryPolicy",
    "Saga",
    "Schedule",
    "ScheduleExists",
    "ScheduleNotFound",
    "ScheduleView",
    "Schedules",
    "Settings",
    "Severity",
    "Shards",
    "Status",
    "StorageError",
    "Task",
    "TaskCancelled",
    "TokenRefused",
    "TransactionMisused",
    "TransactionalActivity",
    "UsageError",
    "WebhookSink",
    "Workflow",
    "WorkflowCancelled",
    "WorkflowFailed",
    "WorkflowTerminated",
    "activity",
    "activity_context",
    "slot_of",
    "workflow",
]
