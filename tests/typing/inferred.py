"""What type checkers know without being told: the types of results, in every way of writing."""

import random
import sqlite3
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn, assert_type

import asyncpg

from durableflow import (
    Activity,
    ActivityContext,
    AsyncOutbox,
    BlockingClient,
    BulkReport,
    Client,
    Compensation,
    Context,
    Cron,
    Engine,
    ExportReport,
    Flow,
    Handle,
    ImportReport,
    Outbox,
    RetryPolicy,
    Saga,
    ScheduleView,
    Status,
    Task,
    Workflow,
    activity,
    activity_context,
    slot_of,
    workflow,
)
from durableflow.core.task import ChildTask


@dataclass
class Order:
    id: str


@dataclass
class Receipt:
    paid: float


# -- activities -----------------------------------------------------------------------------------------------


@activity
async def charge(order: Order, *, tip: float = 0) -> Receipt:
    return Receipt(tip)


@activity
def count(words: list[str], /) -> int:
    return len(words)


@activity(retry=RetryPolicy(max_attempts=5), timeout=3, heartbeat_timeout=timedelta(seconds=1))
async def refund(order: Order) -> None: ...


@activity(name="measure", retry=2, max_concurrency=4)
def measure(first: float, *rest: float, unit: str = "m") -> dict[str, float]:
    return {unit: first + sum(rest)}


@activity(transactional=True)
def book(db: sqlite3.Connection, order: Order, *, nights: int = 1) -> Receipt:
    assert_type(Outbox(db).start(plain, nights), str)
    return Receipt(nights)


@activity(transactional=True, retry=2)
async def book_later(db: asyncpg.Connection, order: Order, *, nights: int = 1) -> Receipt:
    assert_type(await AsyncOutbox(db).start(plain, nights), str)
    return Receipt(nights)


async def unit_test(db: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    assert_type(await book_later.call_on(db, Order("1"), nights=2), Receipt)
    async with pool.acquire() as lent:
        assert_type(await book_later.call_on(lent, Order("1")), Receipt)
        await AsyncOutbox(lent).raise_event("1", "paid")


assert_type(book.call_on(sqlite3.connect(":memory:"), Order("1"), nights=2), Receipt)
assert_type(book.options(retry=2).call_on(sqlite3.connect(":memory:"), Order("1")), Receipt)


class Shout:
    def __call__(self, text: str) -> str:
        return text.upper()


shout = activity(Shout())

assert_type(charge.name, str)
assert_type(count(["a"]), int)
assert_type(measure(1, 2, unit="km"), dict[str, float])
assert_type(shout("hello"), str)
loud: Activity[[str], object] = shout
assert_type(charge.options(retry=3, timeout=timedelta(hours=1))(Order("1"), tip=1), Receipt)


# -- workflows, in every way of writing -------------------------------------------------------------------------


@workflow
def generator(ctx: Context, order: Order) -> Flow[Receipt]:
    receipt = yield from ctx.call_activity(charge, order, tip=0.5)
    assert_type(receipt, Receipt)
    assert_type((yield from ctx.call_activity(count, ["a", "b"])), int)
    assert_type((yield from ctx.call_activity(book, order, nights=2)), Receipt)
    assert_type((yield from ctx.call_activity(book_later, order, nights=2)), Receipt)
    assert_type((yield from ctx.call_activity(refund, order)), None)
    assert_type((yield from ctx.call_activity(measure, 1.0, 2.0, unit="km")), dict[str, float])
    assert_type((yield from ctx.call_activity(shout, "hello")), str)
    assert_type((yield from ctx.call_activity(charge.options(retry=9), order)), Receipt)
    assert_type((yield ctx.call_activity(charge, order)), Any)
    return receipt


@workflow
def spelled_out(ctx: Context, order: Order) -> Generator[Any, Any, Receipt]:  # what Flow[Receipt] stands for
    return (yield from ctx.call_activity(charge, order))


@workflow
async def coroutine(ctx: Context, order: Order, times: int = 1) -> Receipt:
    receipt = await ctx.call_activity(charge, order)
    assert_type(receipt, Receipt)
    assert_type(await ctx.call_activity(refund, order), None)
    return receipt


@workflow
def plain(ctx: Context, x: int) -> str:
    ctx.call_activity(count, ["a"])
    return str(x)


@workflow(version=2, timeout=timedelta(days=1))
def with_options(ctx: Context, x: int) -> Flow[list[int]]:
    yield from ctx.sleep(1)
    return [x]


@workflow(name="with options too")
async def with_options_too(ctx: Context) -> None: ...


@workflow(name="plain too")
def plain_with_options(ctx: Context, *, flag: bool = False) -> bool:
    return flag


async def starting(engine: Engine) -> None:
    order = Order("1")
    assert_type(await engine.start(generator, order), Handle[Receipt])
    assert_type(await engine.start(spelled_out, order), Handle[Receipt])
    assert_type(await engine.start(coroutine, order, times=2), Handle[Receipt])
    assert_type(await engine.start(plain, 5), Handle[str])
    assert_type(await engine.start(with_options, 5), Handle[list[int]])
    assert_type(await engine.start(with_options_too), Handle[None])
    assert_type(await engine.start(plain_with_options, flag=True), Handle[bool])
    handle = await engine.start(generator.options(instance_id="order-1", tags={"a": "b"}), order)
    assert_type(handle, Handle[Receipt])
    assert_type(await handle.result(), Receipt)
    assert_type(await handle.result(timeout=5), Receipt)
    assert_type(engine.handle("order-1", generator), Handle[Receipt])
    assert_type(engine.handle("order-1"), Handle[Any])
    await engine.raise_event("order-1", "approved", {"by": "me"})


async def many(client: Client) -> None:
    report = await client.bulk("suspend", workflow=plain, status=[Status.RUNNING], tags={"a": "b"}, dry_run=True)
    assert_type(report, BulkReport)
    assert_type(await client.export_instances("file", ["a"]), ExportReport)
    assert_type(await client.import_instances("file", active=True), ImportReport)
    assert_type([line async for line in client.export_lines(id_prefix="a")], list[str])


def many_too(client: BlockingClient) -> None:
    assert_type(client.bulk("purge", id_prefix="a"), BulkReport)
    assert_type(list(client.export_lines(["a"])), list[str])


def running(engine: Engine) -> None:
    assert_type(engine.run(generator, Order("1")), Receipt)
    assert_type(engine.run(coroutine, Order("1"), times=3), Receipt)
    assert_type(engine.run(plain, 1), str)
    assert_type(engine.run(with_options_too), None)


kept: Workflow[[int], str] = plain


# -- the context ------------------------------------------------------------------------------------------------


async def branch(ctx: Context, order: Order) -> Receipt:
    return await ctx.call_activity(charge, order)


def branch_too(ctx: Context) -> Flow[int]:
    return (yield from ctx.call_activity(count, []))


async def waiting(ctx: Context, order: Order) -> None:
    a, b, c = ctx.call_activity(charge, order), ctx.call_activity(count, ["a"]), ctx.sleep(1)
    assert_type(a, Task[Receipt])
    assert_type(c, Task[None])
    assert_type(await ctx.when_all(a, b), tuple[Receipt, int])
    assert_type(await ctx.when_all(a, b, c), tuple[Receipt, int, None])
    assert_type(await ctx.when_all(a, b, c, b), tuple[Receipt, int, None, int])
    assert_type(await ctx.when_all(a, b, c, b, a), tuple[Receipt, int, None, int, Receipt])
    assert_type(await ctx.when_all(a), tuple[Receipt])
    assert_type(await ctx.when_all([b, b]), list[int])
    assert_type(await ctx.when_all(ctx.call_activity(count, []) for _ in range(3)), list[int])
    assert_type(await ctx.when_all(*[b, b, b]), tuple[int, ...])
    winner = await ctx.when_any([b, b])
    assert_type(winner, Task[int])
    assert_type(winner.result(), int)
    assert_type(await ctx.when_any(a), Task[Receipt])
    assert_type((await ctx.when_any(b, b)).cancel(), bool)
    assert_type(await ctx.spawn(branch(ctx, order)), Receipt)
    assert_type(await ctx.spawn(branch_too(ctx)), int)
    nested = await ctx.when_all(ctx.when_all(a, b), ctx.spawn(branch_too(ctx)))
    assert_type(nested, tuple[tuple[Receipt, int], int])


async def undo(ctx: Context, order: Order, *, gently: bool = True) -> None: ...


def undo_too(ctx: Context, order: Order) -> Flow[int]:
    return (yield from ctx.call_activity(count, []))


async def undoing(ctx: Context, order: Order) -> None:
    async with ctx.saga(parallel=True) as saga:
        assert_type(saga, Saga)
        assert_type(saga.compensate_with(refund, order), Compensation)
        assert_type(saga.compensate_with(refund.options(retry=9), order=order), Compensation)
        saga.compensate_with(charge, order, tip=1)
        saga.compensate_with(measure, 1.0, 2.0, unit="km")
        saga.compensate_with(undo, ctx, order, gently=False)
        saga.compensate_with(undo_too, ctx, order)
        task = saga.compensate_with(refund, order).after(ctx.call_activity(charge, order))
        assert_type(task, Task[Receipt])
        assert_type(await task, Receipt)
        assert_type(await saga.compensate(), None)
        assert_type(saga.compensate_with(refund, order).discard(), bool)
        async with ctx.saga(on_failure="stop", part_of=saga) as inner:
            inner.keep()


def guarding(ctx: Context, order: Order) -> Flow[None]:
    saga = ctx.saga()
    assert_type((yield from saga.guard(branch(ctx, order))), Receipt)
    assert_type((yield from ctx.saga().guard(branch_too(ctx))), int)
    assert_type(ctx.spawn(ctx.saga().guard(branch_too(ctx))), Task[int])
    assert_type((yield from saga.compensate()), None)


async def events(ctx: Context) -> None:
    assert_type(await ctx.wait_for_event("approved", bool), bool)
    assert_type(await ctx.wait_for_event("approved", bool, timeout=5), bool)
    assert_type(await ctx.wait_for_event("approved", list[Order], timeout=timedelta(days=2)), list[Order])
    assert_type(await ctx.wait_for_event("approved"), Any)
    _: bool | None = await ctx.wait_for_event("approved", bool | None)
    assert_type(await ctx.call_activity_by_name("elsewhere", 1, "two"), Any)
    assert_type(await ctx.call_activity_by_name("elsewhere", result_type=Receipt), Receipt)


async def unions(ctx: Context) -> Receipt | None:
    return await ctx.call_activity_by_name("elsewhere", result_type=Receipt | None, retry=3)


async def knowing(ctx: Context) -> None:
    assert_type(ctx.now(), datetime)
    assert_type(ctx.uuid4(), uuid.UUID)
    assert_type(ctx.random(), random.Random)
    assert_type(ctx.side_effect(lambda: 5), int)
    assert_type(ctx.instance_id, str)
    assert_type(ctx.is_cancelled, bool)
    assert_type(ctx.set_custom_status([1]), None)
    assert_type(ctx.patched("check"), bool)
    assert_type(await ctx.create_timer(ctx.now() + timedelta(days=1)), None)


async def scheduling(engine: Engine) -> None:
    assert_type(await engine.schedules.create("s", Cron("0 0 * * *"), plain, 5), ScheduleView)
    assert_type(await engine.schedules.trigger("s"), str)
    assert_type(slot_of("s/2026-01-01T00:00:00Z"), datetime | None)


def attempting() -> None:
    assert_type(activity_context(), ActivityContext)
    assert_type(activity_context().attempt, int)
    assert_type(activity_context().heartbeat_details, Any)


# -- others, rounds, requests -------------------------------------------------------------------------------------


async def with_others(ctx: Context, order: Order) -> None:
    child = ctx.call_workflow(generator, order)
    assert_type(child, ChildTask[Receipt])
    assert_type(child.child_id, str)
    assert_type(await child, Receipt)
    assert_type(await ctx.call_workflow(plain.options(parent_close="abandon", retry=3), 5), str)
    assert_type(await ctx.when_all(child, ctx.call_workflow(plain, 5), ctx.sleep(1)), tuple[Receipt, str, None])
    assert_type(await ctx.when_any([ctx.call_workflow(plain, n) for n in range(3)]), Task[str])
    assert_type(await ctx.call_workflow_by_name("elsewhere", 1, result_type=Receipt, version=2), Receipt)
    assert_type(await ctx.call_workflow_by_name("elsewhere", 1, "two", parent_close="cancel"), Any)
    assert_type(await ctx.raise_event("o-1", "approved", order, event_id="1"), None)
    other = ctx.handle("o-1")
    assert_type(other.cancel("why"), Task[None])
    assert_type(await other.terminate(), None)
    assert_type(ctx.parent_instance_id, str | None)


def with_others_too(ctx: Context, order: Order) -> Flow[Receipt]:
    return (yield from ctx.call_workflow(generator, order))


@workflow
async def round_by_round(ctx: Context, cursor: int) -> int:
    state = ctx.restore(Order)
    assert_type(state, Order | None)
    assert_type(ctx.restore(list[int]), list[int] | None)
    assert_type(ctx.checkpoint(state), None)
    if cursor > 5:
        return cursor
    return ctx.continue_as_new(cursor + 1)


@workflow
def round_by_round_too(ctx: Context, cursor: int) -> Flow[int]:
    yield from ctx.sleep(1)
    if cursor > 5:
        return cursor
    ctx.continue_as_new(round_by_round_too, cursor=cursor + 1)


async def never_comes_back(ctx: Context) -> str:
    assert_type(ctx.continue_as_new(1), NoReturn)


async def answering(ctx: Context) -> None:
    @ctx.on_request("add", validate=len)
    async def add(item: str) -> int:
        return len(item)

    assert_type(await add("x"), int)

    @ctx.on_query("items")
    def items() -> list[str]:
        return []

    assert_type(items(), list[str])


async def asking(engine: Engine, client: Client) -> None:
    handle = await engine.start(plain, 5)
    for asker in (engine, client):
        assert_type(await asker.request("o-1", "add", "lamp", result_type=int, request_id="1", timeout=5), int)
        assert_type(await asker.request("o-1", "add", "lamp"), Any)
        assert_type(await asker.query("o-1", "items", result_type=list[str], workflow=plain), list[str])
        assert_type(await asker.query("o-1", "items"), Any)
    assert_type(await handle.request("add", "lamp", result_type=int), int)
    assert_type(await handle.query("items", result_type=list[str]), list[str])
    assert_type(await handle.rewind(force=True, timeout=60, reason="mended"), None)
    assert_type(await (await handle.fork(at=5)).result(), str)
    assert_type(await (await handle.restart()).result(), str)
    assert_type(await engine.fork("o-1", at=5, new_id="o-2", version=2), Handle[Any])
