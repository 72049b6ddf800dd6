"""Children: workflows called by a workflow, each an instance with a history of its own.

    python examples/children.py

An order of three parcels; each is a child, which tells its parent how far it is. One is tried again as another child,
one fails, and the parent decides what that means. It keeps `children.db` in the current folder; delete that to begin
anew.
"""

import asyncio

from durableflow import ActivityFailed, ChildFailed, Context, Engine, NonRetryableError, RetryPolicy, activity, workflow


@activity
async def pack(item: str) -> str:
    await asyncio.sleep(0.1)
    if item == "soup":
        raise NonRetryableError("it would leak")
    print(f"  packed {item}")
    return f"a box with a {item}"


@activity
async def drive(box: str, attempt: int) -> None:
    await asyncio.sleep(0.1)
    print(f"  drove {box}, attempt {attempt}")


@workflow
async def parcel(ctx: Context, item: str) -> str:
    box = await ctx.call_activity(pack, item)
    assert ctx.parent_instance_id is not None
    await ctx.raise_event(ctx.parent_instance_id, "packed", item)  # leaves exactly once, with the commit of this turn
    # When a child fails, the next one has another id: order-1/vase, then order-1/vase#2.
    attempt = 2 if ctx.instance_id.endswith("#2") else 1
    await ctx.call_activity(drive, box, attempt)
    if item == "vase" and attempt == 1:
        raise RuntimeError("it broke on the way")
    return f"{box} arrived"


@workflow
async def order(ctx: Context, items: list[str]) -> list[str]:
    parcels = [
        ctx.call_workflow(
            parcel.options(
                instance_id=f"{ctx.instance_id}/{item}",
                retry=RetryPolicy(max_attempts=2, initial=0.1, no_retry_on=(ActivityFailed,)),
            ),
            item,
        )
        for item in items
    ]
    said: list[str] = []
    for child in parcels:  # they go side by side: a call starts the child at once, the wait comes later
        try:
            said.append(await child)
        except ChildFailed as error:
            said.append(f"{error.child_id} is {error.status}: {error.message.rpartition(': ')[2]}")
    first = await ctx.wait_for_event("packed", str)
    return [*said, f"packed first: {'one of them' if first in items else first}"]


async def main() -> None:
    async with Engine("sqlite:///children.db") as engine:
        handle = await engine.start(order.options(instance_id="order-1"), ["lamp", "vase", "soup"])
        for line in await handle.result():
            print(line)
        children = await engine.list(parent="order-1")
        print("children:", ", ".join(sorted(each.instance_id for each in children.instances)))


if __name__ == "__main__":
    asyncio.run(main())
