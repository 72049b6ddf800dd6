"""A change of code under open instances: who had passed there takes the old way for ever, all others the new one."""

from collections.abc import Callable
from typing import Any

import pytest
from stories import SECOND, Story, other, work

from durableflow import Context, NondeterminismError
from durableflow.core.view import fold, numbered
from durableflow.errors import UsageError
from durableflow.model import events as ev

Live = Callable[..., Story]


def old(ctx: Context) -> Any:
    first = yield from ctx.call_activity(work, 1)
    yield from ctx.wait_for_event("go")
    last = yield from ctx.call_activity(work, 2)
    return [first, last]


def before_the_first_wait(ctx: Context) -> Any:
    checked = (yield from ctx.call_activity(other, 0)) if ctx.patched("check") else None
    first = yield from ctx.call_activity(work, 1)
    yield from ctx.wait_for_event("go")
    last = yield from ctx.call_activity(work, 2)
    return [checked, first, last]


def after_the_wait(ctx: Context) -> Any:
    first = yield from ctx.call_activity(work, 1)
    yield from ctx.wait_for_event("go")
    checked = (yield from ctx.call_activity(other, 0)) if ctx.patched("check") else None
    last = yield from ctx.call_activity(work, 2)
    return [checked, first, last]


def in_a_loop(ctx: Context, *, is_new: bool) -> Any:
    ways: list[bool] = []
    while (yield from ctx.wait_for_event("more", bool)):
        ways.append(is_new and ctx.patched("check"))
        yield from ctx.call_activity(other if ways[-1] else work, len(ways))
    return ways


def old_loop(ctx: Context) -> Any:
    return in_a_loop(ctx, is_new=False)


def new_loop(ctx: Context) -> Any:
    return in_a_loop(ctx, is_new=True)


def deployed(story: Story, flow: Callable[..., Any]) -> Story:
    """The process ends, and another one begins with this code."""
    from stories import program_of

    story.execution.put_away()
    story.program = program_of(flow)
    story.crash()
    return story


def patches_of(story: Story) -> list[str]:
    return [event.name for event in story.events if isinstance(event, ev.PatchRecorded)]


def test_a_new_instance_takes_the_new_way_and_records_it_once(live: Live) -> None:
    story = live(before_the_first_wait)
    assert story.decisions == [ev.PatchRecorded("check"), *story.decisions[1:]]
    story.crash()
    story.complete(1, "checked")
    story.complete(2, "first")
    story.crash()
    story.event("go")
    story.complete(4, "last")
    assert story.result == ["checked", "first", "last"]
    assert patches_of(story) == ["check"]


def test_an_instance_that_had_passed_there_takes_the_old_way_for_ever(live: Live) -> None:
    story = deployed(live(old), before_the_first_wait)
    story.complete(1, "first")
    story.crash()
    story.event("go")
    story.complete(3, "last")
    assert story.result == [None, "first", "last"]
    assert patches_of(story) == []


def test_an_instance_that_had_not_yet_come_there_takes_the_new_way(live: Live) -> None:
    story = live(old)
    story.complete(1, "first")
    deployed(story, after_the_wait)
    story.event("go")
    story.crash()
    story.complete(3, "checked")
    story.complete(4, "last")
    assert story.result == ["checked", "first", "last"]
    assert patches_of(story) == ["check"]


def test_an_instance_that_passed_there_in_its_last_turn_takes_the_old_way(live: Live) -> None:
    """The row of that turn has no more decisions, as it has none where the code has come for the first time."""
    story = live(old)
    story.complete(1, "first")
    story.event("go")
    deployed(story, after_the_wait)
    story.complete(3, "last")
    assert story.result == [None, "first", "last"]


def test_in_a_loop_the_first_answer_holds(live: Live) -> None:
    story = live(old_loop)
    story.event("more", True)
    story.complete(2)
    deployed(story, new_loop)
    for n in (1, 2):
        story.event("more", True)
        story.crash()
        story.complete(2 + 2 * n)
    story.event("more", False)
    assert story.result == [False, False, False]


def test_in_a_loop_that_has_not_begun_the_new_way_is_taken_each_time(live: Live) -> None:
    story = deployed(live(old_loop), new_loop)
    for n in (0, 1):
        story.event("more", True)
        story.crash()
        story.complete(2 + 2 * n)
    story.event("more", False)
    assert story.result == [True, True]
    assert patches_of(story) == ["check"]


def test_patches_do_not_know_each_other_and_their_order_does_not_matter(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        found = [ctx.patched("a"), ctx.patched("b"), ctx.patched("a")]
        yield from ctx.sleep(1)
        return [*found, ctx.patched("c")]

    def turned(ctx: Context) -> Any:
        found = [ctx.patched("b"), ctx.patched("a")]
        yield from ctx.sleep(1)
        return [*found, ctx.patched("c")]

    story = live(flow)
    deployed(story, turned)
    story.wait(1)
    assert story.result == [True, True, True]
    assert patches_of(story) == ["a", "b", "c"]
    assert fold(numbered(story.rows)).patches == ["a", "b", "c"]


def test_a_patch_is_taken_out_by_leaving_it_out(live: Live) -> None:
    def without_the_question(ctx: Context) -> Any:
        checked = yield from ctx.call_activity(other, 0)
        first = yield from ctx.call_activity(work, 1)
        yield from ctx.wait_for_event("go")
        last = yield from ctx.call_activity(work, 2)
        return [checked, first, last]

    story = live(before_the_first_wait)
    deployed(story, without_the_question)
    story.complete(1, "checked")
    story.complete(2, "first")
    story.event("go")
    story.complete(4, "last")
    assert story.result == ["checked", "first", "last"]


def test_a_patch_that_is_taken_out_too_early_stalls_whoever_took_the_old_way(live: Live) -> None:
    story = live(old)
    with pytest.raises(
        NondeterminismError, match=r"history #2 .* recorded activity 'work' .* asks for activity 'other'"
    ):
        story.replayed(lambda ctx: before_the_first_wait(AlwaysPatched(ctx)))


class AlwaysPatched:
    """A context whose user has taken the question out and kept the new way."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def patched(self, _: str) -> bool:
        return True


def test_a_change_that_nobody_guarded_still_stalls(live: Live) -> None:
    story = live(before_the_first_wait)
    with pytest.raises(
        NondeterminismError, match=r"history #3 .* recorded activity 'other' .* asks for activity 'work'"
    ):
        story.replayed(old)


def test_it_takes_no_task_number(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        ctx.patched("a")
        task = ctx.sleep(1)
        ctx.patched("b")
        yield from task
        yield from ctx.call_activity(work)

    story = live(flow)
    story.now_us += SECOND
    story.tell(ev.TimerFired(1))
    assert [event.task for event in story.events if isinstance(event, ev.ActivityScheduled)] == [2]


@pytest.mark.parametrize("name", ["", " ", "a\0b", "x" * 501, 7])
def test_a_name_that_cannot_be_stored_is_refused(live: Live, name: Any) -> None:
    def flow(ctx: Context) -> Any:
        with pytest.raises(UsageError, match="the name of a patch"):
            ctx.patched(name)

    assert live(flow).result is None
