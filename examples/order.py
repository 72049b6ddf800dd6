"""An order: two activities side by side, then one, an approval, and everything undone if it comes to nothing.

    python examples/order.py

Kill it at any moment (`kill -9`) and start it again: it goes on where it was. It keeps `order.db` in the
current folder; delete that to begin anew.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from durableflow import (
    ActivityFailed,
    Context,
    Engine,
    EventTimeout,
    InstanceNotActive,
    NonRetryableError,
    RetryPolicy,
    WorkflowFailed,
    activity,
    activity_context,
    workflow,
)


@dataclass(frozen=True)
class Order:
    """What a customer wants."""

    item: str
    quantity: int
    cents: int
    address: str


class OrderFailed(Exception):
    """The order came to nothing, and what had been done for it was undone."""


@activity
async def reserve_stock(order: Order) -> str:
    await asyncio.sleep(0.3)  # stands for a call to a warehouse
    print(f"  reserved {order.quantity} x {order.item}")
    return f"shelf 7, {order.quantity} pieces"


@activity
async def check_credit(order: Order) -> int:
    await asyncio.sleep(0.2)
    print(f"  credit is good for {order.cents / 100:,.2f}")
    return 9


@activity(retry=RetryPolicy(max_attempts=5, initial=0.5), timeout=timedelta(seconds=30))
async def charge(order: Order) -> str:
    # An attempt may be cut short after the money has moved. The key is the same for the next attempt: with it, the
    # payment service knows that it is the same payment.
    key = activity_context().idempotency_key
    await asyncio.sleep(0.3)
    print(f"  charged {order.cents / 100:,.2f}, key {key}")
    return f"payment {key}"


@activity
async def ship(order: Order) -> str:
    await asyncio.sleep(0.2)
    if not order.address:
        raise NonRetryableError("the parcel has no address")
    print(f"  shipped to {order.address}")
    return f"parcel to {order.address}"


@activity
async def refund(payment: str) -> None:
    await asyncio.sleep(0.2)
    print(f"  refunded {payment}")


@activity
async def release_stock(order: Order) -> None:
    await asyncio.sleep(0.2)
    print(f"  put back {order.quantity} x {order.item}")


@workflow
async def fulfil(ctx: Context, order: Order) -> str:
    await ctx.when_all(ctx.call_activity(reserve_stock, order), ctx.call_activity(check_credit, order))
    payment = await ctx.call_activity(charge, order)
    try:
        if order.cents >= 100_000 and not await ctx.wait_for_event("approval", bool, timeout=timedelta(days=2)):
            raise OrderFailed("the approval was refused")
        return await ctx.call_activity(ship, order)
    except (ActivityFailed, EventTimeout, OrderFailed) as error:
        await ctx.call_activity(refund, payment)
        await ctx.call_activity(release_stock, order)
        raise OrderFailed("refunded and put back, because it could not be sent") from error


async def main() -> None:
    lamps = Order("brass lamp", 12, 178_800, "Harbour Street 4")
    letter_scale = Order("letter scale", 1, 8_900, address="")

    async with Engine("sqlite:///order.db") as engine:
        # A start with an id is idempotent: after a crash, this finds the instance that is there.
        first = await engine.start(fulfil.options(instance_id="order-1"), lamps)
        # Any process that reaches the file may raise the event, at any time: it is kept until it is waited for.
        with suppress(InstanceNotActive):
            await first.raise_event("approval", True, event_id="approval-of-order-1")
        print("order-1:", await first.result())

        second = await engine.start(fulfil.options(instance_id="order-2"), letter_scale)
        try:
            await second.result()
        except WorkflowFailed as failed:
            print("order-2:", failed.message)


if __name__ == "__main__":
    asyncio.run(main())
