"""A server that knows some activities of a queue in SQLite is not held up by what waits there for others."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from durableflow.backends.sqlite import SqliteBackend, tasks
from durableflow.testing.contract.desk import a_desk
from durableflow.testing.contract.tasks import a_start

OTHERS = 20_000
STEPS = 100


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(tmp_path / "store.db")
    await backend.open()
    yield backend
    await backend.close()


async def steps_of(backend: SqliteBackend, work: Callable[[sqlite3.Connection], Any]) -> tuple[Any, int]:
    """What `work` gives, and how many steps of its machine SQLite makes for it."""

    def counted(connection: sqlite3.Connection) -> tuple[Any, int]:
        hundreds: list[None] = []
        connection.set_progress_handler(lambda: hundreds.append(None), STEPS)
        try:
            return work(connection), STEPS * len(hundreds)
        finally:
            connection.set_progress_handler(None, 0)

    return await backend._write(counted)


@pytest.mark.slow  # many rows
@pytest.mark.parametrize(("known", "admits"), [(("mail",), False), (("mail", "last"), True), (("other",), True)])
async def test_a_claim_reads_only_what_it_may_take(
    backend: SqliteBackend, known: tuple[str, ...], admits: bool
) -> None:
    """Tasks of names that are not known, or for which there is no room, are passed without a look."""
    desk = await a_desk(backend)
    await desk.write("", name="last", priority=-1)
    await backend.send([a_start("new")])
    more = (
        "insert into tasks (number, instance, task, queue, name, input, options, state, scheduled_at_us, vtime) "
        "with recursive n(n) as (select 10 union all select n + 1 from n limit ?) "
        "select n, 'other', n, 'q', 'other', '', '', 0, 5, 0 from n"
    )
    await backend._write(lambda connection: connection.execute(more, (OTHERS,)))
    request = desk.request(5, names=known, admission=b"in" if admits else None)
    outlook, looked = await steps_of(backend, lambda c: tasks.look(c, request, 0, lambda _: False))
    claims, claimed = await steps_of(backend, lambda c: tasks.claim(c, request, 0))
    assert outlook.is_claimable == (known != ("mail",))
    assert (len(claims.tasks), claims.admitted) == ({"mail": 0, "last": 1, "other": 5}[known[-1]], int(admits))
    assert looked < 1_000
    assert claimed < 5_000
