"""What user code may do with the connection of its transaction on SQLite, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from durableflow.backends.base import Commit, Lease, Message
from durableflow.backends.sqlite import SqliteBackend
from durableflow.backends.sqlite.transact import OWN_TABLES, GuardedConnection
from durableflow.errors import StorageError, TransactionMisused
from durableflow.testing.contract import an_instance


class Store:
    """An open store with one instance and a table of the user's."""

    def __init__(self, backend: SqliteBackend, lease: Lease) -> None:
        self.backend = backend
        self.lease = lease

    async def do(self, work: Callable[[sqlite3.Connection], object]) -> None:
        def call(connection: Any, _: Sequence[Message]) -> bytes:
            work(connection)
            return b"done"

        await self.backend.transact(self.lease, "a", call)

    async def rows(self) -> list[int]:
        with sqlite3.connect(self.backend.path) as connection:
            return [n for (n,) in connection.execute("select n from mine order by n")]

    async def messages(self) -> int:
        return len(await self.backend.inbox(0, 100))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    backend = SqliteBackend(tmp_path / "store.db", power_loss_safe=False)
    await backend.open()
    lease = await backend.acquire("worker", 10**9, 0)
    assert lease is not None
    await backend.commit(lease, Commit(new=[an_instance("a")]))
    store = Store(backend, lease)
    await store.do(lambda db: db.execute("create table mine (n integer primary key, text text)"))
    yield store
    await backend.close()


def insert(n: int) -> str:
    return f"insert into mine values ({n}, 'x')"


MISDEEDS: dict[str, Callable[[sqlite3.Connection], object]] = {
    "commit": lambda db: db.commit(),
    "rollback": lambda db: db.rollback(),
    "begin": lambda db: db.execute("begin"),
    "end": lambda db: db.execute("END TRANSACTION"),
    "executescript": lambda db: db.executescript(insert(7)),
    "with": lambda db: db.__enter__() and db.__exit__(None, None, None),
    "isolation level": lambda db: (setattr(db, "isolation_level", ""), setattr(db, "isolation_level", None)),
    "attach": lambda db: db.execute("attach ':memory:' as other"),
    "pragma": lambda db: db.execute("pragma synchronous=off"),
    "pragma that acts": lambda db: db.execute("pragma wal_checkpoint"),
    "schema version": lambda db: db.execute("pragma user_version=0"),
    "own rows": lambda db: db.execute("insert into inbox (instance, data) values ('a', x'00')"),
    "own update": lambda db: db.execute("UPDATE Instances SET status = 'FAILED'"),
    "own delete": lambda db: db.execute("delete from history"),
    "own table": lambda db: db.execute("drop table tags"),
    "own column": lambda db: db.execute("alter table workers add column mine"),
    "own index": lambda db: db.execute("create index mine_too on history (at_us)"),
    "own trigger": lambda db: db.execute("create trigger t after insert on inbox begin select 1; end"),
    "by trigger": lambda db: (
        db.execute("create trigger t after insert on mine begin delete from inbox; end"),
        db.execute(insert(8)),
    ),
    "close": lambda db: db.close(),
}


@pytest.mark.parametrize("name", MISDEEDS)
async def test_what_would_break_the_transaction_is_refused_and_nothing_is_written(store: Store, name: str) -> None:
    before = await store.messages()

    def work(db: sqlite3.Connection) -> None:
        db.execute(insert(1))
        MISDEEDS[name](db)

    with pytest.raises(TransactionMisused) as refusal:
        await store.do(work)
    assert str(refusal.value).startswith("a transactional activity ")
    assert await store.rows() == []
    assert await store.messages() == before
    await store.do(lambda db: db.execute(insert(2)))
    assert await store.rows() == [2]


async def test_a_rollback_by_a_conflict_is_not_followed_by_writes_that_commit_themselves(store: Store) -> None:
    await store.do(lambda db: db.execute(insert(1)))
    before = await store.messages()

    def swallow(db: sqlite3.Connection) -> None:
        db.execute(insert(2))
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("insert or rollback into mine values (1, 'x')")
        db.execute(insert(2))

    def swallow_and_end(db: sqlite3.Connection) -> None:
        db.execute(insert(3))
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("insert or rollback into mine values (1, 'x')")

    for work in (swallow, swallow_and_end):
        with pytest.raises(TransactionMisused, match="roll"):
            await store.do(work)
    assert await store.rows() == [1]
    assert await store.messages() == before


async def test_savepoints_queries_and_tables_of_ones_own_are_fine(store: Store) -> None:
    def work(db: sqlite3.Connection) -> None:
        db.execute(insert(1))
        db.execute("savepoint s")
        db.execute(insert(2))
        db.execute("rollback to s")
        db.execute("release s")
        db.executemany("insert into mine values (?, ?)", [(3, "x"), (4, "y")])
        db.execute("create table other (n references mine (n))")
        db.execute("create index other_n on other (n)")
        db.execute("alter table other add column text")
        db.execute("drop table other")
        assert db.execute("pragma table_info(mine)").fetchall()
        assert db.execute("select count(*) from instances").fetchone() == (1,)
        with pytest.raises(sqlite3.IntegrityError):  # of this statement alone
            db.execute(insert(1))

    await store.do(work)
    assert await store.rows() == [1, 3, 4]


async def test_what_is_done_to_the_connection_ends_with_the_attempt(store: Store) -> None:
    def upset(db: sqlite3.Connection) -> None:
        db.row_factory = sqlite3.Row
        db.text_factory = bytes
        db.isolation_level = "EXCLUSIVE"
        db.set_trace_callback(lambda _: None)
        db.set_progress_handler(lambda: 0, 1)
        db.execute(insert(1))

    await store.do(upset)

    def look(db: sqlite3.Connection) -> None:
        assert (db.row_factory, db.text_factory, db.isolation_level) == (None, str, None)
        assert db.execute("select * from mine").fetchall() == [(1, "x")]

    await store.do(look)


async def test_foreign_keys_are_enforced(store: Store) -> None:
    def work(db: sqlite3.Connection) -> None:
        db.execute("create table child (n references mine (n))")
        db.execute("insert into child values (9)")

    with pytest.raises(sqlite3.IntegrityError):
        await store.do(work)


async def test_a_file_that_another_writes_to_is_waited_for(store: Store) -> None:
    other = sqlite3.connect(store.backend.path, isolation_level=None)
    other.execute("begin immediate")
    calls: list[int] = []
    waiting = asyncio.ensure_future(store.do(lambda db: (calls.append(1), db.execute(insert(1)))))
    await asyncio.sleep(0.05)
    assert calls == []
    other.execute("commit")
    other.close()
    await waiting
    assert (calls, await store.rows()) == ([1], [1])


async def test_user_code_that_says_the_file_is_busy_is_not_called_again(store: Store) -> None:
    calls: list[int] = []

    def work(db: sqlite3.Connection) -> None:
        calls.append(1)
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error

    with pytest.raises(sqlite3.OperationalError, match="locked"):
        await store.do(work)
    assert calls == [1]


async def test_a_store_that_cannot_be_written_to_says_that_nothing_was(store: Store) -> None:
    def work(db: sqlite3.Connection) -> None:
        db.execute(insert(1))
        assert isinstance(db, GuardedConnection)
        with db.guard.lifted():
            db.execute("drop table inbox")

    with pytest.raises(StorageError, match="nothing was written"):
        await store.do(work)
    assert await store.rows() == []


def test_the_tables_of_the_store_are_known() -> None:
    assert {"workers", "instances", "history", "inbox", "heartbeats", "tags"} <= OWN_TABLES
