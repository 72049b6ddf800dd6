"""A store that has some of everything, and what is asked of it when something in it has been spoiled."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from durableflow import Context, Cron, DurableflowError, Engine, RetryPolicy, Settings, Status, activity, workflow

PATIENCE_S = 60.0
"""Nothing is expected to take so long, on however busy a machine; nor does a lease end for that."""


@activity(retry=RetryPolicy(max_attempts=2, initial=0.01))
async def fails(number: int) -> int:
    raise ValueError(f"no {number}")


@activity(queue="slow")
async def queued(number: int) -> int:
    return number


@activity(queue="other")
async def queued_elsewhere(number: int) -> int:
    return number


@workflow
async def waits(ctx: Context, number: int) -> int:
    ctx.set_custom_status({"number": number})
    return number + await ctx.wait_for_event("more", int)


@workflow
async def fails_for_good(ctx: Context) -> int:
    return await ctx.call_activity(fails, 1)


@workflow
async def queues(ctx: Context) -> int:
    return await ctx.call_activity(queued, 1)


@workflow
async def queues_elsewhere(ctx: Context) -> int:
    return await ctx.call_activity(queued_elsewhere, 1)


KNOWN: dict[str, Any] = {
    "workflows": [waits, fails_for_good, queues, queues_elsewhere],
    "activities": [fails, queued, queued_elsewhere],
}


async def make(url: str) -> None:
    """Some of everything, and nobody works on it."""
    async with Engine(url, queues=[], **KNOWN) as engine:
        await engine.start(waits.options(instance_id="i", tags={"k": "v"}), 1)
        await engine.start(fails_for_good.options(instance_id="f"))
        await engine.wait_for_status("f", Status.FAILED)
        await engine.start(queues.options(instance_id="q"))
        await engine.start(waits.options(instance_id="d", debounce=3_600), 1)
        await engine.set_queue("slow", concurrency=3, rate="1000/s")
        await engine.pause_queue("gate")
        await engine.start(waits.options(instance_id="g", queue="gate"), 1)
        await engine.schedules.create("s", Cron("0 0 1 1 *"), waits.options(), 1)
        await engine.suspend("i")
        await engine.raise_event("i", "more", 1, event_id="e")


async def breaks(url: str) -> list[str]:
    """What an engine on such a store and a client ask, and what is no documented answer; others must go on."""
    broken: list[str] = []

    async def ask(what: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await call()
        except (DurableflowError, ValueError):
            pass  # a documented answer
        except BaseException as error:
            broken.append(f"{what}: {type(error).__name__}: {error}")

    settings = Settings(lease_s=PATIENCE_S, grace_s=0.1)
    async with Engine(url, settings=settings, **KNOWN) as engine:
        await ask("list", engine.list)
        await ask("status", lambda: engine.status("i"))
        await ask("history", lambda: engine.history("i"))
        await ask("view", lambda: engine.view("f"))
        await ask("letters", engine.dead_letters.list)
        await ask("letter", lambda: engine.dead_letters.get("f"))
        await ask("queues", engine.queues)
        await ask("schedules", engine.schedules.list)
        await ask("schedule", lambda: engine.schedules.get("s"))
        await ask("resume", lambda: engine.resume("i"))
        await ask("event", lambda: engine.raise_event("i", "more", 1))
        fresh = await engine.start(waits.options(instance_id="fresh"), 1)
        await fresh.raise_event("more", 2)
        assert await fresh.result(timeout=PATIENCE_S) == 3
        await ask("terminate", lambda: engine.terminate("i"))
        elsewhere = await engine.start(queues_elsewhere.options(instance_id="elsewhere"))
        assert await elsewhere.result(timeout=PATIENCE_S) == 1
    return broken
