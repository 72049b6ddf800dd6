"""Transactional activities whose process is killed again and again: each row is there exactly once."""

import asyncio
import random
import sqlite3
from collections import Counter
from typing import Any

import pytest

from durableflow import Client, Status
from durableflow.model import events as ev

pytestmark = pytest.mark.slow  # starts and kills processes

COUNT = 500
KILLS_MIN, KILLS_MAX = 15, 40


async def test_five_hundred_rows_are_written_exactly_once_under_many_kills(stage: Any) -> None:
    dice = random.Random("bookings")
    kills = 0
    while True:
        process = stage.run("bookings", stage.store, COUNT)
        await process.says("open")
        if kills == KILLS_MAX:
            await process.says("all booked", timeout_s=60)
        else:
            await asyncio.sleep(dice.uniform(0.02, 0.3))
        if process.has_said("all booked"):
            assert await process.ends() == 0
            break
        process.kill()
        kills += 1
    assert kills >= KILLS_MIN, f"only {kills} kills"
    with sqlite3.connect(stage.store) as connection:
        rows = connection.execute("select instance, attempt from bookings").fetchall()
    connection.close()
    assert len(rows) == COUNT
    assert Counter(instance for instance, _ in rows) == {f"stay-{room}": 1 for room in range(COUNT)}
    assert max(attempt for _, attempt in rows) > 1, "no kill found an attempt at work"
    async with Client(f"sqlite:///{stage.store}") as client:
        assert len((await client.list(limit=1_000, status=Status.COMPLETED)).instances) == COUNT
        assert await client._backend.inbox(0, 10) == []
        for instance, attempt in rows[:: COUNT // 50]:
            results = [e.event for e in await client.history(instance) if isinstance(e.event, ev.ActivityCompleted)]
            assert [result.attempt for result in results] == [attempt], "the row is that of the recorded attempt"
