"""Two universes side by side: what a promise says of faults, stores or neighbours, only a second one can show.

A plan names the twin beside which its universe is judged. Twins are made of the same plan, with something left out.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import msgspec

from durableflow.backends.base import DeadLetterQuery
from durableflow.model import events as ev
from durableflow.testing.simulation.invariants import Invariant, Violation
from durableflow.testing.simulation.language import Program
from durableflow.testing.simulation.network import finish
from durableflow.testing.simulation.plan import Plan, StoreKind
from durableflow.testing.simulation.settled import settled_ids, without_counts
from durableflow.testing.simulation.universe import Outcome, Universe
from durableflow.testing.simulation.weather import CALM

POISONS: Final = 4
DELAY_US: Final = 1_000_000
"""So much later may an instance be over because of others that do what none should."""


class Seen(NamedTuple):
    """A universe that is over, as its twin looks at it."""

    outcome: Outcome
    universe: Universe


Run = Callable[[Plan], Seen]


def calm(plan: Plan, store: StoreKind | None = None) -> Plan:
    """The same plan without faults, blows and drifting clocks."""
    return msgspec.structs.replace(
        plan,
        store=store or plan.store,
        climate=msgspec.structs.replace(CALM, quick_us=plan.climate.quick_us),
        rates=(1.0,) * len(plan.rates),
        blows=[],
        only=None,
        twin="",
    )


def a_result_is_one_of_calm_weather(seen: Seen, run: Run) -> str | None:
    """What a program returns under faults it returns without: where only one result is possible, it is that one."""
    return _different(seen.universe, run(calm(seen.universe.plan)).universe)


def stores_agree(seen: Seen, run: Run) -> str | None:
    """Memory and SQLite answer each call alike and hold the same; a fleet gives the same results."""
    plan = seen.universe.plan
    if plan.store == "fleet":
        return _different(seen.universe, run(calm(plan, "memory")).universe)
    # A refusal comes at the COMMIT on SQLite, behind what a call finds out by itself.
    climate = msgspec.structs.replace(plan.climate, refused=0.0, lost=0.0)
    stores: tuple[StoreKind, StoreKind] = ("memory", "sqlite")
    births = [msgspec.structs.replace(birth, program=_on_any_store(birth.program)) for birth in plan.births]
    plans = [
        msgspec.structs.replace(plan, store=store, births=births, climate=climate, only=None, twin="")
        for store in stores
    ]
    memory, sqlite = map(run, plans)
    if memory.outcome.trace != sqlite.outcome.trace:
        lines = zip_longest(memory.universe.events, sqlite.universe.events)
        apart = next((f"{ours} | {theirs}" for ours, theirs in lines if ours != theirs), "in what was written")
        return f"memory | sqlite: {apart}"
    for ours, theirs in zip_longest(_dump(memory.universe), _dump(sqlite.universe)):
        if ours != theirs:
            return f"memory | sqlite: {ours} | {theirs}"
    return None


def _on_any_store(program: Program) -> Program:
    """The same without transactional activities, which memory refuses."""
    data = msgspec.json.encode(program).replace(b'"booked"', b'"plain"')
    return msgspec.json.decode(data, type=list[Any])


def poison_delays_nobody(seen: Seen, run: Run) -> str | None:
    """Instances that stall, fail or try for ever do not make others wait, beyond the places that they take."""
    plan = calm(seen.universe.plan)
    room = {"activity_concurrency": 100, "queue_concurrency": 100}
    plan = msgspec.structs.replace(plan, settings={**plan.settings, **room})
    without, beside = (run(msgspec.structs.replace(plan, poison=count)).universe for count in (0, POISONS))
    for instance_id in settled_ids(plan, undisturbed=True):
        ends_us = [_over_us(universe, instance_id) for universe in (without, beside)]
        if ends_us[0] and ends_us[1] > ends_us[0] + DELAY_US:
            return f"{instance_id} was over {(ends_us[1] - ends_us[0]) / 1e6:g} s later beside {POISONS} poisoned ones"
    return None


TWINS: Final = {
    "calm": Invariant("I17", a_result_is_one_of_calm_weather.__name__, "twin", a_result_is_one_of_calm_weather),
    "store": Invariant("I45", stores_agree.__name__, "twin", stores_agree),
    "poison": Invariant("I42", poison_delays_nobody.__name__, "twin", poison_delays_nobody),
}


def compare(seen: Seen, run: Run) -> None:
    """Judge a universe beside its twin, if it has one.

    Raises:
        Violation: they differ in what must be the same, or the twin violates an invariant.
    """
    each = TWINS.get(seen.universe.plan.twin)
    if each is None:
        return
    seen.universe.made[each.name] += 1
    objection = each.check(seen, run)
    if objection is not None:
        raise Violation(each.name, objection)


def _different(ours: Universe, calm_one: Universe) -> str | None:
    for instance_id in settled_ids(ours.plan):
        mine, theirs = _result(ours, instance_id), _result(calm_one, instance_id)
        if None not in (mine, theirs) and mine != theirs:
            return f"{instance_id} gave {mine:.300}, without faults {theirs:.300}"
    return None


def _result(universe: Universe, instance_id: str) -> str | None:
    """What an instance returned or raised; None when it was ended because it took too long."""
    instance = universe.shadow.instances.get(instance_id)
    end = None if instance is None else instance.end
    if isinstance(end, ev.InstanceCompleted):
        return without_counts(end.output)
    return f"{end.failure.type_name}: {end.failure.message}" if isinstance(end, ev.InstanceFailed) else None


def _over_us(universe: Universe, instance_id: str) -> int:
    """When an instance was over by itself, the first time if somebody mended it then; 0 when it never was."""
    if _result(universe, instance_id) is None:
        return 0
    rows = universe.shadow.instances[instance_id].rows
    return next(at_us for _, at_us, events in rows if any(type(event) in ev.ENDS for event in events))


def _dump(universe: Universe) -> list[str]:
    """All that a store holds, in order."""
    store = universe.store
    return [
        *(repr(record) for record in sorted(universe.records(), key=lambda record: record.id)),
        *(repr(row) for row in universe.schedules()),
        *(repr(message) for message in finish(store.inbox(0, 10_000))),
        *(repr(queue) for queue in finish(store.queues())),
        *(repr(letter) for letter in finish(store.dead_letters(DeadLetterQuery(limit=10_000)))),
    ]
