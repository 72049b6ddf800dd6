"""An engine whose GPU Jobs run on a real control plane, with the rights of the manifest and no more."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

# Test folders are no packages; these have helpers of their own.
sys.path.insert(0, str(Path(__file__).parent.parent))

from apikit.asgi import served
from planekit.fixtures import namespace, plane
from planekit.node import Kubelet
from planekit.patience import eventually
from planekit.plane import ControlPlane
from planekit.witness import Witness
from starlette.applications import Starlette
from starlette.routing import Mount

from durableflow import ActivityFailed, Context, Engine, RetryPolicy, Settings, workflow
from durableflow.authoring.registry import DEFAULT
from durableflow.core.view import HistoryEvent
from durableflow.http.callbacks import callback_routes
from durableflow.kubernetes.activity import GpuJob, gpu_job
from durableflow.kubernetes.connection import configured
from durableflow.kubernetes.informer import Times
from durableflow.kubernetes.jobs import KubernetesJobs
from durableflow.kubernetes.spec import Gpu, Toleration
from durableflow.model import events as ev

__all__ = ["namespace", "plane"]

MANIFESTS = Path(__file__).parents[3] / "examples" / "gpu_job" / "manifests"
GPU = "nvidia-h200"
PATIENCE_S = 90.0
# What the ClusterRole system:auth-delegator allows, to which the manifest binds.
REVIEWS = [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]
TAINT = Toleration(key="nvidia.com/gpu", value="present", effect="NoSchedule")


def rules(manifest: str = "rbac.yaml") -> list[dict[str, Any]]:
    """Those of the Role in a manifest."""
    documents = yaml.safe_load_all((MANIFESTS / manifest).read_text())
    (found,) = [each["rules"] for each in documents if each["kind"] == "Role"]
    return list(found)


class Cluster:
    """A namespace of a plane, an activity whose Jobs run there, and a store."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        self.plane = plane
        self.namespace = namespace
        self.url = f"sqlite:///{folder / 'store.db'}"
        self.may_review = True
        """Whether the worker may ask whose token one is."""
        self.server: str | None = None
        """Where the API server is asked, if not directly."""
        self.jobs: KubernetesJobs
        self.define("print('nothing was said')")

    def define(self, program: str, **options: Any) -> None:
        """What runs in a pod: Python, with `given` and `runtime`."""
        DEFAULT.activities.pop("train", None)
        options.setdefault("retry", RetryPolicy(max_attempts=3, initial=0.1))
        options.setdefault("gpu", Gpu(type=GPU))
        options.setdefault("tolerations", [TAINT])
        options.setdefault("grace_period", 2)
        options.setdefault("node_lost_timeout", 3)
        lines = f"from durableflow.kubernetes import runtime\ngiven = runtime.load_input()\n{program}"
        self.train: GpuJob[Any] = gpu_job(
            "train", image="trainer:1", command=["python", "-c", lines], result=object, **options
        )

        @workflow(name="training")
        async def training(ctx: Context, given: Any) -> Any:
            try:
                return await ctx.call_activity(self.train, given)
            except ActivityFailed as error:
                return [error.type_name, error.attempts, error.message, error.traceback_text]

        self.training = training

    def kubeconfig(self, rights: Sequence[Any] | None = None) -> Path:
        """Of an account with the rights of the manifest, or with these."""
        given = rules() if rights is None else list(rights)
        reviews = REVIEWS if self.may_review else []
        return self.plane.kubeconfig(
            "worker", rules=given, namespace=self.namespace, cluster_rules=reviews, url=self.server
        )

    def rights_with_secrets(self) -> list[dict[str, Any]]:
        """Those of both manifests."""
        return [*rules(), *rules("job-secrets.yaml")]

    @asynccontextmanager
    async def open(self, rights: Sequence[Any] | None = None, **options: Any) -> AsyncIterator[Engine]:
        options.setdefault("deployment", "tests")
        options.setdefault("sweep_s", 1.0)
        options.setdefault("times", Times(watch_s=20, silence_s=10, relist_s=15))
        engine = Engine(self.url, workflows=[self.training], activities=[self.train], settings=Settings(grace_s=0.2))
        file = await asyncio.to_thread(self.kubeconfig, rights)
        self.jobs = KubernetesJobs(
            engine,
            namespace=self.namespace,
            configure=configured(file=str(file)),
            **options,
        )
        async with engine, self.jobs:
            yield engine

    @asynccontextmanager
    async def with_callbacks(self, **options: Any) -> AsyncIterator[Engine]:
        """The same, with the door of `durableflow.http` open to pods."""

        async def door(scope: Any, receive: Any, send: Any) -> None:
            await Starlette(routes=[Mount("/jobs", routes=callback_routes(self.jobs.callbacks))])(scope, receive, send)

        async with served(door) as url, self.open(callback=f"{url}/jobs", **options) as engine:
            yield engine

    def rights_without(self, resource: str, verb: str) -> list[dict[str, Any]]:
        """Those of the manifest but one."""
        left = [
            each | {"verbs": [other for other in each["verbs"] if resource not in each["resources"] or other != verb]}
            for each in rules()
        ]
        assert left != rules(), "the manifest does not give this right"
        return [each for each in left if each["verbs"]]

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        return await asyncio.to_thread(self.plane.request, method, path, body)

    async def items(self, kind: str) -> list[Any]:
        group = "/apis/batch/v1" if kind == "jobs" else "/api/v1"
        return list((await self.ask("GET", f"{group}/namespaces/{self.namespace}/{kind}"))["items"])

    async def running(self, number: int = 1) -> Any:
        """The first of so many pods that run."""

        async def look() -> Any:
            pods = [each for each in await self.items("pods") if each["status"].get("phase") == "Running"]
            pods = [each for each in pods if "deletionTimestamp" not in each["metadata"]]
            return pods if len(pods) >= number else None

        return (await eventually(look, patience_s=PATIENCE_S))[0]

    async def empty(self) -> None:
        """Return when neither Jobs nor pods are left, as `kubectl get jobs` says."""

        async def look() -> bool:
            return not await self.items("jobs") and not await self.items("pods")

        await eventually(look, patience_s=PATIENCE_S)

    async def until(self, holds: Callable[[], object]) -> None:
        await eventually(holds, patience_s=PATIENCE_S)

    @staticmethod
    def answers_in(history: Sequence[HistoryEvent]) -> int:
        """How many attempts had an answer, which is how many Jobs there were: the lost and the interrupted had none."""
        failed = [each.event.failure.type_name for each in history if isinstance(each.event, ev.AttemptFailed)]
        ended = sum(isinstance(each.event, (ev.ActivityCompleted, ev.ActivityFailed)) for each in history)
        return ended + sum(name not in ("WorkerLost", "WorkerStopped") for name in failed)


@pytest.fixture(autouse=True)
def kubectl_finds_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """In the end `kubectl get` is as the guide says: nothing is there of attempts that have ended."""
    if "namespace" not in request.fixturenames:
        yield
        return
    plane, namespace = request.getfixturevalue("plane"), request.getfixturevalue("namespace")
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        return
    give_up_s = time.monotonic() + PATIENCE_S
    of_every_namespace = ["configmap/kube-root-ca.crt"]
    while (left := plane.kubectl("get", "jobs,pods,configmaps", "-n", namespace, "-o", "name").split()) != (
        of_every_namespace
    ):
        assert time.monotonic() < give_up_s, f"kubectl finds {left}"
        time.sleep(0.2)


@pytest.fixture
async def jobs_ever(plane: ControlPlane, namespace: str) -> AsyncIterator[Witness]:
    """All Jobs that ever were in the namespace of the test."""
    async with Witness(plane, f"/apis/batch/v1/namespaces/{namespace}/jobs") as witness:
        yield witness


@pytest.fixture
def cluster(plane: ControlPlane, namespace: str, tmp_path: Path) -> Cluster:
    return Cluster(plane, namespace, tmp_path)


@pytest.fixture
async def node(plane: ControlPlane) -> AsyncIterator[Kubelet]:
    labels = {"nvidia.com/gpu.product": GPU}
    async with Kubelet(plane, "gpu-1", gpus=4, labels=labels) as node:
        yield node
