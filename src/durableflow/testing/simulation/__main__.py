"""`python -m durableflow.testing.simulation`: universes by seed, until the time is over or one of them fails."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from durableflow.testing.simulation.campaign import Report, campaign
from durableflow.testing.simulation.plan import StoreKind, draw_plan, dump_plan, load_plan
from durableflow.testing.simulation.reliability import write_numbers
from durableflow.testing.simulation.running import run_plan
from durableflow.testing.simulation.shrink import shrink


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 1 when something is violated."""
    parser = argparse.ArgumentParser(prog="python -m durableflow.testing.simulation", description=__doc__)
    parser.add_argument("--minutes", type=float, help="run for so long")
    parser.add_argument("--universes", type=int, help="run so many; by default 200, or as many as there is time for")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--store", choices=["memory", "fleet", "sqlite"], help="by default what each seed says")
    parser.add_argument("--cores", type=int, help="how many processes; by default one for each core")
    parser.add_argument("--seed", type=int, help="run this universe alone, and shrink it when it fails")
    parser.add_argument("--plan", type=Path, help="run the plan in this file, and tell what happens")
    parser.add_argument("--numbers", type=Path, help="write the numbers of this run into this page")
    asked = parser.parse_args(arguments)
    if asked.plan is not None:
        return _run_one(asked.plan.read_text())
    if asked.seed is not None:
        return _shrink(asked.seed, asked.store)
    universes = asked.universes if asked.universes or asked.minutes else 200
    seconds = None if asked.minutes is None else asked.minutes * 60
    report = campaign(first=asked.first, universes=universes, seconds=seconds, store=asked.store, cores=asked.cores)
    _tell(report)
    if asked.numbers is not None:
        write_numbers(asked.numbers, report)
    return 1 if report.failures else 0


def _tell(report: Report) -> None:
    print(report.line())
    for failure in report.failures:
        print(f"\nseed {failure.seed} on {failure.store}: {failure.story}")
        print(f"  python -m durableflow.testing.simulation --store {failure.store} --seed {failure.seed}")


def _run_one(text: str) -> int:
    outcome = run_plan(load_plan(text), keeps_trace=True, look=lambda universe: print(*universe.events, sep="\n"))
    print(outcome.story or "nothing is violated")
    return 1 if outcome.violation else 0


def _shrink(seed: int, store: StoreKind | None) -> int:
    plan = draw_plan(seed, store)
    outcome = run_plan(plan)
    if outcome.violation is None:
        print(f"seed {seed}: nothing is violated, {outcome.instances} instances, trace {outcome.trace}")
        return 0
    print(f"seed {seed}: {outcome.story}\n\nmade small, which takes a while ...")
    plan, outcome = shrink(plan)
    print(f"{outcome.story}\n\n{dump_plan(plan)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
