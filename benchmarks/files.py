"""What is on the disk: bytes for each workflow, and the rate over a store with many finished instances."""

import gc
import time
from pathlib import Path

from benchmarks import postgres, process
from benchmarks.bench import MIB, Bench, Figures
from benchmarks.contract import CopiesFinished, UnsupportedError
from benchmarks.load import Load, checked_call, checked_calls

# Sizes are taken in processes that do not run the contender: a second SQLite library in one process breaks the locks of
# the first, and killed a peer here.


async def first_on_disk(bench: Bench) -> Figures:
    """Make the files: an engine that has done next to nothing."""
    if not bench.spec.durable:
        message = "keeps nothing on disk"
        raise UnsupportedError(message)
    await bench.open()
    await checked_call(bench.contender, "ten", 0)
    await bench.contender.close()
    return {}


async def size_before(bench: Bench) -> Figures:
    directory = bench.directory / "state"
    if bench.spec.postgres:
        return {"before_bytes": postgres.data_bytes(directory), "wal_before_bytes": postgres.wal_bytes()}
    return {"before_bytes": process.settled_bytes(directory)}


async def many_on_disk(bench: Bench) -> Figures:
    await bench.open()
    client = checked_calls(bench.contender, "ten", bench.dice)
    done = await bench.load(client, 64, start_for_s=bench.scale.start_for_s)
    if done.cut_short:
        message = f"64 workflows did not end in {bench.scale.deadline_s:.0f} s"
        raise TimeoutError(message)
    await bench.contender.close()
    return {"workflows": done.completed}


async def size_after(bench: Bench) -> Figures:
    """Bytes per finished ten-activity workflow, after a close; an empty engine's files do not count.

    Of SQLite and others the blocks on the disk, once their logs have gone into their files; of PostgreSQL the data
    files, and with them all that was written to its log on the way.
    """
    directory, workflows = bench.directory / "state", bench.earlier["workflows"]
    if not bench.spec.postgres:
        after_bytes = process.settled_bytes(directory)
        return {"after_bytes": after_bytes, "bytes_per_workflow": (after_bytes - _before(bench)) / workflows}
    wal_bytes = (
        postgres.wal_bytes() - bench.earlier["wal_before_bytes"]
    )  # before the checkpoint, which writes there too
    after_bytes = postgres.data_bytes(directory)
    data_bytes = after_bytes - _before(bench)
    return {
        "after_bytes": after_bytes,
        "bytes_per_workflow": data_bytes / workflows,
        "with_wal_bytes_per_workflow": (data_bytes + wal_bytes) / workflows,
    }


def _before(bench: Bench) -> float:
    return bench.earlier["before_bytes"]


async def finish_some(bench: Bench) -> Figures:
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
    if bench.spec.postgres:
        postgres.settle(target)
    return {"finished": bench.scale.finished, "fill_s": time.perf_counter() - began_s}


async def in_turns(bench: Bench) -> Figures:
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


async def size_of_filled(bench: Bench) -> Figures:
    directory = bench.directory / "filled"
    size_bytes = postgres.data_bytes(directory) if bench.spec.postgres else process.settled_bytes(directory)
    return {"file_mib": size_bytes / MIB}
