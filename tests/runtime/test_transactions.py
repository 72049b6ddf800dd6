"""Transactional activities: the user's rows and the recorded result are there together, or neither is."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    ActivityFailed,
    BlockingEngine,
    Context,
    Engine,
    NonRetryableError,
    Outbox,
    Status,
    WorkflowFailed,
    activity,
    activity_context,
    workflow,
)
from durableflow.backends.base import Outgoing
from durableflow.errors import StorageError
from durableflow.model import events as ev
from durableflow.model.failure import Failure

if TYPE_CHECKING:
    World = Any  # of conftest.py


def booker(called: list[int], *, before: Any = None, after: Any = None, **options: Any) -> Any:
    """An activity that books, and notes its attempts; `before` and `after` are called around the writing."""

    @activity(transactional=True, **options)
    def book(db: sqlite3.Connection, who: str) -> int:
        called.append(activity_context().attempt)
        if before is not None:
            before()
        db.execute("create table if not exists bookings (who text)")
        db.execute("insert into bookings values (?)", (who,))
        if after is not None:
            after()
        return len(db.execute("select * from bookings").fetchall())

    return book


def trip(book: Any) -> Any:
    @workflow
    async def trip(ctx: Context, who: str) -> Any:
        try:
            return await ctx.call_activity(book, who)
        except ActivityFailed as error:
            return [error.type_name, error.message, error.attempts]

    return trip


def bookings(world: World) -> list[str]:
    with sqlite3.connect(world.path) as connection:
        try:
            return [who for (who,) in connection.execute("select who from bookings order by rowid")]
        except sqlite3.OperationalError:  # no table
            return []
        finally:
            connection.rollback()


async def kinds(engine: Engine, instance_id: str) -> list[str]:
    return [entry.kind for entry in await engine.history(instance_id)]


async def test_rows_and_result_are_there_together(sqlite_world: World) -> None:
    called: list[int] = []
    async with sqlite_world.engine() as engine:
        flow = trip(booker(called))
        handles = [await engine.start(flow.options(instance_id=who), who) for who in "abc"]
        assert [await handle.result() for handle in handles] == [1, 2, 3]
        assert await kinds(engine, "a") == [
            "instance_started", "activity_scheduled", "activity_completed", "instance_completed",
        ]  # fmt: skip
        assert await engine._backend.inbox(0, 10) == []
    assert (bookings(sqlite_world), called) == (["a", "b", "c"], [1, 1, 1])


async def test_what_it_raises_takes_its_rows_back_and_is_a_failed_attempt(sqlite_world: World) -> None:
    called: list[int] = []

    def fail_once() -> None:
        if len(called) == 1:
            raise ValueError("not yet")

    async with sqlite_world.engine() as engine:
        handle = await engine.start(trip(booker(called, after=fail_once)).options(instance_id="a"), "a")
        await sqlite_world.advance(1)
        assert await handle.result() == 1
        assert "attempt_failed" in await kinds(engine, "a")
    assert (bookings(sqlite_world), called) == (["a"], [1, 2])


async def test_the_last_failure_is_the_workflows(sqlite_world: World) -> None:
    def fail() -> None:
        raise NonRetryableError("sold out")

    async with sqlite_world.engine() as engine:
        handle = await engine.start(trip(booker([], after=fail)), "a")
        assert await handle.result() == ["durableflow.errors.NonRetryableError", "sold out", 1]
    assert bookings(sqlite_world) == []


async def test_a_row_that_breaks_a_deferred_foreign_key_is_a_failed_attempt(sqlite_world: World) -> None:
    @activity(transactional=True, retry=1)
    def book(db: sqlite3.Connection, who: str) -> None:
        db.execute("create table guests (name text primary key)")
        db.execute("create table stays (who text references guests (name) deferrable initially deferred)")
        db.execute("insert into stays values (?)", (who,))

    async with sqlite_world.engine() as engine:
        handle = await engine.start(trip(book), "a")
        assert await handle.result() == ["sqlite3.IntegrityError", "FOREIGN KEY constraint failed", 1]


async def test_after_a_crash_the_inbox_tells_what_was_committed(sqlite_world: World, faulty_class: Any) -> None:
    called: list[int] = []
    book = booker(called)
    flow = trip(book)
    faulty = faulty_class(sqlite_world.backend())
    engine = await sqlite_world.open(faulty, workflows=[flow])
    await engine.start(flow.options(instance_id="a"), "a")
    faulty.gate.clear()  # the turn that takes the message is never committed
    await sqlite_world.until(lambda: bookings(sqlite_world))
    await sqlite_world.crash(engine)
    async with sqlite_world.engine(workflows=[flow], activities=[book]) as engine:
        assert await engine.result("a") == 1
        assert await engine._backend.inbox(0, 10) == []
    assert (bookings(sqlite_world), called) == (["a"], [1])


async def test_an_attempt_that_timed_out_writes_nothing(sqlite_world: World) -> None:
    called: list[int] = []
    begun, goes_on = threading.Event(), threading.Event()

    def wait_once() -> None:
        if len(called) == 1:
            begun.set()
            goes_on.wait()

    async with sqlite_world.engine() as engine:
        handle = await engine.start(trip(booker(called, after=wait_once, timeout=5)), "a")
        await sqlite_world.until(begun.is_set)
        (attempt,) = sqlite_world.worker(engine).attempts.running
        sqlite_world.clock.move(sqlite_world.clock.now + 5_000_000)
        await sqlite_world.until(lambda: attempt.over)
        goes_on.set()
        await sqlite_world.advance(1)
        assert await handle.result() == 1
    assert (bookings(sqlite_world), called) == (["a"], [1, 2])


async def test_a_time_out_during_the_commit_comes_too_late(sqlite_world: World) -> None:
    called: list[int] = []
    committing, goes_on = threading.Event(), threading.Event()
    backend = sqlite_world.backend()

    def hook(moment: str) -> None:
        if called and moment == "before commit" and not committing.is_set():
            committing.set()
            goes_on.wait()

    async with sqlite_world.engine(backend) as engine:
        backend.hook = hook
        handle = await engine.start(trip(booker(called, timeout=5)).options(instance_id="a"), "a")
        await sqlite_world.until(committing.is_set)
        (attempt,) = sqlite_world.worker(engine).attempts.running
        sqlite_world.worker(engine).attempts.time_out(attempt, "is late")
        assert not attempt.over
        goes_on.set()
        assert await handle.result() == 1
        assert "attempt_failed" not in await kinds(engine, "a")
    assert (bookings(sqlite_world), called) == (["a"], [1])


@pytest.mark.parametrize(("moment", "calls"), [("before commit", [1, 2]), ("after commit", [1])])
async def test_a_commit_that_fails_is_looked_up_and_does_not_count(
    sqlite_world: World, moment: str, calls: list[int]
) -> None:
    called: list[int] = []
    backend = sqlite_world.backend()
    faults = [moment]

    def hook(now: str) -> None:
        if called and faults and now == moment:
            faults.clear()
            raise StorageError("planted")

    async with sqlite_world.engine(backend) as engine:
        backend.hook = hook
        handle = await engine.start(trip(booker(called, retry=1)), "a")
        await sqlite_world.until(lambda: not faults)
        await sqlite_world.advance(1)
        assert await handle.result() == 1
    assert (bookings(sqlite_world), called) == (["a"], calls)


async def test_an_attempt_that_was_given_up_in_the_line_writes_nothing(sqlite_world: World) -> None:
    called: list[int] = []
    begun, goes_on = threading.Event(), threading.Event()

    def wait_once() -> None:
        if len(called) == 1:
            begun.set()
            goes_on.wait()

    async with sqlite_world.engine() as engine:
        flow = trip(booker(called, before=wait_once))
        first, second = await asyncio.gather(*(engine.start(flow.options(instance_id=who), who) for who in "ab"))
        await sqlite_world.until(begun.is_set)
        attempts = sqlite_world.worker(engine).attempts
        (attempt,) = [attempt for attempt in attempts.running if attempt.owner.id == "b"]
        attempts.cancel(attempt, "the test gives it up")
        goes_on.set()
        assert await first.result() == 1
        await sqlite_world.settle()
        assert (await second.status()).status is Status.RUNNING
    assert (bookings(sqlite_world), called) == (["a"], [1])


async def test_closing_waits_for_the_one_that_is_committed(sqlite_world: World) -> None:
    called: list[int] = []
    book = booker(called)
    flow = trip(book)
    committing = threading.Event()
    backend = sqlite_world.backend()

    def hook(moment: str) -> None:
        if called and moment == "before commit" and not committing.is_set():
            committing.set()
            threading.Event().wait(0.1)

    async with sqlite_world.engine(backend, grace_s=0.0) as engine:
        backend.hook = hook
        await engine.start(flow.options(instance_id="a"), "a")
        await sqlite_world.until(committing.is_set)
    async with sqlite_world.engine(workflows=[flow], activities=[book]) as engine:
        assert await engine.result("a") == 1
    assert (bookings(sqlite_world), called) == (["a"], [1])


async def test_of_two_answers_of_one_attempt_the_first_is_the_truth(world: World) -> None:
    called = asyncio.Event()

    @activity
    async def wait(who: str) -> int:
        called.set()
        return await asyncio.Event().wait()

    flow = trip(wait)
    engine = await world.open(workflows=[flow], activities=[wait])
    await engine.start(flow.options(instance_id="a"), "a")
    await called.wait()
    await world.crash(engine)
    backend = world.backend()
    await backend.open()
    lost = ev.AttemptFailed(1, 1, Failure("Interrupted", ""), 0, counts=False)
    await backend.send([Outgoing("a", ev.dump_event(each)) for each in (ev.ActivityCompleted(1, b"7"), lost)])
    await backend.close()
    async with world.engine(workflows=[flow], activities=[wait]) as engine:
        assert await engine.result("a") == 7
        await world.settle()
        assert await engine._backend.inbox(0, 10) == []


async def test_an_activity_without_a_database_fails_at_once_and_says_what_to_do(memory_world: World) -> None:
    called: list[int] = []
    async with memory_world.engine() as engine:
        handle = await engine.start(trip(booker(called)), "a")
        type_name, message, attempts = await handle.result()
    assert (type_name, attempts, called) == ("durableflow.errors.TransactionMisused", 1, [])
    assert "sqlite:///orders.db" in message
    assert "stand-in" in message


async def test_a_commit_inside_is_refused_at_once(sqlite_world: World) -> None:
    @activity(transactional=True)
    def book(db: sqlite3.Connection, who: str) -> None:
        with db:
            db.execute("create table bookings (who text)")

    async with sqlite_world.engine() as engine:
        handle = await engine.start(trip(book), "a")
        type_name, message, attempts = await handle.result()
    assert (type_name, attempts) == ("durableflow.errors.TransactionMisused", 1)
    assert "COMMIT" in message
    assert bookings(sqlite_world) == []


async def test_it_can_start_others_and_raise_events_in_its_transaction(sqlite_world: World) -> None:
    @workflow
    async def listen(ctx: Context) -> str:
        return await ctx.wait_for_event("news", str)

    @activity(transactional=True, retry=2)
    def tell(db: sqlite3.Connection, who: str) -> None:
        outbox = Outbox(db)
        listener = outbox.start(listen.options(instance_id=f"listener of {who}"))
        outbox.raise_event(listener, "news", f"{who} was here")
        if activity_context().attempt == 1:
            raise ValueError("all of it is taken back")

    async with sqlite_world.engine(workflows=[listen]) as engine:
        handle = await engine.start(trip(tell), "a")
        await sqlite_world.settle()
        assert (await engine.list(workflow="listen")).instances == []
        await sqlite_world.advance(1)
        assert await handle.result() is None
        await sqlite_world.until(lambda: True, lambda: _is_there(engine, "listener of a"))
        assert await engine.result("listener of a") == "a was here"


async def _is_there(engine: Engine, instance_id: str) -> bool:
    return bool((await engine.list(id_prefix=instance_id)).instances)


def test_a_blocking_call_inside_is_refused_instead_of_hanging(sqlite_world: World) -> None:
    @workflow
    def nothing(ctx: Context) -> None: ...

    with BlockingEngine(f"sqlite:///{sqlite_world.path}", workflows=[nothing]) as engine:

        @activity(transactional=True, retry=1)
        def book(db: sqlite3.Connection, who: str) -> None:
            engine.start(nothing)

        result: Any = engine.start(trip(book), "a").result(timeout=10)
    assert "durableflow.Outbox" in result[1]


async def test_an_uncaught_failure_fails_the_workflow(sqlite_world: World) -> None:
    @activity(transactional=True, retry=1)
    def book(db: sqlite3.Connection) -> None:
        db.execute("select * from nowhere")

    @workflow
    async def calls(ctx: Context) -> None:
        await ctx.call_activity(book)

    async with sqlite_world.engine() as engine:
        handle = await engine.start(calls)
        with pytest.raises(WorkflowFailed, match="no such table: nowhere"):
            await handle.result()
