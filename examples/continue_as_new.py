"""Continue as new: an instance that goes on for ever, with a history that does not grow in what must be replayed.

    python examples/continue_as_new.py

A meter is read again and again; each round of the instance takes two readings and hands the sum on to the next. Who
corrects it by an event need not know of rounds. It keeps `continue_as_new.db` in the current folder; delete that to
begin anew.
"""

import asyncio
from contextlib import suppress

from durableflow import Context, Engine, InstanceNotActive, activity, workflow


@activity
async def read_meter(number: int) -> int:
    await asyncio.sleep(0.02)
    return 10 * number


@workflow
async def meter(ctx: Context, readings: int = 0, total: int = 0) -> str:
    for _ in range(2):
        readings += 1
        total += await ctx.call_activity(read_meter, readings)
    ctx.set_custom_status(f"{readings} readings")
    if readings < 24:
        # It never returns: the code begins again with these arguments. What nobody has waited for goes on with it.
        return ctx.continue_as_new(readings, total)
    correction = await ctx.wait_for_event("correction", int)
    return f"{readings} readings, {total:,} in all, corrected to {total + correction:,}"


async def main() -> None:
    async with Engine("sqlite:///continue_as_new.db") as engine:
        handle = await engine.start(meter.options(instance_id="meter-1"))
        with suppress(InstanceNotActive):  # sent in an early round, taken in the last
            await handle.raise_event("correction", -500, event_id="letter-7")
        print(await handle.result())
        view = await handle.view()
        print(f"it began anew {view.rounds} times; what is replayed has {len(view.tasks)} tasks")


if __name__ == "__main__":
    asyncio.run(main())
