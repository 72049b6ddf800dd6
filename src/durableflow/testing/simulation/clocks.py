"""The clock of a simulated process: it may be wrong, drift and jump, as those of machines do."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from durableflow.testing.simulation.loop import SimulatedLoop

START_US: Final = 1_900_000_000_000_000
_LONGEST_WAIT_S: Final = 30.0


class DriftingClock:
    """What an engine gets time and randomness from; see `durableflow.runtime.clock.Clock`.

    Args:
        seed: of its dice.
        rate: how many seconds it counts in one.
    """

    def __init__(self, loop: SimulatedLoop, seed: str, rate: float = 1.0) -> None:
        self._loop = loop
        self._dice = random.Random(seed)  # noqa: S311  # repeatable on purpose
        self._rate = rate
        self._shift_us = 0
        self._last_us = 0

    def jump(self, by_us: int) -> None:
        """Somebody sets the clock."""
        self._shift_us += by_us

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        now_us = START_US + round(self._loop.now_us * self._rate) + self._shift_us
        self._last_us = max(self._last_us, now_us)
        return self._last_us

    async def wait(self, changed: asyncio.Event, until_us: int | None) -> None:
        """See `Clock.wait`. As with a machine's own clock, a jump is noticed only after a while."""
        timeout_s = _LONGEST_WAIT_S
        if until_us is not None:
            timeout_s = min(timeout_s, max(0, until_us - self.now_us()) / self._rate / 1_000_000)
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            return

    def random_bits(self, count: int) -> int:
        """See `Clock.random_bits`."""
        return self._dice.getrandbits(count)

    def draw(self) -> float:
        """See `Clock.draw`."""
        return self._dice.random()
