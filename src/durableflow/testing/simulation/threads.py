"""Threads for activities that block, in one thread: each call is made in one moment, and its word comes later."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from durableflow.runtime.threads import DaemonThreads
from durableflow.testing.simulation.loop import SimulatedLoop

_BEGINS_US: Final = 50_000
_TAKES_US: Final = (0, 1_000, 500_000, 3_000_000)
"""One of these is the longest that a call takes."""


class SimulatedThreads(DaemonThreads):
    """At most `size` calls at once, each for as long as the dice say.

    What a call does has happened when it begins, and what it tells the loop is heard when it ends.
    """

    def __init__(self, seed: str, size: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        self._loop = loop
        self._dice = random.Random(f"{seed} threads {loop.now_us}")  # noqa: S311  # repeatable on purpose
        self._free = size
        self._line: deque[Callable[[], None]] = deque()

    def submit(self, call: Callable[[], None]) -> None:
        """See `DaemonThreads.submit`."""
        self._line.append(call)
        self._serve()

    def _serve(self) -> None:
        while self._free and self._line:
            self._free -= 1
            begins_s = self._dice.randrange(_BEGINS_US) / 1_000_000
            self._loop.call_later(begins_s, partial(self._run, self._line.popleft()))

    def _run(self, call: Callable[[], None]) -> None:
        takes_us = 1 + round(self._dice.choice(_TAKES_US) * self._dice.random())
        with self._loop.in_thread(takes_us):
            call()
        self._loop.call_later(takes_us / 1_000_000, self._end)

    def _end(self) -> None:
        self._free += 1
        self._serve()

    def stop(self) -> None:
        """See `DaemonThreads.stop`."""
