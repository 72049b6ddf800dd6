"""Alerts: the engine says what needs a person, once, and when it is over.

    python examples/alerts.py

An order was started by a program that knows a workflow which this one does not know yet. It keeps `alerts.db` in the
current folder; begin anew by removing it.
"""

import asyncio

from durableflow import Alert, AlertPolicy, Client, Context, Engine, Status, activity, workflow

STORE = "sqlite:///alerts.db"


@activity
async def pack(item: str) -> str:
    return f"{item} in a box"


@workflow
async def sell(ctx: Context, item: str) -> str:
    return await ctx.call_activity(pack, item)


def page_somebody(alert: Alert) -> None:
    print(f"  {alert.state}: {alert.kind} of {alert.subject}: {alert.details[:60]}...")


async def main() -> None:
    async with Client(STORE) as client:
        order = await client.start(sell.options(instance_id="order-1"), "a lamp")
    policy = AlertPolicy(interval=0.1)
    async with Engine(STORE, workflows=[], alerts=policy, on_alert=[page_somebody]) as engine:
        status = await engine.wait_for_status(order.id, Status.STALLED, Status.COMPLETED)
        if status.status is Status.STALLED:
            while not await engine.alerts():  # noqa: ASYNC110  # the store sets no event
                await asyncio.sleep(0.05)
            engine.register(sell)  # the deployment that was forgotten
        print(await engine.result(order.id))
        while await engine.alerts():  # noqa: ASYNC110  # the store sets no event
            await asyncio.sleep(0.05)
        print("alerts now:", len(await engine.alerts()))


if __name__ == "__main__":
    asyncio.run(main())
