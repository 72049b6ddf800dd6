"""The ledger: a file to which the worker's processes append a line for all that they do.

It is no part of the store. A line is written with one call to the operating system, so
that it is there even if the process is killed right after.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from durableflow import ActivityContext


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line.

    Attributes:
        at_s: seconds since 1970.
        process: the process that wrote it.
        what: `"begins"`, `"is done"` or `"fails"` of an attempt; `"leads"`, `"recovers"` or `"says"` of the worker.
        key: the idempotency key of the activity: `instance/number`, the same for all attempts.
    """

    at_s: float
    process: int
    what: str
    instance: str = ""
    activity: str = ""
    key: str = ""
    attempt: int = 0
    text: str = ""


class Ledger:
    """The writing side."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, what: str, instance: str = "", text: str = "") -> None:
        """Append a line about the worker."""
        self._append(Entry(time.time(), os.getpid(), what, instance, text=text))

    def note_attempt(self, what: str, context: ActivityContext, text: str = "") -> None:
        """Append a line about an attempt."""
        key, attempt = context.idempotency_key, context.attempt
        self._append(Entry(time.time(), os.getpid(), what, context.instance_id, context.activity, key, attempt, text))

    def _append(self, entry: Entry) -> None:
        os.write(self._file, msgspec.json.encode(entry) + b"\n")


class LedgerReader:
    """The reading side, which follows the file as it grows.

    Attributes:
        entries: all that was read so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self.entries: list[Entry] = []

    def read(self) -> list[Entry]:
        """The whole lines that were appended since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = [msgspec.json.decode(line, type=Entry) for line in whole.splitlines()]
        self.entries += new
        return new
