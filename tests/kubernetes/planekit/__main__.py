"""`python -m planekit`, in this folder's parent: a plane with nodes to try things on, until it is interrupted."""

import argparse
import asyncio
import signal
from contextlib import AsyncExitStack

from planekit.node import Kubelet
from planekit.plane import ControlPlane


async def hold(gpus: list[int]) -> None:
    """Say where it is, and wait."""
    interrupted = asyncio.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, interrupted.set)
    async with AsyncExitStack() as stack:
        plane = stack.enter_context(ControlPlane())
        await stack.enter_async_context(Kubelet(plane, "cpu-1"))
        for number, count in enumerate(gpus, 1):
            await stack.enter_async_context(Kubelet(plane, f"gpu-{number}", gpus=count))
        print(f"export KUBECONFIG={plane.admin}", flush=True)
        await interrupted.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="planekit", description=__doc__)
    parser.add_argument(
        "--gpus", type=int, nargs="*", default=[1], help="so many on each GPU node (default: one node, 1)"
    )
    asyncio.run(hold(parser.parse_args().gpus))
