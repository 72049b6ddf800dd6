"""The same as test_corrupt_rows.py, of a store in Postgres, as far as the types of its columns allow.

Bytes that are no message, numbers that nobody has counted to, texts and JSON that nobody has written, moments that
never come, nothing where there may be nothing.
"""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from crashkit.everything import breaks, make
from crashkit.sweep import some

from durableflow.testing import PostgresServer

pytestmark = pytest.mark.slow  # a database is made for each value

SPOILED = 12
AT_ONCE = 6
"""Databases at a time: most of what is done with them is to wait."""
VALUES = {
    "bytea": ["'\\xff00'", "''", "'\\x80'", "'\\x93a161c0'"],
    "text": ["''", "'text'", "repeat('x', 2000)"],
    "jsonb": ["'[]'", "'{\"a\": 1}'", "'null'"],
    "bigint": ["-1", "0", "9223372036854775807", "-9223372036854775808"],
    "integer": ["-1", "0", "2147483647", "-2147483648"],
    "smallint": ["-1", "99"],
    "boolean": ["true", "false"],
    "timestamp with time zone": ["'infinity'", "'-infinity'"],
}
LEFT_OUT = {"schema_version"}
"""It says which durableflow may open the store at all."""
DEAD_SERVER = 77
TASK = {
    "waiting": "state = 0",
    "delayed": "state = 1, not_before_us = 1",
    "claimed": f"state = 2, claimed_by = {DEAD_SERVER}",
    "handed over": "state = 3, expires_us = 1",
}


class Case(NamedTuple):
    """A column, a value as SQL, and which rows: all, or those of an instance whose task is made like this before."""

    table: str
    column: str
    value: str
    state: str = ""

    def statements(self) -> Iterator[str]:
        where = ""
        if self.state:
            yield "update durableflow.queues set is_paused = false"
            where = "where instance = 'g'"
            if self.state != "start":
                where = "where instance = 'q'"
                yield f"update durableflow.tasks set {TASK[self.state]} {where}"
        yield f"update durableflow.{self.table} set {self.column} = {self.value} {where}"


@pytest.fixture(scope="module")
def whole(postgres: PostgresServer) -> str:
    """The name of a database from which others are made."""
    url = postgres.create_database()
    asyncio.run(make(url))
    database = url.rpartition("/")[2]
    for table in ("workers", "servers"):
        dead = (
            f"insert into durableflow.{table} (id, name, expires) overriding system value values ({DEAD_SERVER}, 'dead'"
        )
        postgres.execute(f"{dead}, 'epoch')", database=database)
    return database


def cases(server: PostgresServer, database: str) -> Iterator[Case]:
    columns = server.execute(
        "select table_name, column_name, data_type, is_nullable from information_schema.columns "
        "where table_schema = 'durableflow' and is_generated = 'NEVER' and table_name in "
        "(select table_name from information_schema.tables where table_type = 'BASE TABLE') "
        "order by 1, ordinal_position",
        database=database,
    )
    filled: dict[str, bool] = {}
    for table, column, kind, is_nullable in (line.split("|") for line in columns.splitlines()):
        if table not in filled:
            filled[table] = bool(server.execute(f"select 1 from durableflow.{table} limit 1", database=database))
        if filled[table] and table not in LEFT_OUT:
            for value in VALUES[kind] + (["null"] if is_nullable == "YES" else []):
                for state in [*TASK, "start"] if table == "tasks" else [""]:
                    yield Case(table, column, value, state)


def spoiled(server: PostgresServer, whole: str, database: str, case: Case) -> bool:
    """Make a database in which something is spoiled; False when it does not take it."""
    server.execute(f"create database {database} template {whole}")
    try:
        server.execute(*case.statements(), database=database)
    except RuntimeError:
        return False
    return True


async def test_a_value_that_is_spoiled_breaks_no_engine_and_harms_no_other(
    postgres: PostgresServer, whole: str
) -> None:
    found: list[str] = []
    tried = 0
    room = asyncio.Semaphore(AT_ONCE)

    async def put(number: int, case: Case) -> None:
        nonlocal tried
        database = f"spoiled_{number}"
        async with room:
            if await asyncio.to_thread(spoiled, postgres, whole, database, case):
                tried += 1
                try:
                    found.extend([f"{case}: {each}" for each in await breaks(postgres.url(database))])
                except Exception as error:
                    found.append(f"{case}: {type(error).__name__}: {error}")
            await asyncio.to_thread(postgres.drop_database, database)

    tried_cases = some(list(cases(postgres, whole)), SPOILED, "postgres rows")
    await asyncio.gather(*(put(number, case) for number, case in enumerate(tried_cases)))
    assert not found, "\n".join(found)
    assert tried > SPOILED // 2
    print(f"{tried} spoiled values")
