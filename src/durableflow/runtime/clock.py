"""Time and dice, behind one small interface; nothing else in the engine touches them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Final, Protocol

_LONGEST_WAIT_S: Final = 30.0


class Clock(Protocol):
    """Where an engine gets time and randomness from."""

    def now_us(self) -> int:
        """Microseconds since 1970; never less than it said before."""
        ...

    async def wait(self, changed: asyncio.Event, until_us: int | None) -> None:
        """Return when `changed` is set or the time is `until_us`; the caller looks which."""
        ...

    def random_bits(self, count: int) -> int:
        """Bits for ids."""
        ...

    def draw(self) -> float:
        """Uniform in [0, 1), for jitter."""
        ...


class SystemClock:
    """The machine's clock, held still when it is set back."""

    def __init__(self) -> None:
        self._last_us = 0

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        now_us = time.time_ns() // 1000
        self._last_us = max(self._last_us, now_us)
        return self._last_us

    async def wait(self, changed: asyncio.Event, until_us: int | None) -> None:
        """See `Clock.wait`."""
        # Not longer than a while: the loop's clock stands still while the machine sleeps, this one does not.
        timeout = _LONGEST_WAIT_S
        if until_us is not None:
            timeout = min(timeout, max(0.0, (until_us - self.now_us()) / 1_000_000))
        try:
            async with asyncio.timeout(timeout):  # wait_for of Python 3.11 can swallow a cancellation
                await changed.wait()
        except TimeoutError:
            return

    def random_bits(self, count: int) -> int:
        """See `Clock.random_bits`."""
        return int.from_bytes(os.urandom((count + 7) // 8)) >> (-count % 8)

    def draw(self) -> float:
        """See `Clock.draw`."""
        return random.random()  # noqa: S311  # jitter, not secrets
