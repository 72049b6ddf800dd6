"""What is to be done at which moment: one heap, one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from durableflow.runtime.clock import Clock

_CANCELLED_MIN: Final = 64


class Alarm:
    """A call at a moment; `cancel()` it when it is no longer wanted. `call` is None once it rang."""

    __slots__ = ("_alarms", "call")

    def __init__(self, alarms: Alarms, call: Callable[[], object]) -> None:
        self._alarms = alarms
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """It will not ring."""
        if self.call is not None:
            self.call = None
            self._alarms.note_cancelled()


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
        self._cancelled = 0

    def at(self, due_us: int, call: Callable[[], object]) -> Alarm:
        """Have `call` called when the clock says `due_us` or later."""
        alarm = Alarm(self, call)
        if not self._heap or due_us < self._heap[0][0]:
            self._earlier.set()
        heappush(self._heap, (due_us, next(self._numbers), alarm))
        return alarm

    def note_cancelled(self) -> None:
        """One of the heap will not ring; when half of them will not, the heap is made anew without them."""
        self._cancelled += 1
        if self._cancelled > _CANCELLED_MIN and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].call is not None]
            heapify(self._heap)
            self._cancelled = 0

    def next_due_us(self) -> int | None:
        """The moment of the next alarm."""
        heap = self._heap
        while heap and heap[0][2].call is None:
            heappop(heap)
            self._cancelled = max(0, self._cancelled - 1)
        return heap[0][0] if heap else None

    def ring(self) -> bool:
        """Call all that is due now; True when there was any. What they add rings the next time."""
        due: list[Alarm] = []
        while (due_us := self.next_due_us()) is not None and due_us <= self._clock.now_us():
            due.append(heappop(self._heap)[2])
        for alarm in due:
            call, alarm.call = alarm.call, None
            if call is not None:  # else one of those before has cancelled it
                call()
        return bool(due)

    async def run(self) -> None:
        """Ring for ever."""
        while True:
            if self.ring():
                await asyncio.sleep(0)  # others have their turn before what those calls added rings
            else:
                self._earlier.clear()
                await self._clock.wait(self._earlier, self.next_due_us())

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()
        self._cancelled = 0
