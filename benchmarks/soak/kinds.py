"""The workflows of the load: those of the fleet's tests, and some for what a client does to instances."""

from typing import Any, Final

import flows

from durableflow import Cancelled, Context, workflow

NAP_S: Final = 20
ROUNDS: Final = 3


@workflow
async def rounds(ctx: Context, number: int, total: int = 0, left: int = ROUNDS) -> int:
    """An event in each round; those that come early are kept for the next ones."""
    total = await ctx.call_activity(flows.add, total, await ctx.wait_for_event("go", int))
    return total if left == 1 else ctx.continue_as_new(number, total, left - 1)


@workflow
async def cancelled(ctx: Context, number: int) -> None:
    held = await ctx.call_activity(flows.add, number, 0)
    try:
        await ctx.wait_for_event("never")
    except Cancelled:
        await ctx.call_activity(flows.add, held, 1)
        raise


@workflow
async def terminated(ctx: Context, number: int) -> None:
    await ctx.call_activity(flows.add, number, 0)
    await ctx.wait_for_event("never")


@workflow
async def paused(ctx: Context, number: int) -> int:
    """Suspended by its client, sent an event, and resumed."""
    return await ctx.call_activity(flows.add, number, await ctx.wait_for_event("go", int))


@workflow
async def asked(ctx: Context, number: int) -> int:
    """Answers a request, and ends when it is told to."""

    @ctx.on_request("double")
    def double(value: int) -> int:
        return value * 2

    return await ctx.call_activity(flows.add, number, await ctx.wait_for_event("go", int))


@workflow
async def patient(ctx: Context, number: int) -> list[int]:
    """Outlives the death of its worker, and perhaps of the next one."""
    before, nap_s = ctx.now(), NAP_S + number % NAP_S
    await ctx.sleep(nap_s)
    early = (ctx.now() - before).total_seconds() < nap_s
    return [await ctx.call_activity(flows.add, number, 0), int(early)]


@workflow
async def tick(ctx: Context, number: int) -> int:
    """Started by a schedule."""
    return await ctx.call_activity(flows.add, number, 1)


SHORT: Final = [*flows.KINDS, rounds, cancelled, terminated, paused, asked]
LONG: Final = [patient]
"""For soaks that are long beside a nap."""


def expected(kind: str, number: int) -> Any:
    """What an instance returns."""
    match kind:
        case "rounds":
            return sum(event_values(kind, number))
        case "paused" | "asked":
            return number + event_values(kind, number)[0]
        case "patient":
            return [number, 0]
        case _:
            return flows.expected(kind, number)


def event_values(kind: str, number: int) -> list[int]:
    """What its client sends as events called "go", in order."""
    match kind:
        case "events":
            return flows.event_values(number)
        case "rounds":
            return [number + 1, number + 2, number + 3]
        case "paused" | "asked":
            return [7]
        case _:
            return []
