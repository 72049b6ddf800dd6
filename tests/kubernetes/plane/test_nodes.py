"""Nodes run what pods say, with what pods are given, and die in several ways."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from planekit.node import Kubelet
from planekit.patience import PATIENCE_S, eventually
from planekit.plane import ControlPlane

pytestmark = pytest.mark.slow  # real processes, real time

Pod = dict[str, Any]


@pytest.fixture
async def node(plane: ControlPlane) -> AsyncIterator[Kubelet]:
    async with Kubelet(plane, "node-1") as node:
        yield node


class Pods:
    """Makes pods in a namespace and waits for what becomes of them."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        self._path = f"/api/v1/namespaces/{namespace}/pods"

    async def create(self, name: str, *command: str, container: Pod | None = None, **spec: object) -> None:
        main = {"name": "main", "image": "fake/exec:1", "command": list(command)} | (container or {})
        spec = {"restartPolicy": "Never", "containers": [main], "terminationGracePeriodSeconds": 5} | spec
        await self.ask("POST", self._path, {"metadata": {"name": name, "labels": {"app": "tests"}}, "spec": spec})

    async def get(self, name: str) -> Pod:
        found: Pod = await self.ask("GET", f"{self._path}/{name}")
        return found

    async def until(self, name: str, is_so: Callable[[Pod], bool]) -> Pod:
        pod = await self.get(name)
        give_up_s = time.monotonic() + PATIENCE_S
        while not is_so(pod):
            assert time.monotonic() < give_up_s, json.dumps(pod["status"])
            await asyncio.sleep(0.05)
            pod = await self.get(name)
        return pod

    async def ended(self, name: str) -> Pod:
        """What its one container ended with."""
        pod = await self.until(name, lambda pod: pod["status"].get("phase") in ("Succeeded", "Failed"))
        state: Pod = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        return state

    async def running(self, name: str) -> Pod:
        return await self.until(name, lambda pod: pod["status"].get("phase") == "Running")

    async def log(self, name: str, query: str = "") -> str:
        told: str = await self.ask("GET", f"{self._path}/{name}/log{query}")
        return told

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        return await asyncio.to_thread(self._plane.request, method, path, body)


@pytest.fixture
def pods(plane: ControlPlane, namespace: str) -> Pods:
    return Pods(plane, namespace)


# -- what a pod is given -----------------------------------------------------------------------------------------------


async def test_a_pod_has_the_environment_of_its_manifest(
    plane: ControlPlane, namespace: str, node: Kubelet, pods: Pods
) -> None:
    core = f"/api/v1/namespaces/{namespace}"
    plane.request("POST", f"{core}/configmaps", {"metadata": {"name": "c"}, "data": {"a": "from map"}})
    plane.request("POST", f"{core}/secrets", {"metadata": {"name": "s"}, "stringData": {"b": "from secret"}})
    env = [
        {"name": "PLAIN", "value": "plain"},
        {"name": "BUILT", "value": "$(PLAIN) and $$(PLAIN)"},
        {"name": "MAPPED", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "a"}}},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "b"}}},
        {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "s", "key": "z", "optional": True}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
    ]
    names = " ".join(f'"${{{variable["name"]}-unset}}"' for variable in env)
    container = {"env": env, "resources": {"limits": {"memory": "64Mi"}}}
    await pods.create("p", "sh", "-c", f"printf '%s;' {names}", container=container)
    await pods.ended("p")
    told = await pods.log("p")
    assert told.strip().split(";")[:-1] == [
        "plain",
        "plain and $(PLAIN)",
        "from map",
        "from secret",
        "unset",
        "tests",
        "node-1",
        "64Mi",
    ]


async def test_a_pod_finds_its_files_where_its_command_and_environment_say(
    plane: ControlPlane, namespace: str, node: Kubelet, pods: Pods
) -> None:
    core = f"/api/v1/namespaces/{namespace}"
    plane.request("POST", f"{core}/configmaps", {"metadata": {"name": "input"}, "data": {"input.json": "[1]"}})
    await pods.create(
        "p",
        "sh",
        "-c",
        'cat "$INPUT"; cat /etc/pod/name; cp /etc/input/input.json /dev/termination-log',
        container={
            "env": [{"name": "INPUT", "value": "/etc/input/input.json"}],
            "volumeMounts": [
                {"name": "in", "mountPath": "/etc/input", "readOnly": True},
                {"name": "pod", "mountPath": "/etc/pod"},
            ],
        },
        volumes=[
            {"name": "in", "configMap": {"name": "input"}},
            {
                "name": "pod",
                "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]},
            },
        ],
    )
    ended = await pods.ended("p")
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (0, "Completed", "[1]")
    assert await pods.log("p") == "[1]p\n"


async def test_a_pod_proves_to_us_who_it_is_by_a_token_that_dies_with_it(
    plane: ControlPlane, namespace: str, node: Kubelet, pods: Pods
) -> None:
    # Two, because the API server remembers for ten seconds which token it has found good.
    tokens = [
        {"serviceAccountToken": {"audience": "durableflow", "expirationSeconds": lifetime_s, "path": f"{lifetime_s}"}}
        for lifetime_s in (600, 700)
    ]
    await pods.create(
        "p",
        "sh",
        "-c",
        "cd /var/run/durableflow; echo $(cat 600) $(cat 700); exec sleep 600",
        container={"volumeMounts": [{"name": "t", "mountPath": "/var/run/durableflow"}]},
        volumes=[{"name": "t", "projected": {"sources": tokens}}],
        terminationGracePeriodSeconds=0,
    )
    uid = (await pods.running("p"))["metadata"]["uid"]
    first, second = (await eventually(lambda: pods.log("p"))).split()
    status = await review(pods, first)
    assert status["authenticated"]
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [uid]
    await pods.ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/p")
    await eventually(lambda: "p" not in node.pods)
    assert not (await review(pods, second)).get("authenticated")


async def review(pods: Pods, token: str) -> Pod:
    """What the API server thinks of a token for us."""
    spec = {"token": token, "audiences": ["durableflow"]}
    status: Pod = (await pods.ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": spec}))["status"]
    return status


async def test_a_volume_that_is_missing_is_waited_for_and_told(
    plane: ControlPlane, namespace: str, node: Kubelet, pods: Pods
) -> None:
    mount = {"volumeMounts": [{"name": "in", "mountPath": "/etc/input"}]}
    await pods.create(
        "p", "cat", "/etc/input/a", container=mount, volumes=[{"name": "in", "configMap": {"name": "late"}}]
    )
    await eventually(lambda: 'configmap "late" not found' in plane.kubectl("get", "events", "-n", namespace))
    pod = await pods.get("p")
    assert pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
    late = {"metadata": {"name": "late"}, "data": {"a": "here"}}
    plane.request("POST", f"/api/v1/namespaces/{namespace}/configmaps", late)
    await pods.ended("p")
    assert await pods.log("p") == "here\n"


# -- what a pod ends with ----------------------------------------------------------------------------------------------


async def test_a_termination_message_is_cut_off_at_4096_bytes(node: Kubelet, pods: Pods) -> None:
    await pods.create("p", "sh", "-c", "head -c 5000 /dev/zero | tr '\\0' x > /dev/termination-log")
    assert len((await pods.ended("p"))["message"]) == 4_096


async def test_a_container_over_its_memory_limit_is_killed(node: Kubelet, pods: Pods) -> None:
    hog = "import time; held = b'x' * 200_000_000; time.sleep(600)"
    limits = {"resources": {"limits": {"memory": "100Mi"}}}
    await pods.create("p", "python", "-c", hog, container=limits)
    ended = await pods.ended("p")
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


async def test_what_ignores_the_request_to_end_is_killed_after_the_grace(
    namespace: str, node: Kubelet, pods: Pods
) -> None:
    await pods.create("p", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")
    await pods.running("p")
    await eventually(lambda: pods.log("p"))
    begun_s = time.monotonic()
    await pods.ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/p", {"gracePeriodSeconds": 1})
    await eventually(lambda: "p" not in node.pods)
    assert time.monotonic() - begun_s >= 1


async def test_a_program_that_is_not_there_cannot_be_started(node: Kubelet, pods: Pods) -> None:
    await pods.create("p", "/no/such/program")
    ended = await pods.ended("p")
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")


async def test_a_pod_past_its_own_deadline_fails_with_that_reason(node: Kubelet, pods: Pods) -> None:
    await pods.create("p", "sleep", "600", activeDeadlineSeconds=1, terminationGracePeriodSeconds=1)
    await pods.ended("p")
    assert (await pods.get("p"))["status"]["reason"] == "DeadlineExceeded"


async def test_a_container_starts_again_if_its_pod_says_so(node: Kubelet, pods: Pods) -> None:
    once = 'if [ -e "$KEPT/x" ]; then exit 0; fi; touch "$KEPT/x"; exit 3'
    container = {
        "env": [{"name": "KEPT", "value": "/kept"}],
        "volumeMounts": [{"name": "kept", "mountPath": "/kept"}],
    }
    volumes = [{"name": "kept", "emptyDir": {}}]
    await pods.create("p", "sh", "-c", once, container=container, volumes=volumes, restartPolicy="OnFailure")
    assert (await pods.ended("p"))["exitCode"] == 0
    status = (await pods.get("p"))["status"]["containerStatuses"][0]
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 3


async def test_init_containers_run_first_and_one_that_fails_fails_the_pod(node: Kubelet, pods: Pods) -> None:
    first = {"name": "first", "image": "fake/exec:1", "command": ["sh", "-c", "echo 1 > /kept/x"]}
    first["volumeMounts"] = [{"name": "kept", "mountPath": "/kept"}]
    volumes = [{"name": "kept", "emptyDir": {}}]
    main = {"volumeMounts": [{"name": "kept", "mountPath": "/kept"}]}
    await pods.create("p", "cat", "/kept/x", container=main, volumes=volumes, initContainers=[first])
    await pods.ended("p")
    assert await pods.log("p") == "1\n"
    broken = first | {"command": ["false"]}
    await pods.create("q", "cat", "/kept/x", container=main, volumes=volumes, initContainers=[broken])
    pod = await pods.until("q", lambda pod: pod["status"].get("phase") == "Failed")
    assert pod["status"]["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}


# -- logs --------------------------------------------------------------------------------------------------------------


async def test_logs_are_read_through_the_api_server_by_kubectl(
    plane: ControlPlane, namespace: str, node: Kubelet, pods: Pods
) -> None:
    await pods.create("p", "sh", "-c", "for i in 1 2 3; do echo line $i; done; echo oh >&2; printf end")
    await pods.ended("p")

    def logs(*options: str) -> str:
        return plane.kubectl("logs", "-n", namespace, "p", *options)

    assert await asyncio.to_thread(logs) == "line 1\nline 2\nline 3\noh\nend\n"
    assert await asyncio.to_thread(logs, "--tail=2") == "oh\nend\n"
    assert await asyncio.to_thread(logs, "--limit-bytes=6") == "line 1"
    assert (await asyncio.to_thread(logs, "--timestamps", "--tail=1")).endswith("Z end\n")
    assert await asyncio.to_thread(logs, "--since=1h", "--tail=1") == "end\n"


async def test_a_log_is_followed_until_its_container_ends(
    plane: ControlPlane, namespace: str, node: Kubelet, pods: Pods
) -> None:
    await pods.create("p", "sh", "-c", "echo begin; sleep 1; echo end")
    await pods.running("p")
    assert await asyncio.to_thread(plane.kubectl, "logs", "-f", "-n", namespace, "p") == "begin\nend\n"


# -- how a node dies ---------------------------------------------------------------------------------------------------


async def test_a_node_that_was_switched_off_comes_back_with_pods_that_ended_unseen(node: Kubelet, pods: Pods) -> None:
    tolerant = [{"operator": "Exists"}]
    await pods.create("p", "sh", "-c", "echo $$; exec sleep 600", tolerations=tolerant)
    await pods.running("p")
    pid = (await eventually(lambda: pods.log("p"))).strip()
    assert _is_alive(pid)
    await node.die()
    await eventually(lambda: not _is_alive(pid))
    await pods.until("p", lambda pod: not _is_ready(pod))
    assert (await pods.get("p"))["status"]["phase"] == "Running", "nobody knows better"
    await node.boot()
    ended = await pods.ended("p")
    assert (ended["exitCode"], ended["reason"]) == (255, "Unknown")


async def test_a_node_that_is_cut_off_runs_on_and_learns_later_that_its_pod_is_not_wanted(
    plane: ControlPlane, namespace: str, node: Kubelet, pods: Pods
) -> None:
    await pods.create("p", "sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait")
    await pods.running("p")
    # Where all nodes are silent the controllers take themselves for the ones that are cut off, and do nothing.
    async with Kubelet(plane, "node-2"):
        await given_up_and_found_again(plane, namespace, node, pods)


async def given_up_and_found_again(plane: ControlPlane, namespace: str, node: Kubelet, pods: Pods) -> None:
    await node.disconnect()
    # The controllers give the node up, and the pod with it; only the node could say that it is gone.
    pod = await pods.until("p", lambda pod: "deletionTimestamp" in pod["metadata"])
    assert pod["status"]["phase"] == "Running"
    assert node.pods == ["p"]
    await node.reconnect()
    await eventually(lambda: "pod/p" not in plane.kubectl("get", "pods", "-n", namespace, "-o", "name"))


async def test_a_node_that_is_cut_off_for_a_moment_loses_nothing(node: Kubelet, pods: Pods) -> None:
    await pods.create("p", "sh", "-c", "sleep 1; echo done")
    await pods.running("p")
    await node.disconnect()
    await asyncio.sleep(1.5)
    await node.reconnect()
    assert (await pods.ended("p"))["exitCode"] == 0
    assert await pods.log("p") == "done\n"


async def test_a_pod_goes_on_while_the_api_server_is_away(plane: ControlPlane, node: Kubelet, pods: Pods) -> None:
    await pods.create("p", "sh", "-c", "sleep 1; echo done")
    await pods.running("p")
    await asyncio.to_thread(plane.restart_api_server)
    assert (await pods.ended("p"))["exitCode"] == 0


async def test_gpus_are_given_to_so_many_pods_as_there_are(plane: ControlPlane, pods: Pods) -> None:
    wanted = {
        "container": {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    }
    async with AsyncExitStack() as stack:
        gpu = await stack.enter_async_context(Kubelet(plane, "gpu-1", gpus=2))
        for name in ("a", "b", "c"):
            await pods.create(name, "sleep", "600", **wanted)
        placed = [await pods.until(name, lambda pod: pod["status"].get("conditions")) for name in ("a", "b", "c")]
        (waiting,) = [pod for pod in placed if pod["status"]["conditions"][0].get("reason") == "Unschedulable"]
        assert "Insufficient nvidia.com/gpu" in waiting["status"]["conditions"][0]["message"]
        running = sorted({"a", "b", "c"} - {waiting["metadata"]["name"]})  # the scheduler takes them in any order
        for name in running:
            await pods.running(name)
        assert sorted(gpu.pods) == running


def _is_ready(pod: Pod) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"])


def _is_alive(pid: str) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
