"""Beginning again: `continue_as_new` with other input, `checkpoint` with what the code has come to."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from stories import Story, asked, done, ended, other, received, returned, work

from durableflow import Cancelled, Context, Status
from durableflow.authoring.workflow import Workflow
from durableflow.errors import NondeterminismError, PayloadError
from durableflow.model import events as ev

Live = Callable[..., Story]


def _kid(ctx: Context) -> int:
    raise AssertionError("the core starts no children")


kid = Workflow(_kid, name="kid")


def begun(story: Story) -> list[ev.InstanceStarted]:
    """The first event of each round."""
    return [row[0][2][0] for row in story.rounds]  # type: ignore[misc]


# -- continue_as_new ------------------------------------------------------------------------------------------


def counts(ctx: Context, n: int) -> Any:
    yield from ctx.call_activity(work, n)
    if n == 3:
        return n
    return ctx.continue_as_new(n + 1)


async def counts_too(ctx: Context, n: int) -> Any:
    await ctx.call_activity(work, n)
    if n < 3:
        ctx.continue_as_new(n + 1)
    return n


@pytest.mark.parametrize("flow", [counts, counts_too])
def test_each_round_begins_with_its_input_and_the_last_one_ends_the_instance(told: Live, flow: Any) -> None:
    story = told(flow, 0)
    for number in range(4):
        assert story.status is Status.RUNNING
        story.complete(number + 1)
    assert story.result == 3
    assert [msgspec.json.decode(each.input) for each in begun(story)] == [[0], [1], [2], [3]]
    assert [each.round.number for each in begun(story)[1:] if each.round] == [1, 2, 3]
    assert [type(row[-1][2][-1]) for row in story.rounds] == [ev.ContinuedAsNew] * 3 + [ev.InstanceCompleted]


def test_the_new_round_is_in_the_turn_that_ended_the_old_one(live: Live) -> None:
    story = live(counts, 0)
    turn = story.complete(1)
    assert turn.at_us == story.rows[-2][1]
    assert [a.input for a in turn.scheduled] == [b"[1]"]
    assert (story.rows[-2][2], story.rows[-1][0]) == ([done(1), ev.ContinuedAsNew(b"[1]")], 5)


def test_nothing_behind_it_runs_but_finally(told: Live) -> None:
    log: list[str] = []

    def flow(ctx: Context, n: int) -> Any:
        try:
            yield from ctx.sleep(1)
            try:
                if n == 0:
                    ctx.continue_as_new(1)
                    log.append("behind it")
            except Exception:
                log.append("caught")
        finally:
            log.append("finally")
        return n

    story = told(flow, 0)
    story.wait(1)
    story.wait(1)
    assert story.result == 1
    assert set(log) == {"finally"}


def test_what_was_open_is_given_up_and_its_answers_are_refused(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        if n == 0:
            for _ in range(2):
                ctx.call_activity(work)
            ctx.sleep(5)
            ctx.call_workflow(kid)
            ctx.call_workflow(kid.options(parent_close="abandon"))
            ctx.handle("x").raise_event("hello")
            ctx.spawn(iter_forever(ctx))
        yield from ctx.wait_for_event("e")
        if n == 0:
            ctx.continue_as_new(1)
        return n

    def iter_forever(ctx: Context) -> Any:
        while True:
            yield from ctx.sleep(100)

    story = told(flow, 0)
    story.event("e")
    assert ("i/4", ev.InstanceTerminated("its parent began anew")) in story.sent
    assert not any(to == "i/5" and isinstance(message, ev.InstanceTerminated) for to, message in story.sent)
    late: list[ev.Observation] = [done(1), returned(4, 1), ended(5), ev.MessageAnswered(6, "delivered")]
    assert story.tell(*late).refused == late
    story.wait(100)
    assert story.execution.wake_us() is None
    story.event("e")
    assert story.result == 1


def test_activities_of_the_old_round_are_told_to_stop(live: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        slow = ctx.call_activity(work)
        yield from ctx.wait_for_event("e")
        assert not slow.done
        return ctx.continue_as_new(n + 1)

    story = live(flow, 0)
    cancelled: list[int] = []
    real = story._write
    story._write = lambda turn: (cancelled.extend(turn.cancelled), real(turn))[1]  # type: ignore[method-assign]
    story.event("e")
    assert cancelled == [1]


def test_numbers_of_tasks_go_on_over_rounds(told: Live) -> None:
    story = told(counts, 0)
    story.complete(1)
    story.complete(2)
    assert story.tell(done(1)).refused == [done(1)], "an old round's result is nobody's"
    assert story.decisions[-1].task == 3  # type: ignore[union-attr]


def test_dice_fall_otherwise_in_each_round_and_the_same_in_its_replay(told: Live) -> None:
    seen: list[Any] = []

    def flow(ctx: Context, n: int) -> Any:
        ctx.set_custom_status([ctx.random().random(), str(ctx.uuid4())])
        yield from ctx.sleep(1)
        return ctx.continue_as_new(n + 1)

    story = told(flow, 0)
    for _ in range(4):
        seen.append(story.execution.custom_status)
        story.wait(1)
    assert len(set(seen)) == 4


def test_events_that_nobody_took_go_on_in_their_order(told: Live) -> None:
    def flow(ctx: Context, log: list[Any]) -> Any:
        log.append((yield from ctx.wait_for_event("a")))
        if len(log) < 3:
            ctx.continue_as_new(log)
        log.append((yield from ctx.wait_for_event("B")))
        return log

    story = told(flow, [])
    story.tell(received("b", "b1"))
    story.tell(received("a", 1), received("A", 2), received("b", "b2"), received("a", 3))
    assert story.result == [1, 2, 3, "b1"]


def test_an_event_id_is_known_in_every_later_round(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        yield from ctx.wait_for_event("a")
        if n < 2:
            ctx.continue_as_new(n + 1)
        return n

    story = told(flow, 0)
    for number in range(3):
        story.event("a", number, f"id {number}")
        again = [received("a", 9, f"id {known}") for known in range(number + 1)]
        if number < 2:
            assert story.tell(*again).refused == again
    assert story.result == 2


def test_only_the_latest_thousand_event_ids_are_carried(live: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        for _ in range(1_200):
            yield from ctx.wait_for_event("a")
        return ctx.continue_as_new(n + 1)

    story = live(flow, 0)
    story.tell(*[received("a", 0, f"id {number}") for number in range(1_200)])
    (_, second) = begun(story)
    assert second.round is not None
    assert second.round.event_ids == tuple(f"id {number}" for number in range(200, 1_200))


def test_the_custom_status_stays(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        if n == 0:
            ctx.set_custom_status("first")
        yield from ctx.sleep(1)
        if n == 0:
            ctx.continue_as_new(1)
        yield from ctx.sleep(1)

    story = told(flow, 0)
    story.wait(1)
    assert story.execution.custom_status == b'"first"'


def test_parent_and_deadline_stay_and_a_delay_is_over(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        yield from ctx.sleep(1)
        if n == 0:
            ctx.continue_as_new(1)
        yield from ctx.sleep(600)

    story = told(flow, 0, origin=ev.Origin("mother", 3), start_at_s=5, deadline_s=60)
    story.wait(5)
    story.wait(1)
    second = begun(story)[1]
    assert (second.origin, second.start_at_us, second.deadline_us) == (
        ev.Origin("mother", 3),
        0,
        story.started.deadline_us,
    )
    assert story.sent == [], "the parent hears of the end, not of rounds"
    story.wait(60)
    assert story.status is Status.FAILED
    assert [to for to, _ in story.sent] == ["mother"]


def test_patches_are_asked_anew_after_new_input(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        way = ctx.patched("p")
        yield from ctx.sleep(1)
        if n == 0:
            ctx.continue_as_new(1)
        return way

    story = told(flow, 0)
    story.wait(1)
    story.wait(1)
    assert story.result is True
    assert sum(isinstance(each, ev.PatchRecorded) for each in story.events) == 2


# -- a tight loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["continue_as_new", "checkpoint"])
def test_a_round_that_waits_for_nothing_is_refused(told: Live, how: str) -> None:
    def flow(ctx: Context, n: int = 0) -> Any:
        ctx.side_effect(lambda: 1)
        getattr(ctx, how)(n + 1)
        yield from ctx.sleep(1)

    story = told(flow)
    assert story.failure.type_name == "durableflow.errors.UsageError"
    assert f"{how} was called, but nothing has happened" in story.failure.message


def test_kept_events_are_taken_round_by_round_without_waiting(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        got = yield from ctx.wait_for_event("a")
        if got == "stop":
            return n
        return ctx.continue_as_new(n + 1)

    story = told(flow, 0)
    story.tell(*[received("a") for _ in range(20)], received("a", "stop"))
    assert story.result == 20
    assert len(story.rounds) == 21


# -- where it may be called -----------------------------------------------------------------------------------


def test_a_branch_cannot_begin_the_workflow_anew(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        def branch() -> Any:
            yield from ctx.sleep(1)
            ctx.continue_as_new(1)

        yield from ctx.spawn(branch())

    story = told(flow, 0)
    story.wait(1)
    assert "not in a branch or a handler" in story.failure.message


def test_input_that_cannot_be_stored_or_does_not_fit_is_refused_at_once(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        yield from ctx.sleep(1)
        for wrong in ((object(),), (), (1, 2), ("x" * 500,)):
            with pytest.raises((PayloadError, TypeError, Exception)):
                ctx.continue_as_new(*wrong)
        return "still here"

    story = told(flow, 0, payload_limit_bytes=200)
    story.wait(1)
    assert story.result == "still here"


def test_another_workflow_is_refused_with_what_to_do(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        return ctx.continue_as_new(kid)

    story = told(flow)
    story.wait(1)
    assert "call it as a child" in story.failure.message


def test_another_version_takes_over(told: Live) -> None:
    def second(ctx: Context, text: str) -> Any:
        yield from ctx.sleep(1)
        return f"{text} in version 2"

    newer = Workflow(second, name="flow", version=2)

    def flow(ctx: Context, n: int) -> Any:
        yield from ctx.sleep(1)
        return ctx.continue_as_new(newer, "on")

    story = told(flow, 1, versions=[newer])
    story.wait(1)
    assert ev.ContinuedAsNew(b'["on"]', 2) in story.events
    assert begun(story)[1].version == 2
    story.wait(1)
    assert story.result == "on in version 2"


# -- suspended and cancelled ----------------------------------------------------------------------------------


def test_what_was_held_goes_on_to_the_next_round(told: Live) -> None:
    def flow(ctx: Context, log: list[Any]) -> Any:
        log.append((yield from ctx.wait_for_event("a")))
        if len(log) < 3:
            ctx.continue_as_new(log)
        return log

    story = told(flow, [])
    story.tell(ev.InstanceSuspended())
    story.tell(received("a", 1), received("a", 2, "id"))
    story.tell(received("a", 3))
    assert story.status is Status.SUSPENDED
    story.tell(ev.InstanceResumed())
    assert story.result == [1, 2, 3]


def test_a_cancellation_that_was_held_strikes_the_next_round_in_the_same_turn(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        yield from ctx.wait_for_event("a")
        return ctx.continue_as_new(n + 1)

    story = told(flow, 0)
    story.tell(ev.InstanceSuspended())
    story.tell(received("a", 1), ev.CancelRequested("enough"))
    turn = story.tell(ev.InstanceResumed())
    assert turn.events[:2] == [begun(story)[1], ev.CancelRequested("enough")]
    assert story.status is Status.CANCELLED


def test_what_comes_in_the_same_turn_behind_the_end_of_a_round_is_for_the_next(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        yield from ctx.wait_for_event("a")
        if n == 0:
            ctx.continue_as_new(1)
        return n

    for late in (ev.CancelRequested("x"), ev.InstanceTerminated("x"), ev.InstanceSuspended()):
        story = told(flow, 0)
        story.tell(received("a"), late)
        expected = {
            ev.CancelRequested: "CANCELLED",
            ev.InstanceTerminated: "TERMINATED",
            ev.InstanceSuspended: "SUSPENDED",
        }
        assert story.status == expected[type(late)]


def test_code_may_begin_anew_when_it_is_cancelled_and_can_be_cancelled_again(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        try:
            yield from ctx.sleep(60)
        except Cancelled:
            if n == 0:
                ctx.continue_as_new(1)
            raise

    story = told(flow, 0)
    story.tell(ev.CancelRequested("first"))
    assert story.status is Status.RUNNING
    assert not story.execution.cancel_requested
    story.tell(ev.CancelRequested("second"))
    assert story.execution.ended == ev.InstanceCancelled("second")


# -- checkpoint -----------------------------------------------------------------------------------------------


def adds(ctx: Context) -> Any:
    total = ctx.restore(int) or 0
    while total < 100:
        total += yield from ctx.wait_for_event("add", int)
        ctx.checkpoint(total)
    return total


async def adds_too(ctx: Context) -> Any:
    total = ctx.restore(int) or 0
    while total < 100:
        total += await ctx.wait_for_event("add", int)
        ctx.checkpoint(total)
    return total


@pytest.mark.parametrize("flow", [adds, adds_too])
def test_replay_begins_at_the_latest_checkpoint_with_its_state(told: Live, flow: Any) -> None:
    story = told(flow)
    for number in (1, 20, 30):
        story.event("add", number)
    story.tell(received("add", 40), received("add", 50))
    assert story.result == 141
    states = [each.round.state for each in begun(story)[1:] if each.round]
    assert states == [b"1", b"21", b"51", b"91", b"141"]
    assert {each.input for each in begun(story)} == {b"[]"}, "the input stays"


def test_the_code_goes_on_without_beginning_again(live: Live) -> None:
    begins: list[int] = []

    def flow(ctx: Context) -> Any:
        begins.append(1)
        for number in range(ctx.restore(int) or 0, 3):
            yield from ctx.sleep(1)
            ctx.checkpoint(number + 1)

    story = live(flow)
    for _ in range(3):
        story.wait(1)
    assert story.status is Status.COMPLETED
    assert len(begins) == 1


def test_a_checkpoint_is_two_rows_of_one_turn(live: Live) -> None:
    story = live(adds)
    story.event("add", 5)
    first, second, third = story.rows
    assert first[2][0] == story.started
    assert second[2] == [received("add", 5), ev.CheckpointTaken(b"5")]
    assert second[1] == third[1]
    begun_again = third[2][0]
    assert isinstance(begun_again, ev.InstanceStarted)
    assert begun_again.round == ev.Round(1, 1, state=b"5")
    assert third[2][1:] == [ev.EventAwaited(2, "add")]


OPEN: dict[str, Callable[[Context], Any]] = {
    "<task work (waiting)>": lambda ctx: ctx.call_activity(work),
    "<task timer (waiting)>": lambda ctx: ctx.sleep(60),
    "<task e (waiting)>": lambda ctx: ctx.wait_for_event("e"),
    "<task kid (waiting)>": lambda ctx: ctx.call_workflow(kid),
    "<task event 'hi' to 'x' (waiting)>": lambda ctx: ctx.raise_event("x", "hi"),
    "sleeps": lambda ctx: ctx.spawn(sleeps(ctx)),
}


def sleeps(ctx: Context) -> Any:
    nap = ctx.sleep(60)
    try:
        yield from nap
    finally:
        nap.cancel()


@pytest.mark.parametrize("what", OPEN)
def test_a_checkpoint_is_refused_while_something_is_open_and_allowed_when_it_is_given_up(told: Live, what: str) -> None:
    texts: list[str] = []

    def flow(ctx: Context) -> Any:
        if ctx.restore(int) is None:
            task = OPEN[what](ctx)
            yield from ctx.wait_for_event("go")
            try:
                ctx.checkpoint(1)
            except Exception as error:
                texts.append(str(error))
            task.cancel()
            yield from ctx.wait_for_event("go")
            ctx.checkpoint(1)
        yield from ctx.wait_for_event("go")
        return "there"

    story = told(flow)
    story.event("go")
    assert what in texts[0]
    assert "wait for it or cancel it first" in texts[0]
    story.event("go")
    assert len(story.rounds) == 2
    late: list[ev.Observation] = [ended(1), ev.MessageAnswered(1, "delivered"), done(1)]
    assert story.tell(*late).refused == late
    story.wait(100)
    story.event("go")
    assert story.result == "there"


def test_a_state_that_cannot_be_stored_is_refused(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.sleep(1)
        for wrong in (object(), "x" * 500):
            with pytest.raises(PayloadError):
                ctx.checkpoint(wrong)
        return "still here"

    story = told(flow, payload_limit_bytes=200)
    story.wait(1)
    assert story.result == "still here"


def test_a_state_of_another_type_is_an_error_that_says_so(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        with suppress(PayloadError):
            ctx.restore(int)
            if ctx.restore(str) is None:
                yield from ctx.sleep(1)
                ctx.checkpoint("text")
        with pytest.raises(PayloadError, match="Expected `int`, got `str`"):
            ctx.restore(int)
        yield from ctx.sleep(1)
        return ctx.restore(str)

    story = told(flow)
    story.wait(1)
    story.wait(1)
    assert story.result == "text"


def test_what_a_workflow_knows_survives_a_checkpoint(told: Live) -> None:
    """Kept events, event ids, patches, the custom status, the cancellation that it caught."""

    def flow(ctx: Context) -> Any:
        state = ctx.restore(int) or 0
        if state == 0:
            ctx.set_custom_status("old")
            way = ctx.patched("new way")
            nap = ctx.sleep(60)
            with suppress(Cancelled):
                yield from nap
            nap.cancel()
            ctx.checkpoint(1)
        way = ctx.patched("new way")
        first = yield from ctx.wait_for_event("kept")
        assert ctx.is_cancelled
        yield from ctx.sleep(1)
        raise Cancelled(f"{first} {way}")

    story = told(flow)
    story.tell(received("kept", 5, "id"), received("kept", 6, "id 2"))
    story.tell(ev.CancelRequested("stop"))
    again = [received("kept", 7, "id"), ev.CancelRequested("once more")]
    assert story.tell(*again).refused == again
    assert story.execution.custom_status == b'"old"'
    story.wait(1)
    assert story.execution.ended == ev.InstanceCancelled("5 True")
    assert sum(isinstance(each, ev.PatchRecorded) for each in story.events) == 1


def test_a_patch_that_was_passed_before_it_was_made_stays_unpatched_after_a_checkpoint(live: Live) -> None:
    def before(ctx: Context) -> Any:
        if ctx.restore(int) is None:
            yield from ctx.sleep(1)
            yield from ctx.sleep(1)
            ctx.checkpoint(1)
        yield from ctx.sleep(1)

    def after(ctx: Context) -> Any:
        if ctx.restore(int) is None:
            yield from ctx.sleep(1)
            if ctx.patched("p"):
                yield from ctx.call_activity(other)
            yield from ctx.sleep(1)
            ctx.checkpoint(1)
        yield from ctx.sleep(1)
        return ctx.patched("p")

    story = Story(Workflow(before, name="flow"))
    story.wait(1)
    story.program = Workflow(after, name="flow")
    story.crash()
    story.wait(1)
    assert begun(story)[1].round.unpatched == ("p",)  # type: ignore[union-attr]
    story.crash()
    story.wait(1)
    assert story.result is False
    story.check()


def test_dice_that_were_taken_out_once_fall_as_they_would_from_the_checkpoint_on(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        dice = ctx.random()
        turn = ctx.restore(int) or 0
        while turn < 4:
            ctx.set_custom_status([dice.random(), str(ctx.uuid4())])
            yield from ctx.sleep(1)
            turn += 1
            ctx.checkpoint(turn)

    def thrown(story: Story) -> list[bytes]:
        return [each.value for each in story.events if isinstance(each, ev.CustomStatusSet)]

    story, twin = told(flow), told(flow, instance_id="other")
    for _ in range(4):
        story.wait(1)
        twin.wait(1)
    assert len(set(thrown(story) + thrown(twin))) == 8


def test_held_events_are_taken_checkpoint_by_checkpoint(told: Live) -> None:
    story = told(adds)
    story.tell(ev.InstanceSuspended())
    story.tell(received("add", 1), received("add", 2), received("other"))
    story.tell(received("add", 3))
    story.tell(ev.InstanceResumed())
    assert [each.round.state for each in begun(story)[1:] if each.round] == [b"1", b"3", b"6"]
    story.event("add", 100)
    assert story.result == 106


@pytest.mark.parametrize("place", range(3))
def test_a_held_cancellation_strikes_behind_the_checkpoint(told: Live, place: int) -> None:
    def flow(ctx: Context) -> Any:
        total = ctx.restore(int) or 0
        while True:
            try:
                total += yield from ctx.wait_for_event("add", int)
            except Cancelled:
                yield from ctx.call_activity(work, total)
                raise
            ctx.checkpoint(total)

    story = told(flow)
    held: list[ev.Observation] = [received("add", 1), received("add", 2)]
    held.insert(place, ev.CancelRequested("enough"))
    story.tell(ev.InstanceSuspended())
    story.tell(*held)
    story.tell(ev.InstanceResumed())
    assert story.tell(ev.CancelRequested("again")).refused
    (call,) = story.execution.activities.values()
    story.complete(call.task)
    assert story.execution.ended == ev.InstanceCancelled("enough")


def test_held_requests_are_answered_behind_the_checkpoint(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        total = ctx.restore(int) or 0

        @ctx.on_request("total")
        def answer() -> int:
            return total

        while True:
            total += yield from ctx.wait_for_event("add", int)
            ctx.checkpoint(total)

    story = told(flow)
    story.tell(ev.InstanceSuspended())
    story.tell(received("add", 1), asked("r1", "total"), received("add", 5), asked("r2", "total"))
    story.tell(ev.InstanceResumed())
    assert story.answers == {"r1": 1, "r2": 6}, "each where it came"
    assert story.tell(asked("r1", "total")).refused


def test_checkpoint_and_new_input_go_together(told: Live) -> None:
    def flow(ctx: Context, day: int) -> Any:
        total = ctx.restore(int) or 0
        while total < 3:
            yield from ctx.sleep(1)
            total += 1
            ctx.checkpoint(total)
        if day == 1:
            return f"{day} {total}"
        yield from ctx.sleep(1)
        return ctx.continue_as_new(day + 1)

    story = told(flow, 0)
    for _ in range(7):
        story.wait(1)
    assert story.result == "1 3"
    states = [each.round and each.round.state for each in begun(story)]
    assert states == [None, b"1", b"2", b"3", None, b"1", b"2", b"3"], "new input knows no state"


def test_a_checkpoint_that_the_code_does_not_keep_to_is_noticed_in_replay() -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.call_activity(work)
        ctx.checkpoint(1)
        yield from ctx.call_activity(other)

    story = Story(flow)
    story.complete(1)
    with pytest.raises(NondeterminismError, match=r"'other'.*now asks for activity 'work'"):
        story.replayed()


def test_changed_code_is_noticed_in_an_earlier_round_too(live: Live) -> None:
    story = live(counts, 0)
    story.complete(1)

    def changed(ctx: Context, n: int) -> Any:
        yield from ctx.call_activity(work, n)
        return ctx.continue_as_new(n + 2)

    with pytest.raises(NondeterminismError, match=r"recorded .*now asks for"):
        story.replayed(Workflow(changed, name="counts"), rows=story.rounds[0])
    twin = story.replayed(Workflow(changed, name="counts"))  # which replay never needs again
    twin.put_away()


def test_rounds_in_one_turn_are_each_a_row(live: Live) -> None:
    story = live(adds)
    story.tell(*[received("add", 1) for _ in range(10)])
    assert [len(rows) for rows in story.rounds] == [2, *[1] * 10]
    turn = story.turn
    assert [first for first, _ in turn.closed] == [first for first, _, _ in story.rows[1:-1]]
    assert turn.first_seq == story.rows[-1][0]


def test_what_is_held_behind_a_checkpoint_that_is_the_last_word_is_heard_by_nobody(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        if ctx.restore(int) is None:
            yield from ctx.wait_for_event("a")
            ctx.checkpoint(1)
        return "over"

    story = told(flow)
    story.tell(ev.InstanceSuspended())
    story.tell(received("a"), received("b", None, "id"), asked("r", "x"), ev.CancelRequested())
    story.tell(ev.InstanceResumed())
    assert story.result == "over"
    assert [type(each) for each in story.rows[-1][2]] == [ev.InstanceStarted, ev.InstanceCompleted]


def test_what_is_held_behind_a_checkpoint_goes_on_to_the_next_input_and_is_known_there(told: Live) -> None:
    def flow(ctx: Context, n: int) -> Any:
        if ctx.restore(int) is None:
            yield from ctx.wait_for_event("a")
            ctx.checkpoint(1)
        yield from ctx.wait_for_event("a")
        if n == 0:
            ctx.continue_as_new(1)
        yield from ctx.wait_for_event("b")
        return n

    story = told(flow, 0)
    story.tell(ev.InstanceSuspended())
    held = [received("a", 1, "1"), received("a", 2, "2"), received("a", 3, "3"), asked("r", "x")]
    story.tell(*held)
    story.tell(ev.InstanceResumed())
    assert story.tell(*held).refused == held
    story.event("a")
    story.event("b")
    assert story.result == 1
