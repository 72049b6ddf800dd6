"""A worker: `python worker.py`. It may be killed at any time; start as many as you like, on Postgres.

`DURABLEFLOW_STORE` says where the store is, `GPU_NAMESPACE` where Jobs run. A file that is young says that it is well.
"""

import asyncio
import os
import signal
from pathlib import Path

import flows  # what it defines is what this worker runs

from durableflow import Engine
from durableflow.kubernetes import KubernetesJobs, configured

ALIVE = Path(os.environ.get("ALIVE_FILE", "/tmp/alive"))  # noqa: S108  # the container's own
SILENT_S = 150.0


async def main() -> None:
    engine = Engine()
    jobs = KubernetesJobs(
        engine,
        deployment="tuning",
        namespace=os.environ.get("GPU_NAMESPACE", "default"),
        configure=configured(file=os.environ.get("KUBECONFIG")),
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with engine, jobs:
        print(f"{engine.name} runs {flows.tune.name}", flush=True)
        while not stop.is_set():
            counted = jobs.statistics()
            if max(counted.jobs_silent_s, counted.pods_silent_s) < SILENT_S:
                ALIVE.touch()  # noqa: ASYNC240  # on a file system in memory
            try:
                async with asyncio.timeout(5):
                    await stop.wait()
            except TimeoutError:
                pass


if __name__ == "__main__":
    asyncio.run(main())
