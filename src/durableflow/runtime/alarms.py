"""What is to be done at which moment: one heap, one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from durableflow.runtime.clock import Clock


class Alarm:
    """A call at a moment; `cancel()` it when it is no longer wanted. `call` is None once it rang."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """It will not ring."""
        self.call = None


class Alarms:
    """Rings alarms in the order of their moments, never early.

    Args:
        clock: whose time counts.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, Alarm]] = []
        self._numbers = count()
        self._earlier = asyncio.Event()

    def at(self, due_us: int, call: Callable[[], None]) -> Alarm:
        """Have `call` called when the clock says `due_us` or later."""
        alarm = Alarm(call)
        if not self._heap or due_us < self._heap[0][0]:
            self._earlier.set()
        heappush(self._heap, (due_us, next(self._numbers), alarm))
        return alarm

    def next_due_us(self) -> int | None:
        """The moment of the next alarm."""
        heap = self._heap
        while heap and heap[0][2].call is None:
            heappop(heap)
        return heap[0][0] if heap else None

    def ring(self) -> None:
        """Call all that is due."""
        heap = self._heap
        while (due_us := self.next_due_us()) is not None and due_us <= self._clock.now_us():
            alarm = heappop(heap)[2]
            call, alarm.call = alarm.call, None
            assert call is not None
            call()

    async def run(self) -> None:
        """Ring for ever."""
        while True:
            self.ring()
            self._earlier.clear()
            await self._clock.wait(self._earlier, self.next_due_us())

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()
