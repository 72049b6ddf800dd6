"""Books rooms, one for each instance, and says when all are booked: `bookings.py STORE COUNT`."""

import asyncio
import sqlite3
import sys
import time

from durableflow import Context, Engine, RetryPolicy, Settings, activity, activity_context, workflow


@activity(transactional=True, retry=RetryPolicy(max_attempts=10_000, initial=0))
def book(db: sqlite3.Connection, room: int) -> int:
    time.sleep(0.002)
    db.execute("create table if not exists bookings (instance text not null, attempt integer not null)")
    db.execute("insert into bookings values (?, ?)", (activity_context().instance_id, activity_context().attempt))
    time.sleep(0.003)  # so that a kill often finds it between its row and its commit
    return room


@workflow
async def stay(ctx: Context, room: int) -> int:
    return await ctx.call_activity(book, room)


async def main(store: str, count: int) -> None:
    async with Engine(f"sqlite:///{store}", settings=Settings(lease_s=60)) as engine:
        print("open", flush=True)
        handles = await asyncio.gather(
            *(engine.start(stay.options(instance_id=f"stay-{room}"), room) for room in range(count))
        )
        rooms = [await handle.result() for handle in handles]
        assert rooms == list(range(count)), rooms
        print("all booked", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
