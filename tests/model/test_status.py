"""The life cycle, as a table."""

from collections import deque

import pytest

from durableflow import Status
from durableflow.model.status import TERMINAL, TRANSITIONS, Move, may_become


def test_every_status_has_a_row_and_every_move_is_used() -> None:
    assert TRANSITIONS.keys() == set(Status)
    assert {move for row in TRANSITIONS.values() for move in row} == set(Move)


def test_the_ends_are_ends() -> None:
    assert {Status.COMPLETED, Status.FAILED, Status.TERMINATED, Status.CANCELLED} == TERMINAL
    for status in TERMINAL:
        assert status.is_terminal
        after = {Status.RUNNING} if status is Status.FAILED else set()
        assert {other for other in Status if may_become(status, other)} == {status} | after, "but for a rewind"


def test_every_status_can_be_reached_and_every_open_one_can_end() -> None:
    def reachable(start: Status) -> set[Status]:
        found, waiting = {start}, deque([start])
        while waiting:
            for targets in TRANSITIONS[waiting.popleft()].values():
                waiting += set(targets) - found
                found |= set(targets)
        return found

    assert reachable(Status.PENDING) == set(Status)
    for status in set(Status) - TERMINAL:
        assert reachable(status) >= TERMINAL


def test_what_is_open_can_be_terminated_cancelled_failed_and_stalled_from_anywhere() -> None:
    for status in set(Status) - TERMINAL:
        for end in (Status.TERMINATED, Status.FAILED, Status.CANCELLED):
            assert may_become(status, end)
        assert may_become(status, Status.STALLED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Status.RUNNING, Status.PENDING),
        (Status.PENDING, Status.COMPLETED),
        (Status.SUSPENDED, Status.COMPLETED),
        (Status.STALLED, Status.COMPLETED),
    ],
)
def test_what_takes_two_steps_is_no_step(old: Status, new: Status) -> None:
    assert not may_become(old, new)


def test_a_status_is_its_name() -> None:
    assert [str(status) for status in Status] == [status.name for status in Status]
    assert Status("RUNNING") is Status.RUNNING
