"""A worker of the shop in a process of its own, to be killed: `python shopkeeper.py STORE SERVER [DOOR]`.

It says `noted` when it is durable that its Job is there, and goes no further.
"""

import asyncio
import sys
from typing import Any

from durableflow import Context, Engine, RetryPolicy, workflow
from durableflow.kubernetes.activity import gpu_job
from durableflow.kubernetes.jobs import KubernetesJobs
from durableflow.kubernetes.ledger import Ledger
from durableflow.kubernetes.progress import Progress

train = gpu_job("train", image="trainer:1", result=object, retry=RetryPolicy(max_attempts=3, initial=0.01))


@workflow(name="training")
async def training(ctx: Context, size: int) -> Any:
    return await ctx.call_activity(train, {"size": size})


begin = Ledger.begin


async def begin_and_stay(self: Ledger, token: str, progress: Progress) -> bool:
    answer = await begin(self, token, progress)
    if progress.is_sent:
        print("noted", flush=True)
        await asyncio.Event().wait()
    return answer


async def main(store: str, server: str, callback: str | None = None) -> None:
    from kubernetes_asyncio.client import Configuration

    async def configure() -> Any:
        return Configuration(host=server)

    engine = Engine(store, workflows=[training], activities=[train])
    jobs = KubernetesJobs(
        engine, deployment="shop", namespace="gpus", configure=configure, callback=callback, callback_identity="job"
    )
    async with engine, jobs:
        await engine.start(training.options(instance_id="t"), 1)
        await asyncio.Event().wait()


if __name__ == "__main__":
    Ledger.begin = begin_and_stay  # type: ignore[method-assign]  # see above
    asyncio.run(main(*sys.argv[1:]))
