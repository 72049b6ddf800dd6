"""What a workflow learns without waiting: dice, ids, side effects; and who may ask."""

import asyncio
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from stories import Story, work

from durableflow import Context, UsageError
from durableflow.errors import DirectCallError
from durableflow.model import events as ev

Live = Callable[..., Story]


def throws(ctx: Context) -> Any:
    """Dice before and after a wait, ids among them."""
    values: list[Any] = [ctx.random().random(), str(ctx.uuid4()), ctx.random().randint(1, 6)]
    yield from ctx.sleep(1)
    return [*values, str(ctx.uuid4()), ctx.random().random()]


def test_dice_and_ids_fall_the_same_in_replay_whatever_the_worlds_dice_do(live: Live) -> None:
    story = live(throws)
    random.seed(7)
    story.crash()
    random.seed(8)
    story.crash()
    story.wait(1)
    first = story.result
    story.check()
    assert len(set(map(str, first))) == 5
    again = live(throws)
    again.wait(1)
    assert again.result == first, "they are the instance's own"
    other_one = live(throws, instance_id="j")
    other_one.wait(1)
    assert other_one.result != first


def test_ids_are_uuids_of_version_4_and_take_nothing_from_the_dice(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        ids = [ctx.uuid4() for _ in range(3)]
        return [{each.version for each in ids} == {4}, ctx.random().random()]

    def without(ctx: Context) -> Any:
        return [True, ctx.random().random()]

    assert live(flow).result == live(without).result


def test_a_side_effect_happens_once_and_its_record_is_used_for_ever(live: Live) -> None:
    happened: list[int] = []

    def flow(ctx: Context) -> Any:
        values = [ctx.side_effect(lambda: happened.append(1) or (len(happened), "x")) for _ in range(2)]
        yield from ctx.sleep(1)
        return values

    story = live(flow)
    assert [type(e).__name__ for e in story.decisions] == ["SideEffectRecorded", "SideEffectRecorded", "TimerCreated"]
    story.crash()
    story.wait(1)
    assert story.result == [[1, "x"], [2, "x"]], "the stored value: a list"
    assert len(happened) == 2


@dataclass
class Place:
    name: str
    since: datetime


def test_a_side_effect_is_read_back_as_what_its_function_is_annotated_with(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        def make() -> Place:
            return Place("here", ctx_now)

        ctx_now = ctx.now()
        return [repr(type(ctx.side_effect(make))), ctx.side_effect(make) == Place("here", ctx_now)]

    assert live(flow).result == [repr(Place), True]


def test_a_side_effect_that_raises_raises_the_same_in_replay(live: Live) -> None:
    """Not recording it would make every instance that went on after it stall at its next replay."""
    happened: list[int] = []
    seen: list[str] = []

    def fails() -> int:
        happened.append(1)
        raise KeyError("x") from OSError("disk")

    def flow(ctx: Context) -> Any:
        try:
            ctx.side_effect(fails)
        except Exception as error:
            seen.append(f"{type(error).__name__} {error} {error.__cause__!r} {error.__cause__.__cause__!r}")
        return (yield from ctx.call_activity(work))

    story = live(flow)
    story.crash()
    story.complete(2, "went on")
    assert story.result == "went on"
    assert happened == [1]
    once, again = seen
    causes = "RemoteError(\"KeyError: 'x'\") RemoteError('OSError: disk')"
    assert once == again == f"SideEffectFailed a side effect failed: KeyError: 'x' {causes}"


@pytest.mark.parametrize("value", [object(), float("nan"), {1: 1}], ids=["object", "nan", "int key"])
def test_a_side_effect_whose_value_cannot_be_stored_has_failed(live: Live, value: object) -> None:
    def flow(ctx: Context) -> Any:
        try:
            ctx.side_effect(lambda: value)
        except Exception as error:
            text = str(error)
        yield from ctx.sleep(1)
        return text

    story = live(flow)
    story.crash()
    story.wait(1)
    assert story.result.startswith("a side effect failed: durableflow.errors.PayloadError: the side effect")


def test_a_side_effect_may_not_ask_its_context_for_anything(live: Live) -> None:
    """Replay does not call it, so whatever it asked for would be missing there."""

    def flow(ctx: Context) -> Any:
        try:
            ctx.side_effect(lambda: ctx.call_activity(work))
        except Exception as error:
            return str(error)

    story = live(flow)
    assert "was used outside its workflow" in story.result
    assert len(story.decisions) == 2


# -- who may ask ----------------------------------------------------------------------------------------------


def test_an_activity_called_directly_is_refused_with_the_line_to_write(live: Live) -> None:
    def flow(ctx: Context, order: str) -> Any:
        yield from ctx.sleep(1)
        return work(order, n=3)  # type: ignore[call-arg]

    story = live(flow, "o-1")
    story.wait(1)
    assert story.failure.type_name == f"{DirectCallError.__module__}.DirectCallError"
    line = "write: yield from ctx.call_activity(work, 'o-1', n=3)  (or await instead of yield from)"
    assert line in story.failure.message
    assert len(story.decisions) == 2


def test_outside_of_workflows_an_activity_is_the_plain_function() -> None:
    with pytest.raises(AssertionError, match="the core never calls activities"):
        work(1)


@pytest.mark.parametrize("wrong", [print, "work", 5, lambda: 0], ids=["function", "name", "number", "lambda"])
def test_what_is_no_activity_is_refused_with_the_way_to_mend_it(live: Live, wrong: Any) -> None:
    def flow(ctx: Context) -> Any:
        ctx.call_activity(wrong)

    failure = live(flow).failure
    assert failure.type_name == "durableflow.errors.UsageError"
    assert "call_activity takes an activity, not " in failure.message
    if wrong is print:
        assert "@activity def print(...)" in failure.message
    if wrong == "work":
        assert "ctx.call_activity_by_name('work', ...)" in failure.message


def all_uses(ctx: Context) -> list[Callable[[], Any]]:
    return [
        lambda: ctx.call_activity(work),
        lambda: ctx.sleep(1),
        lambda: ctx.wait_for_event("e"),
        lambda: ctx.side_effect(lambda: 1),
        lambda: ctx.set_custom_status("x"),
        lambda: ctx.when_all([]),
        lambda: ctx.when_any([]),
        ctx.random,
        ctx.uuid4,
    ]


def refusals(ctx: Context) -> int:
    refused = 0
    for use in all_uses(ctx):
        with pytest.raises(UsageError, match="was used outside its workflow; ctx methods work only while"):
            use()
        refused += 1
    return refused


@pytest.mark.parametrize("ended", [False, True])
def test_a_context_works_in_its_own_workflow_only(live: Live, ended: bool) -> None:
    kept: list[Context] = []

    def flow(ctx: Context) -> Any:
        kept[:] = [ctx]
        yield from ctx.sleep(1)

    story = live(flow)
    if ended:
        story.wait(1)
    rows = len(story.rows)
    assert refusals(kept[0]) == 9

    in_thread: list[int] = []
    thread = threading.Thread(target=lambda: in_thread.append(refusals(kept[0])))
    thread.start()
    thread.join()
    assert in_thread == [9]

    def intruder(ctx: Context) -> Any:
        return refusals(kept[0])

    assert live(intruder, instance_id="j").result == 9
    assert len(story.rows) == rows


async def test_an_asyncio_task_made_by_a_workflow_is_outside(live: Live) -> None:
    """It runs with a copy of the workflow's context variables, but not in its turn."""
    tasks: list[asyncio.Task[int]] = []

    def flow(ctx: Context) -> Any:
        async def sneak() -> int:
            return refusals(ctx)

        if not tasks:
            tasks.append(asyncio.get_running_loop().create_task(sneak()))
        yield from ctx.sleep(1)

    story = live(flow)
    assert await tasks[0] == 9
    assert len(story.decisions) == 1


def test_what_a_context_knows(live: Live) -> None:
    replaying: list[bool] = []

    def flow(ctx: Context) -> Any:
        replaying.append(ctx.is_replaying)
        yield from ctx.sleep(1)
        replaying.append(ctx.is_replaying)
        return [ctx.instance_id, ctx.is_cancelled]

    story = live(flow)
    story.crash()
    story.wait(1)
    assert story.result == ["i", False]
    assert replaying == [False, True, False]


def test_the_logger_says_each_line_once(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    def flow(ctx: Context) -> Any:
        ctx.logger.info("begun with %s", 5)
        yield from ctx.sleep(1)
        ctx.logger.warning("woke up")

    caplog.set_level(logging.INFO, "durableflow.workflow")
    story = live(flow)
    story.crash()
    story.wait(1)
    story.check()
    assert [record.getMessage() for record in caplog.records] == ["[i] begun with 5", "[i] woke up"]
    assert {record.__dict__["instance_id"] for record in caplog.records} == {"i"}
    assert {record.__dict__["workflow"] for record in caplog.records} == {"flow"}


def test_a_replayed_custom_status_is_there_without_being_recorded_again(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        ctx.set_custom_status("step 1")
        yield from ctx.sleep(1)

    story = live(flow)
    story.crash()
    assert story.execution.custom_status == b'"step 1"'
    assert story.events.count(ev.CustomStatusSet(b'"step 1"')) == 1
