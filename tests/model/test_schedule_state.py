"""What one step settles: the slots that are due, by the policy, from the time and from who is not over."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow import Interval, Schedule
from durableflow.model.schedule import OVERLAPS, Overlap, slot_id
from durableflow.model.schedule_state import SLOTS_PER_STEP, WAITING_MAX, ScheduleState, Step, step

SECOND = 1_000_000


def a_state(overlap: Overlap = "skip", **changes: Any) -> ScheduleState:
    """A slot each second, made at 0; catches up with what is no older than ten seconds."""
    schedule = changes.pop("schedule", None) or Schedule(Interval(1), overlap=overlap, catch_up=10)
    made = ScheduleState(
        schedule=schedule, workflow="w", version=1, input=b"[]", created_us=0, changed_us=0, cursor_us=0,
        slot_us=schedule.after(0),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def names(*seconds: int) -> list[str]:
    return [slot_id("s", each * SECOND) for each in seconds]


def fired(made: Step) -> list[int]:
    assert [each.instance_id for each in made.firings] == names(*(each.slot_us // SECOND for each in made.firings))
    return [each.slot_us // SECOND for each in made.firings]


def waiting(made: Step) -> list[int]:
    return [each // SECOND for each in made.state.waiting]


def test_nothing_is_settled_before_its_time() -> None:
    state = a_state()
    assert step("s", state, SECOND - 1, ()).state == state


def test_a_slot_is_fired_at_its_moment_and_remembered() -> None:
    made = step("s", a_state(), SECOND, ())
    assert fired(made) == [1]
    assert (made.state.cursor_us, made.state.slot_us, made.state.fired) == (SECOND, 2 * SECOND, 1)
    assert made.state.open == tuple(names(1))
    assert made.state.recent == tuple(made.firings)
    assert step("s", made.state, SECOND, names(1)).state == made.state, "a second look finds nothing"


# Two slots are due at once; of the policy: nothing open / one open → fired, asked, waiting, skipped
POLICIES: list[tuple[Overlap, bool, list[int], str | None, list[int], int]] = [
    ("skip", False, [1], None, [], 1),
    ("skip", True, [], None, [], 2),
    ("allow", False, [1, 2], None, [], 0),
    ("allow", True, [1, 2], None, [], 0),
    ("buffer_one", False, [1], None, [2], 0),
    ("buffer_one", True, [], None, [1], 1),
    ("buffer_all", False, [1], None, [2], 0),
    ("buffer_all", True, [], None, [1, 2], 0),
    ("cancel_previous", False, [2], None, [], 1),
    ("cancel_previous", True, [], "cancel", [2], 1),
    ("terminate_previous", False, [2], None, [], 1),
    ("terminate_previous", True, [2], "terminate", [], 1),
]


@pytest.mark.parametrize(
    ("overlap", "is_open", "fires", "ask", "waits", "skips"), POLICIES, ids=[f"{p[0]}-{p[1]}" for p in POLICIES]
)
def test_each_policy_does_as_its_name_says(
    overlap: Overlap, is_open: bool, fires: list[int], ask: str | None, waits: list[int], skips: int
) -> None:
    state = a_state(overlap, open=("before",) if is_open else ())
    made = step("s", state, 2 * SECOND, {"before"} if is_open else ())
    assert (fired(made), made.ask, waiting(made), made.skipped) == (fires, ask, waits, skips)
    assert made.asked == (["before"] if ask else [])
    assert made.state.skipped == skips


def test_every_policy_is_in_the_table() -> None:
    assert {(name, is_open) for name in OVERLAPS for is_open in (False, True)} == {(p[0], p[1]) for p in POLICIES}


def test_what_waits_is_fired_when_nothing_is_open() -> None:
    state = a_state("buffer_all", open=("before",), waiting=(5 * SECOND, 6 * SECOND), slot_us=9 * SECOND)
    assert step("s", state, 7 * SECOND, {"before"}).state == state
    made = step("s", state, 7 * SECOND, ())
    assert (fired(made), waiting(made)) == ([5], [6])
    assert made.state.due_us("s") == 0, "somebody must look again"


def test_a_schedule_that_is_paused_settles_nothing() -> None:
    state = a_state(is_paused=True, waiting=(SECOND,))
    assert step("s", state, 5 * SECOND, ()) == Step(state, (), None, (), 0, 0)
    assert state.due_us("s") is None


def test_slots_older_than_the_window_are_missed() -> None:
    made = step("s", a_state("allow"), 15 * SECOND, ())
    assert (made.missed, made.state.missed) == (4, 4)
    assert fired(made) == list(range(5, 16))


def test_without_a_window_only_what_is_due_this_very_moment_fires() -> None:
    schedule = Schedule(Interval(1), overlap="allow", catch_up=0)
    made = step("s", a_state(schedule=schedule), 3 * SECOND, ())
    assert (fired(made), made.missed) == ([3], 2)


def test_a_slot_whose_instance_is_there_is_settled_without_one() -> None:
    made = step("s", a_state("allow"), 3 * SECOND, (), names(1, 2))
    assert (fired(made), made.state.fired, made.state.missed) == ([3], 1, 0)
    state = a_state("buffer_all", waiting=(SECOND, 2 * SECOND), slot_us=9 * SECOND)
    assert fired(step("s", state, 3 * SECOND, (), names(1))) == [2]


def test_jitter_makes_a_slot_late_not_old() -> None:
    schedule = Schedule(Interval(100), jitter=90, catch_up=0)
    state = a_state(schedule=schedule)
    due_us = state.due_us("s")
    assert due_us is not None
    assert 100 * SECOND < due_us <= 190 * SECOND
    assert step("s", state, due_us - 1, ()).state == state
    made = step("s", state, due_us, ())
    assert [each.slot_us for each in made.firings] == [100 * SECOND]


def test_what_one_step_settles_is_bounded() -> None:
    state = a_state("allow", schedule=Schedule(Interval(1), overlap="allow"))
    made = step("s", state, 250 * SECOND, ())
    assert len(made.firings) == SLOTS_PER_STEP
    for _ in range(2):
        made = step("s", made.state, 250 * SECOND, made.state.open)
    assert made.state.fired == 250
    assert len(made.state.open) == 100
    assert len(made.state.recent) == 10


def test_how_many_wait_is_bounded() -> None:
    state = a_state("buffer_all", open=("before",), waiting=tuple(range(WAITING_MAX)))
    made = step("s", state, SECOND, {"before"})
    assert (len(made.state.waiting), made.skipped) == (WAITING_MAX, 1)


def test_after_the_last_slot_nobody_looks() -> None:
    schedule = Schedule(Interval(1), end=datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC))
    made = step("s", a_state(schedule=schedule), 5 * SECOND, ())
    assert fired(made) == [1]
    assert made.state.due_us("s") is None


def test_what_is_kept_comes_back_the_same() -> None:
    state = step("s", a_state("buffer_all", tags={"a": "b"}), 3 * SECOND, ()).state
    assert msgspec.json.decode(msgspec.json.encode(state), type=ScheduleState) == state


@given(
    st.sampled_from(list(OVERLAPS)),
    st.lists(st.tuples(st.integers(0, 25), st.booleans()), min_size=1, max_size=30),
)
def test_whatever_happens_each_slot_is_fired_missed_skipped_or_waits_and_only_once(
    overlap: Any, looks: list[tuple[int, bool]]
) -> None:
    state, now_us, ids = a_state(overlap), 0, list[str]()
    for seconds, ends in looks:
        now_us += seconds * SECOND
        made = step("s", state, now_us, () if ends else state.open)
        state = made.state
        ids += [each.instance_id for each in made.firings]
        settled = state.cursor_us // SECOND
        assert state.fired + state.missed + state.skipped + len(state.waiting) == settled
    assert len(ids) == len(set(ids)) == state.fired
