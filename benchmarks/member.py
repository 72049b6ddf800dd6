"""One process of a fleet: started by a phase, does what it is told, a line of JSON at a time.

What it is told comes in on standard input, its answers go out through a pipe of their own, since libraries print.
It ends with its input, and when its phase does.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import process, work
from benchmarks.child import made_contender
from benchmarks.contenders import SPECS
from benchmarks.contract import Contender, InFleet
from benchmarks.load import check, checked_calls, closed_loop

Answer = dict[str, Any]


class Member:
    def __init__(self, contender: Contender, directory: Path) -> None:
        self._contender = contender
        self._directory = directory

    async def open(self, *, lease_s: float | None = None, gate_open: bool = True) -> Answer:
        work.gate_open = gate_open
        if lease_s is not None:
            assert isinstance(self._contender, InFleet)
            self._contender.lease_s = lease_s
        await self._contender.open(self._directory)
        return {}

    async def close(self) -> Answer:
        await self._contender.close()
        return {}

    async def load(
        self, workflow: str, *, concurrency: int, start_for_s: float, deadline_s: float, seed: int
    ) -> Answer:
        """A closed loop of this process's own clients; CPU time is this process's alone."""
        client = checked_calls(self._contender, workflow, random.Random(seed))
        done = await closed_loop(
            client, concurrency=concurrency, start_for_s=start_for_s, deadline_s=deadline_s, pids=()
        )
        return {"completed": done.completed, "took_s": done.took_s, "cpu_s": done.cpu_s, "cut": done.cut_short}

    async def begin(self, workflow: str, *, count: int, concurrency: int, deadline_s: float) -> Answer:
        begun: list[tuple[str, int]] = []

        async def client(number: int) -> None:
            begun.append((await self._contender.begin(workflow, number), number))

        await closed_loop(
            client, concurrency=concurrency, start_for_s=deadline_s, deadline_s=deadline_s, pids=(), at_most=count
        )
        return {"begun": begun}

    async def results(self, workflow: str, *, begun: list[tuple[str, int]]) -> Answer:
        """Wait until all of these have ended, and check them."""
        results = await asyncio.gather(*(self._contender.result(instance_id) for instance_id, _ in begun))
        for (_, argument), result in zip(begun, results, strict=True):
            check(workflow, argument, result)
        return {}

    async def counters(self) -> Answer:
        return {"calls": work.calls.value, "waits": work.waits.value, "gates": work.gates.value}

    async def mark(self, *, number: int) -> Answer:
        """When `mark` was called here for this time, counted from 0: seconds of the monotonic clock, which all share.

        It waits for that without looking again and again, which would slow down what is measured.
        """
        loop, called = asyncio.get_running_loop(), asyncio.Event()
        work.mark_listeners[:] = [lambda: loop.call_soon_threadsafe(called.set)]
        while len(work.marks) <= number:
            await called.wait()
            called.clear()
        return {"at_s": work.marks[number][0]}


async def _serve(member: Member, answers: int) -> None:
    doors: Final[dict[str, Callable[..., Awaitable[Answer]]]] = {
        name: getattr(member, name) for name in ("open", "close", "load", "begin", "results", "counters", "mark")
    }
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        told = json.loads(line)
        try:
            answer = await doors[told.pop("do")](**told)
        except BaseException as error:  # the phase decides what it means
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        _write(answers, json.dumps(answer).encode() + b"\n")


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.member", description=__doc__)
    parser.add_argument("--contender", required=True, choices=SPECS)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--answers", type=int, required=True, help="the pipe's file descriptor")
    arguments = parser.parse_args()
    member = Member(made_contender(SPECS[arguments.contender]), process.made(arguments.directory))
    asyncio.run(_serve(member, arguments.answers))
    os._exit(0)  # whatever threads still hang


if __name__ == "__main__":
    main()
