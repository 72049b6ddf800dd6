"""Many instances at once: look first, then do it; and keep what is removed in a file.

    python examples/many.py

Thirty orders of two shops wait for stock. One shop closes: its orders are cancelled together, after a dry run. They
are exported, removed, and brought into another store; the other shop goes on. It keeps `many.db`, `archive.db` and
`orders.jsonl` in the current folder; begin anew by removing them.
"""

import asyncio
from contextlib import suppress
from pathlib import Path

from durableflow import Client, Context, Engine, InstanceNotActive, Status, workflow

FILE = Path("orders.jsonl")


@workflow
async def order(ctx: Context, number: int) -> str:
    await ctx.wait_for_event("stock")
    return f"order {number} is sent"


async def main() -> None:
    async with Client("sqlite:///archive.db") as archive:
        is_done = bool((await archive.list()).instances)
    if not is_done:
        await close_a_shop(is_new=not await asyncio.to_thread(FILE.exists))
    async with Client("sqlite:///archive.db") as archive:
        await archive.import_instances(FILE)  # what is there already is passed by
        kept = (await archive.list(limit=100)).instances
        print(f"{len(kept)} orders in the archive, {sum(each.status is Status.CANCELLED for each in kept)} cancelled")


async def close_a_shop(*, is_new: bool) -> None:
    async with Engine("sqlite:///many.db") as engine:
        if is_new:
            for number in range(30):
                shop = "north" if number < 20 else "south"
                await engine.start(order.options(instance_id=f"order-{number:02}", tags={"shop": shop}), number)
        looked = await engine.bulk("cancel", dry_run=True, tags={"shop": "south"})
        print(f"  {looked.matched} orders would be cancelled")
        await engine.bulk("cancel", tags={"shop": "south"}, reason="the shop is closed")
        for each in (await engine.list(tags={"shop": "south"})).instances:
            await engine.wait_for_status(each.instance_id)
        removed = await engine.purge_finished(older_than=0, status=Status.CANCELLED, export_to=FILE)
        print(f"  {removed} orders are in {FILE} and out of the store")
        for each in (await engine.list(tags={"shop": "north"})).instances:
            with suppress(InstanceNotActive):  # it is over: this is not the first time that the example is started
                await engine.raise_event(each.instance_id, "stock", event_id="stock")
            await engine.wait_for_status(each.instance_id)


if __name__ == "__main__":
    asyncio.run(main())
