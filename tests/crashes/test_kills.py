"""Processes that end in the middle of a commit: at the moments of the store's hook, and at single calls to the disk."""

import random
from pathlib import Path

import pytest
from crashkit.disk import Harm, read_log
from crashkit.jobs import DEAD, Job, run, unexpected
from crashkit.sweep import ALL, moments_of, some
from example_ends import ENDS, FOLDER

pytestmark = pytest.mark.slow  # real processes

EXAMPLES = 8
"""Of which some are killed in a usual run."""
KILLS = 18
BATCH = 100
"""So many are killed before they are run again: a schedule makes up for what it has missed, but not for hours of it."""
DEEP_KILLS = 20
APP = str(Path(__file__).parent / "apps" / "asking.py")
INSTANCES = 18


def example(folder: Path, name: str, moment: str, at: int) -> Job:
    place = folder / f"{name}-{moment.split(maxsplit=1)[0]}-{at}"
    place.mkdir()
    return Job(program=str(FOLDER / f"{name}.py"), folder=str(place), moment=moment, at=at)


def test_an_example_that_ends_at_a_moment_of_a_commit_comes_to_the_same_end(folder: Path) -> None:
    """How often each comes to which moment is counted first; it may be some fewer when others run beside it."""
    calm = run([example(folder, name, "begin", 0) for name in some(sorted(ENDS), EXAMPLES, "examples")], folder)
    moments = moments_of(calm)
    chosen = some(moments, KILLS, "kills")
    random.Random(1).shuffle(chosen)  # so that those that take long do not run side by side
    deaths = 0
    for begin in range(0, len(chosen), BATCH):
        killed = run([example(folder, *each) for each in chosen[begin : begin + BATCH]], folder)
        assert unexpected(killed) == []
        again = [Job(program=each.job.program, folder=each.job.folder) for each in killed if each.code == DEAD]
        found = [
            f"{each.job.folder}: {each.code}, {each.lines}, {each.wrong} {each.err[-1000:]}"
            for each in run(again, folder)
            if each.code or each.wrong or each.lines != ENDS[Path(each.job.program).stem]
        ]
        assert found == []
        deaths += len(again)
        print(f"{deaths} kills at moments of commits, of {len(moments)} that {len(calm)} examples come to")
    assert deaths > len(chosen) // 2


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
