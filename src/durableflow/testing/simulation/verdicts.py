"""The judgement of a universe that is over: what the store holds, what clients were told, what activities have done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from durableflow.backends.base import HistoryRow
from durableflow.core.execution import Execution, replay_rows
from durableflow.core.others import derived_id
from durableflow.errors import WorkflowCancelled, WorkflowFailed, WorkflowTerminated
from durableflow.model import events as ev
from durableflow.model.schedule import slot_id
from durableflow.runtime.firings import load_state
from durableflow.testing.simulation.invariants import Ack, Invariant, Violation
from durableflow.testing.simulation.network import finish
from durableflow.testing.simulation.programs import PROGRAM
from durableflow.testing.simulation.shadow import ShadowInstance

if TYPE_CHECKING:
    from durableflow.testing.simulation.universe import Universe

Verdict = Callable[["Universe"], "Iterator[str]"]

VERDICTS: Final[list[Invariant]] = []
_HISTORY_MAX: Final = 1_000_000


def verdict(number: str) -> Callable[[Verdict], Verdict]:
    """Make a function, which yields objections, the checker of a promise."""

    def enter(check: Verdict) -> Verdict:
        def first(universe: Universe) -> str | None:
            return next(check(universe), None)

        VERDICTS.append(Invariant(number, check.__name__, "end", first))
        first.__doc__ = check.__doc__
        return check

    return enter


def judge(universe: Universe) -> None:
    """Check all that can be checked only now.

    Raises:
        Violation: something does not hold.
    """
    for each in VERDICTS:
        universe.made[each.name] += 1
        objection = each.check(universe)
        if objection is not None:
            raise Violation(each.name, objection)


# -- the store ----------------------------------------------------------------------------------------------------


@verdict("I1")
def what_was_committed_is_there_unchanged(universe: Universe) -> Iterator[str]:
    """Every row, byte by byte, and no other; and all instances, and no other."""
    records = {record.id: record for record in universe.records()}
    yield from (f"{name} was made, and is not there" for name in universe.shadow.instances if name not in records)
    yield from (f"{name} is there, but nobody made it" for name in records if name not in universe.shadow.instances)
    for name, instance in universe.shadow.instances.items():
        twin = ShadowInstance(instance.birth)
        for row in rows_of(universe, name):
            twin.take_row(row, ev.load_events(row.events))
        if twin.digest.digest() != instance.digest.digest():
            yield f"{name} has {len(twin.rows)} rows, {len(instance.rows)} were committed, or others"


def rows_of(universe: Universe, instance_id: str) -> list[HistoryRow]:
    """All rows of an instance."""
    return finish(universe.store.history(instance_id, 1, _HISTORY_MAX))


@verdict("I12")
def a_replay_of_each_history_asks_for_the_same(universe: Universe) -> Iterator[str]:
    """Each decision is asked for again, and the end is the recorded one."""
    for name, instance in universe.shadow.instances.items():
        for rows in _rounds(instance):
            twin = Execution(name, PROGRAM)
            twin.next_seq = rows[0][0]
            try:
                replay_rows(twin, rows)
            except Exception as error:
                yield f"{name}: {error}"
            else:
                is_last = rows[-1] is instance.rows[-1]
                if is_last and twin.status is not instance.status:
                    yield f"{name} is {instance.status}, but a replay ends {twin.status}"
            finally:
                twin.put_away()


def _rounds(instance: ShadowInstance) -> Iterator[list[tuple[int, int, list[ev.Event]]]]:
    begun: list[tuple[int, int, list[ev.Event]]] = []
    for row in instance.rows:
        if type(row[2][0]) is ev.InstanceStarted and begun:
            yield begun
            begun = []
        begun.append(row)
    if begun:
        yield begun


@verdict("I8")
def the_store_says_the_same_status(universe: Universe) -> Iterator[str]:
    """As was last written, which every commit was checked for."""
    for record in universe.records():
        instance = universe.shadow.instances[record.id]
        if (record.status, record.finished_us is not None) != (instance.status, instance.end is not None):
            yield f"{record.id} is {record.status}, but {instance.status} was written, end {instance.end!r:.80}"


@verdict("I37")
def nothing_is_left_behind(universe: Universe) -> Iterator[str]:
    """When all is over, the inbox and the queues are empty."""
    for message in finish(universe.store.inbox(0, 10)):
        yield f"a message is left: {message!r:.200}"
    for queue in finish(universe.store.queues()):
        if queue.waiting or queue.delayed or queue.claimed or queue.handed_over:
            yield f"tasks are left: {queue!r}"


# -- what clients were told ---------------------------------------------------------------------------------------


def _acks(universe: Universe, *kinds: str) -> Iterator[Ack]:
    return (ack for ack in universe.speakers.acks if ack.kind in kinds)


@verdict("I18")
def an_acknowledged_start_is_there(universe: Universe) -> Iterator[str]:
    """With the input that was given."""
    for ack in _acks(universe, "start"):
        instance = universe.shadow.instances.get(ack.instance_id)
        if ack.outcome != "done":
            yield f"the start of {ack.instance_id} was refused: {ack.outcome}"
        elif instance is None or instance.first is None:
            yield f"the start of {ack.instance_id} was acknowledged, but it is not there"
        elif msgspec.json.decode(instance.first.input) != [ack.payload]:
            yield f"{ack.instance_id} was started with {ack.payload!r:.100}, and has {instance.first.input!r:.100}"


@verdict("I21")
def an_acknowledged_event_is_received(universe: Universe) -> Iterator[str]:
    """Or the instance was over before it could be; what an engine that ran it acknowledged is received in any case."""
    for ack in _acks(universe, "event"):
        instance = universe.shadow.instances[ack.instance_id] if ack.outcome == "done" else None
        if instance is None:
            continue
        data = msgspec.json.encode(ack.payload)
        if any(event.payload == data for event in instance.received):
            continue
        if instance.end is None or (ack.is_direct and not universe.store.is_fleet):
            yield f"event {ack.payload!r} for {ack.instance_id} was acknowledged, but is nowhere"


@verdict("I22")
def events_of_one_sender_keep_their_order(universe: Universe) -> Iterator[str]:
    """For each name: whoever waits in one process for each acknowledgement finds its events received in that order."""
    latest: dict[tuple[str, str, str, int], tuple[int, str]] = {}
    for ack in _acks(universe, "event"):
        instance = universe.shadow.instances.get(ack.instance_id)
        if ack.outcome != "done" or ack.tries or instance is None:
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
    for ack in _acks(universe, "event"):
        instance = universe.shadow.instances.get(ack.instance_id)
        if ack.outcome == "done" and ack.tries == 0 and ack.event_id is None and instance is not None:
            count = sum(event.payload == msgspec.json.encode(ack.payload) for event in instance.received)
            if count > 1:
                yield f"{ack.instance_id} received {ack.payload!r} {count} times, which was said once"


@verdict("I36")
def an_acknowledged_termination_is_an_end(universe: Universe) -> Iterator[str]:
    """The instance is over."""
    for ack in _acks(universe, "terminate"):
        if ack.outcome == "done" and universe.shadow.instances[ack.instance_id].end is None:
            yield f"{ack.instance_id} was terminated, and goes on"


@verdict("I34")
def a_result_that_was_told_is_the_end(universe: Universe) -> Iterator[str]:
    """All who ask get the same, for ever."""
    for ack in _acks(universe, "result"):
        instance = universe.shadow.instances.get(ack.instance_id)
        end = None if instance is None else instance.end
        if ack.outcome == "done":
            if not isinstance(end, ev.InstanceCompleted) or end.output.decode() != ack.payload:
                yield f"{ack.instance_id} gave {ack.payload!r:.100}, but ended with {end!r:.100}"
        elif ack.outcome in _OUTCOME_OF_END and not isinstance(end, _OUTCOME_OF_END[ack.outcome]):
            yield f"whoever asked for the result of {ack.instance_id} got {ack.outcome}, but it ended with {end!r:.100}"


_OUTCOME_OF_END: Final[dict[str, tuple[type, ...]]] = {
    WorkflowFailed.__name__: (ev.InstanceFailed, ev.InstanceTimedOut),
    WorkflowTerminated.__name__: (ev.InstanceTerminated,),
    WorkflowCancelled.__name__: (ev.InstanceCancelled,),
}


@verdict("I18")
def an_answer_that_was_told_is_recorded(universe: Universe) -> Iterator[str]:
    """Requests are answered by what is durable."""
    for ack in _acks(universe, "request"):
        instance = universe.shadow.instances.get(ack.instance_id)
        if ack.outcome == "done" and instance is not None:
            answers = [
                event.output
                for _, _, events in instance.rows
                for event in events
                if isinstance(event, ev.RequestAnswered) and event.failure is None
            ]
            if msgspec.json.encode(ack.payload) not in answers:
                yield f"{ack.instance_id} answered {ack.payload!r:.80}, which its history does not have"


# -- instances among each other -----------------------------------------------------------------------------------


def _decisions(universe: Universe, *kinds: type) -> Iterator[tuple[ShadowInstance, Any]]:
    for instance in list(universe.shadow.instances.values()):
        for asked in instance.asked.values():
            if isinstance(asked, kinds):
                yield instance, asked


@verdict("I38")
def a_call_of_a_child_makes_one_child(universe: Universe) -> Iterator[str]:
    """Which knows whose it is, and what it returned is what its parent was told."""
    called: set[str] = set()
    for parent, asked in _decisions(universe, ev.ChildScheduled):
        child_id = asked.child_id or derived_id(parent.id, asked.task)
        called.add(child_id)
        child = universe.shadow.instances.get(child_id)
        if child is None or child.birth.parent != parent.id:
            yield f"{parent.id} called {child_id}, which is not there, or another's"
            return
        told = parent.answered.get(asked.task)
        if isinstance(told, ev.ChildCompleted):
            if not isinstance(child.end, ev.InstanceCompleted) or child.end.output != told.output:
                yield f"{parent.id} was told {told!r:.100} of {child_id}, which ended with {child.end!r:.100}"
        elif told is None and parent.end is None and child.end is not None:
            yield f"{child_id} is over, and {parent.id} was not told"
    for instance in universe.shadow.instances.values():
        if instance.birth.parent is not None and instance.id not in called:
            yield f"{instance.id} is a child that nobody called"


@verdict("I38")
def no_child_outlives_its_parent_against_its_will(universe: Universe) -> Iterator[str]:
    """Those that end with it are over when it is."""
    for parent, asked in _decisions(universe, ev.ChildScheduled):
        child = universe.shadow.instances.get(asked.child_id or derived_id(parent.id, asked.task))
        close = "terminate" if asked.options is None else asked.options.parent_close
        if close == "terminate" and parent.end is not None and child is not None and child.end is None:
            yield f"{child.id} goes on, though {parent.id} is over"


@verdict("I20")
def a_message_of_an_instance_arrives_once(universe: Universe) -> Iterator[str]:
    """If the sender was told that it was delivered, and the receiver did not end before it could take it."""
    for sender, sent in _decisions(universe, ev.MessageSent):
        message = ev.load_event(sent.message)
        receiver = universe.shadow.instances.get(sent.instance_id)
        told = sender.answered.get(sent.task)
        outcome = told.outcome if isinstance(told, ev.MessageAnswered) else None
        if receiver is None or not isinstance(message, ev.EventReceived):
            continue
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
    for ack in _acks(universe, "schedule"):
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
        made = {name for name in universe.shadow.instances if name.startswith(f"{schedule_id}/")}
        roots = {name for name in made if universe.shadow.instances[name].birth.parent is None}
        if len(roots) != state.fired or not roots <= set(slots):
            yield f"schedule {schedule_id} fired {state.fired} times, and made {sorted(roots)}"
        if state.schedule.overlap == "allow" and len(roots) != len(slots) - state.missed:
            yield f"schedule {schedule_id} skipped slots though it allows all: {state!r:.300}"


# -- what workflows saw -------------------------------------------------------------------------------------------


@verdict("I15")
def a_workflow_sees_what_is_recorded(universe: Universe) -> Iterator[str]:
    """Each event in the log of a program, or in that of a child, was received by one of them."""
    instances = universe.shadow.instances.values()
    received = {event.payload for instance in instances for event in instance.received}
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
    for instance, asked in _decisions(universe, ev.ActivityScheduled):
        failed = [
            event
            for _, _, events in instance.rows
            for event in events
            if isinstance(event, ev.AttemptFailed) and event.task == asked.task and event.counts
        ]
        allowed = 3 if asked.options is None or asked.options.retry is None else asked.options.retry.max_attempts
        if len(failed) >= allowed:
            yield f"{instance.id}: activity {asked.task} failed {len(failed)} times; it has {allowed} attempts"
