"""Starts and events in the user's own transaction on Postgres: sent when it commits, and only then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from durableflow import (
    AsyncOutbox,
    Client,
    Context,
    Engine,
    InstanceExists,
    InstanceNotActive,
    InstanceNotFound,
    Outbox,
    PayloadError,
    PayloadTooLarge,
    UsageError,
    workflow,
)
from durableflow.errors import SchemaMismatch
from durableflow.testing.postgres import PostgresServer


@dataclass
class Order:
    item: str


@workflow
async def sell(ctx: Context, order: Order) -> str:
    return f"{order.item} for {await ctx.wait_for_event('paid', int)}"


@workflow
async def other(ctx: Context) -> None: ...


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    url = await asyncio.to_thread(postgres.create_database)
    async with Client(url):
        return url


@pytest.fixture
async def db(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    await connection.execute("create table orders (item text)")
    yield connection
    await connection.close()


async def ids(url: str) -> set[str]:
    async with Client(url) as client:
        return {each.instance_id for each in (await client.list()).instances}


async def test_a_start_is_sent_with_the_rows_of_its_transaction(url: str, db: asyncpg.Connection) -> None:
    async with Engine(url, workflows=[sell], activities=[]) as engine:
        async with db.transaction():
            await db.execute("insert into orders values ('lamp')")
            outbox = AsyncOutbox(db, hint=True)
            started = await outbox.start(sell.options(tags={"of": "Ada"}), Order("lamp"))
            await outbox.raise_event(started, "Paid", 7)
            assert (await engine.list()).instances == []
        assert await engine.result(started) == "lamp for 7"
        assert (await engine.status(started)).tags == {"of": "Ada"}
    assert await db.fetchval("select count(*) from orders") == 1


@pytest.mark.slow  # nobody says anything: the engine looks once a second
async def test_without_a_hint_the_engine_finds_it_when_it_looks(url: str, db: asyncpg.Connection) -> None:
    words: list[str] = []
    listener = await asyncpg.connect(url)
    async with Engine(url, workflows=[sell], activities=[]) as engine:
        await listener.add_listener("durableflow_durableflow", lambda *heard: words.extend(heard[-1].split()))
        async with db.transaction():
            await AsyncOutbox(db).start(sell.options(instance_id="a"), Order("lamp"))
            await AsyncOutbox(db).raise_event("a", "paid", 1)
        async with asyncio.timeout(5):
            assert await engine.result("a") == "lamp for 1"
        assert [word for word in words if word.startswith("w")] == []
    await listener.close()


async def start_and_fail(db: asyncpg.Connection, instance_id: str) -> None:
    async with db.transaction():
        await AsyncOutbox(db).start(sell.options(instance_id=instance_id), Order("lamp"))
        raise ZeroDivisionError


async def test_what_is_rolled_back_was_never_sent(url: str, db: asyncpg.Connection) -> None:
    with pytest.raises(ZeroDivisionError):
        await start_and_fail(db, "a")
    async with db.transaction():
        with pytest.raises(ZeroDivisionError):
            await start_and_fail(db, "b")
        await AsyncOutbox(db).start(sell.options(instance_id="c"), Order("lamp"))
    assert await ids(url) == {"c"}


async def test_without_a_transaction_it_is_refused(url: str, db: asyncpg.Connection) -> None:
    outbox = AsyncOutbox(db)
    with pytest.raises(UsageError, match=r"async with connection\.transaction\(\)"):
        await outbox.start(sell.options(instance_id="a"), Order("lamp"))
    await db.execute("begin")
    await outbox.start(sell.options(instance_id="a"), Order("lamp"))
    assert await ids(url) == set()
    await db.execute("commit")
    assert await ids(url) == {"a"}


async def test_a_start_with_an_id_that_is_taken_does_what_its_options_say(url: str, db: asyncpg.Connection) -> None:
    """And the transaction goes on."""
    outbox = AsyncOutbox(db)
    async with db.transaction():
        assert await outbox.start(sell.options(instance_id="a"), Order("lamp")) == "a"
        assert await outbox.start(sell.options(instance_id="a"), Order("lamp")) == "a"
        for taken in ("fail", "replace"):
            with pytest.raises(InstanceExists):
                await outbox.start(sell.options(instance_id="a", on_conflict=taken), Order("lamp"))
        with pytest.raises(InstanceExists, match="'sell', not 'other'"):
            await outbox.start(other.options(instance_id="a"))
    async with Client(url) as client:
        assert len(await client._backend.inbox(0, 10)) == 1


async def test_an_event_is_refused_by_who_cannot_take_it(url: str, db: asyncpg.Connection) -> None:
    outbox = AsyncOutbox(db)
    async with Engine(url, workflows=[other], activities=[]) as engine:
        handle = await engine.start(other)
        await handle.result()
        async with db.transaction():
            with pytest.raises(InstanceNotFound):
                await outbox.raise_event("nobody", "paid", 1)
            with pytest.raises(InstanceNotActive, match="COMPLETED"):
                await outbox.raise_event(handle.id, "paid", 1)
            await db.execute("insert into orders values ('goes on')")


async def test_an_event_with_an_id_is_delivered_once(url: str, db: asyncpg.Connection) -> None:
    outbox = AsyncOutbox(db)
    async with db.transaction():
        await outbox.start(sell.options(instance_id="a"), Order("lamp"))
        for amount in (7, 8):
            await outbox.raise_event("a", "paid", amount, event_id="payment")
    async with Engine(url, workflows=[sell], activities=[]) as engine:
        assert await engine.result("a") == "lamp for 7"


async def test_values_that_cannot_be_stored_are_refused_before_anything_is_written(
    url: str, db: asyncpg.Connection
) -> None:
    outbox = AsyncOutbox(db, payload_limit_bytes=100)
    wrong: Any = float("nan")
    async with db.transaction():
        with pytest.raises(PayloadError):
            await outbox.start(sell, wrong)
        with pytest.raises(PayloadTooLarge):
            await outbox.start(sell, Order("x" * 100))
        with pytest.raises(UsageError, match="the name of an event"):
            await outbox.raise_event("a", "")
    assert await ids(url) == set()


async def test_the_owner_of_the_connection_may_see_rows_in_any_way(url: str) -> None:
    """A pooled connection, with a codec for JSON and records of its own."""

    class Row(asyncpg.Record):
        def __getattr__(self, name: str) -> Any:
            return self[name]

    async def prepare(connection: asyncpg.Connection) -> None:
        for kind in ("json", "jsonb"):
            await connection.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

    async with (
        asyncpg.create_pool(url, min_size=1, max_size=1, init=prepare, record_class=Row) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        outbox = AsyncOutbox(connection)
        for _ in range(2):
            await outbox.start(sell.options(instance_id="a", tags={"of": "Ada"}), Order("lamp"))
        await outbox.raise_event("a", "paid", 1)
    async with Client(url) as client:
        assert (await client.status("a")).tags == {"of": "Ada"}


async def test_what_is_no_store_or_no_connection_is_told(postgres: PostgresServer, db: asyncpg.Connection) -> None:
    empty = await asyncpg.connect(await asyncio.to_thread(postgres.create_database))
    async with empty.transaction():
        with pytest.raises(UsageError, match="no store in schema"):
            await AsyncOutbox(empty).start(other)
    await empty.close()
    async with db.transaction():
        with pytest.raises(UsageError, match='no store in schema "elsewhere"'):
            await AsyncOutbox(db, schema="elsewhere").start(other)
    wrong: Any = object()
    with pytest.raises(UsageError, match="a connection of asyncpg"):
        AsyncOutbox(wrong)
    wrong = db
    with pytest.raises(UsageError, match=r"AsyncOutbox\(connection\)"):
        Outbox(wrong)


@pytest.mark.parametrize(("version", "words"), [(0, "older durableflow"), (10_000, "newer durableflow")])
async def test_a_store_of_another_version_is_refused(db: asyncpg.Connection, version: int, words: str) -> None:
    await db.execute(f"update durableflow.schema_version set version = {version}")
    async with db.transaction():
        with pytest.raises(SchemaMismatch, match=words):
            await AsyncOutbox(db).start(other)


async def test_a_store_in_a_schema_of_its_own_is_written_to_there(postgres: PostgresServer) -> None:
    url = await asyncio.to_thread(postgres.create_database)
    db = await asyncpg.connect(url)
    async with Engine(f"{url}?schema=it's%20mine", workflows=[sell], activities=[]) as engine:
        async with db.transaction():
            outbox = AsyncOutbox(db, schema="it's mine", hint=True)
            await outbox.start(sell.options(instance_id="a"), Order("lamp"))
            await outbox.raise_event("a", "paid", 1)
        assert await engine.result("a") == "lamp for 1"
    await db.close()


async def test_an_instance_that_is_over_can_be_replaced(url: str, db: asyncpg.Connection) -> None:
    async with Engine(url, workflows=[other, sell], activities=[]) as engine:
        await (await engine.start(other.options(instance_id="a"))).result()
    async with db.transaction():
        await AsyncOutbox(db).start(sell.options(instance_id="a", on_conflict="replace"), Order("lamp"))
        await AsyncOutbox(db).raise_event("a", "paid", 2)
    async with Engine(url, workflows=[other, sell], activities=[]) as engine:
        assert await engine.result("a") == "lamp for 2"
