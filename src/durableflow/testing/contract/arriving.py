"""Instances that come from another store."""

from __future__ import annotations

from durableflow.backends.base import Arrival, Backend, Commit, Heartbeat, InstanceRecord, Outgoing, Query
from durableflow.model.status import Status
from durableflow.testing.contract.store import StoreContract, a_lease, a_row, an_instance, contract


def _an_arrival(instance_id: str, wake_us: int | None = 5) -> Arrival:
    record = InstanceRecord(
        instance_id, "order", 2, Status.STALLED, 1_000, None, wake_us, {"of": instance_id}, b"custom", "why"
    )
    return Arrival(
        record,
        [a_row(instance_id, 1), a_row(instance_id, 4)],
        [Outgoing(instance_id, b"1", event_id="e"), Outgoing(instance_id, b"2")],
        [Heartbeat(instance_id, 1, 2, b"beat")],
    )


class ArrivingContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_an_instance_from_elsewhere_is_as_it_was_there(self, backend: Backend) -> None:
        """Row, tags, history, inbox and heartbeats; it is found as any other, and wakes."""
        arrival = _an_arrival("x")
        assert await backend.take_in([arrival]) == set()
        (loaded,) = await backend.load(["x"])
        assert loaded.record == arrival.record
        assert loaded.rows == arrival.rows
        assert [message.data for message in loaded.messages] == [b"1", b"2"]
        assert loaded.heartbeats == arrival.heartbeats
        assert await backend.list_records(Query(tags={"of": "x"})) == [arrival.record]
        assert await backend.due((-1, ""), 10, 10) == [(5, "x")]
        assert await backend.inbox(0, 10) == loaded.messages
        await backend.send([Outgoing("x", b"again", event_id="e")])
        assert await backend.inbox(0, 10) == loaded.messages

    @contract
    async def test_an_id_that_is_taken_is_left_as_it_is(self, backend: Backend) -> None:
        """It is named, and the others come in all the same."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("taken")], rows=[a_row("taken", 1, b"mine")]))
        before = await backend.load(["taken"])
        arrivals = [_an_arrival("x", None), _an_arrival("taken"), _an_arrival("y"), _an_arrival("x")]
        assert await backend.take_in(arrivals) == {"taken", "x"}
        assert await backend.load(["taken"]) == before
        assert [item.record.id for item in await backend.load(["x", "y"])] == ["x", "y"]
        assert await backend.due((-1, ""), 10, 10) == [(5, "y")]
        assert len(await backend.inbox(0, 10)) == 4
        assert await backend.take_in([]) == set()
