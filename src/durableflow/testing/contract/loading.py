"""What a worker needs to go on: instances, wake times, the inbox."""

from __future__ import annotations

from durableflow.backends.base import Backend, Commit, Heartbeat, Outgoing
from durableflow.model.status import Status
from durableflow.testing.contract.store import StoreContract, a_change, a_lease, a_row, an_instance, contract


class LoadingContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_loading_leaves_out_what_is_not_there(self, backend: Backend) -> None:
        """And gives each instance what is its own, in order."""
        lease = await a_lease(backend)
        rows = [a_row(each, seq, f"{each}{seq}".encode()) for seq in (1, 2, 10, 11) for each in ("b", "a")]
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")], rows=rows))
        await backend.send([Outgoing(each, f"to {each}".encode()) for each in ("a", "b", "a")])
        found = {item.record.id: item for item in await backend.load(["a", "nobody", "b"])}
        assert set(found) == {"a", "b"}
        assert [row.events for row in found["a"].rows] == [b"a1", b"a2", b"a10", b"a11"]
        assert [message.data for message in found["a"].messages] == [b"to a", b"to a"]
        assert [message.data for message in found["b"].messages] == [b"to b"]
        assert await backend.load([]) == []

    @contract
    async def test_loading_many_gives_each_its_own_whatever_their_sizes(self, backend: Backend) -> None:
        """Small and large values, long and short histories, all in order."""
        lease = await a_lease(backend)
        ids = [f"i{n:02}" for n in range(30)]
        sizes = (0, 1, 4_096, 4_097, 100_000)
        rows = {
            each: [a_row(each, seq, bytes([n, seq % 256]) * (sizes[(n + seq) % 5] // 2)) for seq in range(1, 40, 3)]
            for n, each in enumerate(ids)
        }
        new = [an_instance(each, custom_status=b"s" * sizes[n % 5]) for n, each in enumerate(ids)]
        beats = [Heartbeat(each, 1, 1, b"b" * sizes[(n + 1) % 5]) for n, each in enumerate(ids)]
        await backend.commit(
            lease, Commit(new=new, rows=[row for each in reversed(ids) for row in rows[each]], heartbeats=beats)
        )
        sent = [Outgoing(each, b"m" * sizes[(n + 2) % 5] + b"%d" % k) for k in range(3) for n, each in enumerate(ids)]
        await backend.send(sent)
        loaded = await backend.load([*reversed(ids), "nobody"])
        assert sorted(item.record.id for item in loaded) == ids
        for item in loaded:
            each, n = item.record.id, ids.index(item.record.id)
            assert item.record.custom_status == new[n].custom_status
            assert item.rows == rows[each]
            assert item.heartbeats == [beats[n]]
            assert [message.data for message in item.messages] == [m.data for m in sent if m.instance_id == each]

    @contract
    async def test_what_is_due_comes_in_pages_in_the_order_of_its_time(self, backend: Backend) -> None:
        """Equal times in the order of the ids; what never wakes is left out; the limit of time is not included."""
        lease = await a_lease(backend)
        wakes = {"e": 0, "b": 20, "a": 20, "c": 20, "d": 30, "f": 40, "never": None}
        await backend.commit(lease, Commit(new=[an_instance(each, wake_us=wake) for each, wake in wakes.items()]))
        expected = [(0, "e"), (20, "a"), (20, "b"), (20, "c"), (30, "d")]
        assert await backend.due((-1, ""), 40, 100) == expected
        found: list[tuple[int, str]] = []
        while page := await backend.due(found[-1] if found else (-1, ""), 40, 2):
            assert len(page) <= 2
            found += page
        assert found == expected

    @contract
    async def test_a_wake_time_moves_with_its_instance(self, backend: Backend) -> None:
        """Changed, dropped, purged: the order of the due follows."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance(each, wake_us=10) for each in "abcd"]))
        await backend.commit(
            lease,
            Commit(changes=[a_change("a", wake_us=5), a_change("b"), a_change("c", Status.FAILED)]),
        )
        assert await backend.due((-1, ""), 100, 10) == [(5, "a"), (10, "d")]
        assert await backend.next_wake(0) == 5

    @contract
    async def test_the_next_wake_time_is_the_earliest_that_is_not_before(self, backend: Backend) -> None:
        """None when nothing wakes by itself."""
        lease = await a_lease(backend)
        assert await backend.next_wake(0) is None
        await backend.commit(lease, Commit(new=[an_instance(f"{wake}", wake_us=wake) for wake in (0, 10, 20)]))
        assert [await backend.next_wake(each) for each in (0, 1, 10, 11, 20, 21)] == [0, 10, 10, 20, 20, None]

    @contract
    async def test_the_inbox_is_read_in_the_order_of_sending(self, backend: Backend) -> None:
        """Across instances, page by page; a number is never given twice."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")]))
        for n in range(5):
            await backend.send([Outgoing("ab"[n % 2], b"%d" % n)])
        everything = await backend.inbox(0, 100)
        assert [(m.instance_id, m.data) for m in everything] == [("ab"[n % 2], b"%d" % n) for n in range(5)]
        assert await backend.inbox(everything[1].number, 2) == everything[2:4]
        await backend.commit(lease, Commit(consumed=[message.number for message in everything]))
        await backend.send([Outgoing("a", b"later")])
        (later,) = await backend.inbox(0, 10)
        assert later.number > everything[-1].number
