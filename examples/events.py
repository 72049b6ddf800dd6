"""Events from outside: kept until they are waited for, in the order in which they came, each delivered once.

    python examples/events.py

It keeps `events.db` in the current folder; delete that to begin anew.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from durableflow import Context, Engine, EventTimeout, Handle, InstanceNotActive, activity, workflow


@dataclass(frozen=True)
class Bid:
    """An offer: who, and how much."""

    name: str
    amount: int


@activity
async def announce(text: str) -> None:
    await asyncio.sleep(0.1)
    print(f"  announced: {text}")


@workflow
async def auction(ctx: Context, item: str, bids: int) -> str:
    best = Bid("nobody", 0)
    await ctx.call_activity(announce, f"{item} is up for auction")
    for _ in range(bids):
        # The payload is read back as the type that is named. A wait costs nothing, however long it lasts.
        bid = await ctx.wait_for_event("bid", Bid)
        if bid.amount > best.amount:
            best = bid
            ctx.set_custom_status(f"{best.name} leads with {best.amount}")
            await ctx.call_activity(announce, f"{best.name} bids {best.amount}")
    try:
        objection = await ctx.wait_for_event("objection", str, timeout=timedelta(seconds=0.5))
    except EventTimeout:
        return f"{item} goes to {best.name} for {best.amount}"
    return f"{item} is withdrawn: {objection}"


async def bid(handle: Handle[str], offer: Bid) -> None:
    # Sent again after a crash, with the same id, it is not delivered again.
    with suppress(InstanceNotActive):
        await handle.raise_event("bid", offer, event_id=f"{offer.name}-{offer.amount}")


async def main() -> None:
    async with Engine("sqlite:///events.db") as engine:
        handle = await engine.start(auction.options(instance_id="auction-1"), "a brass lamp", bids=4)
        # They come faster than the auction announces them: those that nobody waits for yet are kept. The last is sent
        # twice with one id, and counts once.
        for offer in (Bid("Ada", 20), Bid("Ben", 15), Bid("Ben", 30), Bid("Ada", 45), Bid("Ada", 45)):
            await bid(handle, offer)
        print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main())
