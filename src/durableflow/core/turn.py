"""What one turn gives back, and the state of activities that the caller works from."""

from __future__ import annotations

from durableflow.model.events import ActivityOptions, Event, Observation


class TurnStopped(BaseException):
    """Raised, from outside, in a turn that does not come to a wait.

    No `Exception`: a loop that swallows those is often the very reason why the turn does not end.
    """


class PendingActivity:
    """An activity that was scheduled and has no recorded result.

    Attributes:
        task: its number among what the workflow asked for; part of the idempotency key.
        attempt: the current one, counted from 1; results of any other are refused.
        started: whether the history allows the current attempt to run.
        uncounted: how many of the attempts the retry policy does not count.
        retry_at_us: 0, or the moment before which the next attempt must not start.
        scheduled_at_us: time of the turn that scheduled it.
        details: the last recorded heartbeat of an earlier attempt.
        losses: how many attempts, last in a row, ended with the death of their worker.
    """

    __slots__ = (
        "attempt",
        "details",
        "input",
        "losses",
        "name",
        "options",
        "retry_at_us",
        "scheduled_at_us",
        "started",
        "task",
        "uncounted",
    )

    def __init__(self, task: int, name: str, data: bytes, options: ActivityOptions | None, at_us: int) -> None:
        self.task = task
        self.name = name
        self.input = data
        self.options = options
        self.scheduled_at_us = at_us
        self.attempt = 1
        self.uncounted = 0
        self.started = True
        self.retry_at_us = 0
        self.details: bytes | None = None
        self.losses = 0


class Turn:
    """The output of `Execution.advance`. The caller makes it so in this order.

    1. `events` are appended to the history, in one commit with the new status.
    2. Only when that is durable: the attempts of `scheduled` and `started` begin,
       those of `cancelled` are told to stop, and whoever sent the observations gets
       an acknowledgement. `refused` observations changed nothing and were not recorded.

    Attributes:
        first_seq: sequence number of `events[0]`.
        at_us: the time of the turn; never before that of an earlier turn.
    """

    __slots__ = ("at_us", "cancelled", "events", "first_seq", "refused", "scheduled", "started")

    def __init__(self, first_seq: int, at_us: int) -> None:
        self.first_seq = first_seq
        self.at_us = at_us
        self.events: list[Event] = []
        self.scheduled: list[PendingActivity] = []
        self.started: list[PendingActivity] = []
        self.cancelled: list[int] = []
        self.refused: list[Observation] = []
