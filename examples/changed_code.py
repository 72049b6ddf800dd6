"""Changed code: a patch for instances that are open while it changes, and two versions beside each other.

    python examples/changed_code.py

It begins two instances with the code of last month, and goes on with the code of today. It keeps `changed_code.db` in
the current folder; begin anew by removing it.
"""

import asyncio
from contextlib import suppress

from durableflow import Client, Context, Engine, Handle, InstanceNotActive, activity, workflow

STORE = "sqlite:///changed_code.db"


@activity
async def look_into_the_store(item: str) -> str:
    print(f"  is there {item}?")
    return f"{item} from shelf 7"


@activity
async def pack(item: str) -> str:
    print(f"  packing {item}")
    return f"{item} in a box"


@workflow
async def sell(ctx: Context, item: str) -> str:
    if ctx.patched("look first"):  # order-1 had passed here before: it goes on without
        item = await ctx.call_activity(look_into_the_store, item)
    await ctx.wait_for_event("paid")
    parcel = await ctx.call_activity(pack, item)
    return f"{parcel}, with a card" if ctx.patched("card") else parcel  # nobody has passed here yet


@workflow(name="gift", version=2)
async def gift(ctx: Context, item: str) -> str:
    parcel, card = await ctx.when_all(ctx.call_activity(pack, item), ctx.call_activity(pack, "a card"))
    return f"{parcel}, {card}"


@workflow(name="gift", version=1)  # kept for as long as instances of it are open
async def gift_v1(ctx: Context, item: str) -> str:
    await ctx.wait_for_event("paid")
    return await ctx.call_activity(pack, item)


async def last_month() -> None:
    """What ran then: `sell` without its patches, and no second version of `gift`."""

    @workflow(name="sell")
    async def sell_as_it_was(ctx: Context, item: str) -> str:
        await ctx.wait_for_event("paid")
        return await ctx.call_activity(pack, item)

    async with Engine(STORE, workflows=[sell_as_it_was, gift_v1]) as engine:
        await engine.start(gift_v1.options(instance_id="gift-1"), "a vase")
        await engine.start(sell_as_it_was.options(instance_id="order-1"), "a lamp")


async def pay(order: Handle[str]) -> None:
    with suppress(InstanceNotActive):  # it is over: this is not the first time that the example is started
        await order.raise_event("paid", event_id="payment")


async def main() -> None:
    async with Client(STORE) as client:  # which only asks, and runs nothing
        is_new = not (await client.list(id_prefix="order-1")).instances
    if is_new:
        await last_month()
    async with Engine(STORE) as engine:
        await engine.start(sell.options(instance_id="order-2"), "a chair")
        await engine.start(gift.options(instance_id="gift-2"), "a vase")
        for instance_id in ("order-1", "order-2", "gift-1", "gift-2"):
            handle = engine.handle(instance_id, gift if instance_id.startswith("gift") else sell)
            if instance_id != "gift-2":
                await pay(handle)
            print(f"{instance_id}: {await handle.result()}")


if __name__ == "__main__":
    asyncio.run(main())
