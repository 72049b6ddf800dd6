"""A saga: each thing that is done says first how to undo it; if the whole fails, the undoing goes in reverse.

    python examples/saga.py

Kill it in the middle of the undoing and start it again: it goes on there. It keeps `saga.db` in the current folder;
delete that to begin anew.
"""

import asyncio

from durableflow import ActivityFailed, Context, Engine, NonRetryableError, RetryPolicy, activity, workflow


@activity
async def book(what: str, where: str) -> None:
    await asyncio.sleep(0.2)
    if (what, where) == ("car", "Venice"):
        raise NonRetryableError("there are no cars in Venice")
    print(f"  booked a {what} in {where}")


# Undoing should not give up: many attempts, short waits. It is called for what may never have been booked, too.
@activity(retry=RetryPolicy(max_attempts=50, initial=0.2, max_delay=5))
async def cancel(what: str, where: str) -> None:
    await asyncio.sleep(0.2)
    print(f"  no {what} in {where} any more")


async def trip(ctx: Context, where: str) -> str:  # a part of the workflow below: as deterministic as that
    parts = ("flight", "hotel", "car")
    try:
        async with ctx.saga() as saga:
            for what in parts:
                saga.compensate_with(cancel, what, where)
                await ctx.call_activity(book, what, where)
    except ActivityFailed as failed:
        return f"no trip to {where}, nothing is booked: {failed.message}"
    return f"to {where} with {', '.join(parts)}"


@workflow
async def holidays(ctx: Context, places: list[str]) -> list[str]:
    trips = [ctx.spawn(trip(ctx, place)) for place in places]  # side by side, each with its own undoing
    return await ctx.when_all(trips)


async def main() -> None:
    async with Engine("sqlite:///saga.db") as engine:
        handle = await engine.start(holidays.options(instance_id="holidays-1"), ["Lisbon", "Venice"])
        for line in await handle.result():
            print(line)


if __name__ == "__main__":
    asyncio.run(main())
