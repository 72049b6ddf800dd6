"""durableflow itself, embedded in this process, with its default options: on a SQLite file, and in memory.

Activities are `async def`, so they run on the engine's loop and no thread is paid for.
"""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import work
from durableflow import Context, Engine, Flow, Workflow, activity, workflow

EVENT: Final = "go"
DATABASE: Final = "durableflow.db"


@activity
async def add_one(x: int) -> int:
    return work.add_one(x)


@activity
async def mark(x: int) -> int:
    return work.mark(x)


@activity
async def gate(x: int) -> int:
    return await work.gate(x)


@workflow
def one(ctx: Context, x: int) -> Flow[int]:
    return (yield from ctx.call_activity(add_one, x))


@workflow
def ten(ctx: Context, x: int) -> Flow[int]:
    for _ in range(work.SEQUENCE_LENGTH):
        x = yield from ctx.call_activity(add_one, x)
    return x


@workflow
def fan_out(ctx: Context, width: int) -> Flow[int]:
    results = yield from ctx.when_all([ctx.call_activity(add_one, x) for x in range(width)])
    return sum(results)


@workflow
def long(ctx: Context, length: int) -> Flow[int]:
    x = 0
    for _ in range(length):
        x = yield from ctx.call_activity(mark, x)
    return x


@workflow
def wait(ctx: Context, x: int) -> Flow[int]:
    work.note_wait()
    value = yield from ctx.wait_for_event(EVENT, int)
    return x + value


@workflow
def gated(ctx: Context, x: int) -> Flow[int]:
    for _ in range(4):
        x = yield from ctx.call_activity(add_one, x)
    return (yield from ctx.call_activity(gate, x))


WORKFLOWS: Final[dict[str, Workflow[[int], int]]] = {
    each.name: each for each in (one, ten, fan_out, long, wait, gated)
}


class Durableflow:
    def __init__(self, *, durable: bool) -> None:
        self._durable = durable
        self._engine: Engine | None = None
        self._database = Path()

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "open comes first"
        return self._engine

    async def open(self, directory: Path) -> None:
        self._database = directory / DATABASE
        engine = Engine(f"sqlite:///{self._database}" if self._durable else "memory://")
        await engine.__aenter__()
        self._engine = engine

    async def close(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.__aexit__(None, None, None)

    async def call(self, workflow: str, argument: int) -> int:
        handle = await self.engine.start(WORKFLOWS[workflow], argument)
        return await handle.result()

    async def begin(self, workflow: str, argument: int) -> str:
        handle = await self.engine.start(WORKFLOWS[workflow], argument)
        return handle.instance_id

    async def raise_event(self, instance_id: str, value: int) -> None:
        await self.engine.raise_event(instance_id, EVENT, value)

    async def result(self, instance_id: str) -> int:
        result: int = await self.engine.handle(instance_id).result()
        return result

    def server_pids(self) -> Sequence[int]:
        return ()

    async def durability(self) -> Mapping[str, str]:
        if not self._durable:
            return {"durable": "no: everything is in memory"}
        return await asyncio.to_thread(self._pragmas)

    def _pragmas(self) -> dict[str, str]:
        raise NotImplementedError


def sqlite() -> Durableflow:
    return Durableflow(durable=True)


def memory() -> Durableflow:
    return Durableflow(durable=False)
