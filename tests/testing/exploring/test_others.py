"""Children, messages and rounds: whoever else lives in a story."""

from __future__ import annotations

from told import Told, result, worked

from durableflow import (
    ChildFailed,
    Context,
    MessageFailed,
    Status,
    activity,
    workflow,
)


@activity
def one(x: int = 0) -> int:
    return x + 1


def test_children_live_in_the_same_story() -> None:
    @workflow
    async def child(ctx: Context, x: int) -> int:
        return await ctx.call_activity(one, x)

    @workflow
    async def parent(ctx: Context) -> list[int]:
        return await ctx.when_all([ctx.call_workflow(child, 10), ctx.call_workflow(child, 20)])

    told = Told(parent, show=lambda o: (result(o), *sorted(o.children), worked(o)))
    assert {shown[:3] for shown in told.kinds} == {((11, 21), "parent-1/1", "parent-1/2")}
    assert ("one.1", "one.1") in {shown[3] for shown in told.kinds}
    assert ("one.1", "one.1", "one.2", "one.2") in {shown[3] for shown in told.kinds}
    assert told.exploration.exhaustive


def test_a_child_whose_id_is_taken_is_refused() -> None:
    @workflow
    async def child(ctx: Context) -> None:
        await ctx.wait_for_event("go")

    @workflow
    async def parent(ctx: Context) -> str:
        first = ctx.call_workflow(child.options(instance_id="c"))
        try:
            await ctx.call_workflow(child.options(instance_id="c"))
        except ChildFailed as error:
            await ctx.raise_event("c", "go")
            await first
            return error.type_name
        return "two"

    assert Told(parent, show=result).kinds == {"InstanceExists"}


def test_messages_to_others_arrive_or_are_refused() -> None:
    @workflow
    async def parent(ctx: Context) -> list[str]:
        refusals: list[str] = []
        try:
            await ctx.raise_event("nobody", "go")
        except MessageFailed as error:
            refusals.append(error.outcome)
        return refusals

    assert Told(parent, show=result).kinds == {("missing",)}


def test_children_are_closed_with_their_parent() -> None:
    @workflow
    async def child(ctx: Context) -> None:
        await ctx.wait_for_event("go")

    @workflow
    async def parent(ctx: Context) -> str:
        ctx.call_workflow(child)
        await ctx.sleep(1)
        return "done"

    told = Told(parent, show=lambda o: {c.status for c in o.children.values()}.pop())
    assert told.kinds == {Status.TERMINATED}


def test_a_round_begins_anew_with_what_the_last_one_has_left() -> None:
    @workflow
    async def poll(ctx: Context, seen: list[int]) -> list[int]:
        if len(seen) == 3:
            return seen
        came = await ctx.wait_for_event("number", int)
        await ctx.call_activity(one)
        return ctx.continue_as_new([*seen, came])

    told = Told(poll, [], show=result, events=[("number", 1), ("number", 2), ("number", 3)])
    assert told.kinds == {(1, 2, 3)}
    assert told.exploration.exhaustive


def test_a_checkpoint_is_where_a_crash_goes_on() -> None:
    begun_with: list[int] = []

    @workflow
    async def flow(ctx: Context) -> int:
        done = ctx.restore(int) or 0
        begun_with.append(done)
        while done < 3:
            done = await ctx.call_activity(one, done)
            ctx.checkpoint(done)
        return done

    told = Told(flow, show=lambda o: (o.result, len(o.history.rounds), [call.args for call in o.calls][-1]))
    assert told.kinds == {(3, 4, (2,))}
    assert {1, 2} <= set(begun_with)


def test_a_start_in_the_future_and_a_timeout_of_the_instance_are_times_like_others() -> None:
    @workflow
    async def flow(ctx: Context) -> str:
        await ctx.call_activity(one)
        return "done"

    told = Told(flow.options(start_delay=60, timeout=120), show=lambda o: o.status)
    assert told.kinds == {Status.COMPLETED, Status.FAILED}
