"""Activities as tasks of a store, and back: what is written, when it is overdue, and what follows an attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from durableflow.authoring.workflow import StartOptions
from durableflow.backends.tasks import (
    ADMITTED,
    DELAYED,
    HANDED_OVER,
    START,
    NewTask,
    NextAttempt,
    StoredTask,
    TaskEnd,
)
from durableflow.core.execution import WORKER_LOST
from durableflow.core.turn import PendingActivity
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.runtime.attempt import failed_attempt, is_suspect
from durableflow.runtime.clock import Clock

_OPTIONS_DECODER: Final = msgspec.msgpack.Decoder(ev.ActivityOptions)
_LOST: Final = Failure(WORKER_LOST, "the process that had claimed this attempt ended, or gave no sign of life")


CORRUPT_TASK: Final = "CorruptTask"
"""The type of the failure of an activity whose task cannot be read."""
_LATEST_US: Final = 2**60
"""Some 36,000 years after 1970: no clock has said so, and sums with time limits are still numbers."""
_COUNT_MAX: Final = 2**31 - 2
"""One more still fits into every store."""


def dump_options(options: ev.ActivityOptions | None) -> bytes:
    """The bytes that a task keeps."""
    return msgspec.msgpack.encode(options or ev.ActivityOptions())


def load_options(task: StoredTask) -> ev.ActivityOptions:
    """What its activity was asked to obey."""
    return _OPTIONS_DECODER.decode(task.options)


def new_task(instance_id: str, activity: PendingActivity, options: ev.ActivityOptions) -> NewTask:
    """An activity on its way into its queue."""
    return NewTask(
        instance_id,
        activity.task,
        options.queue,
        activity.name,
        activity.input,
        dump_options(options),
        options.priority,
        options.fairness_key,
        0,
        _waits_until_us(options, activity.scheduled_at_us, activity.scheduled_at_us),
        activity.scheduled_at_us,
    )


def new_start(instance_id: str, workflow: str, options: StartOptions, start_at_us: int, now_us: int) -> NewTask:
    """An instance on its way into the queue that is to admit it."""
    not_before_us = start_at_us if start_at_us > now_us else 0
    return NewTask(
        instance_id,
        START,
        options.queue,
        workflow,
        b"",
        b"",
        options.priority,
        options.fairness_key,
        not_before_us,
        None,
        now_us,
    )


def damage_of(task: StoredTask) -> str | None:
    """What of it cannot be read or cannot be, if anything. A file holds whatever somebody has written into it."""
    for name, value in zip(task._fields, task, strict=True):
        if not _CHECKS[name](value):
            return f"its {name} is {value!r:.100}"
    if task.uncounted >= task.attempt:
        return f"its uncounted is {task.uncounted}, of {task.attempt - 1} attempts that it has made"
    try:
        load_options(task)
    except msgspec.DecodeError as error:
        return f"its options cannot be read: {error}"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_data(value: object) -> bool:
    return isinstance(value, bytes)


def _is_data_or_none(value: object) -> bool:
    return value is None or isinstance(value, bytes)


def _is_whole(value: object) -> bool:
    return type(value) is int


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _COUNT_MAX


def _is_time(value: object) -> bool:
    return type(value) is int and -_LATEST_US <= value <= _LATEST_US


_CHECKS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "number": _is_whole,
    "instance_id": _is_text,
    "task": lambda value: type(value) is int and START < value <= _LATEST_US,
    "attempt": lambda value: _is_count(value) and value > 0,
    "queue": _is_text,
    "name": _is_text,
    "input": _is_data,
    "options": _is_data,
    "priority": _is_whole,
    "fairness_key": _is_text,
    "state": _is_count,
    "not_before_us": _is_time,
    "expires_us": lambda value: value is None or _is_time(value),
    "claimed_by": lambda value: type(value) is int and value >= ADMITTED,
    "started_us": _is_time,
    "token_digest": _is_data_or_none,
    "details": _is_data_or_none,
    "scheduled_at_us": _is_time,
    "uncounted": _is_count,
    "losses": _is_count,
    "is_suspect": lambda value: isinstance(value, bool),
}


def activity_of(task: StoredTask) -> PendingActivity:
    """A task as those who run attempts know it."""
    return PendingActivity(
        task.task,
        task.name,
        task.input,
        load_options(task),
        task.scheduled_at_us,
        task.attempt,
        task.uncounted,
        retry_at_us=task.not_before_us,
        details=task.details,
        losses=task.losses,
    )


def _waits_until_us(options: ev.ActivityOptions, scheduled_at_us: int, wanted_at_us: int) -> int | None:
    """When a task that waits is overdue."""
    limits: list[int] = []
    if options.schedule_to_start_us:
        limits.append(wanted_at_us + options.schedule_to_start_us)
    if options.schedule_to_close_us:
        limits.append(scheduled_at_us + options.schedule_to_close_us)
    return min(limits, default=None)


def answered_until_us(
    options: ev.ActivityOptions | None, scheduled_at_us: int, started_us: int, now_us: int
) -> int | None:
    """When an attempt that was handed over is overdue, with its last heartbeat at `now_us`."""
    if options is None:
        return None
    limits: list[int] = []
    if options.start_to_close_us:
        limits.append(started_us + options.start_to_close_us)
    if options.schedule_to_close_us:
        limits.append(scheduled_at_us + options.schedule_to_close_us)
    if options.heartbeat_us:
        limits.append(now_us + options.heartbeat_us)
    return min(limits, default=None)


def end_of(task: StoredTask, event: ev.Observation, now_us: int, details: bytes | None = None) -> TaskEnd:
    """What is written of an attempt of which `event` is to be told.

    Args:
        details: what it said of itself and was not written yet.
    """
    seen = (task.number, task.attempt, task.state, task.claimed_by)
    following: NextAttempt | None = None
    if isinstance(event, ev.AttemptFailed) and task.queue:
        activity = activity_of(task)
        lost = event.failure.type_name == WORKER_LOST
        activity.attempt += 1
        activity.uncounted += not event.counts
        activity.losses = activity.losses + 1 if lost else 0
        options = load_options(task)
        following = NextAttempt(
            DELAYED,
            activity.attempt,
            event.retry_at_us,
            _waits_until_us(options, task.scheduled_at_us, event.retry_at_us),
            details,
            activity.uncounted,
            activity.losses,
            activity.losses > 0 and is_suspect(activity),
        )
    elif isinstance(event, ev.ActivityHandedOver):
        until_us = answered_until_us(load_options(task), task.scheduled_at_us, task.started_us, now_us)
        following = NextAttempt(
            HANDED_OVER, task.attempt, 0, until_us, details, task.uncounted, task.losses, task.is_suspect
        )
    return TaskEnd(seen, ev.dump_event(event), following)


def end_of_damaged(task: StoredTask, damage: str) -> TaskEnd:
    """What is written of a task that cannot be read: its activity has failed, whichever attempt it was at.

    Where not even the number of the activity can be read, the message cannot be either, and stalls its instance.
    """
    failure = Failure(CORRUPT_TASK, f"what the store keeps of activity {task.name!r:.100} cannot be read: {damage}")
    number: Any = task.task if _CHECKS["task"](task.task) else f"no number of a task: {task.task!r:.100}"
    made = task.attempt - 1 if _CHECKS["attempt"](task.attempt) else 0
    event = ev.ActivityFailed(number, failure, made, ev.WHATEVER_ATTEMPT)
    return TaskEnd((task.number, task.attempt, task.state, task.claimed_by), ev.dump_event(event), None)


def overdue_answer(task: StoredTask, clock: Clock) -> ev.AttemptFailed | ev.ActivityFailed:
    """What becomes of a task whose time is over, or whose server is dead."""
    activity = activity_of(task)
    if task.state == HANDED_OVER:
        failure = Failure(
            "TimeoutError", f"attempt {task.attempt} of activity {task.name!r} was handed over, but {_late(task)}"
        )
        return failed_attempt(activity, failure, ("TimeoutError", "OSError", "Exception"), clock)
    if task.claimed_by:
        return failed_attempt(activity, _LOST, (WORKER_LOST,), clock)
    text = f"activity {task.name!r} was not taken from queue {task.queue!r} in time"
    return ev.ActivityFailed(task.task, Failure("TimeoutError", text), task.attempt - task.uncounted - 1, task.attempt)


def _late(task: StoredTask) -> str:
    return "nobody has finished it in time" if task.details is None else "gave no result, or no heartbeat, in time"
