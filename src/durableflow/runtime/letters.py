"""Dead letters: what failed for good, as the store keeps it for somebody to look at."""

from __future__ import annotations

from durableflow.backends.base import DeadLetter
from durableflow.core.turn import PendingActivity
from durableflow.model import events as ev


def letter_of_activity(
    instance_id: str, activity: PendingActivity, failed: ev.ActivityFailed, at_us: int
) -> DeadLetter:
    """An activity that no attempt follows."""
    failure = failed.failure
    return DeadLetter(
        instance_id,
        activity.task,
        "activity",
        activity.name,
        at_us,
        failed.attempts,
        failure.type_name,
        failure.message,
    )


def letter_of_end(instance_id: str, workflow: str, end: ev.Event, at_us: int) -> DeadLetter:
    """An instance that failed."""
    if isinstance(end, ev.InstanceFailed):
        type_name, message = end.failure.type_name, end.failure.message
    else:
        type_name, message = "TimeoutError", "it was not over before its timeout"
    return DeadLetter(instance_id, 0, "failed", workflow, at_us, 0, type_name, message)


def letter_of_stall(instance_id: str, workflow: str, reason: str, at_us: int) -> DeadLetter:
    """An instance that cannot go on."""
    return DeadLetter(instance_id, 0, "stalled", workflow, at_us, 0, "", reason)
