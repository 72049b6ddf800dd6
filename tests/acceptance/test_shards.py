"""A fleet on two databases that are one: processes are killed, and families across them lose and double nothing."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import asyncpg
import pytest

from durableflow import Client, Context, workflow
from durableflow.backends.sharded import ShardedBackend
from durableflow.model import events as ev
from durableflow.testing import PostgresServer

pytestmark = pytest.mark.slow  # starts and kills processes

LEASE_S = 2.0
PATIENCE_S = 60.0
"""Nothing is expected to take so long, on however busy a machine."""
CHILDREN = 6


@workflow
async def family(ctx: Context, count: int) -> list[int]: ...


@pytest.fixture
def databases(postgres: PostgresServer) -> Mapping[str, str]:
    """Two databases on one server."""
    return {name: postgres.create_database() for name in ("north", "south")}


@pytest.fixture
def begin(stage: Any, databases: Mapping[str, str]) -> Callable[[], Any]:
    """Starts a further process of the fleet."""
    return lambda: stage.run("sharded", stage.ledger, LEASE_S, *(f"{name}={url}" for name, url in databases.items()))


async def works(process: Any) -> None:
    """In both databases."""
    deadline_s = time.monotonic() + PATIENCE_S
    while process.said.count("leads") < 2:
        assert process.popen.poll() is None, process.said
        assert time.monotonic() < deadline_s, process.said
        await asyncio.sleep(0.01)


async def epochs(databases: Mapping[str, str]) -> dict[tuple[str, str], int]:
    """How often a relay was taken up, from one shard to another."""
    found: dict[tuple[str, str], int] = {}
    for target, url in databases.items():
        connection = await asyncpg.connect(url)
        try:
            for source, epoch in await connection.fetch("select source, epoch from durableflow.relays"):
                found[source, target] = epoch
        finally:
            await connection.close()
    return found


async def lives(url: str, worker: int | None = None) -> int | None:
    """The worker, by default the one that came first, as long as its lease is not over by the clock of its database."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(
            "select id from durableflow.workers where id = coalesce($1, (select min(id) from durableflow.workers)) "
            "and expires > clock_timestamp()",
            worker,
        )
    finally:
        await connection.close()


def expected() -> list[int]:
    return [4 * n for n in range(CHILDREN)]


async def judge(client: Client, parents: list[str], backend: ShardedBackend) -> None:
    """Each child was born once and in its shard, and each result and event came once, to the right parent."""
    for parent in parents:
        assert await client.result(parent, timeout=PATIENCE_S) == expected()
        told = Counter(type(entry.event) for entry in await client.history(parent))
        assert (told[ev.ChildCompleted], told[ev.EventReceived], told[ev.ChildFailed]) == (CHILDREN, CHILDREN, 0)
        children = (await client.list(parent=parent)).instances
        assert len(children) == CHILDREN
    for name, store in backend.stores.items():
        there = {each.instance_id async for each in all_in(store)}
        assert {backend.map.shard_of(each) for each in there} == {name}
    deadline_s = time.monotonic() + PATIENCE_S
    while await backend.count_relayed():
        assert time.monotonic() < deadline_s, "nothing is left on its way"
        await asyncio.sleep(0.05)


async def all_in(store: Any) -> Any:
    client = Client(store)  # of a store that is open already
    cursor = None
    while True:
        page = await client.list(limit=1_000, cursor=cursor)
        for each in page.instances:
            yield each
        if (cursor := page.cursor) is None:
            return


async def test_families_survive_the_death_of_processes(
    begin: Callable[[], Any], databases: Mapping[str, str], stage: Any
) -> None:
    dice = random.Random(3)
    fleet = [begin(), begin()]
    for process in fleet:
        await works(process)
    backend = ShardedBackend(databases)
    async with Client(backend) as client:
        parents: list[str] = []

        async def ask(until: asyncio.Event) -> None:
            while not until.is_set():
                parents.append((await client.start(family, CHILDREN)).id)
                await asyncio.sleep(0.05)

        enough = asyncio.Event()
        asking = asyncio.create_task(ask(enough))
        for _ in range(6):
            await asyncio.sleep(dice.uniform(0.3, 1.0))
            place = dice.randrange(2)
            fleet[place].kill()
            fleet[place] = begin()
            await works(fleet[place])
        enough.set()
        await asking
        assert len(parents) > 40
        await judge(client, parents, backend)
    ended = Counter(entry["key"] for entry in stage.entries(what="end"))
    assert len(ended) == len(parents) * CHILDREN * 2
    for process in fleet:
        await process.close()
        assert not any("stalled" in line for line in process.said), process.said


async def two_at_work(begin: Callable[[], Any]) -> tuple[Any, Any]:
    """The first of them is the one that carries."""
    first = begin()
    await works(first)
    second = begin()
    await works(second)
    return first, second


async def test_one_process_carries_and_when_it_dies_another_does_once_its_lease_is_over(
    begin: Callable[[], Any], databases: Mapping[str, str]
) -> None:
    first, second = await two_at_work(begin)
    backend = ShardedBackend(databases)
    async with Client(backend) as client:
        parents = [(await client.start(family, CHILDREN)).id for _ in range(10)]
        await judge(client, parents, backend)
        before = await epochs(databases)
        assert set(before) >= {("north", "south"), ("south", "north")}
        until_s = time.monotonic() + 2.5
        while time.monotonic() < until_s:  # while both look whether they are the one, more than once
            parents.append((await client.start(family, CHILDREN)).id)
            await client.result(parents[-1], timeout=PATIENCE_S)
        assert await epochs(databases) == before, "nobody took it from the other"
        leading = {name: await lives(url) for name, url in databases.items()}
        assert None not in leading.values()
        first.kill()
        late = [(await client.start(family, CHILDREN)).id for _ in range(10)]
        living = set(databases)
        while living:
            found = await epochs(databases)
            # Asked after that: if its lease is not over now, it was not then.
            living = {name for name in living if await lives(databases[name], leading[name]) is not None}
            early = [pair for pair in found if pair[0] in living and found[pair] != before[pair]]
            assert early == [], "it was taken from one that may be alive"
        await judge(client, late, backend)
        assert await epochs(databases) == {pair: epoch + 1 for pair, epoch in before.items()}
    await second.close()


async def test_a_process_that_ends_hands_on_what_it_carries(
    begin: Callable[[], Any], databases: Mapping[str, str]
) -> None:
    first, second = await two_at_work(begin)
    backend = ShardedBackend(databases)
    async with Client(backend) as client:
        parents = [(await client.start(family, CHILDREN)).id for _ in range(20)]
        await first.close()
        parents += [(await client.start(family, CHILDREN)).id for _ in range(5)]
        await judge(client, parents, backend)
    await second.close()
