"""What type checkers must refuse. Each expected error is suppressed; one that stops coming is an error itself."""

import sqlite3
from datetime import datetime
from typing import assert_type

from durableflow import (
    Calendar,
    Context,
    Engine,
    Flow,
    Interval,
    Outbox,
    RetryPolicy,
    Saga,
    Schedule,
    Task,
    activity,
    workflow,
)


@activity
async def charge(order: str, amount: float, *, tip: float = 0) -> int:
    return 1


@activity
def note(text: str) -> None: ...


@activity(transactional=True)
def book(db: sqlite3.Connection, order: str) -> int:
    Outbox(db).start(calls, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return 1


book.call_on("db", "order")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


@activity(transactional=True)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType, reportUntypedFunctionDecorator]
def without_connection(order: str) -> int:
    return 1


def undecorated(text: str) -> None: ...


@workflow
def calls(ctx: Context, order: str) -> Flow[str]:
    yield from ctx.call_activity(charge, 12, 1.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    yield from ctx.call_activity(charge, order, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    yield from ctx.call_activity(charge, order)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    yield from ctx.call_activity(charge, order, 1.0, 2.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    yield from ctx.call_activity(charge, order, 1.0, tip="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    yield from ctx.call_activity(charge, order, 1.0, top=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    yield from ctx.call_activity(book, 12)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    yield from ctx.call_activity(undecorated, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    yield from ctx.call_activity("charge", order)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    result = yield from ctx.call_activity(charge, order, 1.0)
    return result  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


@workflow
async def awaits(ctx: Context, order: str) -> str:
    await ctx.call_activity(charge, order, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.sleep("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.sleep(datetime.now())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # noqa: DTZ005  # the mistake
    await ctx.wait_for_event("e", bool, timeout="soon")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await ctx.when_all(5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.when_any([5])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.spawn(awaits)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return await ctx.call_activity(charge, order, 1.0)  # type: ignore[arg-type]  # pyright: ignore[reportReturnType]


async def undo(ctx: Context, order: str) -> None: ...


async def undoes(ctx: Context, saga: Saga, order: str) -> None:
    saga.compensate_with(note)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    saga.compensate_with(note, 5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    saga.compensate_with(charge, order, "1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    saga.compensate_with(charge, order, 1.0, top=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    saga.compensate_with(undo, ctx)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    saga.compensate_with(undo, ctx, 5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    saga.compensate_with(undecorated, "x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    saga.compensate_with(undo(ctx, order))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    saga.compensate_with(note, "x").after(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ctx.saga(on_failure="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await saga.guard(undo(ctx, order))  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    saga.guard(undo)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with ctx.saga():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass


@workflow
def plain(ctx: Context, n: int) -> int:
    return n


async def starts(engine: Engine) -> None:
    await engine.start(calls, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await engine.start(calls)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await engine.start(awaits, "o", "p")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await engine.start(plain, n="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await engine.start(plain.options(instance_id=5), 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await engine.start(plain.options(on_conflict="ignore"), 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await engine.start(charge, "o", 1.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await engine.start("plain", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    handle = await engine.start(plain, 1)
    assert_type(await handle.result(), str)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]


async def many(engine: Engine) -> None:
    await engine.bulk("explode", id_prefix="a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await engine.bulk("suspend", prefix="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await engine.bulk("suspend", status="RUNNING!")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await engine.export_instances("file", tags={"a": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


async def schedules(engine: Engine) -> None:
    await engine.schedules.create("s", Interval(60), plain, "5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await engine.schedules.put("s", "0 0 * * *", plain, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Schedule(Interval(60), overlap="sometimes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Calendar(weekdays=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def runs(engine: Engine) -> None:
    engine.run(plain, "5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    _: str = engine.run(plain, 5)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


charge.options(retry="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
charge.options(start_to_close=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
RetryPolicy(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
RetryPolicy(attempts=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
note(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@workflow  # type: ignore[arg-type]  # pyright: ignore[reportUntypedFunctionDecorator, reportArgumentType, reportCallIssue]
def no_context(order: str) -> str:
    return order


@workflow(vresion=2)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportUntypedFunctionDecorator, reportCallIssue]
def misspelt(ctx: Context) -> None: ...


def widened(task: Task[int]) -> Task[object]:
    return task


def narrowed(task: Task[object]) -> Task[int]:
    return task  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


@workflow
async def goes_round(ctx: Context, n: int) -> int:
    ctx.call_workflow(plain, "5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ctx.call_workflow(plain)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ctx.call_workflow(plain, 1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ctx.call_workflow(charge, "o", 1.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    ctx.call_workflow("plain", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    ctx.call_workflow(plain.options(parent_close="orphan"), 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ctx.call_activity(plain, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    _: str = await ctx.call_workflow(plain, 1)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    ctx.restore(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ctx.checkpoint()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ctx.raise_event("o")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ctx.on_request("n", validate=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return n


async def asks(engine: Engine) -> None:
    handle = await engine.start(plain, 1)
    await handle.request("add", result_type="int")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await handle.rewind(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    _: str = await handle.query("items", result_type=int)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    await handle.fork(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
