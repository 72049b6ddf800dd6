"""What a saga leaves behind, and what it refuses."""

import gc
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from saga_flows import book, calls, three, three_too, undo_twice, undo_twice_too, with_options
from stories import SECOND, Story, number, other, received, work

from durableflow import ActivityFailed, Context, Saga, Status, UsageError
from durableflow.core.view import fold, numbered
from durableflow.errors import PayloadError, PayloadTooLarge
from durableflow.model import events as ev
from durableflow.model.events import COMPENSATION

Live = Callable[..., Story]


# -- what it leaves behind ---------------------------------------------------------------------------------------


def test_the_history_says_which_activities_were_compensations(live: Live) -> None:
    story = live(with_options(three))
    story.fail(1)
    story.fail(2)
    view = fold(numbered(story.rows))
    assert [(task.name, task.role, task.state) for task in view.tasks] == [
        ("work", "", "failed"),
        ("other", COMPENSATION, "failed"),
    ]


def test_a_compensation_keeps_the_options_of_its_activity(live: Live) -> None:
    undo = other.options(retry=9, timeout=3)

    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(undo, "a")
            await ctx.call_activity(work)

    story = live(flow)
    options = story.fail(1).scheduled[0].options
    assert options is not None
    assert undo.stored_options is not None
    assert (options.retry, options.start_to_close_us) == (undo.stored_options.retry, 3 * SECOND)
    assert undo.stored_options.role == ""


def test_what_was_undone_by_a_list_is_followed_by_a_saga() -> None:
    """So that code may change to it while instances are open."""

    async def by_hand(ctx: Context) -> None:
        undo: list[str] = []
        try:
            for what in "abc":
                undo.append(what)
                await ctx.call_activity(work, what)
        except ActivityFailed:
            for what in reversed(undo):
                await ctx.call_activity(other, what)
            raise

    story = Story(by_hand)
    story.complete(1)
    story.fail(2)
    story.complete(3)
    flow = three
    flow_named = with_options(flow)
    flow_named.__name__ = "by_hand"
    replayed = story.replayed(flow_named)
    assert replayed.status is Status.RUNNING
    replayed.put_away()
    story.execution.put_away()


def test_arguments_are_what_they_were_when_they_were_registered(live: Live) -> None:
    async def flow(ctx: Context) -> None:
        seats = ["12A"]
        async with ctx.saga() as saga:
            saga.compensate_with(other, seats)
            seats.clear()
            await ctx.call_activity(work)

    story = live(flow)
    assert story.fail(1).scheduled[0].input == b'[["12A"]]'
    story.complete(2)


def _undone() -> None:
    story = Story(three)
    story.fail(1)
    story.complete(2)


def _undone_too() -> None:
    story = Story(three_too)
    story.fail(1)
    story.complete(2)


def _half_undone() -> None:
    story = Story(three)
    story.complete(1)
    story.fail(2)
    story.fail(3)
    story.complete(4)


def _half_undone_too() -> None:
    story = Story(three_too)
    story.complete(1)
    story.fail(2)
    story.tell(ev.CancelRequested())
    story.fail(3)
    story.fail(4)


def _cancelled() -> None:
    story = Story(three)
    story.fail(1)
    story.tell(ev.CancelRequested())
    story.complete(2)


def _put_away() -> None:
    story = Story(three)
    story.fail(1)
    story.execution.put_away()


@pytest.mark.parametrize("lives", [_undone, _undone_too, _half_undone, _half_undone_too, _cancelled, _put_away])
def test_a_saga_leaves_nothing_to_the_garbage_collector(lives: Callable[[], None]) -> None:
    lives()
    while gc.collect():
        pass
    gc.disable()
    try:
        lives()
        assert gc.collect() == 0
    finally:
        gc.enable()


# -- what is refused ---------------------------------------------------------------------------------------------


def plain(what: str) -> None: ...


async def unwound(ctx: Context) -> None: ...


WRONG: dict[str, tuple[Callable[[Saga, Context], Any], str]] = {
    "a plain function": (
        lambda saga, ctx: saga.compensate_with(plain, "a"),  # type: ignore[arg-type]
        "an activity, or a generator or coroutine function, not <function plain.*decorate it: @activity def plain",
    ),
    "no function": (lambda saga, ctx: saga.compensate_with(5), "not 5$"),  # type: ignore[arg-type,call-arg]
    "a call": (
        lambda saga, ctx: saga.compensate_with(undo_twice_too(ctx, "a")),
        r"takes the function and its arguments, not its call: compensate_with\(undo_twice_too, ...\)",
    ),
    "a task": (lambda saga, ctx: saga.compensate_with(ctx.call_activity(other)), "not its call"),  # type: ignore[arg-type,call-arg]
    "other arguments of a function": (
        lambda saga, ctx: saga.compensate_with(undo_twice, ctx),  # type: ignore[call-arg]
        "has other arguments than it takes: missing a required argument: 'what'",
    ),
    "a task to be undone that is none": (
        lambda saga, ctx: saga.compensate_with(other).after(5),  # type: ignore[arg-type]
        "after takes a task, as ctx.call_activity gives it, not 5",
    ),
    "guard without a call": (
        lambda saga, ctx: ctx.saga().guard(book),  # type: ignore[arg-type]
        r"guard takes a generator or coroutine, not <function book.*saga.guard\(book\(ctx, saga\)\)",
    ),
    "guard of a saga in use": (
        lambda saga, ctx: next(saga.guard(book(ctx, saga))),
        "cannot be entered a second time",
    ),
    "a part of what is none": (lambda saga, ctx: ctx.saga(part_of=5), "part_of takes the saga"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_use_says_what_to_write(live: Live, wrong: str) -> None:
    use, message = WRONG[wrong]

    async def flow(ctx: Context) -> str:
        async with ctx.saga() as saga:
            with pytest.raises(UsageError, match=message):
                use(saga, ctx)
        return "refused"

    assert live(flow).result == "refused"


def test_arguments_that_cannot_be_stored_are_refused_before_anything_is_done(live: Live) -> None:
    async def flow(ctx: Context) -> str:
        async with ctx.saga() as saga:
            with pytest.raises(PayloadError):
                saga.compensate_with(other, object())
            with pytest.raises(PayloadTooLarge, match="the arguments of activity 'other'"):
                saga.compensate_with(other, "x" * 200)
            with pytest.raises(UsageError, match="the arguments of activity 'other': too many positional arguments"):
                saga.compensate_with(other, 1, 2)  # type: ignore[call-arg]
        return "refused"

    assert live(flow, payload_limit_bytes=100).result == "refused"


def test_a_saga_that_nobody_would_undo_takes_nothing(live: Live) -> None:
    async def flow(ctx: Context) -> str:
        saga = ctx.saga()
        with pytest.raises(UsageError, match=r"was not entered; enter it with `async with ctx.saga\(\) as saga:`"):
            saga.compensate_with(other, "a")
        with pytest.raises(UsageError, match=r"compensate\(\) has nothing to undo: the saga was not entered"):
            saga.compensate()
        async with saga:
            pass
        with pytest.raises(UsageError, match="the saga is over"):
            saga.compensate_with(other, "a")
        with pytest.raises(UsageError, match="make another with"):
            async with saga:
                pass
        return repr(saga)

    assert live(flow).result == "<saga with 0 compensations, which is over>"


def test_options_that_do_not_go_together_are_refused(live: Live) -> None:
    async def flow(ctx: Context) -> str:
        with pytest.raises(ValueError, match="on_failure is 'ignore', but must be 'go_on' or 'stop'"):
            ctx.saga(on_failure="ignore")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="on_failure='stop' needs an order"):
            ctx.saga(parallel=True, on_failure="stop")
        return "refused"

    assert live(flow).result == "refused"


def test_an_event_goes_to_the_compensation_that_waits_for_it(live: Live) -> None:
    async def ask(ctx: Context) -> None:
        await ctx.call_activity(other, await ctx.wait_for_event("how", str))

    async def flow(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate_with(ask, ctx)
            await ctx.call_activity(number)

    story = live(flow)
    story.fail(1)
    story.tell(received("how", "gently"))
    assert calls(story)[1:] == ["other gently"]
    story.complete(3)


def test_a_checkpoint_is_refused_while_a_saga_has_something_to_undo(live: Live) -> None:
    async def flow(ctx: Context) -> str:
        await ctx.sleep(1)
        async with ctx.saga() as saga:
            saga.compensate_with(other, "a")
            with pytest.raises(UsageError, match="checkpoint was called inside <saga with 1 compensations"):
                ctx.checkpoint(1)
            saga.keep()
        return "refused"

    story = live(flow)
    story.wait(1)
    assert story.result == "refused"


def test_of_many_sagas_a_checkpoint_names_the_first_that_has_something_to_undo(live: Live) -> None:
    """In a replay, too, whatever their addresses are."""

    async def flow(ctx: Context) -> str:
        await ctx.sleep(1)
        async with AsyncExitStack() as stack:
            sagas = [await stack.enter_async_context(ctx.saga()) for _ in range(30)]
            for count, saga in enumerate(sagas):
                for _ in range(count):
                    saga.compensate_with(other, "a")
            named = []
            for saga in sagas[1:]:
                with pytest.raises(UsageError) as refused:
                    ctx.checkpoint(1)
                named.append(int(str(refused.value).split()[6]))
                saga.keep()
            return str(named == list(range(1, 30)))

    story = live(flow)
    story.wait(1)
    assert story.result == "True"
