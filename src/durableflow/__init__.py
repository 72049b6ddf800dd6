"""durableflow: ordinary functions that survive crashes.

A *workflow* is a deterministic function; what it learns from the world is recorded in an
append-only *history*; after a crash the function is replayed over its history and goes on
where it was. Start with `workflow`, `activity`, `Context` and `Engine`.

A name's module is loaded when the name is first asked for: a process that only asks loads no
engine, and the pytest plugin costs nothing to those who do not use it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durableflow.authoring.activity import Activity, ActivityContext, activity, activity_context
    from durableflow.authoring.context import Context
    from durableflow.authoring.workflow import Flow, Workflow, workflow
    from durableflow.blocking import BlockingClient, BlockingEngine, BlockingHandle
    from durableflow.client import Client, Handle, InstanceStatus, Page
    from durableflow.core.task import Task
    from durableflow.engine import Engine
    from durableflow.errors import (
        ActivityCancelled,
        ActivityFailed,
        Cancelled,
        DeterminismWarning,
        DurableflowError,
        EngineClosed,
        EventTimeout,
        InstanceExists,
        InstanceNotActive,
        InstanceNotFound,
        InstanceStalled,
        NondeterminismError,
        NonRetryableError,
        PayloadError,
        PayloadTooLarge,
        StorageError,
        TaskCancelled,
        UsageError,
        WorkflowCancelled,
        WorkflowFailed,
        WorkflowTerminated,
    )
    from durableflow.model.alert import Alert, AlertKind, Severity
    from durableflow.model.circuit import CircuitBreaker, CircuitState
    from durableflow.model.retry import RetryPolicy
    from durableflow.model.status import Status
    from durableflow.observe.webhook import WebhookSink
    from durableflow.runtime.alert_policy import AlertPolicy
    from durableflow.runtime.circuit_reports import CircuitStatus
    from durableflow.runtime.settings import Settings
else:  # unseen by type checkers, to whom a module with `__getattr__` would have every name
    from importlib import import_module

    _NAMES = {
        "authoring.activity": ("Activity", "ActivityContext", "activity", "activity_context"),
        "authoring.context": ("Context",),
        "authoring.workflow": ("Flow", "Workflow", "workflow"),
        "blocking": ("BlockingClient", "BlockingEngine", "BlockingHandle"),
        "client": ("Client", "Handle", "InstanceStatus", "Page"),
        "core.task": ("Task",),
        "engine": ("Engine",),
        "errors": (
            "ActivityCancelled",
            "ActivityFailed",
            "Cancelled",
            "DeterminismWarning",
            "DurableflowError",
            "EngineClosed",
            "EventTimeout",
            "InstanceExists",
            "InstanceNotActive",
            "InstanceNotFound",
            "InstanceStalled",
            "NondeterminismError",
            "NonRetryableError",
            "PayloadError",
            "PayloadTooLarge",
            "StorageError",
            "TaskCancelled",
            "UsageError",
            "WorkflowCancelled",
            "WorkflowFailed",
            "WorkflowTerminated",
        ),
        "model.alert": ("Alert", "AlertKind", "Severity"),
        "model.circuit": ("CircuitBreaker", "CircuitState"),
        "model.retry": ("RetryPolicy",),
        "model.status": ("Status",),
        "observe.webhook": ("WebhookSink",),
        "runtime.alert_policy": ("AlertPolicy",),
        "runtime.circuit_reports": ("CircuitStatus",),
        "runtime.settings": ("Settings",),
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
    "BlockingClient",
    "BlockingEngine",
    "BlockingHandle",
    "Cancelled",
    "CircuitBreaker",
    "CircuitState",
    "CircuitStatus",
    "Client",
    "Context",
    "DeterminismWarning",
    "DurableflowError",
    "Engine",
    "EngineClosed",
    "EventTimeout",
    "Flow",
    "Handle",
    "InstanceExists",
    "InstanceNotActive",
    "InstanceNotFound",
    "InstanceStalled",
    "InstanceStatus",
    "NonRetryableError",
    "NondeterminismError",
    "Page",
    "PayloadError",
    "PayloadTooLarge",
    "RetryPolicy",
    "Settings",
    "Severity",
    "Status",
    "StorageError",
    "Task",
    "TaskCancelled",
    "UsageError",
    "WebhookSink",
    "Workflow",
    "WorkflowCancelled",
    "WorkflowFailed",
    "WorkflowTerminated",
    "activity",
    "activity_context",
    "workflow",
]
