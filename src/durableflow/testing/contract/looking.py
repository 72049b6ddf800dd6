"""Questions of clients: histories, lists."""

from __future__ import annotations

from typing import Any

from durableflow.backends.base import Backend, Commit, InstanceRecord, Query
from durableflow.model.status import Status
from durableflow.testing.contract.store import StoreContract, a_lease, a_row, an_instance, contract


class LookingContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_history_is_read_from_the_row_that_holds_a_number(self, backend: Backend) -> None:
        """A page holds so many rows; behind the end is the last row."""
        lease = await a_lease(backend)
        rows = [a_row("a", seq, b"%d" % seq) for seq in (1, 4, 5, 9)]
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")], rows=rows))
        assert await backend.history("a", 1, 100) == rows
        assert await backend.history("a", 0, 2) == rows[:2]
        assert await backend.history("a", 3, 2) == rows[:2]
        assert await backend.history("a", 4, 1) == rows[1:2]
        assert await backend.history("a", 8, 100) == rows[2:]
        assert await backend.history("a", 100, 100) == rows[3:]
        assert await backend.history("b", 1, 100) == await backend.history("nobody", 1, 100) == []

    @contract
    async def test_the_last_row_is_the_latest(self, backend: Backend) -> None:
        """None before the first turn, and of nobody."""
        lease = await a_lease(backend)
        rows = [a_row("a", seq) for seq in (1, 2, 10)]
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")], rows=rows))
        assert await backend.last_row("a") == rows[2]
        assert await backend.last_row("b") is None
        assert await backend.last_row("nobody") is None
        assert await backend.record("nobody") is None

    @contract
    async def test_instances_are_listed_newest_first(self, backend: Backend) -> None:
        """Page by page, each once, also when many are of the same moment."""
        lease = await a_lease(backend)
        made = [(created_us, f"{letter}{created_us}") for created_us in (1, 2, 3) for letter in "abc"]
        await backend.commit(lease, Commit(new=[an_instance(i, created_us=at) for at, i in made]))
        expected = [i for _, i in sorted(made, reverse=True)]
        assert [record.id for record in await backend.list_records(Query())] == expected
        found: list[InstanceRecord] = []
        while page := await backend.list_records(
            Query(limit=2, after=(found[-1].created_us, found[-1].id) if found else None)
        ):
            assert len(page) <= 2
            found += page
        assert [record.id for record in found] == expected

    @contract
    async def test_what_ended_before_a_moment_is_found_in_order_of_its_making(self, backend: Backend) -> None:
        """Page by page; not what goes on, nor what ended otherwise or later."""
        lease = await a_lease(backend)
        ended = [("a", Status.COMPLETED, 10), ("b", Status.FAILED, 20), ("c", Status.COMPLETED, 30)]
        made = [an_instance(i, status, created_us=1, finished_us=at, wake_us=None) for i, status, at in ended]
        await backend.commit(lease, Commit(new=[*made, an_instance("open", created_us=0)]))
        both = {Status.COMPLETED, Status.FAILED}
        assert await backend.finished(both, 30, (-1, ""), 10) == [(1, "a"), (1, "b")]
        assert await backend.finished(both, 31, (-1, ""), 2) == [(1, "a"), (1, "b")]
        assert await backend.finished(both, 31, (1, "b"), 2) == [(1, "c")]
        assert await backend.finished({Status.COMPLETED}, 31, (-1, ""), 10) == [(1, "a"), (1, "c")]
        assert await backend.finished({Status.TERMINATED}, 31, (-1, ""), 10) == []

    @contract
    async def test_a_list_is_narrowed_by_all_that_is_asked(self, backend: Backend) -> None:
        """Each condition alone, and several together."""
        lease = await a_lease(backend)
        await backend.commit(
            lease,
            Commit(
                new=[
                    an_instance("a1", created_us=10, tags={"k": "v", "l": "w"}),
                    an_instance("a2", Status.COMPLETED, created_us=20, tags={"k": "v"}),
                    an_instance("b1", Status.FAILED, created_us=30, tags={"k": "other"}),
                    an_instance("b2", created_us=40, workflow="ship"),
                ]
            ),
        )

        async def ids(**wanted: Any) -> set[str]:
            return {record.id for record in await backend.list_records(Query(**wanted))}

        assert await ids(statuses=frozenset({Status.RUNNING})) == {"a1", "b2"}
        assert await ids(statuses=frozenset({Status.FAILED, Status.COMPLETED})) == {"a2", "b1"}
        assert await ids(workflow="ship") == {"b2"}
        assert await ids(tags={"k": "v"}) == {"a1", "a2"}
        assert await ids(tags={"k": "v", "l": "w"}) == {"a1"}
        assert await ids(tags={"k": "w"}) == set()
        assert await ids(id_prefix="a") == {"a1", "a2"}
        assert await ids(created_from_us=20) == {"a2", "b1", "b2"}
        assert await ids(created_before_us=20) == {"a1"}
        assert await ids(created_from_us=20, created_before_us=30) == {"a2"}
        assert await ids(tags={"k": "v"}, statuses=frozenset({Status.RUNNING}), id_prefix="a", workflow="order") == {
            "a1"
        }
        assert await ids(limit=3) == {"a2", "b1", "b2"}
