"""What is measured. Each workload is one or more phases; every phase runs in a fresh process of the contender."""

import asyncio
import gc
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import process, work
from benchmarks.contract import Contender, CopiesFinished, Spec, UnsupportedError, WrongResultError
from benchmarks.load import Load, check, checked_call, checked_calls, closed_loop, quantile

Figures = dict[str, float]
MIB: Final = 2**20
WAKE_SAMPLE: Final = 10
# Arguments are integers, and an engine may be slower for large ones: all contenders get the same dice.
ARGUMENTS_MAX: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything; what a slow contender cannot do in the time is cut, and the cut is stated."""

    start_for_s: float  # rates: new instances are started for so long ...
    deadline_s: float  # ... and everything must be over by then
    latencies: int
    events: int
    fan_outs: int
    one_by_one_s: float  # the time for these three, however few of them it is enough for
    long_budget_s: float
    waiting_budget_s: float
    wake_s: float  # after a restart, for the first new workflow and for those that are woken
    finished: int
    finished_by_engine: int  # of them; the others are copies
    pairs: int  # of an empty and a filled file, in turns ...
    pair_s: float  # ... each half of a pair for so long
    shrink: int = 1  # counts that a workload names are divided by this


FULL: Final = Scale(
    start_for_s=3,
    deadline_s=20,
    latencies=300,
    events=15,
    fan_outs=15,
    one_by_one_s=6,
    long_budget_s=12,
    waiting_budget_s=15,
    wake_s=15,
    finished=1_000_000,
    finished_by_engine=5_000,
    pairs=7,
    pair_s=2,
)
QUICK: Final = Scale(
    start_for_s=0.5,
    deadline_s=6,
    latencies=50,
    events=4,
    fan_outs=3,
    one_by_one_s=3,
    long_budget_s=3,
    waiting_budget_s=2,
    wake_s=3,
    finished=20_000,
    finished_by_engine=1_000,
    pairs=2,
    pair_s=0.5,
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
    repeats_max: int | None = None  # what is dear is measured less often: by ours ...
    peer_repeats_max: int | None = None  # ... and by the peers


# --- rates -----------------------------------------------------------------------------------------------------------


async def _rate(bench: Bench, *, workflow: str, concurrency: int, activities: int) -> Figures:
    await bench.open()
    await bench.warm_up(workflow, concurrency)
    calls_before = work.calls.value
    client = checked_calls(bench.contender, workflow, bench.dice)
    done = await bench.load(client, concurrency, start_for_s=bench.scale.start_for_s)
    if work.calls.value - calls_before < done.completed * activities:
        message = (
            f"{done.completed} workflows completed, but only {work.calls.value - calls_before} activities were run"
        )
        raise WrongResultError(message)
    return {
        "workflows_per_s": done.rate,
        "activities_per_s": done.rate * activities,
        "cpu_ms_per_workflow": done.cpu_ms,
        "workflows": done.completed,
    }


# --- latencies -------------------------------------------------------------------------------------------------------


async def _latencies(bench: Bench, *, workflow: str, argument: int | None, times: int) -> Figures:
    await bench.open()
    await bench.warm_up("one")
    pids = bench.contender.server_pids()
    took_ms: list[float] = []
    before_cpu_s, stop_s = process.cpu_s(pids), time.perf_counter() + bench.scale.one_by_one_s
    while len(took_ms) < times and time.perf_counter() < stop_s:
        given = bench.dice.randrange(ARGUMENTS_MAX) if argument is None else argument
        began_s = time.perf_counter()
        await checked_call(bench.contender, workflow, given)
        took_ms.append((time.perf_counter() - began_s) * 1000)
    if len(took_ms) < times:
        bench.notes.append(f"{len(took_ms)} of {times} in the time there was")
    return {
        "p50_ms": quantile(took_ms, 0.5),
        "p99_ms": quantile(took_ms, 0.99),
        "cpu_ms_per_workflow": (process.cpu_s(pids) - before_cpu_s) * 1000 / len(took_ms),
        "workflows": len(took_ms),
    }


async def _single_latencies(bench: Bench) -> Figures:
    return await _latencies(bench, workflow="one", argument=None, times=bench.scale.latencies)


async def _fan_out(bench: Bench, *, width: int) -> Figures:
    return await _latencies(bench, workflow="fan_out", argument=width, times=bench.scale.fan_outs)


async def _event_wake_up(bench: Bench) -> Figures:
    """From `raise_event` to the result in the caller's hands, for an instance that waits for nothing else."""
    await bench.open()
    await bench.warm_up("one")
    took_ms: list[float] = []
    stop_s = time.perf_counter() + bench.scale.one_by_one_s
    while len(took_ms) < bench.scale.events and time.perf_counter() < stop_s:
        argument, waits_before = bench.dice.randrange(ARGUMENTS_MAX), work.waits.value
        instance_id = await bench.contender.begin("wait", argument)
        await _until(partial(_waits_above, waits_before), timeout_s=bench.scale.deadline_s)
        # Some contenders poll: a random pause keeps the event from always falling at the same point between two polls.
        await asyncio.sleep(bench.dice.uniform(0.1, 0.6))
        began_s = time.perf_counter()
        await bench.contender.raise_event(instance_id, 1)
        check("wait", argument, await bench.contender.result(instance_id))
        took_ms.append((time.perf_counter() - began_s) * 1000)
    return {"p50_ms": quantile(took_ms, 0.5), "max_ms": max(took_ms), "events": len(took_ms)}


# --- one long instance -----------------------------------------------------------------------------------------------


async def _long(bench: Bench, *, length: int) -> Figures:
    """Does an activity cost the same at the end of a long history as at its start?"""
    length = bench.shrunk(length)
    await bench.open()
    await checked_call(bench.contender, "long", 20)
    work.marks.clear()
    try:
        async with asyncio.timeout(bench.scale.long_budget_s):
            await checked_call(bench.contender, "long", length)
    except TimeoutError:
        bench.notes.append(f"{len(work.marks)} of {length} activities in {bench.scale.long_budget_s:.0f} s")
    marks = list(work.marks)
    tenth = len(marks) // 10
    if tenth < 1:
        message = f"only {len(marks)} activities in {bench.scale.long_budget_s:.0f} s"
        raise TimeoutError(message)
    (first_wall, first_cpu), (last_wall, last_cpu) = _cost_us(marks[: tenth + 1]), _cost_us(marks[-tenth - 1 :])
    return {
        "growth": last_wall / first_wall,
        "cpu_growth": last_cpu / first_cpu,
        "first_us": first_wall,
        "last_us": last_wall,
        "activities_per_s": (len(marks) - 1) / (marks[-1][0] - marks[0][0]),
        "activities": len(marks),
    }


def _cost_us(marks: list[tuple[float, float]]) -> tuple[float, float]:
    """Wall and CPU microseconds per activity between the first and the last of `marks`."""
    (wall_0, cpu_0), (wall_1, cpu_1) = marks[0], marks[-1]
    return (wall_1 - wall_0) * 1e6 / (len(marks) - 1), (cpu_1 - cpu_0) * 1e6 / (len(marks) - 1)


# --- many waiting instances ------------------------------------------------------------------------------------------


async def _park(bench: Bench, *, count: int) -> Figures:
    """Bring `count` instances to a wait for an event, and weigh the processes while they wait."""
    count = bench.shrunk(count)
    await bench.open()
    await bench.warm_up("one")
    before_bytes = process.resident_bytes(bench.contender.server_pids())
    parked: list[tuple[str, int]] = []

    async def client(number: int) -> None:
        parked.append((await bench.contender.begin("wait", number), number))

    waits_before = work.waits.value
    budget_s = bench.scale.waiting_budget_s
    done = await bench.load(client, min(256, count), start_for_s=budget_s, at_most=count)
    try:
        await _until(lambda: work.waits.value - waits_before >= len(parked), timeout_s=budget_s)
    except TimeoutError:
        bench.notes.append(
            f"{len(parked)} started, but only {work.waits.value - waits_before} came to their wait in time"
        )
    waiting = min(len(parked), work.waits.value - waits_before)
    if not waiting:
        message = f"none of {len(parked)} instances came to its wait in {budget_s:.0f} s"
        raise TimeoutError(message)
    if len(parked) < count:
        bench.notes.append(f"{len(parked)} of {count} instances in {budget_s:.0f} s")
    await asyncio.sleep(2)  # caches settle, evictions happen
    after_bytes = process.resident_bytes(bench.contender.server_pids())
    (bench.directory / "parked.json").write_text(json.dumps(parked))
    return {
        "resident_mib": after_bytes / MIB,
        "bytes_per_instance": (after_bytes - before_bytes) / waiting,
        "starts_per_s": done.rate,
        "instances": waiting,
    }


async def _wake_parked(bench: Bench) -> Figures:
    """Start up over the parked instances, weigh the processes, and see that the sleepers can be woken."""
    if not bench.spec.durable:
        return {}  # nothing is left to start up over
    parked: list[tuple[str, int]] = json.loads((bench.directory / "parked.json").read_text())
    began_s = time.perf_counter()
    await bench.open()
    figures = {"open_ms": (time.perf_counter() - began_s) * 1000}
    try:
        async with asyncio.timeout(bench.scale.wake_s):
            await checked_call(bench.contender, "one", 1)
            figures["start_up_ms"] = (time.perf_counter() - began_s) * 1000
    except TimeoutError:
        bench.notes.append(f"no new workflow completed within {bench.scale.wake_s:.0f} s of the restart")
    await asyncio.sleep(2)
    figures["resident_restarted_mib"] = process.resident_bytes(bench.contender.server_pids()) / MIB
    sample = bench.dice.sample(parked, min(WAKE_SAMPLE, len(parked)))
    woken = sum(await asyncio.gather(*(_wakes(bench, *each) for each in sample)))
    if woken < len(sample):
        bench.notes.append(f"{woken} of {len(sample)} woken within {bench.scale.wake_s:.0f} s of a restart")
    return figures


async def _wakes(bench: Bench, instance_id: str, argument: int) -> bool:
    """Each on its own clock: one that hangs must not be counted against the others."""
    try:
        async with asyncio.timeout(bench.scale.wake_s):
            await bench.contender.raise_event(instance_id, 1)
            check("wait", argument, await bench.contender.result(instance_id))
    except TimeoutError:
        return False
    return True


# --- recovery --------------------------------------------------------------------------------------------------------


async def _interrupt(bench: Bench, *, count: int) -> Figures:
    """Bring `count` instances to the middle of an activity, ten events into their history, and die there."""
    count = bench.shrunk(count)
    work.gate_open = False
    await bench.open()
    begun: list[tuple[str, int]] = []

    async def client(number: int) -> None:
        begun.append((await bench.contender.begin("gated", number), number))

    await bench.load(client, min(256, count), start_for_s=bench.scale.deadline_s, at_most=count)
    await _until(lambda: work.gates.value >= count, timeout_s=bench.scale.deadline_s)
    (bench.directory / "begun.json").write_text(json.dumps(begun))
    bench.crash_after = True
    return {"instances": count}


async def _recover(bench: Bench) -> Figures:
    """From `open` until each interrupted activity is running again, and until every instance has ended."""
    begun: list[tuple[str, int]] = json.loads((bench.directory / "begun.json").read_text())
    before_cpu_s, began_s = process.cpu_s([]), time.perf_counter()
    await bench.open()
    await _until(lambda: work.gates.value >= len(begun), timeout_s=bench.scale.deadline_s, every_s=0.001)
    resumed_s = time.perf_counter()
    for instance_id, argument in begun:
        check("gated", argument, await bench.contender.result(instance_id))
    ended_s = time.perf_counter()
    if work.calls.value:
        message = f"{work.calls.value} activities with a recorded result were run again"
        raise WrongResultError(message)
    return {
        "recovered_ms": (resumed_s - began_s) * 1000,
        "all_ended_ms": (ended_s - began_s) * 1000,
        "cpu_ms_per_workflow": (process.cpu_s([]) - before_cpu_s) * 1000 / len(begun),
    }


# --- files -----------------------------------------------------------------------------------------------------------


# Sizes are taken in processes that do not run the contender: a second SQLite library in one process breaks the locks of
# the first, and killed a peer here.


async def _first_on_disk(bench: Bench) -> Figures:
    """Make the files: an engine that has done next to nothing."""
    if not bench.spec.durable:
        message = "keeps nothing on disk"
        raise UnsupportedError(message)
    await bench.open()
    await checked_call(bench.contender, "ten", 0)
    await bench.contender.close()
    return {}


async def _size_before(bench: Bench) -> Figures:
    return {"before_bytes": process.settled_bytes(bench.directory / "state")}


async def _many_on_disk(bench: Bench) -> Figures:
    await bench.open()
    client = checked_calls(bench.contender, "ten", bench.dice)
    done = await bench.load(client, 64, start_for_s=bench.scale.start_for_s)
    if done.cut_short:
        message = f"64 workflows did not end in {bench.scale.deadline_s:.0f} s"
        raise TimeoutError(message)
    await bench.contender.close()
    return {"workflows": done.completed}


async def _size_after(bench: Bench) -> Figures:
    """Blocks on disk per finished ten-activity workflow, after a close; an empty engine's files do not count."""
    after_bytes = process.settled_bytes(bench.directory / "state")
    grown = after_bytes - bench.earlier["before_bytes"]
    return {"after_bytes": after_bytes, "bytes_per_workflow": grown / bench.earlier["workflows"]}


# --- a file with many finished instances -----------------------------------------------------------------------------


async def _finish_some(bench: Bench) -> Figures:
    """Finish some thousand one-activity workflows by the engine itself: what the copies are made of."""
    if not isinstance(bench.contender, CopiesFinished):
        message = "nobody has written how its file is filled"
        raise UnsupportedError(message)
    began_s = time.perf_counter()
    await bench.open(bench.directory / "source")
    client = checked_calls(bench.contender, "one", bench.dice)
    count = bench.scale.finished_by_engine
    done = await bench.load(client, 256, start_for_s=bench.scale.deadline_s, at_most=count)
    if done.completed < count:
        message = f"{done.completed} of {count} instances were finished"
        raise TimeoutError(message)
    await bench.contender.close()
    target = process.made(bench.directory / "filled")
    await bench.contender.copy_finished(bench.directory / "source", target, bench.scale.finished)
    return {"finished": bench.scale.finished, "fill_s": time.perf_counter() - began_s}


async def _in_turns(bench: Bench) -> Figures:
    """The rate on a fresh file and on the filled one, in pairs: what slows the machine for a while falls on both.

    Every other pair begins with the filled file. Both files are opened anew each time, by this one process.
    """
    loads: dict[str, list[Load]] = {"empty": [], "filled": []}
    for number in range(bench.scale.pairs):
        order = ("empty", "filled") if number % 2 == 0 else ("filled", "empty")
        for name in order:
            directory = bench.directory / ("filled" if name == "filled" else f"empty-{number}")
            loads[name].append(await _steady_load(bench, directory))
    bench.samples = {f"{name}_per_s": [load.rate for load in halves] for name, halves in loads.items()}
    pairs = list(zip(loads["filled"], loads["empty"], strict=True))
    bench.samples["filled_to_empty"] = [filled.rate / empty.rate for filled, empty in pairs]
    bench.samples["cpu_filled_to_empty"] = [filled.cpu_ms / empty.cpu_ms for filled, empty in pairs]
    return {"pairs": len(pairs)}


async def _steady_load(bench: Bench, directory: Path) -> Load:
    await bench.open(directory)
    await bench.warm_up("one", 256)
    client = checked_calls(bench.contender, "one", bench.dice)
    done = await bench.load(client, 256, start_for_s=bench.scale.pair_s)
    await bench.contender.close()
    gc.collect()  # the next half begins without what this one left
    return done


async def _size_of_filled(bench: Bench) -> Figures:
    return {"file_mib": process.settled_bytes(bench.directory / "filled") / MIB}


def _waits_above(before: int) -> bool:
    return work.waits.value > before


async def _until(condition: Callable[[], bool], *, timeout_s: float, every_s: float = 0.005) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - counters are raised by other threads
            await asyncio.sleep(every_s)


# --- the list --------------------------------------------------------------------------------------------------------

_RATE_SHOWN: Final = {"workflows_per_s": "workflows/s", "cpu_ms_per_workflow": "CPU ms/workflow"}
_SEQUENCE_SHOWN: Final = {
    "workflows_per_s": "workflows/s",
    "activities_per_s": "activities/s",
    "cpu_ms_per_workflow": "CPU ms/workflow",
}
_LONG_SHOWN: Final = {
    "last_us": "µs/activity, last 10 %",
    "first_us": "µs/activity, first 10 %",
    "growth": "last ÷ first",
    "cpu_growth": "the same in CPU time",
    "activities": "activities",
}
_LONG_ABOUT: Final = (
    f"Each has {FULL.long_budget_s:.0f} seconds for it. What it has not done by then is cut, and the last tenth is "
    "that of what it did."
)
_WAITING_ABOUT: Final = (
    f"Each has {FULL.waiting_budget_s:.0f} seconds to bring its instances to the wait, and is weighed with as many as "
    f"came. After a restart {WAKE_SAMPLE} of the sleepers are woken."
)
_WAITING_SHOWN: Final = {
    "bytes_per_instance": "bytes/instance",
    "resident_mib": "resident MiB",
    "start_up_ms": "start-up ms",
    "resident_restarted_mib": "resident MiB after a restart",
    "instances": "instances",
}


def _one(concurrency: int, *, quick: bool = True) -> Workload:
    return Workload(
        name=f"one-activity-{concurrency}",
        title=f"One-activity workflows, {concurrency} at a time",
        phases=(partial(_rate, workflow="one", concurrency=concurrency, activities=1),),
        shown=_RATE_SHOWN,
        quick=quick,
    )


def _ten(concurrency: int, *, quick: bool = True) -> Workload:
    return Workload(
        name=f"ten-activities-{concurrency}",
        title=f"Ten activities in sequence, {concurrency} workflows at a time",
        phases=(partial(_rate, workflow="ten", concurrency=concurrency, activities=work.SEQUENCE_LENGTH),),
        shown=_SEQUENCE_SHOWN,
        quick=quick,
    )


_ALL: Final = (
    _one(1),
    _one(16),
    _one(256),
    _one(2000, quick=False),
    _ten(1, quick=False),
    _ten(256, quick=False),
    Workload(
        name="latency",
        title="Single latency of a one-activity workflow",
        phases=(_single_latencies,),
        shown={"p50_ms": "p50 ms", "p99_ms": "p99 ms", "cpu_ms_per_workflow": "CPU ms/workflow"},
    ),
    Workload(
        name="fan-out",
        title="500-way fan-out",
        phases=(partial(_fan_out, width=500),),
        shown={"p50_ms": "p50 ms", "p99_ms": "worst ms", "cpu_ms_per_workflow": "CPU ms/workflow"},
    ),
    Workload(
        name="event",
        title="Event wake-up: from raise_event to the result",
        phases=(_event_wake_up,),
        shown={"p50_ms": "p50 ms", "max_ms": "worst ms"},
    ),
    Workload(
        name="long-2000",
        title="2,000 activities in one instance",
        phases=(partial(_long, length=2_000),),
        shown=_LONG_SHOWN,
        about=_LONG_ABOUT,
    ),
    Workload(
        name="long-10000",
        title="10,000 activities in one instance",
        phases=(partial(_long, length=10_000),),
        shown=_LONG_SHOWN,
        after="long-2000",
        about=_LONG_ABOUT + " Who could not do 2,000 is not asked for 10,000.",
        peer_repeats_max=1,
        quick=False,
    ),
    Workload(
        name="waiting-10000",
        title="10,000 waiting instances",
        phases=(partial(_park, count=10_000), _wake_parked),
        shown=_WAITING_SHOWN,
        about=_WAITING_ABOUT,
        peer_repeats_max=1,
    ),
    Workload(
        name="waiting-100000",
        title="100,000 waiting instances",
        phases=(partial(_park, count=100_000), _wake_parked),
        shown=_WAITING_SHOWN,
        after="waiting-10000",
        about="As with 10,000. Who could not do all of that is not asked here.",
        peer_repeats_max=1,
        quick=False,
    ),
    Workload(
        name="recovery",
        title="10,000 instances of ten events, recovered after a crash",
        phases=(partial(_interrupt, count=10_000), _recover),
        shown={
            "recovered_ms": "all running again, ms",
            "all_ended_ms": "all ended, ms",
            "cpu_ms_per_workflow": "CPU ms/instance",
        },
    ),
    Workload(
        name="bytes",
        title="Disk per ten-activity workflow",
        phases=(_first_on_disk, _size_before, _many_on_disk, _size_after),
        shown={"bytes_per_workflow": "bytes/workflow", "workflows": "measured over"},
        about="Blocks on disk after a close, less those of an engine that has done one workflow.",
    ),
    Workload(
        name="finished-million",
        title="One-activity rate with 1,000,000 finished instances in the file",
        phases=(_finish_some, _in_turns, _size_of_filled),
        shown={
            "filled_to_empty": "filled ÷ empty, rate",
            "cpu_filled_to_empty": "filled ÷ empty, CPU time",
            "filled_per_s": "workflows/s, filled",
            "empty_per_s": "workflows/s, empty",
            "finished": "finished before",
            "file_mib": "file MiB",
        },
        about=(
            "The promise is a rate within 10 % of an empty file's. The two take turns in one process, 256 workflows at "
            f"a time, each for {FULL.pair_s:.0f} seconds on a file that is opened anew; the empty one is a new file "
            "each time, and every other pair begins with the filled one. There are "
            f"{FULL.pairs} such pairs: a ratio is taken within a pair, and shown are the median, the least and the "
            f"greatest. To fill the file, {FULL.finished_by_engine:,} workflows are finished by the engine; their rows "
            "are then written again under fresh ids in the order of time, through the backend, in the commits that the "
            "engine would have made: each instance first as running, then as completed."
        ),
        repeats_max=1,
    ),
    Workload(
        name="import",
        title="Import time",
        phases=(),  # fresh interpreters, started by the parent: see `imports.py`
        shown={
            "import_ms": "ms, what a first program imports",
            "over_baseline": "× `import asyncio, msgspec`",
            "bare_ms": "ms, the bare package",
        },
    ),
)

WORKLOADS: Final[dict[str, Workload]] = {workload.name: workload for workload in _ALL}
