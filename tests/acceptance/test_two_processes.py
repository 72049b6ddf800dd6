"""Two processes on one file: one works, the other is its client, and takes over when the first is gone."""

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durableflow import Context, Status, workflow
from durableflow.model import events as ev

pytestmark = pytest.mark.slow  # starts, freezes and kills processes

LEASE_S = 1.5


async def test_a_second_process_waits_and_takes_over_at_once_when_the_first_is_killed(stage: Any) -> None:
    @workflow
    async def working(ctx: Context, label: str, seconds: float) -> str: ...

    first = await stage.leading_worker("shop", lease_s=30)
    second = stage.worker("shop", lease_s=30)
    await second.says("open")
    async with stage.client() as client:
        handle = await client.start(working.options(instance_id="w"), "job", 0.3)
        await stage.begun(process=first.pid)
        assert not second.has_said("leads")
        first.kill()
        killed_s = time.monotonic()
        await second.says("leads")
        assert time.monotonic() - killed_s < 2, "the lease has 30 s to go: it was the lock that told"
        assert await handle.result(timeout=10) == "job is done"
    assert [entry["process"] for entry in stage.entries(what="begin")] == [first.pid, second.pid]
    await second.close()


async def test_a_second_process_takes_over_when_the_first_closes(stage: Any) -> None:
    first = await stage.leading_worker("shop", lease_s=30)
    second = stage.worker("shop", lease_s=30)
    await second.says("open")
    await first.close()
    await second.says("leads", timeout_s=3)
    await second.close()


async def freeze_between_transactions(worker: Any, store: Path) -> None:
    """Freeze it while it does not hold the file's lock, which nobody can take from a frozen process."""
    while True:
        worker.freeze()
        with closing(sqlite3.connect(store, timeout=0.1, isolation_level=None)) as connection:
            try:
                connection.execute("begin immediate")
            except sqlite3.OperationalError:
                worker.thaw()
                await asyncio.sleep(0.02)
            else:
                connection.execute("rollback")
                return


async def test_a_frozen_worker_is_replaced_within_its_lease_and_writes_nothing_when_it_thaws(stage: Any) -> None:
    @workflow
    async def working(ctx: Context, label: str, seconds: float) -> str: ...

    frozen = await stage.leading_worker("shop", lease_s=LEASE_S)
    second = stage.worker("shop", lease_s=LEASE_S)
    await second.says("open")
    async with stage.client() as client:
        handle = await client.start(working.options(instance_id="w"), "job", 0.6)
        await stage.begun(process=frozen.pid)
        await freeze_between_transactions(frozen, stage.store)
        stopped_s = time.monotonic()
        await second.says("leads")
        assert time.monotonic() - stopped_s < LEASE_S + 1
        await stage.begun(process=second.pid)
        frozen.thaw()  # its attempt ends now, while the other's is running, and it tries to record the result
        await frozen.says("lost", timeout_s=5)
        assert await handle.result(timeout=10) == "job is done"
        history = await client.history("w")
    results = [entry.event for entry in history if isinstance(entry.event, ev.ActivityCompleted)]
    assert [result.attempt for result in results] == [2], "the result is the second worker's"
    assert [entry.event.attempt for entry in history if isinstance(entry.event, ev.ActivityStarted)] == [2]
    assert frozen.said.count("leads") == 1
    second.kill()
    deadline_s = time.monotonic() + 5
    while frozen.said.count("leads") < 2:  # whoever lost the store stands by, and takes over in turn
        assert time.monotonic() < deadline_s, frozen.said
        await asyncio.sleep(0.02)
    await frozen.close()


def dump(store: Path) -> list[str]:
    """All that is in the file, but for the lease, which is renewed."""
    with closing(sqlite3.connect(store)) as connection:
        return [line for line in connection.iterdump() if 'INTO "workers"' not in line]


async def test_a_worker_that_thaws_when_all_is_over_writes_not_even_a_heartbeat(stage: Any) -> None:
    @workflow
    async def beating(ctx: Context, label: str) -> str: ...

    frozen = await stage.leading_worker("shop", lease_s=LEASE_S)
    second = stage.worker("shop", lease_s=LEASE_S)
    async with stage.client() as client:
        handle = await client.start(beating.options(instance_id="b"), "job")
        await stage.begun(process=frozen.pid)
        await freeze_between_transactions(frozen, stage.store)
        assert await handle.result(timeout=10) == "job is done"
        before = dump(stage.store)
        frozen.thaw()
        await frozen.says("lost", timeout_s=5)
        assert dump(stage.store) == before
    assert [entry["process"] for entry in stage.entries(what="end")] == [second.pid]
    await second.close()


async def test_processes_that_hammer_one_file_are_never_told_that_it_is_locked(stage: Any) -> None:
    @workflow
    async def listening(ctx: Context, count: int) -> list[int]: ...

    count, events = 40, 5
    workers = [await stage.leading_worker("shop"), stage.worker("shop")]
    hammers = [stage.run("hammer", stage.store, name, count, events) for name in ("a", "b")]
    async with stage.client() as client:
        for number in range(count):  # this process is the third
            await client.start(listening.options(instance_id=f"c-{number}"), events)
            for value in range(events):
                await client.raise_event(f"c-{number}", "number", value)
        for hammer in hammers:
            assert await hammer.ends() == 0, hammer.said
        for name in ("a", "b", "c"):
            for number in range(count):
                handle = client.handle(f"{name}-{number}", listening)
                assert await handle.result(timeout=20) == list(range(events)), "in the order of their sender"
        page = await client.list(limit=1_000)
        assert Counter(each.status for each in page.instances) == {Status.COMPLETED: 3 * count}
    for process in (*workers, *hammers):
        assert not any("locked" in line or "retried" in line for line in process.said), process.said
    for worker in workers:
        await worker.close()
