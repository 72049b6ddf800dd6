"""Windows of debounced starts: one instance for each, however many ask, and the latest input counts."""

from __future__ import annotations

import asyncio

from durableflow.backends.base import Backend, Commit, DebouncedStart
from durableflow.errors import InstancesExist
from durableflow.model.status import Status
from durableflow.testing.contract.store import StoreContract, a_change, a_lease, an_instance, contract, refused


def a_start(
    n: int, key: str = "k", *, at_us: int = 100, until_us: int | None = None, version: int = 1
) -> DebouncedStart:
    """The nth start; were it the first, it would make instance `k/n`."""
    new = an_instance(f"{key}/{n}", Status.PENDING, wake_us=0, version=version)
    return DebouncedStart(key, new, b"start %d" % n, b"change %d" % n, at_us, until_us)


class WindowContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_starts_of_one_key_share_an_instance_until_its_window_is_closed(self, backend: Backend) -> None:
        """It is told the first start at once, and the latest change when the window closes."""
        assert await backend.debounce(a_start(1)) == "k/1"
        assert await backend.debounce(a_start(2, at_us=200)) == "k/1"
        assert await backend.debounce(a_start(3, "other")) == "other/3"
        assert await backend.record("k/2") is None
        assert await backend.close_window("k/1", 199) == 200
        async with self.opened() as other:
            assert await other.debounce(a_start(4, at_us=150)) == "k/1"
        assert await backend.close_window("k/1", 150) is None
        assert await backend.close_window("k/1", 150) is None, "closing it twice is no error, and tells nothing twice"
        (loaded,) = await backend.load(["k/1"])
        assert (loaded.record.status, loaded.rows) == (Status.PENDING, [])
        assert [message.data for message in loaded.messages] == [b"start 1", b"change 4"]
        assert await backend.debounce(a_start(5)) == "k/5", "the next window"
        assert await backend.close_window("nobody", 1) is None

    @contract
    async def test_a_window_is_not_open_longer_than_its_first_start_allows(self, backend: Backend) -> None:
        """What later ones say of that does not matter."""
        await backend.debounce(a_start(1, at_us=100, until_us=250))
        await backend.debounce(a_start(2, at_us=200, until_us=900))
        assert await backend.close_window("k/1", 0) == 200
        await backend.debounce(a_start(3, at_us=300, until_us=None))
        assert await backend.close_window("k/1", 0) == 250

    @contract
    async def test_of_fifty_racing_starts_one_opens_the_window(self, backend: Backend) -> None:
        """And the last to be written counts."""
        ids = await asyncio.gather(*(backend.debounce(a_start(n)) for n in range(50)))
        assert len(set(ids)) == 1
        (record,) = [each for n in range(50) if (each := await backend.record(f"k/{n}")) is not None]
        assert record.id == ids[0]
        assert await backend.close_window(ids[0], 1_000) is None
        assert len(await backend.inbox(0, 100)) == 2

    @contract
    async def test_a_window_of_an_instance_that_is_over_or_gone_is_not_open(self, backend: Backend) -> None:
        """The next start opens another; nothing is told to who is over."""
        lease = await a_lease(backend)
        await backend.debounce(a_start(1))
        await backend.commit(lease, Commit(changes=[a_change("k/1", Status.TERMINATED)]))
        assert await backend.debounce(a_start(2)) == "k/2"
        await backend.commit(lease, Commit(changes=[a_change("k/2", Status.CANCELLED)]))
        before = len(await backend.inbox(0, 100))
        assert await backend.close_window("k/2", 1_000) is None
        assert len(await backend.inbox(0, 100)) == before
        await backend.debounce(a_start(3))
        await backend.commit(lease, Commit(changes=[a_change("k/3", Status.CANCELLED)]))
        assert await backend.purge(["k/3"]) == ["k/3"]
        assert await backend.debounce(a_start(4)) == "k/4"

    @contract
    async def test_an_id_that_is_taken_opens_no_window(self, backend: Backend) -> None:
        """Nothing is written."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("k/1")]))
        with refused(InstancesExist):
            await backend.debounce(a_start(1))
        assert await backend.inbox(0, 100) == []
        assert await backend.debounce(a_start(2)) == "k/2"

    @contract
    async def test_a_key_is_of_one_workflow_and_version(self, backend: Backend) -> None:
        """Input of another is not for it."""
        assert await backend.debounce(a_start(1)) == "k/1"
        assert await backend.debounce(a_start(2, version=2)) == "k/2"
        strange = a_start(3)
        assert await backend.debounce(strange._replace(new=strange.new._replace(workflow="ship"))) == "k/3"

    @contract
    async def test_the_moment_of_an_instance_follows_its_window(self, backend: Backend) -> None:
        """But not of one that the worker has to look at now."""
        lease = await a_lease(backend)
        await backend.debounce(a_start(1))
        await backend.debounce(a_start(2, at_us=200))
        assert await backend.due((-1, ""), 1, 10) == [(0, "k/1")]
        await backend.commit(lease, Commit(changes=[a_change("k/1", Status.PENDING, wake_us=100)]))
        await backend.debounce(a_start(3, at_us=300))
        assert await backend.due((-1, ""), 1_000, 10) == [(300, "k/1")]
        record = await backend.record("k/1")
        assert record is not None
        assert record.wake_us == 300
