"""Due times of one instance."""

from __future__ import annotations

from heapq import heappop, heappush


class Timers:
    """Which task is due when; earliest first, and by task number at the same moment."""

    __slots__ = ("_due_us", "_heap")

    def __init__(self) -> None:
        self._due_us: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def arm(self, number: int, due_us: int) -> None:
        """Task `number` is due at `due_us`."""
        self._due_us[number] = due_us
        heappush(self._heap, (due_us, number))

    def disarm(self, number: int) -> None:
        """It is not due any more."""
        self._due_us.pop(number, None)

    def fire(self, number: int, now_us: int) -> bool:
        """Take a due timer away; False when it is not armed, or not due yet."""
        due_us = self._due_us.get(number)
        if due_us is None or due_us > now_us:
            return False
        del self._due_us[number]
        return True

    def next_due_us(self) -> int | None:
        """The earliest due time."""
        heap = self._heap
        while heap and self._due_us.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now_us: int) -> list[int]:
        """The tasks that are due at `now_us`, each told once; they stay armed until they fire."""
        due: list[int] = []
        while (due_us := self.next_due_us()) is not None and due_us <= now_us:
            due.append(heappop(self._heap)[1])
        return due
