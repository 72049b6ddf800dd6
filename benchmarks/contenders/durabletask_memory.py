# The peer is installed in its own environment only, so a type checker sees nothing of it.
# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc,no-any-return"
"""durabletask over the in-memory backend that it ships for tests, since its real backends are servers.

Nothing is durable here, so the fair opponent is durableflow in memory. Two things differ from the package's defaults,
both needed to run at all: the backend listens on the loopback interface only, and it gets more threads than ten, since
every waiting client holds one and the eleventh waiter would stop the worker for ever. With 2,000 waiters its calls are
cancelled, so no more than 256 results are waited for at once.
"""

import asyncio
import logging
import socket
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc
from durabletask import task
from durabletask.client import TaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from durabletask.testing import InMemoryOrchestrationBackend
from durabletask.worker import TaskHubGrpcWorker

from benchmarks import work

WAITERS_MAX: Final = 256
STARTERS_MAX: Final = 32
SERVER_THREADS: Final = WAITERS_MAX + STARTERS_MAX + 64
TIMEOUT: Final = timedelta(minutes=10)
EVENT: Final = "go"
HISTORY_MAX: Final = 1_000_000  # events; its default of 10,000 is less than the longest instance has


class LoopbackBackend(InMemoryOrchestrationBackend):
    def __init__(self) -> None:
        super().__init__(max_history_size=HISTORY_MAX, port=0)

    def start(self) -> str:
        self._shutdown_event.clear()
        self._server = grpc.server(ThreadPoolExecutor(SERVER_THREADS))
        stubs.add_TaskHubSidecarServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{_free_port()}")
        self._server.start()
        return f"127.0.0.1:{self._port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def add_one(_ctx: Any, x: int) -> int:
    return work.add_one(x)


def mark(_ctx: Any, x: int) -> int:
    return work.mark(x)


def one(ctx: Any, x: int) -> Generator[Any, Any, int]:
    return (yield ctx.call_activity(add_one, input=x))


def ten(ctx: Any, x: int) -> Generator[Any, Any, int]:
    for _ in range(work.SEQUENCE_LENGTH):
        x = yield ctx.call_activity(add_one, input=x)
    return x


def fan_out(ctx: Any, width: int) -> Generator[Any, Any, int]:
    return sum((yield task.when_all([ctx.call_activity(add_one, input=x) for x in range(width)])))


def long(ctx: Any, length: int) -> Generator[Any, Any, int]:
    x = 0
    for _ in range(length):
        x = yield ctx.call_activity(mark, input=x)
    return x


def wait(ctx: Any, x: int) -> Generator[Any, Any, int]:
    work.note_wait()
    return x + (yield ctx.wait_for_external_event(EVENT))


class DurableTask:
    def __init__(self) -> None:
        self._backend: LoopbackBackend | None = None
        self._worker: Any = None
        self._client: Any = None
        self._starters: ThreadPoolExecutor | None = None
        self._waiters: ThreadPoolExecutor | None = None

    async def open(self, directory: Path) -> None:  # noqa: ARG002 - nothing is kept
        logging.disable(logging.WARNING)
        self._starters, self._waiters = ThreadPoolExecutor(STARTERS_MAX), ThreadPoolExecutor(WAITERS_MAX)
        self._backend = LoopbackBackend()
        address = self._backend.start()
        self._worker = TaskHubGrpcWorker(host_address=address)
        for activity in (add_one, mark):
            self._worker.add_activity(activity)
        for workflow in (one, ten, fan_out, long, wait):
            self._worker.add_orchestrator(workflow)
        self._worker.start()
        self._client = TaskHubGrpcClient(host_address=address)

    async def close(self) -> None:
        if self._backend is None or self._starters is None or self._waiters is None:
            return
        await asyncio.to_thread(self._worker.stop)
        await asyncio.to_thread(self._backend.stop)
        for threads in (self._starters, self._waiters):
            threads.shutdown(wait=False, cancel_futures=True)
        self._backend = None

    async def call(self, workflow: str, argument: int) -> int:
        return await self.result(await self.begin(workflow, argument))

    async def begin(self, workflow: str, argument: int) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._starters, self._begin, workflow, argument)

    def _begin(self, workflow: str, argument: int) -> str:
        instance_id: str = self._client.schedule_new_orchestration(workflow, input=argument)
        return instance_id

    async def raise_event(self, instance_id: str, value: int) -> None:
        await asyncio.get_running_loop().run_in_executor(self._starters, self._raise_event, instance_id, value)

    def _raise_event(self, instance_id: str, value: int) -> None:
        self._client.raise_orchestration_event(instance_id, EVENT, data=value)

    async def result(self, instance_id: str) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._waiters, self._result, instance_id)

    def _result(self, instance_id: str) -> int:
        state = self._client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT.total_seconds())
        state.raise_if_failed()
        result: int = state.get_output()
        return result

    def server_pids(self) -> Sequence[int]:
        return ()

    async def durability(self) -> Mapping[str, str]:
        return {"durable": "no: everything is in memory"}


def make() -> DurableTask:
    return DurableTask()
