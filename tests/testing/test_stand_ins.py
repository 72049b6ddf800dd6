"""Activities replaced by a test: through the real attempts, with every call on record."""

import sqlite3
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durableflow import (
    ActivityFailed,
    ChildFailed,
    Context,
    NonRetryableError,
    RetryPolicy,
    UsageError,
    WorkflowFailed,
    activity,
    activity_context,
    workflow,
)
from durableflow.errors import RegistrationError
from durableflow.model import events as ev
from durableflow.testing import InjectedFailure, WorkflowEnvironment
from durableflow.testing.clock import START


@dataclass
class Order:
    item: str
    pieces: int = 1


@dataclass
class Receipt:
    order: Order
    paid: float


class Declined(Exception):
    pass


@activity(retry=RetryPolicy(max_attempts=4, initial=10.0, backoff=1))
async def charge_order(order: Order, *, twice: bool = False) -> Receipt:
    return Receipt(order, 9.5 * (1 + twice))


@activity
def stock_of(item: str) -> str:
    return f"{item} on {threading.current_thread().name}"


@workflow
async def buy_order(ctx: Context, order: Order) -> Receipt:
    return await ctx.call_activity(charge_order, order)


@workflow
async def buy_twice(ctx: Context, order: Order) -> Receipt:
    return await ctx.call_activity(charge_order, order, twice=True)


@workflow
async def buy_or_not(ctx: Context, order: Order) -> str:
    try:
        await ctx.call_activity(charge_order, order)
    except ActivityFailed as error:
        return f"{error.type_name}: {error.message} after {error.attempts}"
    return "paid"


@workflow
async def look_up(ctx: Context, item: str) -> str:
    return await ctx.call_activity(stock_of, item)


@workflow
async def asks_elsewhere(ctx: Context, order: Order) -> list[int]:
    return await ctx.call_activity_by_name("count_elsewhere", order, result_type=list[int])


@workflow
async def buy_by_name(ctx: Context, order: Order) -> Receipt:
    return await ctx.call_activity_by_name("charge_order", order, result_type=Receipt)


LAMP = Order("lamp")


async def test_what_is_not_replaced_runs_for_real_and_is_recorded() -> None:
    async with WorkflowEnvironment() as env:
        assert await env.run(buy_order, LAMP) == Receipt(LAMP, 9.5)
        assert (await env.run(look_up, "lamp")).startswith("lamp on durableflow activity")
        first, second = env.calls()
        assert (first.activity, first.args, first.kwargs, first.attempt) == ("charge_order", (LAMP,), {}, 1)
        assert first.idempotency_key == f"{first.instance_id}/1"
        assert (second.activity, second.args, second.at) == ("stock_of", ("lamp",), START)


async def test_a_value_is_returned_and_stored_as_any_other() -> None:
    async with WorkflowEnvironment() as env:
        env.mock(charge_order, returns=Receipt(LAMP, 1.0))
        handle = await env.start(buy_order, LAMP)
        assert await handle.result() == Receipt(LAMP, 1.0)
        stored = [entry.event for entry in await handle.history() if isinstance(entry.event, ev.ActivityCompleted)]
        assert stored == [ev.ActivityCompleted(1, b'{"order":{"item":"lamp","pieces":1},"paid":1.0}')]


async def test_a_list_of_exceptions_is_raised_one_by_one_and_each_is_a_recorded_attempt() -> None:
    async with WorkflowEnvironment() as env:
        env.mock(charge_order, raises=[Declined("once"), None, Declined], returns=Receipt(LAMP, 2.0))
        first, second = await env.start(buy_order, LAMP), await env.start(buy_order, LAMP)
        assert [await first.result(), await second.result()] == [Receipt(LAMP, 2.0)] * 2
        failures = [
            (entry.event.failure.type_name.rpartition(".")[2], entry.event.failure.message)
            for handle in (first, second)
            for entry in await handle.history()
            if isinstance(entry.event, ev.AttemptFailed)
        ]
        assert sorted(failures) == [("Declined", ""), ("Declined", "once")]


async def test_one_exception_is_raised_by_every_call_until_the_policy_gives_up() -> None:
    async with WorkflowEnvironment() as env:
        env.mock(charge_order, raises=Declined("no money"))
        assert (await env.run(buy_or_not, LAMP)).endswith("Declined: no money after 4")
        assert [(call.attempt, (call.at - START).total_seconds()) for call in env.calls(charge_order)] == [
            (1, 0), (2, 10), (3, 20), (4, 30),
        ]  # fmt: skip
        env.mock(charge_order, raises=NonRetryableError("never"))
        assert (await env.run(buy_or_not, LAMP)).endswith("NonRetryableError: never after 1")


async def test_chosen_attempts_fail_and_the_others_call_the_real_function() -> None:
    async with WorkflowEnvironment() as env:
        env.mock(charge_order, fail_on=[1, 3])
        assert await env.run(buy_order, LAMP) == Receipt(LAMP, 9.5)
        assert [call.attempt for call in env.calls(charge_order)] == [1, 2]
        env.mock(charge_order, fail_on=[1, 2, 3, 4])
        assert (await env.run(buy_or_not, LAMP)).endswith("InjectedFailure: the test lets attempt 4 fail after 4")
        env.mock(charge_order, fail_on=[4, 3, 2, 1], raises=Declined("as told"))
        assert (await env.run(buy_or_not, LAMP)).endswith("Declined: as told after 4")


async def test_a_plain_function_with_failures_still_runs_in_a_thread() -> None:
    async with WorkflowEnvironment() as env:
        env.mock(stock_of, fail_on=[1])
        assert (await env.run(look_up, "lamp")).startswith("lamp on durableflow activity")
        assert [call.attempt for call in env.calls(stock_of)] == [1, 2]
        env.mock(stock_of, fail_on=[1], takes=5)
        assert (await env.run(look_up, "lamp")).startswith("lamp on ")
        assert len(env.calls(stock_of)) == 4


async def test_another_function_is_called_instead_plain_or_async() -> None:
    async with WorkflowEnvironment() as env:
        env.mock(stock_of, calls=lambda item: f"{item} #{activity_context().attempt}")
        assert await env.run(look_up, "lamp") == "lamp #1"

        async def later(item: str) -> str:
            await env.clock.sleep(timedelta(hours=1))
            return f"{item} at {env.now():%H:%M}"

        env.mock(stock_of, calls=later)
        assert await env.run(look_up, "lamp") == "lamp at 01:00"


async def test_an_activity_whose_code_is_not_here_is_replaced_by_name() -> None:
    def count(order: Order) -> list[int]:
        return list(range(order.pieces))

    async with WorkflowEnvironment() as env:
        stand_in = env.mock("count_elsewhere", calls=count)
        assert await env.run(asks_elsewhere, Order("lamp", 3)) == [0, 1, 2]
        assert [call.args for call in stand_in.calls] == [(Order("lamp", 3),)]
        env.mock("count_elsewhere", returns=[7])
        assert await env.run(asks_elsewhere, LAMP) == [7]
        env.assert_called("count_elsewhere", times=2)


async def test_arguments_are_recorded_as_the_function_got_them_before_it_touched_them() -> None:
    def spoil(order: Order, *, twice: bool = False) -> Receipt:
        order.pieces = 99
        return Receipt(order, 1.0)

    async with WorkflowEnvironment() as env:
        env.mock(charge_order, calls=spoil)
        await env.run(buy_twice, LAMP)
        (call,) = env.calls(charge_order)
        assert (call.args, call.kwargs) == ((LAMP,), {"twice": True})


async def test_a_stand_in_that_is_removed_leaves_the_real_function() -> None:
    async with WorkflowEnvironment() as env:
        stand_in = env.mock(charge_order, returns=Receipt(LAMP, 1.0))
        await env.run(buy_order, LAMP)
        stand_in.remove()
        assert await env.run(buy_order, LAMP) == Receipt(LAMP, 9.5)
        by_name = env.mock("count_elsewhere", returns=[])
        by_name.remove()
        with pytest.raises(UsageError, match="no activity 'count_elsewhere' is known here"):
            env.calls("count_elsewhere")


async def test_a_stand_in_may_come_before_everything_else() -> None:
    env = WorkflowEnvironment()
    by_name = env.mock("charge_order", returns=Receipt(LAMP, 1.0))
    async with env:
        assert await env.run(buy_by_name, LAMP) == Receipt(LAMP, 1.0)
        by_name.remove()
        assert await env.run(buy_by_name, LAMP) == Receipt(LAMP, 9.5)


async def test_stand_ins_of_one_test_are_unknown_to_the_next() -> None:
    async with WorkflowEnvironment() as env:
        env.mock(charge_order, returns=Receipt(LAMP, 1.0))
    async with WorkflowEnvironment() as env:
        assert await env.run(buy_order, LAMP) == Receipt(LAMP, 9.5)
        assert len(env.calls()) == 1


async def test_in_a_strict_environment_a_call_without_stand_in_fails_the_test() -> None:
    with pytest.raises(
        AssertionError, match=r"no stand-in, in a strict environment:\n  charge_order\(Order\(item='lamp'"
    ):
        async with WorkflowEnvironment(strict=True) as env:
            assert "charge_order' was called but has no stand-in" in await env.run(buy_or_not, LAMP)
    with pytest.raises(WorkflowFailed, match=r"write: mock\(charge_order, returns=...\)"):
        async with WorkflowEnvironment(strict=True) as env:
            await env.run(buy_order, LAMP)
    async with WorkflowEnvironment(strict=True) as env:
        env.mock(charge_order, returns=Receipt(LAMP, 1.0))
        await env.run(buy_order, LAMP)


async def test_two_activities_of_one_name_are_refused_as_ever() -> None:
    def other() -> None: ...

    async with WorkflowEnvironment() as env:
        with pytest.raises(RegistrationError, match="activity 'charge_order' is defined twice"):
            env.mock(activity(name="charge_order")(other), returns=None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "returns=None"),
        ({"returns": 1, "calls": print}, "not both"),
        ({"returns": 1, "raises": Declined()}, "nothing can be returned"),
        ({"fail_on": [1], "raises": [Declined()]}, "must be one exception"),
    ],
)
async def test_a_stand_in_that_contradicts_itself_is_refused(arguments: dict[str, object], says: str) -> None:
    async with WorkflowEnvironment() as env:
        with pytest.raises(UsageError, match=says):
            env.mock("any", **arguments)


# -- assertions -------------------------------------------------------------------------------------------------------


async def test_assert_called_gives_the_calls_that_fit() -> None:
    async with WorkflowEnvironment() as env:
        env.mock(charge_order, fail_on=[1])
        await env.run(buy_order, LAMP)
        await env.run(buy_twice, Order("sofa"))
        assert len(env.assert_called(charge_order)) == 4
        assert [call.attempt for call in env.assert_called(charge_order, args=(LAMP,))] == [1, 2]
        env.assert_called(charge_order, times=1, attempt=2, args=[Order("sofa")], kwargs={"twice": True})
        env.assert_called(charge_order, times=2, kwargs={"order": LAMP, "twice": False})
        env.assert_not_called(stock_of)


async def test_a_failed_assertion_shows_what_was_called_instead() -> None:
    async with WorkflowEnvironment() as env:
        with pytest.raises(AssertionError) as caught:
            env.assert_called(charge_order)
        assert (
            str(caught.value)
            == "charge_order was to get at least one call, but got none; no activity was called at all"
        )
        await env.run(buy_order.options(instance_id="o-1"), LAMP)
        with pytest.raises(AssertionError) as caught:
            env.assert_called(charge_order, times=2, args=(Order("sofa"),))
        assert str(caught.value) == (
            "charge_order(Order(item='sofa', pieces=1)) was to get 2 calls, but got none; all calls were:\n"
            "  charge_order(Order(item='lamp', pieces=1))  attempt 1 of 'o-1' at 2030-01-01 00:00:00+00:00"
        )
        with pytest.raises(AssertionError, match="charge_order was to get none, but got one call"):
            env.assert_not_called(charge_order)


async def test_a_name_with_a_slip_in_it_is_no_activity_that_was_not_called() -> None:
    async with WorkflowEnvironment(activities=[charge_order], workflows=[buy_order]) as env:
        with pytest.raises(UsageError, match=r"no activity 'chrage' is known here \(known: 'charge_order'\)"):
            env.assert_not_called("chrage")


def test_the_failure_that_is_injected_is_an_ordinary_exception() -> None:
    assert issubclass(InjectedFailure, Exception)
    assert not issubclass(InjectedFailure, NonRetryableError)


# -- transactional activities ---------------------------------------------------------------------------------------


@activity(transactional=True, retry=2)
def put_aside(db: sqlite3.Connection, item: str) -> int:
    db.execute("create table if not exists aside (item text)")
    db.execute("insert into aside values (?)", (item,))
    count: int = db.execute("select count(*) from aside").fetchone()[0]
    return count


@workflow
async def set_aside(ctx: Context, item: str) -> int:
    return await ctx.call_activity(put_aside, item)


async def test_a_stand_in_needs_no_database() -> None:
    async with WorkflowEnvironment() as env:
        env.mock(put_aside, returns=7)
        assert await env.run(set_aside, "lamp") == 7
        env.mock(put_aside, calls=len)
        assert await env.run(set_aside, "lamp") == 4
        env.assert_called(put_aside, times=2, args=["lamp"])


async def test_a_transactional_activity_runs_on_a_file_and_is_on_record(tmp_path: Path) -> None:
    async with WorkflowEnvironment(f"sqlite:///{tmp_path / 'test.db'}") as env:
        env.mock(put_aside, fail_on=[1])
        assert await env.run(set_aside, "lamp") == 1
        assert [call.args for call in env.calls(put_aside)] == [("lamp",), ("lamp",)]
        env.assert_called(put_aside, times=2, kwargs={"item": "lamp"})


async def test_a_stand_in_with_a_delay_cannot_leave_the_call_to_a_transactional_activity(tmp_path: Path) -> None:
    async with WorkflowEnvironment(f"sqlite:///{tmp_path / 'test.db'}") as env:
        env.mock(put_aside, takes=1)
        with pytest.raises(WorkflowFailed, match="is transactional"):
            await env.run(set_aside, "lamp")


# -- workflows --------------------------------------------------------------------------------------------------------


@activity
async def weigh(item: str) -> int:
    raise AssertionError("the child has a stand-in")


@workflow
async def packs(ctx: Context, item: str) -> int:
    return await ctx.call_activity(weigh, item)


@workflow
async def ships(ctx: Context, items: list[str]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        try:
            found.append(await ctx.call_workflow(packs, item))
        except ChildFailed as error:
            found.append(error.message)
    return found


async def test_a_child_has_a_stand_in_and_is_an_instance_all_the_same() -> None:
    async with WorkflowEnvironment() as env:
        env.mock_workflow(packs, returns=7, takes=timedelta(hours=1))
        handle = await env.start(ships.options(instance_id="s"), ["a", "b"])
        await env.advance(hours=2)
        assert await handle.result() == [7, 7]
        assert [each.workflow for each in (await env.engine.list(parent="s")).instances] == ["packs", "packs"]
        env.assert_not_called(weigh)
        await handle.assert_replays()
        assert await (await env.start(packs, "c")).result() == 7, "whoever starts it"


@pytest.mark.parametrize("raises", [LookupError("lost"), LookupError])
async def test_a_stand_in_for_a_child_may_fail(raises: Any) -> None:
    async with WorkflowEnvironment() as env:
        env.mock_workflow(packs, raises=raises)
        assert await env.run(ships, ["a", "b"]) == (["lost", "lost"] if isinstance(raises, Exception) else ["", ""])


async def test_arguments_of_a_child_with_a_stand_in_are_read_as_its_own() -> None:
    @workflow
    async def by_name(ctx: Context) -> str:
        try:
            await ctx.call_workflow_by_name("packs", 5)
        except ChildFailed as error:
            return error.type_name
        return "?"

    async with WorkflowEnvironment() as env:
        env.mock_workflow(packs, returns=7)
        assert await env.run(by_name) == "durableflow.errors.PayloadError"


async def test_a_stand_in_for_a_workflow_says_one_thing() -> None:
    async with WorkflowEnvironment() as env:
        with pytest.raises(UsageError, match="either returns a value or raises"):
            env.mock_workflow(packs)
        with pytest.raises(UsageError, match="either returns a value or raises"):
            env.mock_workflow(packs, returns=5, raises=ValueError)
        env.mock_workflow(packs, returns=None)  # type: ignore[arg-type]
