"""A node: registers itself, sends heartbeats, runs the pods that are bound to it, and dies in several ways."""

import asyncio
import fnmatch
import os
import shutil
import ssl
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from planekit.api import MERGE, Api, ApiError, Document
from planekit.events import Recorder
from planekit.logs import Log, LogServer
from planekit.plane import ControlPlane
from planekit.pod import Doom, PodWorker
from planekit.status import GPU, micro_timestamp, node_document, node_status

GPU_TAINT: Final = {"key": GPU, "value": "present", "effect": "NoSchedule"}
SCHEDULABLE_S: Final = 30.0
TIMES_OF_STATUS: Final = 4
"""Every so many heartbeats the node says how it is, besides that it lives."""


class Kubelet:
    """A node of a plane; use it as `async with Kubelet(plane, "gpu-1", gpus=2) as node:`.

    It stands in for a kubelet and its machine: pods run as processes of this machine. When the block has been entered
    pods may be scheduled there; when it is left, its pods and the node itself are gone.

    A plane evicts the pods of a lost node only while it has another that lives: where all are silent it takes itself
    for the one that is cut off.

    Args:
        gpus: so many it offers, which also taints it, as GPU nodes are in the clouds.
        labels: as `{"nvidia.com/gpu.product": "nvidia-h200"}`.
        taints: beside that of the GPUs.
        missing_images: patterns of image names that cannot be pulled; all others are there. May be changed later.
        entrypoints: image → its command, for containers that have none.
        environment: what every image has in its environment; by default the Python of the tests is on PATH.
        pull_s: how long an image takes.
        heartbeat_s: between two signs of life.
    """

    def __init__(
        self,
        plane: ControlPlane,
        name: str,
        *,
        gpus: int = 0,
        labels: Mapping[str, str] | None = None,
        taints: Sequence[Document] = (),
        cpus: int = 8,
        memory: str = "32Gi",
        missing_images: Sequence[str] = ("*missing*",),
        entrypoints: Mapping[str, Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
        pull_s: float = 0.0,
        heartbeat_s: float = 0.5,
    ) -> None:
        self.name = name
        self.keeper = plane.keeper
        self.missing_images = list(missing_images)
        self.entrypoints = entrypoints or {}
        self.environment = _python_of_the_tests() | dict(environment or {})
        self.pull_s = pull_s
        self._plane = plane
        self._heartbeat_s = heartbeat_s
        self._labels = dict(labels or {})
        self._taints = [*taints, *([GPU_TAINT] if gpus else [])]
        self._capacity = {"cpu": str(cpus), "memory": memory, "pods": "110"} | ({GPU: str(gpus)} if gpus else {})
        self._folder = plane.folder / "nodes" / name
        self._certificate = plane.node_certificate(name)
        context = ssl.create_default_context(cafile=str(plane.authority.certificate))
        context.load_cert_chain(*self._certificate)
        trusting = ssl.create_default_context(cafile=str(plane.authority.certificate))
        self.api = Api(plane.url, context)
        self._admin = Api(plane.url, trusting, token=plane.admin_token)
        self._logs = LogServer(self._certificate, plane.authority.certificate, self._find_log)
        self._connected = asyncio.Event()
        self._pressures: list[str] = []
        self._workers: dict[str, PodWorker] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._duties: list[asyncio.Task[None]] = []
        self._reports: set[asyncio.Task[None]] = set()
        self._conditions: list[Document] = []
        self._failures: list[BaseException] = []

    async def __aenter__(self) -> Self:
        await self.api.__aenter__()
        await self._admin.__aenter__()
        try:
            await self.boot()
            await self._wait_schedulable()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()
        if self._failures:
            raise BaseExceptionGroup(f"node {self.name} had trouble of its own", self._failures)

    # -- life and death ------------------------------------------------------------------------------------------------

    async def boot(self) -> None:
        """Switch the machine on, again after `die`: what ran on it then has ended, nobody knows how."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._connected.set()
        await self._logs.start()
        await self._register()
        self._recorder = Recorder(self.ask, "kubelet", self.name)
        duties = (self._beat(), self._recorder.run())
        self._duties = [asyncio.ensure_future(duty) for duty in duties]
        self._follow()

    async def die(self) -> None:
        """Switch the machine off: its pods' processes are gone, and nobody is told."""
        self._connected.clear()
        await self._stop(self._duties)
        self._duties = []
        await self._stop([*self._running.values(), *self._reports])
        self._running.clear()
        self._workers.clear()
        await self._logs.stop()

    async def disconnect(self) -> None:
        """Cut its network: it is silent, hears nothing, and its pods run on."""
        self._connected.clear()
        await self._stop([self._duties.pop()])
        await self._logs.stop()

    async def reconnect(self) -> None:
        """Heal its network: it says how it is, and hears which of its pods are not wanted any more."""
        await self._logs.start()
        self._connected.set()
        await self._say_status()
        self._follow()

    async def evict(self, *pods: str, resource: str = "memory") -> None:
        """Be short of something: the node says so, and these pods (all, if none is named) are evicted.

        Args:
            pods: names.
            resource: "memory", "disk" or "pid".
        """
        self._pressures = [{"memory": "MemoryPressure", "disk": "DiskPressure", "pid": "PIDPressure"}[resource]]
        await self._say_status()
        told = f"The node was low on resource: {resource}. "
        for worker in self._chosen(pods):
            self.tell(worker.pod, "Warning", "Evicted", told)
            worker.end(Doom("Evicted", told, 0.0, ("TerminationByKubelet", told)))

    async def recover(self) -> None:
        """Be short of nothing any more."""
        self._pressures = []
        await self._say_status()

    def kill_out_of_memory(self, *pods: str) -> None:
        """As the kernel does with these pods (all, if none is named) when their memory is over its limit."""
        for worker in self._chosen(pods):
            worker.kill_out_of_memory()

    @property
    def pods(self) -> list[str]:
        """The names of the pods that it takes care of and that are not over."""
        return sorted(worker.pod["metadata"]["name"] for worker in self._workers.values() if not worker.is_over)

    # -- what its pods need --------------------------------------------------------------------------------------------

    @property
    def server(self) -> tuple[str, int]:
        """Where pods find the API server."""
        return "127.0.0.1", self._plane.port

    async def ask(self, method: str, path: str, body: object = None, **options: Any) -> Any:
        """Ask the API server until it answers, which it does not while the node is cut off."""
        while True:
            await self._connected.wait()
            try:
                return await self.api.request(method, path, body, **options)
            except ApiError as error:
                if error.status != 429 and error.status < 500:
                    raise
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.2)

    def is_missing(self, image: str) -> bool:
        return any(fnmatch.fnmatchcase(image, pattern) for pattern in self.missing_images)

    def tell(self, pod: Document, kind: str, reason: str, message: str) -> None:
        self._recorder.tell(pod, kind, reason, message)

    # -- duties --------------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        self._duties.append(asyncio.ensure_future(self._follow_pods()))

    async def _follow_pods(self) -> None:
        async for change, found in self.api.follow("/api/v1/pods", fieldSelector=f"spec.nodeName={self.name}"):
            if change == "LISTED":
                there = {pod["metadata"]["uid"] for pod in found}
                for uid in [uid for uid in self._running if uid not in there]:
                    self._forget(uid)
                for pod in found:
                    self._observe(pod)
                # While nobody was listening, others may have written what only a node knows.
                for worker in filter(lambda worker: worker.has_reported, self._workers.values()):
                    report = asyncio.ensure_future(worker.report())
                    self._reports.add(report)
                    report.add_done_callback(self._reports.discard)
            elif change == "DELETED":
                self._forget(found["metadata"]["uid"])
            else:
                self._observe(found)

    def _observe(self, pod: Document) -> None:
        uid = pod["metadata"]["uid"]
        if uid in self._workers:
            self._workers[uid].observe(pod)
            return
        is_over = pod["status"].get("phase") in ("Succeeded", "Failed")
        if is_over and not pod["metadata"].get("deletionTimestamp"):
            return
        worker = self._workers[uid] = PodWorker(self, pod, self._folder / uid)
        task = self._running[uid] = asyncio.ensure_future(worker.run())
        task.add_done_callback(self._note_failure)

    def _forget(self, uid: str) -> None:
        self._workers.pop(uid, None)
        if task := self._running.pop(uid, None):
            task.cancel()

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    async def _beat(self) -> None:
        path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self.name}"
        for number in range(1_000_000_000):
            renewed = {"spec": {"renewTime": micro_timestamp(datetime.now(UTC))}}
            try:
                await self.ask("PATCH", path, renewed, content_type=MERGE)
                if number % TIMES_OF_STATUS == 0:
                    await self._say_status()
            except ApiError:
                pass  # the node has been deleted, as an autoscaler or an administrator does
            await asyncio.sleep(self._heartbeat_s)

    async def _register(self) -> None:
        node = node_document(self.name, labels=self._labels, taints=self._taints, capacity=self._capacity)
        now = micro_timestamp(datetime.now(UTC))
        lease = {
            "metadata": {"name": self.name},
            "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": now},
        }
        for path, document in (
            ("/api/v1/nodes", node),
            ("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease),
        ):
            try:
                await self.ask("POST", path, document)
            except ApiError as error:
                if error.status != 409:  # it was there before
                    raise
        await self._say_status()

    async def _say_status(self) -> None:
        status = node_status(
            self._conditions,
            now=datetime.now(UTC),
            port=self._logs.port,
            capacity=self._capacity,
            pressures=self._pressures,
        )
        path = f"/api/v1/nodes/{self.name}/status"
        answer = await self.ask("PATCH", path, {"status": status}, content_type=MERGE)
        self._conditions = answer["status"]["conditions"]

    async def _wait_schedulable(self) -> None:
        """Until the controllers have seen that it is ready."""
        async with asyncio.timeout(SCHEDULABLE_S):
            while True:
                node = await self.ask("GET", f"/api/v1/nodes/{self.name}")
                taints = {taint["key"] for taint in node["spec"].get("taints", ())}
                if not any(key.startswith("node.kubernetes.io/") for key in taints):
                    return
                await asyncio.sleep(0.05)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _chosen(self, pods: Sequence[str]) -> list[PodWorker]:
        alive = [worker for worker in self._workers.values() if not worker.is_over]
        return [worker for worker in alive if not pods or worker.pod["metadata"]["name"] in pods]

    def _find_log(self, namespace: str, pod: str, container: str) -> Log | None:
        for worker in self._workers.values():
            metadata = worker.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, pod):
                return worker.log(container)
        return None

    async def _leave(self) -> None:
        """Its pods are gone, and the node."""
        await self.die()
        with suppress(aiohttp.ClientError, ApiError, TimeoutError):
            listed = await self._admin.request("GET", "/api/v1/pods", fieldSelector=f"spec.nodeName={self.name}")
            for pod in listed["items"]:
                path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
                with suppress(ApiError):
                    await self._admin.request("DELETE", path, {"gracePeriodSeconds": 0})
            for path in (
                f"/api/v1/nodes/{self.name}",
                f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self.name}",
            ):
                with suppress(ApiError):
                    await self._admin.request("DELETE", path)
        await self.api.__aexit__()
        await self._admin.__aexit__()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _stop(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        self._failures += [e for e in done if isinstance(e, Exception) and e not in self._failures]


def _python_of_the_tests() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    added = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return {"PATH": path} | added
