"""What brings GPU nodes up for pods that fit nowhere, and takes them away when nobody uses them."""

import asyncio
import ssl
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from planekit.api import Api, Document
from planekit.events import Recorder
from planekit.node import GPU_TAINT, Kubelet
from planekit.plane import ControlPlane
from planekit.status import GPU

LOOK_S: Final = 0.1


@dataclass(frozen=True)
class Pool:
    """Nodes of one kind."""

    name: str
    gpus: int
    labels: Mapping[str, str] = field(default_factory=dict)
    nodes_max: int = 3

    def takes(self, pod: Document) -> bool:
        """Whether an empty node of this pool would have room for the pod."""
        spec = pod["spec"]
        wanted: Mapping[str, str] = spec.get("nodeSelector") or {}
        tolerated = any(_tolerates(toleration) for toleration in spec.get("tolerations") or ())
        fits = gpus_of(pod) <= self.gpus and wanted.items() <= dict(self.labels).items()
        return fits and (tolerated or not self.gpus)


class Autoscaler:
    """Use it as `async with Autoscaler(plane, [Pool("h200", gpus=2)]) as autoscaler:`.

    Args:
        boot_s: how long a machine takes to come up.
        idle_s: a node without pods is taken away after so long.

    Attributes:
        nodes: the ones that are there now, by name.
        history: ("up" | "down", name of the node), as it happened.
    """

    def __init__(
        self,
        plane: ControlPlane,
        pools: list[Pool],
        *,
        boot_s: float = 0.0,
        idle_s: float = 1.0,
        **node_options: Any,
    ) -> None:
        self._plane = plane
        self._pools = pools
        self._boot_s = boot_s
        self._idle_s = idle_s
        self._node_options = node_options
        self._numbers = dict.fromkeys((pool.name for pool in pools), 0)
        self._api = Api(
            plane.url,
            ssl.create_default_context(cafile=str(plane.authority.certificate)),
            token=plane.admin_token,
        )
        self._recorder = Recorder(self._api.request, "cluster-autoscaler")
        self._pods: dict[str, Document] = {}
        self._meant: dict[str, str] = {}
        """Pod → the node that is brought up for it."""
        self._idle_since: dict[str, float] = {}
        self._booting: dict[str, Pool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self.nodes: dict[str, Kubelet] = {}
        self.history: list[tuple[str, str]] = []

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        for duty in (self._follow(), self._look(), self._recorder.run()):
            self._begin(duty)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for node in self.nodes.values():
            await node.__aexit__()
        await self._api.__aexit__()
        if self._failures:
            raise BaseExceptionGroup("the autoscaler had trouble of its own", self._failures)

    async def _follow(self) -> None:
        async for change, found in self._api.follow("/api/v1/pods"):
            if change == "LISTED":
                self._pods = {pod["metadata"]["uid"]: pod for pod in found}
            elif change == "DELETED":
                self._pods.pop(found["metadata"]["uid"], None)
            else:
                self._pods[found["metadata"]["uid"]] = found

    async def _look(self) -> None:
        while True:
            for uid, pod in self._pods.items():
                if _is_unschedulable(pod) and uid not in self._meant:
                    self._bring_up_for(pod)
            self._take_down()
            await asyncio.sleep(LOOK_S)

    def _bring_up_for(self, pod: Document) -> None:
        """Count it to a node that is coming up, or begin another."""
        for name, pool in self._booting.items():
            if pool.takes(pod) and self._free_on(name, pool) >= gpus_of(pod):
                self._meant[pod["metadata"]["uid"]] = name
                return
        for pool in self._pools:
            there = [name for name in (*self.nodes, *self._booting) if self._pool_of(name) is pool]
            if not pool.takes(pod) or len(there) >= pool.nodes_max:
                continue
            self._numbers[pool.name] += 1
            name = f"{pool.name}-{self._numbers[pool.name]}"
            self._meant[pod["metadata"]["uid"]] = name
            self._booting[name] = pool
            told = f"pod triggered scale-up: [{{{pool.name} {len(there)}->{len(there) + 1} (max: {pool.nodes_max})}}]"
            self._recorder.tell(pod, "Normal", "TriggeredScaleUp", told)
            self._begin(self._bring_up(name, pool))
            return

    def _pool_of(self, name: str) -> Pool:
        return next(pool for pool in self._pools if name.rpartition("-")[0] == pool.name)

    def _free_on(self, name: str, pool: Pool) -> int:
        taken = [self._pods[uid] for uid, meant in self._meant.items() if meant == name and uid in self._pods]
        return pool.gpus - sum(gpus_of(pod) for pod in taken)

    async def _bring_up(self, name: str, pool: Pool) -> None:
        await asyncio.sleep(self._boot_s)
        node = Kubelet(self._plane, name, gpus=pool.gpus, labels=pool.labels, **self._node_options)
        await node.__aenter__()
        self.nodes[name] = node
        self._idle_since[name] = time.monotonic()
        self.history.append(("up", name))
        del self._booting[name]

    def _take_down(self) -> None:
        now = time.monotonic()
        waiting = [pod for pod in self._pods.values() if _is_unschedulable(pod)]
        for name, node in list(self.nodes.items()):
            if node.pods or any(self._pool_of(name).takes(pod) for pod in waiting):
                self._idle_since[name] = now
            elif now - self._idle_since[name] > self._idle_s:
                del self.nodes[name]
                self.history.append(("down", name))
                self._meant = {uid: meant for uid, meant in self._meant.items() if meant != name}
                self._begin(node.__aexit__())

    def _begin(self, duty: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(duty)
        self._tasks.add(task)
        task.add_done_callback(self._note)

    def _note(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)


def gpus_of(pod: Document) -> int:
    """So many GPUs it asks for."""
    containers = pod["spec"]["containers"]
    return sum(int(c.get("resources", {}).get("limits", {}).get(GPU, "0")) for c in containers)


def _tolerates(toleration: Document) -> bool:
    if toleration.get("effect") not in (None, GPU_TAINT["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, GPU_TAINT["key"])
    return (toleration.get("key"), toleration.get("value")) == (GPU_TAINT["key"], GPU_TAINT["value"])


def _is_waiting(pod: Document | None) -> bool:
    return pod is not None and not pod["spec"].get("nodeName") and not pod["metadata"].get("deletionTimestamp")


def _is_unschedulable(pod: Document) -> bool:
    said = pod["status"].get("conditions") or []
    return _is_waiting(pod) and any(c["type"] == "PodScheduled" and c.get("reason") == "Unschedulable" for c in said)
