"""An activity that kills its own process uses up its own attempts, not those of its neighbours."""

import asyncio
from typing import Any

import pytest

from durableflow import Context, Status, workflow

pytestmark = pytest.mark.slow  # processes that die and are started again

NEIGHBOURS = 6


@pytest.mark.parametrize(("how", "deadly"), [("exit", "die"), ("SIGKILL", "die"), ("abort", "die_in_thread")])
async def test_an_activity_that_kills_its_process_fails_and_its_neighbours_do_not(
    stage: Any, how: str, deadly: str
) -> None:
    @workflow
    async def dying(ctx: Context, how: str) -> str: ...

    @workflow
    async def working(ctx: Context, label: str, seconds: float) -> str: ...

    worker = await stage.leading_worker("shop")
    async with stage.client() as client:
        for number in range(NEIGHBOURS):
            await client.start(working.options(instance_id=f"neighbour-{number}"), f"job {number}", 0.25)
        victim = await client.start(dying.options(instance_id="deadly"), how)
        deaths = 0
        result = asyncio.ensure_future(victim.result(timeout=30))
        while not result.done():
            if worker.popen.poll() is not None:
                deaths += 1
                worker = await stage.leading_worker("shop")
            await asyncio.sleep(0.01)
        assert await result == "WorkerLost after 3 attempts"
        assert deaths == 3
        for number in range(NEIGHBOURS):
            neighbour = client.handle(f"neighbour-{number}", working)
            assert await neighbour.result(timeout=10) == f"job {number} is done"
    assert len(stage.entries(what="begin", activity=deadly)) == 3
    await worker.close()


async def test_a_deadly_activity_does_not_keep_others_from_starting(stage: Any) -> None:
    @workflow
    async def dying(ctx: Context, how: str) -> str: ...

    @workflow
    async def working(ctx: Context, label: str, seconds: float) -> str: ...

    worker = await stage.leading_worker("shop")
    async with stage.client() as client:
        await client.start(dying.options(instance_id="deadly"), "exit")
        for number in range(4):
            if number < 3:
                await worker.ends()
                worker = await stage.leading_worker("shop")
            late = await client.start(working.options(instance_id=f"late-{number}"), f"late {number}", 0.0)
            assert await late.result(timeout=10) == f"late {number} is done", "beside, or after, the next death"
        assert (await client.status("deadly")).status is Status.COMPLETED
    await worker.close()
