"""Processes that end in the middle of a commit: at the moments of the store's hook, and at single calls to the disk."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from crashkit.disk import Harm, read_log
from crashkit.jobs import DEAD, Job, Outcome, run, unexpected
from crashkit.sweep import ALL, some
from example_ends import ENDS, FOLDER

pytestmark = pytest.mark.slow  # real processes

MOMENTS = ["begin", "before commit", "after commit"]
KILLS = 46
DEEP_KILLS = 24
COMMITS_MAX = 60
"""More than most examples make; an example that is not killed has made fewer."""
APP = str(Path(__file__).parent / "apps" / "asking.py")
INSTANCES = 18


def again(outcomes: Sequence[Outcome]) -> list[Job]:
    """The same programs in the same folders, undisturbed."""
    return [Job(program=each.job.program, arguments=each.job.arguments, folder=each.job.folder) for each in outcomes]


def test_an_example_that_ends_at_a_moment_of_a_commit_comes_to_the_same_end(folder: Path) -> None:
    dice = random.Random(5)
    kills = [(name, moment, at) for name in ENDS for moment in MOMENTS for at in range(1, COMMITS_MAX)]
    dice.shuffle(kills)
    jobs = list[Job]()
    for name, moment, at in some(kills, KILLS, "kills"):
        place = folder / f"{name}-{moment.split()[0]}-{at}"
        place.mkdir()
        jobs.append(Job(program=str(FOLDER / f"{name}.py"), folder=str(place), moment=moment, at=at))
    killed = run(jobs, folder)
    assert unexpected(killed) == []
    deaths = [each for each in killed if each.code == DEAD]
    assert len(deaths) > len(killed) // 4
    found = [
        f"{each.job.folder}: {each.code}, {each.lines}, {each.wrong} {each.err[-1000:]}"
        for each in run(again(deaths), folder)
        if each.code or each.wrong or each.lines != ENDS[Path(each.job.program).stem]
    ]
    assert found == []
    print(f"{len(deaths)} kills at moments of commits")


def test_an_application_that_ends_at_any_call_to_the_disk_loses_nothing_that_it_was_promised(
    library: Path, folder: Path
) -> None:
    """Also where no hook is: within the one statement that a commit is, its last write torn.

    How many calls a run makes hangs on the load of the machine, for commits that come together are one. So those that
    are to be killed ask on until they are.
    """
    (folder / "calm").mkdir()
    asked = [str(INSTANCES)]
    calm = Job(program=APP, arguments=asked, folder=str(folder / "calm"), log=str(folder / "log"))
    (outcome,) = run([calm], folder, library)
    assert (outcome.code, outcome.wrong) == (0, []), outcome.err
    calls = sum(each.is_of_the_store for each in read_log(folder / "log"))
    jobs = list[Job]()
    for at in some(range(1, calls), DEEP_KILLS, "deep kills"):
        harm = [Harm.DIE_BEFORE, Harm.DIE_TORN, Harm.DIE_AFTER][at % 3]
        (folder / str(at)).mkdir()
        jobs.append(Job(program=APP, arguments=[*asked, "--on"], folder=str(folder / str(at)), harm=harm, at=at))
    killed = run(jobs, folder, library)
    assert [f"{each.job}: {each.code}, {each.err[-2500:]}" for each in killed if each.code != DEAD] == []
    found = [
        f"{each.job.folder}: {each.code}, {each.wrong} {each.err[-1000:]}"
        for each in run([Job(program=APP, arguments=asked, folder=each.job.folder) for each in killed], folder)
        if each.code or each.wrong
    ]
    assert found == []
    print(f"{len(killed)} kills at calls to the disk{', all of them' if ALL else ''}")
