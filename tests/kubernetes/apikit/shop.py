"""An activity that is a GPU job, a store for it, and an API server that a test leads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apikit.server import ApiServer, until
from durableflow import ActivityFailed, Context, Engine, RetryPolicy, Settings, workflow
from durableflow.authoring.registry import DEFAULT
from durableflow.kubernetes import jobs as module
from durableflow.kubernetes import submit as submit_module
from durableflow.kubernetes.activity import GpuJob, gpu_job
from durableflow.kubernetes.envelope import RESULT, Envelope, seal
from durableflow.kubernetes.informer import Times
from durableflow.kubernetes.jobs import KubernetesJobs


@dataclass
class Trained:
    loss: float


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait shorter for everything that is waited for."""
    monkeypatch.setattr(submit_module, "_BACKOFF_S", 0.01)
    monkeypatch.setattr(submit_module, "_GONE_POLL_S", 0.01)
    monkeypatch.setattr(module, "_RETRY_S", 0.02)
    monkeypatch.setattr(module, "_DELETE_AGAIN_S", 0.3)
    monkeypatch.setattr("durableflow.kubernetes.outcome.SETTLE_US", 200_000)


class Shop:
    """An activity and a workflow that calls it; a store in a file; and an API server."""

    def __init__(self, api: ApiServer, configure: Any, folder: Path) -> None:
        self.api = api
        self.configure = configure
        self.url = f"sqlite:///{folder / 'store.db'}"
        self.jobs: KubernetesJobs
        self.define()

    def define(self, **options: Any) -> None:
        DEFAULT.activities.pop("train", None)
        options.setdefault("retry", RetryPolicy(max_attempts=3, initial=0.01))
        self.train: GpuJob[Trained] = gpu_job("train", image="trainer:1", result=Trained, **options)

        @workflow(name="training")
        async def training(ctx: Context, size: int) -> Any:
            try:
                return (await ctx.call_activity(self.train, {"size": size})).loss
            except ActivityFailed as error:
                return [error.type_name, error.attempts, error.message, error.traceback_text]

        self.training = training

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[Engine]:
        options.setdefault("sweep_s", 0.3)
        options.setdefault("times", Times(watch_s=20, silence_s=20, relist_s=30))
        engine = Engine(self.url, workflows=[self.training], activities=[self.train], settings=Settings(grace_s=0.2))
        self.jobs = KubernetesJobs(engine, deployment="shop", namespace="gpus", configure=self.configure, **options)
        async with engine, self.jobs:
            yield engine

    async def job(self, number: int = 1) -> str:
        """The name of the number-th Job that was ever made, when it is there."""
        await until(lambda: len(self.api.created) >= number)
        name = self.api.created[number - 1]
        await until(lambda: name in self.api.objects["jobs"])
        return name

    async def empty(self) -> None:
        """Return when nothing is left in the cluster."""
        await until(lambda: not any(self.api.objects[kind] for kind in ("jobs", "pods", "configmaps", "secrets")))

    async def succeed(self, name: str, loss: float = 0.5) -> None:
        pod = await self.api.start_pod(name)
        await self.api.end_pod(pod, message=seal(Envelope(name, RESULT, {"loss": loss})))
        with suppress(KeyError):  # whoever reads the message is quicker than the Job's controller
            await self.api.finish(name)
