"""Generators, coroutines and plain functions over one driver; and what none of them may wait for."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from stories import Story, done, other, received, work

from durableflow import ActivityFailed, Context, Status
from durableflow.model import events as ev

Live = Callable[..., Story]


def bare(ctx: Context, x: int) -> Any:
    a, b = yield ctx.when_all(ctx.call_activity(work, x), ctx.call_activity(other, x))
    try:
        yield ctx.call_activity(work, [a, b])
    except ActivityFailed as error:
        ctx.set_custom_status(error.message)
    yield ctx.sleep(1)
    answer = yield ctx.wait_for_event("e", timeout=5)
    return [a, b, answer]


def delegating(ctx: Context, x: int) -> Any:
    a, b = yield from ctx.when_all(ctx.call_activity(work, x), ctx.call_activity(other, x))
    try:
        yield from ctx.call_activity(work, [a, b])
    except ActivityFailed as error:
        ctx.set_custom_status(error.message)
    yield from ctx.sleep(1)
    answer = yield from ctx.wait_for_event("e", timeout=5)
    return [a, b, answer]


async def coroutine(ctx: Context, x: int) -> Any:
    a, b = await ctx.when_all(ctx.call_activity(work, x), ctx.call_activity(other, x))
    try:
        await ctx.call_activity(work, [a, b])
    except ActivityFailed as error:
        ctx.set_custom_status(error.message)
    await ctx.sleep(1)
    answer = await ctx.wait_for_event("e", timeout=5)
    return [a, b, answer]


def handing_on(ctx: Context, x: int) -> Any:
    return delegating(ctx, x)


def mixed(ctx: Context, x: int) -> Any:
    """A generator whose branch is a coroutine."""
    return (yield from ctx.spawn(coroutine(ctx, x)))


def tell(story: Story) -> Story:
    story.tell(done(2, "B"), done(1, "A"))
    story.fail(3, message="no")
    story.wait(1)
    story.event("E", 5)
    return story


@pytest.mark.parametrize("flow", [bare, delegating, coroutine, handing_on, mixed])
def test_all_ways_of_writing_give_the_same_history(live: Live, flow: Callable[..., Any]) -> None:
    story, model = tell(live(flow, 1)), tell(live(bare, 1))
    assert story.result == ["A", "B", 5]
    assert story.events[1:] == model.events[1:]


def test_a_history_of_one_way_is_replayed_by_another(live: Live) -> None:
    story = tell(live(bare, 1))
    for flow in (delegating, coroutine, mixed):
        story.replayed(flow).put_away()


def test_a_plain_function_is_a_workflow_of_one_turn(live: Live) -> None:
    def flow(ctx: Context, x: int) -> Any:
        ctx.call_activity(work, x)
        ctx.set_custom_status("quick")
        return x + 1

    story = live(flow, 1)
    assert story.result == 2
    assert len(story.rows) == 1
    assert story.turn.cancelled == [1], "nobody waits for its activity any more"
    assert story.execution.activities == {}


def _deep(ctx: Context, n: int) -> Any:
    if n:
        return (yield from _deep(ctx, n - 1))
    return (yield from ctx.call_activity(work))


async def _deep_too(ctx: Context, n: int) -> Any:
    return await (_deep_too(ctx, n - 1) if n else ctx.call_activity(work))


@pytest.mark.parametrize("helper", [_deep, _deep_too])
def test_helpers_may_wait_at_any_depth(live: Live, helper: Callable[..., Any]) -> None:
    def generator(ctx: Context) -> Any:
        return (yield from helper(ctx, 50))

    async def awaiting(ctx: Context) -> Any:
        return await helper(ctx, 50)

    story = live(generator if helper is _deep else awaiting)
    story.complete(1, "deep")
    assert story.result == "deep"


# -- foreign ----------------------------------------------------------------------------------------------------


class Strange:
    def __repr__(self) -> str:
        raise RuntimeError("no picture of me")

    def __await__(self) -> Any:
        return (yield self)


async def _await_five(_: Context) -> Any:
    return await asyncio.sleep(0)


def _yield(value: object) -> Callable[[Context], Any]:
    def wait(ctx: Context) -> Any:
        return (yield value)

    return wait


async def _strange(_: Context) -> Any:
    return await Strange()


FOREIGN = {
    "a number": (_yield(5), "5 (builtins.int)"),
    "nothing": (_yield(None), "None (builtins.NoneType)"),
    "a list of tasks": (_yield([]), "[] (builtins.list)"),
    "asyncio.sleep(0)": (_await_five, "None (builtins.NoneType)"),
    "a strange object": (_strange, "something of "),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("waits_before", [0, 1, 3])
@pytest.mark.parametrize("in_branch", [False, True])
def test_what_is_foreign_is_an_error_at_every_wait_also_the_first(
    live: Live, case: str, waits_before: int, in_branch: bool
) -> None:
    wait, shown = FOREIGN[case]

    async def flow(ctx: Context) -> Any:
        for _ in range(waits_before):
            await ctx.sleep(1)
        await wait(ctx)

    def generator(ctx: Context) -> Any:
        for _ in range(waits_before):
            yield from ctx.sleep(1)
        yield from wait(ctx)

    steps = flow if asyncio.iscoroutinefunction(wait) else generator

    def main(ctx: Context) -> Any:
        if in_branch:
            yield from ctx.spawn(steps(ctx))
        else:
            yield from steps(ctx)

    story = live(steps if not in_branch else main)
    for _ in range(waits_before):
        story.wait(1)
    assert story.failure.type_name == "durableflow.errors.ForeignAwaitError"
    assert story.failure.message.startswith(f"the workflow yielded or awaited {shown}")
    assert "wait only for tasks of ctx" in story.failure.message


async def test_an_asyncio_future_is_foreign_also_where_a_loop_runs() -> None:
    async def flow(ctx: Context) -> Any:
        try:
            await asyncio.sleep(1)
        except TypeError as error:
            await ctx.sleep(1)
            return str(error)

    story = Story(flow)
    story.wait(1)
    assert "Future" in story.result
    story.check()


def test_code_may_catch_it_and_go_on(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        caught = 0
        for wrong in (5, None, "x", object()):
            try:
                yield wrong
            except TypeError:
                caught += 1
        yield from ctx.sleep(1)
        return caught

    story = live(flow)
    story.wait(1)
    assert story.result == 4


def test_an_async_generator_is_no_result(live: Live) -> None:
    async def agen() -> Any:
        yield 1

    def flow(ctx: Context) -> Any:
        return agen()

    assert "cannot be stored as JSON" in live(flow).failure.message


def test_a_workflow_of_many_steps_stays_at_constant_cost(live: Live) -> None:
    """A hundred thousand events in one instance: kept, taken one by one, nothing grows but the history."""

    def flow(ctx: Context) -> Any:
        total = 0
        for _ in range(2_000):
            total += yield from ctx.wait_for_event("e")
        return total

    story = live(flow)
    story.tell(*[received("e", 1) for _ in range(1_000)])
    for _ in range(1_000):
        story.event("e", 1)
    assert story.result == 2_000
    assert story.execution.tasks == {}


def test_a_finished_execution_holds_nothing(live: Live) -> None:
    story = live(bare, 1)
    tell(story)
    execution = story.execution
    assert execution.status is Status.COMPLETED
    assert (execution.tasks, execution.timers, execution.activities, execution.unstarted) == ({}, None, {}, {})
    assert (execution._main, execution._branches, execution._ready) == (None, None, None)
    assert execution.wake_us() is None
    assert isinstance(execution.ended, ev.InstanceCompleted)


def _ends_well() -> None:
    tell(Story(delegating, 1))


def _fails() -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.call_activity(work)

    Story(flow).fail(1)


def _is_put_away() -> None:
    Story(delegating, 1).execution.put_away()


@pytest.mark.parametrize("lives", [_ends_well, _fails, _is_put_away])
def test_what_is_over_leaves_nothing_to_the_garbage_collector(lives: Callable[[], None]) -> None:
    lives()  # what is made the first time stays
    while gc.collect():  # what earlier tests left may take more than one round
        pass
    gc.disable()
    try:
        lives()
        assert gc.collect() == 0
    finally:
        gc.enable()
