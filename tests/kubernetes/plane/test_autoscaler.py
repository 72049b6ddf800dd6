"""GPU nodes come when pods wait for them, and go when nobody uses them."""

import asyncio
from typing import Any

import pytest
from planekit.autoscaler import Autoscaler, Pool
from planekit.patience import eventually
from planekit.plane import ControlPlane
from planekit.recording import Recording, Story

pytestmark = pytest.mark.slow  # real processes, real time

H200 = {"nvidia.com/gpu.product": "nvidia-h200"}


def gpu_job(name: str, *, gpus: int = 1, kind: str = "nvidia-h200", command: str = "sleep 0.5") -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "fake/exec:1",
        "command": ["sh", "-c", command],
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
    }
    spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "nodeSelector": {"nvidia.com/gpu.product": kind},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    }
    return {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": {"spec": spec}}}


async def submit(plane: ControlPlane, namespace: str, job: dict[str, Any]) -> None:
    await asyncio.to_thread(plane.request, "POST", f"/apis/batch/v1/namespaces/{namespace}/jobs", job)


async def test_a_job_that_fits_nowhere_gets_a_node_which_goes_afterwards(plane: ControlPlane, namespace: str) -> None:
    async with (
        Autoscaler(plane, [Pool("h200", gpus=1, labels=H200)], boot_s=0.2, idle_s=0.5) as autoscaler,
        Recording(plane, namespace) as recording,
    ):
        await submit(plane, namespace, gpu_job("j"))
        story: Story = await recording.until(lambda story: bool(story.job))
        assert story.job == ["Complete"]
        assert story.pods == [
            [
                "Pending",
                "Pending Unschedulable",
                "Pending",
                "Pending waiting ContainerCreating",
                "Running running",
                "Succeeded terminated 0 Completed",
            ]
        ]
        assert ("Pod", "TriggeredScaleUp") in story.events
        await eventually(lambda: not autoscaler.nodes)
        assert autoscaler.history == [("up", "h200-1"), ("down", "h200-1")]
        await eventually(lambda: "h200" not in plane.kubectl("get", "nodes", "-o", "name"))


async def test_jobs_share_nodes_of_a_pool_that_is_full(plane: ControlPlane, namespace: str) -> None:
    async with (
        Autoscaler(plane, [Pool("h200", gpus=2, labels=H200, nodes_max=2)], idle_s=0.5) as autoscaler,
        Recording(plane, namespace) as recording,
    ):
        names = [f"j{number}" for number in range(5)]
        for name in names:
            await submit(plane, namespace, gpu_job(name))
        for name in names:
            assert (await recording.until(lambda story: bool(story.job), job=name)).job == ["Complete"]
        assert [way for way, _ in autoscaler.history[:2]] == ["up", "up"]
        assert [way for way, _ in autoscaler.history].count("up") == 2, "they were used again"


async def test_what_no_pool_has_is_waited_for(plane: ControlPlane, namespace: str) -> None:
    pools = [Pool("h200", gpus=2, labels=H200)]
    async with Autoscaler(plane, pools) as autoscaler, Recording(plane, namespace) as recording:
        await submit(plane, namespace, gpu_job("many", gpus=4))
        await submit(plane, namespace, gpu_job("other", kind="nvidia-t4"))
        for name in ("many", "other"):
            await recording.until(lambda story: story.pods == [["Pending", "Pending Unschedulable"]], job=name)
        await asyncio.sleep(0.5)
        assert autoscaler.history == []
