"""`when_all` and `when_any`, nested, empty, wide and deep."""

from collections.abc import Callable
from typing import Any

import pytest
from stories import Story, done, failed, other, received, work

from durableflow import ActivityFailed, Context, Status, TaskCancelled
from durableflow.errors import ForeignAwaitError, UsageError
from durableflow.model import events as ev

Live = Callable[..., Story]


def test_when_all_gives_results_in_the_order_of_its_arguments(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        listed = yield from ctx.when_all([ctx.call_activity(work, n) for n in range(3)])
        first, second = yield from ctx.when_all(ctx.call_activity(work), ctx.sleep(1))
        return [listed, first, second]

    story = live(flow)
    story.tell(done(3, "c"), done(1, "a"), done(2, "b"))
    story.complete(4, "d")
    story.wait(1)
    assert story.result == [["a", "b", "c"], "d", None]


def test_tasks_as_arguments_give_a_tuple_and_an_iterable_gives_a_list(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        kinds = [
            (yield from ctx.when_all()),
            (yield from ctx.when_all([])),
            (yield from ctx.when_all(ctx.sleep(0))),
            (yield from ctx.when_all([ctx.sleep(0)])),
            (yield from ctx.when_all(ctx.sleep(0) for _ in range(2))),
            (yield from ctx.when_all(ctx.sleep(0), ctx.sleep(0))),
        ]
        return [repr(kind) for kind in kinds]

    story = live(flow)
    while story.status is Status.RUNNING:
        story.wait(0)
    assert story.result == ["()", "[]", "(None,)", "[None]", "[None, None]", "(None, None)"]


def test_when_all_waits_for_all_and_then_raises_the_failure_that_came_first(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        tasks = [ctx.call_activity(work, n) for n in range(3)]
        try:
            yield from ctx.when_all(tasks)
        except ActivityFailed as error:
            return [error.message, [task.done for task in tasks], tasks[1].result()]

    story = live(flow)
    assert story.fail(3, message="third").events == [failed(3, message="third")], "it goes on waiting"
    story.fail(1, message="first")
    story.complete(2, "well")
    assert story.result == ["third", [True, True, True], "well"]


def test_when_any_gives_the_first_that_is_done_and_the_others_stay_usable(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        a, b, timer = ctx.call_activity(work, "a"), ctx.call_activity(work, "b"), ctx.sleep(60)
        winner = yield from ctx.when_any(a, b, timer)
        late = yield from a
        return [winner is b, winner.result(), late, timer.cancel(), timer.cancelled, timer.cancel()]

    story = live(flow)
    story.complete(2, "B")
    story.complete(1, "A")
    assert story.result == [True, "B", "A", True, True, False]
    assert story.execution.wake_us() is None


def test_a_failure_wins_when_any_and_is_raised_by_its_result(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        a, b = ctx.call_activity(work, "a"), ctx.call_activity(work, "b")
        winner = yield from ctx.when_any([a, b])
        assert winner is b
        return winner.result()

    story = live(flow)
    story.fail(2, message="lost")
    assert story.failure.type_name == "durableflow.errors.ActivityFailed"
    assert "lost" in story.failure.message
    assert story.turn.cancelled == [1]


def test_nothing_to_wait_for_ends_at_once(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        return [(yield from ctx.when_all([])), (yield from ctx.when_any([])), (yield from ctx.when_any())]

    assert live(flow).result == [[], None, None]


def test_parts_that_are_done_already_count(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        a, b = ctx.call_activity(work, "a"), ctx.call_activity(work, "b")
        yield from ctx.when_all(a, b)
        never = ctx.wait_for_event("never")
        winner = yield from ctx.when_any(never, b, a)  # the first argument that is done
        both = ctx.when_all(a, b)
        return [winner is b, both.done, (yield from both), never.done]

    story = live(flow)
    story.tell(done(1, "A"), done(2, "B"))
    assert story.result == [True, True, ["A", "B"], False]


def test_a_done_when_any_left_nothing_behind_on_the_losers(live: Live) -> None:
    seen: list[int] = []

    def flow(ctx: Context) -> Any:
        stop = ctx.wait_for_event("stop")
        for _ in range(100):
            yield from ctx.when_any(stop, ctx.sleep(1))
            seen.append(len(stop.waiters))

    story = live(flow)
    for _ in range(100):
        story.wait(1)
    assert set(seen) == {0}


def test_the_same_task_may_be_given_twice(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        a = ctx.call_activity(work)
        both = ctx.when_all(a, a, ctx.when_any(a, a))
        one, two, winner = yield from both
        return [one, two, winner is a]

    story = live(flow)
    story.complete(1, "A")
    assert story.result == ["A", "A", True]


def test_combinations_nest(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        a, b, c, d = (ctx.call_activity(work, name) for name in "abcd")
        pair = ctx.when_all(a, b)
        winner = yield from ctx.when_any(pair, ctx.when_all(c, ctx.when_any(d)))
        return [winner is pair, winner.result()]

    left, right = live(flow), live(flow)
    left.tell(done(1, "A"), done(3, "C"), done(2, "B"))
    assert left.result == [True, ["A", "B"]]
    right.tell(done(1, "A"), done(4, "D"), done(3, "C"))
    assert "core.task.Task cannot be stored as JSON" in right.failure.message  # d's own `when_any` is in its result


def test_cancelling_a_combination_cancels_its_parts_and_not_what_is_done(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        a, b, c, d = (ctx.call_activity(work, name) for name in "abcd")
        first = ctx.when_any(a, b)
        yield from first
        whole = ctx.when_all(first, ctx.when_all(c, ctx.sleep(9)), ctx.wait_for_event("e"))
        known = [whole.cancel(), whole.cancelled, b.cancelled, c.cancelled, d.cancelled, whole.cancel()]
        try:
            yield from whole
        except TaskCancelled as error:
            return [known, str(error), (yield from d)]

    story = live(flow)
    story.complete(1)
    assert [e.task for e in story.turn.events if isinstance(e, ev.TaskCancelled)] == [3, 5, 6]
    assert story.turn.cancelled == [3], "only activities have somebody to tell"
    assert story.tell(done(3)).refused
    story.complete(4, "D")
    cancelled = [True, True, False, True, False, False]
    assert story.result == [cancelled, "when_all of 3 was cancelled by the workflow", "D"]


def test_a_when_any_of_one_that_is_cancelled_is_cancelled_and_has_no_winner(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        any_of = ctx.when_any(ctx.call_activity(work))
        any_of.cancel()
        try:
            yield from any_of
        except TaskCancelled:
            return any_of.cancelled

    assert live(flow).result is True


def test_a_cancelled_part_counts_as_done(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        a, b = ctx.call_activity(work), ctx.call_activity(other)
        either, both = ctx.when_any(a, b), ctx.when_all(a, b)
        a.cancel()
        winner = yield from either
        try:
            yield from both
        except TaskCancelled as error:
            return [winner is a, str(error)]

    story = live(flow)
    assert story.status is Status.RUNNING
    story.complete(2)
    assert story.result == [True, "work was cancelled by the workflow"]


def test_waiting_for_a_cancelled_task_raises(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        timer = ctx.sleep(1)
        timer.cancel()
        return (yield from timer)

    story = live(flow)
    assert story.failure.type_name == "durableflow.errors.TaskCancelled"
    assert story.execution.due_observations(story.now_us * 2) == []


def test_a_cancelled_timer_never_fires_and_wakes_nobody(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        ctx.sleep(1).cancel()
        kept = ctx.wait_for_event("e", timeout=2)
        kept.cancel()
        yield from ctx.sleep(3)
        return (yield from ctx.wait_for_event("e"))

    story = live(flow)
    assert story.wait(2).events == []
    assert story.tell(ev.TimerFired(1)).refused
    story.wait(1)
    story.event("e", "for the second waiter")
    assert story.result == "for the second waiter"


@pytest.mark.parametrize(
    "combine",
    [
        lambda ctx: ctx.when_all([ctx.sleep(1), 5]),
        lambda ctx: ctx.when_all("ab"),
        lambda ctx: ctx.when_any(ctx.sleep(1), None),
        lambda ctx: ctx.when_any(5),
    ],
    ids=["in a list", "letters", "as an argument", "alone"],
)
def test_only_tasks_can_be_combined(live: Live, combine: Callable[[Context], Any]) -> None:
    def flow(ctx: Context) -> Any:
        try:
            combine(ctx)
        except ForeignAwaitError as error:
            return str(error)

    assert "is not a task; pass what ctx methods return" in live(flow).result


def test_a_task_has_no_truth_and_no_early_result(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.call_activity(work)
        errors: list[str] = []
        for claim in (lambda: bool(task), task.result):
            try:
                claim()
            except UsageError as error:
                errors.append(str(error))
        yield from task
        return [*errors, task.result(), repr(task)]

    story = live(flow)
    story.complete(1, "A")
    truth, early, result, shown = story.result
    assert "has no truth of its own; wait for it first" in truth
    assert "is not done" in early
    assert (result, shown) == ("A", "<task work (done)>")


def test_five_thousand_side_by_side(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        results = yield from ctx.when_all([ctx.call_activity(work, n) for n in range(5_000)])
        return sum(results)

    story = live(flow)
    assert len(story.turn.scheduled) == 5_000
    story.tell(*[done(n + 1, n) for n in range(5_000)])
    assert story.result == sum(range(5_000))


def test_five_thousand_deep(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        task: Any = ctx.call_activity(work)
        for depth in range(5_000):
            task = ctx.when_all([task]) if depth % 2 else ctx.when_any([task])
        cancelled: Any = ctx.sleep(9)
        for _ in range(5_000):
            cancelled = ctx.when_all(cancelled)
        cancelled.cancel()
        depth = 0
        found = yield from task
        while not isinstance(found, str):
            found = found[0] if isinstance(found, list) else found.result()
            depth += 1
        return [found, depth]

    story = live(flow)
    story.complete(1, "the bottom")
    assert story.result == ["the bottom", 5_000]


def test_a_chain_of_five_thousand_finished_waits_needs_no_stack(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        ready = ctx.when_all([])
        for _ in range(5_000):
            yield ready
        for _ in range(5_000):
            yield from ctx.wait_for_event("e")
        return "through"

    story = live(flow)
    story.tell(*[received("e", n) for n in range(5_000)])
    assert story.result == "through"


def test_combinations_shared_by_many_are_cancelled_in_linear_time(live: Live) -> None:
    """Each level holds the one below twice: as a tree it would have 2**60 leaves."""

    def flow(ctx: Context) -> Any:
        task: Any = ctx.sleep(1)
        for _ in range(60):
            task = ctx.when_all(task, task)
        return task.cancel()

    assert live(flow).result is True


def test_tasks_of_another_instance_are_refused(live: Live) -> None:
    kept: list[Any] = []

    def lender(ctx: Context) -> Any:
        kept.append(ctx.sleep(1))
        yield kept[-1]

    def borrower(ctx: Context) -> Any:
        texts: list[str] = []
        for use in (lambda: ctx.when_all(kept[0]), kept[0].cancel):
            try:
                use()
            except UsageError as error:
                texts.append(str(error))
        try:
            yield kept[0]
        except ForeignAwaitError as error:
            texts.append(str(error))
        return texts

    live(lender)
    combined, cancelled, waited = live(borrower, instance_id="j").result
    assert "belongs to another instance" in combined
    assert "instance 'i' was used outside its workflow" in cancelled
    assert "belongs to another instance" in waited
