"""What the store should hold: a second book, kept from the calls that were applied, by none of the engine's code.

Each instance has a shadow, which takes event by event and remembers what the invariants ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from durableflow.backends.base import (
    Commit,
    DebouncedStart,
    HistoryRow,
    InstanceChange,
    Lease,
    NewInstance,
    Outgoing,
    Rewrite,
    ScheduleWrite,
    SendResult,
)
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.testing.simulation.loop import Process
from durableflow.testing.simulation.network import Applied
from durableflow.testing.simulation.shadow_instance import ShadowInstance


class Writer(NamedTuple):
    """Who has written something, and when by their own clock."""

    process: Process
    lease: Lease
    now_us: int


class Judge:
    """Told of what is written, event by event, before the shadow takes it. The invariants are its law."""

    def on_event(self, writer: Writer, instance: ShadowInstance, row: HistoryRow, event: ev.Event) -> None:
        """`event` is the next of `instance`."""

    def on_row(self, writer: Writer, instance: ShadowInstance, row: HistoryRow, events: Sequence[ev.Event]) -> None:
        """`row` is the next of `instance`."""

    def on_commit(self, writer: Writer, touched: Sequence[ShadowInstance]) -> None:
        """A commit was applied; the shadow has taken it."""

    def on_birth(self, known: ShadowInstance | None, new: NewInstance) -> None:
        """An instance is made; `known` is the one that had its id."""

    def on_rewind(self, instance: ShadowInstance, rewrite: Rewrite) -> None:
        """Somebody lets an instance go on that was over."""

    def on_copy(self, rewrite: Rewrite) -> None:
        """Somebody makes an instance that is a copy of another."""

    def on_purge(self, asked: Sequence[str], purged: Sequence[ShadowInstance]) -> None:
        """Of the instances that somebody has asked to be removed, these were."""


class Window:
    """Starts of one key that wait for each other; the latest counts."""

    def __init__(self, start: DebouncedStart) -> None:
        self.instance_id = start.new.id
        self.until_us = start.until_us
        self.is_open = True
        self.take(start)

    def take(self, start: DebouncedStart) -> None:
        """A start finds it open, or has opened it."""
        self.changed = start.changed
        self.start_at_us = start.start_at_us if self.until_us is None else min(start.start_at_us, self.until_us)


class Shadow:
    """The second book of one store.

    Args:
        clock: says what time it is for a process.
    """

    def __init__(self, judge: Judge, clock: Callable[[Process], int], *, is_fleet: bool) -> None:
        self._judge = judge
        self._clock = clock
        self.is_fleet = is_fleet
        self._applied_us = 0
        self.instances: dict[str, ShadowInstance] = {}
        self.living: dict[int, int] = {}
        """Workers that nobody has declared dead, with the end of their lease by the clock of the store."""
        self._processes: dict[int, Process] = {}
        """Of each worker that there ever was."""
        self.commits = 0
        self.graves: dict[str, list[ShadowInstance]] = {}
        """Instances that were purged or replaced."""
        self.windows: dict[str, Window] = {}
        """By the instance that waits for its end."""

    def everybody(self) -> list[ShadowInstance]:
        """All instances that there ever were."""
        return [*self.instances.values(), *(each for graves in self.graves.values() for each in graves)]

    def lives(self, instance_id: str) -> list[ShadowInstance]:
        """All instances that have ever had an id."""
        now = self.instances.get(instance_id)
        return [*self.graves.get(instance_id, ()), *(() if now is None else (now,))]

    def process_of(self, instance: ShadowInstance) -> Process | None:
        """Which process runs an instance now; None when nobody does."""
        worker_id = instance.owner if self.is_fleet else next(iter(self.living), 0)
        return self._processes.get(worker_id)

    def lives_since(self, instance_id: str, us: int) -> list[ShadowInstance]:
        """Those of `lives` that were there then, or have been since."""
        return [each for each in self.lives(instance_id) if each.purged_us is None or each.purged_us >= us]

    def note(self, applied: Applied) -> None:
        """A call was applied."""
        self._applied_us = applied.at_us
        taker = getattr(self, f"_note_{applied.method}", None)
        if taker is not None:
            taker(applied, *applied.args)

    # -- who works ------------------------------------------------------------------------------------------

    def _note_acquire(self, applied: Applied, *_: object) -> None:
        lease = applied.answer
        if lease is not None:
            if not self.is_fleet:
                self.living.clear()
            self.living[lease.worker_id] = lease.expires_us
            self._processes[lease.worker_id] = applied.process

    def _note_renew(self, applied: Applied, lease: Lease, *_: object) -> None:
        if lease.worker_id in self.living:
            self.living[lease.worker_id] = applied.answer.expires_us

    def _note_release(self, _: Applied, lease: Lease) -> None:
        self.living.pop(lease.worker_id, None)

    def _note_claim_instances(self, applied: Applied, lease: Lease, *_: object) -> None:
        if self.is_fleet:  # whoever claims declares those dead whose lease is over
            self.living = {each: us for each, us in self.living.items() if us >= applied.at_us}
        for claimed in applied.answer:
            self.instances[claimed.id].owner = lease.worker_id

    def _note_hand_over(self, _: Applied, lease: Lease, instance_ids: Sequence[str]) -> None:
        for instance_id in instance_ids:
            instance = self.instances.get(instance_id)  # it may have ended, and been purged, since it was looked up
            if instance is not None and instance.end is None and instance.owner == lease.worker_id:
                instance.owner = 0

    # -- what is written ------------------------------------------------------------------------------------

    def _note_send(self, applied: Applied, messages: Sequence[Outgoing]) -> None:
        results: Sequence[SendResult] = applied.answer
        for message, result in zip(messages, results, strict=True):
            if message.new is not None and result.outcome == "delivered":
                self._bear(message.new, 0)

    def _note_write_schedule(self, applied: Applied, write: ScheduleWrite, *_: object) -> None:
        if applied.answer:
            for message in write.messages:
                self._born_by_sending(message)

    def _note_rewrite(self, _: Applied, rewrites: Sequence[Rewrite]) -> None:
        for rewrite in rewrites:
            if rewrite.after_seq:
                instance = self.instances[rewrite.instance.id]
                self._judge.on_rewind(instance, rewrite)
                instance.go_on(rewrite.instance, rewrite.rows)
            else:
                self._judge.on_copy(rewrite)
                copy = self._bear(rewrite.instance, 0)
                copy.copy_rows(rewrite.rows)
                copy.is_copy, copy.copied = True, frozenset(copy.answered).union(copy.cancelled)
        for rewrite in rewrites:
            for message in rewrite.messages:
                self._born_by_sending(message)

    def _note_purge(self, applied: Applied, instance_ids: Sequence[str]) -> None:
        purged = [self.instances.pop(each) for each in applied.answer]
        for instance in purged:
            instance.purged_us = applied.at_us
            self.graves.setdefault(instance.id, []).append(instance)
        self._judge.on_purge(instance_ids, purged)

    def _note_discard(self, _: Applied, letters: Sequence[tuple[str, int]]) -> None:
        for instance_id, task in letters:
            if instance_id in self.instances:
                self.instances[instance_id].letters.discard(task)

    def _note_debounce(self, applied: Applied, start: DebouncedStart) -> None:
        if applied.answer == start.new.id:
            self._bear(start.new, 0)
            self.windows[start.new.id] = Window(start)
        else:
            self.windows[applied.answer].take(start)

    def _note_close_window(self, applied: Applied, instance_id: str, *_: object) -> None:
        if applied.answer is None and instance_id in self.windows:
            self.windows[instance_id].is_open = False

    def _bear(self, new: NewInstance, owner: int) -> ShadowInstance:
        known = self.instances.get(new.id)
        self._judge.on_birth(known, new)
        if known is not None:
            known.purged_us = self._applied_us
            self.graves.setdefault(new.id, []).append(known)
        made = self.instances[new.id] = ShadowInstance(new)
        made.owner = owner
        return made

    def _note_commit(self, applied: Applied, lease: Lease, commit: Commit) -> None:
        self.commits += 1
        writer = Writer(applied.process, lease, self._clock(applied.process))
        touched: dict[str, ShadowInstance] = {}
        for new in commit.new:
            touched[new.id] = self._bear(new, lease.worker_id)
        for row in sorted(commit.rows, key=_first_seq):
            instance = self.instances.get(row.instance_id)
            if instance is None:
                continue
            touched[row.instance_id] = instance
            events = ev.load_events(row.events)
            instance.row_us, instance.written_us = row.at_us, writer.now_us
            self._judge.on_row(writer, instance, row, events)
            for event in events:
                self._judge.on_event(writer, instance, row, event)
                instance.take(event)
            instance.take_row(row, events)
        for change in commit.changes:
            self._change(touched, change)
        for message in commit.sends:
            self._born_by_sending(message)
        self._judge.on_commit(writer, list(touched.values()))

    def _change(self, touched: dict[str, ShadowInstance], change: InstanceChange) -> None:
        instance = self.instances.get(change.id)
        if instance is not None:
            if change.status is Status.STALLED:
                instance.letters.add(0)
            elif instance.status is Status.STALLED and change.status is not Status.FAILED:
                instance.letters.discard(0)
            instance.status, instance.finished_us = change.status, change.finished_us
            touched[change.id] = instance

    def _born_by_sending(self, message: Outgoing) -> None:
        """A child is born unless its id is taken, which the store alone decides; the sender is told then."""
        new = message.new
        if new is None:
            return
        known = self.instances.get(new.id)
        if known is None or (new.replace and known.end is not None):
            self._bear(new, 0)


def _first_seq(row: HistoryRow) -> int:
    return row.first_seq
