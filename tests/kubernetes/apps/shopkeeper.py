"""A worker of the shop in a process of its own, to be killed: `python shopkeeper.py STORE SERVER`.

What it says of its attempt in another way than with the token is lost, as if it were killed before the next commit.
"""

import asyncio
import sys
from typing import Any

from durableflow import ActivityContext, Context, Engine, RetryPolicy, workflow
from durableflow.kubernetes.activity import gpu_job
from durableflow.kubernetes.jobs import KubernetesJobs

train = gpu_job("train", image="trainer:1", result=object, retry=RetryPolicy(max_attempts=3, initial=0.01))


@workflow(name="training")
async def training(ctx: Context, size: int) -> Any:
    return await ctx.call_activity(train, {"size": size})


async def main(store: str, server: str) -> None:
    from kubernetes_asyncio.client import Configuration

    async def configure() -> Any:
        return Configuration(host=server)

    engine = Engine(store, workflows=[training], activities=[train])
    door = {"callback": "http://here/jobs", "callback_identity": "job"}
    async with engine, KubernetesJobs(engine, deployment="shop", namespace="gpus", configure=configure, **door):  # type: ignore[arg-type]  # as keywords
        await engine.start(training.options(instance_id="t"), 1)
        await asyncio.Event().wait()


if __name__ == "__main__":
    ActivityContext.heartbeat = lambda self, details=None: None  # type: ignore[method-assign]  # see above
    asyncio.run(main(*sys.argv[1:]))
