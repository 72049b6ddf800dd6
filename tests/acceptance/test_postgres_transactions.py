"""Transactional activities on Postgres whose workers are killed and frozen again and again: each row is there once."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from durableflow import Client, Context, Status, StorageError, workflow
from durableflow.model import events as ev
from durableflow.testing.postgres import PostgresServer

pytestmark = pytest.mark.slow  # starts and kills processes

COUNT = 500
WORKERS = 2
KILLS_MIN = 10
LIMIT_S = 120


@workflow
async def stay(ctx: Context, room: int) -> int:
    """Started from here; what it does is in `apps/bookings_postgres.py`."""
    raise NotImplementedError


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    return await asyncio.to_thread(postgres.create_database)


@pytest.fixture
async def db(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    await connection.execute("create table bookings (instance text not null, attempt integer not null)")
    yield connection
    await connection.close()


async def completed(client: Client) -> bool:
    page = await client.list(limit=1_000, status=Status.COMPLETED)
    return len(page.instances) == COUNT


async def check(client: Client, db: asyncpg.Connection) -> None:
    """One row for each instance, of the attempt that is recorded, and nothing is left behind."""
    rows = [tuple(row) for row in await db.fetch("select instance, attempt from bookings")]
    assert len(rows) == COUNT
    assert Counter(instance for instance, _ in rows) == {f"stay-{room}": 1 for room in range(COUNT)}
    for instance, attempt in rows:
        results = [e.event for e in await client.history(instance) if isinstance(e.event, ev.ActivityCompleted)]
        assert [result.attempt for result in results] == [attempt], "the row is that of the recorded attempt"
    assert max(attempt for _, attempt in rows) > 1, "no kill found an attempt at work"
    assert await db.fetchval("select count(*) from durableflow.inbox") == 0


async def start_all(client: Client) -> None:
    for room in range(COUNT):
        await client.start(stay.options(instance_id=f"stay-{room}"), room)


async def test_five_hundred_rows_are_written_exactly_once_under_many_kills(
    stage: Any, url: str, db: asyncpg.Connection
) -> None:
    dice = random.Random("rooms")
    kills = 0
    async with Client(url) as client, asyncio.timeout(LIMIT_S):
        await start_all(client)
        workers = [stage.run("bookings_postgres", url) for _ in range(WORKERS)]
        for worker in workers:
            await worker.says("open")
        while not await completed(client):
            await asyncio.sleep(dice.uniform(0.05, 0.4))
            if kills < 20:
                workers.pop(dice.randrange(WORKERS)).kill()
                kills += 1
                workers.append(stage.run("bookings_postgres", url))
                await workers[-1].says("open")
        assert kills >= KILLS_MIN, f"only {kills} kills"
        await check(client, db)


async def test_frozen_workers_write_nothing_when_they_wake(stage: Any, url: str, db: asyncpg.Connection) -> None:
    """They are frozen in the midst of it, declared dead, and let go again when others have done their work."""
    dice = random.Random("frozen rooms")
    async with Client(url) as client, asyncio.timeout(LIMIT_S):
        await start_all(client)
        workers = [stage.run("bookings_postgres", url) for _ in range(WORKERS)]
        frozen: list[Any] = []
        for worker in workers:
            await worker.says("open")
        while not await completed(client):
            await asyncio.sleep(dice.uniform(0.1, 0.4))
            if len(frozen) < 12:
                worker = workers.pop(dice.randrange(WORKERS))
                worker.freeze()
                frozen.append(worker)
                workers.append(stage.run("bookings_postgres", url))
                await workers[-1].says("open")
            if len(frozen) > 4 and dice.random() < 0.5:
                frozen[dice.randrange(len(frozen))].thaw()
        for worker in frozen:
            worker.thaw()
        await asyncio.sleep(1.0)  # now each of them may try what it was about to do
        await check(client, db)


async def test_sessions_and_servers_that_are_killed_in_the_midst_of_it_lose_and_double_nothing(stage: Any) -> None:
    """Among what is cut off are commits that have arrived and were not answered."""
    dice = random.Random("sessions")
    with PostgresServer(fsync=False) as server:
        url = await asyncio.to_thread(server.create_database)
        await asyncio.to_thread(
            server.execute,
            "create table bookings (instance text not null, attempt integer not null)",
            database=url.rpartition("/")[2],
        )
        worker = stage.run("bookings_postgres", url)
        await worker.says("open")
        async with Client(url) as client, asyncio.timeout(LIMIT_S):
            await start_all(client)
            ended = restarts = 0
            while not await insist(lambda: completed(client)):
                await asyncio.sleep(dice.uniform(0.05, 0.3))
                if restarts < 4 and dice.random() < 0.15:
                    await asyncio.to_thread(server.restart, "immediate")
                    restarts += 1
                elif ended < 200:
                    told = await asyncio.to_thread(
                        server.execute,
                        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                        "where application_name = 'durableflow activity' and random() < 0.3",
                    )
                    ended += int(told)
            assert (restarts, ended > 20) == (4, True), f"only {restarts} restarts and {ended} ended sessions"
            db = await asyncpg.connect(url)
            await check(client, db)
            await db.close()


async def insist(ask: Callable[[], Awaitable[bool]]) -> bool:
    """The answer of a server that may be away for a moment."""
    while True:
        try:
            return await ask()
        except StorageError:
            await asyncio.sleep(0.05)
