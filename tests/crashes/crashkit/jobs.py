"""What is asked of the forge, and what came of it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

FORGE: Final = Path(__file__).with_name("forge.py")
AT_ONCE: Final = 20
"""Children at a time: most of what the programs do is wait."""
TIMEOUT_S: Final = 240
"""Far more than any of them takes on a machine that does much else."""
DEAD: Final = 86
"""How a child ends that ended where it was told to; the library for the disk says the same."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A program to be run.

    Attributes:
        folder: where it runs, absolute and without links.
        log: where the log of the disk goes.
        harm: what befalls the calls to the disk from `at` on, `times` times; a `Harm`.
        moment: of the commit at which the child dies, when it comes to it for the `at`th time.
        url: of a Postgres database, up to the name of the schema.
        replayed: whether today's code must follow all histories.
    """

    program: str
    folder: str
    arguments: list[str] = []
    log: str = ""
    harm: int = 0
    at: int = 0
    times: int = 1
    moment: str = ""
    url: str = ""
    replayed: bool = True

    @property
    def harm_numbers(self) -> tuple[int, int, int]:
        return self.harm, self.at, self.times


class Outcome(NamedTuple):
    """What became of a job.

    Attributes:
        code: how its process ended; a signal is negative.
        judged: by file, what the judge found; empty if the program did not come to its end.
    """

    job: Job
    code: int
    out: str
    err: str
    judged: dict[str, Any]

    @property
    def wrong(self) -> list[str]:
        return [f"{file}: {line}" for file, found in self.judged.items() for line in found["wrong"]]

    @property
    def ends(self) -> dict[str, Any]:
        return {file: found["ends"] for file, found in self.judged.items()}

    @property
    def lines(self) -> list[str]:
        """What it said of its ends; lines of activities are indented."""
        return [line for line in self.out.splitlines() if not line.startswith(" ")]


def unexpected(outcomes: Sequence[Outcome]) -> list[str]:
    """How those ended that neither died where they were told to nor came to their end."""
    return [f"{each.job}: {each.code}, {each.err[-2500:]}" for each in outcomes if each.code not in (DEAD, 0)]


def run(jobs: Sequence[Job], folder: Path, library: Path | None = None) -> list[Outcome]:
    """All of them, some at a time."""
    path = folder / f"jobs-{len(list(folder.glob('jobs-*.json')))}.json"
    path.write_bytes(msgspec.json.encode(jobs))
    environment = {**os.environ, **({"LD_PRELOAD": str(library)} if library else {})}
    command = [sys.executable, "-W", "error", str(FORGE), str(path)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, f"the forge ended with {said.returncode}: {said.stderr}"
    codes = json.loads(path.with_suffix(".codes").read_bytes())
    return [_outcome(job, code) for job, code in zip(jobs, codes, strict=True)]


def _outcome(job: Job, code: int) -> Outcome:
    judged = Path(f"{job.folder}.judged")
    found = json.loads(judged.read_bytes()) if judged.exists() else {}
    return Outcome(job, code, *(Path(f"{job.folder}{end}").read_text() for end in (".out", ".err")), found)
