"""The program of the demo: an order workflow and its activities, as a user would write them.

`examples/order.py` is the same to copy. All that is special here is `work`, which stands
for the real thing and notes in a ledger that the activity began, and how it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from durableflow import ActivityFailed, Context, EventTimeout, NonRetryableError, activity, activity_context, workflow
from durableflow.demo.ledger import Ledger

APPROVAL = "approval"
EXPENSIVE_CENTS = 100_000


@dataclass(frozen=True)
class Order:
    """What a customer wants."""

    item: str
    quantity: int
    cents: int
    address: str


class NoAddress(NonRetryableError):
    """Trying again will not help."""


class OrderFailed(Exception):
    """The order came to nothing, and what had been done for it was undone."""


@workflow
async def fulfil(ctx: Context, order: Order) -> str:
    """Reserve and check side by side, charge, have expensive orders approved, ship; undo if that fails."""
    await ctx.when_all(ctx.call_activity(reserve_stock, order), ctx.call_activity(check_credit, order))
    payment = await ctx.call_activity(charge, order)
    try:
        if order.cents >= EXPENSIVE_CENTS:
            ctx.logger.info("is expensive: waits for the event %r, up to two days", APPROVAL)
            if not await ctx.wait_for_event(APPROVAL, bool, timeout=timedelta(days=2)):
                raise OrderFailed("the approval was refused")
            ctx.logger.info("is approved")
        return await ctx.call_activity(ship, order)
    except (ActivityFailed, EventTimeout, OrderFailed) as error:
        ctx.logger.info("cannot go on: undoes what was done")
        await ctx.call_activity(refund, payment)
        await ctx.call_activity(release_stock, order)
        raise OrderFailed("refunded and released, because the parcel could not be sent") from error


@activity
async def reserve_stock(order: Order) -> str:
    """Put the goods aside."""
    with work() as desk:
        await desk.take_s(0.45)
    return f"{order.quantity} x {order.item} put aside"


@activity
async def check_credit(order: Order) -> int:
    """The customer's credit score."""
    with work() as desk:
        await desk.take_s(0.3)
    return 7 if order.cents < EXPENSIVE_CENTS else 9


@activity
async def charge(order: Order) -> str:
    """Take the money. The key is the same for every attempt: a real payment service would charge once."""
    with work() as desk:
        await desk.take_s(0.4)
    return f"payment {activity_context().idempotency_key} of {order.cents / 100:,.2f}"


@activity
async def ship(order: Order) -> str:
    """Hand the parcel over."""
    with work() as desk:
        await desk.take_s(0.3)
        if not order.address:
            raise NoAddress("the parcel has no address")
    return f"parcel to {order.address}"


@activity
async def refund(payment: str) -> str:
    """Give the money back."""
    with work() as desk:
        await desk.take_s(0.3)
    return f"{payment} returned"


@activity
async def release_stock(order: Order) -> str:
    """Put the goods back."""
    with work() as desk:
        await desk.take_s(0.3)
    return f"{order.quantity} x {order.item} put back"


class Desk:
    """Where the work of one attempt is done."""

    ledger: Ledger | None = None
    """Set by the worker's process."""
    slow: str = ""
    """The activity which takes so long in this process that it is surely met running."""

    async def take_s(self, seconds: float) -> None:
        """Work so long."""
        await asyncio.sleep(30.0 if activity_context().activity == self.slow else seconds)


@contextmanager
def work() -> Generator[Desk]:
    """Note in the ledger that the attempt of the running activity begins, and how it ends."""
    assert Desk.ledger is not None, "the worker's process opens the ledger"
    context = activity_context()
    Desk.ledger.note_attempt("begins", context)
    try:
        yield Desk()
    except Exception as error:
        Desk.ledger.note_attempt("fails", context, str(error))
        raise
    Desk.ledger.note_attempt("is done", context)
