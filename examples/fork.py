"""Fork and restart: what would have come of it if ...?

    python examples/fork.py

An offer was refused. A copy of the instance goes on from before the answer and gets another one; a restart begins anew
with the same input. Neither changes the original. It keeps `fork.db` in the current folder; delete that to begin anew.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

from durableflow import Context, Engine, Handle, InstanceExists, InstanceNotActive, activity, workflow


@activity
async def estimate(item: str) -> int:
    await asyncio.sleep(0.2)
    print(f"  estimated a {item}")  # not again for the fork, which knows the result; again for the restart
    return 12 * len(item)


@workflow
async def offer(ctx: Context, item: str) -> str:
    price = await ctx.call_activity(estimate, item)

    @ctx.on_request("price")
    def tell() -> int:
        return price

    answer = await ctx.wait_for_event("answer", str, timeout=timedelta(days=30))
    return f"{item} for {price}: {answer}"


async def answer(handle: Handle[str], text: str) -> str:
    await handle.request("price", request_id="the reader's")  # nobody answers an offer without a price
    with suppress(InstanceNotActive):
        await handle.raise_event("answer", text, event_id="answer")
    return await handle.result()


async def main() -> None:
    async with Engine("sqlite:///fork.db") as engine:
        handle = await engine.start(offer.options(instance_id="offer-1"), "lamp")
        print(f"offer-1: {await answer(handle, 'too much')}")

        came = next(entry for entry in await handle.history() if entry.kind == "event_received")
        with suppress(InstanceExists):
            await handle.fork(at=came.seq - 1, new_id="offer-2")
        print(f"offer-2: {await answer(engine.handle('offer-2', offer), 'it is a deal')}")

        with suppress(InstanceExists):
            await handle.restart(new_id="offer-3")
        print(f"offer-3: {await answer(engine.handle('offer-3', offer), 'not today')}")


if __name__ == "__main__":
    asyncio.run(main())
