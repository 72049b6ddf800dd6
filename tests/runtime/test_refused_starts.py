"""A start that came to nothing does not hide the instance that has its id."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from durableflow import Context, Engine, Settings, StorageError, workflow
from durableflow.backends.sqlite import SqliteBackend


@workflow
async def doze(ctx: Context) -> str:
    await ctx.sleep(0.05)
    return "awake"


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["works", "fails once"])
async def test_an_instance_that_fell_due_goes_on_though_a_start_of_its_id_was_refused(
    disk: str, tmp_path: Path
) -> None:
    store = tmp_path / "doze.db"
    async with Engine(SqliteBackend(store)) as engine:
        await engine.start(doze.options(instance_id="d"))
    await asyncio.sleep(0.1)
    backend = SqliteBackend(store)
    failures = [sqlite3.OperationalError("disk I/O error")] if disk == "fails once" else []

    def fail(event: str) -> None:
        if event == "begin" and failures:
            raise failures.pop()

    async with Engine(backend, settings=Settings(commit_retries=0)) as engine:
        backend.hook = fail
        try:  # before the recovery has looked at what is due
            handle = await engine.start(doze.options(instance_id="d"))
        except StorageError:
            handle = engine.handle("d", doze)
        assert not failures
        assert await handle.result(timeout=5) == "awake"
