"""What is done to a fleet, planned by a seed and done one after the other."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

import asyncpg
from fleetkit.processes import Fleet, Member

from benchmarks.soak.record import Fault, Terms

WEIGHTS: Final = {"kill": 6, "freeze": 2, "sessions": 2}
RESTARTS_FROM: Final = 4
"""Faults that a plan must have before one of them is a crash of the server."""
AWAY_S: Final = (0.5, 3.0)
ASLEEP_S: Final = (1.0, 4.0)
SESSIONS: Final = 3
_END_SESSIONS: Final = """
    select count(pg_terminate_backend(pid)) from (
        select pid from pg_stat_activity
        where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
        order by random() limit {}
    ) chosen
"""


def plan(terms: Terms, victims: Sequence[str]) -> list[Fault]:
    """When what is to be done to whom. The first is a kill; the one in the middle of many crashes the server."""
    dice = random.Random(terms.seed)
    planned = list[Fault]()
    at_s = dice.uniform(*terms.fault_every_s)
    while at_s < terms.duration_s - terms.lease_s:
        what = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0] if planned else "kill"
        planned.append(Fault(at_s=at_s, what=what, whom="" if what == "sessions" else dice.choice(victims)))
        at_s += dice.uniform(*terms.fault_every_s)
    if len(planned) >= RESTARTS_FROM:
        middle = len(planned) // 2
        planned[middle] = Fault(at_s=planned[middle].at_s, what="crash of the server")
    return planned


class Faults:
    """Does what is planned.

    Args:
        began_s: when the load began, by the monotonic clock.
        done: told of each fault when it is done.
    """

    def __init__(self, fleet: Fleet, terms: Terms, began_s: float, done: Callable[[Fault], object]) -> None:
        self._fleet = fleet
        self._terms = terms
        self._began_s = began_s
        self._done = done
        self._dice = random.Random(f"{terms.seed} faults")

    async def run(self, planned: Sequence[Fault]) -> None:
        for fault in planned:
            await asyncio.sleep(max(0.0, self._began_s + fault.at_s - time.monotonic()))
            at_s = time.monotonic() - self._began_s
            await self._do(fault)
            self._done(Fault(at_s=round(at_s, 1), what=fault.what, whom=fault.whom))

    async def _do(self, fault: Fault) -> None:
        match fault.what:
            case "kill":
                member = self._member(fault.whom)
                member.kill()
                await asyncio.sleep(self._dice.uniform(*AWAY_S))
                await self._fleet.again(member).says("open")
            case "freeze":
                member = self._member(fault.whom)
                member.freeze()
                try:
                    await asyncio.sleep(self._terms.lease_s + self._dice.uniform(*ASLEEP_S))
                finally:
                    member.thaw()
            case "sessions":
                await self._end_sessions()
            case _:
                await asyncio.to_thread(self._fleet.server.restart, "immediate")

    async def _end_sessions(self) -> None:
        """On a connection of its own: that of the kit is one of those that may be ended."""
        connection = await asyncpg.connect(self._fleet.url)
        try:
            await connection.execute(_END_SESSIONS.format(SESSIONS))
        finally:
            await connection.close()

    def _member(self, name: str) -> Member:
        return next(member for member in self._fleet.members if member.name == name)
