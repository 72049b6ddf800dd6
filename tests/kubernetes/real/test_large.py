"""Inputs and results that Kubernetes cannot hold, on a real control plane, with the limits that it really has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from apikit.bucket import Bucket
from planekit.node import Kubelet

from durableflow.kubernetes.manifest import INPUT_BYTES_MAX
from durableflow.kubernetes.objects import FolderStore

if TYPE_CHECKING:
    Cluster = Any  # of conftest.py

pytestmark = pytest.mark.slow  # real processes, real time


@pytest.fixture
async def bucket() -> AsyncIterator[Bucket]:
    async with Bucket().running() as bucket:
        yield bucket


@pytest.mark.parametrize("how", ["folder", "by URLs"])
async def test_large_inputs_and_results_go_by_an_object_store_and_nothing_is_left(
    cluster: Cluster, node: Kubelet, bucket: Bucket, tmp_path: Path, how: str
) -> None:
    cluster.define("runtime.complete(given[::-1])")
    folder = tmp_path / "objects"
    store: Any = FolderStore(folder) if how == "folder" else bucket
    given = "ab" * (INPUT_BYTES_MAX // 2)
    async with cluster.open(cluster.rights_with_secrets(), objects=store) as engine:
        handle = await engine.start(cluster.training, given)
        assert await handle.result(timeout=60) == given[::-1]
        await cluster.empty()
        if how == "folder":
            await cluster.until(lambda: folder.exists() and not list(folder.iterdir()))
        else:
            await cluster.until(lambda: not bucket.objects)
            assert [each.rpartition("/")[2] for each in bucket.ever] == ["input.json", "result.json"]
        assert cluster.jobs.statistics().outcomes == {"success": 1}


async def test_a_stored_result_is_called_back(cluster: Cluster, node: Kubelet, bucket: Bucket) -> None:
    cluster.define("runtime.complete('x' * 50_000)\nimport time; time.sleep(1)")
    cluster.may_review = False
    rights = cluster.rights_with_secrets()
    async with cluster.with_callbacks(rights=rights, callback_identity="job", objects=bucket) as engine:
        assert await (await engine.start(cluster.training, 1)).result(timeout=60) == "x" * 50_000
        await cluster.empty()


async def test_the_largest_input_that_a_config_map_holds_needs_no_store(cluster: Cluster, node: Kubelet) -> None:
    cluster.define("runtime.complete(len(given))")
    size = INPUT_BYTES_MAX - len('{"input":"","attempt":1,"details":null}')
    async with cluster.open() as engine:
        assert await (await engine.start(cluster.training, "x" * size)).result(timeout=60) == size
        kind, _, message, _ = await (await engine.start(cluster.training, "x" * (size + 1))).result(timeout=60)
        assert kind == "InputTooLarge"
        assert "give KubernetesJobs an object store" in message
        await cluster.empty()
