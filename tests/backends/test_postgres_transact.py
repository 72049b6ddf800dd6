"""What user code may do with the connection that it is lent on Postgres, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest

from durableflow.backends.base import Commit, Lease, Message
from durableflow.backends.postgres import PostgresBackend
from durableflow.backends.postgres.lanes import LANES_MAX
from durableflow.backends.postgres.lent import ends_transaction, first_words
from durableflow.backends.postgres.user_functions import OWN_TABLES
from durableflow.errors import LeaseLost, StorageError, TransactionMisused
from durableflow.testing.contract import an_instance
from durableflow.testing.postgres import PostgresServer

LEASE_US = 60_000_000


class Store:
    """An open store with an instance and a table of the user's."""

    def __init__(self, backend: PostgresBackend, lease: Lease, user: asyncpg.Connection, schema: str) -> None:
        self.backend = backend
        self.lease = lease
        self.user = user
        self.schema = schema

    async def do(self, work: Callable[[Any], Awaitable[object]], lease: Lease | None = None, of: str = "a") -> str:
        async def call(connection: Any, _: Sequence[Message]) -> bytes:
            await work(connection)
            return b"done"

        return (await self.backend.transact(lease or self.lease, of, call)).outcome

    async def rows(self) -> list[int]:
        return [n for (n,) in await self.user.fetch("select n from mine order by n")]

    async def messages(self) -> list[bytes]:
        return [message.data for message in await self.backend.inbox(0, 100)]

    async def sessions(self, state: str) -> int:
        sql = "select count(*) from pg_stat_activity where application_name = 'durableflow activity' and state like $1"
        return int(await self.user.fetchval(sql, state))


async def until(look: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(10):
        while not await look():  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.01)


@pytest.fixture
async def store(postgres: PostgresServer) -> AsyncIterator[Store]:
    url = await asyncio.to_thread(postgres.create_database)
    backend = PostgresBackend(f"{url}?schema=it's%20a%20store")
    await backend.open()
    lease = await backend.acquire("worker", LEASE_US, 0)
    assert lease is not None
    await backend.commit(lease, Commit(new=[an_instance(each) for each in "abc"]))
    user = await asyncpg.connect(url)
    await user.execute("create table mine (n integer primary key, text text)")
    yield Store(backend, lease, user, '"it\'s a store"')
    await user.close()
    await backend.close()


def insert(n: int) -> str:
    return f"insert into mine values ({n}, 'x')"


def says(sql: str) -> Callable[[Any], Awaitable[object]]:
    return lambda db: db.execute(sql.replace("{s}", '"it\'s a store"'))


async def listen(db: Any) -> None:
    await db.add_listener("c", print)


async def close(db: Any) -> None:
    await db.close()


async def swallow(db: Any) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.execute(insert(1))


async def script(db: Any) -> None:
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await db.execute("insert into mine values (7, 'a;b'); commit; insert into mine values (8, '')")


async def by_trigger(db: Any) -> None:
    await db.execute(
        "create function f() returns trigger language plpgsql as "
        """$$ begin delete from "it's a store".inbox; return null; end $$"""
    )
    await db.execute("create trigger t after insert on mine execute function f()")
    await db.execute(insert(8))


async def busy(db: Any) -> None:
    asyncio.ensure_future(_sleep_on(db))  # noqa: RUF006  # the mistake
    await asyncio.sleep(0.02)


async def _sleep_on(db: Any) -> None:
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await db.execute("select pg_sleep(20)")


MISDEEDS: dict[str, Callable[[Any], Awaitable[object]]] = {
    "commit": says("commit"),
    "commented": says(" /* a /* nested */ one */ ; -- and\r cOmMiT"),
    "rollback": says("ROLLBACK"),
    "rollback and chain": says("rollback and chain"),
    "abort": says("abort work"),
    "begin": says("begin"),
    "end": lambda db: db.fetch("END TRANSACTION"),
    "prepared": lambda db: db.prepare("commit"),
    "by cursor": lambda db: db.cursor("commit").fetch(1),
    "two phases": says("prepare /* */ transaction 'x'"),
    "script": script,
    "notifications": listen,
    "close": close,
    "reset": lambda db: db.reset(),
    "own rows": says("insert into {s}.inbox (instance, data) values ('a', '')"),
    "own update": says("update {s}.instances set status = 'FAILED'"),
    "own delete": says("delete from {s}.instances where id = 'b'"),
    "own constraint": says("alter table {s}.alerts add check (kind <> '')"),
    "own column": says("alter table {s}.workers add column mine integer"),
    "own index": says("create index mine_too on {s}.history (at_us)"),
    "own lock": says("select * from {s}.workers for update"),
    "emptied": says("truncate {s}.circuits"),
    "copied": lambda db: db.copy_records_to_table(
        "inbox", schema_name="it's a store", columns=["instance", "data"], records=[("a", b"")]
    ),
    "by trigger": by_trigger,
    "swallowed error": swallow,
    "read only": says("set transaction read only"),
    "at work": busy,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MISDEEDS)
async def test_what_would_break_the_transaction_is_refused_and_nothing_is_written(store: Store, name: str) -> None:
    async def work(db: Any) -> None:
        await db.execute(insert(1))
        await MISDEEDS[name](db)

    with pytest.raises(TransactionMisused) as refusal:
        await store.do(work)
    assert str(refusal.value).startswith("a transactional activity ")
    assert await store.rows() == []
    assert await store.messages() == []
    assert await store.sessions("idle in transaction%") == 0
    await store.do(lambda db: db.execute(insert(2)))
    assert await store.rows() == [2]
    assert await store.messages() == [b"done"]


async def test_a_table_of_the_store_cannot_be_dropped(store: Store) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        await store.do(says("drop table {s}.alerts"))
    assert await store.user.fetchval(f"select count(*) from {store.schema}.alerts") == 0


async def in_a_savepoint(db: Any, *statements: str) -> None:
    async with db.transaction():
        for statement in statements:
            await db.execute(statement)


async def test_savepoints_queries_and_tables_of_ones_own_are_fine(store: Store) -> None:
    async def work(db: Any) -> None:
        assert await db.execute("insert into mine values ($1, $2)", 1, "x") == "INSERT 0 1"
        with pytest.raises(asyncpg.UniqueViolationError):
            await in_a_savepoint(db, insert(9), insert(1))
        await db.execute("savepoint s")
        await db.execute(insert(2))
        await db.execute("rollback work to savepoint s")
        await db.executemany("insert into mine values ($1, $2)", [(3, "x"), (4, "a;b")])
        assert await db.execute("insert into mine values (5, 'c;d') -- ;") == "INSERT 0 1"
        await db.copy_records_to_table("mine", records=[(6, None)])
        assert [row["n"] async for row in db.cursor("select n from mine order by n")] == [1, 3, 4, 5, 6]
        statement = await db.prepare("select text from mine where n = $1")
        assert await statement.fetchval(4) == "a;b"
        await db.execute("create table other (n integer references mine (n))")
        await db.execute("do $$ begin insert into other values (1); end $$;")
        await db.execute("drop table other")
        assert await db.fetchval(f"select count(*) from {store.schema}.instances") == 3
        assert db.is_in_transaction()

    await store.do(work)
    assert await store.rows() == [1, 3, 4, 5, 6]


async def test_temporary_tables_with_the_stores_names_are_no_trap(store: Store) -> None:
    async def work(db: Any) -> None:
        for name in ("workers", "instances", "inbox"):
            await db.execute(f"create temporary table {name} (id bigint, instance text, data bytea)")
        await db.execute(insert(1))

    assert await store.do(work) == "delivered"
    assert (await store.rows(), await store.messages()) == ([1], [b"done"])


async def test_what_is_done_to_a_session_ends_with_the_attempt(store: Store) -> None:
    sessions: list[int] = []

    async def upset(db: Any) -> None:
        sessions.append(db.get_server_pid())
        await db.execute("set search_path = pg_catalog")
        await db.execute("set standard_conforming_strings = off")
        await db.execute("set client_encoding = latin1")
        await db.execute("create temporary table t (n integer)")
        await db.execute("select pg_advisory_lock(7)")

    async def look(db: Any) -> None:
        sessions.append(db.get_server_pid())
        assert await db.fetchval("show search_path") == '"$user", public'
        assert await db.fetchval("show idle_in_transaction_session_timeout") != "0"
        await db.execute("create temporary table t (n integer)")

    assert await store.do(upset, of="a") == "delivered"
    await until(lambda: store.sessions("idle"))
    await store.do(look)
    assert sessions[0] == sessions[1]
    assert await store.user.fetchval("select pg_try_advisory_lock(7)")


async def test_a_connection_that_was_kept_is_of_no_use(store: Store) -> None:
    kept: list[Any] = []

    async def work(db: Any) -> None:
        kept.extend([db, await db.prepare("select 1"), db.transaction()])

    await store.do(work)
    with pytest.raises(TransactionMisused, match="await all that it begins"):
        await kept[0].execute(insert(1))
    await until(lambda: store.sessions("idle"))
    with pytest.raises(asyncpg.InterfaceError):
        await kept[1].fetch()
    with pytest.raises(asyncpg.InterfaceError):
        await kept[2].start()
    assert await store.rows() == []


async def test_a_deferred_constraint_that_fails_is_the_users_error(store: Store) -> None:
    async def work(db: Any) -> None:
        await db.execute("create table child (n integer references mine (n) deferrable initially deferred)")
        await db.execute("insert into child values (9)")

    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await store.do(work)
    assert await store.messages() == []


async def test_several_run_at_once_and_wait_for_nobody(store: Store) -> None:
    """The engine's commits go on, too, and a further one waits for a place."""
    goes_on = asyncio.Event()
    running: list[int] = []

    async def work(db: Any) -> None:
        running.append(await db.fetchval("select pg_backend_pid()"))
        number = len(running)
        await goes_on.wait()
        await db.execute(insert(number))

    async def all_run() -> bool:
        return len(running) == LANES_MAX

    tasks = [asyncio.ensure_future(store.do(work)) for _ in range(LANES_MAX + 1)]
    await until(all_run)
    await store.backend.commit(store.lease, Commit(new=[an_instance("meanwhile")]))
    assert len(set(running)) == LANES_MAX
    goes_on.set()
    assert set(await asyncio.gather(*tasks)) == {"delivered"}
    assert await store.rows() == [*range(1, LANES_MAX + 2)]


# -- who may commit ---------------------------------------------------------------------------------------------------


async def test_a_worker_is_declared_dead_while_its_user_code_runs_and_that_commits_nothing(store: Store) -> None:
    dying = await store.backend.acquire("dying", 1, 0)
    assert dying is not None
    await store.backend.commit(dying, Commit(new=[an_instance("mine")]))

    async def work(db: Any) -> None:
        await db.execute(insert(1))
        async with asyncio.timeout(2):  # it waits for no user code
            assert await store.backend.bury()

    with pytest.raises(LeaseLost):
        await store.do(work, dying, "mine")
    assert (await store.rows(), await store.messages()) == ([], [])


async def test_an_instance_that_was_handed_over_is_told_nothing(store: Store) -> None:
    async def work(db: Any) -> None:
        await db.execute(insert(1))
        await store.backend.hand_over(store.lease, ["a"])

    assert await store.do(work) == "missing"
    assert (await store.rows(), await store.messages()) == ([], [])


async def test_an_instance_that_ends_meanwhile_is_told_nothing(store: Store) -> None:
    from durableflow.model.status import Status
    from durableflow.testing.contract import a_change

    async def work(db: Any) -> None:
        await db.execute(insert(1))
        await store.backend.commit(store.lease, Commit(changes=[a_change("a", Status.TERMINATED)]))

    assert await store.do(work) == "over"
    assert (await store.rows(), await store.messages()) == ([], [])


async def test_the_fence_is_held_by_no_transaction_that_waits(store: Store) -> None:
    """It comes in one message with the COMMIT: nobody sees a session that holds it and idles."""
    seen: list[str] = []

    def hook(moment: str) -> None:
        seen.append(moment)

    async def work(db: Any) -> None:
        sql = (
            "select count(*) from pg_locks l join pg_class c on c.oid = l.relation "
            "where c.relname = 'workers' and l.mode = 'RowShareLock'"
        )
        assert await store.user.fetchval(sql) == 0
        await db.execute(insert(1))

    store.backend._database.hook = hook
    await store.do(work)
    assert seen == ["begin", "before commit", "after commit"]


# -- a server and a network that fail ---------------------------------------------------------------------------------


async def test_a_deadlock_is_the_servers_wish_to_have_it_made_again(store: Store) -> None:
    await store.user.executemany("insert into mine values ($1, '')", [(1,), (2,)])
    met = asyncio.Barrier(2)

    def update(first: int, second: int) -> Callable[[Any], Awaitable[object]]:
        async def work(db: Any) -> None:
            await db.execute("update mine set text = text || 'x' where n = $1", first)
            await met.wait()
            await db.execute("update mine set text = text || 'x' where n = $1", second)

        return work

    results = await asyncio.gather(store.do(update(1, 2)), store.do(update(2, 1), of="b"), return_exceptions=True)
    assert sorted(type(each).__name__ for each in results) == ["StorageError", "str"]
    assert await store.user.fetchval("select string_agg(text, ',') from mine") == "x,x"
    assert await store.messages() == [b"done"]


async def test_a_session_that_is_ended_by_the_server_has_written_nothing(store: Store) -> None:
    async def work(db: Any) -> None:
        await db.execute(insert(1))
        await store.user.execute("select pg_terminate_backend($1)", db.get_server_pid())
        await db.execute(insert(2))

    with pytest.raises(StorageError, match="the connection was lost; nothing was written"):
        await store.do(work)
    assert (await store.rows(), await store.messages()) == ([], [])
    await store.do(lambda db: db.execute(insert(3)))
    assert await store.rows() == [3]


@pytest.mark.slow
async def test_the_locks_of_a_frozen_worker_are_gone_with_its_lease(store: Store) -> None:
    """And user code that does something else for so long is told why its transaction is gone."""
    lease = store.lease._replace(expires_us=0)  # the shortest that is given: a second

    async def work(db: Any) -> None:
        await db.execute(insert(1))
        time.sleep(0.1)  # noqa: ASYNC251  # as a process that stands still
        await asyncio.sleep(2)
        await db.execute(insert(2))

    with pytest.raises(TimeoutError, match=r"asked nothing of its connection for 2.\d s"):
        await store.do(work, lease)
    assert (await store.rows(), await store.messages()) == ([], [])


@pytest.mark.parametrize("arrives", [True, False], ids=["arrived", "did not arrive"])
async def test_a_commit_without_an_answer_is_looked_up(store: Store, arrives: bool) -> None:  # a parameter
    """The server knows of each transaction what became of it, whoever has read and removed its message meanwhile."""

    def hook(moment: str) -> None:
        if moment == ("after commit" if arrives else "before commit"):
            raise ConnectionResetError("planted")

    async def work(db: Any) -> None:
        await db.execute(insert(1))
        store.backend._database.hook = hook

    if arrives:
        assert await store.do(work) == "delivered"
    else:
        with pytest.raises(ConnectionResetError):
            await store.do(work)
    assert (await store.rows(), await store.messages()) == (([1], [b"done"]) if arrives else ([], []))


async def test_a_commit_that_is_still_under_way_is_waited_for(store: Store) -> None:
    """Its connection is lost, but the server works on: to take it for undone would do it twice."""
    await store.user.execute(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.7); return null; end $$"
    )
    await store.user.execute(
        "create constraint trigger slow after insert on mine deferrable initially deferred "
        "for each row execute function slow()"
    )
    lanes: list[Any] = []

    async def work(db: Any) -> None:
        lanes.append(db.take_back())
        db._connection = lanes[0]
        await db.execute(insert(1))

    transacting = asyncio.ensure_future(store.do(work))
    await until(lambda: store.sessions("active"))
    await asyncio.sleep(0.2)
    assert not transacting.done()
    lanes[0].terminate()
    assert await transacting == "delivered"
    assert (await store.rows(), await store.messages()) == ([1], [b"done"])


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "ends"),
    [
        ("commit", True),
        ("  COMMIT;", True),
        (";;commit", True),
        ("-- x\ncommit", True),
        ("--x\rcommit", True),
        ("/* /* */ */commit", True),
        ("/* /* */ commit", False),
        ("rollback to s", False),
        ("ROLLBACK/**/TO/**/SAVEPOINT s", False),
        ("rollback transaction to savepoint s", False),
        ("rollback transaction", True),
        ("prepare transaction 'x'", True),
        ("prepare p as select 1", False),
        ("release s", False),
        ("select 'commit'", False),
        ("commitment", False),
        ("", False),
        ("(select 1)", False),
    ],
)
def test_a_statement_is_known_by_its_first_words(sql: str, *, ends: bool) -> None:
    assert ends_transaction(first_words(sql)) is ends


def test_the_tables_of_the_store_are_known() -> None:
    assert {"workers", "instances", "history", "inbox", "heartbeats", "schema_version"} - {*OWN_TABLES} == {
        "schema_version"
    }
