"""Messages of clients, and that they are heard of."""

from __future__ import annotations

import asyncio

from durableflow.backends.base import Backend, Commit, Outgoing
from durableflow.model.status import Status
from durableflow.testing.contract.store import StoreContract, a_lease, an_instance, contract


class SendingContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_each_message_gets_its_own_answer(self, backend: Backend) -> None:
        """One refusal does not hold up the others."""
        await self._with_something(backend)
        before = len(await backend.inbox(0, 100))
        results = await backend.send(
            [
                Outgoing("a", b"1"),
                Outgoing("nobody", b"2"),
                Outgoing("over", b"3"),
                Outgoing("a", b"4", an_instance("a")),
                Outgoing("fresh", b"5", an_instance("fresh", Status.PENDING, wake_us=0)),
                Outgoing("fresh", b"6"),
            ]
        )
        assert [result.outcome for result in results] == [
            "delivered", "missing", "over", "exists", "delivered", "delivered",
        ]  # fmt: skip
        assert results[1].record is None
        assert results[2].record == await backend.record("over")
        assert results[3].record == await backend.record("a")
        assert [message.data for message in (await backend.inbox(0, 100))[before:]] == [b"1", b"5", b"6"]
        (fresh,) = await backend.load(["fresh"])
        assert (fresh.record.status, fresh.record.wake_us, fresh.rows) == (Status.PENDING, 0, [])
        assert [message.data for message in fresh.messages] == [b"5", b"6"]
        assert (0, "fresh") in await backend.due((-1, ""), 1, 100)

    @contract
    async def test_a_message_with_an_event_id_waits_once(self, backend: Backend) -> None:
        """Until it is taken, and for each instance on its own; sending it again is no error."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")]))
        twice = [
            Outgoing("a", b"1", event_id="e"),
            Outgoing("a", b"2", event_id="e"),
            Outgoing("b", b"3", event_id="e"),
        ]
        assert [result.outcome for result in await backend.send(twice)] == ["delivered"] * 3
        await backend.send([Outgoing("a", b"4", event_id="f"), Outgoing("a", b"5"), Outgoing("a", b"5")])
        waiting = await backend.inbox(0, 100)
        assert [message.data for message in waiting] == [b"1", b"3", b"4", b"5", b"5"]
        await backend.commit(lease, Commit(consumed=[waiting[0].number]))
        await backend.send([Outgoing("a", b"6", event_id="e")])
        assert [message.data for message in await backend.inbox(waiting[-1].number, 100)] == [b"6"]

    @contract
    async def test_a_start_by_message_can_replace_what_is_over(self, backend: Backend) -> None:
        """And only that."""
        await self._with_something(backend)
        new = an_instance("over", Status.PENDING, replace=True)
        (result,) = await backend.send([Outgoing("over", b"start", new)])
        assert result.outcome == "delivered"
        (loaded,) = await backend.load(["over"])
        assert (loaded.record.status, loaded.rows, loaded.heartbeats) == (Status.PENDING, [], [])
        assert [message.data for message in loaded.messages] == [b"start"]
        (result,) = await backend.send([Outgoing("a", b"start", an_instance("a", replace=True))])
        assert result.outcome == "exists"

    @contract
    async def test_of_fifty_racing_starts_one_makes_the_instance(self, backend: Backend) -> None:
        """The others are told which it is."""
        outgoing = [Outgoing("a", b"%d" % n, an_instance("a", created_us=n)) for n in range(50)]
        results = await asyncio.gather(*(backend.send([each]) for each in outgoing))
        outcomes = [result.outcome for (result,) in results]
        assert sorted(outcomes) == ["delivered"] + ["exists"] * 49
        (message,) = await backend.inbox(0, 100)
        record = await backend.record("a")
        assert record is not None
        assert (message.data, record.created_us) == (b"%d" % record.created_us, outcomes.index("delivered"))

    @contract
    async def test_what_one_connection_writes_another_hears_of(self, backend: Backend) -> None:
        """Waiting for a change ends early when there is one, and at its limit when there is none."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        while await backend.wait_for_change(0.05):
            pass  # of before; a hint too many is no lie
        async with self.opened() as other:
            change = asyncio.ensure_future(backend.wait_for_change(10))
            await asyncio.sleep(0)
            await other.send([Outgoing("a", b"message")])
            async with asyncio.timeout(5):
                assert await change
            assert [message.data for message in await backend.inbox(0, 10)] == [b"message"]
