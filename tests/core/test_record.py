"""The record that a replay follows, and what counts as asking for the same again."""

import pytest

from durableflow.core.record import Record, same, same_activity
from durableflow.model import events as ev
from durableflow.model.converter import digest
from durableflow.model.failure import Failure

TIMER, STATUS = ev.TimerCreated(1, 5), ev.CustomStatusSet(b"1")


def scheduled(data: bytes = b"[1]", name: str = "a", task: int = 1) -> ev.ActivityScheduled:
    return ev.ActivityScheduled(task, name, data, digest(data))


def test_decisions_are_taken_in_order_with_their_numbers() -> None:
    record = Record()
    record.follow(7, [ev.TimerFired(3), ev.TimerFired(4), TIMER, STATUS, ev.ActivityQueued(2)])
    assert (record.take(), record.taken_seq) == (TIMER, 9)
    assert (record.take(), record.taken_seq) == (STATUS, 10)
    assert record.take() is None
    assert record.take() is None


def test_one_record_serves_row_after_row() -> None:
    record = Record()
    assert record.take() is None
    record.follow(1, [TIMER])
    assert record.take() is TIMER
    record.follow(2, [STATUS])
    assert (record.take(), record.taken_seq) == (STATUS, 2)


def test_decisions_that_are_not_where_they_belong_are_found_all_the_same() -> None:
    record = Record()
    record.follow(1, [TIMER, ev.TimerFired(1), STATUS])
    assert [record.take(), record.take(), record.take()] == [TIMER, STATUS, None]


@pytest.mark.parametrize(
    ("recorded", "asked", "alike"),
    [
        (scheduled(), scheduled(), True),
        (scheduled(), scheduled(b"[2]"), False),
        (scheduled(), scheduled(name="b"), False),
        (scheduled(), scheduled(task=2), False),
        (scheduled(), TIMER, False),
        (TIMER, ev.TimerCreated(1, 5), True),
        (TIMER, ev.TimerCreated(1, 6), False),
        (ev.SideEffectRecorded(1, b"1"), ev.SideEffectRecorded(1, b"2"), True),
        (ev.SideEffectRecorded(1, b"1"), ev.SideEffectRecorded(2, b"1"), False),
        (ev.InstanceFailed(Failure("E", "at 0x1")), ev.InstanceFailed(Failure("E", "at 0x2")), True),
        (ev.InstanceFailed(Failure("E")), ev.InstanceFailed(Failure("F")), False),
    ],
)
def test_what_is_asked_is_compared_by_what_the_code_decides(
    recorded: ev.Decision, asked: ev.Decision, alike: bool
) -> None:
    assert same(recorded, asked) is alike
    if isinstance(recorded, ev.ActivityScheduled) and isinstance(asked, ev.ActivityScheduled):
        assert same_activity(recorded, asked.task, asked.name, asked.input) is alike


def test_the_options_of_an_activity_are_not_compared_and_its_digest_is_enough() -> None:
    recorded = ev.ActivityScheduled(1, "a", b"(kept elsewhere)", digest(b"[1]"), ev.ActivityOptions())
    assert same(recorded, scheduled())
    assert same_activity(recorded, 1, "a", b"[1]")
    assert not same_activity(recorded, 1, "a", b"[2]")
