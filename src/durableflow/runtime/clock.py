"""Time and dice, behind one small interface; nothing else in the engine touches them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Final, Protocol

from durableflow.backends.ownership import counted_us

_LONGEST_WAIT_S: Final = 30.0


_WORD_BITS: Final = 128
_SPARE_BYTES: Final = 4096
_SPARE_WORDS: Final[list[int]] = []
"""Random bits from the operating system, drawn before they are needed, each word handed out once.

Asking it for a few bytes costs as much as for hundreds, and lets another thread go first. Threads may
draw at the same time: a list takes and gives its items whole. A forked child has copies of the words,
which it throws away before anything else runs in it.
"""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SPARE_WORDS.clear)


def _draw_words() -> int:
    """One random word; others are put by."""
    drawn = os.urandom(_SPARE_BYTES)
    size = _WORD_BITS // 8
    words = [int.from_bytes(drawn[start : start + size]) for start in range(0, _SPARE_BYTES, size)]
    _SPARE_WORDS.extend(words[1:])
    return words[0]


class Moment(Protocol):
    """What a failure is judged by."""

    def now_us(self) -> int:
        """Microseconds since 1970; never less than it said before."""
        ...

    def draw(self) -> float:
        """Uniform in [0, 1), for jitter."""
        ...


class Clock(Moment, Protocol):
    """Where an engine gets time and randomness from."""

    async def wait(self, changed: asyncio.Event, until_us: int | None) -> None:
        """Return when `changed` is set or the time is `until_us`; the caller looks which."""
        ...

    def random_bits(self, count: int) -> int:
        """Bits for ids."""
        ...


class SystemClock:
    """The machine's clock, held still when it is set back.

    Attributes:
        skew_us: if it is set, time is what the machine counts, and this: the clock of a store that many machines share,
            whatever happens to their own.
    """

    def __init__(self) -> None:
        self._last_us = 0
        self.skew_us: int | None = None

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        now_us = time.time_ns() // 1000 if self.skew_us is None else counted_us() + self.skew_us
        if now_us > self._last_us:  # noqa: PLR1730  # asked for at every turn: a call of max() is half of it
            self._last_us = now_us
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
        if count > _WORD_BITS:
            return int.from_bytes(os.urandom((count + 7) // 8)) >> (-count % 8)
        try:
            word = _SPARE_WORDS.pop()
        except IndexError:
            word = _draw_words()
        return word >> (_WORD_BITS - count)

    def draw(self) -> float:
        """See `Clock.draw`."""
        return random.random()  # noqa: S311  # jitter, not secrets
