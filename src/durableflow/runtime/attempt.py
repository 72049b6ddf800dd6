"""One attempt of an activity, who asks for one, and what follows when it fails.

A crash cannot tell which of the running attempts caused it. The first loss is put down to
bad luck and the attempt is made again beside the others; after a second loss in a row, or
when only one attempt is left, it runs in a lane for one, so that an activity which kills
its process uses up its own attempts and not those of its neighbours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Protocol

from durableflow.authoring.activity import Activity, ActivityContext
from durableflow.core.execution import WORKER_LOST
from durableflow.core.turn import PendingActivity
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.model.retry import DEFAULT_RETRY
from durableflow.runtime.alarms import Alarm
from durableflow.runtime.clock import Moment

if TYPE_CHECKING:
    from durableflow.runtime.attempts import Attempts

AnyActivity = Activity[..., Any]
TIMEOUT: Final = "TimeoutError"
"""The type of a failure by the clock, as the code that is called would raise it."""
TIMEOUT_NAMES: Final = (TIMEOUT, "OSError", "Exception")
"""The same with its bases."""


class Owner(Protocol):
    """The instance an attempt works for, as this module needs it."""

    id: str
    attempts: dict[int, Attempt]
    requests: dict[int, Request]

    def tell(self, event: ev.Observation) -> None:
        """Deliver an observation to the instance."""
        ...


class Attempt:
    """One attempt of one activity."""

    __slots__ = (
        "activity",
        "alarms",
        "beat_us",
        "context",
        "definition",
        "is_committing",
        "is_offered",
        "number",
        "over",
        "owner",
        "runner",
        "seal",
        "task",
    )

    def __init__(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> None:
        self.owner = owner
        self.activity = activity
        self.definition = definition
        self.number = activity.attempt
        self.over = False
        self.task: asyncio.Task[Any] | None = None
        self.alarms: list[Alarm] | tuple[()] = ()
        self.beat_us = 0
        self.is_committing = False
        """The store has its seal, and others go on meanwhile."""
        self.is_offered = False
        """There is a token that can finish it."""
        self.context: ActivityContext | None = None
        self.runner: Attempts | None = None
        self.seal = Lock() if definition.is_transactional else None
        """Of a transactional one: taken once, by the store that is about to commit it or by who gives it up."""

    # How its context reaches it, which holds on to the attempt alone: methods would be an object more each.

    def beat(self, details: bytes) -> None:
        """Called by user code, on any thread."""
        assert self.runner is not None
        self.runner.note_beat(self, details)

    def offer(self) -> Coroutine[Any, Any, str]:
        """Make a token that can finish it."""
        assert self.runner is not None
        return self.runner.offer(self)

    def give_up(self) -> bool:
        """Settle that it comes to nothing; False when that is too late, because the store is committing it."""
        return self.seal is None or self.seal.acquire(blocking=False)


class Request:
    """Somebody waits for a place for the next attempt of an activity.

    It is `granted` once a place is reserved and its owner has been told `ActivityStarted`;
    the place is the request's until the attempt begins.
    """

    __slots__ = ("activity", "alarms", "definition", "granted", "order", "owner")

    def __init__(self, owner: Owner, activity: PendingActivity, definition: AnyActivity, order: int) -> None:
        self.owner = owner
        self.activity = activity
        self.definition = definition
        self.order = order
        self.granted = False
        self.alarms: list[Alarm] = []

    @property
    def is_waiting(self) -> bool:
        """False once it was granted or withdrawn."""
        return not self.granted and self.owner.requests.get(self.activity.task) is self


def is_suspect(activity: PendingActivity) -> bool:
    """Whether an attempt, of one that was lost before, may be what kills its process."""
    return activity.losses >= 2 or is_last(activity, activity.attempt)


def is_last(activity: PendingActivity, attempt: int) -> bool:
    """Whether the retry policy allows none after `attempt`."""
    retry = (activity.options and activity.options.retry) or DEFAULT_RETRY
    return attempt - activity.uncounted >= retry.max_attempts


def limits_of(activity: PendingActivity, options: ev.ActivityOptions, now_us: int) -> list[tuple[int, str]]:
    """When an attempt that begins now has failed by the clock, whatever it says of itself, and why."""
    limits: list[tuple[int, str]] = []
    if options.start_to_close_us:
        text = f"did not end within {options.start_to_close_us / 1e6:g} s"
        limits.append((now_us + options.start_to_close_us, text))
    if options.schedule_to_close_us:
        text = f"was not done within {options.schedule_to_close_us / 1e6:g} s of being scheduled"
        limits.append((activity.scheduled_at_us + options.schedule_to_close_us, text))
    return limits


def timed_out(name: str, attempt: int, why: str) -> Failure:
    """What is recorded of an attempt of activity `name` that has failed by the clock."""
    return Failure(TIMEOUT, f"attempt {attempt} of activity {name!r} {why}")


def failed_attempt(
    activity: PendingActivity,
    failure: Failure,
    type_names: tuple[str, ...],
    clock: Moment,
    *,
    counts: bool = True,
    details: bytes | None = None,
) -> ev.AttemptFailed | ev.ActivityFailed:
    """What follows the failure of the current attempt: another attempt, or the end.

    Judged once, by the time of the failure, and recorded; replay never judges again.

    Args:
        counts: whether it is one of those that the retry policy allows.
        details: what the next attempt reads; by default the last heartbeat's.
    """
    options = activity.options
    retry = (options and options.retry) or DEFAULT_RETRY
    made = activity.attempt - activity.uncounted
    now_us = clock.now_us()
    lost = failure.type_name == WORKER_LOST
    counts = counts and not (lost and activity.losses < retry.uncounted_losses)
    if not retry.gives_up_after(made if counts else made - 1, type_names):
        retry_at_us = now_us if lost else now_us + retry.delay_us(made, clock.draw())
        limit_us = options.schedule_to_close_us if options is not None else 0
        if not limit_us or retry_at_us < activity.scheduled_at_us + limit_us:
            details = activity.details if details is None else details
            return ev.AttemptFailed(activity.task, activity.attempt, failure, retry_at_us, counts, details)
    return ev.ActivityFailed(activity.task, failure, made, activity.attempt)
