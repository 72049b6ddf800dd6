"""A wait for an external event that a cancellation interrupts gives up its place in line."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from stories import Story, received, work

from durableflow import Cancelled, Context, EventTimeout, Status
from durableflow.core.view import fold, numbered
from durableflow.model import events as ev

Live = Callable[..., Story]


def asks_again(ctx: Context) -> Any:
    try:
        return (yield from ctx.wait_for_event("approved"))
    except Cancelled:
        return ["cleaning up", (yield from ctx.wait_for_event("approved"))]


async def asks_again_too(ctx: Context) -> Any:
    try:
        return await ctx.wait_for_event("approved")
    except Cancelled:
        return ["cleaning up", await ctx.wait_for_event("approved")]


@pytest.mark.parametrize("flow", [asks_again, asks_again_too])
@pytest.mark.parametrize("crash", [True, False])
def test_the_clean_up_gets_the_next_event(live: Live, flow: Callable[..., Any], crash: bool) -> None:
    story = live(flow)
    story.tell(ev.CancelRequested())
    if crash:
        story.crash()
    story.event("Approved", "the first")
    assert story.result == ["cleaning up", "the first"]


def test_no_decision_tells_of_it(live: Live) -> None:
    story = live(asks_again)
    turn = story.tell(ev.CancelRequested())
    assert turn.events == [ev.CancelRequested(), ev.EventAwaited(2, "approved")]


def test_an_event_that_comes_before_the_clean_up_waits_is_kept_for_it(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.wait_for_event("approved")
        except Cancelled:
            yield from ctx.call_activity(work)
            return (yield from ctx.wait_for_event("approved"))

    story = live(flow)
    story.tell(ev.CancelRequested())
    story.event("approved", "early")
    story.crash()
    story.complete(2)
    assert story.result == "early"


@pytest.mark.parametrize("combined", ["when_any", "when_all", "nested"])
def test_it_holds_through_combinations(live: Live, combined: str) -> None:
    def flow(ctx: Context) -> Any:
        approved, timer = ctx.wait_for_event("approved"), ctx.sleep(3_600)
        try:
            if combined == "when_any":
                yield from ctx.when_any(approved, timer)
            elif combined == "when_all":
                yield from ctx.when_all(approved, timer)
            else:
                yield from ctx.when_all([ctx.when_any(approved, timer), ctx.when_any(timer, approved)])
        except Cancelled:
            return [(yield from ctx.wait_for_event("approved")), approved.done]

    story = live(flow)
    story.tell(ev.CancelRequested())
    story.event("approved", "the first")
    assert story.result == ["the first", False]


@pytest.mark.parametrize("combined", [True, False])
def test_who_waits_for_the_same_task_again_stands_in_line_again_at_the_end(live: Live, combined: bool) -> None:
    def other(ctx: Context) -> Any:
        yield from ctx.when_any(ctx.sleep(1))
        return (yield from ctx.wait_for_event("e"))

    def flow(ctx: Context) -> Any:
        branch = ctx.spawn(other(ctx))
        task = ctx.wait_for_event("e")
        try:
            yield from task
        except Cancelled:
            yield from ctx.sleep(1)
            yield from ctx.sleep(1)
            mine = (yield from ctx.when_all([task]))[0] if combined else (yield from task)
            return [mine, (yield from branch)]

    story = live(flow)
    story.tell(ev.CancelRequested())
    story.wait(1)
    story.wait(1)
    story.crash()
    story.event("e", "for the branch")
    story.event("e", "for the task")
    assert story.result == ["for the task", "for the branch"]


def test_a_task_that_is_waited_for_again_takes_an_event_that_was_kept_meanwhile(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.wait_for_event("e", timeout=60)
        try:
            yield from task
        except Cancelled:
            yield from ctx.call_activity(work)
            return [(yield from task), (yield from task)]

    story = live(flow)
    story.tell(ev.CancelRequested())
    story.event("e", "kept")
    story.complete(2)
    assert story.result == ["kept", "kept"]
    assert story.execution.wake_us() is None


def test_a_wait_that_stands_back_still_times_out(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.wait_for_event("e", timeout=60)
        try:
            yield from task
        except Cancelled:
            yield from ctx.sleep(60)
            try:
                yield from task
            except EventTimeout:
                return (yield from ctx.wait_for_event("e"))

    story = live(flow)
    story.tell(ev.CancelRequested())
    story.event("e", "kept")
    story.wait(60)
    assert story.result == "kept"


def test_a_wait_that_somebody_else_waits_for_keeps_its_place(live: Live) -> None:
    def branch(task: Any) -> Any:
        return (yield from task)

    def flow(ctx: Context) -> Any:
        task = ctx.wait_for_event("e")
        shared = ctx.spawn(branch(task))
        try:
            yield from task
        except Cancelled:
            second = yield from ctx.wait_for_event("e")
            return [(yield from shared), second]

    story = live(flow)
    story.tell(ev.CancelRequested())
    story.event("e", 1)
    story.event("e", 2)
    assert story.result == [1, 2]


def test_a_wait_that_was_asked_for_and_not_begun_keeps_its_place(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.wait_for_event("e")
        try:
            yield from ctx.sleep(60)
        except Cancelled:
            second = yield from ctx.wait_for_event("e")
            return [task.result(), second]

    story = live(flow)
    story.tell(ev.CancelRequested())
    story.event("e", 1)
    story.event("e", 2)
    assert story.result == [1, 2]


def test_a_cancelled_branch_leaves_its_events_to_the_others(live: Live) -> None:
    def branch(ctx: Context) -> Any:
        yield from ctx.wait_for_event("e")

    def flow(ctx: Context) -> Any:
        task = ctx.spawn(branch(ctx))
        yield from ctx.sleep(1)
        task.cancel()
        return (yield from ctx.wait_for_event("e"))

    story = live(flow)
    story.wait(1)
    story.event("e", "the first")
    assert story.result == "the first"


def test_a_branch_that_was_cancelled_before_it_waits_does_not_take_a_place(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        own: list[Any] = []

        def branch() -> Any:
            own[0].cancel()
            yield from ctx.wait_for_event("e")

        own.append(ctx.spawn(branch()))
        yield from ctx.sleep(1)
        return (yield from ctx.wait_for_event("e"))

    story = live(flow)
    story.wait(1)
    story.event("e", "the first")
    assert story.result == "the first"


def test_a_task_that_stands_back_may_be_cancelled(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.wait_for_event("e")
        try:
            yield from task
        except Cancelled:
            return [task.cancel(), task.cancelled, (yield from ctx.wait_for_event("e"))]

    story = live(flow)
    story.tell(ev.CancelRequested())
    story.event("e", 1)
    assert story.result == [True, True, 1]


def test_in_a_history_of_the_first_format_an_interrupted_wait_keeps_its_place(live: Live) -> None:
    story = live(asks_again, begin=False)
    story.tell(msgspec.structs.replace(story.started, format=1))
    story.tell(ev.CancelRequested())
    story.event("approved", "for the wait that was interrupted")
    assert story.status is Status.RUNNING
    story.crash()
    story.event("approved", "for the clean-up")
    assert story.result == ["cleaning up", "for the clean-up"]
    first, second = fold(numbered(story.rows)).tasks
    assert (first.output, second.output) == (b'"for the wait that was interrupted"', b'"for the clean-up"')


def test_the_view_gives_the_event_to_the_younger_wait(live: Live) -> None:
    story = live(asks_again)
    story.tell(ev.CancelRequested())
    story.event("approved", 5)
    first, second = fold(numbered(story.rows)).tasks
    assert (first.state, second.state, second.output) == ("cancelled", "done", b"5")


def test_a_thousand_interrupted_waits_cost_no_square(live: Live) -> None:
    def branch(ctx: Context, n: int) -> Any:
        yield from ctx.wait_for_event(f"e{n}")

    def flow(ctx: Context) -> Any:
        tasks = [ctx.spawn(branch(ctx, n)) for n in range(1_000)]
        yield from ctx.sleep(1)
        for task in tasks:
            task.cancel()
        return (yield from ctx.when_any([ctx.wait_for_event(f"e{n}") for n in range(1_000)])).label

    story = live(flow)
    story.wait(1)
    story.tell(received("e500", 1))
    assert story.result == "e500"
