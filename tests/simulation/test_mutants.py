"""A simulator that finds no planted bug proves nothing: it finds each of these, and makes the universe small."""

from __future__ import annotations

import msgspec
import mutants  # noqa: F401  # it enters the bugs that it plants
import mutants_beside  # noqa: F401  # likewise
import mutants_of_activities  # noqa: F401  # likewise
import pytest
from planting import MUTANTS, Mutant

from durableflow.testing.simulation import Outcome, Plan, draw_plan, run_plan, shrink

pytestmark = pytest.mark.slow


def run_with(mutant: Mutant, plan: Plan) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        mutant.plant(patch)
        return run_plan(plan)


def plan_for(mutant: Mutant, seed: int) -> Plan:
    plan = mutant.where(draw_plan(seed, mutant.store))
    schedules = plan.schedules if "schedule" in mutant.by else []  # else they take time, and find nothing
    return msgspec.structs.replace(plan, twin=mutant.twin, schedules=schedules)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_planted_bug_is_found(mutant: Mutant) -> None:
    found = (run_with(mutant, plan_for(mutant, seed)).violation for seed in range(mutant.universes))
    assert any(name is not None and mutant.by in ("", name) for name in found), f"not in {mutant.universes} universes"


def test_a_failing_universe_is_made_small_and_fails_again_in_the_same_way() -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "fires_timers_a_microsecond_early")
    plan = next(p for p in map(draw_plan, range(50)) if run_with(mutant, p).violation is not None and len(p.births) > 5)
    smaller, outcome = shrink(plan, run=lambda tried: run_with(mutant, tried))
    assert outcome.violation == "a_timer_never_fires_early"
    assert smaller.size < plan.size
    assert len(smaller.births) + len(smaller.schedules) == 1
    assert (smaller.blows, smaller.spoken) == ([], [])
    assert [run_with(mutant, smaller).trace for _ in range(2)] == [outcome.trace] * 2
