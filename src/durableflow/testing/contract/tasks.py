"""Tasks: each is written with its commit, taken by one server, and finished once."""

from __future__ import annotations

import asyncio
from typing import Any

from durableflow.backends.base import Backend, Commit, Lease, Outgoing
from durableflow.backends.tasks import (
    ADMITTED,
    ALL_TASKS,
    CLAIMED,
    DELAYED,
    START,
    WAITING,
    ClaimRequest,
    NewTask,
    QueueLimits,
    StoredTask,
    TaskBeat,
    TaskEnd,
)
from durableflow.errors import AppendConflict, LeaseLost
from durableflow.model.status import Status
from durableflow.testing.contract.desk import TTL_US, a_desk, an_end, the_next_attempt
from durableflow.testing.contract.store import StoreContract, a_change, a_row, an_instance, contract, refused


def a_start(instance_id: str, queue: str = "q") -> Outgoing:
    """The message that makes an instance which waits until its queue admits it."""
    admission = NewTask(instance_id, START, queue, "order", b"", b"", 0, "", 0, None, 5)
    return Outgoing(instance_id, b"start", an_instance(instance_id, Status.PENDING, admission=admission))


class TaskContract(StoreContract):
    """See `BackendContract`."""

    # -- written and dropped --------------------------------------------------------------------------------

    @contract
    async def test_a_task_is_written_with_the_commit_that_asks_for_it(self, backend: Backend) -> None:
        """Whole, or not at all."""
        desk = await a_desk(backend)
        (new,) = await desk.write("key", priority=3, expires_us=70)
        task = await desk.task(1)
        assert task == StoredTask(
            task.number, "i", 1, 1, "q", "mail", b"[1]", b"options", 3, "key", WAITING, 0, 70, 0, 0, None, None, 5,
            0, 0, False,
        )  # fmt: skip
        await backend.commit(desk.lease, Commit(rows=[a_row("i")]))
        another = new._replace(task=2)
        with refused(AppendConflict):
            await backend.commit(desk.lease, Commit(rows=[a_row("i")], tasks=[another]))
        with refused(LeaseLost):
            await backend.commit(Lease(desk.lease.worker_id + 1, 0), Commit(tasks=[another]))
        assert await backend.task("i", 2) is None
        assert await backend.task("nobody", 1) is None

    @contract
    async def test_a_task_goes_with_the_commit_that_no_longer_wants_it(self, backend: Backend) -> None:
        """Claimed or not; the others stay, and nobody is told anything."""
        desk = await a_desk(backend)
        await desk.write(*"abcd")
        (claimed,) = await desk.claim(1)
        dropped = [("i", claimed.task), ("i", 3), ("i", 9), ("nobody", 1)]
        await backend.commit(desk.lease, Commit(tasks_dropped=dropped))
        assert [await backend.task("i", n) is None for n in (1, 2, 3, 4)] == [True, False, True, False]
        assert not await desk.finish(claimed)
        assert await backend.renew_server(desk.server, TTL_US, 0) == []
        assert (await desk.queue()).waiting == 2
        await backend.commit(desk.lease, Commit(tasks_dropped=[("i", ALL_TASKS)]))
        assert await desk.claim() == []
        assert await desk.messages() == []

    @contract
    async def test_the_number_of_a_task_is_never_used_again(self, backend: Backend) -> None:
        """Nor by a task of the same instance and number of the call."""
        desk = await a_desk(backend)
        seen: list[int] = []
        for _ in range(3):
            desk.made = 0
            await desk.write("a", "b")
            seen += [(await desk.task(n)).number for n in (1, 2)]
            await backend.commit(desk.lease, Commit(tasks_dropped=[("i", ALL_TASKS)]))
            await backend.close()
            await backend.open()
        assert seen == sorted(set(seen))

    @contract
    async def test_tasks_go_with_their_instance(self, backend: Backend) -> None:
        """When it is purged, or replaced."""
        desk = await a_desk(backend)
        over = [an_instance(each, Status.COMPLETED) for each in "ab"]
        await backend.commit(desk.lease, Commit(new=over))
        for instance_id in "ab":
            await desk.write("key", instance_id=instance_id, task=1)
        await backend.purge(["a"])
        await backend.commit(desk.lease, Commit(new=[an_instance("b", replace=True)]))
        assert [await backend.task(each, 1) for each in "ab"] == [None, None]
        assert (await desk.queue()).waiting == 0

    # -- claimed --------------------------------------------------------------------------------------------

    @contract
    async def test_of_many_who_claim_at_once_each_task_goes_to_one(self, backend: Backend) -> None:
        """And the store knows to whom, and since when."""
        desk = await a_desk(backend)
        await desk.write(*["a"] * 30)
        async with self.opened() as other:
            ways = [backend, other] * 3
            servers = [await way.enlist_server(f"server {n}", TTL_US, 0) for n, way in enumerate(ways)]
            claims = await asyncio.gather(
                *(way.claim(desk.request(4, server_id=each), 7) for way, each in zip(ways, servers, strict=True))
            )
        taken = [task for each in claims for task in each.tasks]
        assert len({task.number for task in taken}) == len(taken) == 24
        for server, each in zip(servers, claims, strict=True):
            assert {(task.state, task.claimed_by, task.started_us) for task in each.tasks} == {(CLAIMED, server, 7)}
            assert [await desk.task(task.task) for task in each.tasks] == each.tasks

    @contract
    async def test_a_server_takes_what_it_knows_and_has_room_for(self, backend: Backend) -> None:
        """So many of each queue that it names, so many of each other one."""
        desk = await a_desk(backend)
        await desk.write("a", name="fax")
        await desk.write(*"aaa")
        await desk.write(*"aaa", queue="p")
        await desk.write(*"aaa", queue="r")
        assert await desk.claim(names=()) == []
        taken = await desk.claim(names=("mail", "print"), rooms={"q": 2, "r": 0}, other_room=1)
        assert sorted((task.queue, task.name) for task in taken) == [("p", "mail"), ("q", "mail"), ("q", "mail")]
        assert [task.name for task in await desk.claim(names=("fax",))] == ["fax"]

    @contract
    async def test_what_may_not_begin_yet_is_not_claimed(self, backend: Backend) -> None:
        """Its moment is the first at which it may."""
        desk = await a_desk(backend)
        await desk.write("a", not_before_us=50)
        assert (await desk.task(1)).state == DELAYED
        assert await desk.claim(now_us=49) == []
        assert len(await desk.claim(now_us=50)) == 1

    @contract
    async def test_of_suspects_a_server_takes_one_at_a_time(self, backend: Backend) -> None:
        """The others flow past them."""
        desk = await a_desk(backend)
        await desk.write(*"abcd")
        for task in (await desk.claim())[:3]:
            await backend.finish_tasks([an_end(task, following=the_next_attempt(is_suspect=True))], desk.server)
        await desk.write("e")
        first = await desk.claim(now_us=1)
        assert sorted(task.is_suspect for task in first) == [False, True]
        assert await desk.claim(now_us=1, takes_suspect=False) == []
        (second,) = await desk.claim(now_us=1)
        assert second.is_suspect

    # -- finished -------------------------------------------------------------------------------------------

    @contract
    async def test_what_became_of_an_attempt_is_written_with_its_message(self, backend: Backend) -> None:
        """The task goes, or goes on with the values that are given."""
        desk = await a_desk(backend)
        await desk.write("a", "b", priority=2, expires_us=70)
        first, second = await desk.claim(now_us=7)
        following = the_next_attempt(
            not_before_us=50, expires_us=90, details=b"half", uncounted=1, losses=1, is_suspect=True
        )
        ends = [an_end(second, b"failed", following), an_end(first, b"done")]
        assert await backend.finish_tasks(ends, desk.server) == [True, True]
        assert await desk.messages() == [b"failed", b"done"]
        assert await backend.task("i", first.task) is None
        assert await desk.task(second.task) == second._replace(
            state=DELAYED, attempt=2, not_before_us=50, expires_us=90, claimed_by=0, details=b"half", uncounted=1,
            losses=1, is_suspect=True,
        )  # fmt: skip
        assert await desk.claim(now_us=49) == []
        (again,) = await desk.claim(now_us=50)
        assert (again.number, again.attempt, again.details) == (second.number, 2, b"half")

    @contract
    async def test_an_attempt_that_says_nothing_leaves_the_details_of_the_one_before(self, backend: Backend) -> None:
        """An empty value is one."""
        desk = await a_desk(backend)
        await desk.write("a")
        for attempt, said, kept in [(1, b"half", b"half"), (2, None, b"half"), (3, b"", b"")]:
            (task,) = await desk.claim()
            end = an_end(task, following=the_next_attempt(attempt=attempt + 1, details=said))
            assert await backend.finish_tasks([end], desk.server) == [True]
            assert (await desk.task(1)).details == kept

    @contract
    async def test_the_end_of_a_task_that_is_another_by_now_writes_nothing(self, backend: Backend) -> None:
        """Each part of what was seen counts, and each end is for itself."""
        desk = await a_desk(backend)
        await desk.write("a", "b")
        task, other = await desk.claim()
        number, attempt, state, claimed_by = an_end(task).seen
        seen = [
            (number + 99, attempt, state, claimed_by),
            (number, attempt + 1, state, claimed_by),
            (number, attempt, WAITING, claimed_by),
            (number, attempt, state, claimed_by + 1),
        ]
        ends = [TaskEnd(each, b"stale", None) for each in seen]
        assert await backend.finish_tasks([*ends, an_end(other)], desk.server) == [False] * 4 + [True]
        assert await desk.task(task.task) == task
        assert await desk.messages() == [b"done"]
        assert await desk.finish(task)
        assert not await desk.finish(task), "the second time it is nobody's"
        assert await desk.messages() == [b"done"] * 2
        assert await backend.finish_tasks([], desk.server) == []

    @contract
    async def test_a_heartbeat_is_kept_of_the_current_attempt_only(self, backend: Backend) -> None:
        """Of one that is claimed or handed over."""
        desk = await a_desk(backend)
        await desk.write("a", expires_us=70)
        number = (await desk.task(1)).number
        assert await backend.beat_tasks([TaskBeat(number, 1, b"early")]) == [False]
        (task,) = await desk.claim()
        beats = [TaskBeat(number, 1, b"1"), TaskBeat(number, 2, b"2"), TaskBeat(number + 9, 1, b"3")]
        assert await backend.beat_tasks(beats) == [True, False, False]
        assert await desk.task(1) == task._replace(details=b"1")
        assert await backend.beat_tasks([TaskBeat(number, 1, b"4", expires_us=80)]) == [True]
        assert await desk.task(1) == task._replace(details=b"4", expires_us=80)
        await backend.finish_tasks([an_end(task, following=the_next_attempt())], desk.server)
        assert await backend.beat_tasks([TaskBeat(number, 1, b"5"), TaskBeat(number, 2, b"6")]) == [False, False]
        assert (await desk.task(1)).details == b"4"

    # -- overdue --------------------------------------------------------------------------------------------

    @contract
    async def test_what_waits_too_long_is_overdue_and_what_is_claimed_is_not(self, backend: Backend) -> None:
        """In the order of their numbers, at most so many."""
        desk = await a_desk(backend)
        await desk.write(*"abc", expires_us=5)
        await desk.write("d", expires_us=5, not_before_us=50)
        await desk.write("e")
        (claimed,) = await desk.claim(1)
        assert await backend.overdue_tasks(desk.server, 4, 9) == []
        overdue = await backend.overdue_tasks(desk.server, 5, 9)
        assert [task.task for task in overdue] == [2, 3, 4]
        assert await backend.overdue_tasks(desk.server, 5, 2) == overdue[:2]
        assert await backend.finish_tasks([an_end(task, b"late") for task in overdue], None) == [True] * 3
        assert await backend.overdue_tasks(desk.server, 5, 9) == []
        assert await desk.finish(claimed)

    # -- starts of instances --------------------------------------------------------------------------------

    @contract
    async def test_an_instance_that_waits_in_a_queue_is_admitted_by_a_message(self, backend: Backend) -> None:
        """By a server that admits, whatever else it has room for."""
        desk = await a_desk(backend)
        await backend.send([a_start("one"), a_start("two")])
        assert (await desk.queue()).waiting == 2
        claims = await backend.claim(desk.request(), 0)
        assert (claims.tasks, claims.admitted) == ([], 0), "this one admits none"
        claims = await backend.claim(ClaimRequest(desk.server, (), {}, 0, True, b"begin"), 7)
        assert (claims.tasks, claims.admitted) == ([], 2)
        told = [(message.instance_id, message.data) for message in await backend.inbox(0, 10)]
        assert told == [("one", b"start"), ("two", b"start"), ("one", b"begin"), ("two", b"begin")]
        task = await backend.task("one", START)
        assert task is not None
        assert (task.state, task.claimed_by, task.started_us) == (CLAIMED, ADMITTED, 7)

    @contract
    async def test_an_admitted_instance_keeps_its_place_until_it_is_over(self, backend: Backend) -> None:
        """Also when the server that admitted it is none any more."""
        desk = await a_desk(backend)
        await backend.send([a_start("one"), a_start("two")])

        async def admitted(**changes: Any) -> int:
            return (await backend.claim(desk.request(1, admission=b"begin", **changes), 0)).admitted

        await backend.limit_queue("q", QueueLimits(concurrency=1))
        assert [await admitted(), await admitted()] == [1, 0]
        await backend.retire_server(desk.server, [])
        desk.server = await backend.enlist_server("another", TTL_US, 0)
        assert await backend.overdue_tasks(desk.server, TTL_US - 1, 9) == []
        assert await admitted() == 0
        over = Commit(changes=[a_change("one", Status.COMPLETED)], tasks_dropped=[("one", ALL_TASKS)])
        await backend.commit(desk.lease, over)
        assert [await admitted(), await admitted()] == [1, 0]

    @contract
    async def test_an_instance_that_is_refused_leaves_no_task(self, backend: Backend) -> None:
        """Its id is taken: neither a second admission nor a second place."""
        desk = await a_desk(backend)
        await backend.send([a_start("one")])
        results = await backend.send([a_start("one"), a_start("i")])
        assert [result.outcome for result in results] == ["exists", "exists"]
        assert (await desk.queue()).waiting == 1
        assert await backend.task("i", START) is None

    # -- kept -----------------------------------------------------------------------------------------------

    @contract
    async def test_tasks_survive_reopening(self, backend: Backend) -> None:
        """Those that wait and those that are claimed."""
        desk = await a_desk(backend)
        await desk.write("a", "b")
        (task,) = await desk.claim(1)
        before = await desk.everything()
        await backend.close()
        await backend.open()
        assert await desk.everything() == before
        assert await backend.claimed_tasks(desk.server) == [task]
        assert await desk.finish(task)
        assert len(await desk.claim()) == 1

    @contract
    async def test_another_connection_hears_of_a_task(self, backend: Backend) -> None:
        """Of one that is written, and of one that is finished."""
        desk = await a_desk(backend)
        async with self.opened() as other:
            for each in (backend, other):
                while await each.wait_for_change(0.05):
                    pass  # of before; a hint too many is no lie
            change = asyncio.ensure_future(other.wait_for_change(10))
            await asyncio.sleep(0)
            await desk.write("a")
            async with asyncio.timeout(5):
                assert await change
            (task,) = (await other.claim(desk.request(), 0)).tasks
            while await backend.wait_for_change(0.05):
                pass
            change = asyncio.ensure_future(backend.wait_for_change(10))
            await asyncio.sleep(0)
            await other.finish_tasks([an_end(task)], desk.server)
            async with asyncio.timeout(5):
                assert await change
