"""Bounded daemon threads for activities that block.

Not `concurrent.futures`: its threads are joined at the interpreter's exit, so that one
activity which never returns would hang the process for ever.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class DaemonThreads:
    """Runs calls in at most `size` daemon threads, made when needed."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._lock = threading.Lock()

    def submit(self, call: Callable[[], None]) -> None:
        """Run `call` (which must not raise) as soon as a thread is free."""
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif self._threads < self._size:
                self._threads += 1
                name = f"durableflow activity {self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        self._calls.put(call)

    def stop(self) -> None:
        """Let idle threads end; those that run a call end after it."""
        with self._lock:
            for _ in range(self._threads):
                self._calls.put(None)
            self._threads = self._idle = 0

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call
            with self._lock:
                self._idle += 1
