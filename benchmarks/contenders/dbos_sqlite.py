# The peer is installed in its own environment only, so a type checker sees nothing of it.
# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc,no-any-return"
"""DBOS on its SQLite system database, all settings as they come.

Workflows and steps are plain functions, as in DBOS's own tutorial; that is also the faster of its two ways here. Only
`wait` is `async`, since a waiting plain function would hold a thread each.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import sqlalchemy
from dbos import DBOS

from benchmarks import work

THREADS_MAX: Final = 2_100  # one for each client of the busiest workload
WAIT_S: Final = 24 * 3600
TOPIC: Final = "go"


@DBOS.step()
def add_one(x: int) -> int:
    return work.add_one(x)


@DBOS.step()
def mark(x: int) -> int:
    return work.mark(x)


@DBOS.workflow()
def one(x: int) -> int:
    result: int = add_one(x)
    return result


@DBOS.workflow()
def ten(x: int) -> int:
    for _ in range(work.SEQUENCE_LENGTH):
        x = add_one(x)
    return x


@DBOS.step()
async def add_one_async(x: int) -> int:
    return work.add_one(x)


@DBOS.workflow()
async def fan_out(width: int) -> int:
    """DBOS runs steps side by side only in `async` workflows; `gather` starts them in a fixed order."""
    return sum(await asyncio.gather(*(add_one_async(x) for x in range(width))))


@DBOS.workflow()
def long(length: int) -> int:
    x = 0
    for _ in range(length):
        x = mark(x)
    return x


@DBOS.workflow()
async def wait(x: int) -> int:
    work.note_wait()
    value: int = await DBOS.recv_async(TOPIC, timeout_seconds=WAIT_S)
    return x + value


PLAIN: Final[dict[str, Any]] = {"one": one, "ten": ten, "long": long}
ASYNC: Final[dict[str, Any]] = {"fan_out": fan_out, "wait": wait}


class Dbos:
    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._handles: dict[str, Any] = {}

    async def open(self, directory: Path) -> None:
        self._threads = ThreadPoolExecutor(THREADS_MAX)
        url = f"sqlite:///{directory / 'dbos.sqlite'}"
        # the version is a hash of the code unless given, and only the same version takes its instances up again
        DBOS(
            config={
                "name": "benchmark",
                "system_database_url": url,
                "log_level": "ERROR",
                "application_version": "1",
            }
        )
        logging.getLogger("dbos").setLevel(logging.ERROR)
        await asyncio.to_thread(DBOS.launch)

    async def close(self) -> None:
        if self._threads is None:
            return
        await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=0)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._threads = None

    async def call(self, workflow: str, argument: int) -> int:
        if workflow in PLAIN:
            return await self._in_thread(self._call, PLAIN[workflow], argument)
        handle = await DBOS.start_workflow_async(ASYNC[workflow], argument)
        result: int = await handle.get_result()
        return result

    @staticmethod
    def _call(workflow: Any, argument: int) -> int:
        result: int = DBOS.start_workflow(workflow, argument).get_result()
        return result

    async def begin(self, workflow: str, argument: int) -> str:
        handle = await DBOS.start_workflow_async(ASYNC[workflow], argument)
        instance_id: str = handle.get_workflow_id()
        self._handles[instance_id] = handle
        return instance_id

    async def raise_event(self, instance_id: str, value: int) -> None:
        await DBOS.send_async(instance_id, value, topic=TOPIC)

    async def result(self, instance_id: str) -> int:
        handle = self._handles.pop(instance_id, None) or await DBOS.retrieve_workflow_async(instance_id)
        result: int = await handle.get_result()
        return result

    def server_pids(self) -> Sequence[int]:
        return ()

    async def durability(self) -> Mapping[str, str]:
        return await self._in_thread(self._pragmas)

    @staticmethod
    def _pragmas() -> dict[str, str]:
        from dbos._dbos import _get_dbos_instance

        names = ("journal_mode", "synchronous")
        with _get_dbos_instance()._sys_db.engine.connect() as connection:  # DBOS has no door for this
            return {name: str(connection.execute(sqlalchemy.text(f"PRAGMA {name}")).scalar()) for name in names}

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def make() -> Dbos:
    return Dbos()
