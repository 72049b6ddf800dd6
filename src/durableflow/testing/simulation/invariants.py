"""The promises of `docs/design.md`, each a function with a name that says it.

A checker is called in one place: with each row or event before the shadow takes it, with each commit behind it, when
user code of an attempt begins, when somebody is told something. Those that compare the store with the shadow are in
`holdings`, those that look at a whole universe when it is over in `verdicts`, those that need a second one in `twins`.
A checker returns None, or what is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from durableflow.backends.base import HistoryRow
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.testing.simulation.ledger import Ledger, LedgerAttempt
from durableflow.testing.simulation.shadow import Shadow, Writer
from durableflow.testing.simulation.shadow_instance import STATUS_OF_END, ShadowInstance


class Violation(AssertionError):
    """An invariant does not hold.

    Attributes:
        invariant: the name of the checker.
    """

    def __init__(self, invariant: str, story: str) -> None:
        self.invariant = invariant
        super().__init__(f"{invariant}: {story}")


class Invariant(NamedTuple):
    """A promise and its checker.

    Attributes:
        number: of the list that it comes from.
        place: when it is checked.
    """

    number: str
    name: str
    place: str
    check: Callable[..., str | None]
    kinds: tuple[type, ...] = ()


F = TypeVar("F", bound=Callable[..., str | None])

INVARIANTS: Final[list[Invariant]] = []


def invariant(number: str, place: str, *kinds: type) -> Callable[[F], F]:
    """Make a function the checker of a promise; its name says what holds."""

    def enter(check: F) -> F:
        INVARIANTS.append(Invariant(number, check.__name__, place, check, kinds))
        return check

    return enter


class Ack(msgspec.Struct, frozen=True):
    """What somebody was told who had said something to an instance.

    Attributes:
        kind: of what was said.
        sender: who said it; what one sender says of one name has an order.
        payload: of an event; of a result or an answer, its value; of a copy, its id.
        is_direct: an engine answered that ran the instance itself, and not a store that keeps the message for it.
        outcome: "done", or the name of the error by which it was refused.
        tries: how often it was asked before without an answer.
        place: the process in which it was said.
        asked_us: when it was said first, by the time of the world.
    """

    kind: str
    instance_id: str
    sender: int
    name: str
    payload: Any
    event_id: str | None
    is_direct: bool
    outcome: str
    tries: int
    place: str
    asked_us: int


class Moment(NamedTuple):
    """Where an event stands: `instance` is as it was before."""

    writer: Writer
    instance: ShadowInstance
    row: HistoryRow
    ledger: Ledger
    shadow: Shadow


_ANSWERS: Final[dict[type, type | tuple[type, ...]]] = {
    ev.ActivityCompleted: ev.ActivityScheduled,
    ev.ActivityFailed: ev.ActivityScheduled,
    ev.ChildCompleted: ev.ChildScheduled,
    ev.ChildFailed: ev.ChildScheduled,
    ev.MessageAnswered: ev.MessageSent,
    ev.TimerFired: (ev.TimerCreated, ev.EventAwaited),
}


# -- with each row ------------------------------------------------------------------------------------------------


@invariant("I1", "row")
def a_history_is_dense(at: Moment, events: Sequence[ev.Event]) -> str | None:
    """Sequence numbers from 1, without a gap and none twice."""
    if at.row.first_seq != at.instance.next_seq or not events:
        return f"a row of {len(events)} events at #{at.row.first_seq}, but #{at.instance.next_seq} is next"
    return None


@invariant("I2", "row")
def nothing_follows_the_end(at: Moment, events: Sequence[ev.Event]) -> str | None:
    """A terminal event is the last."""
    if at.instance.end is not None:
        return f"{ev.tag_of(events[0])} follows {ev.tag_of(at.instance.end)}"
    ends = [number for number, event in enumerate(events) if type(event) in ev.ENDS]
    if len(ends) > 1:
        return f"two ends: {', '.join(ev.tag_of(events[number]) for number in ends)}"
    # In a row, decisions stand behind all observations, so behind a termination too that came after what they follow.
    behind = [event for number in ends for event in events[number + 1 :] if type(event) not in ev.DECISIONS]
    return f"{ev.tag_of(behind[0])} follows the end in its own row" if behind else None


@invariant("I6", "row")
def a_writer_has_a_living_lease(at: Moment, _: Sequence[ev.Event]) -> str | None:
    """A worker that was declared dead writes nothing, nor one to whom the instance does not belong."""
    worker_id = at.writer.lease.worker_id
    if worker_id not in at.shadow.living:
        return f"worker {worker_id} ({at.writer.process.name}) writes, but was declared dead"
    if at.shadow.is_fleet and at.instance.owner != worker_id:
        return f"worker {worker_id} ({at.writer.process.name}) writes, but {at.instance.owner or 'nobody'} owns it"
    return None


@invariant("I9", "row")
def the_time_of_a_history_never_runs_back(at: Moment, _: Sequence[ev.Event]) -> str | None:
    """Nor is a turn later than its writer's clock."""
    if at.row.at_us < at.instance.last_us:
        return f"a turn at {at.row.at_us} follows one at {at.instance.last_us}"
    if at.row.at_us > max(at.writer.now_us, at.instance.last_us):
        return f"a turn at {at.row.at_us}, written at {at.writer.now_us}"
    return None


@invariant("I35", "row")
def while_suspended_nothing_is_decided(at: Moment, events: Sequence[ev.Event]) -> str | None:
    """What comes is recorded, and delivered when it is resumed."""
    if not at.instance.is_suspended or any(type(event) in _LETS_GO for event in events):
        return None
    decided = [ev.tag_of(event) for event in events if type(event) in ev.DECISIONS]
    return f"{', '.join(decided)} while it is suspended" if decided else None


_LETS_GO: Final = (ev.InstanceResumed, ev.InstanceTerminated, ev.InstanceTimedOut)


@invariant("I3", "row")
def a_history_begins_with_its_start(at: Moment, events: Sequence[ev.Event]) -> str | None:
    """Each round, too."""
    if (at.instance.first is None or at.instance.is_between_rounds) and type(events[0]) is not ev.InstanceStarted:
        return f"{ev.tag_of(events[0])} comes before the start"
    return None


# -- with each event ----------------------------------------------------------------------------------------------


@invariant("I3", "event", ev.InstanceStarted)
def an_instance_starts_once(at: Moment, _: ev.InstanceStarted) -> str | None:
    """And again only when a round follows another."""
    if at.instance.first is not None and not at.instance.is_between_rounds:
        return "it is started twice"
    return None


@invariant("I4", "event", *_ANSWERS)
def an_answer_answers_what_was_asked(at: Moment, event: Any) -> str | None:
    """Each completion refers to a decision of the right kind that stands before it."""
    asked = at.instance.asked.get(event.task)
    if not isinstance(asked, _ANSWERS[type(event)]):
        return f"{event!r:.200} answers {asked!r:.100}"
    return None


@invariant("I5", "event", *_ANSWERS)
def a_task_is_answered_once(at: Moment, event: Any) -> str | None:
    """The first result is final: of activities, timers, children and messages."""
    if event.task in at.instance.answered:
        return f"{event!r:.200} follows {at.instance.answered[event.task]!r:.200}"
    return None


@invariant("I24", "event", ev.ActivityCompleted, ev.ActivityFailed, ev.AttemptFailed)
def only_the_current_attempt_is_heard(at: Moment, event: Any) -> str | None:
    """What a late one says changes nothing."""
    current = at.instance.current.get(event.task)
    if current is not None and event.attempt != current:
        return f"{event!r:.200}, but attempt {current} is the current one"
    return None


@invariant("I23", "event", ev.ActivityCompleted)
def a_result_is_that_of_the_attempt_that_it_names(at: Moment, event: ev.ActivityCompleted) -> str | None:
    """No attempt that was not made, and no other value than it returned."""
    if at.instance.id in at.ledger.repeating:
        returned = at.ledger.returned.get((at.instance.id, event.task), ())
        if event.output not in returned and not at.instance.has_recorded(event):
            return f"{event!r:.200}, but no attempt returned that"
        return None
    attempt = at.ledger.attempts.get((at.instance.id, event.task, event.attempt))
    if attempt is None:
        return f"{event!r:.200}, but no such attempt was made"
    if not attempt.has_returned(event.output):
        return f"{event!r:.200}, but the attempt returned {attempt.output!r}"
    return None


@invariant("I25", "event", ev.ActivityStarted)
def a_retry_waits_for_its_time(at: Moment, event: ev.ActivityStarted) -> str | None:
    """And follows an attempt that has failed."""
    if (event.task, event.attempt) in at.instance.allowed:
        return f"{event!r}, which was begun before"
    if at.row.at_us < at.instance.retry_at_us.get(event.task, 0):
        return f"{event!r} at {at.row.at_us}, before {at.instance.retry_at_us[event.task]}"
    return None


@invariant("I29", "event", ev.TimerFired)
def a_timer_never_fires_early(at: Moment, event: ev.TimerFired) -> str | None:
    """By the time of the turn, and by the clock of whoever wrote it."""
    due_us = at.instance.due_us.get(event.task, 0)
    now_us = min(at.row.at_us, at.writer.now_us)
    if now_us < due_us:
        return f"timer {event.task} fires {(due_us - now_us) / 1e6:g} s early"
    return None


@invariant("I30", "event", ev.TimerFired)
def a_cancelled_timer_does_not_fire(at: Moment, event: ev.TimerFired) -> str | None:
    """The workflow has said that it wants no answer."""
    return f"timer {event.task} was cancelled" if event.task in at.instance.cancelled else None


@invariant("I20", "event", ev.EventReceived)
def an_event_id_is_received_once(at: Moment, event: ev.EventReceived) -> str | None:
    """However often it is sent."""
    instance = at.instance
    if event.event_id is not None and event.event_id in instance.received_ids and event not in instance.told_again:
        return f"event {event.event_id!r} is received again"
    return None


@invariant("I21", "event", ev.InstanceStarted)
def a_new_round_keeps_what_was_not_taken(at: Moment, event: ev.InstanceStarted) -> str | None:
    """Events are never lost between rounds: what is kept is the end of what was received, in order for each name."""
    if event.round is None or at.instance.first is None or at.instance.held or at.instance.told_again:
        return None
    taken = _taken_by_waits(at.instance)
    for name, received in _received_by_name(at.instance).items():
        kept_payloads = [kept.payload for kept in event.round.kept if kept.name == name]
        if received[len(received) - len(kept_payloads) :] != kept_payloads:
            return (
                f"of the events {name!r} {received!r:.200}, {kept_payloads!r:.200} are kept: not the latest, in order"
            )
        if len(received) - len(kept_payloads) > taken[name]:
            kept_count = len(kept_payloads)
            return f"{len(received)} events {name!r} came, {taken[name]} can have been taken, {kept_count} are kept"
    return None


def _received_by_name(instance: ShadowInstance) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for event in instance.received:
        found.setdefault(event.name.casefold(), []).append(event.payload)
    return found


def _taken_by_waits(instance: ShadowInstance) -> Counter[str]:
    """How many events each name's waits can have taken: those that neither timed out nor were given up.

    One that timed out while it was suspended may have been answered by what came before that, when it was resumed.
    """
    taken: Counter[str] = Counter()
    for task, asked in instance.asked.items():
        is_over = task in instance.answered and task not in instance.over_while_suspended
        is_given_up = is_over or task in instance.cancelled
        if isinstance(asked, ev.EventAwaited) and not is_given_up:
            taken[asked.name] += 1
    return taken


@invariant("I5", "event", ev.RequestAnswered)
def a_request_is_answered_once(at: Moment, event: ev.RequestAnswered) -> str | None:
    """If it was received at all."""
    known = at.instance.requests.get(event.request_id)
    if known is None:
        return f"request {event.request_id!r} is answered, which was never received"
    return f"request {event.request_id!r} is answered twice" if known else None


# -- with each commit ---------------------------------------------------------------------------------------------


@invariant("I8", "commit")
def the_status_is_what_the_history_says(instance: ShadowInstance, _: Writer) -> str | None:
    """In the row of the instance, by the same commit."""
    expected = None if instance.end is None else STATUS_OF_END[type(instance.end)]
    if instance.status is Status.STALLED:
        return None
    if expected is not None or instance.status.is_terminal:
        return None if instance.status is expected else f"it is {instance.status}, but the end is {instance.end!r:.80}"
    if (instance.status is Status.SUSPENDED) is not instance.is_suspended:
        return f"it is {instance.status}, but {'was' if instance.is_suspended else 'is not'} suspended"
    return None


@invariant("I39", "commit")
def a_round_follows_in_the_same_commit(instance: ShadowInstance, _: Writer) -> str | None:
    """There is no state between two rounds."""
    return "a round has ended, and none has begun" if instance.is_between_rounds else None


# -- when an attempt begins ---------------------------------------------------------------------------------------


@invariant("I-phantom", "attempt")
def an_activity_runs_on_what_is_durable(instance: ShadowInstance | None, attempt: LedgerAttempt) -> str | None:
    """Its call, with this very input, is in the history when its code begins: there are no phantoms."""
    asked = None if instance is None else instance.asked.get(attempt.task)
    if not isinstance(asked, ev.ActivityScheduled) or asked.input != attempt.input:
        return f"{attempt!r} runs with {attempt.input!r}, but the history has {asked!r:.200}"
    return None


@invariant("I25", "attempt")
def an_attempt_is_counted_before_it_runs(instance: ShadowInstance | None, attempt: LedgerAttempt) -> str | None:
    """Attempts of queued activities are counted by their task, others in the history."""
    if instance is None or instance.is_queued(attempt.task):
        return None
    if (attempt.task, attempt.number) not in instance.allowed:
        return f"{attempt!r} runs, which the history does not allow"
    return None


# -- when somebody is told that it is done ------------------------------------------------------------------------


_ABOUT_NO_INSTANCE: Final = ("schedule", "debounce", "purge", "discard")


@invariant("I18", "ack")
def an_acknowledgement_follows_the_commit(shadow: Shadow, ack: Ack) -> str | None:
    """What is acknowledged is durable at that moment: the instance is there, the event in its history.

    Or it was there: somebody may have purged it while the acknowledgement was under way.
    """
    if ack.outcome != "done" or ack.kind in _ABOUT_NO_INSTANCE:
        return None
    instance_id = ack.payload if ack.kind == "fork" else ack.instance_id
    lives = shadow.lives_since(instance_id, ack.asked_us)
    if not lives:
        return f"{ack.kind} {ack.payload!r:.100} is acknowledged, but {instance_id} is not there"
    if ack.kind == "event" and ack.is_direct and all(each.end is None for each in lives):
        payload = converter.dump(ack.payload, "the payload")
        if all(event.payload != payload for each in lives for event in each.received):
            return f"event {ack.payload!r} is acknowledged, but not in the history"
    return None
