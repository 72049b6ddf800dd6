"""Instances that may not be loaded now, because they are being handed over: what comes for them meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from durableflow import Context, Engine, Status, workflow
from durableflow.backends.base import Lease, MessagePage
from durableflow.testing.simulation.fleet import MemoryFleet


@workflow
async def greets(ctx: Context) -> None:
    """End in the turn in which it says something, whose answer so finds nobody."""
    ctx.raise_event("somebody", "hello")


class Gated(MemoryFleet):
    """Instances are handed over, and messages read, when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.giving, self.reading, self.is_asked = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.reading.set()

    async def hand_over(self, lease: Lease, instance_ids: Sequence[str]) -> None:
        self.is_asked.set()
        await self.giving.wait()
        await super().hand_over(lease, instance_ids)

    async def read_inbox(self, lease: Lease, after: int, limit: int) -> MessagePage:
        await self.reading.wait()
        return await super().read_inbox(lease, after, limit)


async def test_a_message_for_one_that_was_over_when_it_was_to_be_handed_over_is_removed() -> None:
    """Who owns what was asked of the store before it ended."""
    store = Gated()
    async with Engine(store, workflows=[greets]) as engine, asyncio.timeout(60):
        worker = engine._worker
        assert worker is not None
        store.reading.clear()
        handle = await engine.start(greets)
        await engine.wait_for_status(handle.id, Status.COMPLETED, timeout=60)
        assert [message.instance_id for message in await store.inbox(0, 9)] == [handle.id]
        giving = asyncio.create_task(worker._fleet._give([handle.id]))
        await store.is_asked.wait()
        store.reading.set()
        while handle.id not in worker._inbox._parked:  # noqa: ASYNC110  # it sets no event
            await asyncio.sleep(0.001)
        store.giving.set()
        await giving
        while await store.inbox(0, 9):  # noqa: ASYNC110  # likewise
            await asyncio.sleep(0.01)
