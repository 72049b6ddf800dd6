"""The sweep on a real API server: what nobody wants any more goes, and what belongs to others stays."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from planekit.node import Kubelet
from planekit.patience import eventually

from durableflow import Engine

if TYPE_CHECKING:
    Cluster = Any  # of conftest.py

pytestmark = pytest.mark.slow  # real processes, real time

PATIENCE_S = 90
UNTIL_THERE = "import os, time\nwhile not os.path.exists(given): time.sleep(0.02)\nruntime.complete('done')"


async def listed(cluster: Cluster, deployment: str) -> list[str]:
    """Their names, as `kubectl get` has them."""
    label = f"durableflow.dev/deployment={deployment}"
    command = ("get", "jobs,pods,configmaps", "-n", cluster.namespace, "-l", label, "-o", "name")
    return sorted((await asyncio.to_thread(cluster.plane.kubectl, *command)).split())


def kinds_of(names: list[str]) -> Counter[str]:
    """How many there are of each."""
    return Counter(name.partition("/")[0] for name in names)


async def test_the_sweep_deletes_the_orphans_of_its_deployment_and_leaves_all_others(
    cluster: Cluster, node: Kubelet, tmp_path: Path
) -> None:
    folder = tmp_path / "bakery"
    folder.mkdir()
    bakery = type(cluster)(cluster.plane, cluster.namespace, folder)
    bakery.define(UNTIL_THERE)
    async with bakery.open(deployment="bakery") as engine:
        await engine.start(bakery.training.options(instance_id="theirs"), str(tmp_path / "theirs"))
        await cluster.running(1)
    cluster.define(UNTIL_THERE)
    async with cluster.open() as engine:
        for name in ("terminated", "purged", "wanted"):
            await engine.start(cluster.training.options(instance_id=name), str(tmp_path / name))
        await cluster.running(4)
        await cluster.until(lambda: engine.statistics().running_attempts == 0)
    by_hand = {
        "metadata": {"name": "by-hand", "labels": {"durableflow.dev/deployment": "tests"}},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "any:1"}], "restartPolicy": "Never"}}},
    }
    path = f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs"
    await cluster.ask("POST", path, by_hand)
    async with Engine(cluster.url, workflows=[cluster.training], activities=[cluster.train]) as engine:
        for name in ("terminated", "purged"):
            await engine.terminate(name)
        await engine.purge("purged")
    theirs = await listed(cluster, "bakery")
    assert kinds_of(theirs) == {"job.batch": 1, "pod": 1, "configmap": 1}
    # A Job that was made by hand has no input, and its pod no label.
    assert kinds_of(await listed(cluster, "tests")) == {"job.batch": 4, "pod": 3, "configmap": 3}

    async with cluster.open() as engine:

        async def are_swept() -> bool:
            return kinds_of(await listed(cluster, "tests")) == {"job.batch": 2, "pod": 1, "configmap": 1}

        await eventually(are_swept, patience_s=PATIENCE_S)
        assert "job.batch/by-hand" in await listed(cluster, "tests")
        (tmp_path / "wanted").touch()
        assert await engine.result("wanted", timeout=PATIENCE_S) == "done"

        async def is_alone() -> bool:
            return await listed(cluster, "tests") == ["job.batch/by-hand"]

        await eventually(is_alone, patience_s=PATIENCE_S)
        await cluster.until(lambda: cluster.jobs.statistics().deleted == 3)
    assert await listed(cluster, "bakery") == theirs

    await cluster.ask("DELETE", f"{path}/by-hand", {"propagationPolicy": "Foreground"})
    (tmp_path / "theirs").touch()
    async with bakery.open(deployment="bakery") as engine:
        assert await engine.result("theirs", timeout=PATIENCE_S) == "done"
        assert bakery.jobs.statistics().submitted == 0
        await cluster.empty()
