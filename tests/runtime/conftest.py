"""A store, a clock that stands still, and engines that can be dropped as a crash would drop them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from durableflow import Client, Engine, Settings
from durableflow.backends.base import Backend, Commit, Lease, LoadedInstance
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.errors import AppendConflict, CommitOutcomeUnknown, StorageError
from durableflow.observe.facts import Fact
from durableflow.runtime.worker import Worker

START_US = 1_900_000_000_000_000
PATIENCE_S = 10.0


class HeldClock:
    """Time stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = START_US
        self._parked: dict[int, tuple[int | None, asyncio.Event]] = {}
        self._number = 0
        self._dice = random.Random(7)

    def now_us(self) -> int:
        return self.now

    async def wait(self, changed: asyncio.Event, until_us: int | None) -> None:
        if until_us is not None and until_us <= self.now:
            return
        self._number = number = self._number + 1
        self._parked[number] = until_us, changed
        try:
            await changed.wait()
        finally:
            del self._parked[number]

    def random_bits(self, count: int) -> int:
        return self._dice.getrandbits(count)

    def draw(self) -> float:
        return self._dice.random()

    @property
    def has_woken(self) -> bool:
        """Whether somebody was woken and has not looked yet."""
        return any(changed.is_set() for _, changed in self._parked.values())

    def next_due_us(self) -> int | None:
        return min((until for until, _ in self._parked.values() if until is not None), default=None)

    def move(self, now_us: int) -> None:
        self.now = max(now_us, self.now)
        for until_us, changed in self._parked.values():
            if until_us is not None and until_us <= self.now:
                changed.set()

    @property
    def since_start_s(self) -> float:
        return (self.now - START_US) / 1_000_000


class World:
    """One store of one kind, the clock, and what the engines on it told."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.path = folder / "store.db"
        self.clock = HeldClock()
        self.facts: list[Fact] = []
        self.backends: list[Backend] = []
        self._memory = MemoryBackend()
        self._open: list[Engine] = []

    def backend(self) -> Any:
        """A further way to the store."""
        made = self._memory if self.kind == "memory" else SqliteBackend(self.path, power_loss_safe=False)
        self.backends.append(made)
        return made

    def new_engine(self, backend: Any = None, **settings: Any) -> Engine:
        """An engine that knows nothing but what it is given, not yet opened."""
        known = {name: settings.pop(name, ()) for name in ("workflows", "activities")}
        known["queues"] = settings.pop("queues", None)
        settings.setdefault("grace_s", 0.05)
        return Engine(
            backend or self.backend(),
            settings=Settings(**settings),
            clock=self.clock,
            listeners=[self.facts.append],
            **known,
        )

    @asynccontextmanager
    async def engine(self, backend: Any = None, **settings: Any) -> AsyncIterator[Engine]:
        engine = self.new_engine(backend, **settings)
        async with engine:
            self._open.append(engine)
            try:
                yield engine
            finally:
                if engine in self._open:
                    self._open.remove(engine)

    def worker(self, engine: Engine) -> Worker:
        assert engine._worker is not None
        return engine._worker

    async def open(self, backend: Any = None, **settings: Any) -> Engine:
        """An engine that is to be crashed."""
        engine = self.new_engine(backend, **settings)
        await engine.__aenter__()
        self._open.append(engine)
        return engine

    async def crash(self, engine: Engine) -> None:
        """What is in its memory is gone, nothing more is written, and its process is known to be dead."""
        self._open.remove(engine)
        leads = engine.is_leading
        tasks, engine._task, engine._serving = (engine._task, engine._serving), None, None
        for task in tasks:
            assert task is not None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        backend = getattr(engine._backend, "_real", engine._backend)
        server_id = 0 if engine._server is None else engine._server._server_id
        if isinstance(backend, SqliteBackend):
            thread = backend._thread
            assert thread is not None
            sql = "update servers set expires_us = 0 where id = ?"
            if leads:
                await thread.call(lambda connection: connection.execute("delete from workers"))
            await thread.call(lambda connection: connection.execute(sql, (server_id,)))
        else:
            assert isinstance(backend, MemoryBackend)
            if leads:
                backend._workers.clear()
            if server_id in backend._servers:
                backend._servers[server_id] = 0
        await backend.close()

    async def close(self, engine: Engine) -> None:
        """End it in order, as a process that is told to stop does."""
        self._open.remove(engine)
        await engine.__aexit__(None, None, None)

    # -- what is asked often --------------------------------------------------------------------------------

    async def counts(self, engine: Client, name: str = "mail") -> tuple[int, int, int, int]:
        """How many tasks of a queue are waiting, delayed, running, handed over."""
        status = await engine.queue(name)
        return status.waiting, status.delayed, status.running, status.handed_over

    async def kinds(self, engine: Client, instance_id: str) -> list[str]:
        return [each.kind for each in await engine.history(instance_id)]

    # -- time -----------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Return when nothing more happens by itself; attempts that wait for the test may be running."""
        calm = 0
        before: object = None
        async with asyncio.timeout(PATIENCE_S):
            while calm < 4:
                await asyncio.sleep(0 if calm else 0.0005)
                now = [self._state(engine) for engine in self._open]
                busy = self.clock.has_woken or not all(is_calm for is_calm, _ in now)
                calm = calm + 1 if now == before and not busy else 0
                before = now

    def _state(self, engine: Engine) -> tuple[bool, object]:
        worker, server = engine._worker, engine._server
        assert server is not None
        calm = server.waits_for_attempts and (worker is None or worker.waits_for_attempts)
        return calm, (server.running_attempts, None if worker is None else worker.statistics())

    async def advance(self, seconds: float) -> None:
        """Let time pass, each moment at which something is due on its own."""
        until_us = self.clock.now + round(seconds * 1_000_000)
        while True:
            await self.settle()
            due_us = self.clock.next_due_us()
            if due_us is None or due_us > until_us:
                break
            self.clock.move(due_us)
        self.clock.move(until_us)
        await self.settle()

    async def until(self, holds: Callable[[], object], awaited: Callable[[], Awaitable[object]] | None = None) -> None:
        """Wait, in real time, until something holds that only real time can bring (threads, other processes)."""
        async with asyncio.timeout(PATIENCE_S):
            while not (holds() if awaited is None else await awaited()):  # noqa: ASYNC110  # what it waits for sets no event
                await asyncio.sleep(0.001)

    def told(self, kind: type[Any]) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(request.param, tmp_path)


@pytest.fixture
def sqlite_world(tmp_path: Path) -> World:
    return World("sqlite", tmp_path)


@pytest.fixture
def memory_world(tmp_path: Path) -> World:
    return World("memory", tmp_path)


OF_TASKS = frozenset(
    {
        "enlist_server",
        "renew_server",
        "retire_server",
        "claim",
        "claimed_tasks",
        "overdue_tasks",
        "finish_tasks",
        "beat_tasks",
        "offer_task",
        "offer_claimed",
    }
)


class FaultyBackend:
    """A backend whose commits fail as planned, or wait at a gate; it counts what is asked of it.

    Faults, one for each commit to come: "refuse" writes nothing, "lose" writes nothing and does not
    say so, "hide" writes and does not say so, "conflict" claims that somebody else was first.

    `plan` has faults for the methods of `OF_TASKS`, by name, for each call to come; besides those above "hang"
    neither writes nor returns, and "hang after" writes and does not return: as far as a process gets that dies there.
    `hanging` names those that do. "late" answers when `answering` is set.
    """

    def __init__(self, real: Any) -> None:
        self._real = real
        self.faults: list[str | None] = []
        self.load_faults = 0
        self.read_faults = 0
        self.commits: list[Commit] = []
        self.loaded: list[str] = []
        self.renewals = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.plan: dict[str, list[str | None]] = {}
        self.hanging: list[str] = []
        self.answering = asyncio.Event()
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        return partial(self._ask, name, real) if name in OF_TASKS else real

    async def _ask(self, name: str, real: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        self.asked[name] += 1
        planned = self.plan.get(name)
        fault = planned.pop(0) if planned else None
        if fault == "refuse":
            raise StorageError("planted")
        if fault == "lose":
            raise CommitOutcomeUnknown("planted")
        answer = None if fault == "hang" else await real(*args)
        if fault == "hide":
            raise CommitOutcomeUnknown("planted")
        if fault in ("hang", "hang after"):
            self.hanging.append(name)
            await asyncio.Event().wait()
        if fault == "late":
            await self.answering.wait()
        return answer

    async def commit(self, lease: Lease, commit: Commit) -> None:
        self.commits.append(commit)
        await self.gate.wait()
        fault = self.faults.pop(0) if self.faults else None
        if fault == "refuse":
            raise StorageError("planted")
        if fault == "lose":
            raise CommitOutcomeUnknown("planted")
        if fault == "conflict":
            raise AppendConflict({row.instance_id for row in commit.rows})
        await self._real.commit(lease, commit)
        if fault == "hide":
            raise CommitOutcomeUnknown("planted")

    async def load(self, instance_ids: Sequence[str], lease: Lease | None = None) -> list[LoadedInstance]:
        if self.load_faults:
            self.load_faults -= 1
            raise StorageError("planted")
        self.loaded += instance_ids
        return await self._real.load(instance_ids, lease)

    async def due(
        self, after: tuple[int, str], until_us: int, limit: int, lease: Lease | None = None
    ) -> list[tuple[int, str]]:
        if self.read_faults:
            self.read_faults -= 1
            raise StorageError("planted")
        return await self._real.due(after, until_us, limit, lease)

    async def renew(self, lease: Lease, ttl_us: int, now_us: int) -> Lease:
        self.renewals += 1
        return await self._real.renew(lease, ttl_us, now_us)


@pytest.fixture
async def faulty(world: World) -> FaultyBackend:
    return FaultyBackend(world.backend())


@pytest.fixture
def faulty_class() -> type[FaultyBackend]:
    return FaultyBackend


@pytest.fixture
def world_class() -> type[World]:
    return World
