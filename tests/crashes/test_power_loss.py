"""Power fails while an application works: each sync waits for the disk, so what was acknowledged is there afterwards.

One run is watched. At each moment that anybody could tell apart (before a sync, after a line that others have read) the
disk holds what had been synced, and any sectors of the rest. Each such state is compared with the acknowledgements that
had been given by then; some are recovered from, to the end, and the judge compares the tables with all that the
application had been promised, and with what its activities had done.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from crashkit.disk import Crash, lay_out, power_losses, read_log
from crashkit.jobs import Job, run
from crashkit.losses import lost
from crashkit.sweep import some

pytestmark = pytest.mark.slow  # real processes

APP = str(Path(__file__).parent / "apps" / "asking.py")
INSTANCES = 18
STATES = 100
RECOVERED = 14


def states(library: Path, folder: Path, *options: str, seed: int) -> tuple[list[str], list[Crash]]:
    """Of one run of the application, undisturbed: its arguments, and what a loss of power could have left."""
    arguments = [str(INSTANCES), *options]
    (folder / "calm").mkdir()
    calm = Job(program=APP, arguments=arguments, folder=str(folder / "calm"), log=str(folder / "calm.log"))
    (outcome,) = run([calm], folder, library)
    assert (outcome.code, outcome.wrong) == (0, []), outcome.err
    assert outcome.judged["store.db"]["acks"] > 2 * INSTANCES
    log = read_log(folder / "calm.log")
    return arguments, some(list(power_losses(log, seed=seed, times=2)), STATES, f"power {seed}")


def wrong_after_recovery(tried: Sequence[Crash], arguments: list[str], folder: Path) -> Iterator[str]:
    jobs = list[Job]()
    for number, crash in enumerate(tried):
        place = folder / str(number)
        lay_out(crash.files, place)
        jobs.append(Job(program=APP, arguments=arguments, folder=str(place)))
    for crash, outcome in zip(tried, run(jobs, folder), strict=True):
        if outcome.code or outcome.wrong:
            yield f"{crash.moment}, call {crash.at}: {outcome.code}, {outcome.wrong} {outcome.err[-1000:]}"


def test_nothing_that_was_acknowledged_is_lost_with_the_power(library: Path, folder: Path) -> None:
    """I18; nor does an activity run with an input that no history holds, or twice under one number."""
    arguments, crashes = states(library, folder, seed=1)
    assert [line for crash in crashes for line in lost(crash, folder)] == []
    recovered = some(crashes, RECOVERED, "recovered")
    assert list(wrong_after_recovery(recovered, arguments, folder)) == []
    print(f"{len(crashes)} states after a loss of power, {len(recovered)} recovered from")


def test_the_option_that_does_not_wait_for_the_disk_does_lose_and_the_judge_sees_it(
    library: Path, folder: Path
) -> None:
    """Otherwise the test above would prove nothing, and what is said of the option would be wrong."""
    arguments, crashes = states(library, folder, "--unsafe", seed=2)
    losing = [crash for crash in crashes if any("is lost" in line for line in lost(crash, folder))]
    assert len(losing) > len(crashes) // 2
    assert list(wrong_after_recovery(some(losing, 4, "losing")[:4], arguments, folder)), "the second judge sees it too"
    print(f"{len(losing)} of {len(crashes)} states lost something")
