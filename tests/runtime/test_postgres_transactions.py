"""Transactional activities on Postgres: async functions, several at once, and each row there exactly once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from durableflow import (
    ActivityFailed,
    AsyncOutbox,
    Client,
    Context,
    Engine,
    InstanceExists,
    NonRetryableError,
    RetryPolicy,
    Settings,
    Status,
    activity,
    activity_context,
    workflow,
)
from durableflow.backends.postgres import PostgresBackend
from durableflow.errors import StorageError
from durableflow.model import events as ev
from durableflow.runtime import transactions
from durableflow.testing.postgres import PostgresServer


class Town:
    """A store, and the user's table beside it."""

    def __init__(self, url: str, db: asyncpg.Connection) -> None:
        self.url = url
        self.db = db

    def engine(self, backend: PostgresBackend | None = None, **options: Any) -> Engine:
        return Engine(backend or PostgresBackend(self.url), **options)

    async def bookings(self) -> list[str]:
        return [who for (who,) in await self.db.fetch("select who from bookings order by who")]


@pytest.fixture
async def town(postgres: PostgresServer) -> AsyncIterator[Town]:
    url = await asyncio.to_thread(postgres.create_database)
    db = await asyncpg.connect(url)
    await db.execute("create table bookings (who text)")
    yield Town(url, db)
    await db.close()


def booker(called: list[int], after: Callable[[Any], Any] | None = None, **options: Any) -> Any:
    """An activity that books, and notes its attempts; `after` is called and awaited when it has written."""

    @activity(transactional=True, **options)
    async def book(db: asyncpg.Connection, who: str) -> int:
        called.append(activity_context().attempt)
        await db.execute("insert into bookings values ($1)", who)
        if after is not None:
            await after(db)
        count: int = await db.fetchval("select count(*) from bookings")
        return count

    return book


def trip(book: Any) -> Any:
    @workflow
    async def trip(ctx: Context, who: str) -> Any:
        try:
            return await ctx.call_activity(book, who)
        except ActivityFailed as error:
            return [error.type_name, error.message, error.attempts]

    return trip


async def kinds(engine: Engine, instance_id: str) -> list[str]:
    return [entry.kind for entry in await engine.history(instance_id)]


async def test_rows_and_result_are_there_together(town: Town) -> None:
    called: list[int] = []
    async with town.engine() as engine:
        flow = trip(booker(called))
        handles = [await engine.start(flow.options(instance_id=who), who) for who in "abc"]
        assert all(await asyncio.gather(*(handle.result() for handle in handles)))
        assert await kinds(engine, "a") == [
            "instance_started", "activity_scheduled", "activity_completed", "instance_completed",
        ]  # fmt: skip
        assert await engine._backend.inbox(0, 10) == []
    assert (await town.bookings(), called) == (["a", "b", "c"], [1, 1, 1])


async def test_what_it_raises_takes_its_rows_back_and_is_a_failed_attempt(town: Town) -> None:
    called: list[int] = []

    async def fail(_: Any) -> None:
        if len(called) == 1:
            raise ValueError("not yet")
        raise NonRetryableError("sold out")

    async with town.engine() as engine:
        handle = await engine.start(trip(booker(called, fail, retry=5)), "a")
        assert await handle.result() == ["durableflow.errors.NonRetryableError", "sold out", 2]
        assert "attempt_failed" in await kinds(engine, handle.id)
    assert (await town.bookings(), called) == ([], [1, 2])


async def test_what_the_server_refuses_is_the_drivers_error(town: Town) -> None:
    async def fail(db: Any) -> None:
        await db.execute("select * from nowhere")

    async with town.engine() as engine:
        handle = await engine.start(trip(booker([], fail, retry=1)), "a")
        type_name, message, _ = await handle.result()
    assert (type_name, message) == ("asyncpg.exceptions.UndefinedTableError", 'relation "nowhere" does not exist')


async def test_several_are_under_way_at_once(town: Town) -> None:
    met = asyncio.Barrier(4)

    async def meet(_: Any) -> None:
        await met.wait()

    async with town.engine() as engine:
        flow = trip(booker([], meet))
        handles = [await engine.start(flow, who) for who in "abcd"]
        async with asyncio.timeout(10):
            assert await asyncio.gather(*(handle.result() for handle in handles))
    assert await town.bookings() == [*"abcd"]


async def test_one_that_times_out_is_interrupted_and_writes_nothing(town: Town) -> None:
    called: list[int] = []
    interrupted: list[int] = []

    async def hang(db: Any) -> None:
        if len(called) == 1:
            try:
                await db.execute("select pg_sleep(30)")
            except asyncio.CancelledError:
                interrupted.append(1)
                raise

    async with town.engine() as engine, asyncio.timeout(60):
        handle = await engine.start(trip(booker(called, hang, timeout=1, retry=2)), "a")
        assert await handle.result() == 1
    assert (await town.bookings(), called, interrupted) == (["a"], [1, 2], [1])


async def test_one_that_ignores_its_interruption_writes_nothing_all_the_same(town: Town) -> None:
    called: list[int] = []

    async def ignore(_: Any) -> None:
        if len(called) == 1:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)

    async with town.engine() as engine, asyncio.timeout(60):
        handle = await engine.start(trip(booker(called, ignore, timeout=1, retry=2)), "a")
        await handle.result()
    assert (await town.bookings(), called) == (["a"], [1, 2])


async def test_a_cancellation_of_its_own_making_is_a_failed_attempt(town: Town) -> None:
    called: list[int] = []

    async def stop_once(_: Any) -> None:
        if len(called) == 1:
            raise asyncio.CancelledError

    async with town.engine() as engine:
        flow = trip(booker(called, stop_once, retry=1))
        first, second = await (await engine.start(flow, "a")).result(), await (await engine.start(flow, "b")).result()
    assert (first[0], second) == ("asyncio.exceptions.CancelledError", 1)
    assert await town.bookings() == ["b"]


async def test_one_that_is_told_to_stop_before_its_first_step_was_never_called(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is there a coroutine that nobody awaits: the interpreter would warn of it."""
    called: list[int] = []
    stopped: list[bool] = []

    def stopped_at_once(*args: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(*args, **options)
        if not stopped:
            stopped.append(task.cancel())
        return task

    monkeypatch.setattr(transactions, "asyncio", SimpleNamespace(Task=stopped_at_once))
    async with town.engine() as engine, asyncio.timeout(10):
        flow = trip(booker(called, retry=RetryPolicy(max_attempts=2, initial=0.01)))
        assert await (await engine.start(flow, "a")).result() == 1
    assert (stopped, called) == ([True], [2])
    assert await town.bookings() == ["a"]


@pytest.mark.slow
async def test_a_deadlock_is_made_again_and_does_not_count(town: Town) -> None:
    await town.db.execute("create table accounts (name text primary key, cents integer)")
    await town.db.execute("insert into accounts values ('x', 0), ('y', 0)")
    met = asyncio.Barrier(2)
    called: list[int] = []

    @activity(transactional=True, retry=1)
    async def move(db: asyncpg.Connection, giver: str, taker: str) -> None:
        called.append(activity_context().attempt)
        await db.execute("update accounts set cents = cents - 1 where name = $1", giver)
        if activity_context().attempt == 1:
            await met.wait()
        await db.execute("update accounts set cents = cents + 1 where name = $1", taker)

    @workflow
    async def pay(ctx: Context, giver: str, taker: str) -> None:
        await ctx.call_activity(move, giver, taker)

    async with town.engine() as engine:
        handles = [await engine.start(pay, "x", "y"), await engine.start(pay, "y", "x")]
        await asyncio.gather(*(handle.result() for handle in handles))
    assert sorted(called) == [1, 1, 2]
    assert await town.db.fetchval("select sum(abs(cents)) from accounts") == 0


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
async def test_a_commit_that_fails_is_looked_up_and_does_not_count(town: Town, moment: str) -> None:
    called: list[int] = []
    faults = [moment]
    backend = PostgresBackend(town.url)

    def hook(now: str) -> None:
        if called and faults and now == moment:
            faults.clear()
            raise StorageError("planted")

    async def plant(_: Any) -> None:
        backend._database.hook = hook

    async with town.engine(backend) as engine:
        handle = await engine.start(trip(booker(called, plant, retry=1)), "a")
        assert await handle.result() == 1
    assert (await town.bookings(), called) == (["a"], [1, 2] if moment == "before commit" else [1])


async def test_one_that_is_being_committed_while_its_instance_is_read_again_counts(town: Town) -> None:
    """Its memory is dropped when the COMMIT is on its way: nobody reads the instance before that is over."""
    await town.db.execute(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.3); return null; end $$"
    )
    await town.db.execute(
        "create constraint trigger slow after insert on bookings deferrable initially deferred "
        "for each row execute function slow()"
    )
    called: list[int] = []
    async with town.engine() as engine:
        handle = await engine.start(trip(booker(called)).options(instance_id="a"), "a")
        worker: Any = engine._worker
        async with asyncio.timeout(10):
            while "a" not in worker.attempts._committing:  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.001)
        live = worker.instances.live["a"]
        worker.instances.keep_answers(live, [], [])
        worker.instances.forget(live, None)
        worker.instances.want("a")
        assert await handle.result() == 1
        assert "attempt_failed" not in await kinds(engine, "a")
        assert await engine._backend.inbox(0, 10) == []
        assert (worker.attempts._committing, worker.attempts._after_commits) == ({}, {})
    assert (await town.bookings(), called) == (["a"], [1])


async def test_closing_interrupts_one_that_runs_and_the_next_engine_makes_it_again(town: Town) -> None:
    called: list[int] = []
    begun = asyncio.Event()

    async def hang(_: Any) -> None:
        if len(called) == 1:
            begun.set()
            await asyncio.sleep(30)

    book = booker(called, hang, retry=1)
    flow = trip(book)
    async with town.engine(settings=Settings(grace_s=0.05)) as engine:
        await engine.start(flow.options(instance_id="a"), "a")
        await begun.wait()
    assert await town.bookings() == []
    async with town.engine(workflows=[flow], activities=[book]) as engine, asyncio.timeout(10):
        assert await engine.result("a") == 1
    assert (await town.bookings(), called) == (["a"], [1, 2])


async def test_a_plain_function_is_refused_with_a_word_on_what_to_write(town: Town) -> None:
    @activity(transactional=True)
    def book(db: Any, who: str) -> None:
        raise AssertionError("it is not called")

    async with town.engine() as engine:
        type_name, message, attempts = await (await engine.start(trip(book), "a")).result()
    assert (type_name, attempts) == ("durableflow.errors.TransactionMisused", 1)
    assert "async def book(db: asyncpg.Connection, ...)" in message


async def test_an_async_function_is_refused_on_a_file(tmp_path: Any) -> None:
    async with Engine(f"sqlite:///{tmp_path}/store.db") as engine:
        handle = await engine.start(trip(booker([])), "a")
        type_name, message, attempts = await handle.result()
    assert (type_name, attempts) == ("durableflow.errors.TransactionMisused", 1)
    assert "def book(db: sqlite3.Connection, ...)" in message


async def test_it_can_start_others_and_raise_events_in_its_transaction(town: Town) -> None:
    """And the engine is told at once, not when it looks next."""

    @workflow
    async def listen(ctx: Context) -> str:
        return await ctx.wait_for_event("news", str)

    @activity(transactional=True, retry=2)
    async def tell(db: asyncpg.Connection, who: str) -> str:
        outbox = AsyncOutbox(db)
        listener = await outbox.start(listen.options(instance_id=f"listener of {who}", tags={"of": who}))
        with pytest.raises(InstanceExists):
            await outbox.start(listen.options(instance_id=listener, on_conflict="fail"))
        await outbox.raise_event(listener, "news", f"{who} was here")
        if activity_context().attempt == 1:
            raise ValueError("all of it is taken back")
        return listener

    async with town.engine(workflows=[listen]) as engine:
        handle = await engine.start(trip(tell), "a")
        assert await engine.result(await handle.result()) == "a was here"
        assert (await engine.status("listener of a")).tags == {"of": "a"}


async def test_to_write_to_the_store_beside_an_outbox_is_refused(town: Town) -> None:
    @activity(transactional=True)
    async def cheat(db: asyncpg.Connection, who: str) -> None:
        await AsyncOutbox(db).start(trip(cheat).options(instance_id="other"), who)
        await db.execute("insert into durableflow.inbox (instance, data) values ('other', '')")

    async with town.engine() as engine:
        type_name, message, _ = await (await engine.start(trip(cheat), "a")).result()
        assert type_name == "durableflow.errors.TransactionMisused"
        assert "durableflow.AsyncOutbox(connection)" in message
        assert (await engine.list(id_prefix="other")).instances == []


def test_forms_that_contradict_their_driver_are_refused_when_they_are_defined() -> None:
    from durableflow.errors import RegistrationError

    async def waits(db: sqlite3.Connection) -> None: ...

    def plain(db: asyncpg.Connection) -> None: ...

    with pytest.raises(RegistrationError, match="write a plain def"):
        activity(transactional=True)(waits)
    with pytest.raises(RegistrationError, match="write async def"):
        activity(transactional=True)(plain)


async def test_a_unit_test_awaits_it_on_a_connection_of_its_own(town: Town) -> None:
    @activity(transactional=True)
    async def book(db: asyncpg.Connection, who: str) -> str:
        return await db.execute("insert into bookings values ($1)", who)

    async with town.db.transaction():
        assert await book.call_on(town.db, "Ada") == "INSERT 0 1"
    assert await town.bookings() == ["Ada"]


async def test_two_workers_share_and_one_that_dies_leaves_no_row_twice(town: Town) -> None:
    """Its attempts are under way when it is declared dead; another worker makes them again."""
    called: list[str] = []
    stuck = asyncio.Event()

    @activity(transactional=True, retry=3)
    async def book(db: asyncpg.Connection, who: str) -> int:
        context = activity_context()
        called.append(f"{who}{context.attempt}")
        await db.execute("insert into bookings values ($1)", f"{who}{context.attempt}")
        if context.attempt == 1:
            await stuck.wait()
        return context.attempt

    flow = trip(book)
    first = town.engine(workflows=[flow], activities=[book])
    async with first as engine, asyncio.timeout(20):
        handles = [await engine.start(flow.options(instance_id=who), who) for who in "abc"]
        while len(called) < 3:  # noqa: ASYNC110  # the same
            await asyncio.sleep(0.01)
        async with town.engine(workflows=[flow], activities=[book]) as other:
            await town.db.execute(
                "delete from durableflow.workers where id = (select min(id) from durableflow.workers)"
            )
            other._backend._hints.tell(["o"])  # type: ignore[attr-defined]  # instead of waiting a second
            async with Client(town.url) as client:
                for each in handles:
                    assert await client.result(each.id) == 2
                    completed = [
                        e.event for e in await client.history(each.id) if isinstance(e.event, ev.ActivityCompleted)
                    ]
                    assert [event.attempt for event in completed] == [2]
                assert (await client.status("a")).status is Status.COMPLETED
            stuck.set()
    assert await town.bookings() == ["a2", "b2", "c2"]
