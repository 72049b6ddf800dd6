"""The ledger: every attempt of an activity that user code has made, with its input and what it returned.

It is the world's, as a payment provider's would be: what it says has happened, whatever became of the process.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Container, Iterable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Self

from durableflow.authoring.activity import ActivityContext
from durableflow.model import converter
from durableflow.testing.simulation.loop import Process, SimulatedLoop, current_process

_LONGEST_S: Final = ((0.3, 0.0), (0.8, 2.0), (0.95, 4.0), (1.0, 10.0))
"""How many of the attempts take how long: some longer than a lease."""


_A_WHILE_US: Final = 1_000_000
"""Longer than it takes to write that an attempt ends and the next one begins."""


class LedgerAttempt:
    """One attempt, as the world saw it; entered and left by its code.

    Attributes:
        output: what it returned, as bytes; None before it has, or when it failed.
        takes_s: how long it works, unless it is told to stop.
        began_us: when its code began, by the time of the world.
        ended_us: when that ended, in whatever way; None before.
        raised: by what it ended, if it raised.
        details: what an attempt before it has said of itself, as this one was told.
        beats: what it has said of itself, in order, with the time by its process's clock.
        has_token: whether it has given a token away.
        said: values that others have sent with its token.
    """

    def __init__(
        self,
        ledger: Ledger,
        context: ActivityContext,
        process: Process,
        input: bytes,
        takes_s: float,
        now_us: int,
    ) -> None:
        self.instance_id = context.instance_id
        self.activity = context.activity
        self.task = int(context.idempotency_key.rpartition("/")[2])
        self.number = context.attempt
        self.process = process
        self.input = input
        self.output: bytes | None = None
        self.takes_s = takes_s
        self.began_us = now_us
        self.ended_us: int | None = None
        self.raised: BaseException | None = None
        self.details: Any = context.heartbeat_details
        self.beats: list[tuple[int, Any]] = []
        self.has_token = False
        self.said: set[bytes] = set()
        self.ledger = ledger

    def __repr__(self) -> str:
        return f"attempt {self.number} of activity {self.task} of {self.instance_id!r} on {self.process.name}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raised = error
        self.ended_us = self.ledger.now_us()

    async def take_time(self) -> None:
        """Work for as long as the dice say."""
        await asyncio.sleep(self.takes_s)

    def note_beat(self, details: Any) -> None:
        """It says of itself how far it is."""
        self.beats.append((self.ledger.clock_us(self.process), details))

    def hand_over(self, token: str) -> None:
        """Whoever gets the token says what comes of it."""
        self.has_token = True
        self.ledger.on_hand_over(self, token)

    def end(self) -> str:
        """What it returns: no other attempt returns the same."""
        value = f"{self.instance_id}/{self.task}#{self.number}"
        self.output = converter.dump(value, "the result")
        self._note_value(self.output)
        return value

    def say(self, who: int) -> str:
        """What one who holds its token says that it returns: nobody else says the same."""
        value = f"{self.instance_id}/{self.task}#{self.number} by {who}"
        data = converter.dump(value, "the result")
        self.said.add(data)
        self._note_value(data)
        return value

    def _note_value(self, data: bytes) -> None:
        self.ledger.returned.setdefault((self.instance_id, self.task), set()).add(data)

    def has_returned(self, output: bytes) -> bool:
        """Whether it was this that it returned, or that was said with its token."""
        return output == self.output or output in self.said


def _steps(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """When one more is under way, and when one less."""
    for begin_us, end_us in spans:
        yield begin_us, 1
        yield end_us, -1


class Ledger:
    """All attempts of one run.

    Args:
        on_begin: told of each when its user code begins; may object.
        on_hand_over: told of each that gives its token away.
        clock_us: says what time it is for a process.
    """

    def __init__(
        self,
        seed: str,
        on_begin: Callable[[LedgerAttempt], None],
        on_hand_over: Callable[[LedgerAttempt, str], None],
        clock_us: Callable[[Process], int],
    ) -> None:
        self._seed = seed
        self._on_begin = on_begin
        self.on_hand_over = on_hand_over
        self.clock_us = clock_us
        self.attempts: dict[tuple[str, int, int], LedgerAttempt] = {}
        self.made: list[LedgerAttempt] = []
        """All there were, in the order in which they began."""
        self.made_twice: list[LedgerAttempt] = []
        self.returned: dict[tuple[str, int], set[bytes]] = {}
        """All that attempts of an activity have returned, or others have said with their tokens."""
        self.repeating: set[str] = set()
        """Instances whose attempts may be counted anew: they were rewound, replaced, or purged and started again."""

    def now_us(self) -> int:
        """The time of the world, which no clock of a process shows."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        return loop.now_us

    def begin(self, context: ActivityContext, kind: str, number: int) -> LedgerAttempt:
        """User code of an attempt begins."""
        process = current_process()
        assert process is not None, "activities run in processes"
        # Its own dice: what it takes does not depend on what else happens.
        dice = random.Random(f"{self._seed} {context.idempotency_key} {context.attempt}")  # noqa: S311  # on purpose
        draw = dice.random()
        longest_s = next(seconds for share, seconds in _LONGEST_S if draw < share)
        data = converter.dump([kind, number], "the input")
        attempt = LedgerAttempt(self, context, process, data, draw * longest_s, self.now_us())
        key = (attempt.instance_id, attempt.task, attempt.number)
        if key in self.attempts and attempt.instance_id not in self.repeating:
            self.made_twice.append(attempt)
        self.attempts[key] = attempt
        self.made.append(attempt)
        self._on_begin(attempt)
        return attempt

    def had_room(self, process: Process, names: Container[str], places: int, since_us: int) -> bool:
        """Whether a process made fewer attempts of these activities at once than it could, for a second in a row."""
        now_us = self.now_us()
        own = [each for each in self.made if each.process is process and each.activity in names]
        spans = [(max(each.began_us, since_us), now_us if each.ended_us is None else each.ended_us) for each in own]
        moments = sorted([(since_us, 0), (now_us, 0), *_steps(span for span in spans if span[1] > since_us)])
        running, free_since_us = 0, since_us
        for at_us, step in moments:
            if running < places and at_us - free_since_us >= _A_WHILE_US:
                return True
            if running + step < places <= running:
                free_since_us = at_us
            running += step
        return False

    def attempts_of(self, instance_id: str, task: int) -> list[LedgerAttempt]:
        """All attempts of one activity, in the order in which they began."""
        return [each for each in self.made if (each.instance_id, each.task) == (instance_id, task)]


_LEDGER: ContextVar[Ledger] = ContextVar("durableflow simulated ledger")


def open_ledger(ledger: Ledger) -> None:
    """From here on, in this context, attempts are entered into `ledger`."""
    _LEDGER.set(ledger)


def current_ledger() -> Ledger:
    """Where attempts are entered."""
    return _LEDGER.get()
