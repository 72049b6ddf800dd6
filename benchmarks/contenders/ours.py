"""durableflow itself, embedded in this process, with its default options: on a SQLite file, and in memory.

Activities are `async def`, so they run on the engine's loop and no thread is paid for.
"""

import random
import sqlite3
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from benchmarks import work
from durableflow import Context, Engine, Flow, Settings, Workflow, activity, workflow
from durableflow.backends.base import Commit, InstanceChange, LoadedInstance, NewInstance, Query
from durableflow.backends.sqlite import SqliteBackend
from durableflow.model.ids import RANDOM_BITS, fresh_id
from durableflow.model.status import Status

EVENT: Final = "go"
DATABASE: Final = "durableflow.db"
GATED_MAX: Final = 20_000  # instances that one crash may interrupt
DICE: Final = random.Random(0)
COPIES_PER_COMMIT: Final = 1_000  # as many turns as a commit of the engine holds
COPIED_EVERY_US: Final = 60  # the copies were started one after the other, this far apart, the last one just now


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

    async def copy_finished(self, source: Path, target: Path, count: int) -> None:
        """See `CopiesFinished`. Nothing is synced on the way: it is the layout of the file that counts."""
        originals = await _finished(source)
        backend = SqliteBackend(target / DATABASE, power_loss_safe=False)
        await backend.open()
        lease = await backend.acquire("copyist", 3_600_000_000, time.time_ns() // 1000)
        assert lease is not None
        copied, created_us = cycle(originals), time.time_ns() // 1000 - count * COPIED_EVERY_US
        for done in range(0, count, COPIES_PER_COMMIT):
            begun, ended = Commit(), Commit()
            for original in islice(copied, min(COPIES_PER_COMMIT, count - done)):
                created_us += COPIED_EVERY_US
                _add_copy(original, fresh_id(created_us, DICE.getrandbits(RANDOM_BITS)), created_us, begun, ended)
            await backend.commit(lease, begun)
            await backend.commit(lease, ended)
        await backend.release(lease)
        await backend.close()

    def server_pids(self) -> Sequence[int]:
        return ()

    async def durability(self) -> Mapping[str, str]:
        if self._backend is None:
            return {"durable": "no: everything is in memory"}
        return await self._backend._connection().call(
            _pragmas
        )  # there is no door for this, and it must be the writer's


async def _finished(directory: Path) -> list[LoadedInstance]:
    backend = SqliteBackend(directory / DATABASE)
    await backend.open()
    records = await backend.list_records(Query(statuses=frozenset({Status.COMPLETED}), limit=1_000_000))
    loaded = await backend.load([record.id for record in records])
    await backend.close()
    return loaded


def _add_copy(original: LoadedInstance, instance_id: str, created_us: int, begun: Commit, ended: Commit) -> None:
    """Two turns, in two commits, as the engine made them: the activity was asked for; it was done, and all was over."""
    record = original.record
    assert record.finished_us is not None
    later_us = created_us - record.created_us
    first, *others = (row._replace(instance_id=instance_id, at_us=row.at_us + later_us) for row in original.rows)
    begun.new.append(
        NewInstance(
            instance_id, record.workflow, record.version, Status.RUNNING, created_us, wake_us=0, tags=record.tags
        )
    )
    begun.rows.append(first)
    ended.rows += others
    finished_us = record.finished_us + later_us
    ended.changes.append(InstanceChange(instance_id, record.status, None, finished_us, record.custom_status))


def _pragmas(connection: sqlite3.Connection) -> dict[str, str]:
    names = ("journal_mode", "synchronous")
    return {name: str(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in names}


def sqlite() -> Durableflow:
    return Durableflow(durable=True)


def memory() -> Durableflow:
    return Durableflow(durable=False)
