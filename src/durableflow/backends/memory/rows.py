"""Instances and their messages in dictionaries, and the ways in which they change."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort

from durableflow.backends.base import (
    DeadLetter,
    Heartbeat,
    HistoryRow,
    InstanceChange,
    InstanceRecord,
    Lease,
    Message,
    NewInstance,
    Outgoing,
    SendResult,
)
from durableflow.backends.memory_tasks import MemoryTasks
from durableflow.backends.moving import Seal
from durableflow.backends.tasks import ALL_TASKS
from durableflow.errors import LeaseLost


class Instance:
    """An instance's row and what hangs on it."""

    __slots__ = ("beats", "inbox", "letters", "record", "rows")

    def __init__(self, new: NewInstance) -> None:
        self.record = InstanceRecord(
            new.id,
            new.workflow,
            new.version,
            new.status,
            new.created_us,
            new.finished_us,
            new.wake_us,
            dict(new.tags),
            new.custom_status,
            None,
            new.base_seq,
            new.parent,
        )
        self.rows: list[HistoryRow] = []
        self.beats: dict[int, Heartbeat] = {}
        self.letters: dict[int, DeadLetter] = {}
        self.inbox: dict[int, tuple[Message, str | None]] = {}


def first_seq(row: HistoryRow) -> int:
    """The key by which the rows of an instance are in order."""
    return row.first_seq


class Rows(MemoryTasks):
    """What the parts of `MemoryBackend` share: the instances, and who may write and hears of it."""

    def __init__(self) -> None:
        super().__init__()
        self._workers: dict[int, Lease] = {}
        self._seal: Seal | None = None
        self._instances: dict[str, Instance] = {}
        self._wakes: list[tuple[int, str]] = []
        self._inbox: dict[int, Message] = {}
        self._last_number = 0
        self._watchers: list[asyncio.Future[None]] = []

    # -- who writes, and who hears of it --------------------------------------------------------------------

    def _check_seal(self) -> None:
        if self._seal is not None:
            raise self._seal.refusal()

    def _check(self, lease: Lease) -> None:
        self._check_seal()
        if lease.worker_id not in self._workers:
            raise LeaseLost(f"worker {lease.worker_id} was declared dead: another worker took over")

    def _notify(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    # -- instances ------------------------------------------------------------------------------------------

    def _is_active(self, instance_id: str) -> bool:
        instance = self._instances.get(instance_id)
        return instance is not None and not instance.record.status.is_terminal

    def _may_insert(self, new: NewInstance) -> bool:
        old = self._instances.get(new.id)
        return old is None or (new.replace and old.record.status.is_terminal)

    def _insert(self, new: NewInstance) -> None:
        if new.id in self._instances:
            self._remove(new.id)
        self._instances[new.id] = Instance(new)
        if new.wake_us is not None:
            insort(self._wakes, (new.wake_us, new.id))
        if new.admission is not None:
            self._write_tasks([new.admission])

    def _change(self, change: InstanceChange) -> None:
        instance = self._instances[change.id]
        old = instance.record
        if old.wake_us != change.wake_us:
            self._drop_wake(old)
            if change.wake_us is not None:
                insort(self._wakes, (change.wake_us, change.id))
        instance.record = InstanceRecord(
            old.id,
            old.workflow,
            old.version if change.version is None else change.version,
            change.status,
            old.created_us,
            change.finished_us,
            change.wake_us,
            old.tags,
            change.custom_status,
            change.stall_reason,
            old.base_seq if change.base_seq is None else change.base_seq,
            old.parent,
        )

    def _drop_wake(self, record: InstanceRecord) -> None:
        if record.wake_us is not None:
            index = bisect_left(self._wakes, (record.wake_us, record.id))
            del self._wakes[index]

    def _remove(self, instance_id: str) -> None:
        instance = self._instances.pop(instance_id)
        self._drop_wake(instance.record)
        for number in instance.inbox:
            del self._inbox[number]
        self._drop_tasks(instance_id, ALL_TASKS)

    # -- messages -------------------------------------------------------------------------------------------

    def _send_for(self, message: Outgoing) -> None:
        """Write what an instance sends, and for it what became of that."""
        answer = message.answers.get(self._send_one(message).outcome)
        if answer is not None and message.sender in self._instances:
            self._put(message.sender, answer)

    def _send_one(self, message: Outgoing) -> SendResult:
        """Write a message, and the instance that it makes, or say why not."""
        known = self._instances.get(message.instance_id)
        if message.new is not None:
            if not self._may_insert(message.new):
                return SendResult("exists", None if known is None else known.record)
            self._insert(message.new)
        elif known is None:
            return SendResult("missing")
        elif known.record.status.is_terminal:
            return SendResult("over", known.record)
        self._put_in(message)
        return SendResult("delivered")

    def _put_in(self, message: Outgoing) -> None:
        """Write a message, unless it waits already."""
        inbox = self._instances[message.instance_id].inbox
        if message.event_id is None or all(event_id != message.event_id for _, event_id in inbox.values()):
            self._put(message.instance_id, message.data, message.event_id)

    def _put(self, instance_id: str, data: bytes, event_id: str | None = None) -> None:
        """Write a message for an instance that is there."""
        number = self._last_number = self._last_number + 1
        stored = self._inbox[number] = Message(number, instance_id, data)
        self._instances[instance_id].inbox[number] = (stored, event_id)
