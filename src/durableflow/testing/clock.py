"""A clock that a test holds in its hand.

Rules that this file keeps:

1. Time stands still. It moves when the test moves it, or when somebody waits through the kit
   for something that only time can bring.
2. It moves in order: to the next moment at which something is due, never past it, and not before
   everything that could happen without it has happened.
3. While an attempt really works (a thread, a socket, a database), time waits for it. Only those
   that sleep on this very clock do not hold it up.
4. Waiting for others is done with growing pauses, not in a hot loop.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

from durableflow.authoring.activity import current_activity
from durableflow.model.duration import Duration, from_datetime, to_datetime, to_us

T = TypeVar("T")

START: Final = datetime(2030, 1, 1, tzinfo=UTC)
"""The moment at which a test begins, unless it says otherwise: a fixed one, so that it is the same each time."""

_CALM_ROUNDS: Final = 4
_SPIN_ROUNDS: Final = 20
_PAUSE_S: Final = 0.0001
_LONGEST_PAUSE_S: Final = 0.01
_MOVES_MAX: Final = 100_000


class NothingHappens(AssertionError):
    """The test waits for something that neither time nor a running activity will bring."""


class Watched(Protocol):
    """An engine, as far as the clock needs to know it."""

    @property
    def waits_for_attempts(self) -> bool:
        """True when nothing but running attempts is under way, if anything at all."""
        ...

    @property
    def running_attempts(self) -> int:
        """How many attempts are running."""
        ...


class VirtualClock:
    """Time and dice for engines under test; pass it as `Engine(clock=...)`, several engines may share one.

    `WorkflowEnvironment` makes one and drives it; it is needed alone only for tests with engines of their own,
    which must be shown to it with `watch`.

    Args:
        start: the moment at which it begins; needs a time zone.
        seed: of the dice, from which ids and jitter come.
        patience_s: how many real seconds to wait for somebody to act before `NothingHappens` is raised.
        attempt_patience_s: how many real seconds an attempt may work before that is taken for a hang.
    """

    def __init__(
        self,
        start: datetime = START,
        *,
        seed: int = 0,
        patience_s: float = 1.0,
        attempt_patience_s: float = 30.0,
    ) -> None:
        self._now_us = from_datetime(start, "start")
        self._dice = random.Random(f"durableflow clock {seed}")  # noqa: S311  # repeatable on purpose
        self._patience_s = patience_s
        self._attempt_patience_s = attempt_patience_s
        self._watched: list[Watched] = []
        self._parked: dict[int, tuple[int | None, asyncio.Event]] = {}
        self._asleep: Counter[int] = Counter()
        self._last_number = 0
        self._moving = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<virtual clock at {self.now().isoformat()}>"

    # -- what an engine asks --------------------------------------------------------------------------------

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return self._now_us

    async def wait(self, changed: asyncio.Event, until_us: int | None) -> None:
        """See `Clock.wait`. When the time has come, it is the clock that sets `changed`."""
        if until_us is not None and until_us <= self._now_us:
            return
        self._last_number = number = self._last_number + 1
        self._parked[number] = until_us, changed
        try:
            await changed.wait()
        finally:
            del self._parked[number]

    def random_bits(self, count: int) -> int:
        """See `Clock.random_bits`."""
        return self._dice.getrandbits(count)

    def draw(self) -> float:
        """See `Clock.draw`."""
        return self._dice.random()

    # -- what a test asks -----------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The moment that it shows, in UTC."""
        return to_datetime(self._now_us)

    def watch(self, engine: Watched) -> None:
        """Let time pass only when this engine has nothing to do."""
        self._watched.append(engine)

    async def sleep(self, duration: Duration) -> None:
        """As `asyncio.sleep`, on this clock; for functions that stand in for slow activities."""
        until_us = self._now_us + to_us(duration, "the duration of sleep")
        attempt = current_activity.get()
        if attempt is None:
            await self.wait(asyncio.Event(), until_us)
            return
        self._asleep[id(attempt)] += 1
        try:
            await self.wait(asyncio.Event(), until_us)
        finally:
            self._asleep -= Counter({id(attempt): 1})

    async def settle(self) -> None:
        """Return when everything has happened that can happen now.

        Raises:
            NothingHappens: an attempt has been working for longer than `attempt_patience_s` of real time.
        """
        async with self._moving:
            await self._settle(None)

    async def advance(self, duration: Duration) -> None:
        """Let this much time pass: all that falls due happens at its own moment, in order.

        Raises:
            NothingHappens: as `settle` does.
        """
        until_us = self._now_us + to_us(duration, "the duration of advance")
        while True:
            async with self._moving:
                await self._settle(None)
                due_us = self._next_due_us()
                if due_us is None or due_us > until_us:
                    break
                self._set(due_us)
        self._set(until_us)
        await self.settle()

    async def skip_until(
        self,
        waited: Coroutine[Any, Any, T],
        *,
        limit_us: int | None = None,
        explain: Callable[[], Awaitable[str]] | None = None,
    ) -> T:
        """The result of `waited`; time skips ahead for as long as it has none.

        Args:
            waited: what somebody waits for.
            limit_us: the moment at which to give up.
            explain: says what is missing when nothing happens any more.

        Raises:
            TimeoutError: the limit is reached.
            NothingHappens: nothing that is due, running or said by others can bring the result.
        """
        task = asyncio.ensure_future(waited)
        try:
            if not await self._skip(task, limit_us) and not task.done():
                reason = "nothing more will happen by itself" if explain is None else await explain()
                raise NothingHappens(reason)
            return await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    # -- moving ---------------------------------------------------------------------------------------------

    async def _skip(self, task: asyncio.Task[Any], limit_us: int | None) -> bool:
        """Move until `task` is done; False when no move can help."""
        for _ in range(_MOVES_MAX):
            async with self._moving:
                await self._settle(task)
                if task.done():
                    return True
                due_us = self._next_due_us()
                if limit_us is not None and (due_us is None or due_us > limit_us):
                    self._set(limit_us)
                    await self._settle(task)
                    if task.done():
                        return True
                    raise TimeoutError
                if due_us is not None:
                    self._set(due_us)
                    continue
            if not await self._somebody_acts(task):
                return False
        raise NothingHappens(
            f"{_MOVES_MAX:,} alarms have rung, it is {self.now().isoformat()} by now, and what the test waits for has "
            "still not happened; if some timers go round for ever, let time pass with advance(...) instead"
        )

    async def _somebody_acts(self, task: asyncio.Task[Any]) -> bool:
        """Wait for another part of the test to do something."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._patience_s
        while loop.time() < give_up_s:
            await asyncio.wait([task], timeout=_LONGEST_PAUSE_S)
            if task.done() or not self._is_settled() or self._next_due_us() is not None:
                return True
        return False

    async def _settle(self, task: asyncio.Task[Any] | None) -> None:
        """Return when nothing is under way, and has not been for some turns of the event loop, or `task` is done."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        calm = rounds = 0
        pause_s = _PAUSE_S
        while calm < _CALM_ROUNDS and not (task is not None and task.done()):
            await asyncio.sleep(0)
            rounds += 1
            if self._is_settled():
                calm += 1
                continue
            calm = 0
            if rounds > _SPIN_ROUNDS:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                if loop.time() - began_s > self._attempt_patience_s:
                    raise NothingHappens(
                        f"time cannot pass: after {self._attempt_patience_s:g} s of real time {self._who_works()}; "
                        "replace a slow activity by one that takes(...) virtual time, or raise attempt_patience_s"
                    )

    def _is_settled(self) -> bool:
        if any(changed.is_set() for _, changed in self._parked.values()):
            return False  # somebody was woken and has not looked yet
        attempts = sum(engine.running_attempts for engine in self._watched)
        return attempts <= len(self._asleep) and all(engine.waits_for_attempts for engine in self._watched)

    def _who_works(self) -> str:
        attempts = sum(engine.running_attempts for engine in self._watched) - len(self._asleep)
        return f"{attempts} attempts of activities are still running" if attempts > 0 else "an engine is still busy"

    def _next_due_us(self) -> int | None:
        return min((until_us for until_us, _ in self._parked.values() if until_us is not None), default=None)

    def _set(self, now_us: int) -> None:
        self._now_us = max(now_us, self._now_us)
        for until_us, changed in self._parked.values():
            if until_us is not None and until_us <= self._now_us:
                changed.set()
