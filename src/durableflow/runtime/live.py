"""One instance in memory, and whoever waits for what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from durableflow.backends.base import HistoryRow, NewInstance
from durableflow.core.execution import Execution
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.runtime.alarms import Alarm
from durableflow.runtime.attempt import Attempt, Request

Ack = asyncio.Future[None]
Told = tuple[ev.Observation, Ack | None, int]
"""Something that an instance is told: the event, who waits for it to be durable, its number in the inbox or 0."""


class PutAway(Exception):
    """The instance left memory before this was taken; tell it again."""


class Live:
    """One instance in memory.

    Args:
        take_note: told when it has something for its next turn.
    """

    __slots__ = (
        "alarm",
        "alarm_us",
        "attempts",
        "base_seq",
        "checked_rows",
        "custom_status",
        "execution",
        "gone",
        "id",
        "in_commit",
        "log",
        "log_before",
        "looks",
        "new",
        "pending",
        "queued",
        "requests",
        "round_begun",
        "started",
        "status",
        "take_note",
        "unreadable",
        "wake_us",
    )

    def __init__(self, execution: Execution, take_note: Callable[[Live], None]) -> None:
        self.id = execution.instance_id
        self.execution = execution
        self.take_note = take_note
        self.pending: list[Told] = []
        """Observations that no turn has taken."""
        self.queued = False
        """Among those that the next commit is made up of."""
        self.in_commit = False
        """Its last turn is not durable yet: it takes no other before that."""
        self.gone = False
        self.unreadable: str | None = None
        """Why it must be stalled instead of taking a turn: a message in its inbox."""
        self.new: NewInstance | None = None
        self.started: Ack | None = None
        """Done when a new one is durable."""
        self.attempts: dict[int, Attempt] = {}
        self.requests: dict[int, Request] = {}
        """Activities that wait for a place, or have one and wait for the commit that lets them begin."""
        self.alarm: Alarm | None = None
        self.alarm_us: int | None = None
        self.status = Status.PENDING
        self.wake_us: int | None = None
        self.custom_status: bytes | None = None
        self.base_seq = 1
        """The number of the first event that replay needs."""
        self.round_begun: int | None = None
        """The same, when the store does not know it yet."""
        self.log: list[HistoryRow] | None = None
        """The rows of this round so far; kept only in replay check mode."""
        self.log_before: list[list[HistoryRow]] = []
        """In that mode, the rows of rounds that are over, until they have been checked."""
        self.looks: list[Callable[[Live | None], None]] | None = None
        """Who wants to look at it as soon as all that it has done is durable; called with None when it is put away."""
        self.checked_rows = 0
        """How many of them there were when they were last replayed."""

    def tell(self, event: ev.Observation, ack: Ack | None = None, number: int = 0) -> None:
        """Give an observation to the next turn."""
        if self.gone:
            return
        self.pending.append((event, ack, number))
        if not self.queued:
            self.call_up()

    def begin_round(self, base_seq: int) -> None:
        """Replay needs nothing from before `base_seq`, where the next row begins."""
        self.base_seq = self.round_begun = base_seq
        if self.log is not None:
            self.log_before.append(self.log)
            self.log, self.checked_rows = [], 0

    def look(self, call: Callable[[Live | None], None]) -> None:
        """Have `call` look at it when all that it has done is durable: at once, or when its turn is."""
        if not self.in_commit:
            call(self)
        elif self.looks is None:
            self.looks = [call]
        else:
            self.looks.append(call)

    def show(self, live: Live | None) -> None:
        """Let those look who wait for it."""
        looks, self.looks = self.looks, None
        for call in looks or ():
            call(live)

    def call_up(self) -> None:
        """Have it take a turn, be it an empty one; when its last one is under way, as soon as that is durable."""
        self.queued = True
        if not self.in_commit:
            self.take_note(self)

    def may_go_on(self) -> None:
        """Its last turn is durable."""
        self.in_commit = False
        if self.looks is not None:
            self.show(self)
        if self.queued:  # it was told something meanwhile
            self.take_note(self)

    @property
    def is_idle(self) -> bool:
        """True when it only waits for the clock or for messages."""
        execution = self.execution
        return not (self.queued or self.in_commit or self.attempts or self.requests or execution.runs_attempts)


def answer(told: Iterable[Told], error: Exception | None) -> None:
    """Acknowledge all of `told`, or refuse it with `error`."""
    for _, ack, _ in told:
        if ack is not None and not ack.done():
            if error is None:
                ack.set_result(None)
            else:
                ack.set_exception(error)


def reject(future: asyncio.Future[Any] | None, error: BaseException) -> None:
    """Fail `future` if somebody still waits for it."""
    if future is not None and not future.done():
        future.set_exception(error)
        future.exception()  # whoever waits still gets it; nobody waiting is no warning


def look_away(future: asyncio.Future[Any]) -> None:
    """A failure of `future` that nobody waits for is no warning."""
    if not future.cancelled():
        future.exception()
