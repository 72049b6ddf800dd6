"""The workflows whose histories are kept for ever. Never change what one of them asks for; add another instead."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from durableflow import (
    ActivityFailed,
    Cancelled,
    ChildFailed,
    Context,
    EventTimeout,
    Flow,
    MessageFailed,
    RetryPolicy,
    Task,
    activity,
    workflow,
)
from durableflow.errors import SideEffectFailed, TaskError


@dataclass
class Order:
    id: str
    items: list[str]
    price: Decimal
    placed: datetime


@dataclass
class Receipt:
    order_id: str
    paid: Decimal


@activity(name="golden reserve")
async def reserve(item: str) -> str:
    return f"{item} from shelf 7"


@activity(name="golden charge", retry=RetryPolicy(max_attempts=5, initial=0.5, no_retry_on=["Declined"]), timeout=30)
async def charge(order: Order) -> Receipt:
    return Receipt(order.id, order.price)


@activity(name="golden refund")
def refund(order_id: str, *, reason: str = "") -> None: ...


@workflow(name="golden order")
def order(ctx: Context, order: Order) -> Flow[list[str]]:
    """Two side by side, then one, then a person's word."""
    ctx.set_custom_status({"step": "reserving", "items": len(order.items)})
    shelves = yield from ctx.when_all([ctx.call_activity(reserve, item) for item in order.items])
    receipt = yield from ctx.call_activity(charge.options(heartbeat_timeout=5), order)
    assert receipt.paid == order.price
    ctx.set_custom_status({"step": "waiting"})
    approved = yield from ctx.wait_for_event("Approved", bool, timeout=timedelta(days=2))
    return [*shelves, f"approved: {approved}"]


@workflow(name="golden saga", version=3)
def saga(ctx: Context, order: Order) -> Flow[None]:
    """What was done is undone when a later step fails."""
    yield from ctx.call_activity(reserve, order.items[0])
    try:
        yield from ctx.call_activity(charge, order)
    except ActivityFailed as error:
        yield from ctx.call_activity(refund, order.id, reason=error.message)
        raise


@workflow(name="golden retries")
async def retries(ctx: Context, item: str) -> str:
    """Attempts that fail, are lost, find no place."""
    return await ctx.call_activity(reserve.options(retry=4), item)


@workflow(name="golden timers")
def timers(ctx: Context) -> Flow[list[Any]]:
    """The first of three, the others given up."""
    log: list[Any] = [ctx.now().isoformat()]
    yield from ctx.sleep(1.5)
    slow, quick = ctx.sleep(timedelta(days=30)), ctx.create_timer(ctx.now() + timedelta(minutes=1))
    winner = yield from ctx.when_any(slow, quick, ctx.create_timer(90))
    log += [winner is quick, slow.cancel(), ctx.now().isoformat()]
    return log


@workflow(name="golden events")
def events(ctx: Context) -> Flow[list[Any]]:
    """Early ones, late ones, none, and one of the wrong type."""
    log: list[Any] = []
    first, second = ctx.wait_for_event("Straße"), ctx.wait_for_event("STRASSE", int)
    log += [(yield from second), first.result()]
    yield from ctx.sleep(1)
    log.append((yield from ctx.wait_for_event("kept")))
    try:
        yield from ctx.wait_for_event("never", timeout=10)
    except EventTimeout as error:
        log.append(str(error))
    try:
        yield from ctx.wait_for_event("typed", bool)
    except ValueError as error:
        log.append(type(error).__name__)
    return log


@workflow(name="golden branches")
async def branches(ctx: Context, names: list[str]) -> list[str]:
    """A branch for each name, one of them cancelled, one failing."""

    async def branch(name: str) -> str:
        try:
            shelf = await ctx.call_activity(reserve, name)
            await ctx.sleep(1)
        except Cancelled:
            await ctx.call_activity(refund, name)
            raise
        if name == "bad":
            raise LookupError(name)
        return shelf

    tasks = [ctx.spawn(branch(name)) for name in names]
    await ctx.wait_for_event("cancel the first")
    tasks[0].cancel()
    results: list[str] = []
    for task in tasks:
        try:
            results.append(await task)
        except (TaskError, LookupError) as error:
            results.append(type(error).__name__)
    return results


@workflow(name="golden facts")
def facts(ctx: Context) -> Flow[list[Any]]:
    """Dice, ids, time, small facts."""

    def broken() -> int:
        raise KeyError("no such fact")

    values: list[Any] = [ctx.random().random(), str(ctx.uuid4()), ctx.now().isoformat()]
    values.append(ctx.side_effect(lambda: {"pid": 1234}))
    try:
        ctx.side_effect(broken)
    except SideEffectFailed as error:
        values.append(str(error))
    yield from ctx.sleep(1)
    ctx.set_custom_status("thrown")
    return [*values, ctx.random().randint(1, 6), str(ctx.uuid4()), ctx.instance_id, ctx.is_cancelled]


@workflow(name="golden pause")
def pause(ctx: Context) -> Flow[list[str]]:
    """Notes what comes in the order of its coming."""
    log: list[str] = []
    waiting: dict[str, Task[Any]] = {
        "result": ctx.call_activity(reserve, "lamp"),
        "timer": ctx.sleep(5),
        "event": ctx.wait_for_event("e"),
    }
    while waiting:
        winner: Task[Any] = yield from ctx.when_any(waiting.values())
        name = next(name for name, task in waiting.items() if task is winner)
        del waiting[name]
        log.append(name)
    return log


@workflow(name="golden tidy")
def tidy(ctx: Context, order_id: str) -> Flow[str]:
    """Cleans up when it is cancelled."""
    try:
        return (yield from ctx.wait_for_event("go", str))
    except Cancelled as error:
        yield from ctx.call_activity(refund, order_id, reason=error.reason)
        raise


@workflow(name="golden long")
def long(ctx: Context, n: int) -> Flow[int]:
    """Step after step, for as long as it is let."""
    for k in range(n):
        yield from ctx.call_activity(reserve, str(k))
        yield from ctx.sleep(60)
    return n


@workflow(name="golden quick")
def quick(ctx: Context, a: int, b: int = 2) -> int:
    """A plain function: one turn."""
    ctx.set_custom_status(None)
    return a + b


@workflow(name="golden second thoughts")
def second_thoughts(ctx: Context) -> Flow[str]:
    """Asks again, when it is cancelled, for what it waited for: since format 2 the next event is the new wait's."""
    try:
        return (yield from ctx.wait_for_event("approved", str))
    except Cancelled:
        yield from ctx.call_activity(reserve, "lamp")
        return "after all: " + (yield from ctx.wait_for_event("approved", str))


@workflow(name="golden handed over")
def handed_over(ctx: Context) -> Flow[list[str]]:
    """One activity is finished by whoever holds its token, another goes through a queue."""
    lamp = ctx.call_activity(reserve, "lamp")
    chair = ctx.call_activity(reserve.options(queue="shelves", priority=1, fairness_key="o-1"), "chair")
    return list((yield from ctx.when_all([lamp, chair])))


def lamps_as_they_were(ctx: Context) -> Flow[list[str]]:
    """What `lamps` was before it was changed."""
    lamps = [(yield from ctx.call_activity(reserve, "lamp"))]
    yield from ctx.wait_for_event("go")
    return lamps


@workflow(name="golden lamps")
def lamps(ctx: Context) -> Flow[list[str]]:
    """Was changed twice while instances were open: who had passed there goes on without a second or a third lamp."""
    lamps = [(yield from ctx.call_activity(reserve, "lamp"))]
    if ctx.patched("second lamp"):
        lamps.append((yield from ctx.call_activity(reserve, "second lamp")))
    yield from ctx.wait_for_event("go")
    if ctx.patched("third lamp"):
        lamps.append((yield from ctx.call_activity(reserve, "third lamp")))
    return lamps


@workflow(name="golden parcel")
async def parcel(ctx: Context, item: str) -> str:
    """A child of `family`."""
    return await ctx.call_activity(reserve, item)


@workflow(name="golden family")
async def family(ctx: Context, items: list[str]) -> list[Any]:
    """Children that return, fail, are retried, are given up; messages that arrive, and that do not; requests."""
    log: list[Any] = []

    def not_empty(item: str) -> None:
        if not item:
            raise ValueError("an item has a name")

    @ctx.on_request("add", validate=not_empty)
    async def add(item: str) -> int:
        log.append(await ctx.call_activity(reserve, item))
        return len(log)

    parts = [ctx.call_workflow(parcel, item) for item in items]
    given_up = ctx.call_workflow(parcel.options(instance_id="golden-given-up", parent_close="cancel"), "x")
    again = ctx.call_workflow(
        parcel.options(retry=RetryPolicy(max_attempts=2, initial=5, jitter=0), tags={"a": "b"}), "y"
    )
    for part in parts:
        try:
            log.append(await part)
        except ChildFailed as error:
            log.append(f"{error.status} {error.type_name}")
    given_up.cancel()
    log.append(await again)
    first, second = (
        ctx.raise_event("golden-neighbour", "News", {"a": 1}, event_id="1"),
        ctx.handle("nobody").cancel("no"),
    )
    await first
    try:
        await second
    except MessageFailed as error:
        log.append(error.outcome)
    ctx.call_workflow(parcel.options(parent_close="abandon"), "z")
    log.append(await ctx.wait_for_event("go"))
    return log


@workflow(name="golden days")
def days(ctx: Context, day: int, log: list[Any]) -> Flow[list[Any]]:
    """Begins anew each day, with what nobody has taken yet."""
    if day == 1:
        ctx.on_request("late")(lambda: day)
        ctx.patched("since the second day")
    log.append(ctx.random().randint(1, 1_000_000))
    ctx.call_activity(reserve, "never")
    log.append((yield from ctx.wait_for_event("night")))
    ctx.set_custom_status({"day": day})
    return log if day == 2 else ctx.continue_as_new(day + 1, log)


@workflow(name="golden stages")
async def stages(ctx: Context, goal: int) -> list[Any]:
    """Goes round and round, and each time declares that it could begin there."""
    done, heard = ctx.restore(tuple[int, list[Any]]) or (0, [])
    dice = ctx.random()
    while done < goal:
        thrown = dice.randint(1, 1_000_000)
        word = await ctx.wait_for_event("word", str)
        heard = [thrown, str(ctx.uuid4()), word, ctx.patched("p")]
        done += 1
        ctx.checkpoint((done, heard))
    return heard


@workflow(name="golden fragile")
async def fragile(ctx: Context) -> list[Any]:
    """Fails, is mended, and goes on."""
    dice = ctx.random().random()
    parts = await ctx.when_all([ctx.call_activity(reserve, item) for item in ("lamp", "chair", "bed")])
    return [dice, *parts, await ctx.wait_for_event("signed")]
