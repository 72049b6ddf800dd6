"""Messages between stores: what is put out waits there, and what is delivered is so once."""

from __future__ import annotations

from durableflow.backends.base import Backend, Commit, Outgoing
from durableflow.backends.relaying import OutboxRow, Settled
from durableflow.errors import AppendConflict, LeaseLost
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
