"""A load of many kinds of workflows; as a program, who asks for it: `load.py STORE ACKS COUNT SEED [LEDGER]`.

It is a client of the store, or, given a ledger, an application with an engine of its own.
It may be killed and started again: it does not ask again for what it has an acknowledgement of.
"""

import asyncio
import json
import random
import sys
import time
from datetime import timedelta
from pathlib import Path

import ledger

from durableflow import Client, Context, Engine, InstanceNotActive, RetryPolicy, activity, activity_context, workflow
from durableflow.backends.sqlite import SqliteBackend

PATIENT = RetryPolicy(max_attempts=40, initial=0.02, max_delay=0.2)  # losing a worker costs an attempt
AT_ONCE = 64


def pause_s(number: int) -> float:
    return number * 7919 % 12 / 1000


@activity(retry=PATIENT)
async def add(a: int, b: int) -> int:
    with ledger.noted(a, b):
        await asyncio.sleep(pause_s(a + b))
    return a + b


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


@workflow
async def sequence(ctx: Context, number: int) -> int:
    for summand in range(5):
        number = await ctx.call_activity(add, number, summand)
    return number


@workflow
async def fan_out(ctx: Context, number: int) -> int:
    squares = await ctx.when_all([ctx.call_activity(square, number + i) for i in range(8)])
    return await ctx.call_activity(add, sum(squares), 1)


@workflow
async def timers(ctx: Context, number: int) -> list[int]:
    first = await ctx.call_activity(add, number, 1)
    nap = timedelta(milliseconds=100 + number % 1900)
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


KINDS = [sequence, fan_out, timers, events, retries]


class Acks:
    """Acknowledgements in a file; each is synced before anything is built on it."""

    def __init__(self, path: Path) -> None:
        lines = path.read_bytes().splitlines() if path.exists() else []
        self._known = {tuple(json.loads(line)["ack"]) for line in lines}
        self._paper = ledger.Paper(path)

    def __contains__(self, ack: tuple[object, ...]) -> bool:
        return ack in self._known

    def add(self, *ack: object, value: object = None) -> None:
        self._paper.write({"ack": ack, "value": value}, sync=True)


async def one(talker: Client, acks: Acks, number: int) -> None:
    kind = KINDS[number % len(KINDS)]
    instance = f"{kind.name}-{number}"
    handle = talker.handle(instance, kind)
    if ("start", instance) not in acks:
        await talker.start(kind.options(instance_id=instance), number)
        acks.add("start", instance)
    if kind is events:
        for turn in (1, 2):
            if ("event", instance, turn) not in acks:
                try:  # with an id, so that whoever was killed before the acknowledgement may send it again
                    for _ in range(1 + number % 2):  # or because it forgot that it had
                        await handle.raise_event("go", number * 10 + turn, event_id=f"{number}/{turn}")
                except InstanceNotActive:  # it had come, and more: the instance is over
                    continue
                acks.add("event", instance, turn, value=number * 10 + turn)
    if ("result", instance) not in acks:
        acks.add("result", instance, value=await handle.result())


async def load(talker: Client, acks: Acks, count: int, seed: int) -> None:
    numbers = list(range(count))
    random.Random(seed).shuffle(numbers)

    async def take() -> None:
        while numbers:
            await one(talker, acks, numbers.pop())

    async with talker, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(take())


if __name__ == "__main__":
    store, acks, count, seed, *mine = sys.argv[1:]
    backend = SqliteBackend(store)
    if mine:
        ledger.open_ledger(mine[0])
        backend.hook = ledger.slow_disk
    asyncio.run(load(Engine(backend) if mine else Client(backend), Acks(Path(acks)), int(count), int(seed)))
