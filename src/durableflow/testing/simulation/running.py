"""Running plans: a store for each, the judgement, and nothing left behind."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from unittest.mock import patch

from durableflow.backends.base import Backend
from durableflow.backends.memory import MemoryBackend
from durableflow.runtime import attempts, commits
from durableflow.runtime.guard import TurnGuard
from durableflow.testing.simulation import limits
from durableflow.testing.simulation.fleet import MemoryFleet
from durableflow.testing.simulation.invariants import Violation
from durableflow.testing.simulation.loop import Deadlock, Livelock, SimulatedLoop
from durableflow.testing.simulation.network import finish
from durableflow.testing.simulation.plan import Plan
from durableflow.testing.simulation.sqlite import InlineSqlite
from durableflow.testing.simulation.threads import SimulatedThreads
from durableflow.testing.simulation.twins import Run, Seen, compare
from durableflow.testing.simulation.universe import Outcome, Universe
from durableflow.testing.simulation.verdicts import judge

PROMISES: Final = (limits,)
"""Beside `invariants`: their checkers are entered when they are imported."""


def run_plan(plan: Plan, *, keeps_trace: bool = False, look: Callable[[Universe], object] | None = None) -> Outcome:
    """Carry out a plan, and judge what came of it.

    Args:
        keeps_trace: whether the universe keeps all that happened, to be read.
        look: called with the universe when it is over.
    """
    with _alone(plan), ExitStack() as stores:
        universe = _universe(plan, stores, keeps_trace=keeps_trace)
        violation = _violation(universe, partial(_run_twin, stores))
        outcome = universe.outcome()
        if violation is not None:
            outcome.violation, outcome.story = violation.invariant, str(violation)
        if look is not None:
            look(universe)
        return outcome


def _universe(plan: Plan, stores: ExitStack, *, keeps_trace: bool) -> Universe:
    store, loop = stores.enter_context(_store(plan))
    return Universe(plan, store, loop, keeps_trace=keeps_trace)


def _run_twin(stores: ExitStack, plan: Plan) -> Seen:
    """Carry out the plan of a twin; its store is there as long as that of the other.

    Raises:
        Violation: the twin violates an invariant itself.
    """
    universe = _universe(plan, stores, keeps_trace=True)
    _carry_out(universe)
    return Seen(universe.outcome(), universe)


def _violation(universe: Universe, run: Run) -> Violation | None:
    try:
        _carry_out(universe)
        compare(Seen(universe.outcome(), universe), run)
    except Violation as violation:
        return violation
    return None


def _carry_out(universe: Universe) -> None:
    try:
        universe.loop.run_until_complete(universe.run())
        judge(universe)
    except (Deadlock, Livelock) as stuck:
        raise Violation("time_passes", str(stuck)) from stuck


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
        with (
            patch.object(commits, "_AHEAD_MIN", plan.ahead),
            # Turns are guarded by a thread that would look at the real clock.
            patch.object(TurnGuard, "start", _watch_nothing),
            patch.object(attempts, "DaemonThreads", partial(SimulatedThreads, str(plan.seed))),
        ):
            yield
    finally:
        if was_enabled:
            gc.enable()
        logger.disabled = disabled
        logger.setLevel(level)
