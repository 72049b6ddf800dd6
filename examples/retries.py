"""Retries: waits that grow and survive restarts, errors that are not worth a retry, progress kept by heartbeats.

    python examples/retries.py

It keeps `retries.db` in the current folder; delete that to begin anew.
"""

import asyncio

from durableflow import ActivityFailed, Context, Engine, RetryPolicy, activity, activity_context, workflow

ROWS = 40


@activity(retry=RetryPolicy(max_attempts=8, initial=0.1, backoff=2, max_delay=1, jitter=0.2))
async def exchange_rate(currency: str) -> float:
    attempt = activity_context().attempt
    if attempt < 3:
        print(f"  rate of {currency}: attempt {attempt} finds the service down")
        raise ConnectionError("the rates service is down")
    print(f"  rate of {currency}: attempt {attempt} is answered")
    return 1.09


@activity(retry=RetryPolicy(max_attempts=5, no_retry_on=[KeyError]))
async def price_of(item: str) -> float:
    print(f"  price of {item}: asked once")
    return {"lamp": 149.0}[item]


@activity(retry=RetryPolicy(max_attempts=8, initial=0.1), heartbeat_timeout=5)
async def import_rows(count: int) -> int:
    here = activity_context()
    done: int = here.heartbeat_details or 0  # how far the attempt before this one came
    print(f"  import: attempt {here.attempt} begins at row {done}")
    for row in range(done, count):
        await asyncio.sleep(0.02)
        here.heartbeat(row + 1)
        if row == count // 2 and here.attempt == 1:
            raise ConnectionError("the line went dead")
    return count


@workflow
async def quote(ctx: Context, item: str) -> str:
    rate = await ctx.call_activity(exchange_rate, "USD")
    try:
        price = await ctx.call_activity(price_of, item)
    except ActivityFailed as failed:  # raised after the last attempt; `attempts` says how many there were
        return f"no price for a {item}: {failed.type_name}"
    # Options may also be given at the call.
    rows = await ctx.call_activity(import_rows.options(timeout=60), ROWS)
    return f"a {item} is {price * rate:.2f} USD, says a list of {rows} rows"


async def main() -> None:
    async with Engine("sqlite:///retries.db") as engine:
        for item in ("lamp", "unicorn"):
            handle = await engine.start(quote.options(instance_id=f"quote-{item}"), item)
            print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main())
