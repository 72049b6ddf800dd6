"""A soak: a server, three workers, a client, faults, samples and a judge, all at once."""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import asyncpg
from fleetkit.processes import LOST, Fleet, Member, eventually, fleet_in

from benchmarks import machine
from benchmarks.environments import REPOSITORY
from benchmarks.results import DIRECTORY
from benchmarks.soak import pulses, verdict
from benchmarks.soak.asker import ASKED
from benchmarks.soak.faults import Faults, plan
from benchmarks.soak.gauges import MachineGauge, ServerGauge
from benchmarks.soak.judge import Judge
from benchmarks.soak.kinds import NAP_S
from benchmarks.soak.record import CLIENT, STEADY, Record, Terms, columns
from durableflow import Client, StorageError
from durableflow.testing import PostgresServer

VICTIMS: Final = ("w2", "w3")
SETTINGS: Final = {"max_connections": 200}
JUDGE_EVERY_S: Final = 5.0
SAVE_EVERY_S: Final = 60.0
LONG_FROM_S: Final = 90.0
"""Shorter soaks do without instances that nap."""
_NOT_OVER: Final = "select id, status, wake_us, owner from instances where finished_us is null limit 10"
MALLOC: Final = "MALLOC_MMAP_THRESHOLD_"
"""On which it hangs how much of its heap glibc keeps: docs/how-to/tune-a-worker.md."""
DRAIN_S: Final = 3 * NAP_S + 60.0
NOT_NOW: Final = (StorageError, asyncpg.PostgresError, *LOST)
"""The server is away, or has ended this session: what was to be asked is asked the next time."""


class Soak:
    """One soak on one database."""

    def __init__(self, fleet: Fleet, client: Client, record: Record, output: Path) -> None:
        self._fleet = fleet
        self._record = record
        self._terms = record.terms
        self._output = output
        self._judge = Judge(fleet, client, record.terms, fleet.acks_of(CLIENT))
        self._outside: dict[str, list[dict[str, float]]] = {"server": [], "machine": []}
        self._began_s = self._asked = 0.0

    async def run(self) -> None:
        """Begin all, keep on for as long as was asked for, come to rest, and judge."""
        planned = plan(self._terms, VICTIMS)
        self._record.planned_faults = len(planned)
        for name in (STEADY, *VICTIMS):
            await self._begin(name).says("leads")
        asking = self._begin(CLIENT, "--ask", str(self._terms.rate))
        await asking.says("open")
        self._began_s = time.monotonic()
        faults = Faults(self._fleet, self._terms, self._began_s, self._record.faults.append)
        loops = [
            asyncio.create_task(self._every(self._terms.sample_every_s, self._sampler())),
            asyncio.create_task(self._every(JUDGE_EVERY_S, self._judge_and_remove)),
            asyncio.create_task(self._every(SAVE_EVERY_S, self._save)),
        ]
        storm = asyncio.create_task(faults.run(planned))
        try:
            until_s = self._began_s + self._terms.duration_s
            ended, _ = await asyncio.wait(
                [storm, *loops], timeout=until_s - time.monotonic(), return_when=asyncio.FIRST_EXCEPTION
            )
            for task in ended:
                task.result()
            await storm  # what has begun is done, so that nobody stays away
        finally:
            for task in (storm, *loops):
                task.cancel()
            await asyncio.gather(storm, *loops, return_exceptions=True)
        await self._come_to_rest(asking)

    def _begin(self, name: str, *more: str) -> Member:
        command = ["-m", "benchmarks.soak.member", self._fleet.url, "--name", name, "--lease", str(self._terms.lease_s)]
        command += ["--ledger", str(self._fleet.ledger), "--pulses", str(self._pulses_of(name))]
        command += ["--every", str(self._terms.sample_every_s), "--acks", str(self._fleet.acks_of(name)), *more]
        command += ["--long"] if self._terms.duration_s >= LONG_FROM_S else []
        return self._fleet.begin_program(name, command)

    def _pulses_of(self, name: str) -> Path:
        return self._fleet.folder / f"{name}.pulses.jsonl"

    # -- what goes on meanwhile ---------------------------------------------------------------------------------------

    async def _every(self, every_s: float, do: Callable[[], Awaitable[object]]) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await do()
            except NOT_NOW as error:
                print(f"{self._now_s():7.1f} s  not now: {type(error).__name__}: {error}", flush=True)

    def _now_s(self) -> float:
        return time.monotonic() - self._began_s

    def _sampler(self) -> Callable[[], Awaitable[object]]:
        server, load = ServerGauge(self._fleet), MachineGauge()

        async def sample() -> None:
            self._outside["machine"].append({"at_s": time.monotonic(), **load.read()})
            self._outside["server"].append({"at_s": time.monotonic(), **await server.read()})

        return sample

    async def _judge_and_remove(self) -> None:
        await self._judge.look(over_for_s=self._terms.judge_after_s)
        await self._judge.remove()

    async def _save(self) -> None:
        record = self._record
        record.series = {name: columns(rows, self._began_s) for name, rows in self._outside.items()}
        for name in (STEADY, *VICTIMS, CLIENT):
            record.series[name] = columns(pulses.read(self._pulses_of(name)), self._began_s)
        counted = record.column(CLIENT, "began")
        began = self._asked or (counted[-1][1] if counted else 0.0)
        record.totals = {"began": began, **self._judge.totals()}
        record.violations = self._judge.violations[:100]
        record.save(self._output)
        told = ", ".join(f"{count:,.0f} {what}" for what, count in record.totals.items())
        print(
            f"{self._now_s():7.1f} s  {told}; {len(record.faults)} faults, {len(record.violations)} wrong", flush=True
        )

    # -- the end ------------------------------------------------------------------------------------------------------

    async def _come_to_rest(self, asking: Member) -> None:
        """The client sees to the end of what it has begun; then all is over, judged, and the workers close."""
        workers = [member for member in self._fleet.members if member is not asking]
        try:
            await self._fleet.end([asking], timeout_s=DRAIN_S)
            await eventually(self._fleet.is_quiet, "all is over and the inbox is empty")
        except AssertionError as error:
            self._judge.violations.append(str(error))
            self._judge.violations += [f"not over: {row}" for row in await self._fleet.sql(_NOT_OVER)]
        self._asked = sum(float(line.removeprefix(ASKED)) for line in asking.heard(ASKED))
        await self._judge.close()
        self._judge.violations += asking.heard("wrong")
        try:
            await self._fleet.end(workers)
            left = await self._fleet.value("select count(*) from workers")
            self._judge.violations += [f"{left} workers have closed and kept their leases"] if left else []
        except AssertionError as error:
            self._judge.violations.append(str(error))
        for path in sorted(self._fleet.folder.glob("*.txt")):
            if "Traceback" in (said := path.read_text()):
                self._judge.violations.append(f"{path.name}: {said[said.index('Traceback') :][:2_000]}")
        await self._save()


async def soak(terms: Terms, output: Path, *, folder: Path | None = None, command: str = "") -> Record:
    """Run it, and keep what was measured.

    Args:
        folder: where the processes leave what they say, some 400 MB an hour; by default one that is removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="durableflow-soak-") as made, PostgresServer(settings=SETTINGS) as server:
        place = folder or Path(made)
        place.mkdir(parents=True, exist_ok=True)
        record = Record(terms=terms, started=f"{datetime.now(UTC):%Y-%m-%d %H:%M}", command=command)
        record.revision = _revision()
        record.machine = machine.facts(place) | machine.conditions(place) | {"PostgreSQL": server.version}
        record.machine["niceness of the soak"] = str(os.nice(0))
        record.machine[MALLOC] = os.environ.get(MALLOC, "not set")
        async with fleet_in(server, place) as fleet, Client(fleet.url) as client:
            await Soak(fleet, client, record, output).run()
    return record


def _revision() -> str:
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=Terms.rate, help="starts in a second")
    parser.add_argument("--seed", type=int, default=Terms.seed, help="of the faults")
    parser.add_argument("--lease", type=float, default=Terms.lease_s, help="seconds")
    parser.add_argument("--fault-every", type=float, nargs=2, default=Terms.fault_every_s, metavar="S")
    parser.add_argument("--judge-after", type=float, default=Terms.judge_after_s, help="seconds after its end")
    parser.add_argument("--retention", type=float, default=Terms.retention_s, help="seconds after its end")
    parser.add_argument("--every", type=float, default=Terms.sample_every_s, help="seconds between two samples")
    parser.add_argument("--output", type=Path, default=DIRECTORY / "soak.json")
    parser.add_argument("--folder", type=Path, help="keep what the processes leave here")
    given = parser.parse_args(words)
    terms = Terms(
        duration_s=given.minutes * 60,
        rate=given.rate,
        seed=given.seed,
        lease_s=given.lease,
        fault_every_s=tuple(given.fault_every),
        judge_after_s=given.judge_after,
        retention_s=given.retention,
        sample_every_s=given.every,
    )
    command = f"python -m benchmarks.soak {' '.join(words if words is not None else sys.argv[1:])}".strip()
    output, folder = given.output.absolute(), given.folder and given.folder.absolute()
    os.chdir(REPOSITORY)  # where `-m benchmarks` finds itself
    record = asyncio.run(soak(terms, output, folder=folder, command=command))
    print(*verdict.lines(record), sep="\n")
    return 0 if verdict.passed(record) else 1
