"""Instances that are in the middle of their work, or wait, when their process is killed, taken up by the next one."""

import asyncio
import json
import threading
import time
from typing import Final

from benchmarks import process, work
from benchmarks.bench import Bench, Figures, until
from benchmarks.contract import InFleet, WrongResultError
from benchmarks.load import check

LEASE_S: Final = 2.0


async def interrupt(bench: Bench, *, count: int) -> Figures:
    """Bring `count` instances to the middle of an activity, ten events into their history, and die there."""
    count = bench.shrunk(count)
    work.gate_open = False
    await _open(bench)
    begun: list[tuple[str, int]] = []

    async def client(number: int) -> None:
        begun.append((await bench.contender.begin("gated", number), number))

    await bench.load(client, min(256, count), start_for_s=bench.scale.deadline_s, at_most=count)
    await until(lambda: work.gates.value >= count, timeout_s=bench.scale.deadline_s)
    (bench.directory / "begun.json").write_text(json.dumps(begun))
    bench.crash_after = True
    return {"instances": count}


async def recover(bench: Bench) -> Figures:
    """From `open` until each interrupted activity is running again, and until every instance has ended."""
    begun: list[tuple[str, int]] = json.loads((bench.directory / "begun.json").read_text())
    pids = bench.contender.server_pids()
    before_cpu_s, began_s = process.cpu_s(pids), time.perf_counter()
    await _open(bench)
    await until(lambda: work.gates.value >= len(begun), timeout_s=bench.scale.deadline_s, every_s=0.001)
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
        "cpu_ms_per_workflow": (process.cpu_s(pids) - before_cpu_s) * 1000 / len(begun),
    }


async def leave_waiting(bench: Bench, *, count: int) -> Figures:
    """Bring `count` instances to a wait for an event, and die there."""
    count = bench.shrunk(count)
    await _open(bench)
    begun: list[tuple[str, int]] = []

    async def client(number: int) -> None:
        begun.append((await bench.contender.begin("react", number), number))

    await bench.load(client, min(256, count), start_for_s=bench.scale.deadline_s, at_most=count)
    await until(lambda: work.waits.value >= count, timeout_s=bench.scale.deadline_s)
    (bench.directory / "begun.json").write_text(json.dumps(begun))
    bench.crash_after = True
    return {"instances": count}


async def wake_all(bench: Bench) -> Figures:
    """From `open` until every one of them has had its event and ended; all events are sent at once."""
    begun: list[tuple[str, int]] = json.loads((bench.directory / "begun.json").read_text())
    pids = bench.contender.server_pids()
    before_cpu_s, began_s, before_threads = process.cpu_s(pids), time.perf_counter(), threading.active_count()
    await _open(bench)
    opened_s = time.perf_counter()

    async def end(instance_id: str, argument: int) -> None:
        await bench.contender.raise_event(instance_id, 1)
        check("react", argument, await bench.contender.result(instance_id))

    async with asyncio.timeout(2 * bench.scale.deadline_s):
        await asyncio.gather(*(end(*each) for each in begun))
    return {
        "all_ended_ms": (time.perf_counter() - began_s) * 1000,
        "open_ms": (opened_s - began_s) * 1000,
        "threads": threading.active_count() - before_threads,
        "cpu_ms_per_workflow": (process.cpu_s(pids) - before_cpu_s) * 1000 / len(begun),
    }


async def _open(bench: Bench) -> None:
    """Where the dead are known by their lease alone it is made short: how long it is, is a setting, not a speed."""
    if isinstance(bench.contender, InFleet):
        bench.contender.lease_s = LEASE_S
    await bench.open()
