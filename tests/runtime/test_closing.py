"""Engines that close: they come to an end, whatever becomes of their lease meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from durableflow import Context, Flow, activity, workflow
from durableflow.backends.base import Heartbeat
from durableflow.errors import LeaseLost

if TYPE_CHECKING:
    World = Any  # of conftest.py
    FaultyBackend = Any


async def test_an_engine_ends_though_it_hears_a_heartbeat_after_its_lease_was_lost(
    world: World, faulty: FaultyBackend
) -> None:
    """One that a thread gave before, and that was on its way: nobody is left who would write it."""

    @activity
    async def hangs() -> None:
        await asyncio.get_running_loop().create_future()

    @workflow
    def calls(ctx: Context) -> Flow[Any]:
        yield from ctx.call_activity(hangs)

    async def loses_the_lease(*_: object) -> None:
        raise LeaseLost("planted")

    engine = await world.open(faulty, workflows=[calls], activities=[hangs])
    handle = await engine.start(calls)
    await world.settle()
    agenda = world.worker(engine)._agenda
    clear = agenda.clear

    def clear_and_hear() -> None:
        clear()
        agenda.keep_beat(Heartbeat(handle.id, 1, 1, b"1"))

    faulty.commit, agenda.clear = loses_the_lease, clear_and_hear
    async with asyncio.timeout(60):
        await world.close(engine)
    assert agenda
