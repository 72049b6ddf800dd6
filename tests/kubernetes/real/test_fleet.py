"""Two workers on Postgres send GPU Jobs: one of them is killed, and no Job is lost, sent twice or left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from planekit.faults import HANG, HANG_AFTER, ApiProxy
from planekit.node import Kubelet
from planekit.plane import ControlPlane
from planekit.witness import Witness
from planekit.workers import Workers

from durableflow import Client, Handle

if TYPE_CHECKING:
    Cluster = Any  # of conftest.py

pytestmark = pytest.mark.slow  # real processes, real deaths

APP = Path(__file__).parent / "apps" / "trainings.py"
PATIENCE_S = 90
LEASE_S = "3"


class Fleet:
    """Workers on one store, each of which may be harmed by itself."""

    def __init__(self, cluster: Cluster, client: Client, workers: Workers, jobs_ever: Witness) -> None:
        self.cluster = cluster
        self.client = client
        self.workers = workers
        self.jobs_ever = jobs_ever
        self.handles: list[Handle[str]] = []

    async def begin(self, proxy: ApiProxy | None = None) -> None:
        """One more worker, which asks the API server through this proxy."""
        self.cluster.server = None if proxy is None else proxy.url
        file = await asyncio.to_thread(self.cluster.kubeconfig)
        self.workers.begin([self.cluster.url, str(file), self.cluster.namespace, LEASE_S])

    async def start(self, number: int, *, seconds: float = 0.3, fails: bool = False) -> Handle[str]:
        from trainings import training

        given = {"number": number, "seconds": seconds, "fails": fails}
        self.handles.append(await self.client.start(training.options(instance_id=f"t-{number}"), given))
        return self.handles[-1]

    async def results(self) -> list[str]:
        return [await handle.result(timeout=PATIENCE_S) for handle in self.handles]

    async def check(self, *, jobs: int) -> None:
        """Nothing is left, and as many Jobs were created as attempts had an answer."""
        await self.cluster.empty()
        names = await self.jobs_ever.names()
        assert len(set(names)) == len(names) == jobs
        assert sum([self.cluster.answers_in(await handle.history()) for handle in self.handles]) == jobs


@pytest.fixture
async def fleet(
    cluster: Cluster,
    node: Kubelet,
    jobs_ever: Witness,
    store_url: Callable[[object], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Fleet]:
    monkeypatch.syspath_prepend(str(APP.parent))
    cluster.url = store_url(tmp_path)
    async with AsyncExitStack() as stack:
        workers = Workers(APP)
        stack.callback(workers.end)
        client = await stack.enter_async_context(Client(cluster.url))
        yield Fleet(cluster, client, workers, jobs_ever)


async def test_a_worker_is_killed_while_it_sends_jobs_and_the_other_one_adopts_or_sends_them(
    fleet: Fleet, plane: ControlPlane
) -> None:
    async with ApiProxy(plane) as proxy:
        # Of the first worker's Jobs the server has two, and nobody knows it; the others are still to be sent.
        proxy.ambush(HANG_AFTER, method="POST", path="/jobs$", times=2)
        proxy.ambush(HANG, method="POST", path="/jobs$", times=100)
        await fleet.begin(proxy)
        for number in range(5):
            await fleet.start(number)
        await fleet.cluster.until(lambda: proxy.harmed["hang after"] == 2 and proxy.harmed["hang"] >= 1)
        await fleet.cluster.until(lambda: len(fleet.jobs_ever.created) == 2)
        await fleet.begin()
        for number in range(5, 8):
            await fleet.start(number, fails=number == 6)
        fleet.workers.kill(0)
    assert await fleet.results() == ["ExitCode" if number == 6 else f"trained {number}" for number in range(8)]
    await fleet.check(jobs=8)


async def test_workers_are_killed_while_their_jobs_run_first_one_and_then_both(fleet: Fleet) -> None:
    await fleet.begin()
    await fleet.begin()
    for number in range(4):
        await fleet.start(number, seconds=2.0)
    await fleet.cluster.running(2)
    fleet.workers.kill(0)
    assert await fleet.results() == [f"trained {number}" for number in range(4)]
    await fleet.begin()
    for number in range(4, 8):
        await fleet.start(number, seconds=2.0, fails=number == 6)
    await fleet.cluster.running(4)
    fleet.workers.kill(1)
    fleet.workers.kill(0)

    async def have_ended() -> bool:
        pods = await fleet.cluster.items("pods")
        return all(each["status"].get("phase") in ("Succeeded", "Failed") for each in pods)

    await fleet.cluster.until(have_ended)
    await fleet.begin()
    assert await fleet.results() == ["ExitCode" if number == 6 else f"trained {number}" for number in range(8)]
    await fleet.check(jobs=8)


async def test_what_is_cancelled_while_the_api_server_is_away_has_no_job_when_it_is_back(
    fleet: Fleet, plane: ControlPlane
) -> None:
    await fleet.begin()
    terminated = await fleet.start(0, seconds=1_000)
    cancelled = await fleet.start(1, seconds=1_000)
    await fleet.start(2, seconds=3)
    await fleet.cluster.running(3)
    await asyncio.to_thread(plane.stop_api_server)
    try:
        await terminated.terminate()
        await cancelled.cancel()
        for handle, status in ((terminated, "TERMINATED"), (cancelled, "CANCELLED")):

            async def is_over(handle: Handle[str] = handle, status: str = status) -> bool:
                return (await handle.status()).status.value == status

            await fleet.cluster.until(is_over)
        fleet.workers.kill(0)
    finally:
        await asyncio.to_thread(plane.start_api_server)
    assert len(await fleet.cluster.items("jobs")) == 3
    await fleet.begin()
    assert await fleet.handles[2].result(timeout=PATIENCE_S) == "trained 2"
    await fleet.cluster.empty()
    assert len(await fleet.jobs_ever.names()) == 3
