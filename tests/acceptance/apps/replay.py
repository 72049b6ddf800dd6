"""A process that follows every history of a store with today's code: `replay.py STORE MODULE...`; says how many.

Each is also followed from each of its turns on, as after a crash there.
"""

import asyncio
import importlib
import sys

from durableflow import Client
from durableflow.testing import History, replay


async def main(store: str) -> int:
    count, cursor = 0, None
    async with Client(f"sqlite:///{store}") as client:
        while True:
            page = await client.list(limit=1_000, cursor=cursor)
            for each in page.instances:
                history = History.of(each.instance_id, await client.history(each.instance_id))
                report = replay(None, history, every_prefix=True)
                assert report.status is each.status, f"{each.instance_id} is {each.status}, replayed {report.status}"
                count += 1
            cursor = page.cursor
            if cursor is None:
                return count


if __name__ == "__main__":
    for module in sys.argv[2:]:
        importlib.import_module(module)
    print(asyncio.run(main(sys.argv[1])))
