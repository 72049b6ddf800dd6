"""A disk that is full, that fails, or a file that another process keeps: told in words, and nothing is lost.

An application works while single calls to the disk fail, or a few, or many in a row. Whatever its engine does about it,
go on or stop, the application comes to its end, and has what it was promised.
"""

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from crashkit.disk import Harm, power_losses, read_log
from crashkit.jobs import Job, Outcome, run
from crashkit.losses import lost
from crashkit.sweep import some

pytestmark = pytest.mark.slow  # real processes

APP = str(Path(__file__).parent / "apps" / "asking.py")
INSTANCES = 18
CALLS = 300
"""To its store, that the application makes at least."""
WORDS = {
    Harm.NO_ROOM: "database or disk is full",
    Harm.IO_ERROR: "disk I/O error",
    Harm.IO_ERROR_AT_SYNC: "disk I/O error",
}
TIMES = [1, 3, 40]
PLACES = 2
LEASE_S = 2.0  # as in apps/asking.py


def application(folder: Path, name: str, **options: object) -> Job:
    (folder / name).mkdir()
    return Job(program=APP, arguments=[str(INSTANCES)], folder=str(folder / name), **options)


@pytest.mark.parametrize("harm", WORDS, ids=lambda harm: harm.name.lower())
def test_a_disk_that_fails_is_told_in_words_and_nothing_is_lost(library: Path, folder: Path, harm: Harm) -> None:
    """Nor is it when the power fails afterwards, though a sync that failed is never made up for."""
    jobs = [
        application(folder, f"{at}-{times}", log=str(folder / f"{at}-{times}.log"), harm=harm, at=at, times=times)
        for times in TIMES
        for at in some(range(20, CALLS), PLACES, f"{harm} {times}")
    ]
    outcomes = run(jobs, folder, library)
    wrong = [
        f"{each.job}: {each.code}, {each.wrong} {each.err[-1500:]}" for each in outcomes if each.code or each.wrong
    ]
    assert wrong == []
    told = [line for each in outcomes for line in complaints(each)]
    assert len(told) >= len(outcomes) // 2
    assert [line for line in told if WORDS[harm] not in line and "EngineClosed: " not in line] == []
    losses = [
        crash
        for each in outcomes
        for crash in some(list(power_losses(read_log(Path(each.job.log)), seed=3, times=1)), 6, each.job.folder)
    ]
    assert [line for crash in losses for line in lost(crash, folder)] == []
    print(f"{len(outcomes)} runs on a disk that fails, {len(losses)} losses of power behind it")


def complaints(outcome: Outcome) -> list[str]:
    """What it said of the store."""
    return [line for line in outcome.out.splitlines() if line.startswith(("again:", "retried:", "stopped:"))]


@pytest.mark.parametrize("locked_s", [LEASE_S / 4, LEASE_S * 2], ids=["for a while", "longer than the lease"])
def test_a_store_that_another_process_keeps_is_waited_for(folder: Path, locked_s: float) -> None:
    """A worker that could not renew its lease stops; and as nobody else leads, it leads again."""
    job = application(folder, "kept")
    outcomes: list[Outcome] = []
    working = threading.Thread(target=lambda: outcomes.extend(run([job], folder)))
    working.start()
    acks = Path(job.folder) / "acks.jsonl"
    kept = False
    while working.is_alive() and not kept:
        time.sleep(0.02)
        if acks.exists() and acks.stat().st_size:  # it leads
            with closing(sqlite3.connect(Path(job.folder) / "store.db", isolation_level=None, timeout=10)) as other:
                other.execute("begin immediate")
                kept = True
                time.sleep(locked_s)
                other.execute("rollback")
    working.join()
    assert kept
    assert (outcomes[0].code, outcomes[0].wrong) == (0, []), outcomes[0].err
    assert outcomes[0].lines.count("asked") == 1
    told = complaints(outcomes[0])
    assert told or locked_s < LEASE_S
    assert all("lost its lease" in line or "database is locked" in line for line in told)  # on a busy machine for less
