"""A process of a fleet on several databases: `sharded.py LEDGER LEASE NAME=URL...`.

Parents have children anywhere, which work a little and tell each other how far they are. Told to end (SIGTERM), it
closes.
"""

import asyncio
import signal
import sys

import ledger

from durableflow import Context, Settings, activity, workflow
from durableflow.observe import facts
from durableflow.sharding import Shards


@activity(retry=50)  # so many may be lost with their processes
async def work(n: int) -> int:
    with ledger.noted(n):
        await asyncio.sleep(0.01)
    return 2 * n


@workflow
async def member(ctx: Context, n: int) -> int:
    first = await ctx.call_activity(work, n)
    assert ctx.parent_instance_id is not None
    await ctx.raise_event(ctx.parent_instance_id, "half", n)
    return first + await ctx.call_activity(work, n)


@workflow
async def family(ctx: Context, count: int) -> list[int]:
    children = [ctx.call_workflow(member, n) for n in range(count)]
    said = [await ctx.wait_for_event("half", int) for _ in range(count)]
    assert sorted(said) == list(range(count))
    return list(await ctx.when_all(children))


def listen(fact: facts.Fact) -> None:
    if isinstance(fact, (facts.WorkerLeads, facts.WorkerLost)):
        print("leads" if isinstance(fact, facts.WorkerLeads) else "lost", flush=True)
    elif isinstance(fact, facts.InstanceStalled):
        print(f"stalled {fact.instance_id}: {fact.reason}", flush=True)


async def run(lease_s: float, stores: dict[str, str]) -> None:
    told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
    async with Shards(stores, settings=Settings(lease_s=lease_s, grace_s=1.0), listeners=[listen]):
        print("open", flush=True)
        await told_to_end.wait()
    print("closed", flush=True)


if __name__ == "__main__":
    ledger.open_ledger(sys.argv[1])
    asyncio.run(run(float(sys.argv[2]), dict(pair.split("=", 1) for pair in sys.argv[3:])))
