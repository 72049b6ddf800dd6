"""What the next commit will hold: instances with news, heartbeats, messages to be removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from durableflow.backends.base import Heartbeat
from durableflow.runtime.live import Live


class Agenda:
    """Collects until somebody takes it.

    Attributes:
        work: set while there is something to take.
        dirty: instances with something for their next turn, in the order in which they got it.
        on_news: called, if set, when something comes in.
    """

    def __init__(self) -> None:
        self.work = asyncio.Event()
        self.dirty: list[Live] = []
        self.on_news: Callable[[], object] | None = None
        self._beats: dict[tuple[str, int], Heartbeat] = {}
        self._leftovers: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.dirty or self._beats or self._leftovers)

    def take_note(self, live: Live) -> None:
        """`live` has something for its next turn."""
        self.dirty.append(live)
        self._announce()

    def keep_beat(self, beat: Heartbeat) -> None:
        """The latest details of an attempt; earlier ones that nobody took are forgotten."""
        self._beats[beat.instance_id, beat.task] = beat
        self._announce()

    def drop_messages(self, numbers: Iterable[int]) -> None:
        """Have messages removed for which their instance was over too early."""
        self._leftovers += [number for number in numbers if number]
        if self._leftovers:
            self._announce()

    def _announce(self) -> None:
        self.work.set()
        if self.on_news is not None:
            self.on_news()

    def take_beats(self) -> list[Heartbeat]:
        """All heartbeats that were kept."""
        beats = list(self._beats.values())
        self._beats.clear()
        return beats

    def take_leftovers(self) -> list[int]:
        """All messages that are to be removed."""
        leftovers, self._leftovers = self._leftovers, []
        return leftovers

    def clear(self) -> None:
        """Forget all."""
        self.dirty.clear()
        self._beats.clear()
        self._leftovers.clear()
