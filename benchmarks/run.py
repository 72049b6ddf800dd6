"""The parent: makes environments, gives every contender each workload in turn, and collects the answers.

Contenders take turns within a workload, and workloads within a repeat, so that a slow moment of the machine does not
fall on one contender alone. Each phase of each cell is a process of its own, in a session of its own: what it leaves
behind is ended with it.

What was measured is saved after each cell. `--resume` goes on with it in another sitting, if the code, the machine and
the seed are the same.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import environments, machine, plan, postgres, process
from benchmarks.bench import Workload
from benchmarks.contenders import SPECS
from benchmarks.contract import Spec
from benchmarks.imports import import_figures
from benchmarks.results import DIRECTORY, Cell, Entrant, Measurement, Sitting
from benchmarks.workloads import WORKLOADS

PHASE_TIMEOUT_S: Final = {"full": 240, "quick": 60}
FAILED: Final = ("failed", "incomplete")  # their files are kept, to see why
IMPORTS: Final = {"full": 15, "quick": 5}
MEASURED: Final = ("src", "benchmarks", "pyproject.toml", ":(exclude)benchmarks/results")


class ResumeError(Exception):
    """What is asked for now is not of one piece with what was measured before; the message says why."""


def main() -> None:
    options = _parse()
    if options.list:
        print("\n".join([*(f"contender  {name}" for name in SPECS), *(f"workload   {name}" for name in WORKLOADS)]))
        return
    scratch: Path = options.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    scale = "quick" if options.quick else "full"
    output: Path = options.output or DIRECTORY / f"{scale}.json"
    now = Measurement(
        scale=scale, seed=options.seed, repeats=options.repeats, revision=_revision(), machine=machine.facts(scratch)
    )
    sitting = Sitting(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        conditions=machine.conditions(scratch),
    )
    for name, fact in (now.machine | sitting.conditions).items():
        print(f"{name}: {fact}")
    try:
        measurement = resumed(output, now) if options.resume else now
        runner = Runner(measurement, scratch=scratch, keep=options.keep)
        names = options.only or [name for name, spec in SPECS.items() if spec.quick or not options.quick]
        entrants, pythons = runner.prepare(names, reinstall=options.reinstall)
        now.entrants |= entrants
        join(measurement, now)
    except ResumeError as error:
        sys.exit(f"{error}")
    earlier = [] if options.resume else _earlier(output, scale)
    measurement.sittings.append(sitting)
    asked = plan.plan(_chosen(options), [SPECS[name] for name in pythons], options.repeats)
    left = plan.still_to_do(asked, measurement)
    print(f"{len(left)} of {len(asked)} cells to measure", flush=True)
    began_s = time.perf_counter()
    for number, each in enumerate(left, 1):
        cell = runner.measure(each, pythons[each.spec.name])
        measurement.cells.append(cell)
        sitting.took_s = time.perf_counter() - began_s
        measurement.save(output)  # after each: an interrupted measurement keeps what it has
        left_min = plan.remaining_s(left[number:], measurement.cells, earlier) / 60
        print(f"{number:3}/{len(left)}, {left_min:2.0f} min left  {_line(cell, each.workload)}", flush=True)
    runner.clean()
    print(f"{measurement.took_s:.0f} s; wrote {os.path.relpath(output)}")
    print("now: python -m benchmarks.report")


def resumed(file: Path, now: Measurement) -> Measurement:
    """The measurement in `file`, to go on with.

    Raises:
        ResumeError: there is none, or it cannot be gone on with here and now.
    """
    if not file.exists():
        message = f"there is nothing to resume: {file} does not exist"
        raise ResumeError(message)
    try:
        measurement = Measurement.load(file)
    except ValueError as error:
        raise ResumeError(str(error)) from error
    join(measurement, now)
    return measurement


def join(measurement: Measurement, now: Measurement) -> None:
    """Let what `now` says be of one piece with `measurement`, which takes over its contenders and repeats.

    Raises:
        ResumeError: code, machine, seed, scale or a contender's version is another; the message names all that differs.
    """
    differences = measurement.differences(now)
    if differences:
        message = "this is another measurement, so it cannot be resumed; leave out --resume to begin anew:\n  "
        raise ResumeError(message + "\n  ".join(differences))
    measurement.entrants |= now.entrants
    measurement.repeats = max(measurement.repeats, now.repeats)


def _earlier(file: Path, scale: str) -> list[Cell]:
    """Cells of whatever was measured into this file before: a guess at how long each will take."""
    try:
        measurement = Measurement.load(file)
    except (OSError, ValueError):
        return []
    return measurement.cells if measurement.scale == scale else []


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure durableflow and its peers.")
    parser.add_argument("--quick", action="store_true", help="small sizes, about a quarter of an hour: does all work?")
    parser.add_argument("--only", action="append", choices=SPECS, metavar="CONTENDER", help="may be repeated")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, metavar="NAME", help="may be repeated")
    parser.add_argument("--repeats", type=int, help="default: 3; 1 with --quick")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the output of an interrupted measurement: only what is missing",
    )
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
    """The commit; with changes to what is measured, also a digest of them, so that two dirty trees are told apart."""
    commit = _git("rev-parse", "--short", "HEAD").strip()
    changed = _git("status", "--porcelain", "--", *MEASURED)
    if not changed:
        return commit or "not committed"
    digest = hashlib.sha256((changed + _git("diff", "HEAD", "--", *MEASURED)).encode()).hexdigest()
    return f"{commit}-dirty-{digest[:8]}"


def _git(*words: str) -> str:
    command = ["git", *words]
    return subprocess.run(command, cwd=environments.REPOSITORY, capture_output=True, text=True, check=False).stdout


def _line(cell: Cell, workload: Workload) -> str:
    told = ", ".join(
        f"{statistics.median(cell.values(figure)):,.4g} {heading}"
        for figure, heading in workload.shown.items()
        if figure in cell
    )
    told += "".join(f" ({note})" for note in cell.notes)
    if cell.status != "ok":
        told += f"{cell.status}: {cell.reason}"
    return f"[{cell.repeat + 1}] {cell.workload:18} {cell.contender:19} {cell.took_s:5.1f} s  {told}"


class Runner:
    """Starts the children of one measurement."""

    def __init__(self, measurement: Measurement, *, scratch: Path, keep: bool) -> None:
        self._measurement = measurement
        self._scratch = scratch / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        self._keep = keep

    def prepare(self, names: list[str], *, reinstall: bool) -> tuple[dict[str, Entrant], dict[str, Path]]:
        """All contenders as they are found here, and the interpreters of those that can run."""
        entrants, pythons = dict[str, Entrant](), dict[str, Path]()
        for name in dict.fromkeys(names):
            spec = SPECS[name]
            entrant = Entrant(title=spec.title, status="ok")
            entrants[name] = entrant
            try:
                python = environments.python_for(spec, reinstall=reinstall)
            except environments.InstallError as error:
                answer: dict[str, Any] = {"status": "not runnable", "reason": str(error)}
            else:
                answer = self._describe(spec, python)
            if answer["status"] == "ok":
                pythons[name] = python
                entrant.versions, entrant.durability = answer["versions"], answer["durability"]
                facts = [*answer["versions"].items(), *answer["durability"].items()]
                print(f"{spec.title}: " + ", ".join(f"{key} {value}" for key, value in facts), flush=True)
            else:
                entrant.status, entrant.reason = "not runnable", answer["reason"]
                print(f"{spec.title}: not runnable: {entrant.reason}", flush=True)
        return entrants, pythons

    def _describe(self, spec: Spec, python: Path) -> dict[str, Any]:
        directory = process.made(self._scratch / f"{spec.name}-describe")
        try:
            with self._server(spec, directory) as environment:
                return self._child(spec, python, ["--describe"], directory, environment, timeout_s=90)
        except postgres.ServerError as error:
            return {"status": "failed", "reason": str(error)}

    @staticmethod
    def _server(
        spec: Spec, directory: Path, *, sync_ms: float = 0
    ) -> contextlib.AbstractContextManager[dict[str, str]]:
        """The server that this contender needs beside it, and how its processes find it."""
        return postgres.server(directory, sync_ms=sync_ms) if spec.postgres else contextlib.nullcontext({})

    def measure(self, asked: plan.Asked, python: Path) -> Cell:
        repeat, workload, spec = asked
        cell = Cell(contender=spec.name, workload=workload.name, repeat=repeat, status="ok")
        if refused := plan.refusal(self._measurement, asked):
            return dataclasses.replace(cell, status=refused.status, reason=refused.reason)
        began_s = time.perf_counter()
        if workload.phases:
            directory = process.made(self._scratch / f"{spec.name}-{workload.name}-{repeat}")
            try:
                with self._server(spec, directory, sync_ms=workload.sync_ms) as environment:
                    self._phases(cell, spec, python, workload, directory, environment)
            except postgres.ServerError as error:
                cell.status, cell.reason = "failed", str(error)
            if not self._keep and cell.status not in FAILED:
                shutil.rmtree(directory, ignore_errors=True)
        else:
            cell.figures = import_figures(spec, python, times=IMPORTS[self._measurement.scale])
        cell.took_s = time.perf_counter() - began_s
        return cell

    def _phases(
        self,
        cell: Cell,
        spec: Spec,
        python: Path,
        workload: Workload,
        directory: Path,
        environment: Mapping[str, str],
    ) -> None:
        dice = random.Random(f"{self._measurement.seed}/{workload.name}/{cell.repeat}")  # the same for all contenders
        scale = self._measurement.scale
        for phase in range(len(workload.phases)):
            words = ["--workload", workload.name, "--phase", str(phase), "--scale", scale]
            words += ["--seed", str(dice.randrange(2**31)), "--earlier", json.dumps(cell.figures)]
            answer = self._child(spec, python, words, directory, environment, timeout_s=PHASE_TIMEOUT_S[scale])
            if answer["status"] != "ok":
                cell.reason = answer["reason"]
                cell.status = "incomplete" if cell.figures else answer["status"]
                break
            cell.figures |= answer["figures"]
            cell.samples |= answer["samples"]
            cell.notes += answer["notes"]

    def _child(
        self,
        spec: Spec,
        python: Path,
        words: list[str],
        directory: Path,
        environment: Mapping[str, str],
        *,
        timeout_s: float,
    ) -> dict[str, Any]:
        output, log = directory / "answer.json", directory / "log.txt"
        output.unlink(missing_ok=True)
        command = [str(python), "-m", "benchmarks.child", "--contender", spec.name, *words]
        command += ["--directory", str(directory), "--output", str(output)]
        with log.open("ab") as stream:
            child = subprocess.Popen(
                command,
                cwd=environments.REPOSITORY,
                env={**os.environ, **environment},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
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
