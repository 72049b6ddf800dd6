"""GPU Jobs on a real control plane: what they come to, and that nothing is left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from planekit.faults import LOSE_ANSWER, ApiProxy
from planekit.node import Kubelet
from planekit.patience import eventually
from planekit.plane import ControlPlane

from durableflow import RetryPolicy
from durableflow.kubernetes.spec import Gpu
from durableflow.observe import facts

if TYPE_CHECKING:
    Cluster = Any  # of conftest.py

MANIFESTS = Path(__file__).parents[3] / "examples" / "gpu_job" / "manifests"
pytestmark = pytest.mark.slow  # real processes, real time

WAIT = "import time\nwhile not runtime.should_stop: time.sleep(0.02)\n"


async def test_a_result_comes_back_and_nothing_is_left(cluster: Cluster, node: Kubelet) -> None:
    cluster.define(
        "import time; time.sleep(1.1)\nruntime.complete({'twice': given['x'] * 2, 'attempt': runtime.attempt()})"
    )
    told: list[facts.JobEnded] = []
    async with cluster.open() as engine:
        engine.listen(lambda fact: told.append(fact) if isinstance(fact, facts.JobEnded) else None)
        handles = [await engine.start(cluster.training, {"x": x}) for x in range(6)]
        results = [await each.result(timeout=60) for each in handles]
        assert results == [{"twice": 2 * x, "attempt": 1} for x in range(6)]
        await cluster.empty()
        counted = cluster.jobs.statistics()
        assert (counted.submitted, counted.outcomes) == (6, {"success": 6})
        assert counted.gpu_seconds["train"] > 0
        assert counted.workflow_gpu_seconds == {"training": counted.gpu_seconds["train"]}
        assert sum(each.gpu_us for each in told) / 1e6 == counted.gpu_seconds["train"]
        assert {(each.workflow, each.outcome) for each in told} == {("training", "success")}
        assert cluster.plane.kubectl("get", "jobs", "-n", cluster.namespace, "-o", "name") == ""


async def test_each_failed_attempt_is_a_job_and_the_last_one_is_told_of(cluster: Cluster, node: Kubelet) -> None:
    cluster.define("print('API_KEY=abc'); print('epoch 1', flush=True)\nraise SystemExit(3)")
    async with cluster.open() as engine:
        handle = await engine.start(cluster.training, 1)
        kind, attempts, message, log = await handle.result(timeout=60)
        assert (kind, attempts) == ("ExitCode", 3)
        assert "node gpu-1, exit code 3" in message
        assert "Pod Scheduled: Successfully assigned" in message
        assert log == "API_KEY=[redacted]\nepoch 1"
        await cluster.empty()
        assert cluster.jobs.statistics().submitted == 3


async def test_a_pod_says_how_it_failed(cluster: Cluster, node: Kubelet) -> None:
    cluster.define("runtime.fail('Diverged', 'loss is nan', retryable=False)")
    async with cluster.open() as engine:
        result = await (await engine.start(cluster.training, 1)).result(timeout=60)
        assert result[:2] == ["Diverged", 1]
        await cluster.empty()


async def test_what_used_too_much_memory_is_not_tried_again(cluster: Cluster, node: Kubelet) -> None:
    cluster.define(WAIT)
    async with cluster.open() as engine:
        handle = await engine.start(cluster.training, 1)
        await cluster.running()
        node.kill_out_of_memory()
        assert (await handle.result(timeout=60))[:2] == ["OutOfMemory", 1]
        await cluster.empty()


FIRST_WAITS = (
    "if runtime.attempt() == 1:\n    import time\n    while True: time.sleep(0.1)\nruntime.complete(runtime.attempt())"
)


@pytest.mark.parametrize("how", ["pod deleted", "evicted by its node", "evicted by the API", "preempted"])
async def test_a_pod_that_is_taken_away_is_nobodys_fault(
    cluster: Cluster, node: Kubelet, plane: ControlPlane, how: str
) -> None:
    cluster.define(FIRST_WAITS, retry=1)
    async with cluster.open() as engine:
        handle = await engine.start(cluster.training, 1)
        pod = await cluster.running()
        path = f"/api/v1/namespaces/{cluster.namespace}/pods/{pod['metadata']['name']}"
        match how:
            case "pod deleted":
                await cluster.ask("DELETE", path)
            case "evicted by its node":
                await node.evict()
                await asyncio.sleep(0.5)
                await node.recover()
            case "evicted by the API":
                eviction = {
                    "apiVersion": "policy/v1beta1",
                    "kind": "Eviction",
                    "metadata": {"name": pod["metadata"]["name"], "namespace": cluster.namespace},
                }
                await cluster.ask("POST", f"{path}/eviction", eviction)
            case _:
                await preempt(cluster, plane)
        assert await handle.result(timeout=60) == 2
        await cluster.empty()
        counted = cluster.jobs.statistics()
        assert counted.outcomes == {"infrastructure": 1, "success": 1}
        assert counted.reasons in ({"PodDeleted": 1}, {"Evicted": 1}, {"Preempted": 1})
        assert counted.submitted == 2


async def preempt(cluster: Cluster, plane: ControlPlane) -> None:
    """Somebody more important needs all GPUs for a moment."""
    priority = {
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1_000
    }  # fmt: skip
    try:
        await cluster.ask("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", priority)
    except Exception as error:
        if "AlreadyExists" not in str(error) and "409" not in str(error):
            raise
    container = {
        "name": "main",
        "image": "any:1",
        "command": ["sh", "-c", "exit 0"],
        "resources": {"limits": {"nvidia.com/gpu": "4"}},
    }
    spec = {
        "containers": [container],
        "restartPolicy": "Never",
        "priorityClassName": "high",
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 1,
    }
    path = f"/api/v1/namespaces/{cluster.namespace}/pods"
    await cluster.ask("POST", path, {"metadata": {"name": "important"}, "spec": spec})

    async def is_done() -> bool:
        found = await cluster.ask("GET", f"{path}/important")
        return bool(found["status"].get("phase") == "Succeeded")

    await eventually(is_done)
    await cluster.ask("DELETE", f"{path}/important")


async def test_a_node_that_dies_is_given_up_and_the_job_runs_elsewhere(cluster: Cluster, plane: ControlPlane) -> None:
    cluster.define(FIRST_WAITS, retry=1)
    labels = {"nvidia.com/gpu.product": "nvidia-h200"}
    async with (
        Kubelet(plane, "gpu-a", gpus=1, labels=labels) as first,
        Kubelet(plane, "gpu-b", gpus=1, labels=labels) as second,
        cluster.open() as engine,
    ):
        handle = await engine.start(cluster.training, 1)
        pod = await cluster.running()
        lost = {"gpu-a": first, "gpu-b": second}[pod["spec"]["nodeName"]]
        await lost.die()
        assert await handle.result(timeout=90) == 2
        assert cluster.jobs.statistics().reasons == {"NodeLost": 1}
        await lost.boot()
        await cluster.empty()


async def test_an_engine_that_closes_detaches_and_the_next_one_goes_on(cluster: Cluster, node: Kubelet) -> None:
    cluster.define("import time; time.sleep(1.5); runtime.complete('done')")
    async with cluster.open() as engine:
        await engine.start(cluster.training.options(instance_id="t"), 1)
        await cluster.running()
    assert len(await cluster.items("jobs")) == 1
    async with cluster.open() as engine:
        assert await engine.result("t", timeout=60) == "done"
        await cluster.empty()
        assert cluster.jobs.statistics().submitted == 0


async def test_the_api_server_may_restart(cluster: Cluster, node: Kubelet, plane: ControlPlane) -> None:
    cluster.define("import time; time.sleep(1); runtime.complete(given)")
    async with cluster.open() as engine:
        handles = [await engine.start(cluster.training, number) for number in range(4)]
        await cluster.running()
        await asyncio.to_thread(plane.restart_api_server)
        assert [await each.result(timeout=90) for each in handles] == [0, 1, 2, 3]
        await cluster.empty()
        assert cluster.jobs.statistics().submitted == 4


async def test_an_answer_that_is_lost_leaves_one_job(cluster: Cluster, node: Kubelet, plane: ControlPlane) -> None:
    cluster.define("runtime.complete(given)")
    async with ApiProxy(plane) as proxy:
        cluster.server = proxy.url
        proxy.ambush(LOSE_ANSWER, method="POST", path="/jobs", times=1)
        async with cluster.open() as engine:
            handle = await engine.start(cluster.training, 7)
            assert await handle.result(timeout=60) == 7
            await cluster.empty()
            counted = cluster.jobs.statistics()
            assert (counted.submitted, counted.adopted, counted.outcomes) == (0, 1, {"success": 1})


async def test_a_cancelled_workflow_leaves_nothing(cluster: Cluster, node: Kubelet) -> None:
    cluster.define(WAIT)
    async with cluster.open(sweep_s=1_000.0) as engine:
        handle = await engine.start(cluster.training, 1)
        await cluster.running()
        await handle.terminate()
        await cluster.empty()


async def test_a_job_that_fits_nowhere_waits_and_then_says_so(cluster: Cluster, node: Kubelet) -> None:
    cluster.define(WAIT, gpu=Gpu(count=64), schedule_timeout=3, retry=1)
    async with cluster.open() as engine:
        handle = await engine.start(cluster.training, 1)
        await cluster.until(lambda: cluster.jobs.statistics().waiting == {"unschedulable": 1})
        kind, _, message, _ = await handle.result(timeout=60)
        assert kind == "ScheduleTimeout"
        assert "Insufficient nvidia.com/gpu" in message
        await cluster.empty()


async def test_a_quota_of_the_namespace_bounds_how_many_jobs_there_are(cluster: Cluster, node: Kubelet) -> None:
    quota = yaml.safe_load((MANIFESTS / "quota.yaml").read_text())
    quota["spec"]["hard"] = {"count/jobs.batch": "2"}
    path = f"/api/v1/namespaces/{cluster.namespace}/resourcequotas"
    await cluster.ask("POST", path, quota)
    await eventually(lambda: cluster.plane.request("GET", f"{path}/gpu-jobs").get("status", {}).get("used"))
    cluster.define("import time; time.sleep(0.5)\nruntime.complete(given)", gpu=None)
    async with cluster.open() as engine:
        handles = [await engine.start(cluster.training, number) for number in range(5)]
        most = 0
        while len([each for each in handles if (await each.status()).status.value == "COMPLETED"]) < len(handles):
            most = max(most, len(await cluster.items("jobs")))
            await asyncio.sleep(0.05)
        assert [await each.result(timeout=60) for each in handles] == [0, 1, 2, 3, 4]
        assert most == 2
        assert cluster.jobs.statistics().submitted == 5
        await cluster.empty()


async def test_a_deadline_is_the_jobs_own(cluster: Cluster, node: Kubelet) -> None:
    cluster.define("import time; time.sleep(60)", active_deadline=2, retry=1)
    async with cluster.open() as engine:
        result = await (await engine.start(cluster.training, 1)).result(timeout=60)
        assert result[:2] == ["DeadlineExceeded", 1]
        await cluster.empty()


async def test_a_service_account_that_is_not_there_has_time_to_appear(cluster: Cluster, node: Kubelet) -> None:
    cluster.define(WAIT, service_account="nobody", config_grace=5)
    async with cluster.open() as engine:
        kind, _, message, _ = await (await engine.start(cluster.training, 1)).result(timeout=60)
        assert kind == "PodRefused"
        assert 'serviceaccount "nobody" not found' in message
        await cluster.empty()


async def test_this_server_cannot_hold_back_a_queued_job_and_it_never_runs(cluster: Cluster) -> None:
    cluster.define("runtime.complete(1)", queue_name="team-a")
    async with cluster.open() as engine:
        kind, _, message, _ = await (await engine.start(cluster.training, 1)).result(timeout=60)
        assert kind == "SuspendUnsupported"
        assert "does not know suspended Jobs" in message
        await cluster.empty()


async def test_an_exit_code_that_is_mapped_as_fatal_is_not_tried_again(cluster: Cluster, node: Kubelet) -> None:
    cluster.define("raise SystemExit(5)", exit_codes={5: "fatal"}, retry=RetryPolicy(max_attempts=5))
    async with cluster.open() as engine:
        result = await (await engine.start(cluster.training, 1)).result(timeout=60)
        assert result[:2] == ["ExitCode", 1]
        await cluster.empty()


@pytest.mark.parametrize("value", ["given", "'x' * 20_000"], ids=["small", "large"])
async def test_a_pod_calls_back_with_its_own_token(cluster: Cluster, node: Kubelet, value: str) -> None:
    cluster.define(f"assert runtime.heartbeat('here')\nruntime.complete({value})\nimport time; time.sleep(1)")
    async with cluster.with_callbacks() as engine:
        handle = await engine.start(cluster.training, 7)
        assert await handle.result(timeout=60) == (7 if value == "given" else "x" * 20_000)
        await cluster.empty()
        assert cluster.jobs.statistics().outcomes == {"success": 1}


RIGHTS = [
    ("jobs", "create", "Forbidden"),
    ("configmaps", "create", "Forbidden"),
    ("pods", "list", "waits"),
    ("jobs", "delete", "stays"),
    ("jobs", "list", 7),  # needed by a worker that did not send the Job itself
    ("jobs", "watch", 7),  # it lists again and again
    ("pods", "watch", 7),
    ("jobs", "get", 7),  # asked for only where a POST had no answer
    ("pods", "get", 7),  # only for callbacks of pods that no watch has told of
    ("pods/log", "get", 7),  # a failure without its last lines
    ("events", "list", 7),
]


@pytest.mark.parametrize(("resource", "verb", "result"), RIGHTS, ids=[f"{verb}-{what}" for what, verb, _ in RIGHTS])
async def test_a_right_that_is_missing_is_an_error_or_is_waited_for_or_does_no_harm(
    cluster: Cluster, node: Kubelet, monkeypatch: pytest.MonkeyPatch, resource: str, verb: str, result: Any
) -> None:
    monkeypatch.setattr("durableflow.kubernetes.submit._REFUSED_S", 1.0)
    cluster.define("runtime.complete(given)")
    rights = cluster.rights_without(resource, verb)
    async with cluster.open(rights) as engine:
        handle = await engine.start(cluster.training, 7)
        if result == 7:
            assert await handle.result(timeout=60) == 7
            await cluster.empty()
        elif result == "Forbidden":
            kind, _, message, _ = await handle.result(timeout=60)
            assert kind == "Forbidden"
            assert f'cannot {verb} resource "{resource}"' in message
            await cluster.empty()
        else:
            if result == "stays":
                assert await handle.result(timeout=60) == 7
            await asyncio.sleep(2)
            assert len(await cluster.items("jobs")) == 1
            await asyncio.to_thread(cluster.kubeconfig)  # somebody grants it
            assert await handle.result(timeout=60) == 7
            await cluster.empty()
