"""Who may write: one worker at a time, until it is taken over."""

from __future__ import annotations

import asyncio

from durableflow.backends.base import Backend, Commit, Heartbeat, Lease, Outgoing
from durableflow.errors import LeaseLost
from durableflow.model.status import Status
from durableflow.testing.contract.store import (
    LEASE_US,
    StoreContract,
    a_change,
    a_lease,
    a_row,
    an_instance,
    contract,
    refused,
)


class LeaseContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_a_store_has_one_worker_at_a_time(self, backend: Backend) -> None:
        """While a lease lasts, nobody else gets one."""
        lease = await backend.acquire("a", LEASE_US, 0)
        assert lease is not None
        assert lease.expires_us == LEASE_US
        assert await backend.acquire("b", LEASE_US, LEASE_US - 1) is None
        async with self.opened() as other:
            assert await other.acquire("c", LEASE_US, LEASE_US - 1) is None

    @contract
    async def test_of_many_who_ask_at_once_one_gets_the_lease(self, backend: Backend) -> None:
        """Asking is one transaction."""
        leases = await asyncio.gather(*(backend.acquire(f"worker {n}", LEASE_US, 0) for n in range(20)))
        assert sum(lease is not None for lease in leases) == 1

    @contract
    async def test_a_lease_that_was_given_back_can_be_had_at_once(self, backend: Backend) -> None:
        """Releasing ends it, and its fence is never used again."""
        first = await a_lease(backend)
        await backend.release(first)
        second = await a_lease(backend)
        assert second.worker_id != first.worker_id
        with refused(LeaseLost):
            await backend.commit(first, Commit(new=[an_instance("a")]))

    @contract
    async def test_a_lease_can_be_taken_over_when_it_has_ended_not_before(self, backend: Backend) -> None:
        """The moment of its expiry is the first at which another may have it."""
        first = await a_lease(backend, 10)
        assert await backend.acquire("b", 10, 9) is None
        second = await backend.acquire("b", 10, 10)
        assert second is not None
        assert second.worker_id != first.worker_id

    @contract
    async def test_renewing_pushes_the_end_of_a_lease_on(self, backend: Backend) -> None:
        """Also after it has ended, as long as nobody took over."""
        lease = await a_lease(backend, 10)
        renewed = await backend.renew(lease, 10, 8)
        assert renewed == Lease(lease.worker_id, 18)
        assert await backend.acquire("b", 10, 17) is None
        late = await backend.renew(renewed, 10, 30)
        assert late == Lease(lease.worker_id, 40)
        assert await backend.acquire("b", 10, 39) is None

    @contract
    async def test_a_worker_that_was_taken_over_can_neither_renew_nor_release(self, backend: Backend) -> None:
        """Whatever it still believes: the lease is another's."""
        old = await a_lease(backend, 10)
        new = await backend.acquire("b", 10, 10)
        assert new is not None
        with refused(LeaseLost):
            await backend.renew(old, 10, 11)
        await backend.release(old)
        assert await backend.renew(new, 10, 12) == Lease(new.worker_id, 22)

    @contract
    async def test_a_stale_lease_writes_nothing(self, backend: Backend) -> None:
        """No part of a commit gets through."""
        old = await a_lease(backend, 10)
        await backend.commit(old, Commit(new=[an_instance("a")], rows=[a_row("a")]))
        await backend.send([Outgoing("a", b"message")])
        (message,) = await backend.inbox(0, 10)
        new = await backend.acquire("b", 10, 10)
        assert new is not None
        before = await backend.load(["a", "b"])
        for commit in (
            Commit(new=[an_instance("b")]),
            Commit(rows=[a_row("a", 2)]),
            Commit(changes=[a_change("a", Status.FAILED)]),
            Commit(consumed=[message.number]),
            Commit(heartbeats=[Heartbeat("a", 1, 1, b"1")]),
        ):
            with refused(LeaseLost):
                await backend.commit(old, commit)
        assert await backend.load(["a", "b"]) == before

    @contract
    async def test_a_lease_that_has_ended_writes_until_somebody_takes_over(self, backend: Backend) -> None:
        """The fence is the worker's row, not the time: one clock less to trust."""
        lease = await a_lease(backend, 10)
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        assert await backend.record("a") is not None

    @contract
    async def test_a_lease_outlives_a_connection_that_was_dropped(self, backend: Backend) -> None:
        """Closing without releasing gives nothing back."""
        async with self.opened() as other:
            lease = await a_lease(other, 10)
        assert await backend.acquire("b", 10, 9) is None
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        assert await backend.acquire("b", 10, 10) is not None

    @contract
    async def test_takeovers_are_remembered(self, backend: Backend) -> None:
        """Also after the worker is gone; asking in vain is none."""
        for n in range(3):
            lease = await backend.acquire(f"worker {n}", LEASE_US, 10 * n)
            assert lease is not None
            assert await backend.acquire("other", LEASE_US, 10 * n) is None
            await backend.release(lease)
        async with self.opened() as other:
            found = await other.takeovers(10)
        assert [(takeover.name, takeover.at_us) for takeover in found] == [("worker 1", 10), ("worker 2", 20)]
