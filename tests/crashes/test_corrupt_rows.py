"""Any value of a store, spoiled: who asks gets an answer or a documented error, and the others go on.

Each table and column of a store that has some of everything, and each kind of value that a file can hold. What becomes
of the spoiled thing itself is said elsewhere (tests/runtime/test_stalls.py, tests/runtime/test_damaged_tasks.py,
tests/backends/test_sqlite.py); here it is only that nothing else is harmed, and that no engine breaks on it.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from crashkit.everything import breaks, make
from crashkit.sweep import some

pytestmark = pytest.mark.slow  # a store is opened for each value

SPOILED = 50
VALUES: list[object] = [None, "text", b"\xff\x00", -1, 2**63 - 1, 1.5, "", b""]
LEFT_OUT = {"sqlite_sequence"}
"""SQLite's own: what it does not understand there it refuses itself, as it does a file that is none."""
DEAD_SERVER = 77
AS = {
    "waiting": "",
    "delayed": "state = 1, not_before_us = 1",
    "claimed": f"state = 2, claimed_by = {DEAD_SERVER}",
    "handed over": "state = 3, expires_us = 1",
}
"""What the task of an activity can be at; that of a start waits in a queue that admits none yet."""


class Place(NamedTuple):
    """A column, and of what: all rows, or of a task that is made to be like this before."""

    table: str
    column: str
    state: str = ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "store.db"
    asyncio.run(make(f"sqlite:///{path}"))
    return path


def places(path: Path) -> Iterator[Place]:
    """Each column of each table that has rows."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            if table in LEFT_OUT or not connection.execute(f"select count(*) from {table}").fetchone()[0]:
                continue
            for _, column, *_ in connection.execute(f"pragma table_info({table})"):
                if table == "tasks":
                    yield from (Place(table, column, state) for state in [*AS, "start"])
                else:
                    yield Place(table, column)


def spoil(path: Path, place: Place, value: object) -> bool:
    """False when the file itself does not take it."""
    where = ""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("insert into servers values (?, 'dead', 1)", (DEAD_SERVER,))
        if place.state:
            where = "where instance = 'g'" if place.state == "start" else "where instance = 'q'"
            connection.execute("update queues set is_paused = 0")
            if change := AS.get(place.state):
                connection.execute(f"update tasks set {change} {where}")
        try:
            connection.execute(f"update {place.table} set {place.column} = ? {where}", (value,))
        except (sqlite3.IntegrityError, OverflowError):
            return False
    return True


async def test_a_value_that_is_spoiled_breaks_no_engine_and_harms_no_other(whole: Path, tmp_path: Path) -> None:
    cases = [(place, value) for place in places(whole) for value in VALUES]
    found: list[str] = []
    tried = 0
    for number, (place, value) in enumerate(some(cases, SPOILED, "rows")):
        path = tmp_path / f"{number}.db"
        shutil.copy(whole, path)
        if spoil(path, place, value):
            tried += 1
            try:
                found += [f"{place} = {value!r}: {each}" for each in await breaks(f"sqlite:///{path}")]
            except Exception as error:
                found.append(f"{place} = {value!r}: {type(error).__name__}: {error}")
    assert not found, "\n".join(found)
    assert tried > SPOILED // 2
    print(f"{tried} spoiled values")
