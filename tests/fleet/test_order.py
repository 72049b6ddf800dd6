"""Events of one sender are taken in the order in which they were sent, whichever way they come."""

import asyncio

import pytest
from fleetkit.processes import ROUNDS, Fleet

from durableflow import Context, Engine, Settings, workflow

pytestmark = pytest.mark.slow  # asks a server

EVENTS = 400


@workflow
async def collecting(ctx: Context, count: int) -> list[int]:
    return [await ctx.wait_for_event("number", int) for _ in range(count)]


async def test_an_event_does_not_overtake_one_that_was_left_in_the_store(fleet: Fleet) -> None:
    """An instance that is put away as soon as it waits: it is in memory for some events, and for others it is not."""
    async with Engine(fleet.url, settings=Settings(cached_instances=0), queues=[]) as engine:

        async def one(name: str) -> None:
            handle = await engine.start(collecting.options(instance_id=name), EVENTS)
            for number in range(EVENTS):
                await handle.raise_event("number", number)
                if number % 7 == 0:
                    await asyncio.sleep(0.003)
            assert await handle.result(timeout=30) == list(range(EVENTS))

        await asyncio.gather(*[one(f"c-{turn}") for turn in range(3 * ROUNDS)])
