"""Start a tuning and wait for its result: `python submit.py my-id 0.1 0.5 0.9`.

Run it again with the same id: it goes on waiting.
"""

import asyncio
import os
import sys

import flows

from durableflow import Client


async def main(instance_id: str, rates: list[float]) -> None:
    async with Client(os.environ.get("DURABLEFLOW_STORE", "sqlite:///durableflow.db")) as client:
        handle = await client.start(flows.tune.options(instance_id=instance_id), rates)
        print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [float(rate) for rate in sys.argv[2:]]))
