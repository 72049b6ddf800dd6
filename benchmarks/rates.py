"""What one process does: how many workflows in a second, how fast one of them, how long a long one."""

import asyncio
import time
from functools import partial
from typing import Final

from benchmarks import process, work
from benchmarks.bench import Bench, Figures, until
from benchmarks.contract import WrongResultError
from benchmarks.load import check, checked_call, checked_calls, quantile

# Arguments are integers, and an engine may be slower for large ones: all contenders get the same dice.
ARGUMENTS_MAX: Final = 1_000_000


async def rate(bench: Bench, *, workflow: str, concurrency: int, activities: int) -> Figures:
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


async def latencies(bench: Bench, *, workflow: str, argument: int | None, times: int) -> Figures:
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


async def single_latencies(bench: Bench) -> Figures:
    return await latencies(bench, workflow="one", argument=None, times=bench.scale.latencies)


async def fan_out(bench: Bench, *, width: int) -> Figures:
    return await latencies(bench, workflow="fan_out", argument=width, times=bench.scale.fan_outs)


async def event_wake_up(bench: Bench) -> Figures:
    """From `raise_event` to the result in the caller's hands, for an instance that waits for nothing else."""
    await bench.open()
    await bench.warm_up("one")
    took_ms: list[float] = []
    stop_s = time.perf_counter() + bench.scale.one_by_one_s
    while len(took_ms) < bench.scale.events and time.perf_counter() < stop_s:
        argument, waits_before = bench.dice.randrange(ARGUMENTS_MAX), work.waits.value
        instance_id = await bench.contender.begin("wait", argument)
        await until(partial(_waits_above, waits_before), timeout_s=bench.scale.deadline_s)
        # Some contenders poll: a random pause keeps the event from always falling at the same point between two polls.
        await asyncio.sleep(bench.dice.uniform(0.1, 0.6))
        began_s = time.perf_counter()
        await bench.contender.raise_event(instance_id, 1)
        check("wait", argument, await bench.contender.result(instance_id))
        took_ms.append((time.perf_counter() - began_s) * 1000)
    return {"p50_ms": quantile(took_ms, 0.5), "max_ms": max(took_ms), "events": len(took_ms)}


async def long(bench: Bench, *, length: int) -> Figures:
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
    bench.samples["tenths_us"] = [_cost_us(marks[part * tenth : (part + 1) * tenth + 1])[0] for part in range(10)]
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


def _waits_above(before: int) -> bool:
    return work.waits.value > before
