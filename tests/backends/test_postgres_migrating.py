"""A store of an earlier version is brought up to date with all that is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from durableflow import Client, Context, Engine, activity, workflow
from durableflow.backends.postgres import PostgresBackend, migrating
from durableflow.backends.postgres.schema import MIGRATIONS

pytestmark = pytest.mark.slow  # a server, and connections to it

OWN_INDEXES = """
    select c.relname::text from pg_class c where c.relnamespace = '{s}'::regnamespace and c.relkind = 'i'
        and not exists (select 1 from pg_constraint k where k.conindid = c.oid)
"""


@activity(queue="mail")
async def post(letter: int) -> str:
    return f"posted {letter}"


@workflow
async def mailing(ctx: Context, count: int) -> list[str]:
    await ctx.wait_for_event("go")
    return list(await ctx.when_all([ctx.call_activity(post, n) for n in range(count)]))


def indexes_of(version: int) -> set[str]:
    statements = [statement for each in MIGRATIONS[:version] for statement in each]
    return {
        s.split("index ")[1].split()[0] for s in statements if s.lstrip().startswith(("create index", "create uni"))
    }


async def state_of(url: str) -> tuple[int, set[str]]:
    """The version of a store's schema, and the indexes of its own that are there."""
    backend = PostgresBackend(url)
    await backend._database.open()
    try:
        ((version,),) = await backend._read("select version from {s}.schema_version")
        rows = await backend._read(OWN_INDEXES)
        return version, {name for (name,) in rows}
    finally:
        await backend._database.close()


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_store_of_every_earlier_version_goes_on_in_this_one(
    store_url: Callable[[object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    url = store_url((tmp_path, version))
    with monkeypatch.context() as earlier:
        earlier.setattr(migrating, "MIGRATIONS", MIGRATIONS[:version])
        async with Engine(url, workflows=[mailing], activities=[post], queues=[]) as engine:
            handles = [await engine.start(mailing, 3) for _ in range(2)]
            await handles[0].raise_event("go")
            async with Client(url) as client:
                await handles[1].raise_event("go")
                while (await client.queue("mail")).waiting < 6:  # noqa: ASYNC110  # a queue sets no event
                    await asyncio.sleep(0.01)
    assert await state_of(url) == (version, indexes_of(version))
    async with Engine(url, workflows=[mailing], activities=[post]) as engine:
        for handle in handles:
            assert await engine.result(handle.id, timeout=20) == [f"posted {n}" for n in range(3)]
    assert await state_of(url) == (len(MIGRATIONS), indexes_of(len(MIGRATIONS)))
