"""An event loop without the world: its time is a number, and a seed decides what else would be chance.

Rules that this file keeps:

1. The line of what is ready is first in, first out, as in asyncio: cancellation, and so every correct program, counts
   on it. What a seed may choose is the order of timers that are due in the same microsecond.
2. Time stands still while anything is ready, and then jumps to the next timer.
3. Each call belongs to the process in whose context it was made. What belongs to a process that does not run is held
   back, in order, and goes on when that does: a process that is killed is one that never does.
4. Tasks have counted hashes, so that a set of them has the same order whatever their addresses are.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from heapq import heappop, heappush
from itertools import count
from math import ceil
from typing import Any, Final, TypeVarTuple, Unpack

_Ts = TypeVarTuple("_Ts")

_CALLS_AT_ONCE_MAX: Final = 100_000
"""So many calls in one moment are a loop that never waits."""
_ROUNDING_US: Final = 0.001


class Deadlock(AssertionError):
    """Nothing is ready and no timer is set: whoever waits would do so for ever."""


class Livelock(AssertionError):
    """Time cannot pass, because something is always ready."""


class Process:
    """What lives and dies together: a context in which its calls are made.

    Attributes:
        is_running: false while it is frozen, and for ever when it was killed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_running = True
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)
        self._held: list[_Held] = []

    def __repr__(self) -> str:
        return f"<process {self.name}>"

    def hold(self, call: _Held) -> None:
        """Keep a call until the process runs again."""
        self._held.append(call)

    def freeze(self) -> None:
        """Make no call from here on; time goes on for all others."""
        self.is_running = False

    def thaw(self) -> None:
        """Make the calls that were held back, and those that follow."""
        self.is_running = True
        held, self._held = self._held, []
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        loop.line_up(held)


_PROCESS: ContextVar[Process | None] = ContextVar("durableflow simulated process", default=None)


def _process_of(context: Context | None) -> Process | None:
    return _PROCESS.get() if context is None else context.get(_PROCESS)


def current_process() -> Process | None:
    """The process whose call this is; None for the world's own."""
    return _PROCESS.get()


class _Held(asyncio.Handle):
    """A call that waits while its process does."""

    __slots__ = ()

    process: Process | None

    def make(self) -> None:
        """Make it, or hold it back."""
        if self.process is None or self.process.is_running:
            self._run()
        else:
            self.process.hold(self)


class _Call(_Held):
    """As soon as may be."""

    __slots__ = ("process",)


class _TimedCall(_Held, asyncio.TimerHandle):
    """At its time."""

    __slots__ = ("process",)


class CountedTask(asyncio.Task[Any]):
    """A task whose hash is its number."""

    number = 0

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs everything in one thread, in an order that a seed decides.

    Args:
        seed: of the order of timers that are due in the same microsecond.
    """

    def __init__(self, seed: object = 0) -> None:
        super().__init__()
        self.now_us = 0
        self.calls = 0
        self._ties = random.Random(f"{seed} ties")  # noqa: S311  # repeatable on purpose
        self._line: deque[_Held] = deque()
        self._timers: list[tuple[int, float, int, _TimedCall]] = []
        self._timer_numbers = count()
        self._task_numbers = count(1)
        self._calls_at_once = 0
        self._thread_us = 0
        self.set_task_factory(self._make_task)

    # -- asyncio's side -------------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds since it began."""
        return self.now_us / 1_000_000

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio.loop.call_soon`."""
        call = _Call(callback, args, self, context)
        call.process = _process_of(context)
        self._line.append(call)
        return call

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio.loop.call_soon_threadsafe`; there is one thread, or what stands for another: see `in_thread`."""
        if self._thread_us:
            return self._call_at_us(self.now_us + self._thread_us, callback, args, context)
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_later`."""
        return self._call_at_us(self.now_us + ceil(delay * 1_000_000 - _ROUNDING_US), callback, args, context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`."""
        return self._call_at_us(ceil(when * 1_000_000 - _ROUNDING_US), callback, args, context)

    def _call_at_us(
        self, due_us: int, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> _TimedCall:
        due_us = max(due_us, self.now_us)
        call = _TimedCall(due_us / 1_000_000, callback, args, self, context)
        call.process = _process_of(context)
        heappush(self._timers, (due_us, self._ties.random(), next(self._timer_numbers), call))
        return call

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Asyncio's count of those in its heap; here they are thrown away when their time comes."""

    def _run_once(self) -> None:
        """Make the calls that are ready; if there are none, let time pass to the next."""
        self._gather_due()
        line = self._line
        if not line:
            self._jump()
        for _ in range(len(line)):
            call = line.popleft()
            if not call.cancelled():
                self.calls += 1
                call.make()
        self._calls_at_once += 1
        if self._calls_at_once > _CALLS_AT_ONCE_MAX:
            self._calls_at_once = 0
            raise Livelock(f"time stands still at {self.time():.6f} s: something is always ready")

    def _gather_due(self) -> None:
        timers = self._timers
        while timers and (timers[0][0] <= self.now_us or timers[0][3].cancelled()):
            call = heappop(timers)[3]
            if not call.cancelled():
                self._line.append(call)

    def _jump(self) -> None:
        if not self._timers:
            raise Deadlock(f"nothing is ready and no timer is set at {self.time():.6f} s")
        self._calls_at_once = 0
        self.now_us = self._timers[0][0]
        self._gather_due()

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> CountedTask:
        task = CountedTask.__new__(CountedTask)
        task.number = next(self._task_numbers)  # before anybody can ask for the hash
        task.__init__(coro, loop=loop, **options)  # type: ignore[misc]
        return task

    # -- the simulation's side ------------------------------------------------------------------------------

    def call_after_us(self, delay_us: int, call: Callable[[], object], context: Context) -> None:
        """Make a call when so much time has passed."""
        self._call_at_us(self.now_us + delay_us, call, (), context)

    @contextmanager
    def in_thread(self, takes_us: int) -> Generator[None]:
        """What is called inside stands for a thread that takes so long: its effects are now, its word comes then."""
        self._thread_us = takes_us
        try:
            yield
        finally:
            self._thread_us = 0

    def line_up(self, calls: list[_Held]) -> None:
        """These are ready."""
        self._line.extend(calls)


@contextmanager
def simulated_loop(seed: object = 0) -> Generator[SimulatedLoop]:
    """A loop, which is closed at the end."""
    loop = SimulatedLoop(seed)
    try:
        yield loop
    finally:
        loop.close()
