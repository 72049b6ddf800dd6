"""What clients were told, against what is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from durableflow.errors import WorkflowCancelled, WorkflowFailed, WorkflowTerminated
from durableflow.model import events as ev
from durableflow.testing.simulation.invariants import Invariant
from durableflow.testing.simulation.judging import acks, entering

if TYPE_CHECKING:
    from durableflow.testing.simulation.universe import Universe

TESTIMONY: Final[list[Invariant]] = []
verdict = entering(TESTIMONY)


@verdict("I18")
def an_acknowledged_start_is_there(universe: Universe) -> Iterator[str]:
    """With the input that was given."""
    for ack in acks(universe, "start"):
        instance = next(iter(universe.shadow.lives(ack.instance_id)), None)
        if ack.outcome != "done":
            yield f"the start of {ack.instance_id} was refused: {ack.outcome}"
        elif instance is None or instance.first is None:
            yield f"the start of {ack.instance_id} was acknowledged, but it is not there"
        elif msgspec.json.decode(instance.first.input) != [ack.payload]:
            yield f"{ack.instance_id} was started with {ack.payload!r:.100}, and has {instance.first.input!r:.100}"


@verdict("I21")
def an_acknowledged_event_is_received(universe: Universe) -> Iterator[str]:
    """Or the instance was over before it could be; what an engine that ran it acknowledged is received in any case."""
    for ack in acks(universe, "event"):
        lives = universe.shadow.lives(ack.instance_id)
        if ack.outcome != "done" or len(lives) != 1:
            continue
        (instance,) = lives
        data = msgspec.json.encode(ack.payload)
        if any(event.payload == data for event in instance.received):
            continue
        if instance.end is None or (ack.is_direct and not universe.store.is_fleet and not instance.rewinds):
            yield f"event {ack.payload!r} for {ack.instance_id} was acknowledged, but is nowhere"


@verdict("I22")
def events_of_one_sender_keep_their_order(universe: Universe) -> Iterator[str]:
    """For each name: whoever waits in one process for each acknowledgement finds its events received in that order."""
    latest: dict[tuple[str, str, str, int], tuple[int, str]] = {}
    for ack in acks(universe, "event"):
        instance = universe.shadow.instances.get(ack.instance_id)
        if ack.outcome != "done" or ack.tries or instance is None or ack.instance_id in universe.shadow.graves:
            continue  # it may have come by another way
        payload = msgspec.json.encode(ack.payload)
        place = next((n for n, event in enumerate(instance.received) if event.payload == payload), None)
        if place is None:
            continue  # it came too late
        line = (ack.instance_id, ack.place, ack.name.casefold(), ack.sender)
        before, text = latest.get(line, (-1, ""))
        if place < before:
            yield f"{ack.instance_id}: {ack.payload!r} was received before {text!r}, which was said before it"
        latest[line] = (place, ack.payload)


@verdict("I20")
def an_event_that_was_said_once_is_received_once(universe: Universe) -> Iterator[str]:
    """Also without an id, when its sender was answered the first time."""
    for ack in acks(universe, "event"):
        instance = universe.shadow.instances.get(ack.instance_id)
        if ack.outcome == "done" and ack.tries == 0 and ack.event_id is None and instance is not None:
            count = sum(event.payload == msgspec.json.encode(ack.payload) for event in instance.received)
            if count > 1:
                yield f"{ack.instance_id} received {ack.payload!r} {count} times, which was said once"


@verdict("I36")
def an_acknowledged_termination_is_an_end(universe: Universe) -> Iterator[str]:
    """The instance is over."""
    for ack in acks(universe, "terminate"):
        if ack.outcome == "done" and any(each.end is None for each in universe.shadow.lives(ack.instance_id)):
            yield f"{ack.instance_id} was terminated, and goes on"


@verdict("I34")
def a_result_that_was_told_is_the_end(universe: Universe) -> Iterator[str]:
    """All who ask get the same, until somebody rewinds it."""
    for ack in acks(universe, "result"):
        ends = [end for each in universe.shadow.lives(ack.instance_id) for end in each.ends]
        if ack.outcome == "done":
            outputs = [end.output.decode() for end in ends if isinstance(end, ev.InstanceCompleted)]
            if ack.payload not in outputs:
                yield f"{ack.instance_id} gave {ack.payload!r:.100}, but ended with {ends!r:.100}"
        elif ack.outcome in _OUTCOME_OF_END and not any(isinstance(end, _OUTCOME_OF_END[ack.outcome]) for end in ends):
            yield f"who asked for the result of {ack.instance_id} got {ack.outcome}, but it ended with {ends!r:.100}"


_OUTCOME_OF_END: Final[dict[str, tuple[type, ...]]] = {
    WorkflowFailed.__name__: (ev.InstanceFailed, ev.InstanceTimedOut),
    WorkflowTerminated.__name__: (ev.InstanceTerminated,),
    WorkflowCancelled.__name__: (ev.InstanceCancelled,),
}


@verdict("I18")
def an_answer_that_was_told_is_recorded(universe: Universe) -> Iterator[str]:
    """Requests are answered by what is durable."""
    for ack in acks(universe, "request"):
        lives = universe.shadow.lives(ack.instance_id)
        if ack.outcome == "done":
            answers = [
                event.output
                for instance in lives
                for _, _, events in instance.rows
                for event in events
                if isinstance(event, ev.RequestAnswered) and event.failure is None
            ]
            if msgspec.json.encode(ack.payload) not in answers:
                yield f"{ack.instance_id} answered {ack.payload!r:.80}, which its history does not have"


@verdict("I34")
def an_acknowledged_rewind_is_recorded(universe: Universe) -> Iterator[str]:
    """And a copy is there, with where it comes from."""
    for ack in acks(universe, "rewind"):
        if ack.outcome == "done" and not any(each.rewinds for each in universe.shadow.lives(ack.instance_id)):
            yield f"{ack.instance_id} was rewound, but its history does not have it"


@verdict("I40")
def an_acknowledged_purge_is_one(universe: Universe) -> Iterator[str]:
    """The instance was removed; what has its id now was started after that."""
    for ack in acks(universe, "purge"):
        if ack.outcome == "done" and ack.instance_id not in universe.shadow.graves:
            yield f"{ack.instance_id} was purged, and was there at all times"


@verdict("I19")
def debounced_starts_are_one_instance_and_the_latest_counts(universe: Universe) -> Iterator[str]:
    """As long as its window is open; its code does not begin before that is over."""
    for instance_id, window in universe.shadow.windows.items():
        for instance in universe.shadow.lives(instance_id):
            latest = ev.load_event(window.changed)
            data = latest.input if isinstance(latest, ev.StartChanged) else b""
            told = [
                event
                for _, _, events in instance.rows
                for event in events
                if isinstance(event, (ev.InstanceStarted, ev.StartChanged, ev.InstanceBegan))
            ]
            if not any(isinstance(event, ev.InstanceBegan) for event in told):
                continue
            inputs = [event.input for event in told if not isinstance(event, ev.InstanceBegan)]
            if window.is_open:
                yield f"{instance_id} began while its window was open"
            if inputs[-1] != data:
                yield f"{instance_id} began with {inputs[-1]!r:.100}, but the latest start has {data!r:.100}"
    for ack in acks(universe, "debounce"):
        if ack.outcome == "done" and ack.payload not in universe.shadow.windows:
            yield f"a start for {ack.name} was acknowledged with {ack.payload}, which is not there"
