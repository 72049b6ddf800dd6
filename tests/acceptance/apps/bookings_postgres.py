"""A worker that books rooms, one for each instance of `stay`, until it is killed: `bookings_postgres.py URL`."""

import asyncio
import sys

import asyncpg

from durableflow import Context, Engine, RetryPolicy, Settings, activity, activity_context, workflow

SETTINGS = Settings(lease_s=1.0)


@activity(transactional=True, retry=RetryPolicy(max_attempts=10_000, initial=0))
async def book(db: asyncpg.Connection, room: int) -> int:
    context = activity_context()
    await asyncio.sleep(0.1)
    await db.execute("insert into bookings values ($1, $2)", context.instance_id, context.attempt)
    await asyncio.sleep(0.15)  # so that a kill often finds it between its row and its commit
    return room


@workflow
async def stay(ctx: Context, room: int) -> int:
    return await ctx.call_activity(book, room)


async def main(url: str) -> None:
    async with Engine(url, settings=SETTINGS):
        print("open", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
