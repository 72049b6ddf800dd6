"""What a process says of itself, again and again: a line of JSON each time."""

import asyncio
import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import ledger

_PAGE_KB: Final = os.sysconf("SC_PAGE_SIZE") // 1024


_MALLOC_FIELDS: Final = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _MallocInfo(ctypes.Structure):
    """See mallinfo(3)."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in _MALLOC_FIELDS)


_LIBC: Final = ctypes.CDLL(None)
if hasattr(_LIBC, "mallinfo2"):
    _LIBC.mallinfo2.restype = _MallocInfo


async def pulse(path: Path, every_s: float, more: Callable[[], Mapping[str, float]]) -> None:
    """Write for ever.

    Args:
        more: what else there is to tell. `own_tasks` of all tasks are those of work under way, which comes and goes.
    """
    paper = ledger.Paper(path)
    while True:
        await asyncio.sleep(every_s)
        told = {**more()}
        told["idle_tasks"] = len(asyncio.all_tasks()) - told.pop("own_tasks", 0)
        paper.write({"at_s": time.monotonic(), **_of_this_process(), **told})


def _of_this_process() -> Mapping[str, float]:
    """Memory is also counted by what is in use of it: pages in which something lives are not given back.

    That is what the C library has given out, where it says so, and the blocks of the interpreter's own allocator.
    """
    heap = _LIBC.mallinfo2() if hasattr(_LIBC, "mallinfo2") else None
    return {
        **({"heap_kb": (heap.uordblks + heap.hblkhd) // 1024} if heap is not None else {}),
        "pid": os.getpid(),
        "rss_kb": int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_KB,
        "blocks": sys.getallocatedblocks(),
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  # names only
        "threads": threading.active_count(),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """All lines that are whole."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]
