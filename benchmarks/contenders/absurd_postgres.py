# The peer is installed in its own environment only, so a type checker sees nothing of it.
# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc,no-any-return"
"""Absurd: its Python SDK over its schema, which `absurdctl` brings.

Its `async` workers poll, and each works on one connection, so several of them share this process; how many, how much
each takes at a time and how often it polls are what was fastest here. A worker claims again when all it had claimed
has ended or sleeps. To wait for a result is to poll for it.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import absurdctl
import psycopg
from absurd_sdk import AsyncAbsurd

from benchmarks import postgres, work

QUEUE: Final = "benchmark"
WORKERS: Final = 8
CLIENTS: Final = 8
AT_A_TIME: Final = 32
POLL_S: Final = 0.01


async def one(x: int, ctx: Any) -> int:
    return await ctx.step("add_one", lambda: _add_one(x))


async def ten(x: int, ctx: Any) -> int:
    for _ in range(work.SEQUENCE_LENGTH):
        x = await ctx.step("add_one", lambda x=x: _add_one(x))
    return x


async def fan_out(width: int, ctx: Any) -> int:
    """Steps of one task may overlap; they share its worker's connection."""
    return sum(await asyncio.gather(*(ctx.step(f"add_one-{x}", lambda x=x: _add_one(x)) for x in range(width))))


async def long(length: int, ctx: Any) -> int:
    x = 0
    for _ in range(length):
        x = await ctx.step("mark", lambda x=x: _mark(x))
    return x


async def wait(x: int, ctx: Any) -> int:
    work.note_wait()
    value: int = await ctx.await_event(_event(ctx.task_id))
    return x + value


async def react(x: int, ctx: Any) -> int:
    work.note_wait()
    value: int = await ctx.await_event(_event(ctx.task_id))
    return await ctx.step("mark", lambda: _mark(x + value))


async def _add_one(x: int) -> int:
    return work.add_one(x)


async def _mark(x: int) -> int:
    return work.mark(x)


def _event(task_id: str) -> str:
    """Events are addressed to a queue; one for each task is what its documentation shows."""
    return f"go:{task_id}"


class AbsurdPostgres:
    lease_s = 120.0  # its default

    def __init__(self) -> None:
        self._workers: list[tuple[Any, asyncio.Task[None]]] = []
        self._clients: Any = None
        self._all: list[Any] = []

    async def open(self, directory: Path) -> None:
        url = postgres.database(directory)
        with psycopg.connect(url, autocommit=True) as connection:
            if connection.execute("select to_regnamespace('absurd') is null").fetchone() == (True,):
                connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
        await self.open_client(directory)
        await self._all[0].create_queue(QUEUE)
        for number in range(WORKERS):
            worker = AsyncAbsurd(url, queue_name=QUEUE)
            for task in (one, ten, fan_out, long, wait, react):
                worker.register_task(task.__name__)(task)
            working = worker.start_worker(
                worker_id=f"{id(self)}-{number}",
                claim_timeout=round(self.lease_s),
                concurrency=AT_A_TIME,
                poll_interval=POLL_S,
            )
            self._workers.append((worker, asyncio.ensure_future(working)))

    async def open_client(self, directory: Path) -> None:
        url = postgres.database(directory)
        self._all = [AsyncAbsurd(url, queue_name=QUEUE) for _ in range(CLIENTS)]
        await asyncio.gather(*(client._ensure_connected() for client in self._all))  # else all callers connect at once
        self._clients = itertools.cycle(self._all)

    async def close(self) -> None:
        for worker, _ in self._workers:
            worker.stop_worker()
        if self._workers:
            await asyncio.wait([working for _, working in self._workers], timeout=3)
        for client in (*self._all, *(worker for worker, _ in self._workers)):
            await client.close()
        self._workers, self._all = [], []

    async def call(self, workflow: str, argument: int) -> int:
        return await self.result(await self.begin(workflow, argument))

    async def begin(self, workflow: str, argument: int) -> str:
        spawned = await next(self._clients).spawn(workflow, argument, queue=QUEUE)
        return str(spawned["task_id"])

    async def raise_event(self, instance_id: str, value: int) -> None:
        await next(self._clients).emit_event(_event(instance_id), value, queue_name=QUEUE)

    async def result(self, instance_id: str) -> int:
        client = next(self._clients)
        while True:
            snapshot = await client.fetch_task_result(instance_id)
            if snapshot.state in ("completed", "failed", "cancelled"):
                break
            await asyncio.sleep(POLL_S)
        if snapshot.state != "completed":
            message = f"{instance_id} is {snapshot.state}: {snapshot}"
            raise RuntimeError(message)
        result: int = snapshot.result
        return result

    def server_pids(self) -> Sequence[int]:
        return (postgres.given().pid,)

    async def durability(self) -> Mapping[str, str]:
        return postgres.settings() | {"workers": f"{WORKERS} of {AT_A_TIME} tasks", "polling": f"every {POLL_S} s"}


def make() -> AbsurdPostgres:
    return AbsurdPostgres()
