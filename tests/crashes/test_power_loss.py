"""Power fails while an application works: each sync waits for the disk, so what was acknowledged is there afterwards.

One run is watched. At each moment that anybody could tell apart (before a sync, after a line that others have read) the
disk holds what had been synced and any sectors of the rest. Every such state is recovered from, to the end; then the
judge compares the tables with what the application had been promised and what its activities had done.
"""

import random
from pathlib import Path

import pytest
from crashkit.disk import Crash, lay_out, power_losses, read_log
from crashkit.jobs import Job, Outcome, run
from crashkit.sweep import ALL, some

pytestmark = pytest.mark.slow  # real processes

APP = str(Path(__file__).parent / "apps" / "asking.py")
INSTANCES = 60 if ALL else 18
STATES = 110


def recovered(library: Path, folder: Path, *options: str, count: int, seed: int) -> list[tuple[Crash, Outcome]]:
    """What becomes of some of the states that a loss of power can leave."""
    arguments = [str(INSTANCES), *options]
    (folder / "calm").mkdir()
    calm = Job(program=APP, arguments=arguments, folder=str(folder / "calm"), log=str(folder / "calm.log"))
    (outcome,) = run([calm], folder, library)
    assert (outcome.code, outcome.wrong) == (0, []), outcome.err
    assert outcome.judged["store.db"]["acks"] > 2 * INSTANCES
    log = read_log(folder / "calm.log")
    tried = some(list(power_losses(log, seed=seed, times=2)), count, f"power {seed}")
    jobs = list[Job]()
    for number, crash in enumerate(tried):
        place = folder / str(number)
        lay_out(crash.files, place)
        jobs.append(Job(program=APP, arguments=arguments, folder=str(place)))
    return list(zip(tried, run(jobs, folder), strict=True))


def what_is_wrong(outcomes: list[tuple[Crash, Outcome]]) -> list[str]:
    return [
        f"{crash.moment}, call {crash.at}: it ended with {outcome.code}, {outcome.wrong} {outcome.err[-1000:]}"
        for crash, outcome in outcomes
        if outcome.code or outcome.wrong
    ]


def test_nothing_that_was_acknowledged_is_lost_with_the_power(library: Path, folder: Path) -> None:
    """I18; nor does an activity run with an input that no history holds, or twice under one number."""
    outcomes = recovered(library, folder, count=STATES, seed=random.Random(1).randrange(1000))
    assert what_is_wrong(outcomes) == []
    print(f"{len(outcomes)} states after a loss of power")


def test_the_option_that_does_not_wait_for_the_disk_does_lose_and_the_judge_sees_it(
    library: Path, folder: Path
) -> None:
    """Otherwise the test above would prove nothing; and the option's documentation would be wrong."""
    outcomes = recovered(library, folder, "--unsafe", count=STATES // 4, seed=2)
    found = what_is_wrong(outcomes)
    assert len(found) > len(outcomes) // 10
    assert any("acknowledged" in each for each in found)
    print(f"{len(found)} of {len(outcomes)} states lost something")
