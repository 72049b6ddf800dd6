"""The judgement of what others than the engine hold: tokens, rows of the user's own, and what onlookers were shown."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Final

import msgspec

from durableflow.model import events as ev
from durableflow.testing.simulation.activities import BOOK, BOOKINGS
from durableflow.testing.simulation.couriers import Delivery
from durableflow.testing.simulation.invariants import Invariant
from durableflow.testing.simulation.judging import entering
from durableflow.testing.simulation.ledger import LedgerAttempt
from durableflow.testing.simulation.shadow_instance import ShadowInstance
from durableflow.testing.simulation.sqlite import InlineSqlite

if TYPE_CHECKING:
    from durableflow.testing.simulation.universe import Universe

OUTSIDE: Final[list[Invariant]] = []
verdict = entering(OUTSIDE)

# -- tokens -------------------------------------------------------------------------------------------------------


def _taken(universe: Universe) -> Iterator[Delivery]:
    return (each for each in _brought(universe) if each.refused == "")


def _brought(universe: Universe) -> Iterator[Delivery]:
    """All but to those whose attempts may be counted anew: of two with one number nobody knows which is meant."""
    repeating = universe.ledger.repeating
    return (each for each in universe.couriers.deliveries if each.attempt.instance_id not in repeating)


def _is_open(instance: ShadowInstance, task: int) -> bool:
    """Whether the workflow still wants to hear of it, as far as its history says."""
    return instance.end is None and task in instance.current and task not in instance.cancelled


@verdict("I24")
def a_token_is_used_once(universe: Universe) -> Iterator[str]:
    """However many hold it, one of them finishes the attempt."""
    used: dict[LedgerAttempt, Delivery] = {}
    for delivery in _taken(universe):
        first = used.setdefault(delivery.attempt, delivery)
        if first is not delivery:
            yield f"{delivery.attempt!r} was finished by {first!r:.200} and by {delivery!r:.200}"


@verdict("I18")
def what_a_token_brought_is_heard(universe: Universe) -> Iterator[str]:
    """A result that was acknowledged is recorded, unless the attempt had been given up, or was over by itself."""
    for delivery in _taken(universe):
        attempt = delivery.attempt
        instance = universe.shadow.instances[attempt.instance_id]
        answer = instance.answered.get(attempt.task)
        if answer is None and _is_open(instance, attempt.task):
            if instance.current[attempt.task] == attempt.number:
                yield f"{delivery!r:.300} was acknowledged, and {attempt!r} is open"
        elif isinstance(answer, ev.ActivityCompleted) and answer.attempt == attempt.number:
            expected = msgspec.json.encode(delivery.value)
            if answer.output not in (expected, attempt.output):
                yield f"{delivery!r:.300} was acknowledged, but {answer!r:.200} is recorded"


@verdict("I24")
def what_a_token_could_not_bring_is_not_heard(universe: Universe) -> Iterator[str]:
    """Nothing is written when a token is refused."""
    for delivery in _brought(universe):
        if delivery.refused and delivery.tries == 0 and delivery.kind == "complete":
            instance = universe.shadow.instances[delivery.attempt.instance_id]
            answer = instance.answered.get(delivery.attempt.task)
            if isinstance(answer, ev.ActivityCompleted) and answer.output == msgspec.json.encode(delivery.value):
                yield f"{delivery!r:.300} was refused, and is recorded"


# -- rows of the user's own ---------------------------------------------------------------------------------------


@verdict("I-once")
def a_transactional_activity_writes_once(universe: Universe) -> Iterator[str]:
    """One row if it is completed, by the attempt that it names; none if it failed, or is still asked for."""
    if not isinstance(universe.store, InlineSqlite):
        return
    repeating = universe.ledger.repeating
    written = {key: rows for key, rows in _bookings(universe.store).items() if key[0] not in repeating}
    for instance in universe.shadow.instances.values():
        for task, asked in instance.asked.items():
            if task in instance.copied or instance.id in repeating:
                continue  # another has written it, or somebody has had it made again
            if isinstance(asked, ev.ActivityScheduled) and asked.name == BOOK.name:
                attempts = written.pop((instance.id, task), [])
                answer = instance.answered.get(task)
                expected: list[list[int]]
                if isinstance(answer, ev.ActivityCompleted):
                    expected = [[answer.attempt]]
                elif isinstance(answer, ev.ActivityFailed) or _is_open(instance, task):
                    expected = [[]]
                else:
                    expected = [[], attempts[:1]]
                if attempts not in expected:
                    yield f"{instance.id}: {asked!r:.100} ended with {answer!r:.100}, and has rows of {attempts}"
    for (instance_id, task), attempts in written.items():
        yield f"activity {task} of {instance_id} has rows of attempts {attempts}, and was never asked for"


def _bookings(store: InlineSqlite) -> dict[tuple[str, int], list[int]]:
    """The attempts that have written, by instance and task."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    with closing(sqlite3.connect(store.path)) as connection:
        if connection.execute("select 1 from sqlite_master where name = ?", (BOOKINGS,)).fetchone():
            for instance_id, task, attempt in connection.execute(f"select * from {BOOKINGS}"):  # noqa: S608  # a constant
                found[instance_id, task].append(attempt)
    return found


# -- onlookers ----------------------------------------------------------------------------------------------------


@verdict("I18")
def a_query_shows_what_is_durable(universe: Universe) -> Iterator[str]:
    """What a workflow was seen to have seen is what it goes on from: the beginning of its result."""
    for glimpse in universe.onlookers.glimpses:
        if glimpse.failure:
            yield f"whoever looked into {glimpse.instance_id} got {glimpse.failure}"
            continue
        if glimpse.unknown:
            yield f"{glimpse.instance_id} had seen {glimpse.unknown}, which were not received yet"
        if glimpse.instance_id in universe.ledger.repeating:
            continue  # it may have seen something else since
        instance = universe.shadow.instances[glimpse.instance_id]
        is_the_last = not any(isinstance(events[-1], ev.ContinuedAsNew) for _, _, events in instance.rows)
        if isinstance(instance.end, ev.InstanceCompleted) and is_the_last:
            log = msgspec.json.decode(instance.end.output)
            if log[: len(glimpse.log)] != glimpse.log:
                yield f"{glimpse.instance_id} showed {glimpse.log!r:.300}, but saw {log!r:.300}"
