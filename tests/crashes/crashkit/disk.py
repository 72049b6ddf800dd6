"""What a process did to the files of a folder, and what a disk would hold if all had stopped at some moment.

`watched_disk.c` writes the log. Two kinds of ends are made of it. After a crash of the process the files are as they
were written, whether synced or not, for the system goes on. After a loss of power each file has what had been synced,
and of the rest whatever the disk had come to: nothing, or any sectors of it. That files were made, removed or cut is
taken for durable at once, as journalled file systems have it by the time of the next sync.
"""

import random
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

SOURCE: Final = Path(__file__).with_name("watched_disk.c")
SECTOR_BYTES: Final = 512
DEAD: Final = 86
"""How a process ends that the library has ended."""
_ENTRY: Final = struct.Struct("<IIQQ")


class What(IntEnum):
    """The kinds of entries of the log."""

    MADE = 1
    WRITTEN = 2
    CUT = 3
    SYNCED = 4
    REMOVED = 5
    RENAMED = 6
    NOT_SYNCED = 7
    """A sync that failed: what it was to write is given up by the system, and no later sync writes it."""


class Harm(IntEnum):
    """What may befall a call."""

    NONE = 0
    DIE_BEFORE = 1
    DIE_TORN = 2
    DIE_AFTER = 3
    IO_ERROR = 4
    NO_ROOM = 5
    IO_ERROR_AT_SYNC = 6


class Entry(NamedTuple):
    """One call."""

    what: What
    name: str
    offset: int
    data: bytes

    @property
    def is_of_the_store(self) -> bool:
        """As `is_harmed` of the library has it."""
        return ".db" in self.name


Files = dict[str, bytes]


def build_library(folder: Path) -> Path:
    """The library, built by the machine's compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "there is no C compiler here: apt-get install gcc"
    library = folder / "watched_disk.so"
    command = [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def read_log(path: Path) -> list[Entry]:
    """All entries; the last one may have been cut short by the end of the process."""
    data = path.read_bytes()
    at, entries = 0, list[Entry]()
    while at + _ENTRY.size <= len(data):
        what, name_bytes, offset, data_bytes = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        held = data_bytes if what in (What.WRITTEN, What.RENAMED) else 0
        name = data[at : at + name_bytes].decode()
        written = data[at + name_bytes : at + name_bytes + held]
        at += name_bytes + held
        if at <= len(data):
            entries.append(Entry(What(what), name, offset, written))
    return entries


class Disk:
    """The files, call after call."""

    def __init__(self) -> None:
        self._seen: dict[str, bytearray] = {}
        """What programs see."""
        self._synced: dict[str, bytearray] = {}
        """What was made durable by syncs."""
        self._unsynced: dict[str, list[Entry]] = {}

    def apply(self, entry: Entry) -> None:
        """Go on by one call."""
        name = entry.name
        match entry.what:
            case What.REMOVED:
                for files in (self._seen, self._synced, self._unsynced):
                    files.pop(name, None)
            case What.RENAMED:
                for files in (self._seen, self._synced, self._unsynced):
                    if name in files:
                        files[entry.data.decode()] = files.pop(name)
            case What.SYNCED:
                synced = self._synced.setdefault(name, bytearray())
                for each in self._unsynced.pop(name, ()):
                    _change(synced, each)
            case What.NOT_SYNCED:
                self._unsynced.pop(name, None)
            case What.MADE:
                self._seen.setdefault(name, bytearray())
            case What.CUT | What.WRITTEN:
                _change(self._seen.setdefault(name, bytearray()), entry)
                self._unsynced.setdefault(name, []).append(entry)

    def after_crash(self) -> Files:
        """What is there when the process has died and the machine goes on."""
        return {name: bytes(data) for name, data in self._seen.items()}

    def after_power_loss(self, dice: random.Random | None = None) -> Files:
        """What may be there when the machine has died.

        Args:
            dice: say which unsynced calls had reached the disk, and which sectors of them; without any, none had.
        """
        files = dict[str, bytes]()
        for name, seen in self._seen.items():
            if ".db" not in name:  # papers of the test: they stand for what others have seen
                files[name] = bytes(seen)
                continue
            data = bytearray(self._synced.get(name, b""))
            # One throw for the moment, so that all, none and anything between them are common.
            reached = dice.choice((0.0, 0.3, 0.7, 1.0)) if dice is not None else 0.0
            for entry in self._unsynced.get(name, ()):
                if entry.what is What.CUT:
                    _change(data, entry)
                elif dice is not None:
                    _change_sectors(data, entry, dice, reached)
            files[name] = bytes(data)
        return files


def _change(data: bytearray, entry: Entry) -> None:
    if entry.what is What.CUT:
        del data[entry.offset :]
        data.extend(bytes(entry.offset - len(data)))
        return
    data.extend(bytes(max(0, entry.offset - len(data))))
    data[entry.offset : entry.offset + len(entry.data)] = entry.data


def _change_sectors(data: bytearray, entry: Entry, dice: random.Random, reached: float) -> None:
    """Write those sectors that have reached the disk; each is whole or not there."""
    at, end = entry.offset, entry.offset + len(entry.data)
    while at < end:
        until = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if dice.random() < reached:
            _change(data, Entry(What.WRITTEN, entry.name, at, entry.data[at - entry.offset : until - entry.offset]))
        at = until


class Crash(NamedTuple):
    """A moment at which all stops: what the files hold then, and what had been done to the store."""

    at: int
    moment: str
    files: Files


def crashes(log: Sequence[Entry]) -> Iterator[Crash]:
    """Before, in and after each commit, as images.

    A commit is what is written between two syncs. In it: all but its last write is there, the one with the mark that
    makes it count. After it: that is there too, and not synced yet. Before it is after the one before.
    """
    disk = Disk()
    last = {index for index, entry in enumerate(log[:-1]) if _is_last_write(log, index)}
    for index, entry in enumerate(log):
        if index in last:
            yield Crash(index, "in a commit", disk.after_crash())
        disk.apply(entry)
        if index in last:
            yield Crash(index, "after a commit", disk.after_crash())
    yield Crash(len(log), "at the end", disk.after_crash())


def _is_last_write(log: Sequence[Entry], index: int) -> bool:
    """Whether this write to the store is followed by its sync, whatever was done to other files between them."""
    entry = log[index]
    if entry.what is not What.WRITTEN or not entry.is_of_the_store:
        return False
    following = next((later for later in log[index + 1 :] if later.name == entry.name), None)
    return following is not None and following.what is What.SYNCED


def power_losses(log: Sequence[Entry], *, seed: int, times: int) -> Iterator[Crash]:
    """With nothing that was not synced, and `times` with some of it: at each moment that somebody could tell apart.

    These are: just before each sync of the store, and just after each line of a paper, which others have read.
    """
    disk = Disk()
    for index, entry in enumerate(log):
        if entry.what is What.SYNCED and entry.is_of_the_store:
            yield from _losses(disk, index, seed, times)
        disk.apply(entry)
        if entry.what is What.WRITTEN and not entry.is_of_the_store:
            yield from _losses(disk, index + 1, seed, times)


def _losses(disk: Disk, index: int, seed: int, times: int) -> Iterator[Crash]:
    yield Crash(index, "nothing unsynced is kept", disk.after_power_loss())
    for time in range(times):
        yield Crash(
            index, f"some of it is kept, {time}", disk.after_power_loss(random.Random(f"{seed} {index} {time}"))
        )


def lay_out(files: Files, folder: Path) -> None:
    """Make the folder hold these files and no others."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
