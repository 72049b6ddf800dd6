"""A client that starts instances and raises events as fast as it can: `hammer.py STORE NAME COUNT EVENTS`."""

import asyncio
import sys

import shop

from durableflow import Client


async def main(store: str, name: str, count: int, events: int) -> None:
    async with Client(f"sqlite:///{store}") as client:

        async def one(number: int) -> None:
            handle = await client.start(shop.listening.options(instance_id=f"{name}-{number}"), events)
            for value in range(events):
                await handle.raise_event("number", value)

        await asyncio.gather(*[one(number) for number in range(count)])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
