"""A schedule whose engines are killed, again and again: each slot makes one instance, and none is left out."""

import asyncio
import random
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from durableflow import Context, Interval, Schedule, Status, workflow

pytestmark = pytest.mark.slow  # starts and kills processes

KILLS = 8
EVERY = timedelta(seconds=0.1)


async def test_each_slot_is_fired_once_though_the_leading_engine_is_killed_at_any_moment(stage: Any) -> None:
    @workflow
    async def working(ctx: Context, label: str, seconds: float) -> str: ...

    dice = random.Random("scheduled")
    leading, standing_by = await stage.leading_worker("shop", lease_s=30), stage.worker("shop", lease_s=30)
    async with stage.client() as client:
        await client.schedules.create("s", Schedule(Interval(EVERY), overlap="allow"), working, "job", 0.0)
        for _ in range(KILLS):
            await standing_by.says("open")
            await asyncio.sleep(dice.uniform(0.1, 0.5))
            leading.kill()
            await standing_by.says("leads")
            leading, standing_by = standing_by, stage.worker("shop", lease_s=30)

        async def is_caught_up() -> bool:
            view = await client.schedules.get("s")
            return bool(view.next) and view.next[0] > view.recent[0].at

        await stage.eventually(is_caught_up)
        view = await client.schedules.pause("s")
        assert (view.missed, view.skipped) == (0, 0)

        async def ended() -> Any:
            found = (await client.list(tags={"schedule": "s"}, limit=1_000)).instances
            return found if all(each.status is Status.COMPLETED for each in found) else None

        slots = sorted(datetime.fromisoformat(each.tags["slot"]) for each in await stage.eventually(ended))
        assert len(slots) == view.fired > KILLS
        assert {later - earlier for earlier, later in pairwise(slots)} == {EVERY}
