"""The leases of servers: who is dead, and what becomes of what they had claimed."""

from __future__ import annotations

from durableflow.backends.base import Backend
from durableflow.backends.tasks import Outlook
from durableflow.testing.contract.desk import TTL_US, a_desk, an_end, the_next_attempt
from durableflow.testing.contract.store import StoreContract, contract


class ServerLeaseContract(StoreContract):
    """Of a store that goes by the time that it is given. See `BackendContract`."""

    @contract
    async def test_the_claims_of_a_server_whose_lease_is_over_are_overdue(self, backend: Backend) -> None:
        """For others, from the moment of its expiry on, until something is written of each; its own never are."""
        desk = await a_desk(backend)
        await desk.write(*"abc")
        dead = await backend.enlist_server("dead", 10, 0)
        tasks = await desk.claim(server_id=dead)
        assert await backend.renew_server(dead, 10, 10) == [(task.number, 1) for task in tasks]
        assert await backend.overdue_tasks(dead, TTL_US - 1, 9) == []
        assert await backend.overdue_tasks(desk.server, 19, 9) == []
        assert await backend.overdue_tasks(desk.server, 20, 2) == tasks[:2]
        assert await backend.overdue_tasks(desk.server, 20, 9) == tasks
        ends = [an_end(task, b"lost", the_next_attempt(losses=1)) for task in tasks]
        assert await backend.finish_tasks(ends, None) == [True] * 3
        assert await backend.finish_tasks(ends, None) == [False] * 3, "another was faster"
        assert await backend.overdue_tasks(desk.server, 20, 9) == []
        assert {(task.attempt, task.losses) for task in await desk.claim(now_us=20)} == {(2, 1)}

    @contract
    async def test_a_server_whose_lease_is_over_finishes_until_another_looks(self, backend: Backend) -> None:
        """The fence is its row, not the time: one clock less to trust."""
        desk = await a_desk(backend)
        await desk.write("a", "b")
        late = await backend.enlist_server("late", 10, 0)
        first, _ = await desk.claim(server_id=late)
        assert await backend.finish_tasks([an_end(first)], late) == [True]
        assert len(await backend.renew_server(late, 10, 500)) == 1
        assert await backend.overdue_tasks(desk.server, 509, 9) == []

    @contract
    async def test_a_look_says_when_a_lease_will_be_over(self, backend: Backend) -> None:
        """Another's: whoever asks looks after its own. One that is over is to be buried, once."""
        desk = await a_desk(backend)
        await desk.write("a")
        await desk.claim()
        other = await backend.enlist_server("other", 1_050, 0)

        async def look(now_us: int) -> Outlook:
            return await backend.look_at_tasks(desk.request(), now_us)

        assert await look(1_001) == Outlook(False, False, 1_050)
        assert (await backend.look_at_tasks(desk.request(server_id=other), 1_001)).next_us == TTL_US
        assert await look(1_050) == Outlook(False, True, None)
        assert await backend.overdue_tasks(desk.server, 1_050, 9) == []
        assert await look(1_050) == Outlook(False, False, None), "it is buried"


class FleetServerLeaseContract(StoreContract):
    """Of a store that goes by a clock of its own; whatever time it is given. See `FleetBackendContract`."""

    @contract
    async def test_the_claims_of_a_server_whose_lease_is_over_are_overdue(self, backend: Backend) -> None:
        """For others, until something is written of each; its own never are, nor those of one that lives."""
        desk = await a_desk(backend)
        await desk.write(*"abcd")
        lives, dead = await backend.enlist_server("lives", TTL_US, 0), await backend.enlist_server("dead", 1, 0)
        await desk.claim(1, server_id=lives)
        tasks = await desk.claim(server_id=dead)
        assert await backend.renew_server(dead, 1, 10) == [(task.number, 1) for task in tasks]
        assert await backend.overdue_tasks(dead, 2 * TTL_US, 9) == []
        assert await backend.overdue_tasks(desk.server, 0, 2) == tasks[:2]
        assert await backend.overdue_tasks(desk.server, 2 * TTL_US, 9) == tasks
        ends = [an_end(task, b"lost", the_next_attempt(losses=1)) for task in tasks]
        assert await backend.finish_tasks(ends, None) == [True] * 3
        assert await backend.finish_tasks(ends, None) == [False] * 3, "another was faster"
        assert await backend.overdue_tasks(desk.server, 2 * TTL_US, 9) == []
        assert {(task.attempt, task.losses) for task in await desk.claim(now_us=20)} == {(2, 1)}

    @contract
    async def test_a_server_whose_lease_is_over_finishes_until_another_looks(self, backend: Backend) -> None:
        """The fence is its row, not the time: one clock less to trust."""
        desk = await a_desk(backend)
        await desk.write("a", "b")
        late = await backend.enlist_server("late", 1, 0)
        first, _ = await desk.claim(server_id=late)
        assert await backend.finish_tasks([an_end(first)], late) == [True]
        assert len(await backend.renew_server(late, TTL_US, 0)) == 1
        assert await backend.overdue_tasks(desk.server, 2 * TTL_US, 9) == []

    @contract
    async def test_a_look_says_when_a_lease_will_be_over(self, backend: Backend) -> None:
        """What is left of another's is counted from the time that is given. One that is over is to be buried, once."""
        desk = await a_desk(backend)
        await desk.write("a")
        await desk.claim()

        async def look(now_us: int) -> Outlook:
            return await backend.look_at_tasks(desk.request(), now_us)

        assert await look(7) == Outlook(False, False, None)
        other = await backend.enlist_server("other", TTL_US, 0)
        outlook = await look(7)
        next_us = outlook.next_us
        assert outlook == Outlook(False, False, next_us)
        assert next_us is not None
        assert TTL_US - 60_000_000 < next_us <= TTL_US + 7
        assert await backend.renew_server(other, 1, 0) == []
        assert await look(7) == Outlook(False, True, None)
        assert await backend.overdue_tasks(desk.server, 7, 9) == []
        assert await look(7) == Outlook(False, False, None), "it is buried"
