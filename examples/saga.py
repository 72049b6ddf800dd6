"""A saga: each thing that was done adds how to undo it; if the whole fails, the undoing goes in reverse.

    python examples/saga.py

The list of what to undo is an ordinary variable. It survives crashes because everything in a workflow does. It keeps
`saga.db` in the current folder; delete that to begin anew.
"""

import asyncio

from durableflow import ActivityFailed, Context, Engine, NonRetryableError, RetryPolicy, activity, workflow


@activity
async def book(what: str, where: str) -> str:
    await asyncio.sleep(0.2)
    if (what, where) == ("car", "Venice"):
        raise NonRetryableError("there are no cars in Venice")
    print(f"  booked a {what} in {where}")
    return f"{what} in {where}"


# Undoing should not give up: many attempts, short waits.
@activity(retry=RetryPolicy(max_attempts=50, initial=0.2, max_delay=5))
async def cancel(booking: str) -> str:
    await asyncio.sleep(0.2)
    print(f"  cancelled the {booking}")
    return booking


async def trip(ctx: Context, where: str) -> str:  # a part of the workflow below: as deterministic as that
    booked: list[str] = []
    try:
        for what in ("flight", "hotel", "car"):
            booked += [await ctx.call_activity(book, what, where)]
    except ActivityFailed as failed:
        for booking in reversed(booked):
            await ctx.call_activity(cancel, booking)
        return f"no trip to {where}, {' and '.join(booked)} are cancelled: {failed.message}"
    return f"to {where} with {', '.join(booked)}"


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
