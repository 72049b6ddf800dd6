"""What one turn gives back, and the state of activities that the caller works from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from durableflow.model.events import (
    ActivityFailed,
    ActivityOptions,
    ChildScheduled,
    Event,
    Observation,
    RequestAnswered,
)

WORKER_LOST: Final = "WorkerLost"
"""Type name of the failure of an attempt whose worker died."""


class TurnStopped(BaseException):
    """Raised, from outside, in a turn that does not come to a wait.

    No `Exception`: a loop that swallows those is often the very reason why the turn does not end.
    """


NOT_IN_A_BRANCH: Final = (
    "continue_as_new works only in the workflow's own code, not in a branch or a handler; "
    "let the workflow wait for it, and call continue_as_new there"
)


class BeginAnew(BaseException):
    """Raised by `continue_as_new`: unwinds the workflow's code, which then begins again with other input.

    No `Exception`, which an `except Exception` around the work would take for a failure.
    """

    def __init__(self, input: bytes, version: int) -> None:  # the word of the history
        self.input = input
        self.version = version
        super().__init__("the workflow begins anew; let this exception through")


class RoundOver(BaseException):
    """Raised in the code when the replay of a round has come to the checkpoint with which it ends."""


class PendingActivity(msgspec.Struct, eq=False, gc=False):
    """An activity that was scheduled and has no recorded result.

    A struct that the garbage collector does not visit: made quickly, and there may be many. Nothing in it
    can refer back to it.

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

    task: int
    name: str
    input: bytes
    options: ActivityOptions | None
    scheduled_at_us: int
    attempt: int = 1
    uncounted: int = 0
    started: bool = True
    retry_at_us: int = 0
    details: bytes | None = None
    losses: int = 0


class Send(msgspec.Struct, eq=False, frozen=True):
    """Something for another instance, written in the same commit as the turn.

    Attributes:
        instance_id: whose inbox it is for.
        task: whose answer tells what became of it; 0 when nobody wants to know.
        birth: the call that it is the start of, when it makes the other instance.
    """

    instance_id: str
    message: Observation
    task: int = 0
    birth: ChildScheduled | None = None


class Turn(msgspec.Struct, eq=False):
    """The output of `Execution.advance`. The caller makes it so in this order.

    1. The rows `closed` and the row of `events` are appended to the history, in one commit with the new status and
       with what is in `sends`.
    2. Only when that is durable: the attempts of `scheduled` and `started` begin,
       those of `cancelled` are told to stop, whoever sent the observations gets an acknowledgement,
       and who waits for one of `answered` gets it. `refused` observations changed nothing and were not recorded.

    A list that most turns leave empty is made when something is put into it; until then it is `()`.

    Attributes:
        first_seq: sequence number of `events[0]`.
        at_us: the time of the turn; never before that of an earlier turn.
        closed: `(first_seq, events)` of rows that the turn filled before `events`: each checkpoint begins another.
        exhausted: activities that failed for good in it.
        unseen_failures: in the turn that ends the instance, label and exception of each branch that failed
            without anybody taking notice; of very many, the first hundred.
    """

    first_seq: int
    at_us: int
    events: list[Event] = []
    scheduled: list[PendingActivity] | tuple[()] = ()
    started: list[PendingActivity] | tuple[()] = ()
    cancelled: list[int] | tuple[()] = ()
    refused: list[Observation] | tuple[()] = ()
    sends: list[Send] | tuple[()] = ()
    answered: list[RequestAnswered] | tuple[()] = ()
    closed: list[tuple[int, list[Event]]] | tuple[()] = ()
    exhausted: list[tuple[PendingActivity, ActivityFailed]] | tuple[()] = ()
    unseen_failures: list[tuple[str, BaseException]] | tuple[()] = ()

    def schedule(self, activity: PendingActivity) -> None:
        """Its first attempt begins once the turn is durable."""
        if self.scheduled:
            self.scheduled.append(activity)
        else:
            self.scheduled = [activity]

    def start(self, activity: PendingActivity) -> None:
        """An attempt of it, which had to wait, begins once the turn is durable."""
        if self.started:
            self.started.append(activity)
        else:
            self.started = [activity]

    def cancel(self, numbers: Iterable[int]) -> None:
        """The attempts of these activities are told to stop."""
        if self.cancelled:
            self.cancelled.extend(numbers)
        else:
            self.cancelled = list(numbers)

    def send(self, message: Send) -> None:
        """`message` leaves with the turn."""
        if self.sends:
            self.sends.append(message)
        else:
            self.sends = [message]

    def answer(self, answer: RequestAnswered) -> None:
        """`answer` is among the events; somebody may wait for it."""
        if self.answered:
            self.answered.append(answer)
        else:
            self.answered = [answer]

    def close_row(self, events: list[Event]) -> None:
        """The row so far is full; the next one begins with `events`."""
        row = (self.first_seq, self.events)
        if self.closed:
            self.closed.append(row)
        else:
            self.closed = [row]
        self.first_seq += len(self.events)
        self.events = events

    def exhaust(self, activity: PendingActivity, failed: ActivityFailed) -> None:
        """It failed for good."""
        if self.exhausted:
            self.exhausted.append((activity, failed))
        else:
            self.exhausted = [(activity, failed)]

    def refuse(self, event: Observation) -> None:
        """It changed nothing."""
        if self.refused:
            self.refused.append(event)
        else:
            self.refused = [event]
