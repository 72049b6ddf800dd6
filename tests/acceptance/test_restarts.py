"""What a restart keeps: attempts that do not count, and the moments at which things are due."""

import asyncio
import time
from typing import Any

import pytest

from durableflow import Client, Context, workflow
from durableflow.model import events as ev

pytestmark = pytest.mark.slow  # starts and stops processes

LATE_US = 1_000_000
BACK_OFF_US = NAP_US = 2_000_000  # as in apps/shop.py


async def those(client: Client, instance: str, kind: type) -> list[Any]:
    return [entry for entry in await client.history(instance) if isinstance(entry.event, kind)]


@pytest.mark.parametrize("grace_s", [0.0, 0.2])
async def test_an_attempt_that_a_graceful_stop_cuts_short_does_not_count(stage: Any, grace_s: float) -> None:
    @workflow
    async def working_once(ctx: Context, label: str, seconds: float) -> str: ...

    worker = await stage.leading_worker("shop", grace_s=grace_s)
    async with stage.client() as client:
        handle = await client.start(working_once.options(instance_id="w"), "job", 60.0)
        await stage.begun()
        await worker.close()
        (cut,) = await those(client, "w", ev.AttemptFailed)
        assert (cut.event.attempt, cut.event.counts) == (1, False)
        worker = await stage.leading_worker("shop")
        assert await handle.result(timeout=10) == "job is done", "its only attempt was still to come"
        (completed,) = await those(client, "w", ev.ActivityCompleted)
        assert completed.event.attempt == 2
    assert [(entry["what"], entry["attempt"]) for entry in stage.entries()] == [("begin", 1), ("begin", 2), ("end", 2)]
    await worker.close()


async def test_a_graceful_stop_lets_a_short_attempt_end(stage: Any) -> None:
    @workflow
    async def working(ctx: Context, label: str, seconds: float) -> str: ...

    worker = await stage.leading_worker("shop", grace_s=10)
    async with stage.client() as client:
        handle = await client.start(working.options(instance_id="w"), "job", 0.5)
        await stage.begun()
        await worker.close()
        assert await handle.result(timeout=1) == "job is done", "the first worker recorded it before it ended"
    assert [entry["what"] for entry in stage.entries()] == ["begin", "end"]


async def test_a_retry_is_due_when_it_was_due_before_the_crash(stage: Any) -> None:
    @workflow
    async def backing_off(ctx: Context, label: str) -> str: ...

    worker = await stage.leading_worker("shop")
    async with stage.client() as client:
        handle = await client.start(backing_off.options(instance_id="b"), "job")
        (failed,) = await stage.eventually(lambda: those(client, "b", ev.AttemptFailed))
        due_us = failed.event.retry_at_us
        assert due_us == pytest.approx(failed.at_us + BACK_OFF_US, abs=100_000)
        await asyncio.sleep(1)
        worker.kill()
        worker = await stage.leading_worker("shop")
        assert await handle.result(timeout=10) == "job is done"
        (began,) = await those(client, "b", ev.ActivityStarted)
        assert (began.event.attempt, due_us <= began.at_us < due_us + LATE_US) == (2, True)
    assert len(stage.entries(what="begin")) == 2
    await worker.close()


@pytest.mark.parametrize("down_s", [0.0, 1.5], ids=["due after the restart", "due while nobody was up"])
async def test_a_timer_is_due_when_it_was_due_before_the_crash(stage: Any, down_s: float) -> None:
    @workflow
    async def napping(ctx: Context) -> float: ...

    worker = await stage.leading_worker("shop")
    async with stage.client() as client:
        handle = await client.start(napping.options(instance_id="n"))
        (created,) = await stage.eventually(lambda: those(client, "n", ev.TimerCreated))
        await asyncio.sleep(1)
        worker.kill()
        await asyncio.sleep(down_s)
        worker = await stage.leading_worker("shop")
        up_us = time.time_ns() // 1_000
        slept_s = await handle.result(timeout=10)
        (fired,) = await those(client, "n", ev.TimerFired)
        assert created.event.due_us == created.at_us + NAP_US
        assert created.event.due_us <= fired.at_us < max(created.event.due_us, up_us) + LATE_US
        assert slept_s >= NAP_US / 1_000_000
    await worker.close()
