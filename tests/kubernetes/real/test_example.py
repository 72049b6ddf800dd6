"""The example does what its page says, on a real control plane, also when its worker is killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from planekit.node import Kubelet
from planekit.plane import ControlPlane

if TYPE_CHECKING:
    Cluster = Any  # of conftest.py

pytestmark = pytest.mark.slow  # real processes, real time

FOLDER = Path(__file__).parents[3] / "examples" / "gpu_job"
SOURCE = Path(__file__).parents[3] / "src"


async def test_the_example_trains_and_goes_on_after_its_worker_was_killed(
    cluster: Cluster, plane: ControlPlane, tmp_path: Path
) -> None:
    env = os.environ | {
        "PYTHONPATH": str(SOURCE),
        "DURABLEFLOW_STORE": cluster.url,
        "GPU_NAMESPACE": cluster.namespace,
        "KUBECONFIG": str(await asyncio.to_thread(cluster.kubeconfig)),
        "ALIVE_FILE": str(tmp_path / "alive"),
    }

    def begin(name: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", str(FOLDER / name), *arguments]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    async with Kubelet(plane, "gpu-example", gpus=2):
        worker = begin("worker.py")
        submit = begin("submit.py", "first", "0.1", "0.5", "3.0")
        try:
            await cluster.running()
            worker.kill()
            worker.communicate()
            worker = begin("worker.py")
            said, error = await asyncio.to_thread(submit.communicate, timeout=120)
            assert submit.returncode == 0, error
            assert said.startswith("rate 0.5 in Job df-train-")
            await cluster.empty()
            worker.terminate()
            said, error = await asyncio.to_thread(worker.communicate, timeout=30)
            assert worker.returncode == 0, error
            assert said.endswith(" runs tune\n")
            assert (tmp_path / "alive").exists()
        finally:
            for process in (worker, submit):
                process.kill()
                process.communicate()


def test_the_manifests_are_taken_by_an_api_server(plane: ControlPlane, namespace: str) -> None:
    for name in ("rbac.yaml", "job-secrets.yaml", "quota.yaml", "worker.yaml"):
        plane.kubectl("apply", "-n", namespace, "-f", str(FOLDER / "manifests" / name))
    plane.kubectl("apply", "--dry-run=server", "-f", str(FOLDER / "manifests" / "callbacks.yaml"))
    account = f"system:serviceaccount:{namespace}:durableflow-worker"
    allowed = plane.kubectl("auth", "can-i", "delete", "jobs", "-n", namespace, "--as", account)
    assert allowed.strip() == "yes"
    plane.kubectl("delete", "deployment", "durableflow-worker", "-n", namespace)


@pytest.mark.parametrize("name", ["hpa.yaml", "keda.yaml"])
def test_what_this_server_does_not_know_is_at_least_a_document_about_the_worker(name: str) -> None:
    document = yaml.safe_load((FOLDER / "manifests" / name).read_text())
    assert document["spec"]["scaleTargetRef"]["name"] == "durableflow-worker"
