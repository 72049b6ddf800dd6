"""`spawn`: branches of several steps beside the others."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from stories import Story, done, other, work

from durableflow import Cancelled, Context, Status, TaskCancelled
from durableflow.errors import UsageError
from durableflow.model import events as ev

Live = Callable[..., Story]


def ship(ctx: Context, name: str) -> Any:
    first = yield from ctx.call_activity(work, name)
    second = yield from ctx.call_activity(other, first)
    return [name, second]


async def ship_too(ctx: Context, name: str) -> Any:
    first = await ctx.call_activity(work, name)
    return [name, await ctx.call_activity(other, first)]


@pytest.mark.parametrize("kind", [ship, ship_too])
def test_branches_run_side_by_side(live: Live, kind: Callable[..., Any]) -> None:
    def flow(ctx: Context) -> Any:
        branches = [ctx.spawn(kind(ctx, name)) for name in "ab"]
        return (yield from ctx.when_all(branches))

    story = live(flow)
    assert [a.input for a in story.turn.scheduled] == [b'["a"]', b'["b"]']
    story.complete(2, "B1")
    story.complete(3, "B2")
    story.complete(1, "A1")
    story.complete(4, "A2")
    assert story.result == [["a", "A2"], ["b", "B2"]]


def test_a_branch_begins_when_its_maker_waits(live: Live) -> None:
    def branch(ctx: Context, log: list[str]) -> Any:
        log.append("branch")
        yield from ctx.sleep(1)

    def flow(ctx: Context) -> Any:
        log: list[str] = []
        task = ctx.spawn(branch(ctx, log))
        log.append("main")
        yield from task
        return log

    story = live(flow)
    story.wait(1)
    assert story.result == ["main", "branch"]


def test_the_failure_of_a_branch_is_raised_where_it_is_awaited_with_the_branchs_own_lines(live: Live) -> None:
    def branch(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        raise LookupError("the shelf is empty")

    def flow(ctx: Context) -> Any:
        task = ctx.spawn(branch(ctx))
        yield from ctx.sleep(5)
        yield from task

    story = live(flow)
    story.wait(1)
    assert story.status is Status.RUNNING
    story.wait(4)
    assert (story.failure.type_name, story.failure.message) == ("LookupError", "the shelf is empty")
    assert 'raise LookupError("the shelf is empty")' in story.failure.traceback_text
    assert "yield from task" in story.failure.traceback_text
    assert "in _step" not in story.failure.traceback_text


def test_one_exception_for_several_waiters_carries_no_trace_of_the_others(live: Live) -> None:
    seen: list[Any] = []

    def fails(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        raise LookupError("x") from OSError("root")

    def look(error: BaseException) -> list[Any]:
        frames, depth = error.__traceback__, 0
        while frames is not None:
            frames, depth = frames.tb_next, depth + 1
        return [repr(error.__cause__), error.__suppress_context__, depth, repr(error.__context__)]

    def waits(ctx: Context, task: Any) -> Any:
        try:
            yield from task
        except LookupError as error:
            seen.append(look(error))

    def waits_in_trouble(ctx: Context, task: Any) -> Any:
        try:
            raise ValueError("of this waiter alone")
        except ValueError:
            try:
                yield from task
            except LookupError as error:
                error.__cause__ = error.__context__

    def flow(ctx: Context) -> Any:
        task = ctx.spawn(fails(ctx))
        waiters = [waits, waits_in_trouble, waits]
        yield from ctx.when_all([ctx.spawn(waiter(ctx, task)) for waiter in waiters])

    story = live(flow)
    story.wait(1)
    assert story.status is Status.COMPLETED
    first, last = seen
    assert first == last
    assert first[:2] == ["OSError('root')", True]
    assert "of this waiter alone" not in str(seen)


def test_a_cancelled_branch_can_clean_up_and_its_waiters_are_told(live: Live) -> None:
    def branch(ctx: Context) -> Any:
        try:
            yield from ctx.call_activity(work)
        except Cancelled as error:
            yield from ctx.call_activity(other, str(error))
            raise

    def flow(ctx: Context) -> Any:
        task = ctx.spawn(branch(ctx))
        yield from ctx.sleep(1)
        once, twice = task.cancel(), task.cancel()
        try:
            yield from task
        except TaskCancelled as error:
            return [once, twice, task.cancelled, task.cancel(), str(error).startswith("test_a_cancelled_branch")]

    story = live(flow)
    story.wait(1)
    assert [a.input for a in story.turn.scheduled] == [b'["the workflow cancelled this branch"]']
    assert 2 in story.execution.activities, "what the branch waited for goes on, unless it cancels it"
    story.complete(3)
    assert story.result == [True, False, True, False, True]


def test_a_branch_that_swallows_its_cancellation_goes_on(live: Live) -> None:
    def branch(ctx: Context) -> Any:
        with suppress(Cancelled):
            yield from ctx.call_activity(work)
        return (yield from ctx.call_activity(other))

    def flow(ctx: Context) -> Any:
        task = ctx.spawn(branch(ctx))
        yield from ctx.sleep(1)
        task.cancel()
        return [(yield from task), task.cancelled]

    story = live(flow)
    story.wait(1)
    story.complete(3, "done all the same")
    assert story.result == ["done all the same", False]


def test_a_branch_cancelled_before_it_began_never_begins(live: Live) -> None:
    begun: list[int] = []

    def branch(ctx: Context) -> Any:
        begun.append(1)
        yield from ctx.sleep(1)

    async def branch_too(ctx: Context) -> Any:
        begun.append(1)
        await ctx.sleep(1)

    def flow(ctx: Context) -> Any:
        tasks = [ctx.spawn(branch(ctx)), ctx.spawn(branch_too(ctx))]
        for task in tasks:
            task.cancel()
        yield from ctx.sleep(1)
        return [task.cancelled for task in tasks]

    story = live(flow)
    story.wait(1)
    assert story.result == [True, True]
    assert begun == []


def test_a_branch_cancelled_in_the_turn_that_woke_it_is_cancelled(live: Live) -> None:
    """Its result has come, but the branch has not been on since: the cancellation is what it sees."""

    def branch(ctx: Context, task: Any) -> Any:
        try:
            return (yield from task)
        except Cancelled:
            return "cancelled"

    def flow(ctx: Context) -> Any:
        shared = ctx.call_activity(work)
        slow: list[Any] = []

        def quick() -> Any:
            yield from shared
            slow[0].cancel()

        first = ctx.spawn(quick())
        slow.append(ctx.spawn(branch(ctx, shared)))
        return [(yield from slow[0]), (yield from first)]

    story = live(flow)
    story.complete(1, "result")
    assert story.result == ["cancelled", None]


def test_a_branch_may_cancel_itself(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        own: list[Any] = []

        def branch() -> Any:
            assert own[0].cancel()
            try:
                yield from ctx.sleep(1)
            except Cancelled:
                return "at its next wait"

        own.append(ctx.spawn(branch()))
        return (yield from own[0])

    assert live(flow).result == "at its next wait"


def test_branches_that_are_still_going_when_the_workflow_ends_are_dropped(live: Live) -> None:
    log: list[str] = []

    def branch(ctx: Context) -> Any:
        try:
            yield from ctx.sleep(60)
            log.append("never")
        finally:
            log.append("finally")

    async def never_begun(ctx: Context) -> Any:
        log.append("never")

    def flow(ctx: Context) -> Any:
        ctx.spawn(branch(ctx))
        yield from ctx.call_activity(work)
        ctx.spawn(never_begun(ctx))
        return "over"

    story = live(flow)
    story.complete(1)
    assert (story.result, log) == ("over", ["finally"])
    assert story.execution.wake_us() is None


def test_a_branch_may_spawn_and_end_the_race(live: Live) -> None:
    def leaf(ctx: Context, n: int) -> Any:
        yield from ctx.call_activity(work, n)
        return n

    def branch(ctx: Context, n: int) -> Any:
        return (yield from ctx.when_all([ctx.spawn(leaf(ctx, n * 10 + k)) for k in range(2)]))

    def flow(ctx: Context) -> Any:
        winner = yield from ctx.when_any([ctx.spawn(branch(ctx, n)) for n in range(2)])
        return winner.result()

    story = live(flow)
    story.complete(3)
    story.complete(1)
    story.complete(4)
    assert story.result == [10, 11]


def test_five_thousand_branches_cost_no_stack_and_no_square(live: Live) -> None:
    def branch(ctx: Context, n: int) -> Any:
        try:
            yield from ctx.call_activity(work, n)
        except Cancelled:
            return 0
        return 1

    def flow(ctx: Context) -> Any:
        branches = [ctx.spawn(branch(ctx, n)) for n in range(5_000)]
        yield from ctx.sleep(1)
        for task in branches[::2]:
            task.cancel()
        return sum((yield from ctx.when_all(branches)))

    story = live(flow)
    story.wait(1)
    story.tell(*[done(n) for n in range(3, 5_002, 2)])
    assert story.result == 2_500


@pytest.mark.parametrize("wrong", [ship, 5, None, "text"])
def test_spawn_takes_what_was_called(live: Live, wrong: object) -> None:
    def flow(ctx: Context) -> Any:
        try:
            ctx.spawn(wrong)  # type: ignore[arg-type]
        except UsageError as error:
            return str(error)

    assert "call the function: ctx.spawn(branch(ctx))" in live(flow).result


def test_the_main_code_may_be_cancelled_while_its_branch_goes_on(live: Live) -> None:
    def branch(ctx: Context) -> Any:
        return (yield from ctx.call_activity(work))

    def flow(ctx: Context) -> Any:
        task = ctx.spawn(branch(ctx))
        try:
            yield from ctx.sleep(60)
        except Cancelled:
            return (yield from task)

    story = live(flow)
    story.tell(ev.CancelRequested())
    story.complete(2, "what the branch found")
    assert story.result == "what the branch found"
