"""Messages to other instances: each sent once, and what became of it."""

from collections.abc import Callable
from typing import Any

import pytest
from stories import Story, work

from durableflow import Cancelled, Context, Status
from durableflow.authoring.workflow import Workflow
from durableflow.errors import MessageFailed, NondeterminismError
from durableflow.model import events as ev

Live = Callable[..., Story]

SAYS: dict[str, tuple[Callable[[Context], Any], ev.Observation]] = {
    "raise_event": (
        lambda ctx: ctx.raise_event("them", "Hello", {"a": 1}, event_id="id"),
        ev.EventReceived("Hello", b'{"a":1}', "id"),
    ),
    "handle.raise_event": (lambda ctx: ctx.handle("them").raise_event("hi"), ev.EventReceived("hi", b"null")),
    "cancel": (lambda ctx: ctx.handle("them").cancel("why"), ev.CancelRequested("why")),
    "terminate": (lambda ctx: ctx.handle("them").terminate("why"), ev.InstanceTerminated("why")),
    "suspend": (lambda ctx: ctx.handle("them").suspend("why"), ev.InstanceSuspended("why")),
    "resume": (lambda ctx: ctx.handle("them").resume(), ev.InstanceResumed()),
}


@pytest.mark.parametrize("how", SAYS)
def test_each_way_to_say_something_sends_it_once_and_waits_for_its_delivery(told: Live, how: str) -> None:
    say, message = SAYS[how]

    def flow(ctx: Context) -> Any:
        task = say(ctx)
        assert not task.done
        yield from task
        return "told"

    story = told(flow)
    (decision,) = story.decisions
    assert decision == ev.MessageSent(1, "them", ev.dump_event(message))
    assert story.sent == [("them", message)]
    assert story.sends[0].task == 1
    assert story.sends[0].birth is None
    story.tell(ev.MessageAnswered(1, "delivered"))
    assert story.result == "told"
    assert len(story.sends) == 1


@pytest.mark.parametrize("outcome", ["missing", "over"])
def test_a_message_that_nobody_gets_fails_its_task(told: Live, outcome: str) -> None:
    async def flow(ctx: Context) -> Any:
        try:
            await ctx.handle("them").raise_event("hi")
        except MessageFailed as error:
            return [error.instance_id, error.outcome, str(error)]

    story = told(flow)
    story.tell(ev.MessageAnswered(1, outcome))
    assert story.result[:2] == ["them", outcome]
    assert "'them' was told nothing" in story.result[2]


def test_nobody_need_wait_for_it(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        for number in range(3):
            ctx.raise_event("them", "n", number)
        yield from ctx.sleep(1)
        return "over"

    story = told(flow)
    assert [message.payload for _, message in story.sent] == [b"0", b"1", b"2"]  # type: ignore[union-attr]
    story.tell(ev.MessageAnswered(2, "missing"), ev.MessageAnswered(1, "delivered"))
    story.wait(1)
    assert story.result == "over"


def test_an_answer_comes_once(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.raise_event("them", "n")
        yield from ctx.sleep(1)

    story = told(flow)
    again = ev.MessageAnswered(1, "missing")
    assert story.tell(ev.MessageAnswered(1, "delivered"), again, ev.MessageAnswered(9, "over")).refused == [
        again,
        ev.MessageAnswered(9, "over"),
    ]


def test_a_message_cannot_be_called_back_but_nobody_hears_what_became_of_it(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.raise_event("them", "n")
        assert task.cancel()
        yield from ctx.sleep(1)
        return "over"

    story = told(flow)
    assert len(story.sends) == 1
    assert story.tell(ev.MessageAnswered(1, "missing")).refused
    story.wait(1)
    assert story.result == "over"


def test_what_became_of_it_is_held_while_suspended(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.raise_event("them", "n")
        return "over"

    story = told(flow)
    assert story.tell(ev.InstanceSuspended(), ev.MessageAnswered(1, "delivered")).refused == ()
    again = ev.MessageAnswered(1, "missing")  # who sent it was rewound
    assert story.tell(again).refused == [again]
    assert story.status is Status.SUSPENDED
    story.tell(ev.InstanceResumed())
    assert story.result == "over"


def test_what_became_of_it_is_dropped_if_it_was_given_up_before_that_could_be_told(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.raise_event("them", "n")
        yield from ctx.wait_for_event("stop")
        task.cancel()
        yield from ctx.sleep(1)
        return "over"

    story = told(flow)
    story.tell(ev.InstanceSuspended())
    story.event("stop", None)
    assert story.tell(ev.MessageAnswered(1, "missing")).refused == ()
    story.tell(ev.InstanceResumed())
    story.wait(1)
    assert story.result == "over"


def test_a_cancellation_strikes_at_the_wait_for_a_delivery(told: Live) -> None:
    def flow(ctx: Context) -> Any:
        task = ctx.raise_event("them", "n")
        try:
            yield from task
        except Cancelled:
            yield from task
            raise

    story = told(flow)
    story.tell(ev.CancelRequested("stop"))
    assert story.status is Status.RUNNING
    story.tell(ev.MessageAnswered(1, "delivered"))
    assert story.status is Status.CANCELLED


def test_what_cannot_be_said_is_refused_where_it_is_said(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        uses: list[Callable[[], Any]] = [
            lambda: ctx.handle(""),
            lambda: ctx.raise_event("them", ""),
            lambda: ctx.raise_event("them", "n", object()),
            lambda: ctx.raise_event("them", "n", event_id=""),
            lambda: ctx.raise_event("them", "n", "x" * 500),
        ]
        texts: list[str] = []
        for use in uses:
            with pytest.raises(Exception, match=r".") as caught:
                use()
            texts.append(type(caught.value).__name__)
        yield from ctx.sleep(1)
        return texts

    story = live(flow, payload_limit_bytes=200)
    assert not story.sends
    story.wait(1)
    assert story.result == ["UsageError", "UsageError", "PayloadError", "UsageError", "PayloadTooLarge"]


def test_making_a_handle_asks_for_nothing(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        other = ctx.handle("them")
        return [other.id, repr(other)]

    story = live(flow)
    assert story.result == ["them", "<other instance 'them'>"]
    assert len(story.decisions) == 1


def test_messages_leave_in_the_order_in_which_they_were_sent_among_children(told: Live) -> None:
    def _kid(ctx: Context) -> None: ...

    kid = Workflow(_kid, name="kid")

    def flow(ctx: Context) -> Any:
        ctx.raise_event("a", "n")
        child = ctx.call_workflow(kid)
        ctx.handle(child.child_id).raise_event("for the child")
        ctx.raise_event("b", "n")
        yield from ctx.sleep(1)

    story = told(flow)
    assert [to for to, _ in story.sent] == ["a", "i/2", "i/2", "b"]


def test_a_code_that_says_something_else_is_noticed(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        yield from ctx.raise_event("them", "n", 1)

    story = live(flow)

    def other_payload(ctx: Context) -> Any:
        yield from ctx.raise_event("them", "n", 2)

    def to_others(ctx: Context) -> Any:
        yield from ctx.raise_event("you", "n", 1)

    def cancels(ctx: Context) -> Any:
        yield from ctx.handle("them").cancel()

    def works(ctx: Context) -> Any:
        yield from ctx.call_activity(work)

    for changed in (other_payload, to_others, cancels, works):
        with pytest.raises(NondeterminismError, match=r"history #2 of instance 'i' recorded .*'them'"):
            story.replayed(Workflow(changed, name="flow"))
