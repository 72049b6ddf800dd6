"""Each example, stopped before, in and after each of its commits, comes to the end that it comes to undisturbed.

One run of it is watched, and what its files held at each of these moments is laid out in a folder of its own. There it
is run again, as a user would. That these images are what a killed process leaves is tested in test_kills.py.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from crashkit.disk import Crash, crashes, lay_out, read_log
from crashkit.jobs import Job, Outcome, run
from crashkit.sweep import some
from example_ends import ENDS, FOLDER

pytestmark = pytest.mark.slow  # runs each example many times

IMAGES = 4
"""Of each example, in a usual run: some of about fifty."""
NAMED_BY_TIME = {"debounce", "schedule"}
"""The names of their instances are different each time."""


@pytest.fixture(scope="module")
def calm(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, list[Crash]]]:
    """What becomes of each example undisturbed, and all moments of its run."""
    base = tmp_path_factory.mktemp("calm").resolve()
    jobs = [example(name, base / name, log=str(base / f"{name}.log")) for name in ENDS]
    for job in jobs:
        Path(job.folder).mkdir()
    outcomes = run(jobs, base, library)
    return {
        name: (each, list(crashes(read_log(Path(each.job.log))))) for name, each in zip(ENDS, outcomes, strict=True)
    }


def example(name: str, folder: Path, **options: Any) -> Job:
    return Job(program=str(FOLDER / f"{name}.py"), folder=str(folder), **options)


def failures(name: str, calm: Outcome, outcomes: Sequence[tuple[Crash, Outcome]]) -> list[str]:
    found = []
    for crash, outcome in outcomes:
        where = f"{crash.moment}, call {crash.at}"
        if outcome.code:
            found.append(f"{where}: it ended with {outcome.code}: {outcome.err[-2000:]}")
        elif outcome.lines != ENDS[name]:
            found.append(f"{where}: it said {outcome.lines}")
        elif outcome.wrong:
            found.append(f"{where}: {outcome.wrong}")
        elif outcome.ends != calm.ends and name not in NAMED_BY_TIME:
            found.append(f"{where}: {outcome.ends}, undisturbed {calm.ends}")
    return found


@pytest.mark.parametrize("name", sorted(ENDS))
def test_undisturbed_it_says_what_it_must_and_has_commits_to_crash_at(name: str, calm: Any) -> None:
    outcome, moments = calm[name]
    assert failures(name, outcome, [(moments[-1], outcome)]) == []
    assert len(moments) > 20


def test_stopped_at_a_commit_each_comes_to_the_same_end(calm: Any, folder: Path) -> None:
    """At some of its commits in a usual run, at each of them when it is asked for."""
    tried: list[tuple[str, Crash, Job]] = []
    for name, (_, moments) in calm.items():
        for crash in some(moments, IMAGES, name):
            place = folder / f"{name}-{crash.at}-{crash.moment.split()[0]}"
            lay_out(crash.files, place)
            tried.append((name, crash, example(name, place)))
    random.Random(1).shuffle(tried)  # so that those that take long do not run side by side
    outcomes = run([job for *_, job in tried], folder)
    found = {
        name: failures(name, calm[name][0], [(c, o) for (n, c, _), o in zip(tried, outcomes, strict=True) if n == name])
        for name in ENDS
    }
    assert {name: lines for name, lines in found.items() if lines} == {}
    print(f"{len(tried)} images of {len(calm)} examples")
