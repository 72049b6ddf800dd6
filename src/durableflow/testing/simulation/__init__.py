"""The simulator: a whole fleet in one thread, under faults at every commit, by one seed, judged by invariants.

Comes in: a seed. Goes out: what came of its universe, the same each time. Never enters: the clock, threads, the
network, or dice that cannot be thrown again.

A universe has a store (memory, a fleet in memory, or a real SQLite file), processes with engines and clients in them, a
network between them and the store on which calls are slow, refused or left without an answer, clocks that drift and
jump, and speakers who insist on answers. Its plan is plain data: it is printed when it fails, made smaller, and kept.
"""

from durableflow.testing.simulation.campaign import Failure, Report, campaign
from durableflow.testing.simulation.holdings import HOLDINGS
from durableflow.testing.simulation.invariants import INVARIANTS, Invariant, Violation
from durableflow.testing.simulation.plan import Plan, draw_plan, dump_plan, load_plan, plan_by
from durableflow.testing.simulation.running import run_plan
from durableflow.testing.simulation.shrink import shrink
from durableflow.testing.simulation.twins import TWINS
from durableflow.testing.simulation.universe import Outcome
from durableflow.testing.simulation.verdicts import VERDICTS

__all__ = [
    "HOLDINGS",
    "INVARIANTS",
    "TWINS",
    "VERDICTS",
    "Failure",
    "Invariant",
    "Outcome",
    "Plan",
    "Report",
    "Violation",
    "campaign",
    "draw_plan",
    "dump_plan",
    "load_plan",
    "plan_by",
    "run_plan",
    "shrink",
]
