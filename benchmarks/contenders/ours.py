"""durableflow itself, embedded in this process, with its default options: on a SQLite file, and in memory.

Activities are `async def`, so they run on the engine's loop and no thread is paid for.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks import work
from durableflow import Context, Engine, Flow, Settings, Workflow, activity, workflow
from durableflow.backends.sqlite import SqliteBackend

EVENT: Final = "go"
DATABASE: Final = "durableflow.db"
GATED_MAX: Final = 20_000  # instances that one crash may interrupt


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


WORKFLOWS: Final[dict[str, Workflow[[int], int]]] = {each.name: each for each in (one, ten, fan_out, long, wait, gated)}


class Durableflow:
    def __init__(self, *, durable: bool) -> None:
        self._durable = durable
        self._engine: Engine | None = None
        self._backend: SqliteBackend | None = None

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "open comes first"
        return self._engine

    async def open(self, directory: Path) -> None:
        self._backend = SqliteBackend(directory / DATABASE) if self._durable else None
        # To interrupt many instances in the same activity, they must all be in it: more than may run by default.
        settings = None if work.gate_open else Settings(activity_concurrency=GATED_MAX)
        engine = Engine(self._backend or "memory://", settings=settings)
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
        return handle.id

    async def raise_event(self, instance_id: str, value: int) -> None:
        await self.engine.raise_event(instance_id, EVENT, value)

    async def result(self, instance_id: str) -> int:
        result: int = await self.engine.handle(instance_id).result()
        return result

    def server_pids(self) -> Sequence[int]:
        return ()

    async def durability(self) -> Mapping[str, str]:
        if self._backend is None:
            return {"durable": "no: everything is in memory"}
        return await self._backend._connection().call(
            _pragmas
        )  # there is no door for this, and it must be the writer's


def _pragmas(connection: sqlite3.Connection) -> dict[str, str]:
    names = ("journal_mode", "synchronous")
    return {name: str(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in names}


def sqlite() -> Durableflow:
    return Durableflow(durable=True)


def memory() -> Durableflow:
    return Durableflow(durable=False)
