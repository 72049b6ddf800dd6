"""A failing universe made small: fewer instances, blows, faults and words, as long as it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from durableflow.testing.simulation.plan import Plan
from durableflow.testing.simulation.running import run_plan
from durableflow.testing.simulation.universe import Outcome
from durableflow.testing.simulation.weather import CALM

T = TypeVar("T")

RUNS_MAX: Final = 600
"""So many universes are tried."""


def shrink(plan: Plan, *, run: Callable[[Plan], Outcome] = run_plan, runs_max: int = RUNS_MAX) -> tuple[Plan, Outcome]:
    """The smallest plan that was found to violate the same invariant, and what came of it.

    Args:
        plan: one that violates an invariant.
        run: how a plan is carried out, with whatever is planted.
        runs_max: how many plans to try.
    """
    found = run(plan)
    if found.violation is None:
        raise ValueError("the plan violates nothing, so there is nothing to be made small")
    best, outcome, runs = plan, found, 0
    is_smaller = True
    while is_smaller and runs < runs_max:
        is_smaller = False
        for smaller in _smaller(best, outcome):
            runs += 1
            tried = run(smaller)
            if tried.violation == outcome.violation:
                best, outcome, is_smaller = smaller, tried, True
                break
            if runs >= runs_max:
                break
    return best, outcome


def _smaller(plan: Plan, outcome: Outcome) -> Iterator[Plan]:
    """Plans with something taken away, first those that lack most."""
    for births in _without(plan.births):
        yield msgspec.structs.replace(plan, births=births)
    for schedules in _without(plan.schedules):
        yield msgspec.structs.replace(plan, schedules=schedules)
    for spoken in _without(plan.spoken):
        yield msgspec.structs.replace(plan, spoken=spoken)
    for blows in _without(plan.blows):
        yield msgspec.structs.replace(plan, blows=blows)
    if len(plan.rates) > 1:
        yield msgspec.structs.replace(plan, rates=plan.rates[:-1])
    if any(rate != 1.0 for rate in plan.rates):
        yield msgspec.structs.replace(plan, rates=(1.0,) * len(plan.rates))
    yield from _milder(plan, outcome)
    for number, birth in enumerate(plan.births):
        for program in _shorter(birth.program):
            births = list(plan.births)
            births[number] = msgspec.structs.replace(birth, program=program)
            yield msgspec.structs.replace(plan, births=births)
        if len(birth.via) > 1 or birth.queue:
            births = list(plan.births)
            births[number] = msgspec.structs.replace(birth, via=birth.via[:1], queue=False)
            yield msgspec.structs.replace(plan, births=births)


def _milder(plan: Plan, outcome: Outcome) -> Iterator[Plan]:
    """The same with fewer faults: first without a kind of them, then without some."""
    for name in ("refused", "lost", "hidden", "slow", "hints_lost"):
        if getattr(plan.climate, name):
            climate = msgspec.structs.replace(plan.climate, **{name: getattr(CALM, name)})
            yield msgspec.structs.replace(plan, climate=climate, only=None)
    fallen = outcome.fallen
    if plan.only is None and fallen:
        yield msgspec.structs.replace(plan, only=tuple(fallen))
    elif plan.only:
        for only in _without(plan.only):
            yield msgspec.structs.replace(plan, only=tuple(only))


def _without(items: Sequence[T]) -> Iterator[list[T]]:
    """Lists that lack some items: half of them, a quarter, one."""
    size = len(items)
    step = size
    while step:
        for start in range(0, size, step):
            yield [*items[:start], *items[start + step :]]
        step = step // 2


def _shorter(program: list[Any]) -> Iterator[list[Any]]:
    """Programs that lack some instructions, or have the inside of a block instead of it."""
    yield from _without(program)
    for number, instruction in enumerate(program):
        for operand, inner in enumerate(instruction):
            if not isinstance(inner, list):
                continue
            block: list[Any] = inner  # pyright: ignore[reportUnknownVariableType]  # mypy calls a cast redundant
            yield [*program[:number], *block, *program[number + 1 :]]
            for shorter in _shorter(block):
                changed = [*instruction[:operand], shorter, *instruction[operand + 1 :]]
                yield [*program[:number], changed, *program[number + 1 :]]
