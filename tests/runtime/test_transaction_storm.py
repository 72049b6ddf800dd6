"""Transactional activities in bad weather, by seeded dice: commits that fail, evictions, time-outs, crashes.

Whatever happens, the user's table has one row for each recorded completion, written by the attempt that is recorded,
and no other row.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import Client, Context, Outbox, RetryPolicy, Status, StorageError, activity, activity_context, workflow
from durableflow.model import events as ev

if TYPE_CHECKING:
    World = Any  # of conftest.py

INSTANCES = 6
ROWS = 5


@workflow
async def listens(ctx: Context) -> list[int]:
    return [await ctx.wait_for_event("row", int) for _ in range(ROWS)]


@activity(transactional=True, retry=RetryPolicy(max_attempts=1_000, initial=0.5, backoff=1), timeout=30)
def write(db: sqlite3.Connection, number: int) -> int:
    context = activity_context()
    db.execute("create table if not exists rows (key text, attempt integer)")
    db.execute("insert into rows values (?, ?)", (context.idempotency_key, context.attempt))
    Outbox(db).raise_event(f"listener of {context.instance_id}", "row", number)
    time.sleep(0.0005)  # so that a crash finds some at work
    if (number + context.attempt) % 4 == 0:
        raise ValueError("now and then")
    return number


@workflow
async def writes(ctx: Context, number: int) -> list[int]:
    done: list[int] = []
    for n in range(ROWS - 2):
        done.append(await ctx.call_activity(write, n))
        await ctx.sleep(1)
    done += await ctx.when_all([ctx.call_activity(write, n) for n in range(ROWS - 2, ROWS)])
    return done


async def insist(ask: Any) -> None:
    for _ in range(200):
        try:
            await ask()
        except StorageError:
            await asyncio.sleep(0.001)
        else:
            return
    raise AssertionError("never acknowledged")


class Weather:
    """Faults at the moments of each transaction, by dice, until it clears up."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.is_bad = True

    def __call__(self, moment: str) -> None:
        if self.is_bad and moment != "begin" and self._dice.random() < 0.08:
            raise StorageError("planted")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_a_storm_leaves_one_row_for_each_completion(sqlite_world: World, seed: int) -> None:
    world = sqlite_world
    dice = random.Random(seed)
    weather = Weather(dice)
    known = {
        "workflows": [writes, listens],
        "activities": [write],
        "cached_instances": dice.choice([0, 2, 100]),
        "commit_retries": dice.choice([0, 1, 6]),
        "turns_per_commit": dice.choice([1, 3, 100]),
    }

    async def open_engine() -> Any:
        backend = world.backend()
        backend.hook = None
        engine = await world.open(backend, **known)
        backend.hook = weather
        return engine

    engine = await open_engine()
    async with Client(world.backend(), clock=world.clock) as client:
        for n in range(INSTANCES):
            await insist(lambda n=n: engine.start(listens.options(instance_id=f"listener of i{n}")))
            await insist(lambda n=n: engine.start(writes.options(instance_id=f"i{n}"), n))
        for _ in range(12):
            for _ in range(dice.randrange(30)):
                await asyncio.sleep(0.001)
                world.clock.move(world.clock.now + dice.choice([0, 10_000, 500_000]))
            if dice.random() < 0.2:
                world.clock.move(world.clock.now + 31_000_000)  # whoever is at work times out
            if dice.random() < 0.6:
                await world.crash(engine)
                engine = await open_engine()
        weather.is_bad = False
        ids = [f"{role}i{n}" for n in range(INSTANCES) for role in ("", "listener of ")]
        for _ in range(200):
            await world.advance(2)
            await asyncio.sleep(0.002)
            statuses = Counter([(await client.status(each)).status for each in ids])
            if statuses == {Status.COMPLETED: len(ids)}:
                break
        assert statuses == {Status.COMPLETED: len(ids)}
        completed: list[tuple[str, int]] = []
        for n in range(INSTANCES):
            assert await client.result(f"i{n}") == list(range(ROWS))
            assert sorted(await client.result(f"listener of i{n}")) == list(range(ROWS)), "each row's event, once"
            events = [entry.event for entry in await client.history(f"i{n}")]
            completed += [(f"i{n}/{e.task}", e.attempt) for e in events if isinstance(e, ev.ActivityCompleted)]
        with closing(sqlite3.connect(world.path)) as db:
            rows = db.execute("select key, attempt from rows").fetchall()
        assert sorted(rows) == sorted(completed)
        assert len(rows) == INSTANCES * ROWS
        assert await client._backend.inbox(0, 10) == []
    attempts = world.worker(engine).attempts
    assert (attempts.running, attempts._free_places["store"]) == ({}, 32)
    await world.crash(engine)
