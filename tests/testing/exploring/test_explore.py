"""What `explore` is given, what it gives back, and what it says when a story fails."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durableflow import (
    Context,
    NondeterminismError,
    Status,
    UsageError,
    WorkflowFailed,
    activity,
    activity_context,
    workflow,
)
from durableflow.testing import Exploration, Outcome, StoryFailed, explore


class Bank:
    def __init__(self) -> None:
        self.charges: list[int] = []

    def charge(self, cents: int) -> str:
        self.charges.append(cents)
        return f"receipt {len(self.charges)}"


@activity
def charge(cents: int) -> str:
    raise AssertionError("the bank is not for tests")


@activity
def ship(item: str) -> str:
    return f"parcel with {item}"


@workflow
async def checkout(ctx: Context, item: str, cents: int = 40) -> str:
    receipt = await ctx.call_activity(charge, cents)
    return f"{receipt}, {await ctx.call_activity(ship, item)}"


def once(bank: Bank, outcome: Outcome[str]) -> bool:
    return len(bank.charges) <= 1


def explored(**options: Any) -> Exploration:
    return explore(checkout, "lamp", world=Bank, activities={charge: Bank.charge, ship: lambda _, x: x}, **options)


# -- what fails -------------------------------------------------------------------------------------------------------


def test_the_smallest_story_that_fails_is_told_as_a_timeline() -> None:
    with pytest.raises(StoryFailed) as caught:
        explored(check=once)
    failed = caught.value
    assert str(failed) == (
        "check(...) returned False\n"
        "\n"
        '   0        +0 s  checkout-1 is started with ["lamp"]\n'
        "                    -> activity 'charge' [40], task 1\n"
        '*  1        +0 s  charge#1.1 works, returns "receipt 1"; that is not recorded yet\n'
        "   2        +0 s  CRASH. Lost: charge#1.1, which had worked\n"
        "                    -> attempt 1 of task 1 has failed with WorkerLost; another follows\n"
        "                    -> attempt 2 of task 1 begins\n"
        '   3        +0 s  charge#1.2 works, returns "receipt 2"\n'
        "                    -> activity 'ship' [\"lamp\"], task 2\n"
        '   4        +0 s  ship#2.1 works, returns "lamp"\n'
        '                    -> completion with "receipt 2, lamp"\n'
        "                  checkout-1 is COMPLETED with 'receipt 2, lamp'\n"
        "\n"
        "(the smallest of 5 stories) to tell this story alone: "
        "explore(..., story='1: charge#1.1 works, unheard')"
    )
    assert (failed.story, failed.stories) == ("1: charge#1.1 works, unheard", 5)
    assert failed.world.charges == [40, 40]
    assert failed.outcome is not None
    assert failed.outcome.result == "receipt 2, lamp"
    assert failed.__cause__ is None


def test_what_a_check_raises_is_the_reason_and_the_cause() -> None:
    def asserting(bank: Bank, _: Outcome[str]) -> None:
        assert len(bank.charges) < 2, f"{len(bank.charges)} charges"

    def broken(bank: Bank, _: Outcome[str]) -> None:
        raise LookupError("no such thing")

    with pytest.raises(StoryFailed, match=r"^2 charges\n") as caught:
        explored(check=asserting)
    assert isinstance(caught.value.__cause__, AssertionError)
    with pytest.raises(StoryFailed, match=r"^check\(\.\.\.\) raised LookupError: no such thing\n") as caught:
        explored(check=broken)
    assert isinstance(caught.value.__cause__, LookupError)
    assert caught.value.story == "0: the usual one"


def test_what_must_always_hold_is_asked_after_each_move() -> None:
    with pytest.raises(StoryFailed, match=r"^always\(\.\.\.\) returned False\n") as caught:
        explored(always=lambda bank: len(bank.charges) <= 1)
    assert "charge#1.2 works" in caught.value.timeline.splitlines()[-3]
    assert "checkout-1 is RUNNING" in caught.value.timeline.splitlines()[-1]


def test_a_story_is_told_alone_by_its_name() -> None:
    name = "1: charge#1.1 works, unheard"
    with pytest.raises(StoryFailed) as caught:
        explored(check=once, story=name)
    assert (caught.value.story, caught.value.stories) == (name, 0)
    assert "(this story alone)" in str(caught.value)
    told = explored(check=once, story="2: crash")
    assert (told.stories, told.crashes, told.exhaustive) == (1, 1, False)
    with pytest.raises(StoryFailed, match="this story alone"):
        explored(check=lambda bank, _: not bank.charges, story="0: the usual one")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1: refund#1.1 ends", r"move 1 cannot be 'refund#1.1 ends'; it can be 'charge#1.1 ends', .* 'crash'"),
        ("9: crash", r"it is over before move 9"),
    ],
)
def test_the_name_of_a_story_that_cannot_be_any_more_is_refused(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"there is no such story any more: {reason}"):
        explored(check=once, story=name)


def test_a_story_that_breaks_replay_fails_with_the_line() -> None:
    counter = itertools.count()

    @workflow
    async def flow(ctx: Context) -> None:
        await ctx.call_activity(ship, str(next(counter)))

    with pytest.raises(StoryFailed, match=r"the instance would stall: history #2 .* now asks for activity") as caught:
        explore(flow)
    assert isinstance(caught.value.__cause__, NondeterminismError)


def test_a_story_that_waits_for_what_never_comes_fails_unless_it_may() -> None:
    @workflow
    async def flow(ctx: Context) -> None:
        await ctx.when_all([ctx.wait_for_event("a"), ctx.wait_for_event("b")])

    with pytest.raises(
        StoryFailed, match="nothing more can happen, and instance 'flow-1' is RUNNING: it waits for event 'b'"
    ):
        explore(flow, events=["a"])
    seen: list[Status] = []
    explore(flow, events=["a"], must_end=False, check=lambda outcome: seen.append(outcome.status))
    assert seen == [Status.RUNNING]


def test_a_story_without_an_end_fails() -> None:
    @workflow
    async def flow(ctx: Context) -> None:
        while True:
            await ctx.sleep(1)

    with pytest.raises(
        StoryFailed, match="instance 'flow-1' is RUNNING after 50 moves, and there is no end in sight"
    ) as caught:
        explore(flow, moves=50)
    assert "time passes for flow-1" in caught.value.timeline


def test_what_depends_on_more_than_the_story_is_noticed() -> None:
    shared: list[int] = []

    @workflow
    async def flow(ctx: Context) -> list[str]:
        count = int(await ctx.call_activity(ship, ""))
        return await ctx.when_all([ctx.call_activity(charge, number) for number in range(count)])

    def growing(_: Any) -> str:
        shared.append(1)
        return str(len(shared) % 3 + 1)

    with pytest.raises(UsageError, match="a story went another way when it was told again"):
        explore(flow, activities={ship: growing, charge: lambda _: 1})


def test_a_failure_that_does_not_come_again_says_so() -> None:
    checks = itertools.count()
    with pytest.raises(StoryFailed, match=r"this story failed, but not when it was told again, .*At first: check"):
        explored(check=lambda *_: next(checks) != 3)


# -- what is given ----------------------------------------------------------------------------------------------------


def test_each_story_has_a_world_of_its_own_which_is_entered_and_left() -> None:
    entered: list[Bank] = []
    left: list[Bank] = []

    @contextmanager
    def world() -> Iterator[Bank]:
        bank = Bank()
        entered.append(bank)
        try:
            yield bank
        finally:
            left.append(bank)

    told = explore(checkout, "lamp", world=world, activities={charge: Bank.charge, ship: lambda _, x: x})
    assert len(entered) == told.stories == 5
    assert left == entered
    assert len({id(bank) for bank in entered}) == 5


def test_without_a_world_functions_get_the_arguments_alone_and_the_check_the_outcome() -> None:
    told: list[str] = []
    explore(checkout, "lamp", activities={"charge": lambda cents: f"paid {cents}"}, crashes=0,
            check=lambda outcome: told.append(outcome.result))  # fmt: skip
    assert told == ["paid 40, parcel with lamp"]


def test_activities_that_are_not_replaced_are_called_for_real() -> None:
    @activity
    async def real(x: int) -> int:
        async with asyncio.timeout(10):
            await asyncio.sleep(0.001)
        return x + activity_context().attempt

    @workflow
    async def flow(ctx: Context) -> int:
        return await ctx.call_activity(real, 1)

    results: set[Any] = set()
    explore(flow, check=lambda outcome: results.add(outcome.result))
    assert results == {2, 3}


def test_keywords_and_options_of_the_workflow_are_kept() -> None:
    @workflow
    async def flow(ctx: Context, *, x: int) -> tuple[str, int]:
        return ctx.instance_id, x

    explore(flow.options(instance_id="seven"), kwargs={"x": 7}, check=lambda o: o.result == ("seven", 7))
    with pytest.raises(UsageError, match="missing a required"):
        explore(flow)


def test_time_begins_where_the_test_says() -> None:
    @workflow
    async def flow(ctx: Context) -> datetime:
        await ctx.sleep(timedelta(days=1))
        return ctx.now()

    start = datetime(2024, 2, 28, tzinfo=UTC)
    explore(flow, start=start, check=lambda outcome: outcome.result == start + timedelta(days=1))


def test_what_is_asked_of_a_world_needs_one() -> None:
    for option in ("always", "fingerprint"):
        with pytest.raises(UsageError, match="always= and fingerprint= are asked of the world, but there is none"):
            explore(checkout, "lamp", **{option: len})
    with pytest.raises(UsageError, match="what is called instead of activity 'charge' must be a function, not 7"):
        explore(checkout, "lamp", activities={charge: 7})  # type: ignore[dict-item]


async def test_where_an_event_loop_runs_async_activities_are_refused_and_plain_ones_are_not() -> None:
    async def later(cents: int) -> str:
        return "paid"

    explore(checkout, "lamp", activities={charge: lambda cents: "paid"})
    with pytest.raises(UsageError, match=re.escape("asyncio.to_thread(explore, ...)")):
        explore(checkout, "lamp", activities={charge: later})
    await asyncio.to_thread(explore, checkout, "lamp", activities={charge: later})


# -- what comes of it -------------------------------------------------------------------------------------------------


def test_an_outcome_tells_all_that_a_check_may_want_to_know() -> None:
    outcomes: list[Outcome[str]] = []
    explored(crashes=0, check=lambda _, outcome: outcomes.append(outcome))
    (outcome,) = outcomes
    assert (outcome.instance_id, outcome.status, outcome.crashes) == ("checkout-1", Status.COMPLETED, 0)
    assert (outcome.result, outcome.error, outcome.children) == ("receipt 1, lamp", None, {})
    assert [event.kind for event in outcome.events][-1] == "instance_completed"
    assert outcome.history.events == outcome.events
    assert [task.name for task in outcome.view.tasks] == ["charge", "ship"]
    first, second = outcome.calls
    assert (first.activity, first.args, first.attempt, first.idempotency_key) == ("charge", (40,), 1, "checkout-1/1")
    assert (second.activity, second.args, second.instance_id) == ("ship", ("lamp",), "checkout-1")
    assert repr(outcome) == "<outcome of 'checkout-1': COMPLETED>"


def test_an_outcome_has_the_error_that_a_handle_would_raise() -> None:
    @workflow
    async def flow(ctx: Context) -> None:
        await ctx.call_activity(charge.options(retry=1), 1)

    outcomes: list[Outcome[None]] = []
    explore(flow, crashes=0, check=outcomes.append)
    error = outcomes[0].error
    assert isinstance(error, WorkflowFailed)
    assert error.type_name.endswith("ActivityFailed")
    assert outcomes[0].result is None


def test_an_exploration_says_in_a_line_what_was_explored() -> None:
    assert str(explored()) == "checkout: 5 stories with 4 crashes, which stand for all 5 that there are"


# -- manners ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_what_is_left_open_is_put_away_and_its_finally_blocks_have_no_effect() -> None:
    ran: list[str] = []

    @workflow
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.when_all([ctx.call_activity(ship, "a"), ctx.call_activity(ship, "b")])
            yield from ctx.wait_for_event("never")
        finally:
            ran.append("finally")
            yield from ctx.call_activity(charge, 40)

    explore(flow, must_end=False, check=lambda outcome: not [c for c in outcome.calls if c.activity == "charge"])
    gc.collect()
    assert "finally" in ran


def test_an_activity_has_a_context_of_its_own() -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)

    @activity
    def setting() -> int:
        before = variable.get()
        variable.set(before + 1)
        return before

    @activity
    async def setting_too() -> int:
        before = variable.get()
        variable.set(before + 1)
        return before

    @workflow
    async def flow(ctx: Context) -> list[int]:
        return [await ctx.call_activity(setting), await ctx.call_activity(setting_too), variable.get()]

    explore(flow, crashes=0, check=lambda outcome: outcome.result == [0, 0, 0])


def test_only_the_story_that_is_shown_is_heard_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def flow(ctx: Context) -> None:
        ctx.logger.warning("begun")
        await ctx.call_activity(ship, "a")
        await ctx.call_activity(ship, "b")

    explore(flow)
    assert caplog.messages == []
    with pytest.raises(StoryFailed):
        explore(flow, check=lambda outcome: outcome.crashes == 0)
    assert caplog.messages == ["[flow-1] begun"]
    logging.getLogger("durableflow.workflow").warning("of another")
    assert caplog.messages[1:] == ["of another"]
