"""Queues and tokens: whoever serves takes, what is claimed is finished once, poison holds up nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durableflow import (
    ActivityFailed,
    Client,
    Context,
    HandedOver,
    RetryPolicy,
    Status,
    TokenRefused,
    activity,
    activity_context,
    workflow,
)


@activity(queue="mail")
async def good(n: int) -> int:
    return n


@activity(queue="mail", retry=RetryPolicy(max_attempts=2, initial=0))
async def poison() -> None:
    raise ValueError("poison")


@workflow
async def fan(ctx: Context, count: int) -> str:
    bad = ctx.call_activity(poison)
    total = sum(await ctx.when_all([ctx.call_activity(good, 1) for _ in range(count)]))
    try:
        await bad
    except ActivityFailed as error:
        return f"{total} and {error.attempts}"
    return "no poison"


async def test_poison_uses_up_its_own_attempts_and_holds_up_nobody(world: Any) -> None:
    async with world.engine(workflows=[fan], activities=[good, poison]) as engine:
        handle = await engine.start(fan, 100)
        assert await handle.result(timeout=10) == "100 and 2"
        status = await engine.queue("mail")
        assert (status.waiting, status.running, status.delayed) == (0, 0, 0)


async def test_an_engine_that_stands_by_serves_a_queue(sqlite_world: Any) -> None:
    world = sqlite_world
    async with world.engine(workflows=[fan]) as leading, world.engine(activities=[good, poison]) as standing_by:
        assert not standing_by.is_leading
        assert await (await leading.start(fan, 20)).result(timeout=10) == "20 and 2"


async def test_tasks_wait_while_their_queue_is_paused_and_survive_a_crash(world: Any) -> None:
    engine = await world.open(workflows=[fan], activities=[good, poison])
    await engine.pause_queue("mail")
    await engine.start(fan.options(instance_id="a"), 3)
    await world.until(lambda: None, lambda: _is_waiting(engine, 4))
    await world.crash(engine)
    async with world.engine(workflows=[fan], activities=[good, poison]) as again:
        assert (await again.queue("mail")).is_paused
        await again.resume_queue("mail")
        assert await again.handle("a").result(timeout=10) == "3 and 2"


async def _is_waiting(engine: Client, count: int) -> bool:
    return (await engine.queue("mail")).waiting == count


tokens: list[str] = []


@activity
async def ask() -> str:
    tokens.append(await activity_context().hand_over())
    raise HandedOver


@activity(queue="asking")
def ask_queued() -> str:
    tokens.append(activity_context().hand_over_blocking())
    raise HandedOver


@workflow
async def asking(ctx: Context, *, queued: bool) -> str:
    return await ctx.call_activity(ask_queued if queued else ask)


@pytest.mark.parametrize("queued", [False, True])
async def test_a_token_survives_a_restart_and_is_good_once(world: Any, *, queued: bool) -> None:
    tokens.clear()
    async with world.engine(workflows=[asking], activities=[ask, ask_queued]) as engine:
        handle = await engine.start(asking.options(instance_id="a"), queued=queued)
        await world.until(lambda: None, lambda: _is_handed_over(engine))
    async with world.engine(workflows=[asking], activities=[ask, ask_queued]) as engine:
        assert await engine.heartbeat(tokens[0], 1)
        await engine.complete(tokens[0], "yes")
        assert await engine.handle("a").result(timeout=10) == "yes"
        with pytest.raises(TokenRefused) as refused:
            await engine.complete(tokens[0], "no")
        assert refused.value.reason == "over"
        with pytest.raises(TokenRefused):
            await engine.complete("no token")
    assert len(tokens) == 1, handle


async def _is_handed_over(engine: Client) -> bool:
    kinds = [each.kind for each in await engine.history("a")]
    return "activity_handed_over" in kinds


@workflow
async def held(ctx: Context) -> str:
    return await ctx.wait_for_event("go", str)


async def test_a_queue_admits_so_many_instances_and_the_next_when_one_is_over(world: Any) -> None:
    async with world.engine(workflows=[held]) as engine:
        await engine.set_queue("imports", concurrency=1)
        one = await engine.start(held.options(queue="imports"))
        two = await engine.start(held.options(queue="imports"))
        await one.wait_for_status(Status.RUNNING, timeout=5)
        await asyncio.sleep(0.05)
        assert (await two.status()).status is Status.PENDING
        await one.raise_event("go", "done")
        await two.wait_for_status(Status.RUNNING, timeout=5)
        await two.terminate()
        await world.until(lambda: None, lambda: _is_empty(engine))


async def _is_empty(engine: Client) -> bool:
    return (await engine.queue("imports")).running == 0
