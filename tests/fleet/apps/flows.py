"""The load: workflows of many kinds, whose results are known beforehand and whose activities write into a ledger."""

import asyncio
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "acceptance" / "apps"))  # the ledger is that of the acceptance tests

import ledger

from durableflow import Context, RetryPolicy, activity, activity_context, workflow

PATIENT = RetryPolicy(max_attempts=60, initial=0.02, max_delay=0.2)  # losing a worker costs an attempt


def pause_s(number: int) -> float:
    return number * 7919 % 12 / 1000


# -- activities -------------------------------------------------------------------------------------------------------


@activity(retry=PATIENT)
async def add(a: int, b: int) -> int:
    with ledger.noted(a, b):
        await asyncio.sleep(pause_s(a + b))
    return a + b


@activity(retry=PATIENT)
async def doze(seconds: float) -> float:
    with ledger.noted(seconds):
        await asyncio.sleep(seconds)
    return seconds


@activity(retry=PATIENT)
def square(number: int) -> int:
    with ledger.noted(number):
        time.sleep(pause_s(number))
    return number * number


@activity(retry=PATIENT)
async def flaky(number: int, good_attempt: int) -> int:
    with ledger.noted(number, good_attempt):
        await asyncio.sleep(pause_s(number))
        if activity_context().attempt < good_attempt:
            raise ConnectionError("not yet")
    return number


@activity(queue="fleet", retry=PATIENT)
async def add_elsewhere(a: int, b: int) -> int:
    with ledger.noted(a, b):
        await asyncio.sleep(pause_s(a + b))
    return a + b


@activity(transactional=True, retry=PATIENT)
async def book(connection: Any, instance: str, number: int) -> int:
    """Exactly once: what it writes is committed with its result."""
    with ledger.noted(instance, number):
        await connection.execute("insert into public.booked (instance, number) values ($1, $2)", instance, number)
    return number


# -- workflows that end by themselves, but for events that their client sends ------------------------------------------


@workflow
async def sequence(ctx: Context, number: int) -> int:
    for summand in range(5):
        number = await ctx.call_activity(add, number, summand)
    return number


@workflow
async def fan_out(ctx: Context, number: int) -> int:
    squares = await ctx.when_all([ctx.call_activity(square, number + i) for i in range(6)])
    return await ctx.call_activity(add, sum(squares), 1)


@workflow
async def timers(ctx: Context, number: int) -> list[int]:
    first = await ctx.call_activity(add, number, 1)
    nap = timedelta(milliseconds=100 + number * 97 % 1400)
    before = ctx.now()
    await ctx.sleep(nap)
    early = ctx.now() < before + nap
    return [await ctx.call_activity(add, first, 1), int(early)]


@workflow
async def events(ctx: Context, number: int) -> list[int]:
    got = [await ctx.call_activity(add, number, 0)]
    got += [await ctx.wait_for_event("go", int)]
    got += [await ctx.call_activity(add, got[-1], 1)]
    got += [await ctx.wait_for_event("GO", int)]
    return got


@workflow
async def retries(ctx: Context, number: int) -> int:
    return await ctx.call_activity(flaky, number, 2 + number % 2)


@workflow
async def part(ctx: Context, number: int) -> int:
    value = await ctx.call_activity(add, number, 1)
    assert ctx.parent_instance_id is not None
    await ctx.raise_event(ctx.parent_instance_id, "part", value)
    return value


@workflow
async def children(ctx: Context, number: int) -> list[int]:
    parts = [ctx.call_workflow(part, number + i) for i in range(3)]
    told = [await ctx.wait_for_event("part", int) for _ in parts]
    return [sum(await ctx.when_all(parts)), sum(told)]


@workflow
async def queued(ctx: Context, number: int) -> int:
    return sum(await ctx.when_all([ctx.call_activity(add_elsewhere, number, i) for i in range(4)]))


@workflow
async def booking(ctx: Context, number: int) -> int:
    first = await ctx.call_activity(book, ctx.instance_id, number)
    return first + await ctx.call_activity(book, ctx.instance_id, number + 1)


KINDS = [sequence, fan_out, timers, events, retries, children, queued, booking]


def expected(kind: str, number: int) -> Any:
    """What an instance of `KINDS` returns."""
    match kind:
        case "sequence":
            return number + 10
        case "fan_out":
            return sum((number + i) ** 2 for i in range(6)) + 1
        case "timers":
            return [number + 2, 0]
        case "events":
            first, second = event_values(number)
            return [number, first, first + 1, second]
        case "children":
            return [3 * number + 6] * 2
        case "queued":
            return 4 * number + 6
        case "booking":
            return 2 * number + 1
        case _:
            return number


def event_values(number: int) -> list[int]:
    """What its client sends to an instance of `events`, in order."""
    return [number * 10 + 1, number * 10 + 2]


# -- workflows that only wait -----------------------------------------------------------------------------------------


@workflow
async def waiting(ctx: Context, number: int) -> int:
    go = await ctx.wait_for_event("go", int)
    return await ctx.call_activity(add, number, go)


@workflow
async def dozing(ctx: Context, seconds: float) -> float:
    return await ctx.call_activity(doze, seconds)


@workflow
async def napping(ctx: Context, nap_s: float) -> int:
    await ctx.sleep(nap_s)
    return await ctx.call_activity(add, 0, 1)
