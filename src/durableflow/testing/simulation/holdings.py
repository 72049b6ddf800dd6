"""What the store holds beside the histories, compared with what they say, whenever it was written.

These checkers ask the store itself, in the moment in which a call was applied: between two commits there is no state
in which work is lost or left over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from durableflow.backends.base import Backend, DeadLetterQuery, Message, Rewrite
from durableflow.backends.tasks import START
from durableflow.model import events as ev
from durableflow.model.round import Round
from durableflow.model.status import Status
from durableflow.testing.simulation.invariants import Invariant
from durableflow.testing.simulation.network import finish
from durableflow.testing.simulation.shadow import Shadow
from durableflow.testing.simulation.shadow_instance import ShadowInstance

F = TypeVar("F", bound=Callable[..., str | None])

HOLDINGS: Final[list[Invariant]] = []


def holding(number: str, place: str) -> Callable[[F], F]:
    """Make a function the checker of a promise; its name says what holds."""

    def enter(check: F) -> F:
        HOLDINGS.append(Invariant(number, check.__name__, place, check))
        return check

    return enter


# -- with each commit, for each instance of which it says something, and for those who wait for its end ------------


@holding("I7", "store")
def what_is_asked_for_is_under_way(instance: ShadowInstance, store: Backend) -> str | None:
    """Each decision without an answer has its work: a time to wake, a place in a queue, a child, a message."""
    if instance.end is not None or instance.status is Status.STALLED:
        return None
    (loaded,) = finish(store.load([instance.id]))
    wake_us = loaded.record.wake_us
    for task, due_us in _wakes(instance):
        if wake_us is None or wake_us > due_us:
            return f"task {task} must go on at {due_us}, but it is looked at {wake_us}"
    answered = _answers_in(loaded.messages)
    queued = [task for task in instance.current if instance.is_elsewhere(task)]
    if instance.first is not None and instance.first.queue and not instance.has_begun:
        queued.append(START)
    for task in queued:
        if task not in answered and finish(store.task(instance.id, task)) is None:
            return f"task {task} is in no queue, and no answer to it waits"
    for task in instance.open_tasks(ev.MessageSent):
        if task not in answered:
            return f"message {task} has no answer, and none waits"
    for task in instance.open_tasks(ev.ChildScheduled):
        asked = instance.asked[task]
        assert isinstance(asked, ev.ChildScheduled)
        child = finish(store.record(instance.child_id(asked)))
        if task not in answered and (child is None or child.status.is_terminal):
            return f"child {task} is {'missing' if child is None else child.status}, and no word of it waits"
    return None


def _wakes(instance: ShadowInstance) -> list[tuple[int, int]]:
    """Tasks that the engine must think of by itself, and when."""
    found: list[tuple[int, int]] = []
    for task, number in instance.current.items():
        if not instance.is_elsewhere(task):
            is_begun = (task, number) in instance.allowed
            found.append((task, 0 if is_begun else instance.retry_at_us.get(task, 0)))
    found += [(t, us) for t, us in instance.due_us.items() if isinstance(instance.asked[t], ev.TimerCreated)]
    return found


def _answers_in(messages: list[Message]) -> set[int]:
    """Tasks that messages in the inbox answer, or say that their place in a queue has another."""
    events = [ev.load_event(message.data) for message in messages]
    begun = {START} if any(isinstance(event, ev.InstanceBegan) for event in events) else set[int]()
    return begun | {event.task for event in events if isinstance(event, _ANSWERS)}


_ANSWERS: Final = (
    ev.ActivityCompleted,
    ev.ActivityFailed,
    ev.ActivityRetried,
    ev.AttemptFailed,
    ev.ChildCompleted,
    ev.ChildFailed,
    ev.MessageAnswered,
)


@holding("I7", "store")
def what_is_not_wanted_is_not_under_way(instance: ShadowInstance, store: Backend) -> str | None:
    """An instance that is over has no time to wake and nothing in a queue; nor has an activity that has its answer."""
    if instance.end is not None:
        record = finish(store.record(instance.id))
        if record is None or record.wake_us is not None:
            return f"it is over, but is {record!r:.200}"
    for task in instance.asked:
        is_wanted = instance.end is None and task not in instance.answered and task not in instance.cancelled
        if instance.is_queued(task) and not is_wanted and finish(store.task(instance.id, task)) is not None:
            return f"activity {task} is in a queue, and nobody wants its answer"
    return None


@holding("I41", "store")
def what_failed_for_good_has_a_dead_letter(instance: ShadowInstance, store: Backend) -> str | None:
    """Each exhausted activity and each failed instance has one, and nothing else; they go when it goes on."""
    query = DeadLetterQuery(instance_id=instance.id, limit=1_000)
    found = {letter.task for letter in finish(store.dead_letters(query))}
    if found != instance.letters:
        return f"there are dead letters of {sorted(found)}, but {sorted(instance.letters)} failed"
    return None


# -- when an instance is rewound, copied or purged -----------------------------------------------------------------


@holding("I34", "rewind")
def only_what_has_failed_is_rewound(instance: ShadowInstance, rewrite: Rewrite) -> str | None:
    """Its history goes on behind its end, with a note of that."""
    if not isinstance(instance.end, (ev.InstanceFailed, ev.InstanceTimedOut)):
        return f"it is rewound, though its end is {instance.end!r:.100}"
    first_seq = instance.next_seq
    for row in rewrite.rows:
        if row.first_seq != first_seq:
            return f"it is rewound with a row at #{row.first_seq}, but #{first_seq} is next"
        first_seq += len(ev.load_events(row.events))
    note = ev.load_events(rewrite.rows[0].events)
    return None if [type(event) for event in note] == [ev.InstanceRewound] else f"{note!r:.200} is no note of a rewind"


@holding("I21", "rewind")
def a_rewind_keeps_what_was_received(instance: ShadowInstance, rewrite: Rewrite) -> str | None:
    """Events are in the rows that count, or told again, in order; what earlier rounds have left is in the first."""
    kept = [event for row in rewrite.rows for event in ev.load_events(row.events)]
    told = [ev.load_event(message.data) for message in rewrite.messages if message.instance_id == instance.id]
    found = [event.payload for event in (*kept, *told) if isinstance(event, ev.EventReceived)]
    rounds = instance.rows
    begin = max(n for n, (_, _, events) in enumerate(rounds) if type(events[0]) is ev.InstanceStarted)
    if _left_to(kept[1]) != _left_to(rounds[begin][2][0]):
        return f"its round began with {rounds[begin][2][0]!r:.300}, and does so again with {kept[1]!r:.300}"
    came = [event.payload for _, _, row in rounds[begin:] for event in row if isinstance(event, ev.EventReceived)]
    return None if found == came else f"events {came!r:.200} were received, and {found!r:.200} are kept"


def _left_to(started: ev.Event) -> Round | None:
    """What earlier rounds have left to the one that begins so."""
    assert isinstance(started, ev.InstanceStarted)
    return started.round


@holding("I21", "copy")
def a_copy_has_what_was_there(shadow: Shadow, rewrite: Rewrite) -> str | None:
    """From the beginning of a round on, with what earlier ones have left to it; but for where it comes from."""
    copied = [event for row in rewrite.rows for event in ev.load_events(row.events)]
    started = copied[0]
    if not isinstance(started, ev.InstanceStarted) or started.origin is None:
        return f"it begins with {started!r:.200}, which does not say where it comes from"
    for instance in shadow.lives(started.origin.forked_from):
        events = [event for _, _, row in instance.rows for event in row]
        for place, event in enumerate(events):
            is_begin = isinstance(event, ev.InstanceStarted) and event.round == started.round
            if is_begin and events[place + 1 : place + len(copied)] == copied[1:]:
                return None
    return f"it has {copied!r:.500}, which {started.origin.forked_from} never had"


@holding("I40", "purge")
def only_what_is_over_is_purged(instance: ShadowInstance, _: Backend) -> str | None:
    """Never an instance that is alive."""
    return "it is purged, and was not over" if instance.end is None else None


@holding("I40", "purge")
def of_what_is_purged_nothing_is_left(instance: ShadowInstance, store: Backend) -> str | None:
    """Neither its row nor its history, nor a message, a task or a dead letter."""
    left = {
        "its row": finish(store.record(instance.id)),
        "its history": finish(store.history(instance.id, 1, 1)),
        "dead letters": finish(store.dead_letters(DeadLetterQuery(instance_id=instance.id))),
        "messages": [each for each in finish(store.inbox(0, 10_000)) if each.instance_id == instance.id],
        "tasks": [each for each in (START, *instance.asked) if finish(store.task(instance.id, each)) is not None],
    }
    found = ", ".join(name for name, what in left.items() if what)
    return f"it is purged, but {found} is left" if found else None
