"""durableflow: ordinary functions that survive crashes.

A *workflow* is a deterministic function; what it learns from the world is recorded in an
append-only *history*; after a crash the function is replayed over its history and goes on
where it was. Start with `workflow`, `activity`, `Context` and `Engine`.
"""

from durableflow.authoring.activity import Activity, ActivityContext, activity, activity_context
from durableflow.authoring.context import Context
from durableflow.authoring.workflow import Flow, Workflow, workflow
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
from durableflow.model.retry import RetryPolicy
from durableflow.model.status import Status
from durableflow.runtime.settings import Settings

__all__ = [
    "Activity",
    "ActivityCancelled",
    "ActivityContext",
    "ActivityFailed",
    "Cancelled",
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
    "Status",
    "StorageError",
    "Task",
    "TaskCancelled",
    "UsageError",
    "Workflow",
    "WorkflowCancelled",
    "WorkflowFailed",
    "WorkflowTerminated",
    "activity",
    "activity_context",
    "workflow",
]
