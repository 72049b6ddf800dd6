"""A store in memory that many workers share, as those on Postgres do: with leases, and owners.

What it promises is what `durableflow.testing.FleetBackendContract` asks for. It is for simulations: a process of its
own has no use for a fleet.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from durableflow.backends.base import (
    ClaimedInstance,
    Commit,
    Lease,
    LoadedInstance,
    Message,
    MessagePage,
    QuietInstance,
    Share,
)
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.memory.rows import Instance
from durableflow.backends.moving import Living
from durableflow.backends.tasks import ClaimRequest, Outlook, StoredTask
from durableflow.model.alert import Takeover

_LAST: Final = 1 << 62
_NUMBERS: Final = 8
"""So many a transaction draws that draws them before it commits; one that needs more draws those when it commits."""


class _Worker(NamedTuple):
    name: str
    expires_us: int
    owned: int = 0
    accepts: bool = True


class MemoryFleet(MemoryBackend):
    """Everything in dictionaries of one process, each instance with an owner.

    Args:
        clock_us: of the store, by which leases count; whatever time the workers think it is.
    """

    is_fleet = True

    def __init__(self, clock_us: Callable[[], int] | None = None) -> None:
        super().__init__()
        self._clock_us = clock_us or (lambda: time.monotonic_ns() // 1_000)
        self._fleet: dict[int, _Worker] = {}
        self._owners: dict[str, int] = {}
        self._drawn: list[list[int]] = []
        """Message numbers that transactions have drawn which are still open."""
        self._own: list[int] = []
        """Those of the transaction that is being committed, if it has drawn any before."""

    # -- leases ---------------------------------------------------------------------------------------------

    async def acquire(self, name: str, ttl_us: int, now_us: int) -> Lease | None:  # noqa: ARG002  # its own counts
        """See `Backend.acquire`; there is room for everybody."""
        self._check_seal()
        self._last_worker_id += 1
        expires_us = self._clock_us() + ttl_us
        self._fleet[self._last_worker_id] = _Worker(name, expires_us)
        self._workers[self._last_worker_id] = Lease(self._last_worker_id, expires_us)
        return self._lease(self._last_worker_id)

    def _lease(self, worker_id: int) -> Lease:
        now_us = self._clock_us()
        is_first = not any(each < worker_id and w.expires_us > now_us for each, w in self._fleet.items())
        return Lease(worker_id, self._fleet[worker_id].expires_us, is_first)

    async def renew(self, lease: Lease, ttl_us: int, now_us: int) -> Lease:  # noqa: ARG002  # its own counts
        """See `Backend.renew`."""
        self._check(lease)
        worker = self._fleet[lease.worker_id]
        self._fleet[lease.worker_id] = worker._replace(expires_us=self._clock_us() + ttl_us)
        return self._lease(lease.worker_id)

    async def release(self, lease: Lease) -> None:
        """See `Backend.release`."""
        self._forget(lease.worker_id)
        self._notify()

    def _forget(self, worker_id: int) -> None:
        self._workers.pop(worker_id, None)
        self._fleet.pop(worker_id, None)

    def _bury(self) -> None:
        now_us = self._clock_us()
        for worker_id, worker in list(self._fleet.items()):
            if worker.expires_us < now_us:
                self._forget(worker_id)
                self._note_takeover(Takeover(worker_id, worker.name, now_us))

    def _living(self, now_us: int) -> list[Living]:
        shift_us = now_us - self._clock_us()
        with self._leases_by(now_us):
            servers = [each for each in super()._living(now_us) if each.kind == "server"]
        workers = [Living("worker", worker.name, worker.expires_us + shift_us) for worker in self._fleet.values()]
        return [*(worker for worker in workers if worker.expires_us > now_us), *servers]

    # -- owners ---------------------------------------------------------------------------------------------

    def _is_free(self, instance_id: str) -> bool:
        return self._owners.get(instance_id) not in self._fleet

    async def claim_instances(self, lease: Lease, limit: int) -> list[ClaimedInstance]:
        """See `OwnerStore.claim_instances`."""
        self._bury()
        self._check(lease)
        free = [
            instance.record
            for instance in self._instances.values()
            if not instance.record.status.is_terminal and self._is_free(instance.record.id)
        ]
        free.sort(key=lambda record: _LAST if record.wake_us is None else record.wake_us)
        claimed = free[:limit]
        for record in claimed:
            self._owners[record.id] = lease.worker_id
        self._sweep()
        return [ClaimedInstance(r.id, r.wake_us, bool(self._instances[r.id].inbox)) for r in claimed]

    def _sweep(self) -> None:
        """Messages of instances that are over, and whose worker is gone, are nobody's to drop."""
        for instance in self._instances.values():
            if instance.inbox and instance.record.status.is_terminal and self._is_free(instance.record.id):
                for number in list(instance.inbox):
                    self._consume(number)

    async def hand_over(self, lease: Lease, instance_ids: Sequence[str]) -> None:
        """See `OwnerStore.hand_over`."""
        for instance_id in instance_ids:
            if self._owners.get(instance_id) == lease.worker_id and self._is_active(instance_id):
                del self._owners[instance_id]
        self._notify()

    async def share(self, lease: Lease, *, accepts: bool) -> Share:
        """See `OwnerStore.share`."""
        owned = len(self._owned(lease))
        if lease.worker_id in self._fleet:
            self._fleet[lease.worker_id] = self._fleet[lease.worker_id]._replace(owned=owned, accepts=accepts)
        now_us = self._clock_us()
        takers = [worker for worker in self._fleet.values() if worker.accepts and worker.expires_us > now_us]
        total = sum(worker.owned for worker in takers)
        return Share(owned, -(-total // len(takers)) if takers else owned)

    def _owned(self, lease: Lease) -> list[Instance]:
        return [
            instance
            for instance in self._instances.values()
            if not instance.record.status.is_terminal and self._owners.get(instance.record.id) == lease.worker_id
        ]

    async def owned(self, lease: Lease, limit: int) -> list[str]:
        """See `OwnerStore.owned`."""
        mine = [instance.record for instance in self._owned(lease)]
        mine.sort(key=lambda record: -_LAST if record.wake_us is None else -record.wake_us)
        return [record.id for record in mine[:limit]]

    async def owners(self, instance_ids: Sequence[str]) -> dict[str, int]:
        """See `OwnerStore.owners`."""
        now_us = self._clock_us()
        living = {worker_id for worker_id, worker in self._fleet.items() if worker.expires_us > now_us}
        owners = {each: self._owners.get(each) for each in instance_ids if each in self._instances}
        return {each: owner for each, owner in owners.items() if owner is not None and owner in living}

    async def quiet(self, before_us: int, limit: int, lease: Lease | None = None) -> list[QuietInstance]:
        """See `Backend.quiet`."""
        found = await super().quiet(before_us, len(self._wakes), lease)
        return [each for each in found if self._is_of(each.id, lease)][:limit]

    def _remove(self, instance_id: str) -> None:
        super()._remove(instance_id)
        self._owners.pop(instance_id, None)

    # -- numbers that appear late ---------------------------------------------------------------------------

    def draw_numbers(self) -> list[int]:
        """Begin a transaction that draws the numbers of its messages now, and commits later: `commits_with` them."""
        numbers = list(range(self._last_number + 1, self._last_number + 1 + _NUMBERS))
        self._last_number = numbers[-1]
        self._drawn.append(numbers)
        return numbers

    @contextmanager
    def commits_with(self, numbers: list[int]) -> Generator[None]:
        """What is written inside is the transaction that has drawn these."""
        self._own = list(numbers)
        try:
            yield
        finally:
            self._own = []
            self._drawn.remove(numbers)

    def _put(self, instance_id: str, data: bytes, event_id: str | None = None) -> None:
        if not self._own:
            super()._put(instance_id, data, event_id)
            return
        last, self._last_number = self._last_number, self._own.pop(0) - 1
        try:
            super()._put(instance_id, data, event_id)
        finally:
            self._last_number = last

    def _settled(self) -> int:
        """Up to this number all messages have appeared that ever will."""
        return min((numbers[0] - 1 for numbers in self._drawn), default=self._last_number)

    async def inbox(self, after: int, limit: int) -> list[Message]:
        """See `Backend.inbox`."""
        return sorted(await super().inbox(after, len(self._inbox)))[:limit]

    # -- what only the owner does ---------------------------------------------------------------------------

    async def commit(self, lease: Lease, commit: Commit) -> None:
        """See `Backend.commit`."""
        await super().commit(lease, commit)
        for new in commit.new:
            self._owners[new.id] = lease.worker_id

    async def load(self, instance_ids: Sequence[str], lease: Lease | None = None) -> list[LoadedInstance]:
        """See `Backend.load`."""
        found = await super().load(instance_ids, lease)
        loaded = [each._replace(messages=sorted(each.messages)) for each in found]
        if lease is None:
            return loaded
        return [each._replace(is_ours=self._owners.get(each.record.id) == lease.worker_id) for each in loaded]

    async def due(
        self, after: tuple[int, str], until_us: int, limit: int, lease: Lease | None = None
    ) -> list[tuple[int, str]]:
        """See `Backend.due`."""
        found = await super().due(after, until_us, len(self._wakes), lease)
        return [each for each in found if self._is_of(each[1], lease)][:limit]

    async def next_wake(self, from_us: int, lease: Lease | None = None) -> int | None:
        """See `Backend.next_wake`."""
        first = bisect_left(self._wakes, (from_us, ""))
        return next((us for us, name in self._wakes[first:] if self._is_of(name, lease)), None)

    def _is_of(self, instance_id: str, lease: Lease | None) -> bool:
        return lease is None or self._owners.get(instance_id) == lease.worker_id

    async def read_inbox(self, lease: Lease, after: int, limit: int) -> MessagePage:
        """See `OwnerStore.read_inbox`."""
        messages = [m for m in await self.inbox(after, len(self._inbox)) if self._is_of(m.instance_id, lease)]
        page = messages[:limit]
        return MessagePage(page, min(page[-1].number, self._settled()) if len(messages) > limit else self._settled())

    # -- leases of servers, by the same clock ---------------------------------------------------------------

    async def enlist_server(self, name: str, ttl_us: int, now_us: int) -> int:  # noqa: ARG002  # its own counts
        """See `TaskStore.enlist_server`."""
        return await super().enlist_server(name, ttl_us, self._clock_us())

    async def renew_server(self, server_id: int, ttl_us: int, now_us: int) -> list[tuple[int, int]]:  # noqa: ARG002  # likewise
        """See `TaskStore.renew_server`."""
        return await super().renew_server(server_id, ttl_us, self._clock_us())

    async def look_at_tasks(self, request: ClaimRequest, now_us: int) -> Outlook:
        """See `TaskStore.look_at_tasks`."""
        with self._leases_by(now_us):
            return await super().look_at_tasks(request, now_us)

    async def overdue_tasks(self, server_id: int, now_us: int, limit: int) -> list[StoredTask]:
        """See `TaskStore.overdue_tasks`."""
        with self._leases_by(now_us):
            return await super().overdue_tasks(server_id, now_us, limit)

    @contextmanager
    def _leases_by(self, now_us: int) -> Generator[None]:
        """What is left of the leases of servers, as whoever thinks that it is `now_us` would count it."""
        shift_us = now_us - self._clock_us()
        self._shift_leases(shift_us)
        try:
            yield
        finally:
            self._shift_leases(-shift_us)

    def _shift_leases(self, by_us: int) -> None:
        self._servers = {each: us + by_us if us >= 0 else us for each, us in self._servers.items()}
