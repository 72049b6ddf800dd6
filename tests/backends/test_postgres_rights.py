"""Who may do what: a worker needs few rights, and is told when they are not enough."""

import asyncio
from pathlib import Path

import pytest

from durableflow import Context, Engine, activity, workflow
from durableflow.backends.postgres.schema import MIGRATIONS
from durableflow.cli import main
from durableflow.errors import SchemaMismatch
from durableflow.testing.postgres import PostgresServer

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "run-a-fleet.md"


@activity
async def twice(number: int) -> int:
    return 2 * number


@workflow
async def doubled(ctx: Context, number: int) -> int:
    await ctx.wait_for_event("go")
    return await ctx.call_activity(twice, number)


def the_rights_of_the_page() -> list[str]:
    """The statements of the how-to page, behind those that make roles."""
    block = HOW_TO.read_text().split("```sql")[1].split("```")[0]
    lines = [line.split("--")[0].strip() for line in block.splitlines()]
    return [line for line in lines if line.startswith("grant ")]


def test_a_worker_works_with_the_rights_that_the_page_gives_it(
    postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres.create_database()
    database = url.rpartition("/")[2]
    address = url.partition("@")[2]
    postgres.execute("create role orders_worker login password 'w'", database=database)
    worker_url = f"postgresql://orders_worker:w@{address}"
    with pytest.raises(SchemaMismatch, match=r"may not change it .*run 'durableflow migrate' as its owner"):
        Engine(worker_url).run(doubled, 1)
    assert main(["migrate", url]) == 0
    assert main(["migrate", url]) == 0
    assert capsys.readouterr().out == "the store is up to date\n" * 2
    rights = the_rights_of_the_page()
    assert len(rights) == 4
    postgres.execute(*rights, database=database)

    async def work() -> int:
        async with Engine(worker_url) as engine:
            handle = await engine.start(doubled, 4)
            await handle.raise_event("go")
            return await handle.result(timeout=20)

    assert asyncio.run(work()) == 8


async def test_a_schema_of_a_newer_release_is_refused_and_not_touched(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    database = url.rpartition("/")[2]
    async with Engine(url):
        pass
    postgres.execute(f"update durableflow.schema_version set version = {len(MIGRATIONS) + 1}", database=database)
    with pytest.raises(SchemaMismatch, match=r"written by a newer durableflow.*upgrade durableflow"):
        async with Engine(url):
            pass
    assert await asyncio.to_thread(main, ["migrate", url]) == 1
    assert postgres.execute("select version from durableflow.schema_version", database=database).strip() == str(
        len(MIGRATIONS) + 1
    )
