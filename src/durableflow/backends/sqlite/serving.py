"""The part of the SQLite store that keeps tasks; see `backends/tasks.py`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from durableflow.backends.base import Lease
from durableflow.backends.sqlite import tasks
from durableflow.backends.sqlite.commit import lease_lost
from durableflow.backends.sqlite.lock import WorkerLock
from durableflow.backends.sqlite.records import read_record
from durableflow.backends.sqlite.thread import ConnectionThread
from durableflow.backends.tasks import (
    CLAIMED,
    ClaimRequest,
    Claims,
    Offer,
    Outlook,
    QueueLimits,
    QueueRecord,
    StoredTask,
    TaskBeat,
    TaskEnd,
)

T = TypeVar("T")


class TaskTables:
    """What `SqliteBackend` is besides: the store of tasks.

    A server of queues, like the worker, shows by a lock of the operating system that its process lives.
    """

    def __init__(self, path: Path) -> None:
        self._servers: dict[int, WorkerLock] = {}
        self._looks = WorkerLock(path, "server")
        self._store_path = path

    async def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        raise NotImplementedError

    def _transact(self, connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], T]) -> T:
        raise NotImplementedError

    async def _read(self, sql: str, parameters: Sequence[object]) -> Sequence[Any]:
        raise NotImplementedError

    def _connection(self) -> ConnectionThread:
        raise NotImplementedError

    def _release_servers(self) -> None:
        for lock in self._servers.values():
            lock.release()
        self._servers.clear()

    # -- the side of those who serve ------------------------------------------------------------------------

    async def enlist_server(self, name: str, ttl_us: int, now_us: int) -> int:
        """See `TaskStore.enlist_server`.

        The lock is held before anybody can see the row: a lock that could be had would say that its process is dead.
        """
        lock = WorkerLock(self._store_path, "server")

        def change(connection: sqlite3.Connection) -> int:
            sql = "insert into servers (name, expires_us) values (?, ?)"
            server_id = connection.execute(sql, (name, now_us + ttl_us)).lastrowid
            assert server_id is not None
            lock.take(server_id)
            return server_id

        def enlist(connection: sqlite3.Connection) -> int:
            try:
                server_id = self._transact(connection, change)
            except BaseException:
                lock.release()  # another may get this number; and if there is a row after all, its lease alone decides
                raise
            self._servers[server_id] = lock
            return server_id

        return await self._connection().call(enlist)

    async def renew_server(self, server_id: int, ttl_us: int, now_us: int) -> list[tuple[int, int]]:
        """See `TaskStore.renew_server`."""
        return await self._write(partial(tasks.renew_server, server_id=server_id, expires_us=now_us + ttl_us))

    async def retire_server(self, server_id: int, ends: Sequence[TaskEnd]) -> None:
        """See `TaskStore.retire_server`."""
        await self._write(partial(tasks.retire_server, server_id=server_id, ends=ends))
        lock = self._servers.pop(server_id, None)
        if lock is not None:
            lock.release()

    async def look_at_tasks(self, request: ClaimRequest, now_us: int) -> Outlook:
        """See `TaskStore.look_at_tasks`."""
        return await self._connection().call(tasks.look, request, now_us, self._looks.is_dead)

    async def claim(self, request: ClaimRequest, now_us: int) -> Claims:
        """See `TaskStore.claim`."""
        return await self._write(partial(tasks.claim, request=request, now_us=now_us))

    async def claimed_tasks(self, server_id: int) -> list[StoredTask]:
        """See `TaskStore.claimed_tasks`."""
        return await self._connection().call(tasks.claimed_tasks, server_id)

    async def overdue_tasks(self, server_id: int, now_us: int, limit: int) -> list[StoredTask]:
        """See `TaskStore.overdue_tasks`."""

        def change(connection: sqlite3.Connection) -> list[StoredTask]:
            dead = tasks.dead_servers(connection, server_id, now_us, self._looks.is_dead)
            for each in dead:
                self._looks.bury(each)
            return tasks.overdue_tasks(connection, now_us, dead, limit)

        return await self._write(change)

    async def finish_tasks(self, ends: Sequence[TaskEnd], server_id: int | None) -> list[bool]:
        """See `TaskStore.finish_tasks`."""

        def change(connection: sqlite3.Connection) -> list[bool]:
            if server_id is not None:
                tasks.check_server(connection, server_id)
            return tasks.finish(connection, ends)

        return await self._write(change)

    async def beat_tasks(self, beats: Sequence[TaskBeat]) -> list[bool]:
        """See `TaskStore.beat_tasks`."""
        return await self._write(partial(tasks.beat, beats=beats))

    # -- tokens ---------------------------------------------------------------------------------------------

    async def offer_task(self, lease: Lease, offer: Offer) -> bool:
        """See `TaskStore.offer_task`."""

        def change(connection: sqlite3.Connection) -> bool:
            if connection.execute("select 1 from workers where id = ?", (lease.worker_id,)).fetchone() is None:
                raise lease_lost(lease)
            record = read_record(connection, offer.instance_id)
            if record is None or record.status.is_terminal:
                return False
            return tasks.offer(connection, offer)

        return await self._write(change)

    async def offer_claimed(self, number: int, attempt: int, server_id: int, token_digest: bytes) -> bool:
        """See `TaskStore.offer_claimed`."""

        def change(connection: sqlite3.Connection) -> bool:
            given = (token_digest, number, attempt, CLAIMED, server_id)
            return connection.execute(tasks.OFFER_CLAIMED_SQL, given).rowcount == 1

        return await self._write(change)

    async def offered_tasks(self) -> list[tuple[str, int]]:
        """See `TaskStore.offered_tasks`."""

        def read(connection: sqlite3.Connection) -> list[tuple[str, int]]:
            return connection.execute(tasks.OFFERED_SQL).fetchall()

        return await self._connection().call(read)

    async def task(self, instance_id: str, task: int) -> StoredTask | None:
        """See `TaskStore.task`."""
        rows = await self._read(tasks.TASK_SQL, (instance_id, task))
        return tasks.as_task(rows[0]) if rows else None

    # -- queues ---------------------------------------------------------------------------------------------

    async def queues(self, name: str | None = None) -> list[QueueRecord]:
        """See `TaskStore.queues`."""
        return [tasks.as_queue(row) for row in await self._read(tasks.QUEUES_SQL, (name,))]

    async def limit_queue(self, name: str, limits: QueueLimits) -> None:
        """See `TaskStore.limit_queue`."""
        await self._write(partial(tasks.limit_queue, name=name, limits=limits))

    async def pause_queue(self, name: str, *, is_paused: bool) -> None:
        """See `TaskStore.pause_queue`."""
        await self._write(partial(tasks.pause_queue, name=name, is_paused=is_paused))
