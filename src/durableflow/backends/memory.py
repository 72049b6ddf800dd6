"""Histories in memory: for unit tests, and the model that other backends are compared with."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from durableflow.backends.base import (
    Arrival,
    Commit,
    DeadLetter,
    DeadLetterQuery,
    DebouncedStart,
    Heartbeat,
    HistoryRow,
    InstanceChange,
    InstanceRecord,
    Lease,
    LoadedInstance,
    Message,
    NewInstance,
    Outgoing,
    Query,
    QuietInstance,
    Rewrite,
    ScheduleRow,
    ScheduleWrite,
    SendResult,
    UserWork,
)
from durableflow.backends.memory_tasks import MemoryTasks
from durableflow.backends.tasks import ALL_TASKS
from durableflow.errors import AppendConflict, InstancesExist, LeaseLost, TransactionMisused
from durableflow.model.alert import NOTICES_MAX, AlertChanges, AlertKind, AlertRecord, Notice, Takeover
from durableflow.model.circuit import Circuit
from durableflow.model.status import Status

_TAKEOVERS_MAX: Final = 1_000


class _Window(NamedTuple):
    """An open window of debounced starts."""

    instance: str
    changed: bytes
    start_at_us: int
    until_us: int | None


class _Instance:
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


class MemoryBackend(MemoryTasks):
    """Everything in dictionaries of one process; gone with it.

    The object may outlive engines: open another engine on it to see what a restart would.
    Several engines and clients may have it open at once, in one event loop.
    """

    shared = True
    supports_transactions = False

    def __init__(self) -> None:
        self._workers: dict[int, Lease] = {}
        self._last_worker_id = 0
        self._instances: dict[str, _Instance] = {}
        self._wakes: list[tuple[int, str]] = []
        self._inbox: dict[int, Message] = {}
        self._last_number = 0
        self._schedules: dict[str, ScheduleRow] = {}
        self._circuits: dict[str, Circuit] = {}
        self._windows: dict[tuple[str, int, str], _Window] = {}
        self._alerts: dict[tuple[AlertKind, str], AlertRecord] = {}
        self._notices: dict[int, Notice] = {}
        self._last_notice = 0
        self._takeovers: list[Takeover] = []
        self._openers = 0
        self._watchers: list[asyncio.Future[None]] = []
        MemoryTasks.__init__(self)

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
        if any(lease.expires_us > now_us for lease in self._workers.values()):
            return None
        self._last_worker_id += 1
        lease = Lease(self._last_worker_id, now_us + ttl_us)
        self._workers = {lease.worker_id: lease}
        self._takeovers = [*self._takeovers[-_TAKEOVERS_MAX + 1 :], Takeover(lease.worker_id, name, now_us)]
        return lease

    async def renew(self, lease: Lease, ttl_us: int, now_us: int) -> Lease:
        """See `Backend.renew`."""
        self._check(lease)
        renewed = self._workers[lease.worker_id] = Lease(lease.worker_id, now_us + ttl_us)
        return renewed

    async def release(self, lease: Lease) -> None:
        """See `Backend.release`."""
        self._workers.pop(lease.worker_id, None)

    def _check(self, lease: Lease) -> None:
        if lease.worker_id not in self._workers:
            raise LeaseLost(f"worker {lease.worker_id} was declared dead: another worker took over")

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
                insort(instances[row.instance_id].rows, row, key=_first_seq)
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
        self._write_letters(commit)
        for message in commit.sends:
            self._send_for(message)

    def _write_letters(self, commit: Commit) -> None:
        instances = self._instances
        for letter in commit.dead_letters:
            if letter.instance_id in instances:
                instances[letter.instance_id].letters[letter.task] = letter
        for instance_id in commit.redeemed:
            if instance_id in instances:
                instances[instance_id].letters.pop(0, None)

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
        index = bisect_left(instance.rows, row.first_seq, key=_first_seq)
        return instance.rows[index].first_seq == row.first_seq

    def _consume(self, number: int) -> None:
        message = self._inbox.pop(number, None)
        if message is not None:
            self._instances[message.instance_id].inbox.pop(number, None)

    def _may_insert(self, new: NewInstance) -> bool:
        old = self._instances.get(new.id)
        return old is None or (new.replace and old.record.status.is_terminal)

    def _insert(self, new: NewInstance) -> None:
        if new.id in self._instances:
            self._remove(new.id)
        self._instances[new.id] = _Instance(new)
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
        if self._windows:
            self._windows = {key: each for key, each in self._windows.items() if each.instance != instance_id}
        self._drop_wake(instance.record)
        for number in instance.inbox:
            del self._inbox[number]
        self._drop_tasks(instance_id, ALL_TASKS)

    async def transact(self, lease: Lease, instance_id: str, work: UserWork) -> SendResult:  # noqa: ARG002  # see there
        """See `Backend.transact`; here there is no database to share."""
        raise TransactionMisused(
            "a store in memory has no database in which a transactional activity could write: "
            "use 'sqlite:///orders.db', or in a test a stand-in for the activity, or an environment on such a file"
        )

    async def load(self, instance_ids: Sequence[str]) -> list[LoadedInstance]:
        """See `Backend.load`."""
        found: list[LoadedInstance] = []
        for instance_id in instance_ids:
            instance = self._instances.get(instance_id)
            if instance is not None:
                messages = [message for message, _ in instance.inbox.values()]
                first = bisect_left(instance.rows, instance.record.base_seq, key=_first_seq)
                beats = list(instance.beats.values())
                found.append(LoadedInstance(instance.record, instance.rows[first:], messages, beats))
        return found

    async def due(self, after: tuple[int, str], until_us: int, limit: int) -> list[tuple[int, str]]:
        """See `Backend.due`."""
        first = bisect_right(self._wakes, after)
        last = bisect_left(self._wakes, (until_us, ""))
        return self._wakes[first : min(last, first + limit)]

    async def next_wake(self, from_us: int) -> int | None:
        """See `Backend.next_wake`."""
        first = bisect_left(self._wakes, (from_us, ""))
        return self._wakes[first][0] if first < len(self._wakes) else None

    async def inbox(self, after: int, limit: int) -> list[Message]:
        """See `Backend.inbox`."""
        return list(islice((message for number, message in self._inbox.items() if number > after), limit))

    async def wait_for_change(self, timeout_s: float) -> bool:
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

    def _notify(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    async def circuits(self) -> list[Circuit]:
        """See `Backend.circuits`."""
        return [self._circuits[name] for name in sorted(self._circuits)]

    async def swap_circuit(self, circuit: Circuit) -> Circuit | None:
        """See `Backend.swap_circuit`."""
        there = self._circuits.get(circuit.name) or Circuit(circuit.name)
        if there.revision != circuit.revision - 1:
            return there
        self._circuits[circuit.name] = circuit
        self._notify()
        return None

    async def alerts(self) -> list[AlertRecord]:
        """See `Backend.alerts`."""
        return [self._alerts[key] for key in sorted(self._alerts)]

    async def change_alerts(self, lease: Lease, changes: AlertChanges) -> None:
        """See `Backend.change_alerts`."""
        self._check(lease)
        for record in changes.kept:
            self._alerts[record.key] = record
        for key in changes.resolved:
            self._alerts.pop(key, None)
        for number in changes.settled:
            self._notices.pop(number, None)
        for number, attempts, due_us in changes.delayed:
            if number in self._notices:
                self._notices[number] = self._notices[number]._replace(attempts=attempts, due_us=due_us)
        for sink, body, due_us in changes.notices:
            number = self._last_notice = self._last_notice + 1
            self._notices[number] = Notice(number, sink, body, 0, due_us)
        while len(self._notices) > NOTICES_MAX:
            del self._notices[next(iter(self._notices))]

    async def notices(self, sink: str, limit: int) -> list[Notice]:
        """See `Backend.notices`."""
        return [notice for notice in self._notices.values() if notice.sink == sink][:limit]

    async def takeovers(self, since_us: int) -> list[Takeover]:
        """See `Backend.takeovers`."""
        return [takeover for takeover in self._takeovers if takeover.at_us >= since_us]

    async def quiet(self, before_us: int, limit: int) -> list[QuietInstance]:
        """See `Backend.quiet`."""
        found: list[QuietInstance] = []
        for wake_us, instance_id in self._wakes[: bisect_left(self._wakes, (before_us, ""))]:
            record, rows = self._instances[instance_id].record, self._instances[instance_id].rows
            recorded_us = rows[-1].at_us if rows else record.created_us
            if record.status is Status.STALLED or recorded_us < before_us:
                quiet = QuietInstance(
                    instance_id, record.workflow, record.status, wake_us, recorded_us, record.stall_reason
                )
                found.append(quiet)
        return sorted(found, key=lambda each: (each.recorded_us, each.id))[:limit]

    # -- the client's side ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        """See `Backend.send`."""
        results = [self._send_one(message) for message in messages]
        self._notify()
        return results

    def _send_for(self, message: Outgoing) -> None:
        """Write what an instance sends, and for it what became of that."""
        answer = message.answers.get(self._send_one(message).outcome)
        if answer is not None and message.sender in self._instances:
            self._put(message.sender, answer)

    def _send_one(self, message: Outgoing) -> SendResult:
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
        inbox = self._instances[message.instance_id].inbox
        if message.event_id is None or all(event_id != message.event_id for _, event_id in inbox.values()):
            self._put(message.instance_id, message.data, message.event_id)

    def _put(self, instance_id: str, data: bytes, event_id: str | None = None) -> None:
        """Write a message for an instance that is there."""
        number = self._last_number = self._last_number + 1
        stored = self._inbox[number] = Message(number, instance_id, data)
        self._instances[instance_id].inbox[number] = (stored, event_id)

    def _is_active(self, instance_id: str) -> bool:
        instance = self._instances.get(instance_id)
        return instance is not None and not instance.record.status.is_terminal

    async def write_schedule(self, write: ScheduleWrite, lease: Lease | None = None) -> bool:
        """See `Backend.write_schedule`."""
        if lease is not None:
            self._check(lease)
        known = self._schedules.get(write.id)
        if (0 if known is None else known.revision) != write.revision:
            return False
        self._schedules.pop(write.id, None)
        if write.row is not None:
            self._schedules[write.id] = write.row
        for message in write.messages:
            self._send_one(message)
        self._notify()
        return True

    async def schedule(self, schedule_id: str) -> ScheduleRow | None:
        """See `Backend.schedule`."""
        return self._schedules.get(schedule_id)

    async def list_schedules(self, after: str, limit: int) -> list[ScheduleRow]:
        """See `Backend.list_schedules`."""
        return [self._schedules[each] for each in sorted(self._schedules) if each > after][:limit]

    async def due_schedules(self, after: tuple[int, str], limit: int) -> list[ScheduleRow]:
        """See `Backend.due_schedules`."""
        found = [(row.due_us, row.id) for row in self._schedules.values() if row.due_us is not None]
        return [self._schedules[schedule_id] for _, schedule_id in sorted(key for key in found if key > after)[:limit]]

    async def rewrite(self, rewrites: Sequence[Rewrite]) -> None:
        """See `Backend.rewrite`."""
        taken = {each.instance.id for each in rewrites if not each.after_seq and not self._may_insert(each.instance)}
        if taken:
            raise InstancesExist(taken)
        changed = {each.instance.id for each in rewrites if each.after_seq and not self._may_go_on(each)}
        if changed:
            raise AppendConflict(changed)
        for new, rows, _, after_seq in rewrites:
            if after_seq:
                change = InstanceChange(
                    new.id, new.status, new.wake_us, None, new.custom_status, None, new.base_seq, new.version
                )
                self._change(change)
                self._instances[new.id].letters.clear()
            else:
                self._insert(new)
            self._instances[new.id].rows += rows
        for rewrite in rewrites:
            for message in rewrite.messages:
                self._send_for(message)
        self._notify()

    def _may_go_on(self, rewrite: Rewrite) -> bool:
        known = self._instances.get(rewrite.instance.id)
        return (
            known is not None
            and known.record.status.is_terminal
            and bool(known.rows)
            and known.rows[-1].first_seq == rewrite.after_seq
        )

    async def debounce(self, start: DebouncedStart) -> str:
        """See `Backend.debounce`."""
        key = (start.new.workflow, start.new.version, start.key)
        window = self._windows.get(key)
        known = None if window is None else self._instances.get(window.instance)
        if window is not None and known is not None and not known.record.status.is_terminal:
            until_us = window.until_us
            start_at_us = start.start_at_us if until_us is None else min(start.start_at_us, until_us)
            self._windows[key] = window._replace(changed=start.changed, start_at_us=start_at_us)
            if known.record.status is Status.PENDING and known.record.wake_us:
                self._wake_instead_at(known, start_at_us)
            return window.instance
        if not self._may_insert(start.new):
            raise InstancesExist({start.new.id})
        self._insert(start.new)
        self._windows[key] = _Window(start.new.id, start.changed, start.start_at_us, start.until_us)
        self._put(start.new.id, start.started, None)
        self._notify()
        return start.new.id

    def _wake_instead_at(self, instance: _Instance, wake_us: int) -> None:
        record = instance.record
        self._drop_wake(record)
        instance.record = msgspec.structs.replace(record, wake_us=wake_us)
        insort(self._wakes, (wake_us, record.id))

    async def close_window(self, instance_id: str, now_us: int) -> int | None:
        """See `Backend.close_window`."""
        for key, window in self._windows.items():
            if window.instance == instance_id:
                if window.start_at_us > now_us:
                    return window.start_at_us
                del self._windows[key]
                if not self._instances[instance_id].record.status.is_terminal:
                    self._put(instance_id, window.changed, None)
                break
        return None

    async def record(self, instance_id: str) -> InstanceRecord | None:
        """See `Backend.record`."""
        instance = self._instances.get(instance_id)
        return None if instance is None else instance.record

    async def history(self, instance_id: str, from_seq: int, limit: int) -> list[HistoryRow]:
        """See `Backend.history`."""
        instance = self._instances.get(instance_id)
        if instance is None:
            return []
        rows = instance.rows
        first = max(0, bisect_left(rows, from_seq + 1, key=_first_seq) - 1)
        return rows[first : first + limit]

    async def last_row(self, instance_id: str) -> HistoryRow | None:
        """See `Backend.last_row`."""
        instance = self._instances.get(instance_id)
        return instance.rows[-1] if instance is not None and instance.rows else None

    async def list_records(self, query: Query) -> list[InstanceRecord]:
        """See `Backend.list`."""
        matching = [i.record for i in self._instances.values() if _matches(i.record, query)]
        matching.sort(key=lambda record: (record.created_us, record.id), reverse=True)
        return matching[: query.limit]

    async def finished(
        self, statuses: Collection[Status], before_us: int, after: tuple[int, str], limit: int
    ) -> list[tuple[int, str]]:
        """See `Backend.finished`."""
        found = [
            (record.created_us, record.id)
            for record in (instance.record for instance in self._instances.values())
            if record.status in statuses
            and record.finished_us is not None
            and record.finished_us < before_us
            and (record.created_us, record.id) > after
        ]
        return sorted(found)[:limit]

    async def dead_letters(self, query: DeadLetterQuery) -> list[DeadLetter]:
        """See `Backend.dead_letters`."""
        found = [
            letter
            for instance in self._instances.values()
            for letter in instance.letters.values()
            if query.kind in (None, letter.kind)
            and query.name in (None, letter.name)
            and query.type_name in (None, letter.type_name)
            and query.instance_id in (None, letter.instance_id)
            and (query.after is None or (letter.at_us, letter.instance_id, letter.task) < query.after)
        ]
        found.sort(key=lambda letter: (letter.at_us, letter.instance_id, letter.task), reverse=True)
        return found[: query.limit]

    async def discard(self, letters: Sequence[tuple[str, int]]) -> int:
        """See `Backend.discard`."""
        known = [self._instances.get(instance_id) for instance_id, _ in letters]
        return sum(
            instance is not None and instance.letters.pop(task, None) is not None
            for instance, (_, task) in zip(known, letters, strict=True)
        )

    async def purge(self, instance_ids: Sequence[str]) -> list[str]:
        """See `Backend.purge`."""
        purged: list[str] = []
        for instance_id in instance_ids:
            instance = self._instances.get(instance_id)
            if instance is not None and instance.record.status.is_terminal:
                self._remove(instance_id)
                purged.append(instance_id)
        return purged

    async def take_in(self, arrivals: Sequence[Arrival]) -> set[str]:
        """See `Backend.take_in`."""
        taken: set[str] = set()
        for arrival in arrivals:
            record = arrival.record
            if record.id in self._instances:
                taken.add(record.id)
                continue
            new = NewInstance(record.id, record.workflow, record.version, record.status, record.created_us, None, {})
            made = self._instances[record.id] = _Instance(new)
            made.record = record
            made.rows = sorted(arrival.rows, key=_first_seq)
            made.beats = {beat.task: beat for beat in arrival.heartbeats}
            if record.wake_us is not None:
                insort(self._wakes, (record.wake_us, record.id))
            for message in arrival.messages:
                self._put_in(message)
        self._notify()
        return taken


def _first_seq(row: HistoryRow) -> int:
    return row.first_seq


def _matches(record: InstanceRecord, query: Query) -> bool:
    return (
        (not query.statuses or record.status in query.statuses)
        and query.workflow in (None, record.workflow)
        and record.id.startswith(query.id_prefix or "")
        and (query.created_from_us is None or record.created_us >= query.created_from_us)
        and (query.created_before_us is None or record.created_us < query.created_before_us)
        and query.parent in (None, record.parent)
        and (query.after is None or (record.created_us, record.id) < query.after)
        and all(record.tags.get(key) == value for key, value in query.tags.items())
    )
