"""A server that knows some activities of a queue is not held up by what waits there for others."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from durableflow.backends.postgres import PostgresBackend
from durableflow.backends.postgres.database import Connection
from durableflow.backends.tasks import START, ClaimRequest, StoredTask
from durableflow.testing.contract.desk import TTL_US, Desk, a_desk, an_end
from durableflow.testing.contract.tasks import a_start

pytestmark = pytest.mark.slow  # a server, and connections to it

OTHERS = 20_000
_MORE = f"""
    insert into {{s}}.tasks (instance, task, queue, name, input, options, state, scheduled_at_us, vtime)
        select 'other', n, q.id, 'other', '', '', 0, 5, n from generate_series(1, {OTHERS}) n, {{s}}.queues q
        where q.name = 'q'
"""
_READ = """
    select sum(case when c.relkind = 'i' then pg_stat_get_xact_tuples_returned(c.oid)
        else pg_stat_get_xact_tuples_returned(c.oid) + pg_stat_get_xact_tuples_fetched(c.oid) end)::bigint
    from pg_class c where c.relnamespace = '{s}'::regnamespace and c.relname like 'tasks%'
"""
"""How many entries of indexes and rows of tasks were read in this transaction."""


@pytest.fixture
async def backend(store_url: Callable[[object], str], tmp_path: Path) -> AsyncIterator[PostgresBackend]:
    backend = PostgresBackend(store_url(tmp_path))
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture
async def desk(backend: PostgresBackend) -> Desk:
    """One in whose queue many tasks wait that it does not know, before all others."""
    desk = await a_desk(backend)
    await desk.write("", name="last")
    await backend._write(_MORE)
    return desk


async def rows_read(backend: PostgresBackend, statement: str, *given: Any) -> tuple[list[Any], int]:
    """What a statement gives, and how much it reads of the tasks."""

    async def work(connection: Connection) -> tuple[list[Any], int]:
        before = await connection.fetchval(backend._sql(_READ))
        rows = await connection.fetch(backend._sql(statement), *given)
        return list(rows), await connection.fetchval(backend._sql(_READ)) - before

    return await backend._transaction(work)


CLAIM = """
    select (c.taken).task from {s}.claim_tasks($1, $2::text[], array['q'], array[10::bigint], 0, true, null::bytea, 0)
        as c where (c.taken).number is not null
"""
LOOK = "select * from {s}.look_at_tasks($1, $2::text[], array['q'], array[10::bigint], 0, true, false, 0)"


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_a_claim_reads_only_what_it_may_take(backend: PostgresBackend, desk: Desk, is_analyzed: bool) -> None:
    """Whatever the server believes of its tables."""
    if is_analyzed:
        await backend._write("analyze {s}.tasks")
    for known, expected in ((["mail"], []), (["last", "mail"], [1])):
        looked, read = await rows_read(backend, LOOK, desk.server, known)
        assert (looked[0]["is_claimable"], read < 50) == (bool(expected), True)
        taken, read = await rows_read(backend, CLAIM, desk.server, known)
        assert ([task for (task,) in taken], read < 500) == (expected, True)
    for name in ("mail", "post"):
        await desk.write(*["a", "b"] * 20, name=name)
    taken, read = await rows_read(backend, CLAIM, desk.server, ["mail", "post"])
    assert (len(taken), read < 1_000) == (10, True)


async def test_those_who_know_all_that_waits_read_no_more_than_they_take(backend: PostgresBackend, desk: Desk) -> None:
    await desk.write(*["a"] * 20)
    taken, read = await rows_read(backend, CLAIM, desk.server, ["last", "mail", "other", "post"])
    assert (len(taken), read < 500) == (10, True)


async def test_tasks_of_several_names_are_taken_in_the_order_of_all(backend: PostgresBackend, desk: Desk) -> None:
    dice = random.Random(3)
    expected: list[tuple[int, int]] = []
    for _ in range(200):
        name, priority = dice.choice(["mail", "post", "else"]), dice.choice([-1, 0, 5])
        (task,) = await desk.write("", name=name, priority=priority)
        if name != "else":
            expected.append((-priority, task.task))
    taken: list[StoredTask] = []
    while claimed := await desk.claim(7, names=("mail", "post")):
        taken += claimed
    assert [(-task.priority, task.task) for task in taken] == sorted(expected)


async def test_servers_that_know_different_names_take_each_task_once_and_leave_none(
    backend: PostgresBackend, desk: Desk
) -> None:
    knows = [("mail", "post"), ("mail",), ("post", "pack"), ("mail", "post", "pack")]
    for _ in range(3):
        for name in ("mail", "post", "pack"):
            await desk.write(*["a", "b"] * 50, name=name)
    taken: list[StoredTask] = []

    async def serve(names: tuple[str, ...]) -> None:
        server = await backend.enlist_server("server", TTL_US, 0)
        idle = 0
        while idle < 3:
            claims = await backend.claim(ClaimRequest(server, names, {"q": 17}, 0, True, None), 0)
            assert {task.name for task in claims.tasks} <= {*names}
            taken.extend(claims.tasks)
            await backend.finish_tasks([an_end(task) for task in claims.tasks], server)
            idle = 0 if claims.tasks else idle + 1

    await asyncio.gather(*(serve(names) for names in knows))
    assert set(Counter(task.task for task in taken).values()) == {1}
    assert len(taken) == 900


async def test_a_start_is_let_in_whatever_waits_before_it(backend: PostgresBackend, desk: Desk) -> None:
    await backend.send([a_start("new")])
    claims = await backend.claim(desk.request(5, names=("mail",), admission=b"in"), 0)
    assert (claims.tasks, claims.admitted) == ([], 1)
    assert await backend.task("new", START) is not None
