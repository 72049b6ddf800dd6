"""Requests, which are answered and recorded, and queries, which look and leave no trace."""

from collections.abc import Callable
from typing import Any

import pytest
from stories import Story, asked, done, received, work

from durableflow import Context, Status
from durableflow.authoring.workflow import Workflow
from durableflow.errors import NondeterminismError, UsageError
from durableflow.model import events as ev
from durableflow.model.failure import Failure

Live = Callable[..., Story]


def cart(ctx: Context) -> Any:
    items: list[str] = []

    @ctx.on_request("add", validate=_not_empty)
    def add(item: str) -> int:
        items.append(item)
        return len(items)

    @ctx.on_request("reserve")
    def reserve(item: str) -> Any:
        shelf = yield from ctx.call_activity(work, item)
        items.append(item)
        return [item, shelf]

    @ctx.on_request("reserve too")
    async def reserve_too(item: str) -> Any:
        shelf = await ctx.call_activity(work, item)
        items.append(item)
        return [item, shelf]

    @ctx.on_query("items")
    def look(first: int = 0) -> list[str]:
        return items[first:]

    yield from ctx.wait_for_event("pay")
    return items


def _not_empty(item: str) -> None:
    if not item:
        raise ValueError("an item has a name")


def answers(story: Story) -> list[ev.RequestAnswered]:
    return [each for each in story.events if isinstance(each, ev.RequestAnswered)]


# -- requests -------------------------------------------------------------------------------------------------


def test_a_request_is_answered_in_the_turn_in_which_it_comes(told: Live) -> None:
    story = told(cart)
    story.ask("r1", "add", "lamp")
    assert story.rows[-1][2] == [asked("r1", "add", "lamp"), ev.RequestAnswered("r1", b"1")]
    story.ask("r2", "add", "chair")
    assert story.answers == {"r1": 1, "r2": 2}
    story.event("pay")
    assert story.result == ["lamp", "chair"]


@pytest.mark.parametrize("name", ["reserve", "reserve too"])
def test_a_handler_may_call_activities_and_others_are_answered_meanwhile(told: Live, name: str) -> None:
    story = told(cart)
    story.ask("slow", name, "lamp")
    assert story.answers == {}
    story.ask("quick", "add", "chair")
    assert story.answers == {"quick": 1}
    story.complete(2, "shelf 7")
    assert story.answers["slow"] == ["lamp", "shelf 7"]
    story.event("pay")
    assert story.result == ["chair", "lamp"]


def test_a_request_of_the_same_id_is_taken_once(told: Live) -> None:
    story = told(cart)
    story.ask("r1", "add", "lamp")
    again = asked("r1", "add", "lamp")
    assert story.tell(again, asked("r1", "reserve", "x")).refused == [again, asked("r1", "reserve", "x")]
    story.ask("slow", "reserve", "chair")
    assert story.ask("slow", "reserve", "chair").refused, "also while it is being answered"
    story.complete(2)
    story.event("pay")
    assert story.result == ["lamp", "chair"]


def test_what_a_validator_raises_is_the_answer_and_the_handler_is_not_called(told: Live) -> None:
    story = told(cart)
    story.ask("r1", "add", "")
    assert story.answers["r1"].message == "an item has a name"
    story.ask("r2", "add", "lamp")
    assert story.answers["r2"] == 1


@pytest.mark.parametrize("arguments", [(), ("a", "b"), (5,)])
def test_arguments_that_do_not_fit_fail_the_request_alone(told: Live, arguments: tuple[Any, ...]) -> None:
    story = told(cart)
    story.ask("r1", "add", *arguments)
    assert isinstance(story.answers["r1"], Failure)
    assert story.status is Status.RUNNING


@pytest.mark.parametrize("how", ["plain", "generator", "coroutine", "activity", "unstorable", "too large"])
def test_a_handler_that_fails_fails_its_request_not_the_instance(told: Live, how: str) -> None:
    def flow(ctx: Context) -> Any:
        @ctx.on_request("plain")
        def plain() -> None:
            raise LookupError("lost")

        @ctx.on_request("generator")
        def generator() -> Any:
            yield from ctx.sleep(0)
            raise LookupError("lost")

        @ctx.on_request("coroutine")
        async def coroutine() -> Any:
            raise LookupError("lost")

        @ctx.on_request("activity")
        async def activity() -> Any:
            await ctx.call_activity(work)

        @ctx.on_request("unstorable")
        def unstorable() -> object:
            return object()

        @ctx.on_request("too large")
        def too_large() -> str:
            return "x" * 2_000

        yield from ctx.wait_for_event("end")
        return "well"

    story = told(flow, payload_limit_bytes=1_000)
    story.ask("r", how)
    if how == "activity":
        story.fail(2, "LookupError", "lost")
    story.wait(0)
    failure = story.answers["r"]
    expected = {
        "activity": "durableflow.errors.ActivityFailed",
        "unstorable": "durableflow.errors.PayloadError",
        "too large": "durableflow.errors.PayloadTooLarge",
    }
    assert failure.type_name == expected.get(how, "LookupError")
    story.event("end")
    assert story.result == "well"
    assert story.turn.unseen_failures == (), "whoever asked has been told"


def test_requests_that_come_before_their_handler_are_kept_in_their_order(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        log: list[int] = []
        yield from ctx.wait_for_event("open")

        @ctx.on_request("add")
        def add(number: int) -> int:
            log.append(number)
            return len(log)

        yield from ctx.wait_for_event("close")
        return log

    story = told(flow)
    story.ask("r1", "add", 10)
    story.tell(asked("r2", "add", 20), asked("r3", "unknown"))
    assert story.answers == {}
    story.event("open")
    assert story.answers == {"r1": 1, "r2": 2}
    story.ask("r4", "add", 30)
    story.event("close")
    assert story.result == [10, 20, 30]


def test_requests_are_held_while_suspended(told: Live) -> None:
    story = told(cart)
    story.tell(ev.InstanceSuspended())
    story.ask("r1", "add", "lamp")
    assert story.answers == {}
    assert story.ask("r1", "add", "lamp").refused
    story.tell(ev.InstanceResumed())
    assert story.answers == {"r1": 1}


def test_a_cancelled_workflow_still_answers_until_it_is_over(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        @ctx.on_request("alive")
        def alive() -> bool:
            return ctx.is_cancelled

        try:
            yield from ctx.sleep(60)
        finally:
            yield from ctx.call_activity(work)

    story = told(flow)
    story.tell(ev.CancelRequested())
    story.ask("r1", "alive")
    assert story.answers == {"r1": True}
    story.complete(2)
    assert story.status is Status.CANCELLED
    assert story.ask("r2", "alive").refused


def test_a_handler_that_is_still_at_work_when_the_workflow_ends_is_dropped(told: Live) -> None:
    story = told(cart)
    story.ask("r1", "reserve", "lamp")
    story.event("pay")
    assert story.result == []
    assert story.answers == {}
    assert story.tell(done(2)).refused


def test_two_handlers_of_one_name_are_refused(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        ctx.on_request("a")(lambda: 1)
        with pytest.raises(UsageError, match="has a handler for request 'a' already"):
            ctx.on_request("a")(lambda: 2)
        with pytest.raises(UsageError):
            ctx.on_request("")
        yield from ctx.wait_for_event("end")

    story = told(flow)
    story.ask("r", "a")
    assert story.answers == {"r": 1}


def test_one_by_one_is_the_same_as_all_at_once(told: Live) -> None:
    coming: list[ev.Observation] = [
        asked("1", "add", "a"), asked("2", "reserve", "b"), asked("3", "add", ""), asked("4", "reserve", "c"),
        asked("2", "add", "z"), received("x"),
    ]  # fmt: skip
    apart, batched = told(cart), told(cart)
    for each in coming:
        apart.tell(each)
    batched.tell(*coming)
    for story in (apart, batched):
        story.complete(3, 3)
        story.complete(2, 2)
        story.event("pay")
    assert apart.result == batched.result == ["a", "c", "b"]
    assert apart.answers.keys() == batched.answers.keys()
    assert [type(each) for each in apart.decisions] == [type(each) for each in batched.decisions]


# -- over rounds ----------------------------------------------------------------------------------------------


def shop(ctx: Context, day: int) -> Any:
    if day:

        @ctx.on_request("buy")
        def buy(item: str) -> Any:
            if item == "slow":
                yield from ctx.call_activity(work)
            return f"{item} on day {day}"

    yield from ctx.wait_for_event("night")
    if day == 3:
        return day
    return ctx.continue_as_new(day + 1)


def test_requests_without_a_handler_wait_for_the_next_round(told: Live) -> None:
    story = told(shop, 0)
    story.ask("r1", "buy", "lamp")
    story.ask("r2", "other")
    story.event("night")
    assert story.answers == {"r1": "lamp on day 1"}
    assert story.tell(asked("r1", "buy", "lamp"), asked("r2", "other")).refused == [
        asked("r1", "buy", "lamp"),
        asked("r2", "other"),
    ], "ids are known in later rounds"
    story.event("night")
    story.event("night")
    story.event("night")
    assert story.result == 3


def test_requests_being_answered_when_the_workflow_begins_anew_are_told_so(told: Live) -> None:
    story = told(shop, 1)
    story.ask("r1", "buy", "slow")
    story.ask("r2", "buy", "lamp")
    story.event("night")
    assert story.answers["r1"].type_name == "ContinuedAsNew"
    assert story.answers["r2"] == "lamp on day 1"
    assert story.tell(done(2)).refused
    story.ask("r3", "buy", "lamp")
    assert story.answers["r3"] == "lamp on day 2"
    assert sorted(each.request_id for each in answers(story)) == ["r1", "r2", "r3"], "each is answered once"


def test_held_requests_go_on_to_the_next_round(told: Live) -> None:
    story = told(shop, 1)
    story.tell(ev.InstanceSuspended())
    story.tell(received("night"), asked("r1", "buy", "lamp"))
    story.tell(ev.InstanceResumed())
    assert story.answers == {"r1": "lamp on day 2"}


# -- queries --------------------------------------------------------------------------------------------------


def test_a_query_looks_and_leaves_no_trace(told: Live) -> None:
    story = told(cart)
    story.ask("r1", "add", "lamp")
    story.ask("r2", "add", "chair")
    rows = len(story.rows)
    assert story.execution.query("items", b"[]") == b'["lamp","chair"]'
    assert story.execution.query("items", b"[1]") == b'["chair"]'
    assert story.tell().events == []
    assert len(story.rows) == rows


def test_a_query_of_what_is_over_sees_what_was_there_last(told: Live) -> None:
    story = told(cart)
    story.ask("r1", "add", "lamp")
    story.event("pay")
    assert story.execution.query("items", b"[]") == b'["lamp"]'


def test_an_unknown_query_says_which_there_are(live: Live) -> None:
    story = live(cart)
    with pytest.raises(UsageError, match="has no query 'x' as far as it has come; it has: 'items'"):
        story.execution.query("x", b"[]")

    def plain(ctx: Context) -> Any:
        yield from ctx.sleep(1)

    with pytest.raises(UsageError, match=r"register one with ctx.on_query\('x'\)"):
        live(plain).execution.query("x", b"[]")


def test_a_query_that_asks_for_something_is_refused_and_asks_for_nothing(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        uses: dict[str, Callable[[], Any]] = {
            "activity": lambda: ctx.call_activity(work),
            "child": lambda: ctx.call_workflow_by_name("k"),
            "message": lambda: ctx.raise_event("x", "n"),
            "sleep": lambda: ctx.sleep(1),
            "status": lambda: ctx.set_custom_status(1),
            "effect": lambda: ctx.side_effect(lambda: 1),
            "dice": ctx.random,
            "spawn": lambda: ctx.spawn(iter(())),  # type: ignore[arg-type]
            "checkpoint": lambda: ctx.checkpoint(1),
            "again": ctx.continue_as_new,
            "request": lambda: ctx.on_request("n")(lambda: 1),
            "query": lambda: ctx.on_query("n")(lambda: 1),
            "patched": lambda: ctx.patched("p"),
        }

        @ctx.on_query("uses")
        def names() -> list[str]:
            return list(uses)

        @ctx.on_query("use")
        def use(name: str) -> object:
            return uses[name]()

        yield from ctx.wait_for_event("end")
        return "well"

    story = told(flow)
    before = len(story.rows)
    for name in ("activity", "child", "message", "sleep", "status", "effect", "dice", "checkpoint", "again",
                 "request", "query", "patched"):  # fmt: skip
        with pytest.raises(UsageError):
            story.execution.query("use", b'["%s"]' % name.encode())
    assert story.tell().events == []
    assert len(story.rows) == before
    story.event("end")
    assert story.result == "well"


def test_a_query_that_raises_or_answers_nonsense_hurts_nobody(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        @ctx.on_query("raises")
        def raises() -> None:
            raise LookupError("lost")

        @ctx.on_query("odd")
        def odd() -> object:
            return object()

        @ctx.on_query("waits")
        def waits() -> Any:
            yield from ctx.sleep(1)

        @ctx.on_query("waits too")
        async def waits_too() -> Any:
            await ctx.sleep(1)

        yield from ctx.wait_for_event("end")
        return "well"

    story = told(flow)
    for name in ("waits", "waits too"):
        with pytest.raises(UsageError, match="it must not wait"):
            story.execution.query(name, b"[]")
    for name in ("raises", "odd"):
        with pytest.raises(Exception, match=r"."):
            story.execution.query(name, b"[]")
    story.event("end")
    assert story.result == "well"


# -- other code -----------------------------------------------------------------------------------------------


def test_a_code_that_answers_otherwise_is_noticed(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        ctx.on_request("a")(lambda: 1)
        yield from ctx.sleep(1)

    def other_answer(ctx: Context) -> Any:
        ctx.on_request("a")(lambda: 2)
        yield from ctx.sleep(1)

    def fails(ctx: Context) -> Any:
        ctx.on_request("a")(lambda: 1 / 0)
        yield from ctx.sleep(1)

    def does_not(ctx: Context) -> Any:
        yield from ctx.sleep(1)

    story = live(flow)
    story.ask("r", "a")
    for changed in (other_answer, fails, does_not):
        with pytest.raises(NondeterminismError, match=r"history #4 of instance 'i' recorded"):
            story.replayed(Workflow(changed, name="flow"))


def test_a_failure_whose_text_differs_is_the_same_answer(live: Live) -> None:
    def fails(ctx: Context) -> Any:
        def handler() -> None:
            raise LookupError(object())

        ctx.on_request("a")(handler)
        yield from ctx.sleep(1)

    story = live(fails)
    story.ask("r", "a")
    story.crash()
