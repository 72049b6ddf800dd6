"""One instance as its committed events say, kept by none of the engine's code.

A shadow takes event by event, and remembers what the invariants ask for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Sequence
from typing import Any, Final

from durableflow.backends.base import HistoryRow, NewInstance
from durableflow.core.others import derived_id
from durableflow.model import events as ev
from durableflow.model.round import Round
from durableflow.model.status import Status

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
        self.digest = hashlib.blake2b(digest_size=16)
        self.next_seq = 1
        self.last_us = 0
        self.row_us = 0
        """The time of the row whose events are being taken."""
        self.written_us = 0
        """When that was written, by its writer's clock, which may be behind the time of the instance."""
        self.first: ev.InstanceStarted | None = None
        self.called: set[str] = set()
        """Children that it has ever asked for."""
        self.ends: list[ev.Event] = []
        """All that it ever had: a rewind lets it go on behind one."""
        self.rewinds = 0
        self.purged_us: int | None = None
        """When it was, by the time of the world."""
        self.is_copy = False
        self.copied: frozenset[int] = frozenset()
        """Tasks that were answered or cancelled in the one of which it is a copy: it asks again for what was open."""
        self._know_nothing()

    def _know_nothing(self) -> None:
        """What a history says of where its instance stands, before it says anything."""
        self.since_us: dict[int, int] = {}
        """When something was last heard of an activity, or will be."""
        self.begun_us: dict[int, int] = {}
        """When the attempt of an activity was allowed to begin, by the clock of whoever makes it."""
        self.is_between_rounds = False
        self.has_begun = False
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
        self.handed_over: set[int] = set()
        """Activities whose attempt is made by whoever has its token."""
        self.due_us: dict[int, int] = {}
        self.retry_at_us: dict[int, int] = {}
        self.received: list[ev.EventReceived] = []
        """Those too that rounds have left to it whose rows it has not."""
        self.received_ids: set[str] = set()
        self.held: list[ev.EventReceived] = []
        """Came while it was suspended, in rows since then."""
        self.told_again: list[ev.EventReceived] = []
        """Of those, what may be received again: a round began before it could be delivered."""
        self.requests: dict[str, bool] = {}
        self.letters: set[int] = set()
        """Its dead letters: activities that are exhausted, and 0 for itself."""

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
            self.ends.append(event)
            if STATUS_OF_END[type(event)] is Status.FAILED:
                self.letters.add(0)

    def copy_rows(self, rows: Sequence[HistoryRow]) -> None:
        """Rows that were before, here or elsewhere, are written again; dead letters of then are not."""
        for row in rows:
            self.row_us = row.at_us
            events = ev.load_events(row.events)
            for event in events:
                self.take(event)
            self.take_row(row, events)
        self.letters.clear()

    def go_on(self, new: NewInstance, rows: Sequence[HistoryRow]) -> None:
        """It was over, and is rewound: a note, and then the rows that count."""
        self.rewinds += 1
        self.take_row(rows[0], ev.load_events(rows[0].events))
        self._know_nothing()
        self.copy_rows(rows[1:])
        self.status, self.finished_us = new.status, None

    def overdue(self, before_us: int) -> str:
        """Timers that were due before then; of a wait with a limit only its own event could say that it is over."""
        if self.is_suspended or self.end is not None:
            return ""
        late = [task for task, due_us in self.due_us.items() if due_us < before_us]
        return ", ".join(f"timer {task}" for task in late if isinstance(self.asked[task], ev.TimerCreated))

    def what_is_open(self, before_us: int, over: Container[str], *, has_places: bool) -> str:
        """What the engine owes it: timers that were due before then, attempts, answers of those that are over.

        Args:
            has_places: whether there was a place since then for an attempt of its worker's.
        """
        if self.is_suspended or self.end is not None:
            return ""
        late = self.overdue(before_us)
        owed = [late] if late else []
        for task, number in self.current.items():
            is_in_line = (task, number) not in self.allowed and not self.is_elsewhere(task)
            if self.since_us[task] < before_us and (has_places or not is_in_line):
                owed.append(f"activity {task}, attempt {number}")
        for task, asked in self.asked.items():
            if task in self.answered or task in self.cancelled or task in self.given_up:
                continue
            if isinstance(asked, ev.MessageSent):
                owed += [f"message {task}"] if self.since_us[task] < before_us else []
            elif isinstance(asked, ev.ChildScheduled):
                child_id = self.child_id(asked)
                owed += [f"the result of {child_id}"] if child_id in over else []
        return ", ".join(owed)

    def is_queued(self, task: int) -> bool:
        """Whether it is an activity whose attempts a queue hands out."""
        asked = self.asked.get(task)
        return isinstance(asked, ev.ActivityScheduled) and asked.options is not None and bool(asked.options.queue)

    def is_elsewhere(self, task: int) -> bool:
        """Whether the attempts of an activity are not those of the worker that runs the instance."""
        return task in self.handed_over or self.is_queued(task)

    def has_recorded(self, result: ev.ActivityCompleted) -> bool:
        """Whether its rows have this result already: of what it is a copy of, and was rewound to before it."""
        events = (event for _, _, row in self.rows for event in row)
        found = (event for event in events if isinstance(event, ev.ActivityCompleted) and event.task == result.task)
        return any(event.output == result.output for event in found)

    def child_id(self, asked: ev.ChildScheduled) -> str:
        """The id of the child that it asked for."""
        return asked.child_id or derived_id(self.id, asked.task)

    def open_tasks(self, kind: type) -> list[int]:
        """What it has asked for of this kind that is neither answered nor given up."""
        return [
            task
            for task, asked in self.asked.items()
            if isinstance(asked, kind) and not {task} & (self.answered.keys() | self.cancelled | self.given_up)
        ]


# -- what each kind of event means --------------------------------------------------------------------------------


def _start(instance: ShadowInstance, event: ev.InstanceStarted) -> None:
    instance.first = instance.first or event
    if event.round is not None and not instance.is_between_rounds:
        _carry_in(instance, event.round)
    instance.has_begun = not event.queue and not event.debounced and event.start_at_us <= instance.row_us
    instance.is_between_rounds = False
    if event.round is not None and event.round.state is not None:
        instance.told_again += instance.held
    else:
        instance.told_again.clear()  # what a round that begins anew has not used is among what it keeps
    instance.held.clear()


def _carry_in(instance: ShadowInstance, following: Round) -> None:
    """It has no rows of the rounds before this one: it is a copy, or was rewound. What they left is all it knows."""
    instance.received += [ev.EventReceived(kept.name, kept.payload) for kept in following.kept]
    instance.received_ids.update(following.event_ids)


def _begin(instance: ShadowInstance, _: ev.Event) -> None:
    instance.has_begun = True


def _schedule(instance: ShadowInstance, event: ev.ActivityScheduled) -> None:
    instance.asked[event.task] = event
    instance.current[event.task] = 1
    instance.since_us[event.task], instance.begun_us[event.task] = instance.row_us, instance.written_us
    instance.allowed.add((event.task, 1))


def _queue(instance: ShadowInstance, event: ev.ActivityQueued) -> None:
    instance.allowed.discard((event.task, 1))


def _begin_attempt(instance: ShadowInstance, event: ev.ActivityStarted) -> None:
    instance.since_us[event.task], instance.begun_us[event.task] = instance.row_us, instance.written_us
    instance.allowed.add((event.task, event.attempt))


def _fail_attempt(instance: ShadowInstance, event: ev.AttemptFailed) -> None:
    instance.handed_over.discard(event.task)
    instance.current[event.task] = event.attempt + 1
    instance.retry_at_us[event.task] = instance.since_us[event.task] = event.retry_at_us


def _retry(instance: ShadowInstance, event: ev.ActivityRetried) -> None:
    """Somebody wants more attempts: in a queue they are counted anew."""
    instance.handed_over.discard(event.task)
    instance.current[event.task] = 1 if instance.is_queued(event.task) else event.attempt + 1
    instance.retry_at_us[event.task] = instance.since_us[event.task] = instance.row_us


def _exhaust(instance: ShadowInstance, event: ev.ActivityFailed) -> None:
    instance.letters.add(event.task)
    _answer(instance, event)


def _answer(instance: ShadowInstance, event: Any) -> None:
    instance.answered[event.task] = event
    _settle(instance, event.task)


def _settle(instance: ShadowInstance, task: int) -> None:
    """Nothing more is to be done for it."""
    instance.due_us.pop(task, None)
    instance.current.pop(task, None)
    instance.handed_over.discard(task)


def _hand_over(instance: ShadowInstance, event: ev.ActivityHandedOver) -> None:
    instance.handed_over.add(event.task)


def _ask(instance: ShadowInstance, event: Any) -> None:
    instance.asked[event.task], instance.since_us[event.task] = event, instance.row_us
    due_us = getattr(event, "due_us", 0)
    if due_us:
        instance.due_us[event.task] = due_us
    if isinstance(event, ev.ChildScheduled):
        instance.called.add(instance.child_id(event))


def _fire(instance: ShadowInstance, event: ev.TimerFired) -> None:
    if instance.is_suspended:
        instance.over_while_suspended.add(event.task)
    _answer(instance, event)


def _cancel(instance: ShadowInstance, event: ev.TaskCancelled) -> None:
    instance.cancelled.add(event.task)
    _settle(instance, event.task)


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
    ev.ActivityFailed: _exhaust,
    ev.ActivityHandedOver: _hand_over,
    ev.ActivityRetried: _retry,
    ev.InstanceBegan: _begin,
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
