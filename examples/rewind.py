"""Rewind: an instance that failed goes on from before its failure, when the cause is gone.

    python examples/rewind.py

A trip is booked; the bank does not answer, and the instance fails. Then the bank is open again: what was good stays
good, only the payment is made again. It keeps `rewind.db` and `bank.txt` in the current folder; begin anew by removing
both.
"""

import asyncio
from pathlib import Path

from durableflow import Context, Engine, RetryPolicy, Status, activity, workflow

BANK = Path("bank.txt")


@activity
async def book(what: str) -> str:
    await asyncio.sleep(0.1)
    print(f"  booked a {what}")  # not again after the rewind
    return f"a {what}"


@activity(retry=RetryPolicy(max_attempts=2, initial=0.1))
def pay(cents: int) -> str:
    if not BANK.exists():
        raise ConnectionError("the bank does not answer")
    return f"paid {cents}"


@workflow
async def payment(ctx: Context, cents: int) -> str:
    await ctx.sleep(0.1)
    return await ctx.call_activity(pay, cents)


@workflow
async def trip(ctx: Context) -> str:
    booked = await ctx.when_all([ctx.call_activity(book, what) for what in ("train", "room")])
    receipt = await ctx.call_workflow(payment, 4200)  # a child that failed is rewound together with its parent
    return f"{' and '.join(booked)}: {receipt}"


def the_bank_opens() -> None:
    BANK.write_text("open")


async def main() -> None:
    async with Engine("sqlite:///rewind.db") as engine:
        handle = await engine.start(trip.options(instance_id="trip-1"))
        status = await handle.wait_for_status(Status.FAILED, Status.COMPLETED)
        if status.status is Status.FAILED:
            failure = (await handle.view()).failure
            print(f"  failed: {failure.message if failure else ''}")
            the_bank_opens()
            await handle.rewind(reason="the bank is open again")
        print(f"{handle.id}: {await handle.result()}")
        print(f"rewound {(await handle.view()).rewinds} time")


if __name__ == "__main__":
    asyncio.run(main())
