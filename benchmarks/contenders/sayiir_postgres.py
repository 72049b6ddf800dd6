# The peer is installed in its own environment only, so a type checker sees nothing of it.
# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc,no-any-return"
"""Sayiir on PostgreSQL.

A workflow is a graph that is built beforehand. Where one process does it all, each workflow is run by its caller's
thread, which was faster here than a worker that polls, and by one engine for all: `run_durable_workflow` makes one each
time, and with it a connection, which was six times slower. From another process it is submitted for a worker, in whose
process tasks are known by their names alone, so these differ between workflows. The payload of a signal takes the place
of the value before, so a workflow that needs both reads the first from its instance's id. The long instance is a loop,
but for a length of one: its worker was seen to leave a loop in the middle.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import sayiir
from sayiir import Flow, LoopResult, PostgresBackend, Worker, WorkflowClient
from sayiir._sayiir import PyDurableEngine

from benchmarks import postgres, work

THREADS: Final = 32
CONNECTIONS: Final = 32
POLL_S: Final = 0.02
FAN_OUT_WIDTH: Final = 500
LONG_MAX: Final = 20_000
SIGNAL: Final = "go"


def _note(x: int) -> int:
    work.note_wait()
    return x


def _argument() -> int:
    return int(sayiir.get_task_context().instance_id.rpartition("-")[2])


def _add_argument(value: int) -> int:
    return _argument() + value


def _mark_argument(value: int) -> int:
    return work.mark(_argument() + value)


def _mark_until(x: int) -> Any:
    """The argument is the length: count down to nothing, then give it back."""
    work.mark(x)
    return LoopResult.again(x - 1) if x > 1 else LoopResult.done(_argument())


def _adder(x: int) -> Callable[[int], int]:
    return lambda _: work.add_one(x)


def _ten() -> Any:
    flow = Flow("ten")
    for number in range(work.SEQUENCE_LENGTH):
        flow = flow.then(work.add_one, name=f"ten-{number}")
    return flow


def _fan_out() -> Any:
    fork = Flow("fan_out").fork()
    for x in range(FAN_OUT_WIDTH):
        fork = fork.branch(_adder(x), name=f"fan_out-{x}")
    return fork.join(lambda results: sum(results.values()), name="sum")


WORKFLOWS: Final[dict[str, Any]] = {
    "one": Flow("one").then(work.add_one, name="one").build(),
    "ten": _ten().build(),
    "fan_out": _fan_out().build(),
    "long": Flow("long").loop(_mark_until, max_iterations=LONG_MAX, name="long").build(),
    "once": Flow("once").then(work.mark, name="once").build(),
    "wait": Flow("wait").then(_note, name="wait").wait_for_signal(SIGNAL).then(_add_argument, name="waited").build(),
    "react": Flow("react")
    .then(_note, name="react")
    .wait_for_signal(SIGNAL)
    .then(_mark_argument, name="reacted")
    .build(),
}


class SayiirPostgres:
    lease_s = 300.0  # its default

    def __init__(self) -> None:
        self._backend: Any = None
        self._client: Any = None
        self._worker: Any = None
        self._engine: Any = None
        self._threads: ThreadPoolExecutor | None = None
        self._numbers = count()
        self._prefix = uuid4().hex
        self._running: dict[str, asyncio.Future[Any]] = {}
        self._workflows: dict[str, str] = {}

    async def open(self, directory: Path) -> None:
        await self._connect(directory)
        self._engine = PyDurableEngine(self._backend)
        if work.is_member():  # of a fleet: a worker, for starts from elsewhere and its own
            worker = Worker(f"worker-{uuid4().hex}", self._backend, poll_interval=POLL_S, claim_ttl=self.lease_s)
            self._worker = worker.start(list(WORKFLOWS.values()))

    async def open_client(self, directory: Path) -> None:
        await self._connect(directory)

    async def _connect(self, directory: Path) -> None:
        self._threads = ThreadPoolExecutor(THREADS)
        self._backend = PostgresBackend(postgres.database(directory), max_connections=CONNECTIONS)
        self._client = WorkflowClient(self._backend)

    async def close(self) -> None:
        if self._threads is None:
            return
        if self._worker is not None:
            self._worker.shutdown()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._threads = self._worker = self._engine = self._backend = self._client = None

    async def call(self, workflow: str, argument: int) -> int:
        return await self.result(await self.begin(workflow, argument))

    async def begin(self, workflow: str, argument: int) -> str:
        """Without a worker to begin one is to run it: to its end, or to its wait for a signal."""
        if (workflow, argument) == ("long", 1):
            workflow, argument = "once", 0
        instance_id = f"{self._prefix}-{workflow}-{next(self._numbers)}-{argument}"
        flow = WORKFLOWS[workflow]
        if self._has_worker:
            await self._in_thread(self._client.submit, flow, instance_id, argument)
            return instance_id
        running = self._in_thread(self._engine.run, flow._inner, instance_id, argument, flow._task_registry)
        if workflow in ("wait", "react"):
            await running
        else:
            self._running[instance_id] = running
        return instance_id

    @property
    def _has_worker(self) -> bool:
        return self._engine is None or self._worker is not None

    async def raise_event(self, instance_id: str, value: int) -> None:
        await self._in_thread(self._client.send_signal, instance_id, SIGNAL, value)

    async def result(self, instance_id: str) -> int:
        status = await self._running.pop(instance_id) if instance_id in self._running else None
        while status is None or not status.is_completed():
            if status is not None and (status.is_failed() or status.is_cancelled()):
                message = f"{instance_id}: {status.status}, {status.error}"
                raise RuntimeError(message)
            if self._has_worker:
                status = await self._in_thread(self._client.status, instance_id)
                await asyncio.sleep(0 if status.is_completed() else POLL_S)
            else:
                flow = WORKFLOWS[instance_id.split("-")[1]]
                status = await self._in_thread(self._engine.resume, flow._inner, instance_id, flow._task_registry)
        result: int = status.output
        return result

    def server_pids(self) -> Sequence[int]:
        return (postgres.given().pid,)

    async def durability(self) -> Mapping[str, str]:
        return postgres.settings() | {"connections": str(CONNECTIONS), "threads": str(THREADS)}

    def _in_thread(self, function: Any, *arguments: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def make() -> SayiirPostgres:
    return SayiirPostgres()
