"""Any value of a store, spoiled: who asks gets an answer or a documented error, and the others go on.

Each table and column of a store that has some of everything, and each kind of value that a file can hold. What becomes
of the spoiled thing itself is said elsewhere (tests/runtime/test_stalls.py, tests/backends/test_sqlite.py); here it is
only that nothing else is harmed, and that no engine breaks on it.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from crashkit.sweep import some

from durableflow import Context, Cron, DurableflowError, Engine, RetryPolicy, Settings, Status, activity, workflow

pytestmark = pytest.mark.slow  # a store is opened for each value

SPOILED = 70
VALUES: list[object] = [None, "text", b"\xff\x00", -1, 2**63 - 1, 1.5, "", b""]
LEFT_OUT = {"sqlite_sequence", "workers", "takeovers", "servers", "seal", "queues", "tasks", "lanes", "task_numbers"}
"""What is written anew by each engine, says for itself what is wrong, or is of queues."""


@activity(retry=RetryPolicy(max_attempts=2, initial=0.01))
async def fails(number: int) -> int:
    raise ValueError(f"no {number}")


@activity(queue="slow")
async def queued(number: int) -> int:
    return number


@workflow
async def waits(ctx: Context, number: int) -> int:
    ctx.set_custom_status({"number": number})
    return number + await ctx.wait_for_event("more", int)


@workflow
async def fails_for_good(ctx: Context) -> int:
    return await ctx.call_activity(fails, 1)


@workflow
async def queues(ctx: Context) -> int:
    return await ctx.call_activity(queued, 1)


KNOWN: dict[str, Any] = {"workflows": [waits, fails_for_good, queues], "activities": [fails, queued]}


async def make(path: Path) -> None:
    """Some of everything."""
    async with Engine(f"sqlite:///{path}", queues=[], **KNOWN) as engine:
        await engine.start(waits.options(instance_id="i", tags={"k": "v"}), 1)
        await engine.start(fails_for_good.options(instance_id="f"))
        await engine.wait_for_status("f", Status.FAILED)
        await engine.start(queues.options(instance_id="q"))
        await engine.start(waits.options(instance_id="d", debounce=3_600), 1)
        await engine.set_queue("slow", concurrency=3)
        await engine.schedules.create("s", Cron("0 0 1 1 *"), waits.options(), 1)
        await engine.suspend("i")
        await engine.raise_event("i", "more", 1, event_id="e")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "store.db"
    asyncio.run(make(path))
    return path


def places(path: Path) -> list[tuple[str, str]]:
    """Each column of each table that has rows."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        filled = [each for each in tables if connection.execute(f"select count(*) from {each}").fetchone()[0]]
        return [
            (table, column)
            for table in filled
            if table not in LEFT_OUT
            for _, column, *_ in connection.execute(f"pragma table_info({table})")
        ]


def spoil(path: Path, table: str, column: str, value: object) -> bool:
    """False when the file itself does not take it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        try:
            connection.execute(f"update {table} set {column} = ?", (value,))
        except (sqlite3.IntegrityError, OverflowError):
            return False
    return True


async def is_harmless(path: Path) -> list[str]:
    """What an engine on it and a client ask, and what breaks."""
    broken: list[str] = []

    async def ask(what: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(5):
                await call()
        except (DurableflowError, ValueError):
            pass  # a documented answer
        except BaseException as error:
            broken.append(f"{what}: {type(error).__name__}: {error}")

    settings = Settings(grace_s=0.1)
    async with Engine(f"sqlite:///{path}", settings=settings, **KNOWN) as engine:
        await ask("list", engine.list)
        await ask("status", lambda: engine.status("i"))
        await ask("history", lambda: engine.history("i"))
        await ask("view", lambda: engine.view("f"))
        await ask("letters", engine.dead_letters.list)
        await ask("letter", lambda: engine.dead_letters.get("f"))
        await ask("queues", engine.queues)
        await ask("schedules", engine.schedules.list)
        await ask("schedule", lambda: engine.schedules.get("s"))
        await ask("resume", lambda: engine.resume("i"))
        await ask("event", lambda: engine.raise_event("i", "more", 1))
        fresh = await engine.start(waits.options(instance_id="fresh"), 1)
        await fresh.raise_event("more", 2)
        assert await fresh.result(timeout=10) == 3
        await ask("terminate", lambda: engine.terminate("i"))
    return broken


async def test_a_value_that_is_spoiled_breaks_no_engine_and_harms_no_other(whole: Path, tmp_path: Path) -> None:
    cases = [(*place, value) for place in places(whole) for value in VALUES]
    found: list[str] = []
    tried = 0
    for number, (table, column, value) in enumerate(some(cases, SPOILED, "rows")):
        path = tmp_path / f"{number}.db"
        shutil.copy(whole, path)
        if spoil(path, table, column, value):
            tried += 1
            try:
                found += [f"{table}.{column} = {value!r}: {each}" for each in await is_harmless(path)]
            except Exception as error:
                found.append(f"{table}.{column} = {value!r}: {type(error).__name__}: {error}")
    assert not found, "\n".join(found)
    assert tried > SPOILED // 2
    print(f"{tried} spoiled values")
