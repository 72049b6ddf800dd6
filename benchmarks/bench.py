"""The table at which a phase works, and how much of everything is asked."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import process
from benchmarks.contract import Contender, InFleet, Spec, UnsupportedError
from benchmarks.load import Load, checked_calls, closed_loop

Figures = dict[str, float]
MIB: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything; what a slow contender cannot do in the time is cut, and the cut is stated."""

    start_for_s: float  # rates: new instances are started for so long ...
    deadline_s: float  # ... and everything must be over by then
    latencies: int
    events: int
    fan_outs: int
    elsewhere: int  # starts and events from another process, one by one
    one_by_one_s: float  # the time for these three, however few of them it is enough for
    long_budget_s: float
    waiting_budget_s: float
    wake_s: float  # after a restart, for the first new workflow and for those that are woken
    finished: int
    finished_by_engine: int  # of them; the others are copies
    pairs: int  # of an empty and a filled file, in turns ...
    pair_s: float  # ... each half of a pair for so long
    fleet_pairs: int  # of one worker and two
    shrink: int = 1  # counts that a workload names are divided by this


FULL: Final = Scale(
    start_for_s=3,
    deadline_s=20,
    latencies=300,
    events=15,
    fan_outs=15,
    elsewhere=300,
    one_by_one_s=6,
    long_budget_s=12,
    waiting_budget_s=15,
    wake_s=15,
    finished=1_000_000,
    finished_by_engine=5_000,
    pairs=7,
    pair_s=2,
    fleet_pairs=3,
)
QUICK: Final = Scale(
    start_for_s=0.5,
    deadline_s=6,
    latencies=50,
    events=4,
    fan_outs=3,
    elsewhere=30,
    one_by_one_s=3,
    long_budget_s=3,
    waiting_budget_s=2,
    wake_s=3,
    finished=20_000,
    finished_by_engine=1_000,
    pairs=2,
    pair_s=0.5,
    fleet_pairs=1,
    shrink=10,
)
SCALES: Final = {"full": FULL, "quick": QUICK}


@dataclass(kw_only=True)
class Bench:
    """The table a phase works at."""

    contender: Contender
    spec: Spec
    scale: Scale
    dice: random.Random
    directory: Path  # this cell's; empty in the first phase, handed on to the next
    notes: list[str] = field(default_factory=list[str])  # what was cut, and why
    samples: dict[str, list[float]] = field(default_factory=dict[str, list[float]])  # figures taken several times here
    earlier: Figures = field(default_factory=dict[str, float])  # of this cell's earlier phases
    crash_after: bool = False

    async def open(self, directory: Path | None = None) -> None:
        await self.contender.open(process.made(directory or self.directory / "state"))

    async def warm_up(self, workflow: str, concurrency: int = 1) -> None:
        """First calls pay for imports and connections; they are not what is asked."""
        client = checked_calls(self.contender, workflow, random.Random(0))
        await self.load(client, min(concurrency, 8), start_for_s=0.2)

    async def load(
        self,
        client: Callable[[int], Awaitable[None]],
        concurrency: int,
        *,
        start_for_s: float,
        at_most: int | None = None,
    ) -> Load:
        done = await closed_loop(
            client,
            concurrency=concurrency,
            start_for_s=start_for_s,
            deadline_s=self.scale.deadline_s,
            pids=self.contender.server_pids(),
            at_most=at_most,
        )
        if done.cut_short:
            self.notes.append(f"cut after {done.took_s:.0f} s: {done.completed} completed, others still open")
        return done

    async def open_client(self) -> None:
        """Be only a client of the workers on the same state."""
        await self.in_fleet().open_client(process.made(self.directory / "state"))

    def in_fleet(self) -> InFleet:
        if not isinstance(self.contender, InFleet):
            message = "nobody has written how several of its processes share a database"
            raise UnsupportedError(message)
        return self.contender

    def shrunk(self, count: int) -> int:
        return count // self.scale.shrink


Phase = Callable[[Bench], Awaitable[Figures]]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One question, asked of every contender."""

    name: str
    title: str
    phases: tuple[Phase, ...]
    shown: Mapping[str, str]  # figure -> its heading in the report; the first one is the ratio's
    after: str = ""  # the smaller workload of the same kind: who had to be cut there is not asked here
    about: str = ""  # what a reader must know beside the title; stands on the page
    quick: bool = True
    postgres: bool = False  # asked only of those that keep their state in PostgreSQL
    sync_ms: float = 0  # how long each sync of the server's takes at least
    repeats_max: int | None = None  # what is dear is measured less often: by ours ...
    peer_repeats_max: int | None = None  # ... and by the peers


async def until(condition: Callable[[], bool], *, timeout_s: float, every_s: float = 0.005) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - counters are raised by other threads
            await asyncio.sleep(every_s)
