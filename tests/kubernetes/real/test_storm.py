"""GPU Jobs while everything dies: each activity ends once, each answer has one Job, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from planekit.node import Kubelet
from planekit.plane import ControlPlane
from planekit.workers import Workers

from durableflow import Client, Status
from durableflow.kubernetes.connection import Connection, configured
from durableflow.kubernetes.documents import Job
from durableflow.kubernetes.informer import Informer, Times

if TYPE_CHECKING:
    Cluster = Any  # of conftest.py

pytestmark = pytest.mark.slow  # real processes, real deaths

APP = Path(__file__).parent / "apps" / "trainings.py"
# Thirty tell as much as two hundred, in less time; `DURABLEFLOW_STORM=200` does as many.
ACTIVITIES = int(os.environ.get("DURABLEFLOW_STORM", "30"))
FAILING = 7
SEED = 20_261_201


class Ledger:
    """Every Job that ever was, by an informer of the test's own."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self.names: dict[str, str] = {}
        self.informer: Informer[Job] = Informer(
            connection,
            f"/apis/batch/v1/namespaces/{namespace}/jobs",
            "durableflow.dev/deployment=storm",
            Job,
            seen=lambda job: self.names.update({job.metadata.uid: job.metadata.name}),
            lost=lambda uid, job: None,
            times=Times(watch_s=60, silence_s=30, relist_s=60),
        )


async def test_everything_ends_once_and_nothing_is_left(
    cluster: Cluster, plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(APP.parent))
    from trainings import training

    dice = random.Random(SEED)
    kubeconfig = await asyncio.to_thread(cluster.kubeconfig)
    workers = Workers(APP, cluster.url, str(kubeconfig), cluster.namespace)
    admin = Connection(configured(file=str(plane.admin)))
    await admin.open()
    ledger = Ledger(admin, cluster.namespace)
    watching = asyncio.create_task(ledger.informer.run())
    try:
        async with AsyncExitStack() as stack, Client(cluster.url) as client:
            nodes = [await stack.enter_async_context(Kubelet(plane, f"storm-{n}", gpus=3)) for n in range(3)]
            stack.callback(workers.end)
            workers.begin()
            workers.begin()
            handles = [
                await client.start(
                    training.options(instance_id=f"t-{number}"),
                    {"number": number, "seconds": dice.uniform(0.1, 1.5), "fails": number % FAILING == 3},
                )
                for number in range(ACTIVITIES)
            ]
            await _storm(workers, plane, nodes, cluster, dice)
            results = [await handle.result(timeout=240) for handle in handles]
            assert results == [
                "ExitCode" if number % FAILING == 3 else f"trained {number}" for number in range(ACTIVITIES)
            ]
            await nodes[0].boot()
            await cluster.empty()
            assert {each.status for each in (await client.list(limit=1_000)).instances} == {Status.COMPLETED}
            histories = [await client.history(handle.id) for handle in handles]
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await admin.close()
    names = list(ledger.names.values())
    assert len(set(names)) == len(names), "a name was used twice"
    assert len(names) == sum(cluster.answers_in(history) for history in histories)
    assert workers.kills >= 4


async def _storm(workers: Workers, plane: ControlPlane, nodes: list[Kubelet], cluster: Cluster, dice: Any) -> None:
    """Kills, one after the other, for as long as it takes to have had each kind."""
    for moment in range(8):
        await asyncio.sleep(dice.uniform(0.5, 2.0))
        if moment % 2 == 0:
            workers.kill(dice.randrange(len(workers.processes)))
            workers.begin()
        elif moment == 1:
            await nodes[0].die()
        elif moment == 3:
            await asyncio.to_thread(plane.restart_api_server)
        elif moment == 5:
            pods = [each for each in await cluster.items("pods") if each["status"].get("phase") == "Running"]
            for pod in pods[:3]:
                name = pod["metadata"]["name"]
                await cluster.ask("DELETE", f"/api/v1/namespaces/{cluster.namespace}/pods/{name}")
        else:
            await nodes[1].evict()
            await nodes[1].recover()
