"""Running plans: a store for each, the judgement, and nothing left behind."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from durableflow.backends.base import Backend
from durableflow.backends.memory import MemoryBackend
from durableflow.runtime import commits
from durableflow.runtime.guard import TurnGuard
from durableflow.testing.simulation.fleet import MemoryFleet
from durableflow.testing.simulation.invariants import Violation
from durableflow.testing.simulation.loop import Deadlock, Livelock, SimulatedLoop
from durableflow.testing.simulation.network import finish
from durableflow.testing.simulation.plan import Plan
from durableflow.testing.simulation.sqlite import InlineSqlite
from durableflow.testing.simulation.universe import Outcome, Universe
from durableflow.testing.simulation.verdicts import judge


def run_plan(plan: Plan, *, keeps_trace: bool = False, look: Callable[[Universe], object] | None = None) -> Outcome:
    """Carry out a plan, and judge what came of it.

    Args:
        keeps_trace: whether the universe keeps all that happened, to be read.
        look: called with the universe when it is over.
    """
    with _alone(plan), _store(plan) as (store, loop):
        universe = Universe(plan, store, loop, keeps_trace=keeps_trace)
        violation = _violation(universe, loop)
        outcome = universe.outcome()
        if violation is not None:
            outcome.violation, outcome.story = violation.invariant, str(violation)
        if look is not None:
            look(universe)
        return outcome


def _violation(universe: Universe, loop: SimulatedLoop) -> Violation | None:
    try:
        loop.run_until_complete(universe.run())
        judge(universe)
    except Violation as violation:
        return violation
    except (Deadlock, Livelock) as stuck:
        return Violation("time_passes", str(stuck))
    return None


@contextmanager
def _store(plan: Plan) -> Generator[tuple[Backend, SimulatedLoop]]:
    """A new and empty store, and the loop in whose time it lives."""
    loop = SimulatedLoop(plan.seed)
    try:
        if plan.store == "fleet":
            yield MemoryFleet(lambda: loop.now_us), loop
        elif plan.store == "memory":
            yield MemoryBackend(), loop
        else:
            with TemporaryDirectory(prefix="durableflow-") as folder:
                store = InlineSqlite(Path(folder) / "simulated.db", power_loss_safe=False)
                finish(store.open())
                try:
                    yield store, loop
                finally:
                    finish(store.close())
    finally:
        loop.close()


def _watch_nothing(_: TurnGuard) -> None:
    """No turn of a program takes long."""


@contextmanager
def _alone(plan: Plan) -> Generator[None]:
    """No log, no collector of garbage, whose moments would be chance, and the constants that a plan chooses."""
    logger = logging.getLogger("durableflow")
    disabled, logger.disabled = logger.disabled, True
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        # Turns are guarded by a thread that would look at the real clock.
        with patch.object(commits, "_AHEAD_MIN", plan.ahead), patch.object(TurnGuard, "start", _watch_nothing):
            yield
    finally:
        if was_enabled:
            gc.enable()
        logger.disabled = disabled
        logger.setLevel(level)
