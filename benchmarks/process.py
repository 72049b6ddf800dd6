"""CPU time, memory and files of the contender, as Linux counts them."""

import contextlib
import os
import resource
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Sequence[int]) -> float:
    """User and system seconds of this process (all threads), of `pids`, and of all that those ever started."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + sum(_cpu_of_s(pid) for pid in _with_descendants(pids))


def family_cpu_s(pid: int) -> float:
    """User and system seconds of a process and of all that it ever started."""
    return sum(_cpu_of_s(each) for each in _with_descendants([pid]))


def _cpu_of_s(pid: int) -> float:
    """With those of its children that have ended; nothing if it has ended itself."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return sum(int(ticks) for ticks in _fields(pid)[11:15]) / _TICKS_PER_S
    return 0.0


def _fields(pid: int) -> list[str]:
    # the command's name, in parentheses, may hold spaces; the parent is field 4 of the whole line, and utime, stime and
    # the same of ended children are 14 to 17
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _with_descendants(pids: Sequence[int]) -> list[int]:
    if not pids:
        return []
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children.setdefault(int(_fields(int(entry.name))[1]), []).append(int(entry.name))
    found = list(pids)
    for pid in found:  # which grows on the way
        found += children.get(pid, ())
    return found


def resident_bytes(pids: Sequence[int]) -> int:
    """Resident memory of this process and of `pids` with all their descendants; shared pages are parted among them."""
    return proportional_bytes((os.getpid(), *_with_descendants(pids)))


def proportional_bytes(pids: Sequence[int]) -> int:
    """Resident memory of just these; a page that several processes share is parted among them."""
    return sum(_resident_of_bytes(pid) for pid in pids)


def _resident_of_bytes(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def made(directory: Path) -> Path:
    """The directory, which now exists."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def settled_bytes(directory: Path) -> int:
    """Disk blocks that the files below `directory` occupy, once SQLite's logs have gone into their databases."""
    for path in directory.rglob("*-wal"):
        with contextlib.closing(sqlite3.connect(path.with_name(path.name.removesuffix("-wal")))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
