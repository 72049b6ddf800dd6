"""A program that prints the digests of some universes, in which the engine's objects are hashed by chance.

By address they follow each other much alike in every process, so that processes agree on the order of a set by luck.
"""

from __future__ import annotations

import random
import sys

import msgspec

from durableflow.testing.simulation import Plan, draw_plan, run_plan
from durableflow.testing.simulation.plan import Blow

DICE = random.SystemRandom()
HASHES: dict[int, int] = {}


def by_chance(thing: object) -> int:
    return HASHES.setdefault(id(thing), DICE.getrandbits(60))


def hash_by_chance() -> None:
    """All classes that have only their address to be hashed by."""
    modules = [module for name, module in sys.modules.items() if name.startswith("durableflow")]
    for each in {each for module in modules for each in vars(module).values() if isinstance(each, type)}:
        is_plain = each.__hash__ is object.__hash__ and not issubclass(each, BaseException)
        if is_plain and each.__module__.startswith("durableflow"):
            each.__hash__ = by_chance


def interrupted(plan: Plan) -> Plan:
    """Each instance runs many attempts at once, and processes are closed while they do."""
    many = range(6)
    program = [*(["activity", "steady", number] for number in many), *(["wait", number] for number in many)]
    births = [msgspec.structs.replace(birth, program=program) for birth in plan.births]
    blows = [Blow(0.5 + number, "close", number, 0.1) for number in many]
    return msgspec.structs.replace(plan, births=births, blows=blows)


if __name__ == "__main__":
    hash_by_chance()
    for seed in range(3):
        for plan in (draw_plan(seed, "memory"), draw_plan(seed, "fleet")):
            print(run_plan(plan).trace)
            print(run_plan(interrupted(plan)).trace)
