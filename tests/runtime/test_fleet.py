"""Workers that share a store: what each does with what it owns, and with what it does not."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from durableflow import Client, Context, Engine, InstanceStalled, Status, workflow
from durableflow.backends.base import Lease, LoadedInstance
from durableflow.backends.ownership import ClaimedInstance
from durableflow.backends.postgres import PostgresBackend

pytestmark = pytest.mark.slow  # each test opens several stores on a server


@workflow
async def counts(ctx: Context, until: int) -> int:
    total = 0
    while total < until:
        total += await ctx.wait_for_event("one", int)
    return total


class SlowToLoad(PostgresBackend):
    """What it loads is as it was when it looked."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.gate = asyncio.Event()
        self.gate.set()
        self.looked = asyncio.Event()

    async def load(self, instance_ids: Sequence[str], lease: Lease | None = None) -> list[LoadedInstance]:
        loaded = await super().load(instance_ids, lease)
        self.looked.set()
        await self.gate.wait()
        return loaded


async def test_an_instance_that_is_claimed_while_a_load_still_finds_it_elsewhere_is_loaded_again(
    store_url: Callable[[object], str], tmp_path: Path
) -> None:
    url = store_url(tmp_path)
    slow = SlowToLoad(url)
    async with Engine(url) as first, Engine(slow) as second, Client(url) as client:
        handle = await first.start(counts, 1)
        worker = second._worker
        assert worker is not None
        slow.gate.clear()
        slow.looked.clear()
        worker.instances.want(handle.id)
        await slow.looked.wait()
        await first.__aexit__(None, None, None)
        await client.raise_event(handle.id, "one", 1)
        async with asyncio.timeout(10):
            while handle.id not in worker._inbox._parked:  # noqa: ASYNC110  # another process's doing sets no event
                await asyncio.sleep(0.01)
        slow.gate.set()
        assert await client.handle(handle.id, counts).result(timeout=10) == 1
        await first.__aenter__()


async def test_what_a_closing_worker_owned_goes_on_elsewhere_at_once(
    store_url: Callable[[object], str], tmp_path: Path
) -> None:
    url = store_url(tmp_path)
    async with Engine(url) as second, Client(url) as client:
        async with Engine(url) as first:
            handles = [await first.start(counts, 2) for _ in range(20)]
            await asyncio.gather(*(handle.raise_event("one", 1) for handle in handles))
        await asyncio.gather(*(client.raise_event(handle.id, "one", 1) for handle in handles))
        waits = (client.handle(handle.id, counts).result(timeout=10) for handle in handles)
        assert await asyncio.gather(*waits) == [2] * 20
        assert second.statistics().turns >= 20


async def test_a_worker_that_joins_gets_its_share(store_url: Callable[[object], str], tmp_path: Path) -> None:
    url = store_url(tmp_path)
    async with Engine(url) as first:
        handles = [await first.start(counts, 1) for _ in range(100)]
        async with Engine(url) as second:
            worker = second._worker
            assert worker is not None
            async with asyncio.timeout(15):
                while len(await second._backend.owned(worker.lease, 100)) < 40:  # noqa: ASYNC110  # likewise
                    await asyncio.sleep(0.05)
            await asyncio.gather(*(first.raise_event(handle.id, "one", 1) for handle in handles))
            assert await asyncio.gather(*(handle.result(timeout=10) for handle in handles)) == [1] * 100
            assert second.statistics().turns >= 40


async def test_a_stalled_instance_is_tried_again_when_a_worker_is_asked_for_its_result(
    store_url: Callable[[object], str], tmp_path: Path
) -> None:
    url = store_url(tmp_path)
    async with Client(url) as client, Engine(url, workflows=[]) as engine:
        handle = await client.start(counts, 0)
        await engine.wait_for_status(handle.id, Status.STALLED, timeout=10)
        with pytest.raises(InstanceStalled, match="not registered"):
            await engine.result(handle.id)
        engine.register(counts)
        assert await engine.result(handle.id, timeout=10) == 0


class SlowToClaim(PostgresBackend):
    """What nobody owns stays nobody's for a while."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()

    async def claim_instances(self, lease: Lease, limit: int) -> list[ClaimedInstance]:
        await self.gate.wait()
        return await super().claim_instances(lease, limit)

    async def owners(self, instance_ids: Sequence[str]) -> dict[str, int]:
        self.asked.set()
        return await super().owners(instance_ids)


async def test_what_stalled_at_a_worker_that_is_gone_is_waited_for_until_it_is_taken_over(
    store_url: Callable[[object], str], tmp_path: Path
) -> None:
    url = store_url(tmp_path)
    slow = SlowToClaim(url)
    async with Client(url) as client:
        async with Engine(url, workflows=[]) as owner:
            handle = await client.start(counts, 0)
            await owner.wait_for_status(handle.id, Status.STALLED, timeout=30)
        async with Engine(slow, workflows=[counts]) as heir:
            asking = asyncio.ensure_future(heir.result(handle.id, timeout=30))
            await asyncio.wait_for(slow.asked.wait(), 30)
            slow.gate.set()
            assert await asking == 0


async def test_what_stalled_at_another_worker_stays_so_whoever_is_asked(
    store_url: Callable[[object], str], tmp_path: Path
) -> None:
    url = store_url(tmp_path)
    async with Client(url) as client, Engine(url, workflows=[]) as owner:
        handle = await client.start(counts, 0)
        await owner.wait_for_status(handle.id, Status.STALLED, timeout=10)
        async with Engine(url, workflows=[counts]) as other:
            with pytest.raises(InstanceStalled, match="not registered"):
                await other.result(handle.id, timeout=10)
