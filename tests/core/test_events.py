"""External events: kept, first in first out, each for one waiter."""

from collections.abc import Callable
from typing import Any

import pytest
from stories import NOON, SECOND, Story, received, work

from durableflow import Context, EventTimeout, Status
from durableflow.model import events as ev

Live = Callable[..., Story]


def test_two_waiters_are_served_first_in_first_out(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        first, second = ctx.wait_for_event("e"), ctx.wait_for_event("e")
        b = yield from second
        return [first.result(), b]

    story = live(flow)
    story.event("e", 1)
    assert story.status is Status.RUNNING, "the second waits on"
    story.event("e", 2)
    assert story.result == [1, 2]


def test_early_events_are_kept_in_order_and_answer_at_once(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        one = yield from ctx.wait_for_event("e")
        two = yield from ctx.wait_for_event("e")
        return [one, two, (yield from ctx.wait_for_event("e"))]

    story = live(flow)
    for n in range(3):
        story.event("e", n)
    turn = story.wait(1)
    assert [type(e).__name__ for e in turn.events] == ["TimerFired", *["EventAwaited"] * 3, "InstanceCompleted"]
    assert story.result == [0, 1, 2]


@pytest.mark.parametrize(("sent", "awaited"), [("Approved", "aPPROVED"), ("STRASSE", "straße"), ("ΣΑΣ", "σας")])
def test_names_are_compared_casefolded(live: Live, sent: str, awaited: str) -> None:
    def flow(ctx: Context) -> Any:
        early = yield from ctx.wait_for_event(awaited)
        return [early, (yield from ctx.wait_for_event(awaited))]

    story = live(flow)
    story.event(sent, 1)
    story.event(awaited, 2)
    assert story.result == [1, 2]


def test_names_do_not_mix(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return [(yield from ctx.wait_for_event("b")), (yield from ctx.wait_for_event("a"))]

    story = live(flow)
    story.tell(received("a", "A"), received("b", "B"))
    assert story.result == ["B", "A"]


def test_an_event_id_is_delivered_once_also_after_it_was_consumed(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return [(yield from ctx.wait_for_event("e")), (yield from ctx.wait_for_event("e"))]

    story = live(flow)
    story.event("e", 1, "id")
    assert story.event("e", 1, "id").refused == [received("e", 1, "id")]
    story.crash()
    assert story.event("other name", 1, "id").refused, "the id is the instance's, not the name's"
    story.event("e", 2, "id 2")
    assert story.result == [1, 2]


def test_without_an_id_equal_events_are_two(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return [(yield from ctx.wait_for_event("e")), (yield from ctx.wait_for_event("e"))]

    story = live(flow)
    story.tell(received("e", 1), received("e", 1))
    assert story.result == [1, 1]


def race(ctx: Context) -> Any:
    try:
        return (yield from ctx.wait_for_event("e", timeout=60))
    except EventTimeout as error:
        try:
            late = yield from ctx.wait_for_event("e", timeout=60)
        except EventTimeout:
            late = None
        return [error.name, str(error), isinstance(error, TimeoutError), late]


def test_an_event_before_its_timeout_takes_the_timer_with_it(live: Live) -> None:
    story = live(race)
    assert story.execution.wake_us() == NOON + 60 * SECOND
    story.event("e", "in time")
    assert story.result == "in time"
    assert story.wait(60).events == []


def test_the_timer_of_a_wait_that_was_answered_is_not_due_any_more(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.wait_for_event("e", timeout=60)
        yield from ctx.wait_for_event("more")

    story = live(flow)
    story.event("e")
    assert story.execution.wake_us() is None
    assert story.wait(60).events == []
    assert story.tell(ev.TimerFired(1)).refused == [ev.TimerFired(1)]


def test_a_waiter_that_gave_up_leaves_its_place_in_the_queue(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        first, second, third = (ctx.wait_for_event("e") for _ in range(3))
        yield from ctx.sleep(1)
        first.cancel()
        return [(yield from second), (yield from third)]

    story = live(flow)
    story.wait(1)
    story.event("e", "for the second")
    story.event("e", "for the third")
    assert story.result == ["for the second", "for the third"]


def test_an_event_after_its_timeout_is_kept_for_the_next_wait(live: Live) -> None:
    story = live(race)
    story.wait(60)
    story.event("e", "late")
    assert story.result == ["e", "no event 'e' came in time", True, "late"]


def test_a_wait_may_time_out_again_and_again(live: Live) -> None:
    story = live(race)
    story.wait(60)
    story.wait(60)
    assert story.result[-1] is None


@pytest.mark.parametrize("timer_first", [True, False])
def test_an_event_and_the_timer_of_one_moment_go_by_the_order_of_the_history(live: Live, timer_first: bool) -> None:
    story = live(race)
    story.now_us += 60 * SECOND
    both: list[ev.Observation] = [ev.TimerFired(1), received("e", "at noon")]
    turn = story.tell(*(both if timer_first else both[::-1]))
    if timer_first:
        assert not turn.refused
        assert story.result[-1] == "at noon"
    else:
        assert turn.refused == [ev.TimerFired(1)]
        assert story.result == "at noon"


def test_timers_of_one_moment_fire_in_the_order_in_which_they_were_made(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        late, a, b = ctx.sleep(2), ctx.sleep(1), ctx.create_timer(ctx.now().replace(second=1))
        first = yield from ctx.when_any(a, b, late)
        return [first is a, b.done, late.done]

    story = live(flow)
    assert story.execution.due_observations(NOON + 2 * SECOND) == [ev.TimerFired(2), ev.TimerFired(3), ev.TimerFired(1)]
    story.crash()
    story.wait(2)
    assert story.result == [True, False, False]


def test_timers_never_fire_early_and_never_twice(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        yield from ctx.wait_for_event("e")

    story = live(flow)
    story.now_us += SECOND - 1
    assert story.tell(ev.TimerFired(1)).refused
    assert story.execution.due_observations(story.now_us) == []
    story.now_us += 1
    assert story.tell(ev.TimerFired(1), ev.TimerFired(1)).refused == [ev.TimerFired(1)]
    assert story.wait(100).events == []


def test_a_timer_in_the_past_is_due_at_once(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.create_timer(ctx.now().replace(year=2000))
        yield from ctx.sleep(0)
        return ctx.now().year

    story = live(flow)
    assert story.execution.wake_us() == NOON
    story.wait(0)
    story.wait(0)
    assert story.result == 2027


@pytest.mark.parametrize("duration", [-1, float("nan"), float("inf"), 1e300, "5", None])
def test_a_duration_that_is_none_is_refused_where_it_is_written(live: Live, duration: Any) -> None:
    def flow(ctx: Context) -> Any:
        texts: list[str] = []
        for ask in (lambda: ctx.sleep(duration), lambda: ctx.wait_for_event("e", timeout=duration)):
            try:
                ask()
            except ValueError as error:
                texts.append(str(error))
        return texts

    story = live(flow)
    assert len(story.result) == (1 if duration is None else 2)
    assert all("seconds or a timedelta" in text or "from 0 to 200 years" in text for text in story.result)


def test_a_moment_without_a_time_zone_is_refused(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.create_timer(ctx.now().replace(tzinfo=None))

    assert "has no time zone" in live(flow).failure.message


def test_a_payload_of_the_wrong_type_is_raised_at_the_wait_and_is_used_up(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        try:
            yield from ctx.wait_for_event("e", bool)
        except ValueError as error:
            return [str(error).partition(";")[0], (yield from ctx.wait_for_event("e", bool))]

    story = live(flow)
    story.tell(received("e", "yes"), received("e", True))
    text, then = story.result
    assert text.startswith("a stored value does not fit bool: Expected `bool`, got `str`")
    assert then is True


def test_two_waiters_of_one_bad_payload_see_the_same_error_clean(live: Live) -> None:
    def waits(task: Any) -> Any:
        try:
            yield from task
        except ValueError as error:
            return [type(error).__name__, repr(error.__context__)]

    def flow(ctx: Context) -> Any:
        task = ctx.wait_for_event("e", int)
        return (yield from ctx.when_all([ctx.spawn(waits(task)) for _ in range(2)]))

    story = live(flow)
    story.event("e", "x")
    one, two = story.result
    assert one == two


def test_events_that_nobody_waits_for_do_not_disturb(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return (yield from ctx.call_activity(work))

    story = live(flow)
    assert story.event("whatever", {"x": 1}).events == [received("whatever", {"x": 1})]
    story.complete(1, 5)
    assert story.result == 5


def test_a_loop_of_waits_that_time_out_leaves_nothing_behind(live: Live) -> None:
    sizes: list[int] = []

    def flow(ctx: Context) -> Any:
        for _ in range(200):
            try:
                yield from ctx.wait_for_event("e", timeout=1)
            except EventTimeout:
                mailbox = story.execution.mailbox
                sizes.append(len(mailbox._waiters["e"]) if mailbox else 0)
        return (yield from ctx.wait_for_event("e"))

    story = live(flow)
    for _ in range(200):
        story.wait(1)
    story.event("e", "still heard")
    assert story.result == "still heard"
    assert max(sizes) <= 2


@pytest.mark.parametrize("name", ["", " ", "a\0b", "\ud800", "x" * 501, 5, None])
def test_a_name_that_not_every_store_can_hold_is_refused(live: Live, name: Any) -> None:
    def flow(ctx: Context) -> Any:
        ctx.wait_for_event(name)

    assert live(flow).failure.type_name == "durableflow.errors.UsageError"
