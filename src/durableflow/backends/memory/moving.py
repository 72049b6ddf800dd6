"""Moving house in memory: the rows of each part, in order, and a seal."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from durableflow.backends.base import DeadLetter, Heartbeat, HistoryRow, InstanceRecord, Message, NewInstance
from durableflow.backends.memory.alerts import MemoryAlerts
from durableflow.backends.memory.circuits import MemoryCircuits
from durableflow.backends.memory.rows import Instance
from durableflow.backends.memory.schedules import MemorySchedules
from durableflow.backends.memory.windows import MemoryWindows, Window
from durableflow.backends.memory_tasks import Queue
from durableflow.backends.moving import (
    PAGE_ROWS,
    KeptMessage,
    KeptQueue,
    KeptTask,
    KeptWindow,
    Key,
    Living,
    MovedRow,
    Part,
    Seal,
    check_empty,
    check_idle,
    key_of,
    not_held,
)
from durableflow.backends.schedules import ScheduleRow
from durableflow.backends.tasks import CLAIMED
from durableflow.model.circuit import Circuit

_DEAD_US: Final = -1


class MemoryMoves(MemorySchedules, MemoryCircuits, MemoryAlerts, MemoryWindows):
    """The part of `MemoryBackend` that can be moved, and moved into."""

    @property
    def address(self) -> str:
        """See `MoveStore.address`."""
        return "memory://"

    async def read_seal(self) -> Seal | None:
        """See `MoveStore.read_seal`."""
        return self._seal

    async def living(self, now_us: int) -> list[Living]:
        """See `MoveStore.living`."""
        return self._living(now_us)

    def _living(self, now_us: int) -> list[Living]:
        names = {takeover.worker_id: takeover.name for takeover in self._takeovers}
        workers = [
            Living("worker", names.get(each, ""), lease.expires_us)
            for each, lease in self._workers.items()
            if lease.expires_us > now_us
        ]
        servers = [
            Living("server", self._server_names.get(each, ""), expires_us)
            for each, expires_us in self._servers.items()
            if expires_us > now_us
        ]
        return [*workers, *servers]

    async def foreign_tables(self) -> list[str]:
        """See `MoveStore.foreign_tables`."""
        return []

    async def seal(self, seal: Seal, now_us: int) -> None:
        """See `MoveStore.seal`."""
        if not seal.succeeds(self._seal):
            return
        if self._seal is None:
            check_idle(self._living(now_us), now_us)
            if seal.side == "target":
                check_empty(self._counts())
        self._seal = seal
        self._notify()

    async def unseal(self, seal: Seal, *, clear: bool) -> None:
        """See `MoveStore.unseal`."""
        self._check_held(seal)
        if clear:
            for kept in (
                self._instances, self._inbox, self._windows, self._tasks, self._vtimes, self._tasks_of, self._queues,
                self._servers, self._server_names, self._schedules, self._circuits,
            ):  # fmt: skip
                kept.clear()
            self._wakes.clear()
        self._seal = None
        self._notify()

    def _check_held(self, seal: Seal) -> None:
        if self._seal != seal:
            raise not_held(seal, self._seal)

    # -- reading --------------------------------------------------------------------------------------------

    async def count_parts(self) -> dict[Part, int]:
        """See `MoveStore.count_parts`."""
        return self._counts()

    def _counts(self) -> dict[Part, int]:
        return {part: len(self._rows_of(part)) for part in Part}

    async def read_part(self, part: Part, after: Key | None, limit_bytes: int) -> list[MovedRow]:
        """See `MoveStore.read_part`."""
        page: list[MovedRow] = []
        size = 0
        for row in self._rows_of(part):
            if after is not None and key_of(part, row) <= after:
                continue
            if len(page) == PAGE_ROWS or size >= limit_bytes:
                break
            page.append(row)
            size += len(msgspec.msgpack.encode(row))
        return page

    async def last_key(self, part: Part) -> Key | None:
        """See `MoveStore.last_key`."""
        rows = self._rows_of(part)
        return key_of(part, rows[-1]) if rows else None

    def _rows_of(self, part: Part) -> list[MovedRow]:
        return sorted(self._unsorted(part), key=lambda row: key_of(part, row))

    def _unsorted(self, part: Part) -> Iterable[MovedRow]:
        instances = self._instances.values()
        match part:
            case Part.INSTANCES:
                return [instance.record for instance in instances]
            case Part.HISTORY:
                return [row for instance in instances for row in instance.rows]
            case Part.INBOX:
                return [
                    KeptMessage(*message, key) for instance in instances for message, key in instance.inbox.values()
                ]
            case Part.HEARTBEATS:
                return [beat for instance in instances for beat in instance.beats.values()]
            case Part.DEAD_LETTERS:
                return [letter for instance in instances for letter in instance.letters.values()]
            case Part.WINDOWS:
                return [
                    KeptWindow(each.instance, *key, each.changed, each.start_at_us, each.until_us)
                    for key, each in self._windows.items()
                ]
            case Part.QUEUES:
                return [
                    KeptQueue(name, queue.limits, queue.is_paused, queue.full_us, tuple(sorted(queue.lanes.items())))
                    for name, queue in self._queues.items()
                ]
            case Part.TASKS:
                return [KeptTask(task, self._vtimes.get(number, 0)) for number, task in self._tasks.items()]
            case Part.SCHEDULES:
                return self._schedules.values()
            case Part.CIRCUITS:
                return self._circuits.values()

    # -- writing --------------------------------------------------------------------------------------------

    async def write_part(self, seal: Seal, part: Part, rows: Sequence[MovedRow]) -> None:
        """See `MoveStore.write_part`."""
        self._check_held(seal)
        for row in rows:
            self._keep_moved(row)
        if part is Part.INBOX:
            self._inbox = dict(sorted(self._inbox.items()))  # it is read in the order of the numbers

    def _keep_moved(self, row: MovedRow) -> None:
        instances = self._instances
        match row:
            case InstanceRecord():
                new = NewInstance(row.id, row.workflow, row.version, row.status, row.created_us, None, {})
                instances[row.id] = Instance(new)
                instances[row.id].record = row
                if row.wake_us is not None:
                    insort(self._wakes, (row.wake_us, row.id))
            case HistoryRow():
                instances[row.instance_id].rows.append(row)
            case KeptMessage():
                message = self._inbox[row.number] = Message(row.number, row.instance_id, row.data)
                instances[row.instance_id].inbox[row.number] = (message, row.event_id)
                self._last_number = max(self._last_number, row.number)
            case Heartbeat():
                instances[row.instance_id].beats[row.task] = row
            case DeadLetter():
                instances[row.instance_id].letters[row.task] = row
            case KeptWindow():
                window = Window(row.instance_id, row.changed, row.start_at_us, row.until_us)
                self._windows[row.workflow, row.version, row.key] = window
            case KeptQueue():
                queue = self._queues[row.name] = Queue()
                queue.limits, queue.is_paused = row.limits, row.is_paused
                queue.full_us, queue.lanes = row.full_us, dict(row.lanes)
            case KeptTask():
                self._keep_moved_task(row)
            case ScheduleRow():
                self._schedules[row.id] = row
            case Circuit():
                self._circuits[row.name] = row

    def _keep_moved_task(self, kept: KeptTask) -> None:
        task = kept.task
        if task.queue:
            self._vtimes[task.number] = kept.vtime
            key = (task.priority, task.fairness_key)
            insort(self._queues[task.queue].last_of_key.setdefault(key, []), kept.vtime)
        self._keep(task)
        self._last_task_number = max(self._last_task_number, task.number)
        if task.state == CLAIMED and task.claimed_by > 0:
            self._servers[task.claimed_by] = _DEAD_US
            self._last_server_id = max(self._last_server_id, task.claimed_by)
