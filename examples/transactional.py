"""Rows and results in one transaction: money moves between two accounts exactly once, whatever is killed when.

    python examples/transactional.py

It keeps `transactional.db` in the current folder, with its own tables beside the engine's; delete that to begin anew.
"""

import asyncio
import sqlite3
from contextlib import closing

from durableflow import ActivityFailed, Context, Engine, NonRetryableError, RetryPolicy, activity, workflow

TRANSFERS = 20


@activity(transactional=True, retry=RetryPolicy(max_attempts=100, initial=0.1))
def open_accounts(db: sqlite3.Connection) -> None:
    db.execute("create table accounts (name text primary key, cents integer not null check (cents >= 0))")
    db.executemany("insert into accounts values (?, ?)", [("Ada", 1_000), ("Ben", 0)])


@activity(transactional=True, retry=RetryPolicy(max_attempts=100, initial=0.1))
def transfer(db: sqlite3.Connection, giver: str, taker: str, cents: int) -> int:
    # No key against repetition is needed, and no check whether it was done before: that it was done is in the same
    # commit as these two lines.
    db.execute("update accounts set cents = cents + ? where name = ?", (cents, taker))
    try:
        db.execute("update accounts set cents = cents - ? where name = ?", (cents, giver))
    except sqlite3.IntegrityError as error:
        raise NonRetryableError(f"{giver} has no {cents} left") from error  # and the first line is taken back
    balance: int = db.execute("select cents from accounts where name = ?", (giver,)).fetchone()[0]
    return balance


@activity
async def send_note(text: str) -> None:  # touches the world: at least once, as ever
    await asyncio.sleep(0.05)
    print(f"  {text}")


@workflow
async def pay_back(ctx: Context, transfers: int, cents: int) -> str:
    await ctx.call_activity(open_accounts)
    for number in range(transfers):
        left = await ctx.call_activity(transfer, "Ada", "Ben", cents)
        await ctx.call_activity(send_note, f"transfer {number + 1}: Ada has {left} left")
    try:
        await ctx.call_activity(transfer, "Ada", "Ben", 10_000)
    except ActivityFailed as error:
        return error.message
    return "Ada was richer than we thought"


async def main() -> None:
    async with Engine("sqlite:///transactional.db") as engine:
        handle = await engine.start(pay_back.options(instance_id="loan-1"), TRANSFERS, 30)
        print(await handle.result())
    with closing(sqlite3.connect("transactional.db")) as db:
        for name, cents in db.execute("select name, cents from accounts order by name"):
            print(f"{name} has {cents}")


if __name__ == "__main__":
    asyncio.run(main())
