"""Instances among each other, and what workflows saw of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from durableflow.model import events as ev
from durableflow.model.schedule import slot_id
from durableflow.runtime.firings import load_state
from durableflow.testing.simulation.invariants import Invariant
from durableflow.testing.simulation.judging import acks, entering
from durableflow.testing.simulation.shadow_instance import ShadowInstance

if TYPE_CHECKING:
    from durableflow.testing.simulation.universe import Universe

RELATIONS: Final[list[Invariant]] = []
verdict = entering(RELATIONS)


def _decisions(universe: Universe, *kinds: type) -> Iterator[tuple[ShadowInstance, Any]]:
    for instance in universe.shadow.everybody():
        for asked in instance.asked.values():
            if isinstance(asked, kinds):
                yield instance, asked


@verdict("I38")
def a_call_of_a_child_makes_one_child(universe: Universe) -> Iterator[str]:
    """Which knows whose it is, and what it returned is what its parent was told."""
    for parent, asked in _decisions(universe, ev.ChildScheduled):
        lives = universe.shadow.lives(parent.child_id(asked))
        children = [child for child in lives if child.birth.parent == parent.id]
        told = parent.answered.get(asked.task)
        if asked.child_id and lives and not children and asked.task not in parent.copied:
            if isinstance(told, ev.ChildCompleted) or (isinstance(told, ev.ChildFailed) and told.status):
                yield f"{parent.id} was told {told!r:.100} of {asked.child_id}, which is another's"
            continue
        if not children and asked.task not in parent.copied:
            yield f"{parent.id} called {parent.child_id(asked)}, which is not there, or another's"
        ends = [end for child in children for end in child.ends]
        if isinstance(told, ev.ChildCompleted) and asked.task not in parent.copied:
            if not any(isinstance(end, ev.InstanceCompleted) and end.output == told.output for end in ends):
                yield f"{parent.id} was told {told!r:.100} of {parent.child_id(asked)}, which ended with {ends!r:.100}"
        elif told is None and parent.end is None and all(child.end is not None for child in children):
            yield f"{parent.child_id(asked)} is over, and {parent.id} was not told"
    called = {child_id for each in universe.shadow.everybody() for child_id in each.called}
    for instance in universe.shadow.instances.values():
        if instance.birth.parent is not None and instance.id not in called:
            yield f"{instance.id} is a child that nobody called"


@verdict("I38")
def no_child_outlives_its_parent_against_its_will(universe: Universe) -> Iterator[str]:
    """Those that end with it are over when it is."""
    for parent, asked in _decisions(universe, ev.ChildScheduled):
        child = universe.shadow.instances.get(parent.child_id(asked))
        close = "terminate" if asked.options is None else asked.options.parent_close
        is_theirs = child is not None and child.birth.parent == parent.id
        if close == "terminate" and is_theirs and parent.end is not None and child is not None and child.end is None:
            yield f"{child.id} goes on, though {parent.id} is over"


@verdict("I20")
def a_message_of_an_instance_arrives_once(universe: Universe) -> Iterator[str]:
    """If the sender was told that it was delivered, and the receiver did not end before it could take it."""
    for sender, sent in _decisions(universe, ev.MessageSent):
        message = ev.load_event(sent.message)
        receiver = universe.shadow.instances.get(sent.instance_id)
        told = sender.answered.get(sent.task)
        outcome = told.outcome if isinstance(told, ev.MessageAnswered) else None
        if receiver is None or not isinstance(message, ev.EventReceived) or sent.instance_id in universe.shadow.graves:
            continue
        if sender.rewinds or sender.id in universe.shadow.graves:
            continue  # it may have said it again
        count = sum(event.payload == message.payload for event in receiver.received)
        if count > 1:
            yield f"{sender.id} said {message.payload!r} once, and {receiver.id} received it {count} times"
        if outcome == "delivered" and count == 0 and receiver.end is None:
            yield f"{sender.id} was told that {message.payload!r} was delivered, but {receiver.id} has not received it"
        if outcome in ("missing", "over") and count:
            yield f"{sender.id} was told {outcome!r} of {message.payload!r}, which {receiver.id} has received"


@verdict("I33")
def a_schedule_has_one_instance_a_slot(universe: Universe) -> Iterator[str]:
    """Each slot was fired, skipped by the policy or missed; what was fired is there, once, and nothing else."""
    rows = {row.id: load_state(row) for row in universe.schedules()}
    for ack in acks(universe, "schedule"):
        if ack.outcome == "done" and ack.instance_id not in rows:
            yield f"schedule {ack.instance_id} was acknowledged, and is not there"
    for schedule_id, state in rows.items():
        slots: list[str] = []
        slot_us = state.schedule.after(state.created_us)
        while slot_us is not None and slot_us <= state.cursor_us:
            slots.append(slot_id(schedule_id, slot_us))
            slot_us = state.schedule.after(slot_us)
        settled = state.fired + state.skipped + state.missed
        if settled != len(slots):
            yield f"schedule {schedule_id} has had {len(slots)} slots, and settled {settled}: {state!r:.300}"
        made = {each for each in universe.shadow.everybody() if each.id.startswith(f"{schedule_id}/")}
        roots = {each.id for each in made if each.birth.parent is None}
        if len(roots) != state.fired or not roots <= set(slots):
            yield f"schedule {schedule_id} fired {state.fired} times, and made {sorted(roots)}"
        if state.schedule.overlap == "allow" and len(roots) != len(slots) - state.missed:
            yield f"schedule {schedule_id} skipped slots though it allows all: {state!r:.300}"


# -- what workflows saw -------------------------------------------------------------------------------------------


@verdict("I15")
def a_workflow_sees_what_is_recorded(universe: Universe) -> Iterator[str]:
    """Each event in the log of a program, or in that of a child, was received by one of them."""
    instances = universe.shadow.everybody()
    rows = (row for instance in instances for _, _, row in instance.rows)
    received = {event.payload for row in rows for event in row if isinstance(event, ev.EventReceived)}
    for instance in instances:
        if isinstance(instance.end, ev.InstanceCompleted):
            for text in _texts(msgspec.json.decode(instance.end.output)):
                if text.startswith(("from ", "closing ")) and msgspec.json.encode(text) not in received:
                    yield f"{instance.id} saw {text!r}, which was not received"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        texts: list[Any] = value  # pyright: ignore[reportUnknownVariableType]  # mypy calls a cast here redundant
        for each in texts:
            yield from _texts(each)


@verdict("I25")
def retries_stay_within_their_bounds(universe: Universe) -> Iterator[str]:
    """No activity is attempted more often than its policy allows, but for attempts that the engine took away."""
    for instance in universe.shadow.everybody():
        most: dict[int, int] = {}
        allowed: dict[int, int] = {}
        for event in (event for _, _, events in instance.rows for event in events):
            if isinstance(event, ev.ActivityScheduled):
                retry = None if event.options is None else event.options.retry
                most[event.task] = allowed[event.task] = 3 if retry is None else retry.max_attempts
            elif isinstance(event, ev.ActivityRetried):
                allowed[event.task] = most[event.task]
            elif isinstance(event, ev.AttemptFailed) and event.counts:
                allowed[event.task] -= 1
                if allowed[event.task] <= 0:
                    yield f"{instance.id}: activity {event.task} goes on after attempt {event.attempt}, its last"
