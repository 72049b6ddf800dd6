"""Leaving out what nobody can tell apart loses nothing that anybody could tell, and is counted rightly."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language import Words, interpret, programs, work
from told import Told

from durableflow.testing import Outcome
from durableflow.testing.exploring.story import Story
from durableflow.testing.histories import cancel_requested


def worked(outcome: Outcome[Any]) -> list[Any]:
    return [[*call.args, call.attempt] for call in outcome.calls]


def seen(outcome: Outcome[Any]) -> str:
    """All that a check could tell by the end, but for the order of what is in the history."""
    return json.dumps([outcome.status, outcome.result, str(outcome.error), *sorted(worked(outcome))])


def seen_in_order(outcome: Outcome[Any]) -> str:
    """The same, for one who sees in which order things were done."""
    return json.dumps([outcome.status, outcome.result, str(outcome.error), *worked(outcome)])


def both_ways(show: Callable[[Outcome[Any]], str], program: Words, **options: Any) -> tuple[Told, Told] | None:
    """With states that are told apart as they should be, and with all states taken for different; None: too many."""
    events = [(name, 1) for name in "ab" if f"'{name}'" in str(program)]
    options = {"stories": 2_000, "events": events, "must_end": False, **options}
    merged = Told(interpret, program, show=show, **options)
    if not merged.exploration.exhaustive or merged.exploration.orders > 1_000:
        return None
    numbers = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Story, "mark", lambda _: next(numbers))
        return merged, Told(interpret, program, show=show, **options)


def check_same(told: tuple[Told, Told] | None) -> None:
    if told is None:
        return
    merged, apart = told
    assert apart.exploration.exhaustive
    assert merged.kinds == apart.kinds
    assert merged.exploration.orders == apart.exploration.stories == len(apart.shown)
    assert merged.exploration.states <= apart.exploration.states


HAND_WRITTEN: list[Words] = [
    [["activity", 1], ["activity", 2], ["all", 2]],
    [["activity", 1], ["activity", 2], ["any", 2], ["timer", 5], ["wait", 3], ["wait", 2]],
    [["activity", 1], ["activity", 2], ["any", 2], ["timer", 5], ["wait", 3], ["look", 0], ["wait", 2]],
    [["activity", 3], ["activity", 4], ["all", 2], ["timer", 5], ["wait", 3], ["look", 0], ["wait", 2]],
    [["activity", 1], ["activity", 2], ["all", 2], ["timer", 5], ["wait", 3], ["look", 0], ["wait", 2]],
    [["event", "a"], ["activity", 1], ["any", 2]],
    [["timer", 5], ["activity", 1], ["any", 2], ["wait", 2], ["cancel", 1]],
    [["branch", [["activity", 1], ["activity", 2]]], ["branch", [["timer", 1], ["activity", 5]]], ["all", 2]],
    [["activity", 1], ["all", 1], ["all", 1], ["activity", 2], ["all", 2]],
    [["activity", 1], ["activity", 2], ["all", 2], ["all", 2]],
    [["slow", 1], ["activity", 2], ["all", 2]],
]


@pytest.mark.slow
@pytest.mark.parametrize("program", HAND_WRITTEN, ids=str)
@pytest.mark.parametrize("crashes", [0, 1])
def test_by_hand(program: Words, crashes: int) -> None:
    told = both_ways(seen, program, crashes=crashes)
    assert told is not None
    check_same(told)
    check_same(both_ways(seen_in_order, program, crashes=crashes, world=list, activities={work: lambda _, n: n}))


@pytest.mark.slow
def test_with_a_cancellation_and_failures_that_are_let_happen() -> None:
    check_same(both_ways(seen, [["activity", 1], ["timer", 5], ["any", 2]], events=[cancel_requested()], failures=1))


@pytest.mark.slow
@settings(max_examples=60)
@given(programs, st.integers(0, 1))
def test_of_programs_that_are_drawn(program: Words, crashes: int) -> None:
    check_same(both_ways(seen, program, crashes=crashes))


@pytest.mark.slow
@settings(max_examples=60)
@given(programs)
def test_of_programs_whose_work_is_done_in_a_world(program: Words) -> None:
    activities = {work: lambda _, n: n}
    check_same(both_ways(seen_in_order, program, crashes=0, world=list, activities=activities))
