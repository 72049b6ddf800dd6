"""Workflows that do three things inside a saga, in every way of writing."""

from collections.abc import Callable
from typing import Any

import pytest
from stories import Story, other, work

from durableflow import Context, Saga
from durableflow.model import events as ev

# `work` does, `other` undoes; tasks are numbered as they are asked for.


async def three(ctx: Context, **options: Any) -> str:
    async with ctx.saga(**options) as saga:
        for what in "abc":
            saga.compensate_with(other, what)
            await ctx.call_activity(work, what)
    return "done"


def three_too(ctx: Context, **options: Any) -> Any:
    saga = ctx.saga(**options)
    return (yield from saga.guard(book(ctx, saga)))


def book(ctx: Context, saga: Saga) -> Any:
    for what in "abc":
        saga.compensate_with(other, what)
        yield from ctx.call_activity(work, what)
    return "done"


def three_mixed(ctx: Context, **options: Any) -> Any:
    """A coroutine within a generator."""
    saga = ctx.saga(**options)
    return (yield from saga.guard(book_too(ctx, saga)))


async def book_too(ctx: Context, saga: Saga) -> str:
    for what in "abc":
        saga.compensate_with(other, what)
        await ctx.call_activity(work, what)
    return "done"


async def undo_twice(ctx: Context, what: str, *, times: int = 2) -> None:
    for n in range(times):
        await ctx.call_activity(other, f"{what}{n}")


def undo_twice_too(ctx: Context, what: str, *, times: int = 2) -> Any:
    for n in range(times):
        yield from ctx.call_activity(other, f"{what}{n}")


EITHER = pytest.mark.parametrize("flow", [three, three_too, three_mixed])


def calls(story: Story) -> list[str]:
    """What was asked for, as `work a` and so on."""
    return [
        f"{event.name} {event.input.decode()[2:-2]}"
        for event in story.decisions
        if isinstance(event, ev.ActivityScheduled)
    ]


def with_options(flow: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    async def coroutine(ctx: Context) -> Any:
        return await flow(ctx, **options)

    def generator(ctx: Context) -> Any:
        return (yield from flow(ctx, **options))

    return coroutine if flow is three else generator
