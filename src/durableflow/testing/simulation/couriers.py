"""Couriers: those outside to whom activities give their tokens, and what they were told when they used them.

One token may be in several hands. A courier insists until it is answered, as a speaker does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Final, Literal, NamedTuple, TypeAlias

from durableflow.client import Client
from durableflow.errors import StorageError, TokenRefused
from durableflow.testing.simulation.ledger import LedgerAttempt
from durableflow.testing.simulation.nodes import NoAnswer, Node

DeliveryKind: TypeAlias = Literal["complete", "fail", "give up"]

_KINDS: Final[tuple[DeliveryKind, ...]] = ("complete", "complete", "complete", "complete", "fail", "give up")
_PAUSES_S: Final = (0.0, 0.0, 1.0, 3.0, 12.0)
"""One of these is the longest that a courier takes; the last is longer than most activities wait."""
_BEAT_S: Final = 1.0
_TRIES_MAX: Final = 60
_PAUSE_S: Final = 0.5


class Delivery(NamedTuple):
    """What one courier brought, and was told.

    Attributes:
        value: of a result.
        refused: why it was refused; empty when it was taken, None when nobody ever said.
        tries: how often it was brought before without an answer.
    """

    attempt: LedgerAttempt
    kind: DeliveryKind
    value: str
    refused: str | None
    tries: int


class Couriers:
    """All couriers of one universe.

    Args:
        nodes: the processes that run engines, as they are now.
        asker: a process that runs none.

    Attributes:
        deliveries: what was brought.
        tasks: couriers that are under way.
    """

    def __init__(self, seed: str, nodes: list[Node], asker: Node) -> None:
        self._dice = random.Random(f"{seed} couriers")  # noqa: S311  # repeatable on purpose
        self._nodes = nodes
        self._asker = asker
        self._numbers = 0
        self._world = copy_context()
        self.deliveries: list[Delivery] = []
        self.tasks: list[asyncio.Task[None]] = []

    def take(self, attempt: LedgerAttempt, token: str) -> None:
        """Somebody gets a token: one, two at once, or nobody who would use it."""
        for _ in range(self._dice.choice((0, 1, 1, 1, 1, 2))):
            kind = self._dice.choice(_KINDS)
            pause_s = self._dice.random() * self._dice.choice(_PAUSES_S)
            beats = self._dice.random() < 0.3
            self._numbers += 1
            carrying = self._carry(attempt, token, self._numbers, kind, pause_s, _BEAT_S if beats else pause_s)
            self.tasks.append(asyncio.get_running_loop().create_task(carrying, context=self._world))

    async def _carry(
        self, attempt: LedgerAttempt, token: str, number: int, kind: DeliveryKind, pause_s: float, beat_s: float
    ) -> None:
        details = [attempt.number, f"courier {number}"]
        while pause_s > beat_s:
            await asyncio.sleep(beat_s)
            pause_s -= beat_s
            attempt.note_beat(details)
            await self._insist(lambda client: client.heartbeat(token, details))
        await asyncio.sleep(pause_s)
        value = attempt.say(number) if kind == "complete" else ""

        async def bring(client: Client) -> None:
            if kind == "complete":
                await client.complete(token, value)
            else:
                await client.fail(token, "Flaky", f"courier {number}", retryable=kind == "fail")

        refused, tries = await self._insist(bring)
        self.deliveries.append(Delivery(attempt, kind, value, refused, tries))

    async def _insist(self, say: Callable[[Client], Awaitable[object]]) -> tuple[str | None, int]:
        for tries in range(_TRIES_MAX):
            node = self._dice.choice([*self._nodes, self._asker])
            try:
                await node.ask(say)
            except TokenRefused as refused:
                return refused.reason, tries
            except (NoAnswer, StorageError):
                await asyncio.sleep(_PAUSE_S)
            else:
                return "", tries
        return None, _TRIES_MAX
