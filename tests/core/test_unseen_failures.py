"""A branch that fails, and nobody takes notice: told in the turn that ends the instance."""

from collections.abc import Callable
from typing import Any

import pytest
from stories import Story, work

from durableflow import Cancelled, Context, Status
from durableflow.core.turn import Turn
from durableflow.model import events as ev

Live = Callable[..., Story]


def fails(ctx: Context, text: str = "unseen") -> Any:
    yield from ctx.sleep(1)
    raise LookupError(text)


def told(turn: Turn) -> list[tuple[str, str]]:
    return [(label, repr(error)) for label, error in turn.unseen_failures]


UNSEEN = [("fails", "LookupError('unseen')")]


def test_a_failure_that_nobody_waited_for_is_told_at_the_end(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        ctx.spawn(fails(ctx))
        yield from ctx.sleep(2)
        yield from ctx.sleep(1)

    story = live(flow)
    assert not story.wait(1).unseen_failures
    assert not story.wait(1).unseen_failures, "somebody may still ask"
    assert told(story.wait(1)) == UNSEEN
    assert story.status is Status.COMPLETED


def test_it_is_told_with_the_branchs_own_lines(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        ctx.spawn(fails(ctx))
        yield from ctx.sleep(2)

    story = live(flow)
    story.wait(1)
    story.crash()
    ((label, error),) = story.wait(1).unseen_failures
    assert label == "fails"
    assert error.__traceback__ is not None


def test_a_replay_tells_nothing_but_the_turn_that_ends_it_after_one_does(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        ctx.spawn(fails(ctx))
        yield from ctx.sleep(2)

    story = live(flow)
    story.wait(1)
    story.crash()
    assert told(story.wait(1)) == UNSEEN
    twin = story.replayed()
    assert not twin.advance([], now_us=story.now_us).unseen_failures


@pytest.mark.parametrize("how", ["await", "result", "when_all", "spawned"])
def test_a_failure_that_somebody_was_told_of_is_not_told_again(live: Live, how: str) -> None:
    def waits(task: Any) -> Any:
        try:
            yield from task
        except LookupError:
            return "seen"

    def flow(ctx: Context) -> Any:
        task = ctx.spawn(fails(ctx))
        if how == "spawned":
            yield from ctx.spawn(waits(task))
        elif how == "await":
            yield from waits(task)
        elif how == "when_all":
            yield from waits(ctx.when_all(task, ctx.sleep(0)))
        else:
            yield from ctx.sleep(2)
            with pytest.raises(LookupError):
                task.result()

    story = live(flow)
    story.wait(1)
    turn = story.turn if story.status.is_terminal else story.wait(1)
    assert story.status is Status.COMPLETED
    assert not turn.unseen_failures


def test_what_follows_the_first_failure_of_a_whole_was_seen_with_it(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.when_all([ctx.spawn(fails(ctx, name)) for name in "abc"])
        except LookupError as error:
            return str(error)

    story = live(flow)
    turn = story.wait(1)
    assert story.result == "a"
    assert not turn.unseen_failures


def test_a_winner_whose_result_is_not_looked_at_is_unseen(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.when_any(ctx.spawn(fails(ctx)), ctx.sleep(60))

    assert told(live(flow).wait(1)) == UNSEEN


def test_a_failure_that_ends_the_workflow_is_not_unseen(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.spawn(fails(ctx))

    story = live(flow)
    assert not story.wait(1).unseen_failures
    assert story.failure.message == "unseen"


def test_a_cancelled_branch_has_not_failed_but_one_that_fails_in_its_clean_up_has(live: Live) -> None:
    def tidy(ctx: Context) -> Any:
        yield from ctx.sleep(60)

    def untidy(ctx: Context) -> Any:
        try:
            yield from ctx.sleep(60)
        except Cancelled:
            raise LookupError("in the clean-up") from None

    def flow(ctx: Context) -> Any:
        tasks = [ctx.spawn(tidy(ctx)), ctx.spawn(untidy(ctx))]
        yield from ctx.sleep(1)
        for task in tasks:
            task.cancel()
        yield from ctx.sleep(1)

    story = live(flow)
    story.wait(1)
    assert [label.rpartition(".")[2] for label, _ in story.wait(1).unseen_failures] == ["untidy"]


@pytest.mark.parametrize("end", [ev.InstanceTerminated(), ev.CancelRequested()])
def test_it_is_told_however_the_instance_ends(live: Live, end: ev.Observation) -> None:
    def flow(ctx: Context) -> Any:
        ctx.spawn(fails(ctx))
        yield from ctx.call_activity(work)

    story = live(flow)
    story.wait(1)
    assert told(story.tell(end)) == UNSEEN


def test_a_loop_of_failures_leaves_at_most_a_hundred_behind(live: Live) -> None:
    def at_once(ctx: Context, n: int) -> Any:
        raise LookupError(n)
        yield

    def flow(ctx: Context) -> Any:
        for n in range(300):
            task = ctx.spawn(at_once(ctx, n))
            yield from ctx.when_any(task)
            if n < 150:
                with pytest.raises(LookupError):
                    task.result()

    story = live(flow)
    assert [error.args for _, error in story.turn.unseen_failures] == [(n,) for n in range(150, 250)]
