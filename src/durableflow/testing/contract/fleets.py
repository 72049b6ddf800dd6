"""Who may write where many workers share a store: each to its own instances, until it is declared dead."""

from __future__ import annotations

import asyncio

from durableflow.backends.base import Backend, Commit, Heartbeat, Lease, Outgoing
from durableflow.errors import LeaseLost
from durableflow.model.status import Status
from durableflow.testing.contract.store import (
    LEASE_US,
    StoreContract,
    a_change,
    a_row,
    an_instance,
    contract,
    refused,
)


async def _worker(backend: Backend, ttl_us: int = LEASE_US) -> Lease:
    lease = await backend.acquire("worker", ttl_us, 0)
    assert lease is not None
    return lease


async def _dead_worker(backend: Backend) -> Lease:
    """One whose lease is over as soon as it has it."""
    return await _worker(backend, 1)


class FleetContract(StoreContract):
    """See `FleetBackendContract`."""

    @contract
    async def test_many_workers_have_leases_at_once(self, backend: Backend) -> None:
        """The oldest of them is the first, until it is gone."""
        async with self.opened() as other:
            first, second = await _worker(backend), await _worker(other)
            assert first.worker_id != second.worker_id
            assert (first.is_first, second.is_first) == (True, False)
            await backend.commit(first, Commit(new=[an_instance("a")]))
            await other.commit(second, Commit(new=[an_instance("b")]))
            await backend.release(first)
            assert (await other.renew(second, LEASE_US, 0)).is_first

    @contract
    async def test_what_no_living_worker_owns_can_be_claimed(self, backend: Backend) -> None:
        """By the death of its worker, or by its leave; what is over stays as it is."""
        for makes in (_dead_worker, _worker):
            lease = await makes(backend)
            name = f"of {lease.worker_id}"
            await backend.commit(lease, Commit(new=[an_instance(name), an_instance(f"{name}, over", Status.COMPLETED)]))
            await backend.release(lease)
            claimer = await _worker(backend)
            assert [each.id for each in await backend.claim_instances(claimer, 10)] == [name]
            assert await backend.claim_instances(claimer, 10) == []

    @contract
    async def test_a_worker_whose_lease_is_over_is_declared_dead_by_whoever_claims(self, backend: Backend) -> None:
        """From then on it writes nothing; until then it does, because the fence is its row and not the time."""
        dead = await _dead_worker(backend)
        await backend.commit(dead, Commit(new=[an_instance("a")], rows=[a_row("a")]))
        await backend.send([Outgoing("a", b"message")])
        (message,) = await backend.inbox(0, 10)
        claimer = await _worker(backend)
        assert [each.id for each in await backend.claim_instances(claimer, 10)] == ["a"]
        before = await backend.load(["a", "b"])
        for commit in (
            Commit(new=[an_instance("b")]),
            Commit(rows=[a_row("a", 2)]),
            Commit(changes=[a_change("a", Status.FAILED)]),
            Commit(consumed=[message.number]),
            Commit(heartbeats=[Heartbeat("a", 1, 1, b"1")]),
        ):
            with refused(LeaseLost):
                await backend.commit(dead, commit)
        with refused(LeaseLost):
            await backend.renew(dead, LEASE_US, 0)
        with refused(LeaseLost):
            await backend.claim_instances(dead, 10)
        assert await backend.load(["a", "b"]) == before
        assert [each.worker_id for each in await backend.takeovers(0)] == [dead.worker_id]

    @contract
    async def test_what_is_due_first_is_claimed_first(self, backend: Backend) -> None:
        """What was under way, then by the clock, then what waits for messages only."""
        lease = await _worker(backend)
        wakes = {"later": 500, "waits": None, "now": 0, "soon": 100}
        await backend.commit(lease, Commit(new=[an_instance(name, wake_us=us) for name, us in wakes.items()]))
        await backend.release(lease)
        claimer = await _worker(backend)
        claimed = [(each.id, each.wake_us) for _ in wakes for each in await backend.claim_instances(claimer, 1)]
        assert claimed == [("now", 0), ("soon", 100), ("later", 500), ("waits", None)]

    @contract
    async def test_two_who_claim_at_once_share(self, backend: Backend) -> None:
        """Nothing is claimed by both, nothing by neither."""
        lease = await _worker(backend)
        names = {f"i{number:03}" for number in range(200)}
        await backend.commit(lease, Commit(new=[an_instance(name) for name in names]))
        await backend.release(lease)
        async with self.opened() as other:
            claimers = [(backend, await _worker(backend)), (other, await _worker(other))]
            claimed: list[str] = []
            while len(claimed) < len(names):
                found = await asyncio.gather(*(store.claim_instances(each, 30) for store, each in claimers))
                claimed += [each.id for part in found for each in part]
        assert sorted(claimed) == sorted(names)

    @contract
    async def test_what_was_handed_over_is_nobodys(self, backend: Backend) -> None:
        """It can be given by its owner alone."""
        lease, other = await _worker(backend), await _worker(backend)
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")]))
        await backend.hand_over(other, ["a"])
        assert await backend.claim_instances(other, 10) == []
        await backend.hand_over(lease, ["a"])
        assert [each.id for each in await backend.claim_instances(other, 10)] == ["a"]
        mine, theirs = await backend.load(["a", "b"], lease)
        assert (mine.record.id, mine.is_ours, theirs.record.id, theirs.is_ours) == ("a", False, "b", True)
        assert all(loaded.is_ours for loaded in await backend.load(["a", "b"]))

    @contract
    async def test_messages_are_read_by_the_owner_of_their_instance(self, backend: Backend) -> None:
        """Also those that were there when it took the instance over; then it is told that there are some."""
        lease, other = await _worker(backend), await _worker(backend)
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")]))
        await backend.commit(other, Commit(new=[an_instance("c")]))
        await backend.send([Outgoing(name, name.encode()) for name in ("a", "c", "b")])
        assert [message.data for message in (await backend.read_inbox(lease, 0, 10)).messages] == [b"a", b"b"]
        assert [message.data for message in (await backend.read_inbox(other, 0, 10)).messages] == [b"c"]
        await backend.hand_over(lease, ["a"])
        (claimed,) = await backend.claim_instances(other, 10)
        assert (claimed.id, claimed.has_messages) == ("a", True)
        assert [message.data for message in (await backend.read_inbox(other, 0, 10)).messages] == [b"a", b"c"]

    @contract
    async def test_the_inbox_is_settled_only_up_to_where_nothing_can_appear(self, backend: Backend) -> None:
        """Whoever reads on from there misses nothing, whatever the order in which senders are committed."""
        lease = await _worker(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        read: set[bytes] = set()
        settled = 0
        sent = [str(number).encode() for number in range(300)]

        async def read_on() -> None:
            nonlocal settled
            page = await backend.read_inbox(lease, settled, 1_000)
            read.update(message.data for message in page.messages)
            assert page.settled >= settled
            settled = page.settled

        async with self.opened() as other:
            sending = [
                asyncio.ensure_future((backend, other)[n % 2].send([Outgoing("a", data)]))
                for n, data in enumerate(sent)
            ]
            while not all(each.done() for each in sending):
                await read_on()
        await asyncio.gather(*sending)
        await read_on()
        assert read == set(sent)

    @contract
    async def test_wake_times_are_those_of_the_owner(self, backend: Backend) -> None:
        """Who gives no lease is told those of all."""
        lease, other = await _worker(backend), await _worker(backend)
        await backend.commit(lease, Commit(new=[an_instance("a", wake_us=10)]))
        await backend.commit(other, Commit(new=[an_instance("b", wake_us=5)]))
        assert await backend.due((-1, ""), 100, 10, lease) == [(10, "a")]
        assert await backend.due((-1, ""), 100, 10) == [(5, "b"), (10, "a")]
        assert (await backend.next_wake(0, lease), await backend.next_wake(0)) == (10, 5)

    @contract
    async def test_what_is_quiet_is_told_to_its_owner(self, backend: Backend) -> None:
        """Who gives no lease is told all."""
        lease, other = await _worker(backend), await _worker(backend)
        await backend.commit(lease, Commit(new=[an_instance("a", wake_us=10)]))
        await backend.commit(other, Commit(new=[an_instance("b", wake_us=5)]))
        for whose, expected in ((lease, ["a"]), (other, ["b"]), (None, ["a", "b"])):
            assert [each.id for each in await backend.quiet(5_000, 10, whose)] == expected

    @contract
    async def test_living_owners_are_known_also_of_what_is_over(self, backend: Backend) -> None:
        """Nothing is said of instances that are not there, or whose worker is not."""
        lease, gone = await _worker(backend), await _worker(backend)
        dead = await _dead_worker(backend)
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("over", Status.COMPLETED)]))
        await backend.commit(gone, Commit(new=[an_instance("b")]))
        await backend.commit(dead, Commit(new=[an_instance("c")]))
        await backend.release(gone)
        owners = await backend.owners(["a", "b", "c", "missing", "over"])
        assert owners == {"a": lease.worker_id, "over": lease.worker_id}

    @contract
    async def test_a_share_is_fair_when_all_own_as_many(self, backend: Backend) -> None:
        """Of those who accept any; what is over counts for nothing."""
        lease, other = await _worker(backend), await _worker(backend)
        new = [an_instance(str(number)) for number in range(9)]
        await backend.commit(lease, Commit(new=[*new, an_instance("over", Status.COMPLETED)]))
        assert await backend.share(lease, accepts=True) == (9, 5)
        assert await backend.share(other, accepts=True) == (0, 5)
        await backend.share(other, accepts=False)
        assert await backend.share(lease, accepts=True) == (9, 9)
        assert sorted(await backend.owned(lease, 100)) == sorted(each.id for each in new)
        assert len(await backend.owned(lease, 4)) == 4
        assert await backend.owned(other, 4) == []
