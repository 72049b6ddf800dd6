"""What only SQLite can get wrong: files, schemas, processes, a full disk, a COMMIT that does not answer."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from durableflow.backends.base import Commit, Heartbeat, Lease, Outgoing, Query
from durableflow.backends.sqlite import MIGRATIONS, SqliteBackend
from durableflow.backends.sqlite import commit as commit_module
from durableflow.backends.sqlite import thread as thread_module
from durableflow.errors import (
    AppendConflict,
    CommitOutcomeUnknown,
    EngineClosed,
    InstancesExist,
    LeaseLost,
    SchemaMismatch,
    StorageError,
    UsageError,
)
from durableflow.model.status import Status
from durableflow.testing.contract import a_change, a_row, an_instance

LEASE_US = 60_000_000


class Planted(Exception):
    """What a test's hook raises."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SqliteBackend]:
    made = SqliteBackend(path)
    await made.open()
    yield made
    await made.close()


async def lease_of(backend: SqliteBackend) -> Lease:
    lease = await backend.acquire("worker", LEASE_US, 0)
    assert lease is not None
    return lease


def raising_at(moment: str) -> Callable[[str], None]:
    def hook(where: str) -> None:
        if where == moment:
            raise Planted(where)

    return hook


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread is not threading.main_thread()}


async def wait_for_threads_to_end(before: set[str]) -> None:
    async with asyncio.timeout(5):
        while not threads() <= before:  # noqa: ASYNC110  # threads set no events
            await asyncio.sleep(0.002)


def tables_of(path: Path) -> dict[str, list[Any]]:
    """Everything in the file, as another program sees it."""
    with closing(sqlite3.connect(path)) as connection:
        names = [
            name for (name,) in connection.execute("select name from sqlite_master where type = 'table' order by 1")
        ]
        return {name: connection.execute(f"select * from {name} order by 1").fetchall() for name in names}


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ":memory:"])
def test_a_store_without_a_file_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="memory://"):
        SqliteBackend(name)


@pytest.mark.parametrize(
    ("rest", "name", "safe"),
    [
        ("/orders.db", "orders.db", True),
        ("//var/orders.db", "/var/orders.db", True),
        ("/orders.db?power_loss_safe=false", "orders.db", False),
        ("/orders.db?power_loss_safe=TRUE", "orders.db", True),
    ],
)
def test_a_url_names_a_file(rest: str, name: str, safe: bool) -> None:
    made = SqliteBackend.from_url(rest)
    assert (made.path, made.power_loss_safe) == (Path(name).absolute(), safe)


@pytest.mark.parametrize("rest", ["", "/", "orders.db", "/a.db?cache=shared", "/a.db?power_loss_safe=perhaps"])
def test_a_url_that_names_no_file_or_unknown_options_is_refused(rest: str) -> None:
    with pytest.raises(UsageError):
        SqliteBackend.from_url(rest)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    before = threads()
    with pytest.raises(StorageError, match="no-such-folder does not exist"):
        await SqliteBackend(tmp_path / "no-such-folder" / "store.db").open()
    assert threads() <= before


@pytest.fixture
def no_database(path: Path) -> Iterator[Path]:
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    yield path
    assert path.read_bytes().startswith(b"not a database")


async def test_a_file_that_is_no_database_is_left_alone(no_database: Path) -> None:
    before = threads()
    made = SqliteBackend(no_database)
    configure = made._configure
    connections: list[sqlite3.Connection] = []

    def count(connection: sqlite3.Connection) -> None:
        connections.append(connection)
        configure(connection)

    made._configure = count  # type: ignore[method-assign]  # who counts
    with pytest.raises(StorageError, match="not a database"):
        await made.open()
    await wait_for_threads_to_end(before)
    assert len(connections) == 1, "giving up does not try again"


async def test_a_folder_in_which_nothing_can_be_made_is_a_storage_error() -> None:
    before = threads()
    with pytest.raises(StorageError, match="unable to open"):
        await SqliteBackend("/proc/store.db").open()  # nobody, not even root, makes a file there
    await wait_for_threads_to_end(before)


async def test_a_file_that_may_only_be_read_is_a_storage_error_that_says_so(path: Path, backend: SqliteBackend) -> None:
    await backend.close()
    before = threads()
    await backend.open()
    thread = backend._thread
    assert thread is not None
    await thread.call(lambda connection: connection.execute("pragma query_only=1"))
    with pytest.raises(StorageError, match=r"readonly.*nothing was written"):
        await backend.send([Outgoing("a", b"", an_instance("a"))])
    await backend.close()
    await wait_for_threads_to_end(before)


async def test_a_store_is_opened_once_by_an_object(backend: SqliteBackend) -> None:
    with pytest.raises(UsageError, match="open already"):
        await backend.open()
    assert await backend.record("nobody") is None


async def test_what_is_not_open_says_so(path: Path) -> None:
    made = SqliteBackend(path)
    for ask in (made.record("a"), made.inbox(0, 1), made.send([]), made.wait_for_change(0.01), made.load(["a"])):
        with pytest.raises(EngineClosed, match="not open"):
            await ask


async def test_closing_ends_both_threads(tmp_path: Path) -> None:
    before = threads()
    path = tmp_path / "closing.db"  # a name of its own: threads are known by it
    made = SqliteBackend(path)
    await made.open()
    assert await made.list_records(Query()) == []  # the reader's thread is no daemon: it would hang the exit
    assert len(threads() - before) == 2
    await made.close()
    await wait_for_threads_to_end(before)


async def test_a_question_that_is_cancelled_while_it_connects_leaves_no_thread_behind(path: Path) -> None:
    before = threads()
    for rounds in range(12):
        made = SqliteBackend(path)
        await made.open()
        asking = asyncio.ensure_future(made.record("a"))
        for _ in range(rounds):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        await made.close()
    await wait_for_threads_to_end(before)


async def test_cancelling_the_opening_leaves_nothing_open(path: Path) -> None:
    before = threads()
    for rounds in range(6):
        made = SqliteBackend(path)
        opening = asyncio.ensure_future(made.open())
        for _ in range(rounds):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        await made.close()
    await wait_for_threads_to_end(before)


async def test_a_backend_may_be_used_in_one_event_loop_after_the_other(path: Path) -> None:
    made = SqliteBackend(path)

    async def use(number: int) -> int:
        await made.open()
        await made.send([Outgoing(f"{number}", b"", an_instance(f"{number}"))])
        found = await asyncio.gather(*(made.list_records(Query()) for _ in range(20)))
        await made.close()
        return len(found[-1])

    assert [await asyncio.to_thread(lambda n=n: asyncio.run(use(n))) for n in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(("safe", "level"), [(True, 2), (False, 1)])
async def test_a_commit_waits_for_the_disk_unless_told_otherwise(path: Path, safe: bool, level: int) -> None:
    made = SqliteBackend(path, power_loss_safe=safe)
    await made.open()
    assert made._thread is not None
    for pragma, expected in (("journal_mode", "wal"), ("synchronous", level)):
        row = await made._thread.call(
            lambda connection, pragma=pragma: connection.execute(f"pragma {pragma}").fetchone()
        )
        assert row[0] == expected
    await made.close()


# -- schema ----------------------------------------------------------------------------------------------------


async def test_a_newer_schema_is_refused_and_not_touched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table of_the_future (x)")
        connection.execute(f"pragma user_version={len(MIGRATIONS) + 1}")
    before = tables_of(path)
    with pytest.raises(SchemaMismatch, match="upgrade durableflow"):
        await SqliteBackend(path).open()
    assert tables_of(path) == before


STATEMENTS = [statement for script in MIGRATIONS for statement in script.split(";") if statement.strip()]


@pytest.mark.parametrize("crash_at", range(len(STATEMENTS) + 3))
async def test_a_migration_that_breaks_at_any_statement_is_absent(path: Path, crash_at: int) -> None:
    """I47: whole or absent. The statements are counted as SQLite itself sees them."""
    made = SqliteBackend(path)
    seen = 0

    def note(statement: str) -> None:
        nonlocal seen
        if not statement.lower().startswith(("begin", "rollback", "commit", "--")):
            seen += 1

    def configure(connection: sqlite3.Connection) -> None:
        SqliteBackend._configure(made, connection)
        connection.set_trace_callback(note)
        connection.set_progress_handler(lambda: int(seen > crash_at), 1)

    made._configure = configure  # type: ignore[method-assign]  # the connection of this test breaks
    with pytest.raises(StorageError, match="nothing was written"):
        await made.open()
    assert tables_of(path) == {}
    healthy = SqliteBackend(path)
    await healthy.open()
    await lease_of(healthy)
    await healthy.close()


async def test_a_migration_is_made_once_whoever_comes_first(path: Path) -> None:
    opened = [SqliteBackend(path) for _ in range(8)]
    await asyncio.gather(*(each.open() for each in opened))
    await opened[0].send([Outgoing("a", b"", an_instance("a"))])
    assert [await each.record("a") is not None for each in opened] == [True] * 8
    for each in opened:
        await each.close()


@pytest.mark.parametrize("steps", range(1, len(MIGRATIONS) + 1))
async def test_a_store_of_every_earlier_schema_is_brought_up_to_date(path: Path, steps: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for script in MIGRATIONS[:steps]:
            connection.executescript(script)
        connection.execute("insert into workers (name, expires_us) values ('old', 0)")
        connection.execute(f"pragma user_version={steps}")
        connection.commit()
    made = SqliteBackend(path)
    await made.open()
    assert (await lease_of(made)).worker_id == 2
    await made.close()


# -- commits that fail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["begin", "before commit"])
async def test_a_failure_before_the_commit_leaves_nothing(backend: SqliteBackend, moment: str) -> None:
    """I7, I43."""
    lease = await lease_of(backend)
    backend.hook = raising_at(moment)
    for write in (
        backend.commit(lease, Commit(new=[an_instance("a", tags={"k": "v"})], rows=[a_row("a")])),
        backend.send([Outgoing("a", b"", an_instance("a"))]),
        backend.renew(lease, 1, 1),
        backend.purge(["a"]),
    ):
        with pytest.raises(Planted):
            await write
    backend.hook = None
    assert await backend.load(["a"]) == []
    await backend.commit(lease, Commit(new=[an_instance("a")]))


async def test_a_commit_without_an_answer_is_of_unknown_outcome(backend: SqliteBackend) -> None:
    """I44: the caller must look, and may find it."""
    lease = await lease_of(backend)
    backend.hook = raising_at("after commit")
    with pytest.raises(CommitOutcomeUnknown, match="did not answer"):
        await backend.commit(lease, Commit(new=[an_instance("a")], rows=[a_row("a")]))
    backend.hook = None
    (loaded,) = await backend.load(["a"])
    assert loaded.rows == [a_row("a")]


@pytest.mark.parametrize("moment", ["begin", "before commit", "after commit"])
async def test_a_lease_that_failed_to_be_taken_leaves_no_lock(path: Path, backend: SqliteBackend, moment: str) -> None:
    backend.hook = raising_at(moment)
    with pytest.raises((Planted, CommitOutcomeUnknown)):
        await backend.acquire("worker", 10, 0)
    backend.hook = None
    assert not [*path.parent.glob("*-worker-*")]
    assert await backend.acquire("worker", 10, 10) is not None


async def test_a_connection_that_stays_in_a_transaction_is_replaced(backend: SqliteBackend) -> None:
    """I43: as after a rollback that fails; the next call finds a connection with the same settings."""
    assert backend._thread is not None
    await backend._thread.call(lambda connection: connection.execute("begin immediate"))
    await backend.send([Outgoing("a", b"", an_instance("a"))])
    assert await backend._thread.call(lambda connection: connection.execute("pragma cache_size").fetchone()) == (
        -65536,
    )


async def test_a_full_disk_is_a_storage_error_and_the_next_commit_works(backend: SqliteBackend) -> None:
    lease = await lease_of(backend)
    assert backend._thread is not None
    pages = await backend._thread.call(lambda connection: connection.execute("pragma page_count").fetchone()[0])
    await backend._thread.call(lambda connection: connection.execute(f"pragma max_page_count={pages + 2}").fetchone())
    commit = Commit(new=[an_instance("a", tags={"k": "v"})], rows=[a_row("a", 1, b"x" * 100_000)])
    with pytest.raises(StorageError, match=r"full.*nothing was written"):
        await backend.commit(lease, commit)
    assert await backend.load(["a"]) == []
    assert not await backend._thread.call(lambda connection: connection.in_transaction)
    await backend._thread.call(lambda connection: connection.execute("pragma max_page_count=1000000").fetchone())
    await backend.commit(lease, commit)
    assert len(await backend.load(["a"])) == 1


class Answering(sqlite3.Connection):
    """A connection whose commits end with an error of the test's choice, as if the disk had said so."""

    error: Exception

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        if sql.startswith("insert into commits"):
            raise self.error
        return super().execute(sql, parameters)


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("planted")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (sqlite_error(sqlite3.SQLITE_FULL), StorageError),
        (sqlite_error(sqlite3.SQLITE_READONLY), StorageError),
        (sqlite_error(sqlite3.SQLITE_IOERR_FSYNC), CommitOutcomeUnknown),
        (sqlite_error(sqlite3.SQLITE_IOERR_WRITE), CommitOutcomeUnknown),
        (sqlite_error(sqlite3.SQLITE_CORRUPT), CommitOutcomeUnknown),
        (sqlite3.ProgrammingError("binding"), StorageError),
        (MemoryError(), CommitOutcomeUnknown),
    ],
    ids=["full", "readonly", "fsync", "write", "corrupt", "binding", "memory"],
)
async def test_an_error_that_can_come_from_the_end_of_a_commit_leaves_its_outcome_unknown(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[StorageError]
) -> None:
    monkeypatch.setattr(Answering, "error", error, raising=False)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Answering, **options))
    made = SqliteBackend(path)
    await made.open()
    lease = await lease_of(made)
    with pytest.raises(StorageError) as caught:
        await made.commit(lease, Commit(new=[an_instance("a")]))
    assert type(caught.value) is kind
    assert ("nothing was written" in str(caught.value)) is (kind is StorageError)
    await made.close()


async def statements_of(backend: SqliteBackend, work: Callable[[], Awaitable[object]]) -> list[str]:
    """What the writing connection is told meanwhile; a statement is seen again for each that its triggers run."""
    seen: list[str] = []
    assert backend._thread is not None
    await backend._thread.call(lambda connection: connection.set_trace_callback(seen.append))
    await work()
    await backend._thread.call(lambda connection: connection.set_trace_callback(None))
    return [statement for statement, _ in groupby(seen)]


def a_large_commit() -> Commit:
    """Two hundred turns, with some of everything."""
    made = [f"made {n}" for n in range(200)]
    return Commit(
        new=[
            an_instance("over", replace=True),
            *(an_instance(each, tags={"k": each}, custom_status=each.encode()) for each in made),
        ],
        rows=[a_row(each, seq, b"%d" % seq) for each in made for seq in (1, 5)],
        changes=[a_change(each, Status.COMPLETED, custom_status=b"2") for each in made[::2]],
        consumed=[1],
        heartbeats=[Heartbeat(each, 1, 1, each.encode()) for each in made],
    )


async def prepared_lease(backend: SqliteBackend) -> Lease:
    """Of a store with one instance that is over, and one that has a message."""
    lease = await lease_of(backend)
    await backend.commit(lease, Commit(new=[an_instance("over", Status.COMPLETED, tags={"k": "v"})]))
    await backend.commit(lease, Commit(new=[an_instance("a")]))
    await backend.send([Outgoing("a", b"message")])
    return lease


async def test_a_commit_is_one_statement(backend: SqliteBackend) -> None:
    """The interpreter's lock is let go and taken back at each: beside a thread that computes, that is dear."""
    lease = await prepared_lease(backend)
    (statement,) = await statements_of(backend, lambda: backend.commit(lease, a_large_commit()))
    assert statement.startswith("insert into commits")
    loaded = {item.record.id: item for item in await backend.load(["over", "made 0", "made 1", "a"])}
    assert [each for each, item in loaded.items() if item.record.status is not Status.RUNNING] == ["made 0"]
    assert loaded["made 1"].rows == [a_row("made 1", 1, b"1"), a_row("made 1", 5, b"5")]
    assert (loaded["made 0"].heartbeats, loaded["made 1"].heartbeats) == ([], [Heartbeat("made 1", 1, 1, b"made 1")])
    assert loaded["a"].messages == []


async def test_with_a_hook_a_commit_is_the_same_statement_in_a_transaction(backend: SqliteBackend) -> None:
    lease = await prepared_lease(backend)
    moments: list[str] = []
    backend.hook = moments.append
    begin, statement, commit = await statements_of(backend, lambda: backend.commit(lease, a_large_commit()))
    assert (begin, commit) == ("begin immediate", "commit")
    assert statement.startswith("insert into commits")
    assert moments == ["begin", "before commit", "after commit"]


async def test_a_commit_is_the_same_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, in a transaction with hooks, and row by row, as one that is too large to travel in one piece."""

    async def written(name: str, *, hook: Callable[[str], None] | None = None) -> dict[str, list[Any]]:
        made = SqliteBackend(tmp_path / name)
        await made.open()
        lease = await prepared_lease(made)
        made.hook = hook
        seen = await statements_of(made, lambda: made.commit(lease, a_large_commit()))
        assert (len(seen) > 200) is (name == "row by row")
        for refused_lease, commit, kind in (
            (lease, a_large_commit(), InstancesExist),
            (lease, Commit(new=[an_instance("x")], rows=[a_row("made 7", 5)]), AppendConflict),
            (Lease(99, 0), Commit(new=[an_instance("x")]), LeaseLost),
        ):
            with pytest.raises(kind):
                await made.commit(refused_lease, commit)
        await made.close()
        return tables_of(tmp_path / name)

    at_once = await written("at once")
    assert await written("with a hook", hook=lambda _: None) == at_once
    monkeypatch.setattr(commit_module, "PACKED_MAX_BYTES", 1)
    assert await written("row by row") == at_once


async def test_a_conflict_that_is_gone_when_it_is_looked_for_is_none(backend: SqliteBackend) -> None:
    """Another process may purge what was in the way between the statement and the look for the reason."""
    lease = await prepared_lease(backend)
    await backend.commit(lease, Commit(new=[an_instance("b", Status.COMPLETED)]))
    transact = backend._transact

    def purge_first(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], Any]) -> Any:
        connection.execute("delete from instances where id = 'b'")
        return transact(connection, change)

    backend._transact = purge_first  # type: ignore[method-assign]  # the other process
    await backend.commit(lease, Commit(new=[an_instance("b")], rows=[a_row("b")]))
    (loaded,) = await backend.load(["b"])
    assert loaded.record.status is Status.RUNNING


async def test_a_nul_in_a_text_is_kept(backend: SqliteBackend) -> None:
    """The engine refuses one at the door; a reason for a stall may quote one."""
    lease = await prepared_lease(backend)
    await backend.commit(lease, Commit(changes=[a_change("a", stall_reason="before\0after")]))
    (loaded,) = await backend.load(["a"])
    assert loaded.record.stall_reason == "before\0after"


# -- loading many ----------------------------------------------------------------------------------------------


async def test_loading_many_is_one_statement(backend: SqliteBackend) -> None:
    lease = await prepared_lease(backend)
    await backend.commit(lease, a_large_commit())
    ids = [f"made {n}" for n in range(200)]
    seen = await statements_of(backend, lambda: backend.load(ids))
    assert len(seen) == 1
    loaded = await backend.load(ids)
    assert [[row.events for row in item.rows] for item in loaded] == [[b"1", b"5"]] * 200


SPOILING = {
    "events are text": "update history set events = 'a text' where instance = 'made 3'",
    "events are a number": "update history set events = 17 where instance = 'made 3' and first_seq = 5",
    "events are large": "update history set events = zeroblob(9000) where instance = 'made 3'",
    "a time is text": "update history set at_us = 'noon' where instance = 'made 3'",
    "a time is bytes": "update history set at_us = x'00ff' where instance = 'made 3'",
    "a number is text": "update history set first_seq = 'first' where instance = 'made 3' and first_seq = 1",
    "details are text": "update heartbeats set details = 'a text' where instance = 'made 3'",
    "a custom status is text": "update instances set custom_status = 'a text' where id = 'made 3'",
    "a stall reason is bytes": "update instances set stall_reason = x'00ff' where id = 'made 3'",
    "a wake time is infinite": "update instances set wake_us = 9e999 where id = 'made 3'",
    "a wake time is a fraction": "update instances set wake_us = 1.1 where id = 'made 3'",
    "a message is text": "update inbox set data = 'a text'",
}


@pytest.mark.parametrize("what", SPOILING)
async def test_what_is_not_what_it_should_be_is_loaded_as_it_is(path: Path, backend: SqliteBackend, what: str) -> None:
    """Whoever takes the instance over sees what is stored, and the others are whole."""
    lease = await prepared_lease(backend)
    large = a_large_commit()
    large.consumed = []
    await backend.commit(lease, large)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(SPOILING[what]).rowcount > 0
    ids = [*(f"made {n}" for n in range(20)), "a"]
    stored = tables_of(path)
    loaded = await backend.load(ids)
    assert [item.record.id for item in loaded] == ids
    for instance_id, item in zip(ids, loaded, strict=True):
        assert item.rows == [row for row in stored["history"] if row[0] == instance_id]
        assert item.heartbeats == [row for row in stored["heartbeats"] if row[0] == instance_id]
        assert item.messages == [row[:3] for row in stored["inbox"] if row[1] == instance_id]
        (row,) = [row for row in stored["instances"] if row[0] == instance_id]
        assert (item.record.wake_us, item.record.custom_status, item.record.stall_reason) == (row[6], row[8], row[9])


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ("workflow = cast(x'ff' as text)", None),
        ("stall_reason = cast(x'ff' as text)", None),
        ("status = 'ASLEEP'", "'ASLEEP' is not a valid Status"),
        ("status = 7", "'7' is not a valid Status"),
        ("tags = '{'", None),
        ("tags = '[1]'", None),
        ("tags = 7", None),
        ("version = 'two'", "version 'two'"),
        ("created_us = x'00'", "time of making"),
    ],
)
async def test_a_row_that_cannot_be_read_says_so_and_hides_no_other(
    path: Path, backend: SqliteBackend, spoilt: str, reason: str | None
) -> None:
    lease = await prepared_lease(backend)
    await backend.commit(lease, Commit(new=[an_instance("b")]))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(f"update instances set {spoilt} where id = 'a'").rowcount == 1
    loaded, other = await backend.load(["a", "b"])
    listed = {record.id: record for record in await backend.list_records(Query())}
    assert loaded.record == listed["a"] == await backend.record("a")
    assert other.record == listed["b"]
    if reason is not None:
        assert loaded.record.status is Status.STALLED
        assert loaded.record.stall_reason is not None
        assert reason in loaded.record.stall_reason
    assert await backend.due((-1, ""), 2**62, 10) is not None


async def test_more_rows_than_are_gathered_are_loaded_all_the_same(backend: SqliteBackend) -> None:
    lease = await prepared_lease(backend)
    rows = [a_row("a", seq) for seq in range(1, 10_050)]
    await backend.commit(lease, Commit(rows=rows))
    (loaded,) = await backend.load(["a"])
    assert loaded.rows == rows


async def test_refusals_leave_no_transaction_open(backend: SqliteBackend) -> None:
    lease = await lease_of(backend)
    await backend.commit(lease, Commit(new=[an_instance("a")], rows=[a_row("a")]))
    assert backend._thread is not None
    for kind, refused_lease, commit in (
        (InstancesExist, lease, Commit(new=[an_instance("b"), an_instance("a")])),
        (AppendConflict, lease, Commit(new=[an_instance("b")], rows=[a_row("a")])),
        (LeaseLost, Lease(999, 0), Commit(new=[an_instance("b")])),
    ):
        with pytest.raises(kind):
            await backend.commit(refused_lease, commit)
        assert not await backend._thread.call(lambda connection: connection.in_transaction)
    assert await backend.record("b") is None


# -- other processes -------------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> int:
    """Fork, work in the child, and give its exit status (negative: the signal that killed it)."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            work()
            os._exit(0)
        except BaseException:  # whatever it is, the child must not go on as pytest
            os._exit(99)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def commit_and_die(path: Path, moment: str) -> None:
    async def work() -> None:
        made = SqliteBackend(path)
        await made.open()
        lease = await lease_of(made)
        await made.commit(lease, Commit(new=[an_instance("a")], rows=[a_row("a")]))

        def hook(where: str) -> None:
            if where == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        made.hook = hook
        commit = Commit(
            new=[an_instance("b", tags={"k": "v"})],
            rows=[a_row("a", 2), a_row("b")],
            changes=[a_change("a", Status.COMPLETED)],
        )
        await made.commit(lease, commit)

    asyncio.run(work())


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "written"), [("begin", False), ("before commit", False), ("after commit", True)])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_process_killed_at_a_commit_leaves_it_whole_or_absent(path: Path, moment: str, written: bool) -> None:
    """I7, I18; and its lease is no hindrance: its death shows at once, long before the lease ends."""
    assert in_child(lambda: commit_and_die(path, moment)) == -signal.SIGKILL
    made = SqliteBackend(path)
    await made.open()
    found = {item.record.id: item for item in await made.load(["a", "b"])}
    assert found["a"].record.status is (Status.COMPLETED if written else Status.RUNNING)
    assert [row.first_seq for row in found["a"].rows] == ([1, 2] if written else [1])
    assert ("b" in found) is written
    assert len(await made.list_records(Query(tags={"k": "v"}))) == written
    lease = await made.acquire("next", LEASE_US, 1)
    assert lease is not None
    assert lease.worker_id == 2
    await made.close()


async def test_a_living_worker_in_the_same_process_is_not_taken_for_dead(path: Path, backend: SqliteBackend) -> None:
    await lease_of(backend)
    other = SqliteBackend(path)
    await other.open()
    assert await other.acquire("other", LEASE_US, 1) is None
    await other.close()


async def test_lock_files_are_gone_with_their_workers(path: Path) -> None:
    first, second = SqliteBackend(path), SqliteBackend(path)
    await first.open()
    await second.open()
    lease = await first.acquire("a", 10, 0)
    assert lease is not None
    assert [each.name for each in path.parent.glob("*-worker-*")] == ["store.db-worker-1"]
    assert await second.acquire("b", 10, 10) is not None  # the lease of the first has ended
    assert [each.name for each in path.parent.glob("*-worker-*")] == ["store.db-worker-2"]
    assert await first.acquire("a", 10, 20) is not None  # and the other way round, on the same object
    await first.close()
    await second.close()
    assert not [*path.parent.glob("*-worker-*")]


async def test_without_its_lock_file_the_lease_alone_decides(path: Path, backend: SqliteBackend) -> None:
    await lease_of(backend)
    (path.parent / "store.db-worker-1").unlink()
    other = SqliteBackend(path)
    await other.open()
    assert await other.acquire("other", LEASE_US, LEASE_US - 1) is None
    assert await other.acquire("other", LEASE_US, LEASE_US) is not None
    await other.close()


@pytest.mark.slow
async def test_two_connections_writing_hard_never_see_a_locked_database(path: Path, backend: SqliteBackend) -> None:
    lease = await lease_of(backend)
    await backend.commit(lease, Commit(new=[an_instance("a")]))
    other = SqliteBackend(path)
    await other.open()
    until = time.monotonic() + 0.8
    done = [0, 0, 0]

    async def commit() -> None:
        while time.monotonic() < until:
            done[0] += 1
            await backend.commit(lease, Commit(rows=[a_row("a", done[0], b"x" * 500)]))

    async def send() -> None:
        while time.monotonic() < until:
            done[1] += 1
            await other.send([Outgoing("a", b"x" * 500)])

    async def look() -> None:
        while time.monotonic() < until:
            done[2] += 1
            await other.list_records(Query())

    await asyncio.gather(commit(), *(send() for _ in range(3)), look())
    (loaded,) = await other.load(["a"])
    assert (len(loaded.rows), len(loaded.messages)) == (done[0], done[1])
    assert min(done) > 10
    await other.close()


@pytest.mark.slow
async def test_a_writer_waits_for_a_long_transaction_of_another(path: Path, backend: SqliteBackend) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("begin immediate")
        sending = asyncio.ensure_future(backend.send([Outgoing("a", b"", an_instance("a"))]))
        done, _ = await asyncio.wait([sending], timeout=0.3)
        assert not done
        connection.execute("commit")
    ((result),) = await sending
    assert result.outcome == "delivered"


async def test_a_store_that_stays_locked_is_a_storage_error(
    path: Path, backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_module, "BUSY_TIMEOUT_S", 0.05)
    lease = await lease_of(backend)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("begin immediate")
        for write in (
            backend.send([Outgoing("a", b"", an_instance("a"))]),
            backend.commit(lease, Commit(new=[an_instance("a")])),
        ):
            with pytest.raises(StorageError, match=r"locked.*nothing was written") as caught:
                await write
            assert type(caught.value) is StorageError
        other = SqliteBackend(path)
        await other.open()  # there is nothing to write
        await other.close()


async def test_a_new_file_that_stays_locked_is_a_storage_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("begin immediate")
        with pytest.raises(StorageError, match=r"locked.*nothing was written"):
            await SqliteBackend(path).open()


async def test_however_many_wait_for_a_change_all_hear_of_it(path: Path, backend: SqliteBackend) -> None:
    while await backend.wait_for_change(0.03):
        pass
    waiting = [asyncio.ensure_future(backend.wait_for_change(5)) for _ in range(50)]
    await asyncio.sleep(0)
    other = SqliteBackend(path)
    await other.open()
    await other.send([Outgoing("a", b"", an_instance("a"))])
    assert await asyncio.gather(*waiting) == [True] * 50
    await other.close()


async def test_a_change_made_between_two_waits_is_not_missed(path: Path, backend: SqliteBackend) -> None:
    while await backend.wait_for_change(0.03):
        pass
    other = SqliteBackend(path)
    await other.open()
    await other.send([Outgoing("a", b"", an_instance("a"))])
    assert await backend.wait_for_change(5)
    await other.close()


UNCLOSED = """
import asyncio, sys
from durableflow.backends.sqlite import SqliteBackend

async def main():
    backend = SqliteBackend(sys.argv[1])
    await backend.open()
    await backend.acquire("worker", 1000000, 0)

asyncio.run(main())
"""


@pytest.mark.slow
def test_an_unclosed_writer_does_not_hang_the_exit(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", UNCLOSED, str(path)], timeout=20, check=False)
    assert done.returncode == 0
