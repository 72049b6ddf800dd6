"""A container: a process of this machine with a log and a message that it leaves."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from planekit.api import Document
from planekit.processes import Keeper
from planekit.status import cut_message, reason_of, running, terminated, waiting

LOOK_S: Final = 0.1
"""Between two looks at what a container with a limit holds in memory."""
DRAIN_S: Final = 1.0
"""For the last lines of a container; a process that has left its group may hold the pipe for ever."""
FALLBACK_BYTES, FALLBACK_LINES = 2_048, 80


class Container:
    """One run of one container.

    Attributes:
        state: as in `containerStatuses`.
    """

    def __init__(self, spec: Document, folder: Path, identity: str, keeper: Keeper) -> None:
        self.spec = spec
        self.identity = identity
        self.state = waiting("ContainerCreating")
        self.log_file = folder / "log"
        self.message_file = folder / "termination-log"
        self._keeper = keeper
        self._process: asyncio.subprocess.Process | None = None
        self._is_out_of_memory = False
        self._is_gone = False
        """Its group is empty, and the number may be somebody else's by now."""
        folder.mkdir(parents=True, exist_ok=True)
        self.message_file.touch()

    @property
    def is_running(self) -> bool:
        return "running" in self.state

    async def start(self, command: Sequence[str], environment: Mapping[str, str], directory: str | Path) -> None:
        """Start it; one that cannot be started has ended when this returns."""
        started = datetime.now(UTC)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                env=dict(environment),
                cwd=directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            told = f"failed to create containerd task: exec: {command[0]!r}: {error.strerror}"
            self.state = self._ended(128, "StartError", started, told)
            return
        self._keeper.began(self._process.pid)
        self.state = running(started)
        self._started = started

    async def wait(self, memory_bytes: int | None) -> None:
        """Until it has ended, which is when its first process has: the others are killed. Not to be cancelled.

        Args:
            memory_bytes: if its processes hold more together, they are killed.
        """
        process = self._process
        if process is None:
            return
        assert process.stdout is not None
        pump = asyncio.ensure_future(self._keep_log(process.stdout))
        watch = asyncio.ensure_future(self._watch_memory(process.pid, memory_bytes)) if memory_bytes else None
        code = await process.wait()
        self.kill()
        self._is_gone = True
        self._keeper.ended(process.pid)
        await asyncio.wait({pump}, timeout=DRAIN_S)
        for task in filter(None, (pump, watch)):
            task.cancel()
        exit_code = code if code >= 0 else 128 - code
        reason = "OOMKilled" if self._is_out_of_memory else reason_of(exit_code)
        self.state = self._ended(exit_code, reason, self._started, self._message(exit_code))

    def ask_to_end(self) -> None:
        """SIGTERM to its first process."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        if self._process is not None and not self._is_gone:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def kill_out_of_memory(self) -> None:
        """As the kernel does when its memory is over its limit."""
        self._is_out_of_memory = True
        self.kill()

    def lose(self, reason: str = "Unknown", exit_code: int = 255) -> None:
        """It has ended and nobody saw how, as when its machine was switched off."""
        now = datetime.now(UTC)
        self.state = self._ended(exit_code, reason, getattr(self, "_started", now), "")

    def _ended(self, exit_code: int, reason: str, started: datetime, message: str) -> Document:
        return terminated(
            exit_code,
            reason,
            started=started,
            finished=datetime.now(UTC),
            message=message,
            identity=self.identity,
        )

    def _message(self, exit_code: int) -> str:
        left = cut_message(self.message_file.read_bytes()) if self.message_file.exists() else ""
        if left or exit_code == 0 or self.spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return left
        lines = [line.partition(b" ")[2] for line in self.log_file.read_bytes().splitlines(keepends=True)]
        return b"".join(lines[-FALLBACK_LINES:])[-FALLBACK_BYTES:].decode(errors="replace")

    async def _keep_log(self, output: asyncio.StreamReader) -> None:
        """Each line with the moment at which it came."""
        with self.log_file.open("ab", buffering=0) as log:
            rest = b""
            while data := await output.read(65_536):
                *lines, rest = (rest + data).split(b"\n")
                log.write(b"".join(_stamped(line) for line in lines))
            if rest:
                log.write(_stamped(rest))

    async def _watch_memory(self, group: int, limit_bytes: int) -> None:
        while True:
            if _memory_of(group) > limit_bytes:
                self.kill_out_of_memory()
                return
            await asyncio.sleep(LOOK_S)


def _stamped(line: bytes) -> bytes:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ ").encode() + line + b"\n"


def _memory_of(group: int) -> int:
    """What the processes of a group hold in memory, shared pages of each included."""
    held = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with suppress(OSError, ProcessLookupError):
            if os.getpgid(int(folder.name)) == group:
                held += int((folder / "statm").read_text().split()[1])
    return held * os.sysconf("SC_PAGE_SIZE")
