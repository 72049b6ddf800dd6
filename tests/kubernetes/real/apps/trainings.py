"""A workflow whose activity is a GPU job, and a worker: `python trainings.py STORE KUBECONFIG NAMESPACE [LEASE_S]`."""

import asyncio
import sys
from typing import Any

from durableflow import ActivityFailed, Context, Engine, RetryPolicy, Settings, workflow
from durableflow.kubernetes.activity import gpu_job
from durableflow.kubernetes.connection import configured
from durableflow.kubernetes.informer import Times
from durableflow.kubernetes.jobs import KubernetesJobs
from durableflow.kubernetes.spec import Gpu, Toleration

PROGRAM = """
import time
from durableflow.kubernetes import runtime
given = runtime.load_input()
until = time.monotonic() + given["seconds"]
while time.monotonic() < until and not runtime.should_stop:
    time.sleep(0.02)
if runtime.should_stop:
    raise SystemExit(143)
if given["fails"]:
    raise SystemExit(9)
runtime.complete(given["number"])
"""

train = gpu_job(
    "train",
    image="trainer:1",
    command=["python", "-c", PROGRAM],
    result=int,
    gpu=Gpu(),
    tolerations=[Toleration(key="nvidia.com/gpu", value="present", effect="NoSchedule")],
    grace_period=2,
    node_lost_timeout=4,
    infrastructure_retries=50,
    exit_codes={9: "fatal"},
    retry=RetryPolicy(max_attempts=5, initial=0.1),
)


@workflow
async def training(ctx: Context, given: dict[str, Any]) -> str:
    try:
        return f"trained {await ctx.call_activity(train, given)}"
    except ActivityFailed as error:
        return error.type_name


async def main(store: str, kubeconfig: str, namespace: str, lease_s: str = "10") -> None:
    engine = Engine(store, settings=Settings(lease_s=float(lease_s)))
    times = Times(watch_s=20, silence_s=10, relist_s=15)
    jobs = KubernetesJobs(
        engine,
        deployment="storm",
        namespace=namespace,
        configure=configured(file=kubeconfig),
        times=times,
        sweep_s=3,
    )
    async with engine, jobs:
        await asyncio.to_thread(sys.stdin.read)  # until whoever began it is gone


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
