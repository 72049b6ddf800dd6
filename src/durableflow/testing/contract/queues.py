"""Queues: who is next, what bounds them over all servers, and what a look tells of them."""

from __future__ import annotations

import asyncio

from durableflow.backends.base import Backend
from durableflow.backends.tasks import HANDED_OVER, Outlook, QueueLimits, QueueRecord
from durableflow.testing.contract.desk import TTL_US, Desk, a_desk, an_end, the_next_attempt
from durableflow.testing.contract.store import ODD_IDS, StoreContract, contract
from durableflow.testing.contract.tasks import a_start


class QueueContract(StoreContract):
    """See `BackendContract`."""

    # -- who is next ----------------------------------------------------------------------------------------

    @contract
    async def test_keys_take_turns_however_many_tasks_of_one_there_are(self, backend: Backend) -> None:
        """Each goes on where it is; the rest is first in, first out."""
        desk = await a_desk(backend)
        await desk.write(*["a"] * 6, *["b"] * 2, "c")
        assert "".join([task.fairness_key for task in await desk.claim(9)]) == "abcab" + "a" * 4

    @contract
    async def test_a_key_whose_tasks_are_done_at_once_does_not_go_before_the_others_for_ever(
        self, backend: Backend
    ) -> None:
        """One that comes anew begins where the queue is, not at its beginning."""
        desk = await a_desk(backend)
        await desk.write(*["heavy"] * 5)
        await desk.write("light")
        order = ""
        for _ in range(10):
            (task,) = await desk.claim(1)
            order += task.fairness_key[0]
            assert await desk.finish(task)
            if task.fairness_key == "light":
                await desk.write("light")
        assert order.count("h") == 5, order
        assert "lll" not in order[:8], order

    @contract
    async def test_the_highest_priority_goes_first_whatever_its_key(self, backend: Backend) -> None:
        """Within one priority keys take turns."""
        desk = await a_desk(backend)
        await desk.write("a", "a")
        await desk.write("a", "a", "b", priority=5)
        await desk.write("c", priority=-5)
        taken = [(task.priority, task.fairness_key) for task in await desk.claim(9)]
        assert taken == [(5, "a"), (5, "b"), (5, "a"), (0, "a"), (0, "a"), (-5, "c")]

    @contract
    async def test_queues_and_keys_are_taken_as_they_are(self, backend: Backend) -> None:
        """Alike are only those that are the same."""
        desk = await a_desk(backend)
        for name in ODD_IDS:
            await desk.write(name, queue=name)
        taken = await desk.claim(rooms={}, other_room=1)
        assert sorted((task.queue, task.fairness_key) for task in taken) == sorted((name, name) for name in ODD_IDS)
        assert [record.name for record in await backend.queues()] == sorted(ODD_IDS)

    # -- limits ---------------------------------------------------------------------------------------------

    @contract
    async def test_a_limit_holds_over_all_servers(self, backend: Backend) -> None:
        """However many ask at once; a place is free again when its task is finished, goes on, or is given back."""
        desk = await a_desk(backend)
        await desk.write(*["a"] * 20)
        await backend.limit_queue("q", QueueLimits(concurrency=3))
        async with self.opened() as other:
            ways = [backend, other] * 3
            servers = [await way.enlist_server(f"server {n}", TTL_US, 0) for n, way in enumerate(ways)]
            asked = (way.claim(desk.request(server_id=each), 0) for way, each in zip(ways, servers, strict=True))
            claims = await asyncio.gather(*asked)
        taken = [task for each in claims for task in each.tasks]
        assert len(taken) == 3
        (holder,) = {task.claimed_by for task in taken}
        assert await desk.claim() == []
        ends = [an_end(taken[0]), an_end(taken[1], following=the_next_attempt(not_before_us=99))]
        assert await backend.finish_tasks(ends, holder) == [True, True]
        assert len(await desk.claim()) == 2
        await backend.retire_server(holder, [])
        assert len(await desk.claim()) == 1
        assert (await desk.queue()).claimed == 3

    @contract
    async def test_a_limit_that_is_lowered_takes_nothing_away(self, backend: Backend) -> None:
        """Nothing more is claimed until there is room; without a limit, all is."""
        desk = await a_desk(backend)
        await desk.write(*["a"] * 9)
        first, second, third = await desk.claim(3)
        await backend.limit_queue("q", QueueLimits(concurrency=2))
        assert [await desk.finish(first), await desk.claim()] == [True, []]
        assert await desk.finish(second)
        assert len(await desk.claim()) == 1
        assert await desk.finish(third)
        await backend.limit_queue("q", QueueLimits())
        assert len(await desk.claim()) == 5

    @contract
    async def test_what_was_handed_over_needs_no_place(self, backend: Backend) -> None:
        """Nobody works on it here."""
        desk = await a_desk(backend)
        await desk.write("a", "b")
        await backend.limit_queue("q", QueueLimits(concurrency=1))
        (task,) = await desk.claim()
        await backend.finish_tasks(
            [an_end(task, following=the_next_attempt(state=HANDED_OVER, attempt=1))], desk.server
        )
        assert len(await desk.claim()) == 1

    @contract
    async def test_a_rate_lets_so_many_begin_in_a_period(self, backend: Backend) -> None:
        """On average; at first, as many as may be at once."""
        desk = await a_desk(backend)
        await desk.write(*["a"] * 9)
        await backend.limit_queue("q", QueueLimits(rate_count=2, rate_period_us=100, rate_burst=2))
        taken = [len(await desk.claim(now_us=at)) for at in (1_000, 1_010, 1_049, 1_050, 1_100, 1_101, 9_000, 9_001)]
        assert taken == [2, 0, 0, 1, 1, 0, 2, 0]

    @contract
    async def test_a_claim_says_when_a_rate_has_room_again(self, backend: Backend) -> None:
        """When there is somebody who waits for that."""
        desk = await a_desk(backend)
        await desk.write(*"abc")
        await backend.limit_queue("q", QueueLimits(rate_count=2, rate_period_us=100, rate_burst=2))
        assert (await backend.claim(desk.request(), 1_000)).next_us == 1_050
        assert (await backend.claim(desk.request(), 1_010)).next_us == 1_050
        assert (await backend.claim(desk.request(names=()), 1_010)).next_us is None
        assert (await backend.claim(desk.request(), 1_050)).next_us is None

    @contract
    async def test_setting_a_rate_anew_as_it_was_fills_no_bucket(self, backend: Backend) -> None:
        """Another rate begins with a full one."""
        desk = await a_desk(backend)
        await desk.write(*["a"] * 9)
        rate = QueueLimits(rate_count=2, rate_period_us=100, rate_burst=2)
        await backend.limit_queue("q", rate)
        assert len(await desk.claim(now_us=1_000)) == 2
        await backend.limit_queue("q", QueueLimits(5, 2, 100, 2))
        assert await desk.claim(now_us=1_001) == []
        await backend.limit_queue("q", QueueLimits(None, 3, 100, 3))
        assert len(await desk.claim(now_us=1_002)) == 3

    @contract
    async def test_a_paused_queue_gives_nothing_and_keeps_its_limits(self, backend: Backend) -> None:
        """And who limits it does not let it go on."""
        desk = await a_desk(backend)
        await backend.limit_queue("q", QueueLimits(concurrency=2))
        await backend.pause_queue("q", is_paused=True)
        await desk.write(*["a"] * 5)
        assert await desk.claim() == []
        await backend.limit_queue("q", QueueLimits(concurrency=3))
        assert await desk.claim() == []
        record = await desk.queue()
        assert (record.limits, record.is_paused) == (QueueLimits(concurrency=3), True)
        await backend.pause_queue("q", is_paused=False)
        record = await desk.queue()
        assert (record.limits, record.is_paused) == (QueueLimits(concurrency=3), False)
        assert len(await desk.claim()) == 3

    @contract
    async def test_of_those_who_limit_and_pause_a_queue_at_once_each_is_heard(self, backend: Backend) -> None:
        """Each is one transaction, and leaves the rest as it is."""
        async with self.opened() as other:
            for n in range(1, 20):
                limits = QueueLimits(concurrency=n)
                asked = [backend.limit_queue("q", limits), other.pause_queue("q", is_paused=bool(n % 2))]
                await asyncio.gather(*(asked if n % 3 else asked[::-1]))
                (record,) = await backend.queues("q")
                assert (record.limits, record.is_paused) == (limits, bool(n % 2))

    # -- looking --------------------------------------------------------------------------------------------

    @contract
    async def test_queues_are_told_by_name_with_what_is_in_them(self, backend: Backend) -> None:
        """Those that were ever used or limited; a name alone, if it is known."""
        desk = await a_desk(backend)
        assert await backend.queues() == []
        await backend.limit_queue("limited", QueueLimits(4, 3, 2, 1))
        await backend.pause_queue("paused", is_paused=True)
        await desk.write("a", scheduled_at_us=30)
        await desk.write("b", scheduled_at_us=20, not_before_us=99)
        await desk.write("c", "d", scheduled_at_us=40, priority=1)
        handed_over, _ = await desk.claim(2)
        following = the_next_attempt(state=HANDED_OVER, attempt=1)
        await backend.finish_tasks([an_end(handed_over, following=following)], desk.server)
        limited = QueueRecord("limited", QueueLimits(4, 3, 2, 1), False, 0, 0, 0, 0, None)
        used = QueueRecord("q", QueueLimits(), False, 1, 1, 1, 1, 30)
        assert await backend.queues() == [
            limited,
            QueueRecord("paused", QueueLimits(), True, 0, 0, 0, 0, None),
            used,
        ]
        assert await backend.queues("q") == [used]
        assert await backend.queues("Q") == []

    @contract
    async def test_a_look_says_whether_a_claim_would_take_something(self, backend: Backend) -> None:
        """Whatever stands in the way: who asks for nothing in vain writes nothing while there is nothing to do."""
        desk = await a_desk(backend)
        assert await backend.look_at_tasks(desk.request(), 0) == Outlook(False, False, None)
        await desk.write(*"abc")
        for request, is_claimable in [
            (desk.request(), True),
            (desk.request(0), False),
            (desk.request(rooms={"p": 9}), False),
            (desk.request(rooms={}, other_room=1), True),
            (desk.request(names=("fax",)), False),
            (desk.request(names=(), admission=b"begin"), False),
        ]:
            assert (await backend.look_at_tasks(request, 0)).is_claimable is is_claimable, request
        await backend.pause_queue("q", is_paused=True)
        assert not await self._is_claimable(desk)
        await backend.pause_queue("q", is_paused=False)
        await backend.limit_queue("q", QueueLimits(concurrency=1))
        (task,) = await desk.claim()
        assert not await self._is_claimable(desk), "it is full"
        await desk.write("d", queue="p")
        assert not await self._is_claimable(desk), "there is no room for the other queue here"
        assert (await backend.look_at_tasks(desk.request(other_room=1), 0)).is_claimable
        await desk.finish(task)
        assert await self._is_claimable(desk)

    async def _is_claimable(self, desk: Desk) -> bool:
        return (await desk.backend.look_at_tasks(desk.request(), 0)).is_claimable

    @contract
    async def test_a_look_knows_starts_and_suspects(self, backend: Backend) -> None:
        """A start is for who admits, a suspect for who has none."""
        desk = await a_desk(backend)
        await backend.send([a_start("one", "p")])
        assert not await self._is_claimable(desk)
        assert (await backend.look_at_tasks(desk.request(0, admission=b"begin"), 0)).is_claimable
        await backend.claim(desk.request(0, admission=b"begin"), 0)
        assert not (await backend.look_at_tasks(desk.request(0, admission=b"begin"), 0)).is_claimable
        await desk.write("a")
        (task,) = await desk.claim()
        await backend.finish_tasks([an_end(task, following=the_next_attempt(is_suspect=True))], desk.server)
        await desk.claim(0)  # its time has come
        assert await self._is_claimable(desk)
        assert not (await backend.look_at_tasks(desk.request(takes_suspect=False), 0)).is_claimable

    @contract
    async def test_a_look_says_when_there_will_be_something_to_do(self, backend: Backend) -> None:
        """The earliest moment at which time alone changes what it says."""
        desk = await a_desk(backend)

        async def look(now_us: int) -> Outlook:
            return await backend.look_at_tasks(desk.request(), now_us)

        await desk.write("a", expires_us=900)
        assert await look(1) == Outlook(True, False, 900)
        assert await look(900) == Outlook(True, True, None)
        await desk.claim(now_us=1)
        assert await look(901) == Outlook(False, False, None), "it was begun in time"
        await desk.write("b", not_before_us=500)
        assert await look(1) == Outlook(False, False, 500)
        assert await look(500) == Outlook(True, False, None)
        await desk.claim(now_us=500)
        await backend.limit_queue("q", QueueLimits(rate_count=1, rate_period_us=100, rate_burst=1))
        await desk.write(*"cd")
        assert len(await desk.claim(now_us=1_000)) == 1
        assert await look(1_001) == Outlook(False, False, 1_100)
        assert await look(1_100) == Outlook(True, False, None)
