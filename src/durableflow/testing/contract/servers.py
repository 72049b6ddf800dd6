"""Servers of queues: each has a lease, and what it has claimed hangs on that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from durableflow.backends.base import Backend, Commit
from durableflow.backends.tasks import WAITING, TaskEnd
from durableflow.errors import LeaseLost
from durableflow.testing.contract.desk import TTL_US, Desk, a_desk, an_end, the_next_attempt
from durableflow.testing.contract.store import StoreContract, contract, refused


class ServerContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_a_server_learns_which_attempts_it_holds(self, backend: Backend) -> None:
        """Its own, as they are now."""
        desk = await a_desk(backend)
        other = await backend.enlist_server("other", TTL_US, 0)
        assert other != desk.server
        await desk.write(*"abcd")
        dropped, finished, again = await desk.claim(3)
        (foreign,) = await desk.claim(server_id=other)
        held = await backend.renew_server(desk.server, TTL_US, 0)
        assert sorted(held) == [(task.number, 1) for task in (dropped, finished, again)]
        await backend.commit(desk.lease, Commit(tasks_dropped=[("i", dropped.task)]))
        ends = [an_end(finished), an_end(again, following=the_next_attempt())]
        await backend.finish_tasks(ends, desk.server)
        assert await backend.renew_server(desk.server, TTL_US, 0) == []
        await desk.claim()
        assert await backend.renew_server(desk.server, TTL_US, 0) == [(again.number, 2)]
        assert [task.number for task in await backend.claimed_tasks(desk.server)] == [again.number]
        assert await backend.claimed_tasks(other) == [foreign]

    @contract
    async def test_a_server_that_was_declared_dead_can_do_nothing_more(self, backend: Backend) -> None:
        """Whatever it still believes; and never again, also when nothing of its claims is left."""
        desk = await a_desk(backend)
        await desk.write("a", "b")
        dead = await backend.enlist_server("dead", 10, 0)
        (task,) = await desk.claim(1, server_id=dead)
        (overdue,) = await backend.overdue_tasks(desk.server, 10, 9)
        assert overdue == task
        await self._can_do_nothing(desk, dead, an_end(task))
        assert await backend.finish_tasks([an_end(task, b"lost", the_next_attempt())], desk.server) == [True]
        assert await backend.overdue_tasks(desk.server, 10, 9) == []
        await self._can_do_nothing(desk, dead, an_end(task))
        assert await backend.enlist_server("another", 10, 10) not in (dead, desk.server)

    async def _can_do_nothing(self, desk: Desk, server: int, end: TaskEnd) -> None:
        backend = desk.backend
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: backend.renew_server(server, 10, 11),
            lambda: desk.claim(now_us=11, server_id=server),
            lambda: backend.finish_tasks([end], server),
            lambda: backend.retire_server(server, [end]),
        ]
        before = await desk.everything()
        for attempt in attempts:
            with refused(LeaseLost):
                await attempt()
        assert await desk.everything() == before

    @contract
    async def test_a_server_that_stops_gives_back_what_it_has_not_begun(self, backend: Backend) -> None:
        """As if it had never been claimed, without a token; what became of the rest is written with it."""
        desk = await a_desk(backend)
        await desk.write(*"abcd", expires_us=70)
        done, again, stale, unbegun = await desk.claim(now_us=7)
        assert await backend.offer_claimed(unbegun.number, 1, desk.server, b"digest")
        ends = [
            an_end(done, b"done"),
            an_end(again, b"interrupted", the_next_attempt(uncounted=1)),
            an_end(stale._replace(attempt=2), b"stale"),
        ]
        await backend.retire_server(desk.server, ends)
        assert await desk.messages() == [b"done", b"interrupted"]
        assert await backend.task("i", done.task) is None
        for task in (stale, unbegun):
            given_back = await desk.task(task.task)
            assert given_back == task._replace(state=WAITING, claimed_by=0, started_us=given_back.started_us)
        await self._can_do_nothing(desk, desk.server, an_end(stale))
        desk.server = await backend.enlist_server("next", TTL_US, 0)
        assert sorted((task.task, task.attempt) for task in await desk.claim()) == [(2, 2), (3, 1), (4, 1)]

    @contract
    async def test_what_is_given_back_keeps_the_time_by_which_it_must_be_begun(self, backend: Backend) -> None:
        """It was begun in time, but then it was not."""
        desk = await a_desk(backend)
        await desk.write("a", expires_us=5)
        (task,) = await desk.claim(now_us=1)
        assert await backend.overdue_tasks(desk.server, 10, 9) == [], "it was begun in time"
        await backend.retire_server(desk.server, [])
        desk.server = await backend.enlist_server("next", TTL_US, 0)
        (overdue,) = await backend.overdue_tasks(desk.server, 10, 9)
        assert overdue.number == task.number

    @contract
    async def test_what_is_given_back_keeps_its_place(self, backend: Backend) -> None:
        """Before those that came later, and those of its key that wait."""
        desk = await a_desk(backend)
        await desk.write(*"aab")
        await desk.claim(1)
        await backend.retire_server(desk.server, [])
        desk.server = await backend.enlist_server("next", TTL_US, 0)
        await desk.write("c")
        assert [task.task for task in await desk.claim(1)] == [1]
