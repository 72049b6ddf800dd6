"""Rows that are no history: refused as a whole, with the place; never skipped, never guessed."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from stories import NOON, SECOND, Row, Story, asked, done, failed, received, work

from durableflow import Context
from durableflow.core.execution import replay_rows
from durableflow.errors import CorruptHistory, ReplayError
from durableflow.model import events as ev
from durableflow.model.failure import Failure

Live = Callable[..., Story]


def flow(ctx: Context) -> Any:
    first = yield from ctx.call_activity(work)
    yield from ctx.sleep(1)
    second = yield from ctx.wait_for_event("e")
    return [first, second]


@pytest.fixture
def story(live: Live) -> Story:
    told = live(flow)
    told.complete(1, "a")
    told.wait(1)
    told.event("e", 5)
    return told


def corrupt(story: Story, rows: list[Row]) -> str:
    with pytest.raises(CorruptHistory) as caught:
        story.replayed(rows=rows)
    return str(caught.value)


def test_rows_out_of_order_twice_or_missing_are_corrupt(story: Story) -> None:
    a, b, c, d = story.rows
    for rows in ([b, a, c, d], [a, c, b, d], [a, a, b, c, d], [a, c, d], [b, c, d], [a, b, d]):
        text = corrupt(story, rows)
        assert "row that begins at #" in text
        assert "must follow" in text


def test_time_that_runs_back_is_corrupt(story: Story) -> None:
    a, (first_seq, at_us, events), *_ = story.rows
    assert "not before" in corrupt(story, [a, (first_seq, at_us - 1, events)])


@pytest.mark.parametrize(
    "first",
    [
        received("e"), done(1), ev.TimerFired(1), ev.InstanceBegan(), ev.CancelRequested(), ev.InstanceSuspended(),
        ev.InstanceResumed(), ev.InstanceTerminated(), ev.InstanceTimedOut(), ev.ActivityStarted(1, 1),
    ],
    ids=ev.tag_of,
)  # fmt: skip
def test_a_history_that_does_not_begin_with_a_start_is_corrupt(story: Story, first: ev.Event) -> None:
    assert "#1" in corrupt(story, [(1, NOON, [first])])


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(done(7), id="a result of an activity that nobody asked for"),
        pytest.param(done(2), id="a result of what is a timer"),
        pytest.param(done(1, "again"), id="a second result"),
        pytest.param(done(1, "again", attempt=2), id="a result of an attempt that was not"),
        pytest.param(failed(1), id="a failure after the result"),
        pytest.param(ev.AttemptFailed(1, 1, Failure("E"), 0), id="a failed attempt after the result"),
        pytest.param(ev.ActivityStarted(1, 1), id="a start of what is over"),
        pytest.param(ev.ActivityQueued(1), id="queueing of what is over"),
        pytest.param(ev.TimerFired(2), id="a timer that is not due"),
        pytest.param(ev.TimerFired(9), id="an unknown timer"),
        pytest.param(ev.ActivityRetried(1, 1), id="further attempts of what is over"),
        pytest.param(ev.ChildCompleted(1, b"1"), id="a result of a child that is an activity"),
        pytest.param(ev.ChildFailed(9, Failure("E")), id="a failure of an unknown child"),
        pytest.param(ev.MessageAnswered(9, "over"), id="the fate of an unknown message"),
        pytest.param(ev.InstanceBegan(), id="a second beginning"),
        pytest.param(ev.InstanceStarted("flow", 1, b"[]"), id="a second start"),
        pytest.param(ev.InstanceResumed(), id="a resume without a suspend"),
        pytest.param(ev.InstanceTimedOut(), id="a deadline that there is not"),
    ],
)
def test_what_cannot_follow_is_corrupt(story: Story, event: ev.Event) -> None:
    rows = story.rows[:2]
    text = corrupt(story, [*rows, (5, rows[-1][1], [event])])
    assert "#5" in text


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        (ev.InstanceSuspended(), ev.InstanceSuspended()),
        (ev.CancelRequested("a"), ev.CancelRequested("b")),
        (received("x", 1, "id"), received("y", 2, "id")),
        (asked("1", "x"), asked("1", "y")),
        (ev.InstanceTerminated(), received("x")),
        (ev.InstanceTerminated(), ev.InstanceTerminated()),
    ],
    ids=ev.tag_of,
)
def test_what_can_come_once_is_corrupt_when_it_comes_twice(live: Live, once: ev.Event, twice: ev.Event) -> None:
    def waits_on(ctx: Context) -> Any:
        while True:
            try:
                yield from ctx.sleep(10)
            except BaseException as error:
                if isinstance(error, GeneratorExit):
                    raise

    story = live(waits_on)
    for batch in (True, False):
        rows = [*story.rows]
        if batch:
            events = [once, twice]
            rows.append((3, NOON, events))
        else:
            rows += [(3, NOON, [once]), (4, NOON, [twice])]
        with pytest.raises(ReplayError):
            story.replayed(rows=rows)


@pytest.mark.parametrize("how", ["continue_as_new", "checkpoint"])
@pytest.mark.parametrize("event", [received("e"), ev.CancelRequested(), ev.InstanceTerminated()], ids=ev.tag_of)
def test_what_follows_a_round_that_is_over_is_not_of_it(live: Live, how: str, event: ev.Event) -> None:
    def flow(ctx: Context, n: int = 0) -> Any:
        if ctx.restore(int) is None:
            yield from ctx.sleep(1)
            getattr(ctx, how)(5)
        yield from ctx.sleep(9)

    told = live(flow)
    told.wait(1)
    over, following = told.rounds
    last_seq = over[-1][0] + len(over[-1][2])
    for more in ((last_seq, told.now_us, [event]), following[0]):
        with pytest.raises(ReplayError):
            told.replayed(rows=[*over, more])


def test_a_round_that_does_not_begin_where_it_must_is_corrupt(live: Live) -> None:
    def flow(ctx: Context) -> Any:
        if ctx.restore(int) is None:
            yield from ctx.sleep(1)
            ctx.checkpoint(1)
        yield from ctx.sleep(9)

    told = live(flow)
    told.wait(1)
    (_, (begun,)) = told.rounds
    execution = told.fresh()
    with pytest.raises(CorruptHistory, match="must follow"):
        execution.replay(*begun)
    execution.put_away()


def test_events_after_the_end_are_corrupt(story: Story) -> None:
    last_seq = story.execution.next_seq
    assert f"#{last_seq}" in corrupt(story, [*story.rows, (last_seq, story.now_us, [received("e")])])


def test_an_unknown_tag_is_never_skipped() -> None:
    row = msgspec.msgpack.encode([["instance_started", "flow", 1, b"[]"], ["teleported", 1]])
    with pytest.raises(msgspec.ValidationError, match="teleported"):
        ev.load_events(row)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_truncated_and_extended_bytes_are_no_row(story: Story, cut: int) -> None:
    data = ev.dump_events(story.events)
    for broken in (data[:-cut], data[cut:], data + b"\0" * cut):
        with pytest.raises(msgspec.DecodeError):
            ev.load_events(broken)


def test_a_newer_format_is_refused_with_what_to_do(story: Story) -> None:
    started = msgspec.structs.replace(story.started, format=ev.FORMAT + 1)
    text = corrupt(story, [(1, NOON, [started])])
    assert "upgrade" in text
    assert f"format {ev.FORMAT + 1}" in text


def test_what_later_versions_add_to_the_end_of_an_event_is_ignored_and_what_is_missing_has_its_default() -> None:
    longer = ["activity_completed", 1, b"5", 1, "a field of the future"]
    shorter = ["activity_completed", 1, b"5"]
    (one,) = ev.load_events(msgspec.msgpack.encode([longer]))
    (two,) = ev.load_events(msgspec.msgpack.encode([shorter]))
    assert one == two == ev.ActivityCompleted(1, b"5", 1)


def test_every_event_has_a_tag_of_its_own_and_comes_back_from_its_bytes() -> None:
    failure = Failure("E", "m", "t", Failure("F"))
    options = ev.ActivityOptions(None, 1, 2, 3, 4)
    examples: list[ev.Event] = [
        ev.InstanceStarted("w", 2, b"[1]", 1, 5, 6), ev.InstanceBegan(), ev.ActivityStarted(1, 2),
        ev.ActivityHandedOver(1, 2),
        ev.AttemptFailed(1, 2, failure, 3, counts=False, details=b"d"), ev.ActivityCompleted(1, b"o", 2),
        ev.ActivityFailed(1, failure, 2, 3), ev.TimerFired(1), ev.EventReceived("n", b"p", "id"),
        ev.CancelRequested("r"), ev.InstanceSuspended("r"), ev.InstanceResumed(), ev.InstanceTerminated("r"),
        ev.InstanceTimedOut(), ev.ActivityScheduled(1, "n", b"i", b"d", options), ev.TimerCreated(1, 2),
        ev.EventAwaited(1, "n", 2), ev.TaskCancelled(1), ev.SideEffectRecorded(1, b"v", failure),
        ev.CustomStatusSet(b"v"), ev.InstanceCompleted(b"o"), ev.InstanceFailed(failure), ev.InstanceCancelled("r"),
        ev.ActivityQueued(1), ev.PatchRecorded("p"), ev.ActivityRetried(1, 2), ev.ChildCompleted(1, b"o"),
        ev.ChildFailed(1, failure, "FAILED"), ev.MessageAnswered(1, "over"), ev.RequestReceived("r", "n", b"[]"),
        ev.ChildScheduled(1, "w", 1, b"i", b"d", "c", ev.ChildOptions("cancel", 1, 2, {"a": "b"}, replace=True)),
        ev.MessageSent(1, "i", b"m"), ev.RequestAnswered("r", b"o", failure), ev.CheckpointTaken(b"s"),
        ev.ContinuedAsNew(b"[]", 2), ev.InstanceRewound(5, "r"),
        ev.StartChanged(b"[2]", 7),
    ]  # fmt: skip
    kinds = {kind for alias in (ev.Observation, ev.Decision, ev.Note) for kind in getattr(alias, "__args__", (alias,))}
    assert {type(example) for example in examples} == kinds
    assert ev.load_events(ev.dump_events(examples)) == examples
    assert [ev.load_event(ev.dump_event(example)) for example in examples] == examples
    tags = [ev.tag_of(example) for example in examples]
    assert len(set(tags)) == len(tags) == 37


def test_the_bytes_of_a_row_are_pinned() -> None:
    """What is stored today must be read for ever: a change here is a change of the format."""
    row = [
        ev.InstanceStarted("w", 1, b"[]"),
        ev.ActivityScheduled(1, "a", b"[1]", b"12345678"),
    ]
    assert ev.dump_events(row) == (
        b"\x92\x9b\xb0instance_started\xa1w\x01\xc4\x02[]\x02\x00\x00\xc0\xc0\xa0\xc2"
        b"\x96\xb2activity_scheduled\x01\xa1a\xc4\x03[1]\xc4\x0812345678\xc0"
    )


def test_rows_of_another_workflow_do_not_get_far(story: Story) -> None:
    def stranger(ctx: Context) -> Any:
        yield from ctx.sleep(1)

    with pytest.raises(ReplayError):
        story.replayed(stranger)


def test_any_single_event_changed_dropped_or_doubled_is_noticed_or_harmless(live: Live) -> None:
    """Each mutation of a history either is refused or replays to a history of its own; nothing crashes."""
    story = live(flow)
    story.complete(1, "a")
    story.wait(1)
    story.tell(ev.InstanceSuspended(), received("e", 5), ev.InstanceResumed())
    refused = 0
    for number, (first_seq, at_us, events) in enumerate(story.rows):
        for place in range(len(events)):
            for mutant in (
                events[:place] + events[place + 1 :],
                events[: place + 1] + events[place:],
                [*events[:place], ev.TaskCancelled(1), *events[place + 1 :]],
                [*events[:place], ev.TimerFired(2), *events[place + 1 :]],
            ):
                rows = [*story.rows[:number], (first_seq, at_us, mutant), *story.rows[number + 1 :]]
                execution = story.fresh()
                try:
                    replay_rows(execution, rows)
                except ReplayError:
                    refused += 1
                finally:
                    execution.put_away()
    assert refused >= 30
    assert story.now_us == NOON + SECOND
