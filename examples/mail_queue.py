"""A queue: taken by any process that serves it, bounded over all of them, with turns for each customer.

    python examples/mail_queue.py

It keeps `mail_queue.db` in the current folder; delete that to begin anew. Start it twice at once: both take tasks.
"""

import asyncio

from durableflow import ActivityFailed, Context, Engine, RetryPolicy, activity, workflow


@activity(queue="mail", retry=RetryPolicy(max_attempts=3, initial=0.05))
async def send(customer: str, number: int) -> int:
    await asyncio.sleep(0.01)
    if customer == "nobody":
        raise ValueError("no such address")
    return number


@workflow
async def campaign(ctx: Context, customers: list[str], letters: int) -> str:
    # A task whose address is wrong uses up its own attempts, and holds up no other.
    lost = ctx.call_activity(send.options(fairness_key="nobody"), "nobody", 0)
    sent = await ctx.when_all(
        [ctx.call_activity(send.options(fairness_key=each), each, n) for each in customers for n in range(letters)]
    )
    try:
        await lost
    except ActivityFailed as failed:
        return f"{len(sent)} letters sent, one not, after {failed.attempts} attempts"
    return "all sent"


async def main() -> None:
    # Another process may claim tasks beside this one: it needs only the same store and the activity.
    async with Engine("sqlite:///mail_queue.db", queues={"mail": 20}) as engine:
        await engine.set_queue("mail", concurrency=40)
        handle = await engine.start(campaign.options(instance_id="campaign-1"), ["Ada", "Ben", "Cleo"], letters=30)
        print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main())
