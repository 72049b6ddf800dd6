"""What all parts of a worker work with: the store, its lease, time, bounds, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from durableflow.backends.base import Backend, Commit, Lease, SendResult, UserWork
from durableflow.backends.sharded import with_outbox
from durableflow.errors import EngineClosed, LeaseLost, StorageError
from durableflow.observe import facts
from durableflow.runtime.alarms import Alarms
from durableflow.runtime.clock import Clock, SystemClock
from durableflow.runtime.settings import Settings

T = TypeVar("T")

_LOOK_AGAIN_S: Final = 0.1
_SAFE_PART: Final = 0.9
"""Of the time of a lease: what it allowed has been stopped when it ends."""


class Recoveries:
    """Counts, since this worker began.

    Attributes:
        instances: were under way when the worker before ended, and were taken up.
        attempts: were running then, and are lost.
        stalls: healed, because their cause was gone.
    """

    def __init__(self) -> None:
        self.instances = self.attempts = self.stalls = 0


class Means:
    """Handed to each part of a worker.

    Attributes:
        lease: the latest; its worker id is the fence of every commit.
        tell: told the facts of `observe.facts`.
        background: what is under way beside the loops.
        recovered: what went on by itself after something had broken.
    """

    def __init__(self, backend: Backend, clock: Clock, settings: Settings, tell: facts.Listener, lease: Lease) -> None:
        self.backend = backend
        self.clock = clock
        self.settings = settings
        self.tell = tell
        self.lease = lease
        self.alarms = Alarms(clock)
        self.offered: set[tuple[str, int]] = set()
        """Instance and number of the activities that a token may finish."""
        self.recovered = Recoveries()
        self.is_here: Callable[[str], bool] | None = None
        """Whether an instance belongs to this store; None when there is no other."""
        self.on_outbox: Callable[[], object] = int
        """Called when something for another store has been written."""
        self.home = backend
        """The store of circuits: of several that are one, the home shard."""
        self.background: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def commit(self, commit: Commit) -> None:
        """Make all of `commit` durable; raises as `Backend.commit` does."""
        if self.is_here is None or not commit.sends:
            await self.backend.commit(self.lease, commit)
            return
        routed = with_outbox(commit, self.is_here)
        await self.backend.commit(self.lease, routed)
        if routed.outbox:
            self.on_outbox()

    async def transact(self, instance_id: str, work: UserWork) -> SendResult:
        """Call user code inside a transaction; raises as `Backend.transact` does."""
        return await self.backend.transact(self.lease, instance_id, work)

    async def renew_for_ever(self) -> None:
        """Keep the lease.

        Raises:
            LeaseLost: another worker took over.
        """
        ttl_us = round(self.settings.lease_s * 1_000_000)
        renewed_s = self._loop.time()
        while True:
            await asyncio.sleep(self.settings.lease_s / 3)
            asked_s = self._loop.time()
            try:
                async with asyncio.timeout_at(renewed_s + _SAFE_PART * self.settings.lease_s):
                    lease = await self.patiently(lambda: self.backend.renew(self.lease, ttl_us, self.clock.now_us()))
            except TimeoutError:
                raise LeaseLost(
                    f"worker {self.lease.worker_id} could not renew its lease in time: another one may take over soon"
                ) from None
            self.lease, renewed_s = lease, asked_s
            if isinstance(self.clock, SystemClock):
                self.clock.skew_us = self.backend.clock_skew_us

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question, asked again for as long as the store cannot answer.

        Raises:
            EngineClosed, LeaseLost: it never will.
        """
        while True:
            try:
                return await ask()
            except (EngineClosed, LeaseLost):
                raise
            except StorageError as error:
                self.tell(facts.CommitRetried(str(error)))
                await asyncio.sleep(_LOOK_AGAIN_S)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` beside the loops; a worker that is stopped waits for it."""
        task = self._loop.create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)
