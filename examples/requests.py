"""Requests and queries: an instance that answers while it goes on.

    python examples/requests.py

A shopping cart takes requests, each with a recorded answer, and shows itself to queries, of which nothing is recorded.
It keeps `requests.db` in the current folder; delete that to begin anew.
"""

import asyncio
from contextlib import suppress

from durableflow import Context, Engine, InstanceNotActive, RequestFailed, activity, workflow

PRICES = {"lamp": 40, "vase": 15, "chair": 90}


@activity
async def price_of(item: str) -> int:
    await asyncio.sleep(0.1)
    print(f"  looked up {item}")
    return PRICES[item]


def known(item: str) -> None:
    if item not in PRICES:
        raise LookupError(f"there is no {item} in this shop")


@workflow
async def cart(ctx: Context) -> str:
    items: dict[str, int] = {}

    @ctx.on_request("add", validate=known)  # refused before the handler is called
    async def add(item: str) -> int:
        items[item] = await ctx.call_activity(price_of, item)  # a handler may ask for things, and wait
        return sum(items.values())

    @ctx.on_query("total")
    def total() -> int:
        return sum(items.values())

    await ctx.wait_for_event("pay")
    return f"{', '.join(sorted(items))} for {sum(items.values())}"


async def main() -> None:
    async with Engine("sqlite:///requests.db") as engine:
        handle = await engine.start(cart.options(instance_id="cart-1"))
        for item in ("lamp", "vase", "lamp", "unicorn", "chair"):
            try:
                # Sent again after a crash, with the same id, it gets the answer that was recorded.
                total = await handle.request("add", item, result_type=int, request_id=f"click-{item}")
                print(f"  with a {item}: {total}")
            except RequestFailed as refused:
                print(f"{refused.type_name}: {refused.message}")
        print(f"a look into the cart: {await handle.query('total', result_type=int)}")
        with suppress(InstanceNotActive):
            await handle.raise_event("pay")
        print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main())
