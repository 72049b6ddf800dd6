"""A circuit breaker: while a service is down, nobody asks it, and nobody loses attempts over that.

    python examples/circuit.py

Ten orders need the bank, which is down at first. It keeps `circuit.db` and `bank.txt` in the current folder; begin anew
by removing both.
"""

import asyncio
from pathlib import Path

from durableflow import CircuitBreaker, Context, Engine, RetryPolicy, activity, workflow

BANK = Path("bank.txt")


@activity(
    retry=RetryPolicy(max_attempts=20, initial=0.05, backoff=1), circuit=CircuitBreaker(3, reset=0.5, name="bank")
)
async def pay(order: int) -> str:
    if not await asyncio.to_thread(BANK.exists):
        print(f"  the bank does not answer for order {order}")
        raise ConnectionError("the bank does not answer")
    return f"order {order} is paid"


@workflow
async def sell(ctx: Context, order: int) -> str:
    return await ctx.call_activity(pay, order)


async def main() -> None:
    async with Engine("sqlite:///circuit.db") as engine:
        handles = [await engine.start(sell.options(instance_id=f"order-{each}"), each) for each in range(10)]
        await asyncio.sleep(1.0)
        for circuit in await engine.circuits():
            print(f"  circuit {circuit.name} is {circuit.state} after {circuit.failures} failures")
        await asyncio.to_thread(BANK.write_text, "up")  # a probe finds out, and the circuit closes
        print(f"{len([await handle.result() for handle in handles])} orders are paid")


if __name__ == "__main__":
    asyncio.run(main())
