"""What SQLite does for servers of queues beside the contract: the lock that tells whether their process lives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from durableflow.backends.base import Commit, NewInstance
from durableflow.backends.sqlite import SqliteBackend
from durableflow.backends.tasks import ClaimRequest, NewTask, Outlook, StoredTask
from durableflow.errors import CommitOutcomeUnknown, StorageError
from durableflow.model.status import Status

TTL_US = 10**12


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(tmp_path / "store.db")
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(tmp_path / "store.db")
    await backend.open()
    yield backend
    await backend.close()


def lock_files(store: SqliteBackend) -> list[str]:
    return sorted(path.name for path in store.path.parent.glob("*-server-*"))


async def claim_one(store: SqliteBackend, server: int) -> StoredTask:
    lease = await store.acquire("worker", TTL_US, 0)
    assert lease is not None
    new = [NewInstance("i", "order", 1, Status.RUNNING, 0, None, {})]
    tasks = [NewTask("i", 1, "q", "mail", b"[]", b"", 0, "", 0, None, 0)]
    await store.commit(lease, Commit(new=new, tasks=tasks))
    (task,) = (await store.claim(ClaimRequest(server, ("mail",), {}, 9, True, None), 0)).tasks
    return task


async def look(store: SqliteBackend, server: int) -> Outlook:
    return await store.look_at_tasks(ClaimRequest(server, (), {}, 0, True, None), 1)


async def test_the_claims_of_a_process_that_ended_are_overdue_at_once(
    store: SqliteBackend, other: SqliteBackend
) -> None:
    dead = await other.enlist_server("dead", TTL_US, 0)
    task = await claim_one(other, dead)
    server = await store.enlist_server("server", TTL_US, 0)
    assert not (await look(store, server)).is_overdue
    assert await store.overdue_tasks(server, 1, 9) == []
    file, _ = other._servers[dead]._held
    file.close()  # as the operating system does when a process ends
    assert (await look(store, server)).is_overdue
    assert await store.overdue_tasks(server, 1, 9) == [task]
    assert lock_files(store) == [f"store.db-server-{server}"]


async def test_a_server_that_retires_leaves_no_file(store: SqliteBackend) -> None:
    servers = [await store.enlist_server(f"server {n}", TTL_US, 0) for n in range(3)]
    assert len(lock_files(store)) == 3
    await store.retire_server(servers[1], [])
    assert lock_files(store) == [f"store.db-server-{each}" for each in (servers[0], servers[2])]
    await store.close()
    assert lock_files(store) == []
    await store.open()


@pytest.mark.parametrize("moment", ["begin", "before commit"])
async def test_an_enlisting_that_was_refused_holds_no_lock_that_the_next_one_needs(
    store: SqliteBackend, other: SqliteBackend, moment: str
) -> None:
    def refuse(now: str) -> None:
        if now == moment:
            raise StorageError("planted")

    store.hook = refuse
    with pytest.raises(StorageError, match="planted"):
        await store.enlist_server("refused", TTL_US, 0)
    store.hook = None
    assert lock_files(store) == []
    assert store._servers == {}
    same_number = await other.enlist_server("other", TTL_US, 0)
    task = await claim_one(other, same_number)
    await store.close()  # whatever it held would be let go here, and the other taken for dead
    await store.open()
    server = await store.enlist_server("server", TTL_US, 0)
    assert not (await look(store, server)).is_overdue
    assert await store.overdue_tasks(server, 1, 9) == []
    assert await other.claimed_tasks(same_number) == [task]


async def test_of_an_enlisting_that_did_not_answer_the_lease_alone_decides(store: SqliteBackend) -> None:
    def hide(now: str) -> None:
        if now == "after commit":
            raise OSError("planted")

    store.hook = hide
    with pytest.raises(CommitOutcomeUnknown):
        await store.enlist_server("lost", 10, 0)
    store.hook = None
    assert lock_files(store) == []
    server = await store.enlist_server("server", TTL_US, 0)
    await claim_one(store, server)
    assert not (await look(store, server)).is_overdue
    assert (await store.look_at_tasks(ClaimRequest(server, (), {}, 0, True, None), 10)).is_overdue


async def test_a_claim_for_which_there_is_nothing_changes_nothing_that_others_would_hear_of(
    store: SqliteBackend, other: SqliteBackend
) -> None:
    server = await store.enlist_server("server", TTL_US, 0)
    await claim_one(store, server)
    while await other.wait_for_change(0.05):
        pass
    await store.claim(ClaimRequest(server, ("mail",), {}, 9, True, None), 0)
    assert not await other.wait_for_change(0.1)
