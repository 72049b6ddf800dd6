"""External events of one instance: those that wait for a waiter, and waiters that wait for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from itertools import islice

from durableflow.model.events import KeptEvent


class Mailbox:
    """First in, first out for each name; names are compared casefolded."""

    __slots__ = ("_event_ids", "_kept", "_waiters")

    def __init__(self) -> None:
        self._event_ids: dict[str, None] = {}
        self._kept: dict[str, deque[bytes]] = {}
        self._waiters: dict[str, deque[int]] = {}

    def is_new(self, event_id: str) -> bool:
        """True the first time that this id is seen."""
        if event_id in self._event_ids:
            return False
        self._event_ids[event_id] = None
        return True

    def forget(self, event_id: str) -> None:
        """This one is told again."""
        self._event_ids.pop(event_id, None)

    def carry_in(self, kept: Iterable[KeptEvent], event_ids: Iterable[str]) -> None:
        """Begin with what an earlier round had."""
        for event in kept:
            self.keep(event.name, event.payload)
        self._event_ids.update(dict.fromkeys(event_ids))

    def kept(self) -> tuple[KeptEvent, ...]:
        """All that waits for a waiter, in order for each name."""
        return tuple(KeptEvent(name, payload) for name, kept in self._kept.items() for payload in kept)

    def latest_event_ids(self, most: int) -> tuple[str, ...]:
        """The `most` that were seen last, in the order in which they were."""
        return tuple(islice(self._event_ids, max(0, len(self._event_ids) - most), None))

    def keep(self, name: str, payload: bytes) -> None:
        """Nobody waits for it yet."""
        self._kept.setdefault(name, deque()).append(payload)

    def take(self, name: str) -> bytes | None:
        """The oldest kept payload of this name."""
        kept = self._kept.get(name)
        return kept.popleft() if kept else None

    def wait(self, name: str, number: int, waiting: Container[int]) -> None:
        """Task `number` waits for the next event of this name; `waiting` are all that still wait for anything."""
        waiters = self._waiters.setdefault(name, deque())
        while waiters and waiters[0] not in waiting:
            waiters.popleft()  # it gave up; in a loop of waits that time out they would pile up
        waiters.append(number)

    def leave(self, name: str, number: int) -> bool:
        """Task `number` steps out of the line; False when it stands in none of this name."""
        waiters = self._waiters.get(name)
        if waiters is None or number not in waiters:
            return False
        waiters.remove(number)
        return True

    def next_waiter(self, name: str) -> int | None:
        """The task that has waited longest; it may have been cancelled or timed out since."""
        waiters = self._waiters.get(name)
        return waiters.popleft() if waiters else None
