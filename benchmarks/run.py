"""The parent: makes environments, gives every contender each workload in turn, and collects the answers.

Contenders take turns within a workload, and workloads within a repeat, so that a slow moment of the machine does not
fall on one contender alone. Each phase of each cell is a process of its own, in a session of its own: what it leaves
behind is ended with it.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import environments, machine
from benchmarks.contenders import SPECS
from benchmarks.contract import Spec
from benchmarks.imports import import_figures
from benchmarks.results import DIRECTORY, Cell, Entrant, Measurement
from benchmarks.workloads import WORKLOADS, Workload

PHASE_TIMEOUT_S: Final = {"full": 180, "quick": 40}
SLOW_TIMEOUT_S: Final = 3600
FAILED: Final = ("failed", "incomplete")  # their files are kept, to see why
IMPORTS: Final = {"full": 21, "quick": 5}


def main() -> None:
    options = _parse()
    if options.list:
        print("\n".join([*(f"contender  {name}" for name in SPECS), *(f"workload   {name}" for name in WORKLOADS)]))
        return
    scratch: Path = options.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    measurement = Measurement(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        scale="quick" if options.quick else "full",
        seed=options.seed,
        repeats=options.repeats,
        revision=_revision(),
        machine=machine.facts(scratch),
    )
    output: Path = options.output or DIRECTORY / f"{measurement.scale}.json"
    for name, fact in measurement.machine.items():
        print(f"{name}: {fact}")
    began_s = time.perf_counter()
    runner = Runner(measurement, scratch=scratch, keep=options.keep)
    names = options.only or [name for name, spec in SPECS.items() if spec.quick or not options.quick]
    pythons = runner.prepare(names, reinstall=options.reinstall)
    for repeat in range(options.repeats):
        for workload in _chosen(options):
            for name, python in pythons.items():
                cell = runner.measure(SPECS[name], python, workload, repeat)
                measurement.cells.append(cell)
                measurement.took_s = time.perf_counter() - began_s
                measurement.save(output)  # after each: an interrupted measurement keeps what it has
                print(_line(cell, workload), flush=True)
    runner.clean()
    print(f"{measurement.took_s:.0f} s; wrote {os.path.relpath(output)}")
    print("now: python -m benchmarks.report")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure durableflow and its peers.")
    parser.add_argument("--quick", action="store_true", help="small sizes, about two minutes: does everything work?")
    parser.add_argument("--only", action="append", choices=SPECS, metavar="CONTENDER", help="may be repeated")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, metavar="NAME", help="may be repeated")
    parser.add_argument("--repeats", type=int, help="default: 3; 1 with --quick")
    parser.add_argument("--seed", type=int, default=20240501)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/full.json or quick.json")
    parser.add_argument(
        "--scratch",
        type=Path,
        default=environments.CACHE / "scratch",
        help="where the contenders' files go: the disk that is measured",
    )
    parser.add_argument("--keep", action="store_true", help="leave those files and the logs there")
    parser.add_argument("--reinstall", action="store_true", help="make the peers' environments anew, newest versions")
    parser.add_argument("--list", action="store_true", help="name contenders and workloads")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    options.scratch = options.scratch.resolve()
    return options


def _chosen(options: argparse.Namespace) -> list[Workload]:
    if options.workload:
        return [WORKLOADS[name] for name in options.workload]
    return [workload for workload in WORKLOADS.values() if workload.quick or not options.quick]


def _revision() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=environments.REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "not committed"


def _line(cell: Cell, workload: Workload) -> str:
    told = ", ".join(
        f"{cell.figures[figure]:,.4g} {heading}" for figure, heading in workload.shown.items() if figure in cell.figures
    )
    told += "".join(f" ({note})" for note in cell.notes)
    if cell.status != "ok":
        told += f"{cell.status}: {cell.reason}"
    return f"[{cell.repeat + 1}] {cell.workload:18} {cell.contender:19} {cell.took_s:5.1f} s  {told}"


class Runner:
    """Starts the children of one measurement."""

    def __init__(self, measurement: Measurement, *, scratch: Path, keep: bool) -> None:
        self._measurement = measurement
        self._scratch = scratch / f"{measurement.started.replace(':', '')}-{os.getpid()}"
        self._keep = keep

    def prepare(self, names: list[str], *, reinstall: bool) -> dict[str, Path]:
        """Environments of all contenders that can run here; those that cannot are noted with the reason."""
        pythons = {}
        for name in dict.fromkeys(names):
            spec = SPECS[name]
            entrant = Entrant(title=spec.title, status="ok")
            self._measurement.entrants[name] = entrant
            try:
                python = environments.python_for(spec, reinstall=reinstall)
            except environments.InstallError as error:
                answer: dict[str, Any] = {"status": "not runnable", "reason": str(error)}
            else:
                answer = self._child(spec, python, ["--describe"], self._scratch / f"{name}-describe", timeout_s=90)
            if answer["status"] == "ok":
                pythons[name] = python
                entrant.versions, entrant.durability = answer["versions"], answer["durability"]
                facts = [*answer["versions"].items(), *answer["durability"].items()]
                print(f"{spec.title}: " + ", ".join(f"{key} {value}" for key, value in facts), flush=True)
            else:
                entrant.status, entrant.reason = "not runnable", answer["reason"]
                print(f"{spec.title}: not runnable: {entrant.reason}", flush=True)
        return pythons

    def measure(self, spec: Spec, python: Path, workload: Workload, repeat: int) -> Cell:
        cell = Cell(contender=spec.name, workload=workload.name, repeat=repeat, status="ok")
        if workload.name in spec.unsupported:
            return dataclasses.replace(cell, status="unsupported", reason=spec.unsupported[workload.name])
        if smaller := self._cut_before(spec, workload, repeat):
            return dataclasses.replace(cell, status="unsupported", reason=f"already too much at {smaller}")
        began_s = time.perf_counter()
        if workload.phases:
            self._phases(cell, spec, python, workload)
        else:
            cell.figures = import_figures(spec, python, times=IMPORTS[self._measurement.scale])
        cell.took_s = time.perf_counter() - began_s
        return cell

    def _cut_before(self, spec: Spec, workload: Workload, repeat: int) -> str:
        """The smaller workload of this kind, if this contender could not do all of it in this repeat."""
        for cell in self._measurement.find(spec.name, workload.after):
            if cell.repeat == repeat and (cell.notes or cell.status != "ok"):
                return cell.workload
        return ""

    def _phases(self, cell: Cell, spec: Spec, python: Path, workload: Workload) -> None:
        directory = self._scratch / f"{spec.name}-{workload.name}-{cell.repeat}"
        dice = random.Random(f"{self._measurement.seed}/{workload.name}/{cell.repeat}")  # the same for all contenders
        scale = self._measurement.scale
        for phase in range(len(workload.phases)):
            words = ["--workload", workload.name, "--phase", str(phase), "--scale", scale]
            words += ["--seed", str(dice.randrange(2**31)), "--earlier", json.dumps(cell.figures)]
            timeout_s = SLOW_TIMEOUT_S if workload.slow else PHASE_TIMEOUT_S[scale]
            answer = self._child(spec, python, words, directory, timeout_s=timeout_s)
            if answer["status"] != "ok":
                cell.reason = answer["reason"]
                cell.status = "incomplete" if cell.figures else answer["status"]
                break
            cell.figures |= answer["figures"]
            cell.notes += answer["notes"]
        if not self._keep and cell.status not in FAILED:
            shutil.rmtree(directory, ignore_errors=True)

    def _child(
        self, spec: Spec, python: Path, words: list[str], directory: Path, *, timeout_s: float
    ) -> dict[str, Any]:
        shared = self._scratch / f"{spec.name}-shared"
        for each in (directory, shared):
            each.mkdir(parents=True, exist_ok=True)
        output, log = directory / "answer.json", directory / "log.txt"
        output.unlink(missing_ok=True)
        command = [str(python), "-m", "benchmarks.child", "--contender", spec.name, *words]
        command += ["--directory", str(directory), "--shared", str(shared), "--output", str(output)]
        with log.open("ab") as stream:
            child = subprocess.Popen(
                command, cwd=environments.REPOSITORY, stdout=stream, stderr=stream, start_new_session=True
            )
            try:
                child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return {"status": "failed", "reason": f"not over after {timeout_s:.0f} s"}
            finally:
                _end_session(child)
        if output.exists():
            answer: dict[str, Any] = json.loads(output.read_text())
            return answer
        return {"status": "failed", "reason": f"ended with {child.returncode} and no answer: {_last_line(log)}"}

    def clean(self) -> None:
        """Remove what is left, unless asked to keep it or something failed and its log may be wanted."""
        if not self._keep and not any(cell.status in FAILED for cell in self._measurement.cells):
            shutil.rmtree(self._scratch, ignore_errors=True)


def _end_session(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started: they are one process group, whose id is the child's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
