"""What is wanted comes into memory, whatever leaves it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from durableflow import Context, Status, workflow
from durableflow.backends.base import Lease, LoadedInstance

if TYPE_CHECKING:
    World = Any  # of conftest.py


@workflow
async def slow_to_end(ctx: Context) -> str:
    await ctx.wait_for_event("go")
    await ctx.sleep(timedelta(seconds=10))
    return "over"


async def test_an_instance_that_leaves_memory_while_others_are_read_is_read_too(world: World, faulty: Any) -> None:
    """It was wanted while it was in memory, so the store was not asked for it; then a commit of it did not answer."""
    async with world.engine(workflows=[slow_to_end]) as engine:
        for name in ("i", "other"):
            await engine.start(slow_to_end.options(instance_id=name))
        await world.settle()
    gate, reads = asyncio.Event(), asyncio.Event()

    async def load(instance_ids: Sequence[str], lease: Lease | None = None) -> list[LoadedInstance]:
        if "other" in instance_ids:
            reads.set()
            await gate.wait()
        loaded: list[LoadedInstance] = await faulty._real.load(instance_ids, lease)
        return loaded

    async with world.engine(faulty, workflows=[slow_to_end]) as engine:
        table = world.worker(engine).instances
        await table.load("i")
        faulty.load = load
        table.want("other")
        table.want("i")
        await reads.wait()
        faulty.faults = ["hide"]
        await engine.raise_event("i", "go")
        gate.set()
        await world.advance(11)
        assert (await engine.status("i")).status is Status.COMPLETED
