"""`planted.py FOLDER`: has the judge of a soak judge stores in which something was planted, a line of JSON for each.

A process of its own: what it imports defines workflows that the other tests should not see.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))

from benchmarks.soak import kinds  # isort: skip  # it finds the next ones

import flows
import ledger
from fleetkit.processes import Fleet, fleet_in
from member import Acks

from benchmarks.soak.judge import Judge
from benchmarks.soak.record import CLIENT, Terms
from durableflow import Engine, Settings, WorkflowTerminated
from durableflow.testing import PostgresServer

TERMS = Terms(duration_s=1.0, judge_after_s=0.0, retention_s=0.0)
OF_A_JUDGED = {
    "what": "begin",
    "at_s": 0.0,
    "key": "s/1",
    "activity": "add",
    "attempt": 2,
    "args": [4, 0],
    "process": 1,
}


class Scene:
    """A store in which a few instances have ended, and what was acknowledged of them."""

    def __init__(self, fleet: Fleet, engine: Engine) -> None:
        self.fleet = fleet
        self.engine = engine
        self.acks = Acks(fleet.acks_of(CLIENT))
        self.judge = Judge(fleet, engine, TERMS, fleet.acks_of(CLIENT))

    async def play(self) -> None:
        for kind, instance, number in (
            (flows.sequence, "s", 4),
            (flows.children, "c", 7),
            (flows.booking, "-booking-5", 5),
        ):
            handle = await self.engine.start(kind.options(instance_id=instance), number)
            self.acks.add("start", instance, value=number)
            self.acks.add("result", instance, value=await handle.result())
        handle = await self.engine.start(kinds.terminated.options(instance_id="t"), 3)
        self.acks.add("start", "t", value=3)
        await handle.terminate()
        try:
            await handle.result()
        except WorkflowTerminated:
            self.acks.add("status", "t", value="TERMINATED")


Plant = Callable[[Scene], Awaitable[Any]]


async def nothing(scene: Scene) -> None: ...


async def lose_a_start(scene: Scene) -> None:
    scene.acks.add("start", "x", value=1)


async def remove_what_was_not_judged(scene: Scene) -> None:
    await scene.engine.purge("s")


async def tell_another_end(scene: Scene) -> None:
    scene.acks.add("status", "s", value="CANCELLED")


async def book_twice(scene: Scene) -> None:
    await scene.fleet.sql("insert into public.booked (instance, number) values ('-booking-5', 6)")


async def run_late(scene: Scene) -> None:
    await scene.judge.look(over_for_s=0.0)
    ledger.Paper(scene.fleet.ledger).write(OF_A_JUDGED)


async def leave_a_history(scene: Scene) -> None:
    await scene.judge.look(over_for_s=0.0)
    await scene.fleet.sql("insert into history select 999999, first_seq, at_us, events from history limit 1")


async def remove_behind_its_back(scene: Scene) -> None:
    await scene.judge.look(over_for_s=0.0)
    await scene.engine.purge("s")
    await scene.judge.remove()


PLANTS: list[Plant] = [
    nothing,
    lose_a_start,
    remove_what_was_not_judged,
    tell_another_end,
    book_twice,
    run_late,
    leave_a_history,
    remove_behind_its_back,
]


async def judged(server: PostgresServer, folder: Path, plant: Plant) -> list[str]:
    async with fleet_in(server, folder) as fleet:
        ledger.open_ledger(str(fleet.ledger))
        async with Engine(fleet.url, settings=Settings(lease_s=2)) as engine:
            await engine.wait_until_leading()
            scene = Scene(fleet, engine)
            await scene.play()
            await plant(scene)
            await scene.judge.close()
            return scene.judge.violations


def main() -> None:
    with PostgresServer(fsync=False) as server:
        for plant in PLANTS:
            folder = Path(sys.argv[1]) / plant.__name__
            folder.mkdir()
            found = asyncio.run(judged(server, folder, plant))
            print(json.dumps({"plant": plant.__name__, "found": found}), flush=True)


if __name__ == "__main__":
    main()
