"""The programs of a plane as processes: each in a group of its own, with a log, known to a keeper."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from planekit import keeper
from planekit.binaries import PlaneUnavailable

TOLD_CHARACTERS: Final = 3_000
PANIC: Final = 2
"""The status of a Go program that has run into a bug of its own."""
PANICS_MAX: Final = 10


class Keeper:
    """The process that clears up when this one has ended, in whatever way."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-IS", keeper.__file__, str(folder)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        self._lock = threading.Lock()

    def began(self, pid: int) -> None:
        self._tell(f"+{pid}\n")

    def ended(self, pid: int) -> None:
        self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def close(self) -> None:
        """Have it end all that it knows of and remove the folder; returns when that is done."""
        self._process.communicate()


class Program:
    """One program of the plane, which may be stopped and started again with the same command.

    Args:
        survives: a panic ends it for a moment, as where a kubelet starts it again. The controllers of 1.20.2 have some:
            a node that is deleted while its pods are being tainted, for one.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, keeper: Keeper, *, survives: bool = False
    ) -> None:
        self.name = name
        self._command = list(command)
        self._folder = folder
        self._keeper = keeper
        self._process: subprocess.Popen[bytes] | None = None
        self._panics_left = PANICS_MAX if survives else 0
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """None if it is not running."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        assert self.pid is None, f"{self.name} is running"
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self._folder), "TMPDIR": str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt from the keyboard is for the tests
            )
        self._keeper.began(self._process.pid)

    def stop(self, sign: signal.Signals = signal.SIGKILL, *, timeout_s: float = 90.0) -> None:
        """Send the signal and wait for the end, which after so many seconds is made; nothing if it is not running."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(sign)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._keeper.ended(process.pid)

    def log(self) -> str:
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def last_words(self) -> str:
        """Why it ended, if it said so, which it does before it lists all that it was about; else the end of its log."""
        log = self.log()
        reasons = [found.start() for found in re.finditer(r"^F\d{4} ", log, re.MULTILINE)]
        return log[reasons[-1] :][:TOLD_CHARACTERS] if reasons else log[-TOLD_CHARACTERS:]

    def expect_running(self) -> None:
        """Raise PlaneUnavailable with the end of its log, if it has ended by itself and is not to be started again."""
        with self._lock:
            if self._process is None or self._process.poll() is None:
                return
            if self._process.returncode == PANIC and self._panics_left:
                self._panics_left -= 1
                self._keeper.ended(self._process.pid)
                self.start()
                return
            raise PlaneUnavailable(f"{self.name} ended with {self._process.returncode}; it said: {self.last_words()}")

    def memory_bytes(self) -> int:
        """What it holds in memory now."""
        if self.pid is None:
            return 0
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """What it has used of processors since it was started."""
        if self.pid is None:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def _log_file(self) -> Path:
        return self._folder / f"{self.name}.log"
