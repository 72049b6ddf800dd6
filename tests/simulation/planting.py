"""How a bug is planted: a patch, the universes in which it shows, and the checker that must find it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from durableflow.testing.simulation.plan import LEASE_S, Blow, Plan

Plant = Callable[[pytest.MonkeyPatch], None]
Where = Callable[[Plan], Plan]


UNIVERSES: Final = 100
"""In so many universes each of them is found, unless it says otherwise."""


class Mutant(NamedTuple):
    """A planted bug, and the kind of store on which it shows.

    Attributes:
        by: the invariant that must find it; any, when that is empty.
        twin: what its universes are judged beside.
        where: makes of a drawn plan one in which it shows soon.
    """

    name: str
    plant: Plant
    store: Any
    universes: int
    by: str
    twin: Any
    where: Where


MUTANTS: Final[list[Mutant]] = []


def mutant(
    store: str = "memory", universes: int = UNIVERSES, *, by: str = "", twin: str = "", where: Where = lambda plan: plan
) -> Callable[[Plant], Plant]:
    """Enter a bug."""

    def enter(plant: Plant) -> Plant:
        MUTANTS.append(Mutant(plant.__name__, plant, store, universes, by, twin, where))
        return plant

    return enter


def frozen(plan: Plan) -> Plan:
    """Each process is frozen past its lease, one after the other."""
    blows = [Blow(1.0 + 2 * number, "freeze", number, LEASE_S * 1.5) for number in range(len(plan.rates))]
    return msgspec.structs.replace(plan, blows=blows)


def crowded(plan: Plan) -> Plan:
    """All words are for a few instances."""
    births = plan.births[:3]
    said = [
        msgspec.structs.replace(each, instance_id=births[number % len(births)].instance_id)
        for number, each in enumerate(plan.spoken)
    ]
    return msgspec.structs.replace(plan, births=births, spoken=said)


def hesitant(plan: Plan) -> Plan:
    """Many transactions commit late, behind those that began after them."""
    return msgspec.structs.replace(plan, climate=msgspec.structs.replace(plan.climate, late=0.5))


def calling(*program: list[Any]) -> Where:
    """All instances run this program."""

    def where(plan: Plan) -> Plan:
        births = [msgspec.structs.replace(birth, program=list(program)) for birth in plan.births]
        return msgspec.structs.replace(plan, births=births)

    return where
