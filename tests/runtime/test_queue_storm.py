"""Queues in bad weather, by seeded dice: transactions that fail in every way, take-overs, stops, crashes, clock jumps.

Whatever happens, each call has one result, no attempt is made twice under one number, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Client,
    Context,
    HandedOver,
    RetryPolicy,
    Status,
    StorageError,
    TokenRefused,
    activity,
    activity_context,
    workflow,
)
from durableflow.runtime import serving

if TYPE_CHECKING:
    World = Any  # of conftest.py

CALLED: list[tuple[str, int]] = []
TOKENS: list[str] = []
INSTANCES = 8
STEPS = 3


@activity(queue="mail", retry=RetryPolicy(max_attempts=1_000, initial=0.5, backoff=1), heartbeat_timeout=20)
async def work(number: int) -> int:
    context = activity_context()
    CALLED.append((context.idempotency_key, context.attempt))
    context.heartbeat(context.attempt)
    await asyncio.sleep(0.01 if context.attempt % 3 == 0 else 0)  # so that a stop or a crash finds some at work
    if (number + context.attempt) % 4 == 0:
        raise ValueError("now and then")
    return number * 10


@activity(queue="asking", retry=RetryPolicy(max_attempts=1_000, initial=0.5, backoff=1), timeout=30)
async def ask() -> str:
    context = activity_context()
    CALLED.append((context.idempotency_key, context.attempt))
    TOKENS.append(await context.hand_over())
    raise HandedOver


@workflow
async def mails(ctx: Context, number: int) -> list[Any]:
    done: list[Any] = []
    for step in range(STEPS):
        done.append(await ctx.when_all([ctx.call_activity(work, number * 10 + step), ctx.call_activity(work, step)]))
        await ctx.sleep(1)
    return [*done, await ctx.call_activity(ask)]


class Weather(list[Any]):
    """Endless faults by dice, as a plan that never runs out, until it clears up."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice
        self.is_bad = True

    def __bool__(self) -> bool:
        return self.is_bad

    def pop(self, _: Any = 0) -> str | None:
        return self._dice.choice(["refuse", "lose", "hide", *[None] * 9])


async def insist(ask_for: Any) -> None:
    """Until it is acknowledged: the sender knows nothing but that."""
    for _ in range(500):
        try:
            await ask_for()
        except StorageError:
            await asyncio.sleep(0.001)
        else:
            return
    raise AssertionError("never acknowledged")


async def answer(client: Client) -> None:
    """Use each token that was given out; those that are good no more are refused."""
    tokens, TOKENS[:] = list(TOKENS), []
    for token in tokens:
        with suppress(TokenRefused):
            await insist(lambda token=token: client.complete(token, "answered"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
async def test_a_storm_over_queues_leaves_one_result_of_each_call(
    world: World, faulty_class: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(serving, "_LAST_WORDS_S", 0.02)
    CALLED.clear()
    TOKENS.clear()
    weather = Weather(dice)
    known = {"workflows": [mails], "activities": [work, ask], "cached_instances": dice.choice([0, 2, 100])}
    queues = {"mail": dice.choice([1, 3, 100]), "asking": 2}

    async def open_engine() -> Any:
        backend = faulty_class(world.backend())
        backend.faults = weather
        backend.plan = dict.fromkeys(
            [
                "enlist_server", "renew_server", "retire_server", "claim", "claimed_tasks", "overdue_tasks",
                "finish_tasks", "beat_tasks",
            ],
            weather,
        )  # fmt: skip
        return await world.open(backend, queues=queues, grace_s=0.002, **known)

    engines = [await open_engine(), await open_engine()]
    async with Client(world.backend(), clock=world.clock) as client:
        await client.set_queue("mail", concurrency=dice.choice([2, 5]), rate="20/s")
        await client.set_queue("imports", concurrency=dice.choice([3, 5]))
        for n in range(INSTANCES):
            start = mails.options(instance_id=f"i{n}", queue=dice.choice(["", "imports"]) or None)
            await insist(lambda n=n, start=start: dice.choice([*engines, client]).start(start, n))
        for _ in range(15):
            for _ in range(dice.randrange(10)):
                await asyncio.sleep(0.002)
                world.clock.move(world.clock.now + dice.choice([0, 10_000, 500_000, 1_000_000]))
            if dice.random() < 0.1:
                world.clock.move(world.clock.now + 11_000_000)  # leases end that nobody could renew
            if dice.random() < 0.5:
                await answer(client)
            if dice.random() < 0.3:
                which = dice.randrange(2)
                await dice.choice([world.crash, world.close])(engines[which])
                engines[which] = await open_engine()
        weather.is_bad = False
        ids = [f"i{n}" for n in range(INSTANCES)]
        for _ in range(400):
            world.clock.move(world.clock.now + 1_000_000)
            await asyncio.sleep(0.005)
            await answer(client)
            statuses = Counter([(await client.status(each)).status for each in ids])
            if statuses == {Status.COMPLETED: INSTANCES}:
                break
        assert statuses == {Status.COMPLETED: INSTANCES}
        for n, instance_id in enumerate(ids):
            expected = [[(n * 10 + step) * 10, step * 10] for step in range(STEPS)]
            assert await client.result(instance_id) == [*expected, "answered"]
            history = await client.history(instance_id)
            results = Counter(each.event.task for each in history if each.kind == "activity_completed")
            assert sorted(results.values()) == [1] * (2 * STEPS + 1)
            assert await client._backend.task(instance_id, 0) is None
        assert [key for key, made in Counter(CALLED).items() if made > 1] == [], "an attempt is made once"
        assert [await world.counts(client, name) for name in ("mail", "asking", "imports")] == [(0, 0, 0, 0)] * 3
    for engine in engines:
        await world.crash(engine)
