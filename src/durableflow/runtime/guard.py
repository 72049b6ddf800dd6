"""Watches turns from a thread of its own: names the frame that blocks, stops what never waits."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar, cast

from durableflow.core.turn import TurnStopped
from durableflow.errors import TurnTooLong

P = ParamSpec("P")
T = TypeVar("T")

_PERIOD_S: Final = 0.25


class TurnGuard:
    """Guards the turns of one event loop.

    A turn that runs longer than `warn_s` is reported with the line it is at; one that runs
    longer than `limit_s` gets `TurnStopped` raised in it, again and again if it swallows it.

    Args:
        warn_s: seconds.
        limit_s: seconds; 0 for no limit.
        report: told `(instance_id, seconds, "file:line in function")`, on the guard's thread.
    """

    def __init__(self, warn_s: float, limit_s: float, report: Callable[[str, float, str], None]) -> None:
        self._warn_s = warn_s
        self._limit_s = limit_s
        self._report = report
        self._lock = threading.Lock()
        self._instance_id: str | None = None
        self._since = 0.0
        self._turn = 0
        self._warned = -1
        self._fired = False
        self.location = ""
        self._loop_thread = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        import ctypes  # when an engine is opened, not whenever the library is imported

        self._ctypes = ctypes

    def start(self) -> None:
        """Watch the calling thread's turns."""
        self._loop_thread = threading.get_ident()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name="durableflow turn guard", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopping.set()

    def enter(self, instance_id: str) -> None:
        """A turn of this instance begins."""
        self._turn += 1
        self._since = time.monotonic()
        self._instance_id = instance_id

    def leave(self) -> str | None:
        """The turn is over; where it was stopped, or None when it came to its wait by itself.

        An exception that was sent but has not arrived is caught here, so that it cannot
        strike elsewhere. It may still arrive at the very call of this method: then call it again.
        """
        with self._lock:
            self._instance_id = None
            fired, self._fired = self._fired, False
        if fired:
            self._catch_what_is_under_way()
        return self.location if fired else None

    def run(self, instance_id: str, turn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `turn`, guarded.

        Raises:
            TurnTooLong: it was stopped; the message says where.
        """
        stopped_at: str | None = None
        result: T | None = None
        try:
            self.enter(instance_id)
            try:
                result = turn(*args, **kwargs)
            finally:
                stopped_at = self.leave()
        except TurnStopped:
            stopped_at = self.leave() or self.location
        except BaseException:
            if stopped_at is None:
                raise
        if stopped_at is not None:
            reason = f"a turn of its workflow did not come to a wait and was stopped at {stopped_at}"
            raise TurnTooLong(reason) from None
        return cast("T", result)

    def _catch_what_is_under_way(self) -> None:
        """Whether the last one has arrived cannot be asked, so one more is sent, which takes its place, and awaited.

        Taking it back (by sending None) would do, but for CPython before 3.13: it would look for it at every call from then
        on, and under a tracer (a debugger, a measurer of coverage) never come to the end of looking.
        """
        try:
            self._send()
            while True:
                pass
        except TurnStopped:
            pass

    def _send(self) -> None:
        self._ctypes.pythonapi.PyThreadState_SetAsyncExc(
            self._ctypes.c_ulong(self._loop_thread), self._ctypes.py_object(TurnStopped)
        )

    def _watch(self) -> None:
        while not self._stopping.wait(min(_PERIOD_S, self._warn_s / 2, (self._limit_s or _PERIOD_S) / 4)):
            instance_id, turn, took_s = self._instance_id, self._turn, time.monotonic() - self._since
            if instance_id is None or took_s < self._warn_s:
                continue
            if self._warned != turn:
                self._warned = turn
                self._report(instance_id, took_s, self._where())
            if self._limit_s and took_s >= self._limit_s:
                self._strike(turn)

    def _strike(self, turn: int) -> None:
        with self._lock:
            if self._instance_id is None or self._turn != turn:
                return
            self.location = self._where()
            self._fired = True
            self._send()

    def _where(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]  # the documented way to another thread's stack
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if not module.startswith("durableflow."):
                return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
            frame = frame.f_back
        return "an unknown line"
