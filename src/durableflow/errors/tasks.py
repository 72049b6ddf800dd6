"""What is raised inside a workflow, where it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from durableflow.errors.root import DurableflowError, RecordedFailure, qualified_name

if TYPE_CHECKING:
    from collections.abc import Iterable


class TaskError(DurableflowError):
    """Raised inside a workflow, at the wait for a task that did not succeed."""

    code = "DF4000"


class ActivityFailed(TaskError, RecordedFailure):
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


class ChildFailed(TaskError, RecordedFailure):
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


class SideEffectFailed(TaskError, RecordedFailure):
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


class Cancelled(BaseException):
    """Raised once at the current wait of a workflow whose instance was cancelled.

    Let it through after cleaning up; clean-up may call activities.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason or "the instance was cancelled")
