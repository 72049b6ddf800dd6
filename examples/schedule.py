"""A schedule: a report for each half second, also for those in which nobody was there.

    python examples/schedule.py

Kill it and start it again: the moments that have passed meanwhile are caught up with, one report for each. It keeps
`schedule.db` in the current folder; begin anew by removing it.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from durableflow import Context, Engine, Interval, Schedule, Status, activity, slot_of, workflow

REPORTS = 4
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


@activity
async def sum_up(shop: str, until: datetime) -> str:
    print(f"  summing up what the {shop} has sold until {until.time()}")
    await asyncio.sleep(0.05)
    return f"{shop}: all sold"


@workflow
async def report(ctx: Context, shop: str) -> str:
    slot = slot_of(ctx.instance_id)  # the moment that this report is for, whenever it is written
    return await ctx.call_activity(sum_up, shop, slot or ctx.now())


async def main() -> None:
    async with Engine("sqlite:///schedule.db") as engine:
        twice_a_second = Schedule(Interval(0.5, anchor=FIRST), overlap="buffer_all", catch_up=timedelta(hours=1))
        await engine.schedules.put("lamps", twice_a_second, report, "lamp shop")

        while True:
            view = await engine.schedules.get("lamps")
            if view.fired >= REPORTS:
                break
            await asyncio.sleep(0.1)
        view = await engine.schedules.pause("lamps", "enough is reported")

        page = await engine.list(tags={"schedule": "lamps"}, limit=1_000)
        for each in page.instances:
            await engine.wait_for_status(each.instance_id, Status.COMPLETED)
        slots = sorted(each.tags["slot"] for each in page.instances)
        print(f"at least {REPORTS} reports: {len(slots) >= REPORTS}")
        print(f"one for each moment: {len(set(slots)) == len(slots) == view.fired}")
        print(f"none left out: {view.missed + view.skipped == 0}, {are_half_a_second_apart(slots)}")


def are_half_a_second_apart(slots: list[str]) -> bool:
    moments = [datetime.fromisoformat(each) for each in slots]
    return all(later - earlier == timedelta(seconds=0.5) for earlier, later in pairwise(moments))


if __name__ == "__main__":
    asyncio.run(main())
