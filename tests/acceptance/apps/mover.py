"""A mover's process that is killed at a write: `mover.py SOURCE TARGET WRITE [--abort]`.

WRITE counts the moments before and after each commit in either store; at that one it kills itself, with SIGKILL. With 0
it is not killed. The pages are small, so that there are many commits.
"""

import argparse
import asyncio
import os
import signal
from contextlib import AsyncExitStack
from typing import Any

from durableflow.backends.stores import open_backend
from durableflow.runtime.clock import SystemClock
from durableflow.runtime.moves import Move

PAGE_BYTES = 2_000


async def move(arguments: argparse.Namespace) -> None:
    left = arguments.write

    def hook(moment: str) -> None:
        nonlocal left
        if moment != "begin":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    stores: list[Any] = [open_backend(arguments.source), open_backend(arguments.target)]
    async with AsyncExitStack() as stack:
        for store in stores:
            await store.open()
            stack.push_async_callback(store.close)
            getattr(store, "_database", store).hook = hook
        mover = Move(stores[0], stores[1], SystemClock(), page_bytes=PAGE_BYTES)
        if arguments.abort:
            await mover.abort()
        else:
            await mover.run()
    print("done", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("write", type=int)
    parser.add_argument("--abort", action="store_true")
    asyncio.run(move(parser.parse_args()))
