"""Debounced instances in the core: the input of the latest start counts, until the code begins."""

from __future__ import annotations

import pytest
from stories import NOON, SECOND, program_of

from durableflow import Context, Status
from durableflow.core.execution import Execution, replay_rows
from durableflow.core.view import fold, numbered
from durableflow.model import events as ev

Row = tuple[int, int, list[ev.Event]]


def flow(ctx: Context, text: str) -> str:
    return f"{text} at {ctx.now():%H:%M:%S}"


class Debounced:
    """An instance that was started at noon and may begin five seconds later, once it is told so."""

    def __init__(self, *, start_at_us: int = NOON + 5 * SECOND) -> None:
        self.execution = Execution("k/1", program_of(flow))
        self.rows: list[Row] = []
        started = ev.InstanceStarted("flow", 1, b'["first"]', start_at_us=start_at_us, debounced=True)
        self.tell(started, at_s=0)

    def tell(self, *events: ev.Observation, at_s: float) -> list[ev.Observation]:
        """What was refused."""
        turn = self.execution.advance(events, now_us=NOON + round(at_s * SECOND))
        if turn.events:
            self.rows.append((turn.first_seq, turn.at_us, list(turn.events)))
        return list(turn.refused)

    def replayed(self) -> Execution:
        again = Execution("k/1", program_of(flow))
        replay_rows(again, self.rows)
        return again


def test_the_latest_input_counts_and_replays() -> None:
    story = Debounced()
    assert story.tell(ev.StartChanged(b'["second"]'), at_s=2) == []
    assert story.tell(ev.StartChanged(b'["third"]'), ev.InstanceBegan(), at_s=7) == []
    assert story.execution.ended == ev.InstanceCompleted(b'"third at 08:00:07"')
    again = story.replayed()
    assert (again.status, again.ended, again.next_seq) == (Status.COMPLETED, story.execution.ended, 6)


def test_it_does_not_begin_by_itself_even_when_its_time_is_past() -> None:
    story = Debounced(start_at_us=NOON - SECOND)
    assert story.execution.status is Status.PENDING
    assert story.execution.due_observations(NOON) == [ev.InstanceBegan()], "but it is due"
    story.tell(ev.InstanceBegan(), at_s=1)
    assert story.execution.ended == ev.InstanceCompleted(b'"first at 08:00:01"')


def test_what_comes_after_it_began_changes_nothing() -> None:
    story = Debounced()
    late = ev.StartChanged(b'["late"]')
    assert story.tell(ev.InstanceBegan(), late, at_s=6) == [late]
    assert story.execution.ended == ev.InstanceCompleted(b'"first at 08:00:06"')


def test_an_instance_that_is_not_debounced_keeps_its_input() -> None:
    execution = Execution("i", program_of(flow))
    execution.advance([ev.InstanceStarted("flow", 1, b'["first"]', start_at_us=NOON + SECOND)], now_us=NOON)
    changed = ev.StartChanged(b'["second"]')
    assert execution.advance([changed], now_us=NOON).refused == [changed]


def test_a_postponed_beginning_is_due_later_and_nothing_of_it_is_recorded() -> None:
    story = Debounced()
    story.execution.postpone(NOON + 9 * SECOND)
    assert story.execution.due_observations(NOON + 8 * SECOND) == []
    assert story.execution.wake_us() == NOON + 9 * SECOND
    assert story.tell(ev.InstanceBegan(), at_s=8) == [ev.InstanceBegan()]
    assert story.replayed().wake_us() == NOON + 5 * SECOND


def test_its_deadline_is_the_one_of_the_latest_start() -> None:
    story = Debounced()
    story.tell(ev.StartChanged(b'["second"]', NOON + 6 * SECOND), at_s=1)
    story.tell(ev.StartChanged(b'["third"]', NOON + 60 * SECOND), at_s=2)
    assert story.execution.due_observations(NOON + 7 * SECOND) == [ev.InstanceBegan()]


@pytest.mark.parametrize(
    ("end", "status"), [(ev.InstanceTerminated(), Status.TERMINATED), (ev.CancelRequested(), Status.CANCELLED)]
)
def test_it_can_be_ended_before_it_begins(end: ev.Observation, status: Status) -> None:
    story = Debounced()
    story.tell(end, at_s=1)
    assert story.execution.status is status
    late = ev.StartChanged(b'["late"]')
    assert story.tell(late, at_s=2) == [late]
    assert story.replayed().status is status


def test_while_it_is_suspended_its_input_is_changed_all_the_same() -> None:
    story = Debounced()
    story.tell(ev.InstanceSuspended(), at_s=1)
    story.tell(ev.StartChanged(b'["second"]'), ev.InstanceBegan(), at_s=6)
    story.tell(ev.InstanceResumed(), at_s=8)
    assert story.execution.ended == ev.InstanceCompleted(b'"second at 08:00:08"')
    assert story.replayed().ended == story.execution.ended


def test_the_view_shows_the_input_that_counted() -> None:
    story = Debounced()
    story.tell(ev.StartChanged(b'["second"]'), ev.InstanceBegan(), at_s=6)
    assert fold(numbered(story.rows)).input == b'["second"]'
