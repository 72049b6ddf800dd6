"""Many instances that wait: what they weigh, and what a restart over them costs."""

import asyncio
import json
import time
from typing import Final

from benchmarks import process, work
from benchmarks.bench import MIB, Bench, Figures, until
from benchmarks.load import check, checked_call

WAKE_SAMPLE: Final = 10


async def park(bench: Bench, *, count: int) -> Figures:
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
        await until(lambda: work.waits.value - waits_before >= len(parked), timeout_s=budget_s)
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


async def wake_parked(bench: Bench) -> Figures:
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
