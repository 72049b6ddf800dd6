"""Starts and events in the user's own transaction: sent when it commits, and only then."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from durableflow import (
    Client,
    Context,
    Engine,
    InstanceExists,
    InstanceNotActive,
    InstanceNotFound,
    Outbox,
    PayloadError,
    PayloadTooLarge,
    Status,
    StorageError,
    UsageError,
    workflow,
)
from durableflow.errors import SchemaMismatch


@dataclass
class Order:
    item: str


@workflow
async def sell(ctx: Context, order: Order) -> str:
    return f"{order.item} for {await ctx.wait_for_event('paid', int)}"


@workflow
async def other(ctx: Context) -> None: ...


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    async with Client(f"sqlite:///{tmp_path / 'store.db'}"):
        return tmp_path / "store.db"


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table orders (item text)")
        yield connection


def insert(db: sqlite3.Connection, item: str = "lamp") -> None:
    db.execute("insert into orders values (?)", (item,))


async def ids(path: Path) -> set[str]:
    async with Client(f"sqlite:///{path}") as client:
        return {each.instance_id for each in (await client.list()).instances}


async def test_a_start_is_sent_with_the_rows_of_its_transaction(path: Path, db: sqlite3.Connection) -> None:
    async with Engine(f"sqlite:///{path}", workflows=[sell], activities=[]) as engine:
        with db:
            insert(db)
            outbox = Outbox(db)
            started = outbox.start(sell.options(tags={"of": "Ada"}), Order("lamp"))
            outbox.raise_event(started, "Paid", 7)
            assert (await engine.list()).instances == []
        assert await engine.result(started) == "lamp for 7"
        assert (await engine.status(started)).tags == {"of": "Ada"}
    assert db.execute("select count(*) from orders").fetchone() == (1,)


async def test_what_is_rolled_back_was_never_sent(path: Path, db: sqlite3.Connection) -> None:
    def fail() -> None:
        with db:
            insert(db)
            Outbox(db).start(sell.options(instance_id="a"), Order("lamp"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert await ids(path) == set()
    assert db.execute("select count(*) from orders").fetchone() == (0,)


async def test_the_outbox_begins_a_transaction_where_sqlite3_would(path: Path, db: sqlite3.Connection) -> None:
    Outbox(db).start(sell.options(instance_id="a"), Order("lamp"))
    assert db.in_transaction
    db.rollback()
    assert await ids(path) == set()


async def test_without_a_transaction_in_autocommit_mode_it_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        outbox = Outbox(db)
        with pytest.raises(UsageError, match="BEGIN IMMEDIATE"):
            outbox.start(sell.options(instance_id="a"), Order("lamp"))
        db.execute("begin immediate")
        outbox.start(sell.options(instance_id="a"), Order("lamp"))
        assert await ids(path) == set()
        db.execute("commit")
    assert await ids(path) == {"a"}


async def test_a_start_with_an_id_that_is_taken_does_what_its_options_say(path: Path, db: sqlite3.Connection) -> None:
    outbox = Outbox(db)
    with db:
        assert outbox.start(sell.options(instance_id="a"), Order("lamp")) == "a"
        assert outbox.start(sell.options(instance_id="a"), Order("lamp")) == "a"
        for taken in (
            sell.options(instance_id="a", on_conflict="fail"),
            sell.options(instance_id="a", on_conflict="replace"),
        ):
            with pytest.raises(InstanceExists):
                outbox.start(taken, Order("lamp"))
        with pytest.raises(InstanceExists, match="'sell', not 'other'"):
            outbox.start(other.options(instance_id="a"))
    async with Client(f"sqlite:///{path}") as client:
        assert len(await client._backend.inbox(0, 10)) == 1


async def test_an_event_is_refused_by_who_cannot_take_it(path: Path, db: sqlite3.Connection) -> None:
    outbox = Outbox(db)
    async with Engine(f"sqlite:///{path}", workflows=[other], activities=[]) as engine:
        handle = await engine.start(other)
        await handle.result()
        with pytest.raises(InstanceNotFound), db:
            outbox.raise_event("nobody", "paid", 1)
        with pytest.raises(InstanceNotActive, match="COMPLETED"), db:
            outbox.raise_event(handle.id, "paid", 1)


async def test_an_event_with_an_id_is_delivered_once(path: Path, db: sqlite3.Connection) -> None:
    outbox = Outbox(db)
    with db:
        outbox.start(sell.options(instance_id="a"), Order("lamp"))
        for amount in (7, 8):
            outbox.raise_event("a", "paid", amount, event_id="payment")
    async with Engine(f"sqlite:///{path}", workflows=[sell], activities=[]) as engine:
        assert await engine.result("a") == "lamp for 7"


async def test_values_that_cannot_be_stored_are_refused_before_anything_is_written(db: sqlite3.Connection) -> None:
    outbox = Outbox(db, payload_limit_bytes=100)
    with pytest.raises(PayloadError):
        outbox.start(sell, float("nan"))  # type: ignore[arg-type]  # the mistake
    with pytest.raises(PayloadTooLarge):
        outbox.start(sell, Order("x" * 100))
    with pytest.raises(UsageError, match="the name of an event"):
        outbox.raise_event("a", "")
    assert not db.in_transaction


async def test_the_owner_of_the_connection_may_see_rows_in_any_way(path: Path, db: sqlite3.Connection) -> None:
    db.row_factory = lambda cursor, row: dict(zip((each[0] for each in cursor.description), row, strict=True))
    db.text_factory = bytes
    factories = db.row_factory, db.text_factory
    with db:
        outbox = Outbox(db)
        outbox.start(sell.options(instance_id="a"), Order("lamp"))
        outbox.start(sell.options(instance_id="a"), Order("lamp"))
        outbox.raise_event("a", "paid", 1)
    assert (db.row_factory, db.text_factory) == factories
    assert await ids(path) == {"a"}


def test_what_is_no_store_or_no_connection_is_told(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mine.db")) as db:
        with pytest.raises(UsageError, match="no store of durableflow"):
            Outbox(db)
        db.execute("pragma user_version=9")
        with pytest.raises(UsageError, match="no store of durableflow"):
            Outbox(db)
    wrapped: Any = object()
    with pytest.raises(UsageError, match=r"sqlite3\.Connection"):
        Outbox(wrapped)


@pytest.mark.parametrize(("version", "words"), [(0, "no store"), (10_000, "newer durableflow")])
async def test_a_store_of_another_version_is_refused(db: sqlite3.Connection, version: int, words: str) -> None:
    db.execute(f"pragma user_version={version}")
    with pytest.raises((SchemaMismatch, UsageError), match=words):
        Outbox(db)


async def test_a_file_that_another_writes_to_is_told_as_such(path: Path, db: sqlite3.Connection) -> None:
    outbox = Outbox(db)
    db.execute("pragma busy_timeout=1")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("begin immediate")
        with pytest.raises(StorageError, match="locked"):
            outbox.start(sell, Order("lamp"))
        assert not db.in_transaction


async def test_a_message_that_half_fails_leaves_nothing_in_the_transaction(path: Path, db: sqlite3.Connection) -> None:
    db.execute("create trigger full before insert on inbox begin select raise(abort, 'planted'); end")
    with db:
        insert(db)
        with pytest.raises(StorageError, match="planted"):
            Outbox(db).start(sell.options(instance_id="a", tags={"k": "v"}), Order("lamp"))
    assert await ids(path) == set()
    assert db.execute("select count(*) from tags").fetchone() == (0,)
    assert db.execute("select count(*) from orders").fetchone() == (1,)


async def test_an_instance_that_is_over_can_be_replaced(path: Path, db: sqlite3.Connection) -> None:
    async with Engine(f"sqlite:///{path}", workflows=[other, sell], activities=[]) as engine:
        handle = await engine.start(other.options(instance_id="a"))
        await handle.result()
        with db:
            Outbox(db).start(sell.options(instance_id="a", on_conflict="replace"), Order("lamp"))
            Outbox(db).raise_event("a", "paid", 2)
        status = await engine.wait_for_status("a", Status.COMPLETED, timeout=5)
        assert status.workflow in {"sell", "other"}
    async with Engine(f"sqlite:///{path}", workflows=[other, sell], activities=[]) as engine:
        assert await engine.result("a") == "lamp for 2"
