"""The backend, put together of its parts, and the worker's side of it."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from itertools import islice

from durableflow.backends.base import (
    Commit,
    HistoryRow,
    Lease,
    LoadedInstance,
    Message,
    Outgoing,
    SendResult,
    Topic,
    UserWork,
    UserWorkForm,
)
from durableflow.backends.memory.dead_letters import MemoryDeadLetters
from durableflow.backends.memory.looking import MemoryReader
from durableflow.backends.memory.moving import MemoryMoves
from durableflow.backends.memory.relaying import MemoryRelays
from durableflow.backends.memory.rows import first_seq
from durableflow.backends.memory.transfers import MemoryTransfers
from durableflow.backends.ownership import SoleOwner
from durableflow.errors import AppendConflict, InstancesExist, TransactionMisused
from durableflow.model.alert import Takeover


class MemoryBackend(SoleOwner, MemoryReader, MemoryDeadLetters, MemoryTransfers, MemoryMoves, MemoryRelays):
    """Everything in dictionaries of one process; gone with it.

    The object may outlive engines: open another engine on it to see what a restart would.
    Several engines and clients may have it open at once, in one event loop.
    """

    shared = True
    user_work: UserWorkForm = None

    def __init__(self) -> None:
        super().__init__()
        self._last_worker_id = 0
        self._openers = 0

    def __repr__(self) -> str:
        return f"<MemoryBackend of {len(self._instances)} instances>"

    async def open(self) -> None:
        """See `Backend.open`."""
        self._openers += 1

    async def close(self) -> None:
        """See `Backend.close`."""
        self._openers = max(0, self._openers - 1)

    # -- the worker's side ----------------------------------------------------------------------------------

    async def acquire(self, name: str, ttl_us: int, now_us: int) -> Lease | None:
        """See `Backend.acquire`."""
        self._check_seal()
        if any(lease.expires_us > now_us for lease in self._workers.values()):
            return None
        self._last_worker_id += 1
        lease = Lease(self._last_worker_id, now_us + ttl_us)
        self._workers = {lease.worker_id: lease}
        self._note_takeover(Takeover(lease.worker_id, name, now_us))
        return lease

    async def renew(self, lease: Lease, ttl_us: int, now_us: int) -> Lease:
        """See `Backend.renew`."""
        self._check(lease)
        renewed = self._workers[lease.worker_id] = Lease(lease.worker_id, now_us + ttl_us)
        return renewed

    async def release(self, lease: Lease) -> None:
        """See `Backend.release`."""
        self._workers.pop(lease.worker_id, None)

    async def commit(self, lease: Lease, commit: Commit) -> None:
        """See `Backend.commit`."""
        self._check(lease)
        made: set[str] = set()
        taken: set[str] = set()
        for new in commit.new:
            (taken if new.id in made or not self._may_insert(new) else made).add(new.id)
        if taken:
            raise InstancesExist(taken)
        conflicts = self._conflicts(commit.rows, made)
        if conflicts:
            raise AppendConflict(conflicts)
        self._write(commit)
        if self._openers > 1:  # a lone engine hears of its own commits without this
            self._notify()

    def _write(self, commit: Commit) -> None:
        """Nothing here fails: all or nothing."""
        instances = self._instances
        for new in commit.new:
            self._insert(new)
        for row in commit.rows:
            if row.instance_id in instances:
                insort(instances[row.instance_id].rows, row, key=first_seq)
        for change in commit.changes:
            if change.id in instances:
                self._change(change)
        for number in commit.consumed:
            self._consume(number)
        for beat in commit.heartbeats:
            if beat.instance_id in instances:
                instances[beat.instance_id].beats[beat.task] = beat
        self._write_tasks(task for task in commit.tasks if task.instance_id in instances)
        self._drop_many(commit.tasks_dropped)
        for instance_id in commit.finished_ids():
            if instance_id in instances:
                instances[instance_id].beats.clear()
        self._write_letters(commit.dead_letters, commit.redeemed)
        for message in commit.sends:
            self._send_for(message)
        self._put_out(commit.outbox)

    def _conflicts(self, rows: Sequence[HistoryRow], made: set[str]) -> set[str]:
        """Instances of which a row is there already, or comes twice."""
        found: set[str] = set()
        keys: set[tuple[str, int]] = set()
        for row in rows:
            key = (row.instance_id, row.first_seq)
            if key in keys or (row.instance_id not in made and self._holds(row)):
                found.add(row.instance_id)
            keys.add(key)
        return found

    def _holds(self, row: HistoryRow) -> bool:
        instance = self._instances.get(row.instance_id)
        if instance is None or not instance.rows or instance.rows[-1].first_seq < row.first_seq:
            return False
        index = bisect_left(instance.rows, row.first_seq, key=first_seq)
        return instance.rows[index].first_seq == row.first_seq

    def _consume(self, number: int) -> None:
        message = self._inbox.pop(number, None)
        if message is not None:
            self._instances[message.instance_id].inbox.pop(number, None)

    async def transact(self, lease: Lease, instance_id: str, work: UserWork) -> SendResult:  # noqa: ARG002  # see there
        """See `Backend.transact`; here there is no database to share."""
        raise TransactionMisused(
            "a store in memory has no database in which a transactional activity could write: "
            "use 'sqlite:///orders.db', or in a test a stand-in for the activity, or an environment on such a file"
        )

    async def load(
        self,
        instance_ids: Sequence[str],
        lease: Lease | None = None,  # noqa: ARG002  # a sole owner's
    ) -> list[LoadedInstance]:
        """See `Backend.load`."""
        found: list[LoadedInstance] = []
        for instance_id in instance_ids:
            instance = self._instances.get(instance_id)
            if instance is not None:
                messages = [message for message, _ in instance.inbox.values()]
                first = bisect_left(instance.rows, instance.record.base_seq, key=first_seq)
                beats = list(instance.beats.values())
                found.append(LoadedInstance(instance.record, instance.rows[first:], messages, beats))
        return found

    async def due(
        self,
        after: tuple[int, str],
        until_us: int,
        limit: int,
        lease: Lease | None = None,  # noqa: ARG002  # a sole owner's
    ) -> list[tuple[int, str]]:
        """See `Backend.due`."""
        first = bisect_right(self._wakes, after)
        last = bisect_left(self._wakes, (until_us, ""))
        return self._wakes[first : min(last, first + limit)]

    async def next_wake(self, from_us: int, lease: Lease | None = None) -> int | None:  # noqa: ARG002  # a sole owner's
        """See `Backend.next_wake`."""
        first = bisect_left(self._wakes, (from_us, ""))
        return self._wakes[first][0] if first < len(self._wakes) else None

    async def inbox(self, after: int, limit: int) -> list[Message]:
        """See `Backend.inbox`."""
        return list(islice((message for number, message in self._inbox.items() if number > after), limit))

    async def wait_for_change(self, timeout_s: float, topic: Topic = "anything") -> bool:  # noqa: ARG002  # all are told
        """See `Backend.wait_for_change`."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        try:
            async with asyncio.timeout(timeout_s):  # wait_for of Python 3.11 can swallow a cancellation
                await watcher
        except TimeoutError:
            return False
        finally:
            if watcher in self._watchers:
                self._watchers.remove(watcher)
        return True

    # -- the client's side ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        """See `Backend.send`."""
        self._check_seal()
        results = [self._send_one(message) for message in messages]
        self._notify()
        return results

    async def purge(self, instance_ids: Sequence[str]) -> list[str]:
        """See `Backend.purge`."""
        self._check_seal()
        purged: list[str] = []
        for instance_id in instance_ids:
            instance = self._instances.get(instance_id)
            if instance is not None and instance.record.status.is_terminal:
                self._remove(instance_id)
                purged.append(instance_id)
        return purged
