# The peer is installed in its own environment only, so a type checker sees nothing of it.
# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc,no-any-return"
"""duroxide on its SQLite file provider.

With its default options the dispatchers often meet a locked database, back off for 200 ms, and a lone workflow takes as
long; the documented `dispatcher_poll_interval_ms=5` helps at low load. Both are measured. To wait for a result
is to poll the database, so no more than 64 results are waited for at once: 2,000 pollers bring it to a standstill.
"""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from duroxide import Client, Runtime, RuntimeOptions, SqliteProvider

from benchmarks import work

THREADS_MAX: Final = 64
TIMEOUT_MS: Final = 600_000
EVENT: Final = "go"
# In a process of its own: a second SQLite library in this one would break the locks of duroxide's.
ASK: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(*connection.execute("PRAGMA journal_mode").fetchone())
connection.execute("PRAGMA synchronous = WAL")
print(*connection.execute("PRAGMA synchronous").fetchone())
"""


def one(ctx: Any, x: int) -> Generator[Any, Any, int]:
    return (yield ctx.schedule_activity("add_one", x))


def ten(ctx: Any, x: int) -> Generator[Any, Any, int]:
    for _ in range(work.SEQUENCE_LENGTH):
        x = yield ctx.schedule_activity("add_one", x)
    return x


def fan_out(ctx: Any, width: int) -> Generator[Any, Any, int]:
    return sum((yield ctx.all_typed([ctx.schedule_activity("add_one", x) for x in range(width)])))


def long(ctx: Any, length: int) -> Generator[Any, Any, int]:
    x = 0
    for _ in range(length):
        x = yield ctx.schedule_activity("mark", x)
    return x


def wait(ctx: Any, x: int) -> Generator[Any, Any, int]:
    work.note_wait()
    return x + (yield ctx.wait_for_event(EVENT))


def react(ctx: Any, x: int) -> Generator[Any, Any, int]:
    work.note_wait()
    value = yield ctx.wait_for_event(EVENT)
    return (yield ctx.schedule_activity("mark", x + value))


class Duroxide:
    def __init__(self, **options: int) -> None:
        self._options = options
        self._client: Any = None
        self._runtime: Any = None
        self._threads: ThreadPoolExecutor | None = None
        self._waiters: ThreadPoolExecutor | None = None
        self._database: Path | None = None
        self._numbers = count()
        self._prefix = uuid4().hex

    def provider(self, directory: Path) -> Any:
        self._database = directory / "duroxide.sqlite"
        return SqliteProvider.open(str(self._database))

    def connect(self, provider: Any) -> None:
        """Be a client of whatever works on this store."""
        self._threads, self._waiters = ThreadPoolExecutor(THREADS_MAX), ThreadPoolExecutor(THREADS_MAX)
        self._client = Client(provider)

    async def open(self, directory: Path) -> None:
        provider = self.provider(directory)
        self.connect(provider)
        self._runtime = Runtime(provider, RuntimeOptions(log_level="error", **self._options))
        for activity in (work.add_one, work.mark):
            self._runtime.register_activity(activity.__name__, lambda _ctx, x, activity=activity: activity(x))
        for workflow in (one, ten, fan_out, long, wait, react):
            self._runtime.register_orchestration(workflow.__name__, workflow)
        threading.Thread(target=self._runtime.start, daemon=True).start()

    async def close(self) -> None:
        if self._threads is None or self._waiters is None:
            return
        if self._runtime is not None:
            await asyncio.to_thread(self._runtime.shutdown, 2_000)
        for threads in (self._threads, self._waiters):
            threads.shutdown(wait=False, cancel_futures=True)
        self._threads = self._waiters = self._client = self._runtime = None

    async def call(self, workflow: str, argument: int) -> int:
        return await self.result(await self.begin(workflow, argument))

    async def begin(self, workflow: str, argument: int) -> str:
        instance_id: str = await self._in_thread(self._begin, workflow, argument)
        return instance_id

    def _begin(self, workflow: str, argument: int) -> str:
        instance_id = f"{self._prefix}-{next(self._numbers)}"
        self._client.start_orchestration(instance_id, workflow, argument)
        return instance_id

    async def raise_event(self, instance_id: str, value: int) -> None:
        await self._in_thread(self._client.raise_event, instance_id, EVENT, value)

    async def result(self, instance_id: str) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._waiters, self._result, instance_id)

    def _result(self, instance_id: str) -> int:
        ended = self._client.wait_for_orchestration(instance_id, TIMEOUT_MS)
        if ended.status != "Completed":
            message = f"{instance_id} is {ended.status}: {ended.error}"
            raise RuntimeError(message)
        result: int = ended.output
        return result

    def server_pids(self) -> Sequence[int]:
        return ()

    async def durability(self) -> Mapping[str, str]:
        """Its connections cannot be asked from here.

        The provider's source (duroxide, `src/providers/sqlite.rs`) sets `synchronous` to the word WAL, which SQLite
        does not know; what SQLite then makes of it is asked here. Under strace, a load of 300 workflows made 17 fsyncs.
        """
        assert self._database is not None
        command = [sys.executable, "-c", ASK, str(self._database)]
        asked = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True)
        journal, synchronous = asked.stdout.split()
        meaning = "NORMAL: a commit is not synced and can be lost with the power" if synchronous == "1" else "?"
        options = ", ".join(f"{name}={value}" for name, value in self._options.items()) or "defaults"
        return {"journal_mode": journal, "synchronous": f"{synchronous} ({meaning})", "options": options}

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def make() -> Duroxide:
    return Duroxide()


def make_polling_fast() -> Duroxide:
    return Duroxide(dispatcher_poll_interval_ms=5)
