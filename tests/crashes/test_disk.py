"""The log of a disk is true, and the states made of it are those that a disk can have."""

import random
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from crashkit.disk import (
    DEAD,
    SECTOR_BYTES,
    Disk,
    Entry,
    Files,
    Harm,
    What,
    crashes,
    lay_out,
    power_losses,
    read_log,
)
from crashkit.jobs import Job, run

WRITER = """
import sqlite3
connection = sqlite3.connect("numbers.db", isolation_level=None)
connection.execute("pragma journal_mode=wal")
connection.execute("pragma synchronous=full")
connection.execute("create table numbers (number integer)")
for number in range(20):
    try:
        connection.execute("insert into numbers values (?)", (number,))
    except sqlite3.OperationalError as error:
        print(error.sqlite_errorname, flush=True)
    else:
        print(number, flush=True)
"""


def entry(what: What, data: bytes = b"", offset: int = 0, name: str = "a.db") -> Entry:
    return Entry(what, name, offset, data)


def a_disk(*entries: Entry) -> Disk:
    disk = Disk()
    for each in entries:
        disk.apply(each)
    return disk


def there(folder: Path) -> Files:
    """What is in the folder, but for what is no file of a disk."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}


def numbers(folder: Path) -> list[int]:
    with closing(sqlite3.connect(folder / "numbers.db")) as connection:
        try:
            return [number for (number,) in connection.execute("select number from numbers order by 1")]
        except sqlite3.OperationalError:  # the table was not yet made
            return []


def write_numbers(library: Path, folder: Path, harm: Harm = Harm.NONE, at: int = 0, times: int = 1) -> list[str]:
    """Run it, watched, in `folder / "there"`; what it said."""
    program = folder / "writer.py"
    program.write_text(WRITER)
    (folder / "there").mkdir()
    job = Job(
        program=str(program), folder=str(folder / "there"), log=str(folder / "log"), harm=harm, at=at, times=times
    )
    (outcome,) = run([job], folder, library)
    assert outcome.code == (DEAD if harm in (Harm.DIE_BEFORE, Harm.DIE_TORN, Harm.DIE_AFTER) else 0), outcome.err
    return outcome.lines


@pytest.mark.slow
@pytest.mark.parametrize("harm", [Harm.DIE_BEFORE, Harm.DIE_TORN, Harm.DIE_AFTER])
@pytest.mark.parametrize("at", [3, 30, 41, 52])
def test_what_the_log_says_is_what_a_killed_process_has_left(library: Path, folder: Path, harm: Harm, at: int) -> None:
    """So an image is as good as a kill."""
    said = write_numbers(library, folder, harm, at)
    assert a_disk(*read_log(folder / "log")).after_crash() == there(folder / "there")
    found = numbers(folder / "there")
    assert found[: len(said)] == [int(line) for line in said]
    assert len(found) <= len(said) + 1


@pytest.mark.slow
def test_in_a_commit_it_is_not_there_and_after_it_it_is(library: Path, folder: Path) -> None:
    write_numbers(library, folder)
    found = []
    for index, crash in enumerate(crashes(read_log(folder / "log"))):
        lay_out(crash.files, folder / str(index))
        found.append((crash.moment, len(numbers(folder / str(index)))))
    counted = [count for _, count in found]
    assert sorted(set(counted)) == list(range(21))
    assert counted == sorted(counted)
    assert all(moment == "after a commit" for (_, before), (moment, after) in pairwise(found) if after > before)


@pytest.mark.slow
def test_with_nothing_that_was_not_synced_what_was_said_is_there(library: Path, folder: Path) -> None:
    write_numbers(library, folder)
    states = list(power_losses(read_log(folder / "log"), seed=1, times=3))
    assert {crash.moment for crash in states} > {"nothing unsynced is kept", "some of it is kept, 2"}
    for index, crash in enumerate(states):
        lay_out(crash.files, folder / str(index))
        found = numbers(folder / str(index))
        assert found == list(range(len(found)))
    assert len(found) == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "name"), [(Harm.NO_ROOM, "SQLITE_FULL"), (Harm.IO_ERROR, "SQLITE_IOERR_WRITE")], ids=["full", "error"]
)
def test_a_call_that_is_refused_is_refused_once_and_nothing_else(
    library: Path, folder: Path, harm: Harm, name: str
) -> None:
    said = write_numbers(library, folder, harm, at=60)
    assert said.count(name) == 1
    assert numbers(folder / "there") == [int(line) for line in said if line != name]


def test_a_sector_is_whole_or_not_there() -> None:
    old, new = b"o" * 5 * SECTOR_BYTES, b"n" * 5 * SECTOR_BYTES
    seen = set()
    for seed in range(200):
        disk = a_disk(entry(What.WRITTEN, old), entry(What.SYNCED), entry(What.WRITTEN, new[100:-100], 100))
        data = disk.after_power_loss(random.Random(seed))["a.db"]
        sectors = tuple(data[at : at + SECTOR_BYTES] for at in range(0, len(data), SECTOR_BYTES))
        assert len(data) == len(old)
        assert sectors[0] in (old[:SECTOR_BYTES], b"o" * 100 + b"n" * (SECTOR_BYTES - 100))
        assert all(sector in (b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES) for sector in sectors[1:-1])
        seen.add(data.count(b"n"))
    assert len(seen) > 6
    assert {0, len(new) - 200} < seen, "all of it, and nothing of it, are among them"


def test_without_power_what_was_synced_is_there_and_what_was_not_is_not() -> None:
    disk = a_disk(entry(What.WRITTEN, b"synced"), entry(What.SYNCED), entry(What.WRITTEN, b" not", 6))
    assert disk.after_crash() == {"a.db": b"synced not"}
    assert disk.after_power_loss() == {"a.db": b"synced"}
    disk.apply(entry(What.SYNCED))
    assert disk.after_power_loss() == {"a.db": b"synced not"}


def test_a_file_is_made_cut_renamed_and_removed() -> None:
    disk = a_disk(entry(What.MADE), entry(What.WRITTEN, b"text", 2))
    assert disk.after_crash() == {"a.db": b"\0\0text"}
    disk.apply(entry(What.CUT, offset=3))
    disk.apply(entry(What.SYNCED))
    disk.apply(entry(What.RENAMED, b"b.db"))
    assert disk.after_crash() == disk.after_power_loss() == {"b.db": b"\0\0t"}
    disk.apply(entry(What.REMOVED, name="b.db"))
    assert disk.after_crash() == disk.after_power_loss() == {}


def test_a_paper_stands_for_what_others_have_seen_and_is_never_lost() -> None:
    disk = a_disk(entry(What.WRITTEN, b"told\n", name="acks.jsonl"))
    assert disk.after_power_loss() == {"acks.jsonl": b"told\n"}
