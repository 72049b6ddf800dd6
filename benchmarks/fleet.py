"""Several processes on one database: two workers, starts and events from outside, and what becomes of a killed one's.

The phase's own process leads: it starts the others, and is itself at most a client. All of them run on this machine, so
their monotonic clocks are one.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from statistics import fmean
from typing import Any, Final
from uuid import uuid4

from benchmarks import process, work
from benchmarks.bench import Bench, Figures
from benchmarks.environments import REPOSITORY
from benchmarks.load import check, quantile

CLIENTS: Final = 256
LEASE_S: Final = 3.0  # so that a take-over is a matter of seconds
ARGUMENTS_MAX: Final = 1_000_000
ANSWER_MAX_BYTES: Final = 2**26


class MemberError(Exception):
    """Another process of the fleet could not do what it was told; the message is its own."""


class Member:
    """Another process of the fleet, as seen by the one that leads."""

    def __init__(self, child: asyncio.subprocess.Process, answers: asyncio.StreamReader) -> None:
        self._child = child
        self._answers = answers

    @classmethod
    async def start(cls, bench: Bench) -> "Member":
        """A process with the contender imported, which has not opened it."""
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "benchmarks.member", "--contender", bench.spec.name]
        command += ["--directory", str(bench.directory / "state"), "--answers", str(writing)]
        child = await asyncio.create_subprocess_exec(
            *command,
            cwd=REPOSITORY,
            env={**os.environ, work.MEMBER: f"member-{uuid4().hex}"},
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(writing,),
        )
        os.close(writing)
        answers = asyncio.StreamReader(limit=ANSWER_MAX_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(answers), os.fdopen(reading, "rb")
        )
        return cls(child, answers)

    async def tell(self, do: str, **told: Any) -> dict[str, Any]:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"do": do, **told}).encode() + b"\n")
        line = await self._answers.readline()
        if not line:
            message = f"a member ended while it was told to {do}"
            raise MemberError(message)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MemberError(answer["error"])
        return answer

    def kill(self) -> None:
        self._child.send_signal(signal.SIGKILL)

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()
        await self._child.wait()


@contextlib.asynccontextmanager
async def members(bench: Bench, count: int) -> AsyncIterator[Sequence[Member]]:
    bench.in_fleet()  # refuses contenders that cannot
    process.made(bench.directory / "state")
    async with contextlib.AsyncExitStack() as stack:
        started = []
        for _ in range(count):
            started.append(await Member.start(bench))
            stack.push_async_callback(started[-1].end)
        yield started


# --- two workers -----------------------------------------------------------------------------------------------------


async def two_workers(bench: Bench) -> Figures:
    """One worker with its clients alone, then two, each with clients of its own; in turns."""
    async with members(bench, 2) as (first, second):
        await first.tell("open")
        rates: dict[str, list[float]] = {"one": [], "two": []}
        cpu_ms = list[float]()
        for _ in range(bench.scale.fleet_pairs):
            alone, _ = await _loads(bench, [first])
            await second.tell("open")
            both, both_cpu_ms = await _loads(bench, [first, second])
            await second.tell("close")
            rates["one"].append(alone)
            rates["two"].append(both)
            cpu_ms.append(both_cpu_ms)
        await first.tell("close")
    bench.samples["two_per_s"], bench.samples["one_per_s"] = rates["two"], rates["one"]
    bench.samples["two_to_one"] = [two / one for two, one in zip(rates["two"], rates["one"], strict=True)]
    return {"cpu_ms_per_workflow": fmean(cpu_ms)}


async def _loads(bench: Bench, workers: Sequence[Member]) -> tuple[float, float]:
    """Workflows in a second of all these together, and CPU milliseconds of each, the server's included."""
    await asyncio.gather(*(_load(bench, worker, start_for_s=0.3) for worker in workers))
    server = bench.contender.server_pids()
    before_cpu_s = process.cpu_s(server)
    done = await asyncio.gather(*(_load(bench, worker, start_for_s=bench.scale.start_for_s) for worker in workers))
    cpu_s = process.cpu_s(server) - before_cpu_s + sum(each["cpu_s"] for each in done)
    completed = sum(each["completed"] for each in done)
    if any(each["cut"] for each in done):
        bench.notes.append(f"cut: {completed} completed by {len(workers)}, others still open")
    return completed / max(each["took_s"] for each in done), cpu_s * 1000 / completed


async def _load(bench: Bench, worker: Member, *, start_for_s: float) -> dict[str, Any]:
    return await worker.tell(
        "load",
        workflow="one",
        concurrency=CLIENTS,
        start_for_s=start_for_s,
        deadline_s=bench.scale.deadline_s,
        seed=bench.dice.randrange(2**31),
    )


# --- from another process --------------------------------------------------------------------------------------------


async def starts_elsewhere(bench: Bench) -> Figures:
    """Begin workflows here for a worker in another process: one by one, then as many as go."""
    async with members(bench, 1) as (worker,):
        await worker.tell("open")
        await bench.open_client()
        begun: list[tuple[str, int]] = []
        offset = bench.dice.randrange(ARGUMENTS_MAX)

        async def client(number: int) -> None:
            begun.append((await bench.contender.begin("one", offset + number), offset + number))

        await bench.load(client, 8, start_for_s=0.2)
        await _until_counted(worker, "calls", len(begun), timeout_s=bench.scale.deadline_s)
        single = await _single_starts(bench, worker)
        before, began_s = (await worker.tell("counters"))["calls"], time.perf_counter()
        begun.clear()
        done = await bench.load(client, CLIENTS, start_for_s=bench.scale.start_for_s)
        with contextlib.suppress(TimeoutError):
            await _until_counted(worker, "calls", before + len(begun), timeout_s=bench.scale.deadline_s)
        called, ended_s = (await worker.tell("counters"))["calls"] - before, time.perf_counter()
        if called < len(begun):
            bench.notes.append(f"{called} of {len(begun)} that were started were run in the time there was")
        else:
            for instance_id, argument in bench.dice.sample(begun, min(100, len(begun))):
                check("one", argument, await bench.contender.result(instance_id))
    return {"starts_per_s": done.rate, "called_per_s": called / (ended_s - began_s), "starts": done.completed} | single


async def _single_starts(bench: Bench, worker: Member) -> Figures:
    """From the call to its acknowledgement here, and to the activity there."""
    acknowledged_ms, called_ms = list[float](), list[float]()
    stop_s = time.perf_counter() + bench.scale.one_by_one_s
    while len(called_ms) < bench.scale.elsewhere and time.perf_counter() < stop_s:
        await asyncio.sleep(bench.dice.uniform(0, 0.02))
        began_s = time.perf_counter()
        await bench.contender.begin("long", 1)
        acknowledged_ms.append((time.perf_counter() - began_s) * 1000)
        called_ms.append((await _mark(bench, worker, len(called_ms)) - began_s) * 1000)
    _note_missing(bench, len(called_ms))
    return {
        "start_p50_ms": quantile(acknowledged_ms, 0.5),
        "called_p50_ms": quantile(called_ms, 0.5),
        "called_p99_ms": quantile(called_ms, 0.99),
    }


async def events_elsewhere(bench: Bench) -> Figures:
    """From `raise_event` here to the next activity of the workflow in another process."""
    async with members(bench, 1) as (worker,):
        await worker.tell("open")
        await bench.open_client()
        count, took_ms = bench.scale.elsewhere, list[float]()
        begun = [(await bench.contender.begin("react", number), number) for number in range(count)]
        await _until_counted(worker, "waits", count, timeout_s=bench.scale.deadline_s)
        stop_s = time.perf_counter() + bench.scale.one_by_one_s
        for instance_id, argument in begun:
            if time.perf_counter() > stop_s:
                break
            await asyncio.sleep(bench.dice.uniform(0, 0.02))
            began_s = time.perf_counter()
            await bench.contender.raise_event(instance_id, 1)
            took_ms.append((await _mark(bench, worker, len(took_ms)) - began_s) * 1000)
            check("react", argument, await bench.contender.result(instance_id))
        _note_missing(bench, len(took_ms))
    return {"p50_ms": quantile(took_ms, 0.5), "p99_ms": quantile(took_ms, 0.99), "events": len(took_ms)}


async def _mark(bench: Bench, worker: Member, number: int) -> float:
    async with asyncio.timeout(bench.scale.deadline_s):
        at_s: float = (await worker.tell("mark", number=number))["at_s"]
        return at_s


def _note_missing(bench: Bench, done: int) -> None:
    if done < bench.scale.elsewhere:
        bench.notes.append(f"{done} of {bench.scale.elsewhere} in the time there was")


# --- a killed worker -------------------------------------------------------------------------------------------------


async def take_over(bench: Bench, *, count: int) -> Figures:
    """Kill a worker with `count` instances in the middle of an activity; another one, idle until then, goes on.

    The clock runs from the kill until all instances have ended. The activity ends at once when it is run again.
    """
    count = bench.shrunk(count)
    fleet = bench.in_fleet()
    fleet.lease_s = LEASE_S
    async with members(bench, 2) as (victim, heir):
        await victim.tell("open", lease_s=LEASE_S, gate_open=False)
        deadline_s = bench.scale.deadline_s
        begun = (await victim.tell("begin", workflow="gated", count=count, concurrency=CLIENTS, deadline_s=deadline_s))[
            "begun"
        ]
        await _until_counted(victim, "gates", count, timeout_s=deadline_s)
        await heir.tell("open", lease_s=LEASE_S)
        victim.kill()
        killed_s = time.perf_counter()
        ending = asyncio.ensure_future(heir.tell("results", workflow="gated", begun=begun))
        async with asyncio.timeout(LEASE_S + deadline_s):
            await ending
        ended_s = time.perf_counter()
        counters = await heir.tell("counters")
    if counters["gates"] < count:
        message = f"all {count} instances ended, but only {counters['gates']} were taken over"
        raise MemberError(message)
    return {
        "after_lease_ms": (ended_s - killed_s - LEASE_S) * 1000,
        "all_ended_ms": (ended_s - killed_s) * 1000,
        "repeated_activities": counters["calls"],
        "instances": count,
    }


async def _until_counted(worker: Member, counter: str, count: int, *, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while (await worker.tell("counters"))[counter] < count:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(0.005)
