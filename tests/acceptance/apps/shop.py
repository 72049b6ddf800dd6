"""Small workflows, each of which makes one promise visible."""

import asyncio
import os
import signal

import ledger

from durableflow import ActivityFailed, Context, RetryPolicy, activity, activity_context, workflow

BACK_OFF_S = 2.0
NAP_S = 2.0


@activity(retry=RetryPolicy(max_attempts=3, initial=0.05))
async def work(label: str, seconds: float) -> str:
    with ledger.noted(label):
        await asyncio.sleep(seconds)
    return f"{label} is done"


@activity(retry=1)
async def try_once(label: str, seconds: float) -> str:
    with ledger.noted(label):
        await asyncio.sleep(0.01 if activity_context().attempt > 1 else seconds)
    return f"{label} is done"


@activity(retry=RetryPolicy(max_attempts=3, initial=0.05))
async def beat(label: str) -> str:
    here = activity_context()
    with ledger.noted(label):
        for count in range(3_000 if here.attempt == 1 else 3):
            here.heartbeat([here.attempt, count])
            await asyncio.sleep(0.02)
    return f"{label} is done"


@activity(retry=RetryPolicy(max_attempts=3, initial=0.05))
async def die(how: str) -> str:
    with ledger.noted(how):
        await asyncio.sleep(0.1)  # long enough for the neighbours to begin
        if how == "exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


@activity(retry=RetryPolicy(max_attempts=3, initial=0.05))
def die_in_thread(how: str) -> str:
    with ledger.noted(how):
        os.abort()


@activity(retry=RetryPolicy(max_attempts=2, initial=BACK_OFF_S))
async def fail_first(label: str) -> str:
    with ledger.noted(label):
        if activity_context().attempt == 1:
            raise ConnectionError("not yet")
    return f"{label} is done"


@workflow
async def working(ctx: Context, label: str, seconds: float) -> str:
    return await ctx.call_activity(work, label, seconds)


@workflow
async def working_once(ctx: Context, label: str, seconds: float) -> str:
    return await ctx.call_activity(try_once, label, seconds)


@workflow
async def beating(ctx: Context, label: str) -> str:
    return await ctx.call_activity(beat, label)


@workflow
async def dying(ctx: Context, how: str) -> str:
    deadly = die_in_thread if how == "abort" else die
    try:
        return await ctx.call_activity(deadly, how)
    except ActivityFailed as failed:
        return f"{failed.type_name} after {failed.attempts} attempts"


@workflow
async def backing_off(ctx: Context, label: str) -> str:
    return await ctx.call_activity(fail_first, label)


@workflow
async def napping(ctx: Context) -> float:
    before = ctx.now()
    await ctx.sleep(NAP_S)
    return (ctx.now() - before).total_seconds()


@workflow
async def listening(ctx: Context, count: int) -> list[int]:
    return [await ctx.wait_for_event("number", int) for _ in range(count)]
