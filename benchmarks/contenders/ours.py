"""durableflow itself, embedded in this process, with its default options: on a SQLite file, in memory, on PostgreSQL.

Activities are `async def`, so they run on the engine's loop and no thread is paid for.
"""

import random
import sqlite3
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

from benchmarks import postgres, work
from durableflow import Client, Context, Engine, Flow, Settings, Workflow, activity, workflow
from durableflow.backends.base import Backend, Commit, InstanceChange, LoadedInstance, NewInstance, Query
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.backends.stores import open_backend
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
def react(ctx: Context, x: int) -> Flow[int]:
    work.note_wait()
    value = yield from ctx.wait_for_event(EVENT, int)
    return (yield from ctx.call_activity(mark, x + value))


@workflow
def gated(ctx: Context, x: int) -> Flow[int]:
    for _ in range(4):
        x = yield from ctx.call_activity(add_one, x)
    return (yield from ctx.call_activity(gate, x))


WORKFLOWS: Final[dict[str, Workflow[[int], int]]] = {
    each.name: each for each in (one, ten, fan_out, long, wait, react, gated)
}


class Durableflow:
    def __init__(self) -> None:
        self._engine: Engine | Client | None = None

    @property
    def engine(self) -> Engine:
        assert isinstance(self._engine, Engine), "open comes first"
        return self._engine

    @property
    def client(self) -> Client:
        assert self._engine is not None, "open comes first"
        return self._engine

    def store(self, directory: Path) -> Backend:
        """What has, or will have, the state of this directory."""
        del directory
        return MemoryBackend()

    def settings(self) -> dict[str, Any]:
        # To interrupt many instances in the same activity, they must all be in it: more than may run by default.
        return {} if work.gate_open else {"activity_concurrency": GATED_MAX}

    async def open(self, directory: Path) -> None:
        engine = Engine(self.store(directory), settings=Settings(**self.settings()))
        await engine.__aenter__()
        self._engine = engine

    async def close(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.__aexit__(None, None, None)

    async def call(self, workflow: str, argument: int) -> int:
        handle = await self.client.start(WORKFLOWS[workflow], argument)
        return await handle.result()

    async def begin(self, workflow: str, argument: int) -> str:
        handle = await self.client.start(WORKFLOWS[workflow], argument)
        return handle.id

    async def raise_event(self, instance_id: str, value: int) -> None:
        await self.client.raise_event(instance_id, EVENT, value)

    async def result(self, instance_id: str) -> int:
        result: int = await self.client.handle(instance_id).result()
        return result

    def server_pids(self) -> Sequence[int]:
        return ()

    async def durability(self) -> Mapping[str, str]:
        return {"durable": "no: everything is in memory"}


class _Stored(Durableflow):
    """What is common to both stores that keep anything: several processes may share one.

    On SQLite one of them works and the others are its clients, until it is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lease_s = Settings().lease_s

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"lease_s": self.lease_s}

    async def open_client(self, directory: Path) -> None:
        client = Client(self.store(directory))
        await client.__aenter__()
        self._engine = client

    def hurried_store(self, directory: Path) -> Backend:
        """The same store, for filling it: nothing needs to be synced on the way, since it is the layout that counts."""
        return self.store(directory)

    async def copy_finished(self, source: Path, target: Path, count: int) -> None:
        """See `CopiesFinished`."""
        originals = await _finished(self.store(source))
        backend = self.hurried_store(target)
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


class OnSqlite(_Stored):
    def __init__(self) -> None:
        super().__init__()
        self._backend: SqliteBackend | None = None

    def store(self, directory: Path) -> Backend:
        self._backend = SqliteBackend(directory / DATABASE)
        return self._backend

    def hurried_store(self, directory: Path) -> Backend:
        return SqliteBackend(directory / DATABASE, power_loss_safe=False)

    async def durability(self) -> Mapping[str, str]:
        assert self._backend is not None, "open comes first"
        return await self._backend._connection().call(
            _pragmas
        )  # there is no door for this, and it must be the writer's


class OnPostgres(_Stored):
    def store(self, directory: Path) -> Backend:
        return open_backend(postgres.database(directory))

    def server_pids(self) -> Sequence[int]:
        return (postgres.given().pid,)

    async def durability(self) -> Mapping[str, str]:
        return postgres.settings()


async def _finished(backend: Backend) -> list[LoadedInstance]:
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


def sqlite() -> OnSqlite:
    return OnSqlite()


def memory() -> Durableflow:
    return Durableflow()


def on_postgres() -> OnPostgres:
    return OnPostgres()
