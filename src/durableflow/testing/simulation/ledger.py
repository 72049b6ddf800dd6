"""The ledger: every attempt of an activity that user code has made, with its input and what it returned.

It is the world's, as a payment provider's would be: what it says has happened, whatever became of the process.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from durableflow.authoring.activity import ActivityContext
from durableflow.model import converter
from durableflow.testing.simulation.loop import Process, current_process

_LONGEST_S: Final = ((0.3, 0.0), (0.8, 2.0), (0.95, 4.0), (1.0, 10.0))
"""How many of the attempts take how long: some longer than a lease."""


class LedgerAttempt:
    """One attempt, as the world saw it.

    Attributes:
        output: what it returned, as bytes; None before it has, or when it failed.
    """

    def __init__(
        self, ledger: Ledger, instance_id: str, task: int, number: int, process: Process, input: bytes, takes_s: float
    ) -> None:
        self.instance_id = instance_id
        self.task = task
        self.number = number
        self.process = process
        self.input = input
        self.output: bytes | None = None
        self._ledger = ledger
        self._takes_s = takes_s

    def __repr__(self) -> str:
        return f"attempt {self.number} of activity {self.task} of {self.instance_id!r} on {self.process.name}"

    async def take_time(self) -> None:
        """Work for as long as the dice say."""
        await asyncio.sleep(self._takes_s)

    def end(self) -> str:
        """What it returns: no other attempt returns the same."""
        value = f"{self.instance_id}/{self.task}#{self.number}"
        self.output = converter.dump(value, "the result")
        self._ledger.returned.setdefault((self.instance_id, self.task), set()).add(self.output)
        return value


class Ledger:
    """All attempts of one run.

    Args:
        on_begin: told of each when its user code begins; may object.
    """

    def __init__(self, seed: str, on_begin: Callable[[LedgerAttempt], None]) -> None:
        self._seed = seed
        self._on_begin = on_begin
        self.attempts: dict[tuple[str, int, int], LedgerAttempt] = {}
        self.made_twice: list[LedgerAttempt] = []
        self.returned: dict[tuple[str, int], set[bytes]] = {}
        """All that attempts of an activity have returned."""
        self.repeating: set[str] = set()
        """Instances whose attempts may be counted anew: they were rewound, or purged and started again."""

    def begin(self, context: ActivityContext, kind: str, number: int) -> LedgerAttempt:
        """User code of an attempt begins."""
        process = current_process()
        assert process is not None, "activities run in processes"
        # Its own dice: what it takes does not depend on what else happens.
        dice = random.Random(f"{self._seed} {context.idempotency_key} {context.attempt}")  # noqa: S311  # on purpose
        draw = dice.random()
        longest_s = next(seconds for share, seconds in _LONGEST_S if draw < share)
        attempt = LedgerAttempt(
            self,
            context.instance_id,
            int(context.idempotency_key.rpartition("/")[2]),
            context.attempt,
            process,
            converter.dump([kind, number], "the input"),
            draw * longest_s,
        )
        key = (attempt.instance_id, attempt.task, attempt.number)
        if key in self.attempts and attempt.instance_id not in self.repeating:
            self.made_twice.append(attempt)
        self.attempts[key] = attempt
        self._on_begin(attempt)
        return attempt


_LEDGER: ContextVar[Ledger] = ContextVar("durableflow simulated ledger")


def open_ledger(ledger: Ledger) -> None:
    """From here on, in this context, attempts are entered into `ledger`."""
    _LEDGER.set(ledger)


def current_ledger() -> Ledger:
    """Where attempts are entered."""
    return _LEDGER.get()
