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
    """User and system seconds of this process (all threads) and of `pids`."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + sum(_cpu_of_s(pid) for pid in pids)


def _cpu_of_s(pid: int) -> float:
    # the command's name, in parentheses, may hold spaces; utime and stime are fields 14 and 15 of the whole line
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def resident_bytes(pids: Sequence[int]) -> int:
    """Resident memory of this process and of `pids`, as VmRSS counts it."""
    return sum(_resident_of_bytes(pid) for pid in (os.getpid(), *pids))


def _resident_of_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    message = f"process {pid} shows no VmRSS"
    raise ProcessLookupError(message)


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
