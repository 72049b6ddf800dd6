"""Attempts that somebody else finishes: the store knows them by the digest of a token."""

from __future__ import annotations

from durableflow.backends.base import Backend, Commit, Lease
from durableflow.backends.tasks import HANDED_OVER, Offer, StoredTask, TaskBeat
from durableflow.errors import LeaseLost
from durableflow.model.status import Status
from durableflow.testing.contract.desk import TTL_US, a_desk, an_end, the_next_attempt
from durableflow.testing.contract.store import StoreContract, an_instance, contract, refused


def an_offer(
    instance_id: str, task: int = 7, digest: bytes = b"digest", expires_us: int | None = None, attempt: int = 2
) -> Offer:
    """An attempt of an activity, by default the second, offered by the worker that runs it."""
    return Offer(instance_id, task, attempt, "approve", b"options", 5, 1, 6, expires_us, digest)


class TokenContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_an_attempt_is_offered_by_the_worker_that_owns_its_instance(self, backend: Backend) -> None:
        """It is a task of no queue, which nobody claims and anybody finishes, once."""
        desk = await a_desk(backend)
        assert await backend.offer_task(desk.lease, an_offer("i"))
        task = await backend.task("i", 7)
        assert task is not None
        assert task == StoredTask(
            task.number, "i", 7, 2, "", "approve", b"", b"options", 0, "", HANDED_OVER, 0, None, 0, 6, b"digest",
            None, 5, 1, 0, False,
        )  # fmt: skip
        assert await backend.offered_tasks() == [("i", 7)]
        assert await desk.claim(names=("approve",), rooms={"": 9}, other_room=9) == []
        assert await backend.finish_tasks([an_end(task)] * 2, None) == [True, False]
        assert await backend.offered_tasks() == []
        assert await desk.messages() == [b"done"]

    @contract
    async def test_a_second_offer_takes_the_place_of_the_first(self, backend: Backend) -> None:
        """Whoever saw the first finishes nothing."""
        desk = await a_desk(backend)
        await backend.offer_task(desk.lease, an_offer("i"))
        first = await backend.task("i", 7)
        await backend.offer_task(desk.lease, an_offer("i", digest=b"other"))
        second = await backend.task("i", 7)
        assert first is not None
        assert second is not None
        assert second == first._replace(number=second.number, token_digest=b"other")
        assert second.number > first.number
        assert await backend.finish_tasks([an_end(first), an_end(second)], None) == [False, True]

    @contract
    async def test_an_offer_that_comes_late_leaves_that_of_a_later_attempt_alone(self, backend: Backend) -> None:
        """It was overtaken on its way; who holds the token of the later attempt must still find it."""
        desk = await a_desk(backend)
        await backend.offer_task(desk.lease, an_offer("i", attempt=3))
        offered = await backend.task("i", 7)
        assert not await backend.offer_task(desk.lease, an_offer("i", digest=b"late"))
        assert await backend.task("i", 7) == offered
        assert await backend.offer_task(desk.lease, an_offer("i", digest=b"next", attempt=4))
        task = await backend.task("i", 7)
        assert task is not None
        assert (task.attempt, task.token_digest) == (4, b"next")

    @contract
    async def test_who_may_not_write_offers_nothing(self, backend: Backend) -> None:
        """A worker without its lease; and nobody, of an instance that is over or gone."""
        desk = await a_desk(backend)
        await backend.commit(desk.lease, Commit(new=[an_instance("over", Status.COMPLETED)]))
        assert not await backend.offer_task(desk.lease, an_offer("over"))
        assert not await backend.offer_task(desk.lease, an_offer("nobody"))
        with refused(LeaseLost):
            await backend.offer_task(Lease(desk.lease.worker_id + 1, TTL_US), an_offer("i"))
        assert await backend.offered_tasks() == []

    @contract
    async def test_offers_are_known_after_reopening(self, backend: Backend) -> None:
        """In the order in which they were made; those of queues are not among them."""
        desk = await a_desk(backend)
        await desk.write("a")
        (task,) = await desk.claim()
        await backend.offer_claimed(task.number, 1, desk.server, b"digest")
        for number in (9, 7, 8):
            await backend.offer_task(desk.lease, an_offer("i", number))
        await backend.close()
        await backend.open()
        assert await backend.offered_tasks() == [("i", 9), ("i", 7), ("i", 8)]

    @contract
    async def test_a_claim_is_offered_by_the_server_that_holds_it(self, backend: Backend) -> None:
        """By none else, and for the current attempt only."""
        desk = await a_desk(backend)
        await desk.write("a")
        number = (await desk.task(1)).number
        assert not await backend.offer_claimed(number, 1, desk.server, b"early")
        (task,) = await desk.claim()
        assert not await backend.offer_claimed(number, 2, desk.server, b"wrong")
        assert not await backend.offer_claimed(number, 1, desk.server + 1, b"wrong")
        assert not await backend.offer_claimed(number + 1, 1, desk.server, b"wrong")
        assert (await desk.task(1)).token_digest is None
        assert await backend.offer_claimed(number, 1, desk.server, b"digest")
        assert await desk.task(1) == task._replace(token_digest=b"digest")
        assert await backend.offer_claimed(number, 1, desk.server, b"second")
        assert (await desk.task(1)).token_digest == b"second"

    @contract
    async def test_a_claim_that_is_handed_over_is_no_servers_any_more(self, backend: Backend) -> None:
        """It keeps its token, whatever becomes of the server; the attempt that follows has none."""
        desk = await a_desk(backend)
        await desk.write("a")
        (task,) = await desk.claim()
        await backend.offer_claimed(task.number, 1, desk.server, b"digest")
        handed_over = the_next_attempt(state=HANDED_OVER, attempt=1, expires_us=70)
        assert await backend.finish_tasks([an_end(task, b"handed over", handed_over)], desk.server) == [True]
        assert await desk.task(1) == task._replace(
            state=HANDED_OVER, expires_us=70, claimed_by=0, token_digest=b"digest"
        )
        assert await backend.renew_server(desk.server, TTL_US, 0) == []
        await backend.retire_server(desk.server, [])
        kept = await desk.task(1)
        assert (kept.state, kept.token_digest) == (HANDED_OVER, b"digest")
        assert await backend.finish_tasks([an_end(kept, b"failed", the_next_attempt())], None) == [True]
        assert (await desk.task(1)).token_digest is None

    @contract
    async def test_what_was_handed_over_is_overdue_when_nobody_brings_it(self, backend: Backend) -> None:
        """A heartbeat pushes that on."""
        desk = await a_desk(backend)
        await backend.offer_task(desk.lease, an_offer("i", 7, expires_us=50))
        await backend.offer_task(desk.lease, an_offer("i", 8))
        assert await backend.overdue_tasks(desk.server, 49, 9) == []
        (overdue,) = await backend.overdue_tasks(desk.server, 50, 9)
        assert (overdue.task, overdue.state) == (7, HANDED_OVER)
        assert await backend.beat_tasks([TaskBeat(overdue.number, 2, b"at it", 60)]) == [True]
        assert await backend.overdue_tasks(desk.server, 59, 9) == []
        assert len(await backend.overdue_tasks(desk.server, 60, 9)) == 1
