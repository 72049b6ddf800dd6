"""Messages between stores: what is put out waits there, and what is delivered is so once."""

from __future__ import annotations

from durableflow.backends.base import Backend, Commit, Outgoing, Rewrite
from durableflow.backends.relaying import KeptMap, OutboxRow, Settled
from durableflow.backends.transfers import dump_rewrites
from durableflow.errors import AppendConflict, InstancesExist, LeaseLost
from durableflow.model.status import Status
from durableflow.testing.contract.store import StoreContract, a_lease, a_row, an_instance, contract, refused


def _a_message(to: str, data: bytes = b"data", **answers: bytes) -> Outgoing:
    return Outgoing(to, data, None, None, "a", answers)


class RelayContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_what_is_put_out_waits_in_order_until_it_is_settled(self, backend: Backend) -> None:
        """As it was, to the byte; with the commit, or not at all."""
        lease = await a_lease(backend)
        birth = Outgoing(
            "child",
            b"\x00start",
            an_instance("child", Status.PENDING, wake_us=0, tags={"k": "v"}, parent="a"),
            None,
            "a",
            {"exists": b"taken"},
        )
        sent = [_a_message("far", b"1", delivered=b"yes", missing=b"no"), birth, _a_message("far", b"")]
        await backend.commit(lease, Commit(new=[an_instance("a")], rows=[a_row("a")], outbox=sent[:2]))
        with refused(AppendConflict):
            await backend.commit(lease, Commit(rows=[a_row("a")], outbox=[_a_message("never")]))
        await backend.commit(lease, Commit(outbox=sent[2:]))
        rows = await backend.read_outbox(0, 10)
        assert [row.message for row in rows] == sent
        numbers = [row.number for row in rows]
        assert numbers == sorted(set(numbers))
        assert await backend.read_outbox(numbers[0], 1) == rows[1:2]
        assert await backend.inbox(0, 10) == []
        await backend.settle([Settled(numbers[2], "missing"), Settled(numbers[0], "delivered")])
        async with self.opened() as other:
            await other.settle([Settled(numbers[0], "missing"), Settled(numbers[1], "exists")])
        assert [(m.instance_id, m.data) for m in await backend.inbox(0, 10)] == [("a", b"yes"), ("a", b"taken")]
        assert await backend.read_outbox(0, 10) == []
        await backend.commit(lease, Commit(outbox=sent[:1]))
        ((number, _),) = await backend.read_outbox(0, 10)
        assert number > numbers[2], "a number is never used again"

    @contract
    async def test_a_row_is_delivered_once_however_often_it_is_brought(self, backend: Backend) -> None:
        """And what became of it then is said again, whatever has become of the instance since."""
        lease = await a_lease(backend)
        new = [an_instance("here"), an_instance("over", Status.COMPLETED)]
        await backend.commit(lease, Commit(new=new))
        rows = [
            OutboxRow(3, _a_message("here", b"1")),
            OutboxRow(5, _a_message("nobody", b"2")),
            OutboxRow(6, _a_message("over", b"3")),
            OutboxRow(9, Outgoing("made", b"4", an_instance("made", Status.PENDING))),
            OutboxRow(10, Outgoing("here", b"5", an_instance("here", Status.PENDING))),
        ]
        expected = ["delivered", "missing", "over", "delivered", "exists"]
        hold = await backend.take_up_relay("far")
        assert hold.delivered == []
        assert await backend.deliver(hold, rows[:3]) == expected[:3]
        await backend.purge(["over"])
        await backend.send([Outgoing("nobody", b"start", an_instance("nobody", Status.PENDING))])
        assert await backend.deliver(hold, rows) == expected
        assert await backend.deliver(hold, rows[::-1]) == expected[::-1]
        assert [(m.instance_id, m.data) for m in await backend.inbox(0, 10)] == [
            ("here", b"1"),
            ("nobody", b"start"),
            ("made", b"4"),
        ]
        other = await backend.take_up_relay("elsewhere")
        assert await backend.deliver(other, rows[:1]) == ["delivered"], "numbers are each source's own"

    @contract
    async def test_a_relay_that_was_followed_by_another_delivers_and_forgets_nothing(self, backend: Backend) -> None:
        """The later one is told what the receiver remembers."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("here")]))
        row = OutboxRow(3, _a_message("here"))
        stale = await backend.take_up_relay("far")
        await backend.deliver(stale, [row])
        async with self.opened() as other:
            hold = await other.take_up_relay("far")
        assert list(hold.delivered) == [3]
        with refused(LeaseLost):
            await backend.deliver(stale, [row._replace(number=4)])
        with refused(LeaseLost):
            await backend.forget_delivered(stale, [3])
        assert await backend.deliver(hold, [row]) == ["delivered"]
        assert len(await backend.inbox(0, 10)) == 1
        await backend.forget_delivered(hold, [3, 99])
        assert list((await backend.take_up_relay("far")).delivered) == []

    @contract
    async def test_what_a_copy_sends_to_other_stores_waits_with_it(self, backend: Backend) -> None:
        """Written with the histories, or not at all."""
        lease = await a_lease(backend)
        sent = [_a_message("far", b"1", delivered=b"yes"), _a_message("far", b"2")]
        copy = Rewrite(an_instance("copy"), [a_row("copy")], [Outgoing("copy", b"go")], outbox=sent)
        await backend.rewrite([copy])
        assert [row.message for row in await backend.read_outbox(0, 10)] == sent
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        with refused(InstancesExist):
            await backend.rewrite([copy, Rewrite(an_instance("a"), [], [], outbox=sent)])
        assert len(await backend.read_outbox(0, 10)) == 2

    @contract
    async def test_a_history_is_delivered_to_an_instance_that_is_as_it_was_seen(self, backend: Backend) -> None:
        """Once, with all that it brings; and one that has gone on meanwhile stays as it is."""
        lease = await a_lease(backend)
        over = [an_instance(each, Status.FAILED) for each in ("a", "b", "c")]
        await backend.commit(lease, Commit(new=over, rows=[a_row(each.id) for each in over]))
        going = [
            Rewrite(
                an_instance(each, Status.RUNNING, wake_us=0, parent=parent),
                [a_row(each, 5)],
                [Outgoing(each, b"go"), Outgoing("new", b"start", an_instance("new", Status.PENDING), None, each)],
                after,
                [_a_message("far", each.encode())],
            )
            for each, parent, after in (("a", "p", 1), ("b", "a", 1), ("c", "a", 9))
        ]
        family = OutboxRow(1, Outgoing("a", b"", rewrites=dump_rewrites(going)))
        changed = OutboxRow(2, Outgoing("c", b"", rewrites=dump_rewrites(going[2:])))
        hold = await backend.take_up_relay("far")
        for _ in range(2):
            assert await backend.deliver(hold, [family, changed]) == ["delivered", "over"]
        for each, status, last in (("a", "RUNNING", 5), ("b", "RUNNING", 5), ("c", "FAILED", 1)):
            record, row = await backend.record(each), await backend.last_row(each)
            assert record is not None
            assert row is not None
            assert (record.status, row.first_seq) == (status, last)
        told = [(message.instance_id, message.data) for message in await backend.inbox(0, 10)]
        assert told == [("a", b"go"), ("new", b"start"), ("b", b"go")]
        assert [row.message.data for row in await backend.read_outbox(0, 10)] == [b"a", b"b"]

    @contract
    async def test_a_store_keeps_its_map_until_somebody_who_knows_it_brings_another(self, backend: Backend) -> None:
        """Also when it is opened again."""
        first, second = KeptMap("north", b"\x00one"), KeptMap("north", b"two")
        assert await backend.read_map() is None
        await backend.keep_map(second, first)
        assert await backend.read_map() is None, "there was none that is known"
        assert await backend.keep_map(first, None) is None
        assert await backend.keep_map(first, None) is None
        assert await backend.keep_map(second, None) == first
        assert await backend.keep_map(second, second) == first
        async with self.opened() as other:
            assert await other.read_map() == first
            assert await other.keep_map(second, first) is None
        assert await backend.read_map() == second
