"""What becomes of Jobs here is what became of them where the streams were recorded.

Each case takes the Job from the first line of a recorded stream, has the same done to it, and compares the stories: the
conditions of the Job, what was seen of each pod, and the events of scheduler and controllers.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from planekit.node import Kubelet
from planekit.patience import eventually
from planekit.plane import ControlPlane
from planekit.recording import Line, Recording, Story, story_of

pytestmark = pytest.mark.slow  # real processes, real time

STREAMS = Path(__file__).parent.parent / "streams" / "v1.20.2"
GENERATED = ("selector", "completions", "parallelism")


def recorded(case: str) -> list[Line]:
    return [json.loads(line) for line in (STREAMS / f"{case}.jsonl").read_text().splitlines()]


def job_of(lines: list[Line], name: str = "j") -> dict[str, Any]:
    """As it was posted, without what the server added."""
    document = next(
        line["object"] for line in lines if line["kind"] == "Job" and line["object"]["metadata"]["name"] == name
    )
    spec = {key: value for key, value in document["spec"].items() if key not in GENERATED}
    template = {"metadata": {"labels": {"durableflow.dev/managed": "true"}}, "spec": spec["template"]["spec"]}
    metadata = {"name": name, "labels": document["metadata"].get("labels", {})}
    return {"metadata": metadata, "spec": spec | {"template": template}}


@pytest.fixture
async def cpu(plane: ControlPlane) -> AsyncIterator[Kubelet]:
    async with Kubelet(plane, "cpu-a", entrypoints={"fake/oom:1": ["sleep", "600"]}) as node:
        yield node


async def submit(plane: ControlPlane, namespace: str, job: dict[str, Any]) -> None:
    await asyncio.to_thread(plane.request, "POST", f"/apis/batch/v1/namespaces/{namespace}/jobs", job)


def has_ended(story: Story) -> bool:
    return bool(story.job) and all("ending" not in pod[-1] for pod in story.pods)


def is_running(story: Story) -> bool:
    return bool(story.pods) and any("Running" in seen for seen in story.pods[-1])


async def pod_name(recording: Recording) -> str:
    name: str = next(line["object"]["metadata"]["name"] for line in recording.lines if line["kind"] == "Pod")
    return name


@pytest.mark.parametrize("case", ["success", "exit_code", "deadline", "ttl", "suspended_then_run"])
async def test_a_job_ends_as_recorded(plane: ControlPlane, namespace: str, cpu: Kubelet, case: str) -> None:
    lines = recorded(case)
    expected = story_of(lines)
    async with Recording(plane, namespace) as recording:
        await submit(plane, namespace, job_of(lines))
        assert await recording.until(lambda story: story == expected) == expected


async def test_a_container_that_is_out_of_memory_ends_as_recorded(
    plane: ControlPlane, namespace: str, cpu: Kubelet
) -> None:
    lines = recorded("oom")
    async with Recording(plane, namespace) as recording:
        await submit(plane, namespace, job_of(lines))
        await recording.until(is_running)
        cpu.kill_out_of_memory()
        assert await recording.until(has_ended) == story_of(lines)


@pytest.mark.parametrize("case", ["image_pull", "unschedulable"])
async def test_a_job_that_waits_is_seen_as_recorded(
    plane: ControlPlane, namespace: str, cpu: Kubelet, case: str
) -> None:
    lines = recorded(case)
    expected = story_of(lines)
    async with Recording(plane, namespace) as recording:
        await submit(plane, namespace, job_of(lines))
        assert await recording.until(lambda story: story == expected) == expected


async def test_a_job_whose_secret_is_missing_waits_as_recorded_until_it_is_there(
    plane: ControlPlane, namespace: str, cpu: Kubelet
) -> None:
    lines = recorded("missing_secret")
    job = job_of(lines)
    pod = job["spec"]["template"]["spec"]
    # The secret is not a volume here, which a kubelet would wait for without this reason.
    del pod["volumes"], pod["containers"][0]["volumeMounts"]
    reference = {"secretKeyRef": {"name": "nope", "key": "token"}}
    pod["containers"][0] |= {"env": [{"name": "TOKEN", "valueFrom": reference}], "command": ["sh", "-c", "echo $TOKEN"]}
    async with Recording(plane, namespace) as recording:
        await submit(plane, namespace, job)
        expected = story_of(lines)
        assert await recording.until(lambda story: story == expected) == expected
        secret = {"metadata": {"name": "nope"}, "stringData": {"token": "here"}}
        await asyncio.to_thread(plane.request, "POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
        assert (await recording.until(has_ended)).job == ["Complete"]


async def test_a_job_without_its_account_or_over_its_quota_makes_no_pod_and_does_not_fail(
    plane: ControlPlane, namespace: str
) -> None:
    """Of this nothing was recorded: only events tell."""
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    await asyncio.to_thread(plane.request, "POST", f"/api/v1/namespaces/{namespace}/resourcequotas", quota)
    await eventually(lambda: '"0"' in plane.kubectl("get", "quota", "none", "-n", namespace, "-o", "json"))
    orphan = job_of(recorded("success"), "j")
    orphan["metadata"]["name"] = "orphan"
    orphan["spec"]["template"]["spec"]["serviceAccountName"] = "nobody"
    async with Recording(plane, namespace) as recording:
        await submit(plane, namespace, job_of(recorded("success")))
        await submit(plane, namespace, orphan)

        def reasons() -> set[str]:
            events = [line["object"] for line in recording.lines if line["kind"] == "Event"]
            told = [event["message"] for event in events if event["reason"] == "FailedCreate"]
            causes = ("exceeded quota", 'serviceaccount "nobody" not found')
            return {cause for cause in causes if any(cause in message for message in told)}

        await eventually(lambda: len(reasons()) == 2)
        assert recording.story() == Story([], [], {("Job", "FailedCreate")})


Deed = Callable[[ControlPlane, str, Kubelet, str], None]


def evict(plane: ControlPlane, namespace: str, _: Kubelet, pod: str) -> None:
    eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    plane.request("POST", f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", eviction)


def delete_pod(plane: ControlPlane, namespace: str, _: Kubelet, pod: str) -> None:
    plane.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{pod}")


def cancel(plane: ControlPlane, namespace: str, _: Kubelet, __: str) -> None:
    options = {"propagationPolicy": "Foreground"}
    plane.request("DELETE", f"/apis/batch/v1/namespaces/{namespace}/jobs/j", options)


@pytest.mark.parametrize(
    ("case", "deed"),
    [
        ("api_eviction_counted", evict),
        ("exit_zero_on_sigterm", evict),
        ("pod_deleted", delete_pod),
        ("cancel_foreground", cancel),
    ],
)
async def test_what_is_done_to_a_running_job_is_seen_as_recorded(
    plane: ControlPlane, namespace: str, cpu: Kubelet, case: str, deed: Deed
) -> None:
    lines = recorded(case)
    expected = story_of(lines)
    async with Recording(plane, namespace) as recording:
        await submit(plane, namespace, job_of(lines))
        await recording.until(is_running)
        await asyncio.to_thread(deed, plane, namespace, cpu, await pod_name(recording))
        assert await recording.until(lambda story: story == expected) == expected


async def test_a_node_under_pressure_evicts_as_recorded(plane: ControlPlane, namespace: str, cpu: Kubelet) -> None:
    lines = recorded("node_pressure_eviction")
    async with Recording(plane, namespace) as recording:
        await submit(plane, namespace, job_of(lines))
        await recording.until(is_running)
        await cpu.evict()
        assert await recording.until(has_ended) == story_of(lines)


async def test_a_more_important_pod_takes_the_gpus_as_recorded(plane: ControlPlane, namespace: str) -> None:
    lines = recorded("preempted")
    important = job_of(lines, "hi")
    priority = important["spec"]["template"]["spec"]["priorityClassName"] = f"important-{namespace}"
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    await asyncio.to_thread(plane.request, "POST", classes, {"metadata": {"name": priority}, "value": 1_000})
    async with (
        Kubelet(plane, "gpu-b", gpus=2, labels={"gpu.type": "t4"}),
        Recording(plane, namespace) as recording,
    ):
        await submit(plane, namespace, job_of(lines))
        await recording.until(is_running)
        await submit(plane, namespace, important)
        expected = story_of(lines)
        assert await recording.until(lambda story: story == expected) == expected
        assert await recording.until(is_running, job="hi") == story_of(lines, job="hi")


async def test_the_pods_of_a_lost_node_are_seen_as_recorded(plane: ControlPlane, namespace: str, cpu: Kubelet) -> None:
    lines = recorded("node_lost")
    # The rest of the recording is a minute later, when the pod of a node that is gone is collected.
    end = next(number for number, line in enumerate(lines) if line.get("action") == "node object deleted")
    expected = story_of(lines[:end])
    async with (
        Kubelet(plane, "gpu-a", gpus=1, labels={"gpu.type": "h100"}) as gpu,
        Recording(plane, namespace) as recording,
    ):
        await submit(plane, namespace, job_of(lines))
        await recording.until(is_running)
        await gpu.die()
        assert await recording.until(lambda story: story == expected) == expected
        assert story_of(recording.lines).job == [], "nothing tells the Job that its pod is lost"
