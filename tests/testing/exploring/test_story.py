"""What can happen in a story, and what cannot."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from datetime import timedelta
from typing import Any

import pytest
from told import Told, result, worked

from durableflow import (
    ActivityCancelled,
    ActivityFailed,
    Cancelled,
    Context,
    EventTimeout,
    HandedOver,
    RetryPolicy,
    Status,
    UsageError,
    activity,
    activity_context,
    workflow,
)
from durableflow.testing import explore
from durableflow.testing.histories import (
    cancel_requested,
    event_received,
    request_received,
    resumed,
    suspended,
    terminated,
)


@activity
def one(x: int = 0) -> int:
    return x + 1


@activity
async def other(x: int = 0) -> int:
    await asyncio.sleep(0)
    return x + 2


@activity(retry=1)
def once(x: int = 0) -> int:
    return x + 1


@workflow
async def two_in_turn(ctx: Context) -> int:
    return await ctx.call_activity(other, await ctx.call_activity(one))


@workflow
def two_in_turn_yielding(ctx: Context) -> Any:
    first = yield from ctx.call_activity(one)
    return (yield from ctx.call_activity(other, first))


# -- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", [two_in_turn, two_in_turn_yielding], ids=["awaited", "yielded"])
def test_a_crash_comes_before_and_after_the_work_of_each_activity(flow: Any) -> None:
    told = Told(flow, show=worked)
    assert told.kinds == {
        ("one.1", "other.1"),
        ("one.2", "other.1"),
        ("one.1", "one.2", "other.1"),
        ("one.1", "other.2"),
        ("one.1", "other.1", "other.2"),
    }
    assert told.exploration.exhaustive
    assert (told.exploration.stories, told.exploration.orders, told.exploration.crashes) == (5, 5, 4)


def test_a_crash_loses_all_that_is_under_way_and_nothing_that_is_recorded() -> None:
    @workflow
    async def flow(ctx: Context) -> int:
        return sum(await ctx.when_all([ctx.call_activity(one), ctx.call_activity(other)]))

    told = Told(flow, show=lambda outcome: tuple(sorted(worked(outcome))))
    assert told.kinds == {
        ("one.1", "other.1"),
        ("one.2", "other.2"),
        ("one.1", "one.2", "other.2"),
        ("one.2", "other.1", "other.2"),
        ("one.1", "one.2", "other.1", "other.2"),
        ("one.1", "other.2"),
        ("one.1", "other.1", "other.2"),
        ("one.2", "other.1"),
        ("one.1", "one.2", "other.1"),
    }


def test_as_many_crashes_as_allowed_use_up_the_attempts() -> None:
    @workflow
    async def flow(ctx: Context) -> str:
        try:
            await ctx.call_activity(one)
        except ActivityFailed as error:
            return f"{error.type_name} after {error.attempts}"
        return "done"

    assert Told(flow, show=result, crashes=2).kinds == {"done"}
    assert Told(flow, show=result, crashes=3).kinds == {"done", "WorkerLost after 3"}


def test_the_next_attempt_after_a_crash_knows_what_the_lost_one_has_said() -> None:
    @activity
    def slow() -> Any:
        before = activity_context().heartbeat_details
        activity_context().heartbeat("halfway")
        return before

    @workflow
    async def flow(ctx: Context) -> Any:
        return await ctx.call_activity(slow)

    assert Told(flow, show=lambda outcome: (*worked(outcome), outcome.result)).kinds == {
        ("slow.1", None),
        ("slow.2", None),
        ("slow.1", "slow.2", "halfway"),
    }


def test_a_transactional_activity_has_worked_when_its_result_is_recorded_and_only_then() -> None:
    @activity(transactional=True)
    def book(db: sqlite3.Connection, seat: int) -> int:
        raise AssertionError("there is no connection here")

    @workflow
    async def flow(ctx: Context) -> int:
        return await ctx.call_activity(book, 7)

    told = Told(flow, show=worked, activities={book: lambda seat: seat}, crashes=2)
    assert told.kinds == {("book.1",), ("book.2",), ("book.3",)}
    with pytest.raises(UsageError, match="activity 'book' is transactional, and there is no store here"):
        explore(flow)


# -- orders -----------------------------------------------------------------------------------------------------------


@workflow
async def as_they_come(ctx: Context, count: int) -> list[int]:
    open_ = [ctx.call_activity(one, number) for number in range(count)]
    came: list[int] = []
    while open_:
        first = await ctx.when_any(open_)
        open_.remove(first)
        came.append(first.result())
    return came


def test_results_come_back_in_every_order() -> None:
    told = Told(as_they_come, 3, show=result, crashes=0)
    assert told.counts == dict.fromkeys(itertools.permutations([1, 2, 3]), 1)


def test_with_a_world_work_is_done_in_every_order_too_whatever_the_order_of_the_answers() -> None:
    def show(outcome: Any) -> tuple[int, ...]:
        return (*(call.args[0] for call in outcome.calls), *outcome.result)

    told = Told(as_they_come, 2, show=show, crashes=0, world=list, activities={one: lambda _, x: x + 1})
    assert told.kinds == {(0, 1, 1, 2), (0, 1, 2, 1), (1, 0, 1, 2), (1, 0, 2, 1)}


@pytest.mark.slow
def test_an_order_that_nobody_can_tell_is_told_once() -> None:
    @workflow
    async def flow(ctx: Context) -> int:
        return sum(await ctx.when_all([ctx.call_activity(one, number) for number in range(8)]))

    told = Told(flow, show=result, crashes=0).exploration
    assert told.exhaustive
    assert told.orders == told.total == 40_320
    assert told.stories < 1_000


def test_a_race_between_a_timer_an_activity_and_an_event_goes_every_way() -> None:
    @workflow
    async def flow(ctx: Context) -> str:
        names = {
            ctx.call_activity(one): "activity",
            ctx.sleep(60): "timer",
            ctx.wait_for_event("go"): "event",
        }
        return names[await ctx.when_any(list(names))]

    assert Told(flow, show=result, events=["go"]).kinds == {"activity", "timer", "event"}


def test_of_two_timers_the_one_that_is_due_earlier_fires_first() -> None:
    @workflow
    async def flow(ctx: Context) -> float:
        began = ctx.now()
        long, short = ctx.sleep(timedelta(days=2)), ctx.sleep(timedelta(days=1))
        first = await ctx.when_any([long, short])
        await ctx.when_all([long, short])
        return (ctx.now() - began).total_seconds() if first is short else -1

    told = Told(flow, show=result)
    assert told.shown == [2 * 86_400]


# -- events -----------------------------------------------------------------------------------------------------------


def test_an_event_comes_at_every_moment_and_in_vain_when_all_is_over() -> None:
    @workflow
    async def flow(ctx: Context) -> str:
        await ctx.call_activity(one)
        try:
            return await ctx.wait_for_event("approved", str, timeout=timedelta(days=1))
        except EventTimeout:
            return "nobody"

    told = Told(flow, show=lambda o: (len([e for e in o.events if e.kind == "event_received"]), o.result), crashes=0,
                events=[("approved", "by the boss")])  # fmt: skip
    assert told.kinds == {(1, "by the boss"), (0, "nobody")}


def test_events_of_one_name_keep_their_order_and_others_do_not() -> None:
    @workflow
    async def flow(ctx: Context) -> list[Any]:
        both = ctx.wait_for_event("a"), ctx.wait_for_event("b")
        first = await ctx.when_any(both)
        await ctx.when_all(both)
        return [first.result(), both[0].result(), both[1].result(), await ctx.wait_for_event("a")]

    assert Told(flow, show=result, events=[("a", 1), ("b", 2), ("A", 3)]).kinds == {(1, 1, 2, 3), (2, 1, 2, 3)}


def test_the_user_cancels_at_every_moment() -> None:
    @workflow
    async def flow(ctx: Context) -> str:
        try:
            await ctx.call_activity(one)
            await ctx.sleep(60)
        except Cancelled:
            await ctx.call_activity(other)
            raise
        return "done"

    told = Told(flow, show=lambda o: (o.status, worked(o)), crashes=0, events=[cancel_requested("no more")])
    assert told.kinds == {
        (Status.COMPLETED, ("one.1",)),
        (Status.CANCELLED, ("one.1", "other.1")),
        (Status.CANCELLED, ("other.1",)),
        (Status.CANCELLED, ("other.1", "one.1")),
    }


def test_terminating_suspending_and_requests_are_sent_like_events() -> None:
    @workflow
    async def flow(ctx: Context) -> Any:
        @ctx.on_request("price")
        def price(item: str) -> str:
            return f"{item} for nothing"

        return await ctx.wait_for_event("go")

    sent = [suspended(), resumed(), terminated("enough"), request_received("r1", "price", "a lamp"), ("go", 1)]
    told = Told(flow, show=lambda o: (o.status, o.result), events=sent)
    assert told.kinds == {(Status.COMPLETED, 1), (Status.TERMINATED, None)}
    assert told.exploration.exhaustive


# -- attempts that fail, time out, or are given up --------------------------------------------------------------------


def test_an_attempt_that_raises_is_made_again_after_its_delay() -> None:
    class Shaky:
        calls = 0

        def one(self, x: int) -> int:
            self.calls += 1
            if self.calls < 3:
                raise ConnectionError(f"call {self.calls}")
            return x

    @workflow
    async def flow(ctx: Context) -> float:
        began = ctx.now()
        await ctx.call_activity(one.options(retry=RetryPolicy(max_attempts=4, initial=60)), 7)
        return (ctx.now() - began).total_seconds()

    assert Told(flow, show=result, world=Shaky, activities={one: Shaky.one}, crashes=0).shown == [180]


def test_an_attempt_that_is_let_fail_fails_before_or_after_its_work() -> None:
    @workflow
    async def flow(ctx: Context) -> Any:
        return await ctx.call_activity(once)

    told = Told(flow, show=lambda o: (o.status, worked(o)), crashes=0, failures=1)
    assert told.kinds == {
        (Status.COMPLETED, ("once.1",)),
        (Status.FAILED, ("once.1",)),
        (Status.FAILED, ()),
    }


@workflow
async def impatient(ctx: Context) -> str:
    try:
        await ctx.call_activity(once.options(timeout=30))
    except ActivityFailed as error:
        await ctx.call_activity(other)
        return error.type_name
    return "in time"


def test_an_attempt_that_times_out_has_worked_works_later_or_never() -> None:
    told = Told(impatient, show=lambda o: (o.result, *worked(o)), crashes=0, world=list,
                activities={once: lambda _: 1, other: lambda _: 2})  # fmt: skip
    assert told.kinds == {
        ("in time", "once.1"),
        ("TimeoutError", "other.1"),
        ("TimeoutError", "once.1", "other.1"),
        ("TimeoutError", "other.1", "once.1"),
    }


def test_without_late_work_what_timed_out_never_works() -> None:
    told = Told(impatient, show=lambda o: (o.result, *worked(o)), crashes=0, late=False)
    assert told.kinds == {("in time", "once.1"), ("TimeoutError", "other.1")}


def test_a_crash_ends_what_was_given_up() -> None:
    told = Told(impatient, show=lambda o: (o.result, *worked(o)), world=list,
                activities={once: lambda _: 1, other: lambda _: 2})  # fmt: skip
    assert ("TimeoutError", "other.1", "once.1", "other.2") in told.kinds
    assert ("TimeoutError", "other.1", "other.2", "once.1") not in told.kinds


def test_late_work_can_see_that_it_is_not_wanted_and_earlier_work_cannot() -> None:
    @activity(retry=1, timeout=30)
    def polite() -> bool:
        return activity_context().is_cancelled

    @activity(retry=1, timeout=30)
    def beating() -> None:
        activity_context().heartbeat()

    seen: set[Any] = set()

    def polite_in(_: Any) -> None:
        seen.add((activity_context().is_cancelled, activity_context().wait_cancelled(60)))
        try:
            activity_context().heartbeat()
        except ActivityCancelled:
            seen.add("stopped")

    @workflow
    async def flow(ctx: Context) -> None:
        try:
            await ctx.call_activity(polite)
        except ActivityFailed:
            await ctx.call_activity(other)

    explore(flow, world=list, activities={polite: polite_in, other: lambda _: 1}, crashes=0)
    assert seen == {(False, False), (True, True), "stopped"}


def test_a_loser_that_is_cancelled_may_have_worked_all_the_same() -> None:
    @workflow
    async def flow(ctx: Context) -> str:
        work, alarm = ctx.call_activity(one), ctx.sleep(60)
        if await ctx.when_any([work, alarm]) is alarm:
            work.cancel()
            return "gave up"
        return "done"

    assert Told(flow, show=lambda o: (o.result, *worked(o)), crashes=0).kinds == {
        ("done", "one.1"),
        ("gave up", "one.1"),
        ("gave up",),
    }


def test_activities_of_a_queue_are_attempted_again_as_others_are() -> None:
    @activity(queue="mail", retry=RetryPolicy(max_attempts=3, initial=60))
    def mail() -> int:
        if activity_context().attempt == 1:
            raise ConnectionError
        return activity_context().attempt

    @workflow
    async def flow(ctx: Context) -> tuple[int, float]:
        began = ctx.now()
        return await ctx.call_activity(mail), (ctx.now() - began).total_seconds()

    told = Told(flow, show=result, crashes=1)
    assert told.kinds == {(2, 60.0), (2, 0.0), (3, 60.0)}


# -- what cannot be explored ------------------------------------------------------------------------------------------


def test_an_activity_that_hands_itself_over_is_refused() -> None:
    @activity
    async def ask() -> str:
        await activity_context().hand_over()
        raise HandedOver

    @activity
    def leave() -> str:
        raise HandedOver

    @workflow
    async def flow(ctx: Context, which: str) -> str:
        return await ctx.call_activity(ask if which == "ask" else leave)

    for which in ("ask", "leave"):
        with pytest.raises(UsageError, match=f"activity '{which}' hands its attempt over"):
            explore(flow, which)


def test_an_activity_or_a_child_that_nobody_knows_is_named() -> None:
    @workflow
    async def flow(ctx: Context, kind: str) -> None:
        if kind == "activity":
            await ctx.call_activity_by_name("elsewhere", 1)
        await ctx.call_workflow_by_name("elsewhere")

    with pytest.raises(UsageError, match="activity 'elsewhere' is not known here"):
        explore(flow, "activity")
    with pytest.raises(UsageError, match="workflow 'elsewhere' in version 1 is not known here"):
        explore(flow, "child")


def test_an_external_event_may_be_given_in_three_ways() -> None:
    @workflow
    async def flow(ctx: Context) -> list[Any]:
        return [await ctx.wait_for_event("a"), await ctx.wait_for_event("a"), await ctx.wait_for_event("a")]

    assert Told(flow, show=result, events=["a", ("a", 1), event_received("a", 2)]).kinds == {(None, 1, 2)}
    with pytest.raises(UsageError, match="is nothing that can be sent to an instance"):
        explore(flow, events=[7])  # type: ignore[list-item]
