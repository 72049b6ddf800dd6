# The peer is installed in its own environment only, so a type checker sees nothing of it.
# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc,no-any-return"
"""DBOS on PostgreSQL, in the fastest way that was found here.

Workflows and steps are `async`, the pool of connections and the pool of threads in which DBOS makes its calls to the
database are as large as helped, and what it polls is polled more often than by default. From another process it is
started through a queue, the only way there is. Each process of a fleet is an executor of its own; of an executor that
died its workflows go on when it starts again, or when DBOS's own service (Conductor) tells another one.
"""

import asyncio
import logging
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from dbos import DBOS, DBOSClient

from benchmarks import postgres, work

POOL_SIZE: Final = 20
THREADS: Final = 32
POLL_S: Final = 0.01
WAIT_S: Final = 24 * 3600
TOPIC: Final = "go"
QUEUE: Final = "benchmark"
EXECUTOR: Final = os.environ.get(work.MEMBER, "benchmark")


@DBOS.step()
async def add_one(x: int) -> int:
    return work.add_one(x)


@DBOS.step()
async def mark(x: int) -> int:
    return work.mark(x)


@DBOS.step()
async def gate(x: int) -> int:
    return await work.gate(x)


@DBOS.workflow()
async def one(x: int) -> int:
    return await add_one(x)


@DBOS.workflow()
async def ten(x: int) -> int:
    for _ in range(work.SEQUENCE_LENGTH):
        x = await add_one(x)
    return x


@DBOS.workflow()
async def fan_out(width: int) -> int:
    return sum(await asyncio.gather(*(add_one(x) for x in range(width))))


@DBOS.workflow()
async def long(length: int) -> int:
    x = 0
    for _ in range(length):
        x = await mark(x)
    return x


@DBOS.workflow()
async def wait(x: int) -> int:
    work.note_wait()
    value: int = await DBOS.recv_async(TOPIC, timeout_seconds=WAIT_S)
    return x + value


@DBOS.workflow()
async def react(x: int) -> int:
    work.note_wait()
    value: int = await DBOS.recv_async(TOPIC, timeout_seconds=WAIT_S)
    return await mark(x + value)


@DBOS.workflow()
async def gated(x: int) -> int:
    for _ in range(4):
        x = await add_one(x)
    return await gate(x)


WORKFLOWS: Final[dict[str, Any]] = {each.__name__: each for each in (one, ten, fan_out, long, wait, react, gated)}


class DbosPostgres:
    lease_s = math.inf  # there is none

    def __init__(self) -> None:
        self._open = False
        self._client: Any = None
        self._handles: dict[str, Any] = {}

    async def open(self, directory: Path) -> None:
        self._use_threads()
        DBOS(
            config={
                "name": "benchmark",
                "system_database_url": postgres.database(directory),
                "sys_db_pool_size": POOL_SIZE,
                "notification_listener_polling_interval_sec": POLL_S,
                "log_level": "ERROR",
                "application_version": "1",
                "executor_id": EXECUTOR,
            }
        )
        logging.getLogger("dbos").setLevel(logging.ERROR)
        await asyncio.to_thread(DBOS.launch)
        await DBOS.register_queue_async(QUEUE, polling_interval_sec=POLL_S)
        self._open = True

    async def open_client(self, directory: Path) -> None:
        self._use_threads()
        self._client = await asyncio.to_thread(
            DBOSClient, system_database_url=postgres.database(directory), system_database_pool_size=POOL_SIZE
        )

    @staticmethod
    def _use_threads() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))

    async def close(self) -> None:
        if self._client is not None:
            self._client, client = None, self._client
            await asyncio.to_thread(client.destroy)
        if self._open:
            self._open = False
            await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=0)

    async def call(self, workflow: str, argument: int) -> int:
        return await self.result(await self.begin(workflow, argument))

    async def begin(self, workflow: str, argument: int) -> str:
        if self._client is not None:
            options = {"queue_name": QUEUE, "workflow_name": workflow, "app_version": "1"}
            handle = await self._client.enqueue_async(options, argument)
        else:
            handle = await DBOS.start_workflow_async(WORKFLOWS[workflow], argument)
        instance_id: str = handle.get_workflow_id()
        self._handles[instance_id] = handle
        return instance_id

    async def raise_event(self, instance_id: str, value: int) -> None:
        await (self._client or DBOS).send_async(instance_id, value, topic=TOPIC)

    async def result(self, instance_id: str) -> int:
        handle = self._handles.pop(instance_id, None)
        if handle is None:
            handle = await (self._client or DBOS).retrieve_workflow_async(instance_id)
        result: int = await handle.get_result(polling_interval_sec=POLL_S)
        return result

    def server_pids(self) -> Sequence[int]:
        return (postgres.given().pid,)

    async def durability(self) -> Mapping[str, str]:
        return postgres.settings() | {"pool": f"{POOL_SIZE} connections", "threads": str(THREADS)}


def make() -> DbosPostgres:
    return DbosPostgres()
