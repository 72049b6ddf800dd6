"""Cancelled, terminated, out of time, put away: how instances end, and what their code may still do."""

import gc
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from stories import NOON, SECOND, Story, done, other, received, work

from durableflow import Cancelled, Context, Status, UsageError
from durableflow.errors import DirectCallError
from durableflow.model import events as ev
from durableflow.model.failure import Failure

Live = Callable[..., Story]


# -- cancel ---------------------------------------------------------------------------------------------------


def tidy(ctx: Context) -> Any:
    try:
        return (yield from ctx.call_activity(work))
    except Cancelled as error:
        assert ctx.is_cancelled
        yield from ctx.call_activity(other, error.reason)
        raise


async def tidy_too(ctx: Context) -> Any:
    try:
        return await ctx.call_activity(work)
    except Cancelled as error:
        await ctx.call_activity(other, error.reason)
        raise


@pytest.mark.parametrize("flow", [tidy, tidy_too])
def test_cancel_is_raised_once_at_the_wait_and_clean_up_may_call_activities(live: Live, flow: Any) -> None:
    story = live(flow)
    turn = story.tell(ev.CancelRequested("enough"))
    assert [a.input for a in turn.scheduled] == [b'["enough"]']
    assert story.tell(ev.CancelRequested("again")).refused == [ev.CancelRequested("again")]
    assert story.status is Status.RUNNING
    turn = story.complete(2)
    assert turn.events[-1] == ev.InstanceCancelled("enough")
    assert turn.cancelled == [1], "the activity that it was waiting for is told"
    assert story.status is Status.CANCELLED


def test_code_that_does_not_care_ends_at_once(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.sleep(60)
        except Exception:
            return "swallowed"

    story = live(flow)
    assert story.tell(ev.CancelRequested("bye")).events[-1] == ev.InstanceCancelled("bye")
    assert (story.status, story.execution.wake_us()) == (Status.CANCELLED, None)


def test_a_swallowed_cancel_lets_the_instance_complete(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        with suppress(Cancelled):
            yield from ctx.sleep(60)
        return [(yield from ctx.call_activity(work)), ctx.is_cancelled]

    story = live(flow)
    story.tell(ev.CancelRequested())
    story.complete(2, "on")
    assert story.result == ["on", True]


def test_another_error_in_the_clean_up_is_a_failure(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.sleep(60)
        finally:
            raise LookupError("in clean-up")

    story = live(flow)
    story.tell(ev.CancelRequested())
    assert (story.failure.type_name, story.failure.cause) == (
        "LookupError",
        Failure("durableflow.errors.Cancelled", "the instance was cancelled", story.failure.cause.traceback_text),  # type: ignore[union-attr]
    )


def test_a_cancel_before_the_beginning_runs_no_code(live: Live) -> None:
    begun: list[int] = []

    def flow(ctx: Context) -> Any:
        begun.append(1)
        yield from ctx.sleep(1)

    story = live(flow, start_at_s=5)
    request = ev.CancelRequested("early")
    assert story.tell(request).events == [request, ev.InstanceCancelled("early")]
    assert (story.status, begun) == (Status.CANCELLED, [])


@pytest.mark.parametrize("cancel_first", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_a_cancel_and_a_result_are_both_heard_in_the_order_of_the_history(
    live: Live, cancel_first: bool, batched: bool
) -> None:
    def flow(ctx: Context) -> Any:
        log: list[Any] = []
        task = ctx.call_activity(work)
        for _ in range(2):
            try:
                log.append((yield from task))
                yield from ctx.sleep(60)
            except Cancelled:
                log.append("cancel")
        return log

    story = live(flow)
    observed: list[ev.Observation] = [ev.CancelRequested(), done(1, "result")]
    if not cancel_first:
        observed.reverse()
    for batch in [observed] if batched else [[each] for each in observed]:
        story.tell(*batch)
    if story.status is Status.RUNNING:
        story.wait(60)
    assert story.result == (["cancel", "result"] if cancel_first else ["result", "cancel", "result"])


def test_a_cancel_strikes_a_wait_for_a_combination_and_its_parts_go_on(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        a, b = ctx.call_activity(work, "a"), ctx.call_activity(work, "b")
        try:
            yield from ctx.when_all(a, b)
        except Cancelled:
            return (yield from ctx.when_all(a, b))

    story = live(flow)
    story.complete(1, "A")
    story.tell(ev.CancelRequested())
    story.complete(2, "B")
    assert story.result == ["A", "B"]


def test_a_cancelled_error_of_ones_own_is_a_failure(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        raise Cancelled("nobody asked")

    assert live(flow).failure.type_name == "durableflow.errors.Cancelled"


# -- terminate, deadline --------------------------------------------------------------------------------------


def waits_for_anything(ctx: Context) -> Any:
    try:
        yield from ctx.when_any(ctx.call_activity(work), ctx.sleep(60), ctx.wait_for_event("e"))
        yield from ctx.sleep(60)
    except BaseException as error:
        if not isinstance(error, GeneratorExit):
            yield from ctx.sleep(60)
        raise


STATES: dict[str, tuple[list[ev.Observation], Status]] = {
    "running": ([], Status.RUNNING),
    "after a result": ([done(1)], Status.RUNNING),
    "between attempts": ([ev.AttemptFailed(1, 1, Failure("E"), NOON)], Status.RUNNING),
    "suspended": ([ev.InstanceSuspended()], Status.SUSPENDED),
    "suspended, holding": ([ev.InstanceSuspended(), done(1), received("e")], Status.SUSPENDED),
    "cleaning up": ([ev.CancelRequested()], Status.RUNNING),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("by", ["terminate", "deadline"])
def test_terminate_and_deadline_win_in_every_state_and_no_code_runs_after(live: Live, state: str, by: str) -> None:
    story = live(waits_for_anything, deadline_s=30)
    observed, status = STATES[state]
    story.tell(*observed)
    assert story.status is status
    running = list(story.execution.activities)
    end: ev.Observation
    if by == "terminate":
        end, final = ev.InstanceTerminated("enough"), Status.TERMINATED
    else:
        end, final = ev.InstanceTimedOut(), Status.FAILED
        assert story.tell(end).refused, "not before"
        story.now_us += 30 * SECOND
        assert story.execution.due_observations(story.now_us) == [end]
    turn = story.tell(end)
    assert turn.events == [end], "no decision of the code's comes with it or after it"
    assert list(turn.cancelled) == running
    assert story.status is final
    for later in (done(1), received("e"), ev.TimerFired(2), ev.CancelRequested(), ev.InstanceResumed(), end):
        assert story.tell(later).refused == [later]
    assert story.execution.due_observations(story.now_us * 2) == []


@pytest.mark.parametrize("end", [ev.InstanceTerminated(), ev.InstanceTimedOut()], ids=ev.tag_of)
def test_an_instance_that_never_began_can_be_ended(live: Live, end: ev.Observation) -> None:
    story = live(waits_for_anything, start_at_s=60, deadline_s=1)
    story.now_us += SECOND
    assert story.tell(end).events == [end]
    assert story.status.is_terminal


def test_terminate_wins_over_what_comes_in_the_same_turn_after_it(live: Live) -> None:
    story = live(waits_for_anything)
    turn = story.tell(done(1), ev.InstanceTerminated(), done(1), received("e"))
    assert turn.refused == [done(1), received("e")]
    assert turn.events[:2] == [done(1), ev.InstanceTerminated()]
    assert story.status is Status.TERMINATED


def test_a_deadline_counts_with_the_timers_of_its_moment_first(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(30)
        return "in time"

    story = live(flow, deadline_s=30)
    assert story.execution.wake_us() == 0 or story.execution.wake_us() == NOON + 30 * SECOND
    story.wait(30)
    assert story.result == "in time"


# -- put away -------------------------------------------------------------------------------------------------


def put_away_while_waiting(live: Live, flow: Callable[..., Any]) -> Story:
    story = live(flow)
    assert story.status is Status.RUNNING
    story.execution.put_away()
    story.execution = story.replayed()
    return story


def test_finally_blocks_run_when_code_is_put_away_but_their_context_is_inert(live: Live) -> None:
    log: list[str] = []

    def uses(ctx: Context) -> list[Callable[[], Any]]:
        return [
            lambda: ctx.call_activity(work),
            lambda: ctx.call_activity_by_name("work"),
            lambda: ctx.sleep(1),
            lambda: ctx.wait_for_event("e"),
            lambda: ctx.set_custom_status("gone"),
            lambda: ctx.side_effect(lambda: log.append("effect")),
            lambda: ctx.when_all([]),
            lambda: ctx.when_any([]),
            lambda: ctx.spawn(x for x in ()),  # type: ignore[arg-type]
            ctx.random,
            ctx.uuid4,
            sleeping[-1].cancel,
        ]

    sleeping: list[Any] = []

    def flow(ctx: Context) -> Any:
        sleeping.append(ctx.sleep(60))
        try:
            yield from sleeping[-1]
        finally:
            for use in uses(ctx):
                try:
                    use()
                except GeneratorExit:
                    log.append("inert")
            log.append(f"{ctx.is_replaying} {ctx.now().year} {ctx.logger.isEnabledFor(50)}")

    story = live(flow)
    rows = list(story.rows)
    before = story.execution.next_seq
    story.execution.put_away()
    assert log == ["inert"] * 12 + ["True 2027 False"]
    assert (story.execution.next_seq, story.execution.custom_status) == (before, None)
    assert story.rows == rows
    story.crash()


def test_a_coroutine_that_is_spawned_while_its_instance_is_put_away_is_closed(live: Live) -> None:
    async def branch(ctx: Context) -> None:
        await ctx.sleep(1)

    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep(60)
        finally:
            ctx.spawn(branch(ctx))

    story = live(flow)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        story.execution.put_away()
        gc.collect()
    assert warned == []


def test_an_activity_called_directly_in_a_finally_block_is_refused_also_then(live: Live) -> None:
    refused: list[str] = []

    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.sleep(60)
        finally:
            try:
                work(5)
            except DirectCallError as error:
                refused.append(str(error))

    put_away_while_waiting(live, flow)
    assert "ctx.call_activity(work, 5)" in refused[0]


def test_a_finally_block_that_waits_is_left_at_once(live: Live) -> None:
    log: list[str] = []

    def flow(ctx: Context) -> Any:
        done_by_now = ctx.when_all([])
        never = ctx.sleep(60)
        try:
            yield from never
        finally:
            try:
                yield done_by_now
                log.append("delivered")
            finally:
                try:
                    yield from never
                    log.append("delivered")
                finally:
                    yield from ctx.call_activity(work)
                    log.append("delivered")

    put_away_while_waiting(live, flow)
    assert log == []


async def _cleans(ctx: Context, log: list[str]) -> None:
    try:
        await ctx.sleep(60)
    finally:
        log.append("branch")
        await ctx.call_activity(work)
        log.append("delivered")


def test_coroutines_and_branches_are_put_away_too_in_the_order_of_their_making(live: Live) -> None:
    log: list[str] = []

    async def flow(ctx: Context) -> Any:
        for _ in range(2):
            ctx.spawn(_cleans(ctx, log))
        try:
            await ctx.wait_for_event("e")
        finally:
            log.append("main")

    put_away_while_waiting(live, flow)
    assert log == ["branch", "branch", "main"]


@pytest.mark.parametrize("error", [ValueError, RuntimeError, SystemExit, GeneratorExit, StopIteration, Cancelled])
def test_what_a_finally_block_raises_then_concerns_nobody(live: Live, error: type[BaseException]) -> None:
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.sleep(60)
        finally:
            raise error

    put_away_while_waiting(live, flow)


def test_code_that_swallows_everything_in_a_loop_can_be_put_away() -> None:
    over: list[bool] = []
    calls: list[int] = []

    def flow(ctx: Context) -> Any:
        while not over:
            calls.append(1)
            assert len(calls) < 100_000
            with suppress(BaseException):
                yield from ctx.sleep(60)

    story, evicted = Story(flow), Story(flow)
    suspended = [each.execution._main and each.execution._main.steps for each in (story, evicted)]
    evicted.execution.put_away()
    story.tell(ev.InstanceTerminated())
    assert story.status is Status.TERMINATED
    assert len(story.decisions) == len(evicted.decisions) == 1
    over.append(True)  # else Python would complain, rightly, when it drops the generators
    suspended.clear()


def test_putting_away_twice_or_after_the_end_is_nothing(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(60)

    story = live(flow)
    story.tell(ev.InstanceTerminated())
    story.execution.put_away()
    story.execution.put_away()


def test_a_keyboard_interrupt_passes_through(live: Live) -> None:
    def at_once(ctx: Context) -> Any:
        raise KeyboardInterrupt

    def later(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        raise KeyboardInterrupt

    def on_leaving(ctx: Context) -> Any:
        try:
            yield from ctx.sleep(1)
        finally:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Story(at_once)
    story = Story(later)
    with pytest.raises(KeyboardInterrupt):
        story.wait(1)
    with pytest.raises(KeyboardInterrupt):
        Story(on_leaving).execution.put_away()


# -- what user code may raise and return ----------------------------------------------------------------------


def _recurse(n: int) -> int:
    return _recurse(n + 1) + 1


def _raise(error: BaseException) -> Any:
    raise error


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Incomparable(Exception):
    def __eq__(self, _: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("break_it", "type_name"),
    [
        (lambda: sys.exit(3), "SystemExit"),
        (lambda: _raise(GeneratorExit()), "GeneratorExit"),
        (lambda: _raise(StopIteration(5)), "RuntimeError"),
        (lambda: _recurse(0), "RecursionError"),
        (lambda: _raise(Unprintable()), f"{__name__}.Unprintable"),
        (lambda: _raise(Incomparable()), f"{__name__}.Incomparable"),
        (lambda: _raise(MemoryError()), "MemoryError"),
        (lambda: _raise(ExceptionGroup("several", [ValueError("a")])), "ExceptionGroup"),
    ],
    ids=["exit", "generator exit", "stop iteration", "recursion", "unprintable", "incomparable", "memory", "group"],
)
@pytest.mark.parametrize("when", ["first", "later", "plain", "branch", "coroutine"])
def test_whatever_user_code_raises_fails_its_own_instance(
    live: Live, break_it: Callable[[], Any], type_name: str, when: str
) -> None:
    def first(ctx: Context) -> Any:
        break_it()
        yield from ctx.sleep(1)

    def later(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        try:
            raise LookupError("an earlier one")
        except LookupError:
            break_it()

    def plain(ctx: Context) -> Any:
        break_it()

    def branch(ctx: Context) -> Any:
        yield from ctx.spawn(later(ctx))

    async def coroutine(ctx: Context) -> Any:
        await ctx.sleep(1)
        break_it()

    flows = {"first": first, "later": later, "plain": plain, "branch": branch, "coroutine": coroutine}
    story = live(flows[when])
    if when not in {"first", "plain"}:
        story.wait(1)
    expected = {type_name, "StopIteration"} if when == "plain" else {type_name}
    assert story.failure.type_name in expected
    assert "core/execution.py" not in story.failure.traceback_text.partition("\n")[0]


def test_a_failure_records_its_causes_and_the_users_own_lines(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        try:
            raise OSError("disk")
        except OSError as error:
            raise LookupError("record") from error

    story = live(flow)
    story.wait(1)
    failure = story.failure
    assert failure.cause is not None
    assert [failure.type_name, failure.message] == ["LookupError", "record"]
    assert [failure.cause.type_name, failure.cause.message] == ["OSError", "disk"]
    assert failure.traceback_text.splitlines()[0].startswith(f'  File "{__file__}"')
    assert 'raise LookupError("record") from error' in failure.traceback_text


class Explosive:
    def __repr__(self) -> str:
        raise RuntimeError("no picture")


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, float("nan"), "\ud800", 10**5000, {"a": [float("inf")]}, Explosive(), lambda: 0],
    ids=["object", "int key", "nan", "surrogate", "huge", "inside", "explosive", "function"],
)  # fmt: skip
def test_a_result_that_cannot_be_stored_fails_the_instance(live: Live, value: object) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        return value

    story = live(flow)
    story.wait(1)
    assert story.status is Status.FAILED
    if not isinstance(value, Explosive):
        assert story.failure.message.startswith("the result of workflow 'flow'")


def test_payloads_over_the_limit_are_refused_where_they_are_made(live: Live) -> None:
    big = "x" * 100

    def flow(ctx: Context) -> Any:
        texts: list[str] = []
        uses: list[Callable[[], Any]] = [
            lambda: ctx.call_activity(work, big),
            lambda: ctx.call_activity_by_name("elsewhere", big),
            lambda: ctx.set_custom_status(big),
            lambda: ctx.side_effect(lambda: big),
        ]
        for use in uses:
            try:
                use()
            except Exception as error:
                texts.append(str(error))
        yield from ctx.sleep(1)
        return len(texts), ["over the limit of 90" in text for text in texts]

    story = live(flow, payload_limit_bytes=90)
    assert [type(e).__name__ for e in story.decisions] == ["SideEffectRecorded", "TimerCreated"]
    story.wait(1)
    assert story.result == [4, [True] * 4]

    def returns(ctx: Context) -> Any:
        return big

    assert live(returns, payload_limit_bytes=90).failure.type_name == "durableflow.errors.PayloadTooLarge"

    def fits(ctx: Context) -> Any:
        return big[:88]

    assert live(fits, payload_limit_bytes=90).status is Status.COMPLETED


def test_arguments_that_do_not_fit_fail_the_instance_with_what_was_wrong(live: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        return n

    story = live(flow, "seven")
    assert story.failure.type_name == "durableflow.errors.PayloadError"
    assert "Expected `int`, got `str`" in story.failure.message
    with pytest.raises(UsageError, match="missing a required argument: 'n'"):
        live(flow)
