"""A stage for real processes: they share a file, are killed for real, and leave a ledger behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from durableflow import Client

APPS = Path(__file__).parent / "apps"
PATIENCE_S = 20.0
T = TypeVar("T")


class Process:
    """A process of the test; what it says goes to a file."""

    def __init__(self, command: list[str], said: Path) -> None:
        self._said = said
        with said.open("wb") as out:
            self.popen = subprocess.Popen([sys.executable, *command], stdout=out, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def said(self) -> list[str]:
        return self._said.read_text().splitlines()

    def has_said(self, beginning: str) -> bool:
        return any(line.startswith(beginning) for line in self.said)

    async def says(self, beginning: str, *, timeout_s: float = PATIENCE_S) -> str:
        """Wait for a line that begins so."""
        deadline_s = time.monotonic() + timeout_s
        while not self.has_said(beginning):
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}: {self.said}"
            assert time.monotonic() < deadline_s, f"it never said {beginning!r}: {self.said}"
            await asyncio.sleep(0.01)
        return next(line for line in self.said if line.startswith(beginning))

    async def ends(self, *, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; its code."""
        deadline_s = time.monotonic() + timeout_s
        while (code := self.popen.poll()) is None:
            assert time.monotonic() < deadline_s, f"it did not end: {self.said}"
            await asyncio.sleep(0.01)
        return code

    def kill(self) -> None:
        """SIGKILL, and it is gone."""
        self.popen.kill()
        self.popen.wait()

    def freeze(self) -> None:
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.popen.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        """SIGTERM: it closes its engine and ends well."""
        self.popen.terminate()
        assert await self.ends() == 0, self.said


class Stage:
    """What a test has: a folder with a store and a ledger, and processes that end with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store.db"
        self.ledger = folder / "ledger.jsonl"
        self._processes: list[Process] = []

    def run(self, app: str, *arguments: object) -> Process:
        return self._start(app, str(APPS / f"{app}.py"), *map(str, arguments))

    def run_module(self, module: str, *arguments: object) -> Process:
        return self._start(module, "-m", module, *map(str, arguments))

    def _start(self, name: str, *command: str) -> Process:
        process = Process(["-W", "error", *command], self.folder / f"{len(self._processes)}-{name}.txt")
        self._processes.append(process)
        return process

    def worker(self, *modules: str, lease_s: float = 10.0, grace_s: float = 5.0, slow_disk: bool = False) -> Process:
        """A process with an engine that knows what these modules of `apps` define."""
        options = ["--lease", lease_s, "--grace", grace_s, *(["--slow-disk"] if slow_disk else [])]
        return self.run("worker", self.store, self.ledger, *modules, *options)

    async def leading_worker(self, *modules: str, **settings: Any) -> Process:
        worker = self.worker(*modules, **settings)
        await worker.says("leads")
        return worker

    def client(self) -> Client:
        return Client(f"sqlite:///{self.store}")

    def entries(self, **wanted: Any) -> list[dict[str, Any]]:
        """Lines of the ledger that have these values."""
        lines = self.ledger.read_bytes().splitlines() if self.ledger.exists() else []
        entries = [json.loads(line) for line in lines]
        return [entry for entry in entries if all(entry[name] == value for name, value in wanted.items())]

    async def begun(self, count: int = 1, **wanted: Any) -> list[dict[str, Any]]:
        """Wait until so many attempts have begun that are like this."""
        deadline_s = time.monotonic() + PATIENCE_S
        while len(found := self.entries(what="begin", **wanted)) < count:
            assert time.monotonic() < deadline_s, f"{wanted} did not begin {count} times: {self.entries()}"
            await asyncio.sleep(0.01)
        return found

    async def eventually(self, look: Callable[[], Awaitable[T]]) -> T:
        """Look until there is something to see, and give it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not (seen := await look()):
            assert time.monotonic() < deadline_s, "it was never seen"
            await asyncio.sleep(0.01)
        return seen

    def end_all(self) -> None:
        for process in self._processes:
            if process.popen.poll() is None:
                os.kill(process.pid, signal.SIGKILL)  # ends a frozen one too
                process.popen.wait()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.end_all()
