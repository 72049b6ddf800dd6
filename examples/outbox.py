"""The outbox: an order's row and the workflow that fulfils it begin in one transaction, or not at all.

    python examples/outbox.py

It keeps `outbox.db` in the current folder, with its own tables beside the engine's; delete that to begin anew.
"""

import asyncio
import sqlite3
from contextlib import closing

from durableflow import Context, Engine, InstanceNotActive, Outbox, activity, workflow

STORE = "outbox.db"
ITEMS = ["a lamp", "a chair", "a vase"]


@activity
async def pack(item: str) -> str:
    await asyncio.sleep(0.1)
    print(f"  packing {item}")
    return f"{item} in a box"


@workflow
async def fulfil(ctx: Context, item: str) -> str:
    parcel = await ctx.call_activity(pack, item)
    paid = await ctx.wait_for_event("paid", int)
    return f"{parcel}, {paid} paid"


def place_order(db: sqlite3.Connection, number: int, item: str) -> None:
    """Plain code of a shop, which knows nothing of event loops; here it is killed at any moment, too."""
    with db:
        row = db.execute("insert or ignore into orders (number, item) values (?, ?)", (number, item))
        if row.rowcount:  # it is new: its workflow begins with it
            Outbox(db).start(fulfil.options(instance_id=f"order-{number}", on_conflict="fail"), item)


def take_payment(db: sqlite3.Connection, number: int, cents: int) -> None:
    with db:
        row = db.execute("insert or ignore into payments (number, cents) values (?, ?)", (number, cents))
        if row.rowcount:
            try:
                Outbox(db).raise_event(f"order-{number}", "paid", cents)
            except InstanceNotActive:
                print(f"  order {number} is over, its payment goes back")


def run_shop() -> None:
    with closing(sqlite3.connect(STORE, timeout=30)) as db:
        db.execute("create table if not exists orders (number integer primary key, item text)")
        db.execute("create table if not exists payments (number integer primary key, cents integer)")
        for number, item in enumerate(ITEMS, 1):
            place_order(db, number, item)
            take_payment(db, number, 950 * number)


async def main() -> None:
    async with Engine(f"sqlite:///{STORE}") as engine:
        await asyncio.to_thread(run_shop)
        for number in range(1, len(ITEMS) + 1):
            print(f"order-{number}: {await engine.result(f'order-{number}')}")


if __name__ == "__main__":
    asyncio.run(main())
