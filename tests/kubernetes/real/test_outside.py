"""A worker that may not ask whose token one is, as outside of the cluster, on a real control plane."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from planekit.node import Kubelet

if TYPE_CHECKING:
    Cluster = Any  # of conftest.py

pytestmark = pytest.mark.slow  # real processes, real time


@pytest.mark.parametrize("value", ["given", "'x' * 20_000"], ids=["small", "large"])
async def test_a_pod_calls_back_with_a_token_of_its_jobs_own(cluster: Cluster, node: Kubelet, value: str) -> None:
    cluster.may_review = False
    cluster.define(f"assert runtime.heartbeat('here')\nruntime.complete({value})\nimport time; time.sleep(1)")
    async with cluster.with_callbacks(rights=cluster.rights_with_secrets(), callback_identity="job") as engine:
        handle = await engine.start(cluster.training, 7)
        assert await handle.result(timeout=60) == (7 if value == "given" else "x" * 20_000)
        assert cluster.jobs.statistics().outcomes == {"success": 1}
        await cluster.empty()
        await cluster.until(lambda: not _own_secrets(cluster))


def _own_secrets(cluster: Cluster) -> list[str]:
    found = cluster.plane.request("GET", f"/api/v1/namespaces/{cluster.namespace}/secrets")["items"]
    return [each["metadata"]["name"] for each in found if each["metadata"]["name"].startswith("df-")]


async def test_what_a_worker_is_given_for_it_does_not_let_it_read_a_secret(cluster: Cluster) -> None:
    await asyncio.to_thread(cluster.kubeconfig, cluster.rights_with_secrets())
    who = f"system:serviceaccount:{cluster.namespace}:worker"
    may: dict[str, bool] = {}
    for verb in ("create", "get", "list", "watch", "update", "patch", "delete"):
        asked = {
            "user": who,
            "resourceAttributes": {"verb": verb, "resource": "secrets", "namespace": cluster.namespace},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        may[verb] = (await cluster.ask("POST", path, {"spec": asked}))["status"]["allowed"]
    assert [verb for verb, allowed in may.items() if allowed] == ["create"]


async def test_without_the_right_to_create_secrets_it_says_so_and_leaves_nothing(
    cluster: Cluster, node: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durableflow.kubernetes.submit._REFUSED_S", 1.0)
    cluster.may_review = False
    cluster.define("runtime.complete(given)")
    async with cluster.with_callbacks(callback_identity="job") as engine:
        kind, _, message, _ = await (await engine.start(cluster.training, 7)).result(timeout=60)
        assert kind == "Forbidden"
        assert 'cannot create resource "secrets"' in message
        await cluster.empty()
