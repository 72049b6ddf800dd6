"""What stays, to the byte and over a restart, and what is purged."""

from __future__ import annotations

import random

from durableflow.backends.base import Backend, Commit, Heartbeat, Outgoing, Query
from durableflow.model.status import Status
from durableflow.testing.contract.store import ODD_IDS, StoreContract, a_lease, a_row, an_instance, contract


class KeepingContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_only_what_is_over_is_purged(self, backend: Backend) -> None:
        """Each named once is told, and the others stay."""
        lease = await a_lease(backend)
        new = [an_instance(status.value, status) for status in Status]
        await backend.commit(lease, Commit(new=new))
        asked = [*(status.value for status in Status), "nobody", Status.FAILED.value]
        assert await backend.purge(asked) == [status.value for status in Status if status.is_terminal]
        left = {record.id for record in await backend.list_records(Query())}
        assert left == {status.value for status in Status if not status.is_terminal}
        assert await backend.purge([]) == []

    @contract
    async def test_purging_leaves_nothing_behind(self, backend: Backend) -> None:
        """An instance made anew under the same id inherits nothing; others lose nothing."""
        lease = await self._with_something(backend)
        before = await backend.load(["a", "b"])
        assert await backend.purge(["over"]) == ["over"]
        assert await backend.load(["over"]) == []
        assert await backend.history("over", 1, 10) == []
        assert await backend.last_row("over") is None
        assert await backend.list_records(Query(tags={"of": "over"})) == []
        assert {message.instance_id for message in await backend.inbox(0, 100)} == {"a", "b"}
        assert await backend.load(["a", "b"]) == before
        await backend.commit(lease, Commit(new=[an_instance("over")]))
        (again,) = await backend.load(["over"])
        assert (again.rows, again.messages, again.heartbeats) == ([], [], [])

    @contract
    async def test_what_was_acknowledged_is_there_after_reopening(self, backend: Backend) -> None:
        """Everything, to the byte."""
        await self._with_something(backend)
        before = await self._everything(backend)
        await backend.close()
        async with self.opened() as again:
            assert await self._everything(again) == before
        await backend.open()

    @contract
    async def test_closing_twice_is_no_error(self, backend: Backend) -> None:
        """A clean-up may come by more than once."""
        await backend.close()
        await backend.close()

    @contract
    async def test_ids_are_taken_as_they_are(self, backend: Backend) -> None:
        """Nothing is folded, trimmed, normalized or taken for a pattern."""
        lease = await a_lease(backend)
        new = [an_instance(each, wake_us=7, tags={each: each}) for each in ODD_IDS]
        await backend.commit(lease, Commit(new=new, rows=[a_row(each, 1, each.encode()) for each in ODD_IDS]))
        await backend.send([Outgoing(each, each.encode(), event_id=each) for each in ODD_IDS])
        assert [each for _, each in await backend.due((-1, ""), 10, 100)] == sorted(ODD_IDS)
        listed = await backend.list_records(Query())
        assert [record.id for record in listed] == sorted(ODD_IDS, reverse=True)
        for each in ODD_IDS:
            (loaded,) = await backend.load([each])
            assert loaded.rows == [a_row(each, 1, each.encode())]
            assert [message.data for message in loaded.messages] == [each.encode()]
            assert [record.id for record in await backend.list_records(Query(tags={each: each}))] == [each]
            prefixed = {record.id for record in await backend.list_records(Query(id_prefix=each))}
            assert prefixed == {other for other in ODD_IDS if other.startswith(each)}

    @contract
    async def test_large_values_are_kept_whole(self, backend: Backend) -> None:
        """The limit of a payload is the engine's, not the store's."""
        lease = await a_lease(backend)
        large = random.Random(2).randbytes(4 * 1024 * 1024)  # noqa: S311  # bytes that do not compress
        await backend.commit(
            lease,
            Commit(
                new=[an_instance("a", custom_status=large)],
                rows=[a_row("a", 1, large)],
                heartbeats=[Heartbeat("a", 1, 1, large)],
            ),
        )
        await backend.send([Outgoing("a", large)])
        (loaded,) = await backend.load(["a"])
        assert loaded.record.custom_status == large
        assert loaded.rows[0].events == large
        assert loaded.messages[0].data == large
        assert loaded.heartbeats[0].details == large
