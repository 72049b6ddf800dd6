"""Many universes, one after the other or for so long, on as many cores as are given."""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Final

import msgspec

from durableflow.testing.simulation.plan import StoreKind, draw_plan
from durableflow.testing.simulation.running import run_plan

BATCH: Final = 20
"""So many universes are run before garbage is collected, and before a core reports."""


class Failure(msgspec.Struct, frozen=True):
    """A universe that violates an invariant: its seed says all."""

    seed: int
    store: StoreKind
    story: str


class Report(msgspec.Struct):
    """What a campaign did and found.

    Attributes:
        took_s: of real time.
        checks: how often each invariant was checked.
        faults: how many there were of each kind.
        restless: universes whose second run was not the same as the first.
    """

    universes: int = 0
    instances: int = 0
    attempts: int = 0
    commits: int = 0
    calls: int = 0
    virtual_s: float = 0.0
    took_s: float = 0.0
    checks: dict[str, int] = {}
    faults: dict[str, int] = {}
    by_store: dict[str, int] = {}
    failures: list[Failure] = []

    def add(self, other: Report) -> None:
        """Count in what another one says."""
        for name in ("universes", "instances", "attempts", "commits", "calls", "virtual_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("checks", "faults", "by_store"):
            ours: dict[str, int] = getattr(self, name)
            theirs: dict[str, int] = getattr(other, name)
            setattr(self, name, dict(Counter(ours) + Counter(theirs)))
        self.failures = [*self.failures, *other.failures]

    @property
    def all_faults(self) -> int:
        """Of every kind."""
        return sum(self.faults.values())

    def line(self) -> str:
        """The numbers, as a sentence."""
        rate = 1 / self.took_s if self.took_s else 0.0
        return (
            f"{self.universes:,} universes with {self.instances:,} instances and {self.all_faults:,} faults "
            f"in {self.took_s:,.0f} s: {self.universes * rate:,.1f} universes, {self.instances * rate:,.0f} instances "
            f"and {self.all_faults * rate:,.0f} faults a second; {len(self.failures)} violations"
        )


def run_batch(seeds: Sequence[int], store: StoreKind | None = None) -> Report:
    """Run the universes of these seeds."""
    report = Report()
    began_s = time.perf_counter()
    for seed in seeds:
        plan = draw_plan(seed, store)
        outcome = run_plan(plan)
        one = Report(
            1,
            outcome.instances,
            outcome.attempts,
            outcome.commits,
            outcome.calls,
            outcome.virtual_s,
            0.0,
            outcome.checks,
            outcome.faults,
            {plan.store: 1},
            [] if outcome.violation is None else [Failure(seed, plan.store, outcome.story)],
        )
        report.add(one)
    gc.collect()
    report.took_s = time.perf_counter() - began_s
    return report


def _batches(first: int, universes: int | None) -> Iterator[range]:
    seed = first
    while universes is None or seed < first + universes:
        until = seed + BATCH if universes is None else min(seed + BATCH, first + universes)
        yield range(seed, until)
        seed = until


def campaign(
    *,
    first: int = 0,
    universes: int | None = None,
    seconds: float | None = None,
    store: StoreKind | None = None,
    cores: int | None = None,
) -> Report:
    """Run universes, and report.

    Args:
        first: seed of the first; the others follow.
        universes: how many; None for as many as there is time for.
        seconds: of real time, after which no further batch begins.
        store: the kind of all of them; None for what each seed says.
        cores: how many processes; 1 for this one, None for one for each core.
    """
    cores = cores or os.cpu_count() or 1
    report = Report()
    began_s = time.perf_counter()
    batches = _batches(first, universes)

    def is_over() -> bool:
        return seconds is not None and time.perf_counter() - began_s >= seconds

    if cores == 1:
        for batch in batches:
            report.add(run_batch(batch, store))
            if is_over():
                break
    else:
        with ProcessPoolExecutor(cores) as pool:
            under_way: list[Future[Report]] = []
            for batch in batches:
                under_way.append(pool.submit(run_batch, batch, store))
                if len(under_way) >= 2 * cores:
                    report.add(under_way.pop(0).result())
                if is_over():
                    break
            for future in under_way:
                report.add(future.result())
    report.took_s = time.perf_counter() - began_s
    return report
