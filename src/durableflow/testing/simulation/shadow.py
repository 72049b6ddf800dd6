"""What the store should hold: a second book, kept from the calls that were applied, by none of the engine's code.

Each instance has a shadow, which takes event by event and remembers what the invariants ask for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Sequence
from typing import Any, Final, NamedTuple

from durableflow.backends.base import (
    Commit,
    HistoryRow,
    InstanceChange,
    Lease,
    NewInstance,
    Outgoing,
    ScheduleWrite,
    SendResult,
)
from durableflow.core.others import derived_id
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.testing.simulation.loop import Process
from durableflow.testing.simulation.network import Applied

STATUS_OF_END: Final[dict[type, Status]] = {
    ev.InstanceCompleted: Status.COMPLETED,
    ev.InstanceFailed: Status.FAILED,
    ev.InstanceTimedOut: Status.FAILED,
    ev.InstanceTerminated: Status.TERMINATED,
    ev.InstanceCancelled: Status.CANCELLED,
}


class ShadowInstance:
    """One instance, as its committed events say.

    Attributes:
        birth: what made it.
        owner: worker that runs it, where instances have owners; 0 for none.
        asked: decisions that may be answered, by task.
        answered: what answered them, once and for ever.
        allowed: task and attempt of those that may have been begun.
        current: the attempt of each activity that is open.
        due_us: when timers and waits are due, by task.
        retry_at_us: before which the next attempt of an activity must not begin.
        digest: of all rows, in order.
    """

    def __init__(self, birth: NewInstance) -> None:
        self.id = birth.id
        self.birth = birth
        self.owner = 0
        self.status = birth.status
        self.finished_us = birth.finished_us
        self.rows: list[tuple[int, int, list[ev.Event]]] = []
        self.next_seq = 1
        self.last_us = 0
        self.row_us = 0
        """The time of the row whose events are being taken."""
        self.since_us: dict[int, int] = {}
        """When something was last heard of an activity, or will be."""
        self.first: ev.InstanceStarted | None = None
        self.is_between_rounds = False
        self.end: ev.Event | None = None
        self.is_suspended = False
        self.asked: dict[int, ev.Event] = {}
        self.answered: dict[int, ev.Event] = {}
        self.over_while_suspended: set[int] = set()
        """Waits that timed out while it was suspended."""
        self.cancelled: set[int] = set()
        self.given_up: set[int] = set()
        """Whose answer no round waits for: they were open when theirs ended, unless an event had settled them."""
        self.allowed: set[tuple[int, int]] = set()
        self.current: dict[int, int] = {}
        self.due_us: dict[int, int] = {}
        self.retry_at_us: dict[int, int] = {}
        self.received: list[ev.EventReceived] = []
        self.received_ids: set[str] = set()
        self.held: list[ev.EventReceived] = []
        """Came while it was suspended, in rows since then."""
        self.told_again: list[ev.EventReceived] = []
        """Of those, what may be received again: a round began before it could be delivered."""
        self.requests: dict[str, bool] = {}
        self.digest = hashlib.blake2b(digest_size=16)

    def __repr__(self) -> str:
        return f"<shadow of {self.id!r}, {self.next_seq - 1} events>"

    def take_row(self, row: HistoryRow, events: list[ev.Event]) -> None:
        """A row is there; its events have been taken."""
        if not self.is_suspended and not self.is_between_rounds and type(events[0]) is not ev.InstanceStarted:
            self.held.clear()
        self.rows.append((row.first_seq, row.at_us, events))
        self.next_seq = row.first_seq + len(events)
        self.last_us = row.at_us
        self.digest.update(b"%d %d %d " % (row.first_seq, row.at_us, len(row.events)))
        self.digest.update(row.events)

    def take(self, event: ev.Event) -> None:
        """An event of a row."""
        taker = _TAKERS.get(type(event))
        if taker is not None:
            taker(self, event)
        elif type(event) in ev.ENDS:
            self.end = event

    def overdue(self, before_us: int) -> str:
        """Timers that were due before then; of a wait with a limit only its own event could say that it is over."""
        if self.is_suspended or self.end is not None:
            return ""
        late = [task for task, due_us in self.due_us.items() if due_us < before_us]
        return ", ".join(f"timer {task}" for task in late if isinstance(self.asked[task], ev.TimerCreated))

    def what_is_open(self, before_us: int, over: Container[str]) -> str:
        """What the engine owes it: timers that were due before then, attempts, answers of those that are over."""
        if self.is_suspended:
            return ""
        late = self.overdue(before_us)
        owed = [late] if late else []
        for task, number in self.current.items():
            if self.since_us[task] < before_us:
                owed.append(f"activity {task}, attempt {number}")
        for task, asked in self.asked.items():
            if task in self.answered or task in self.cancelled or task in self.given_up:
                continue
            if isinstance(asked, ev.MessageSent):
                owed.append(f"message {task}")
            elif isinstance(asked, ev.ChildScheduled):
                child_id = asked.child_id or derived_id(self.id, task)
                owed += [f"the result of {child_id}"] if child_id in over else []
        return ", ".join(owed)


# -- what each kind of event means --------------------------------------------------------------------------------


def _start(instance: ShadowInstance, event: ev.InstanceStarted) -> None:
    instance.first = instance.first or event
    instance.is_between_rounds = False
    if event.round is not None and event.round.state is not None:
        instance.told_again += instance.held
    else:
        instance.told_again.clear()  # what a round that begins anew has not used is among what it keeps
    instance.held.clear()


def _schedule(instance: ShadowInstance, event: ev.ActivityScheduled) -> None:
    instance.asked[event.task] = event
    instance.current[event.task] = 1
    instance.since_us[event.task] = instance.row_us
    instance.allowed.add((event.task, 1))


def _queue(instance: ShadowInstance, event: ev.ActivityQueued) -> None:
    instance.allowed.discard((event.task, 1))


def _begin_attempt(instance: ShadowInstance, event: ev.ActivityStarted) -> None:
    instance.since_us[event.task] = instance.row_us
    instance.allowed.add((event.task, event.attempt))


def _fail_attempt(instance: ShadowInstance, event: ev.AttemptFailed) -> None:
    instance.current[event.task] = event.attempt + 1
    instance.retry_at_us[event.task] = instance.since_us[event.task] = event.retry_at_us


def _answer(instance: ShadowInstance, event: Any) -> None:
    instance.answered[event.task] = event
    instance.due_us.pop(event.task, None)
    instance.current.pop(event.task, None)


def _ask(instance: ShadowInstance, event: Any) -> None:
    instance.asked[event.task] = event
    due_us = getattr(event, "due_us", 0)
    if due_us:
        instance.due_us[event.task] = due_us


def _fire(instance: ShadowInstance, event: ev.TimerFired) -> None:
    if instance.is_suspended:
        instance.over_while_suspended.add(event.task)
    _answer(instance, event)


def _cancel(instance: ShadowInstance, event: ev.TaskCancelled) -> None:
    instance.cancelled.add(event.task)
    instance.due_us.pop(event.task, None)


def _receive(instance: ShadowInstance, event: ev.EventReceived) -> None:
    if event in instance.told_again:
        instance.told_again.remove(event)
    else:
        instance.received.append(event)
    if instance.is_suspended:
        instance.held.append(event)
    if event.event_id is not None:
        instance.received_ids.add(event.event_id)


def _request(instance: ShadowInstance, event: ev.RequestReceived) -> None:
    instance.requests[event.request_id] = False


def _answer_request(instance: ShadowInstance, event: ev.RequestAnswered) -> None:
    instance.requests[event.request_id] = True


def _suspend(instance: ShadowInstance, _: ev.Event) -> None:
    instance.is_suspended = True


def _resume(instance: ShadowInstance, _: ev.Event) -> None:
    instance.is_suspended = False


def _end_round(instance: ShadowInstance, _: ev.Event) -> None:
    instance.is_between_rounds = True
    instance.given_up.update(instance.asked.keys() - instance.answered.keys())
    instance.due_us.clear()
    instance.current.clear()


_TAKERS: Final[dict[type, Callable[[ShadowInstance, Any], None]]] = {
    ev.InstanceStarted: _start,
    ev.ActivityScheduled: _schedule,
    ev.ActivityQueued: _queue,
    ev.ActivityStarted: _begin_attempt,
    ev.AttemptFailed: _fail_attempt,
    ev.ActivityCompleted: _answer,
    ev.ActivityFailed: _answer,
    ev.ChildCompleted: _answer,
    ev.ChildFailed: _answer,
    ev.MessageAnswered: _answer,
    ev.TimerFired: _fire,
    ev.ChildScheduled: _ask,
    ev.MessageSent: _ask,
    ev.TimerCreated: _ask,
    ev.EventAwaited: _ask,
    ev.TaskCancelled: _cancel,
    ev.EventReceived: _receive,
    ev.RequestReceived: _request,
    ev.RequestAnswered: _answer_request,
    ev.InstanceSuspended: _suspend,
    ev.InstanceResumed: _resume,
    ev.CheckpointTaken: _end_round,
    ev.ContinuedAsNew: _end_round,
}


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


class Shadow:
    """The second book of one store.

    Args:
        clock: says what time it is for a process.
    """

    def __init__(self, judge: Judge, clock: Callable[[Process], int], *, is_fleet: bool) -> None:
        self._judge = judge
        self._clock = clock
        self.is_fleet = is_fleet
        self.instances: dict[str, ShadowInstance] = {}
        self.living: dict[int, int] = {}
        """Workers that nobody has declared dead, with the end of their lease by the clock of the store."""
        self.commits = 0

    def note(self, applied: Applied) -> None:
        """A call was applied."""
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
            if self.instances[instance_id].owner == lease.worker_id:
                self.instances[instance_id].owner = 0

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

    def _bear(self, new: NewInstance, owner: int) -> ShadowInstance:
        self._judge.on_birth(self.instances.get(new.id), new)
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
            instance.row_us = row.at_us
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
