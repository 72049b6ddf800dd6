"""What the processes of these tests leave behind: lines of JSON, each written with one call.

A written line survives the death of its process. Only a line that is synced as well stands
for an acknowledgement: it would survive the loss of power, as the store does.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from durableflow import activity_context

_ledger: list["Paper"] = []


class Paper:
    """A file to append lines to."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, entry: dict[str, object], *, sync: bool = False) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")
        if sync:
            os.fsync(self._file)


def open_ledger(path: str) -> None:
    """Where the activities of this process write."""
    _ledger.append(Paper(path))


def slow_disk(event: str) -> None:
    """A hook for the store: commits that take so long that a kill often meets one."""
    if event == "before commit":
        time.sleep(0.006)


@contextmanager
def noted(*args: object) -> Iterator[None]:
    """A line when the running attempt begins, one when it ends well; `at_s` counts alike in all processes."""
    here = activity_context()
    entry: dict[str, object] = {
        "key": here.idempotency_key,
        "activity": here.activity,
        "attempt": here.attempt,
        "args": args,
        "process": os.getpid(),
    }
    _ledger[-1].write({"what": "begin", "at_s": time.monotonic(), **entry})
    yield
    _ledger[-1].write({"what": "end", "at_s": time.monotonic(), **entry})
