"""Which stories are told, in which order, and how many there are."""

from __future__ import annotations

import math
from typing import Any

import pytest

from durableflow import Context, activity, workflow
from durableflow.testing import Exploration, StoryFailed, explore


@activity
def work(x: int) -> int:
    return x


@workflow
async def as_they_come(ctx: Context, count: int) -> list[int]:
    open_ = [ctx.call_activity(work, number) for number in range(count)]
    came: list[int] = []
    while open_:
        first = await ctx.when_any(open_)
        open_.remove(first)
        came.append(first.result())
    return came


@workflow
async def all_of(ctx: Context, count: int) -> int:
    return sum(await ctx.when_all([ctx.call_activity(work, number) for number in range(count)]))


class Log:
    def __init__(self) -> None:
        self.worked: list[int] = []

    def work(self, x: int) -> int:
        self.worked.append(x)
        return x


PLAYED: Any = {work: Log.work}


@pytest.mark.parametrize("count", range(5))
def test_there_is_a_story_for_each_order_of_results(count: int) -> None:
    told = explore(as_they_come, count, crashes=0)
    assert told.exhaustive
    assert told.stories == told.orders == told.total == math.factorial(count)


def test_there_is_a_story_for_each_pair_of_orders_of_work_and_of_answers() -> None:
    # Three that work in any order, and whose answers come in any order after that.
    told = explore(as_they_come, 3, crashes=0, world=Log, activities=PLAYED)
    assert told.exhaustive
    pairs: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    explore(as_they_come, 3, crashes=0, world=Log, activities=PLAYED,
            check=lambda log, o: pairs.add((tuple(log.worked), tuple(o.result))))  # fmt: skip
    assert len(pairs) == math.factorial(3) ** 2 == told.orders


def test_stories_are_told_in_the_order_of_their_turns_off() -> None:
    results: list[list[int]] = []
    explore(as_they_come, 3, crashes=0, check=lambda outcome: results.append(outcome.result))
    assert results[0] == [0, 1, 2]
    assert sorted(results[1:4]) == [[0, 2, 1], [1, 0, 2], [2, 0, 1]]
    assert sorted(results[4:]) == [[1, 2, 0], [2, 1, 0]]


def test_of_stories_with_as_many_turns_off_the_shortest_is_shown() -> None:
    @workflow
    async def flow(ctx: Context) -> str:
        first = await ctx.when_any([ctx.call_activity(work, 1), ctx.sleep(60)])
        if first.label == "timer":
            return "short and wrong"
        await ctx.call_activity(work, 2)
        second = await ctx.when_any([ctx.call_activity(work, 3), ctx.sleep(60)])
        return "long and wrong" if second.label == "timer" else "right"

    with pytest.raises(StoryFailed) as caught:
        explore(flow, crashes=0, late=False, check=lambda outcome: outcome.result == "right")
    assert caught.value.outcome is not None
    assert caught.value.outcome.result == "short and wrong"


@pytest.mark.slow
def test_when_there_are_too_many_the_rest_is_drawn_and_their_number_estimated() -> None:
    told = explore(as_they_come, 9, crashes=0, stories=1_000)
    assert not told.exhaustive
    assert (told.stories, told.sampled, told.seed) == (1_000, 200, 0)
    assert told.total == math.factorial(9)  # the tree is even, so each draw estimates it exactly
    assert told.depth == 2
    assert str(told).endswith("of about 3.6e+05: all with at most 2 stars, and 200 drawn with seed 0")


@pytest.mark.slow
def test_the_same_seed_draws_the_same_stories() -> None:
    def drawn(seed: int) -> list[list[int]]:
        results: list[list[int]] = []
        explore(as_they_come, 9, crashes=0, stories=50, seed=seed, check=lambda o: results.append(o.result))
        return results

    assert drawn(1) == drawn(1)
    assert drawn(1)[:40] == drawn(2)[:40]
    assert drawn(1)[40:] != drawn(2)[40:]


@pytest.mark.slow
def test_a_failure_that_was_drawn_is_made_smaller() -> None:
    def check(outcome: Any) -> bool:
        came = outcome.result
        return not came.index(8) < came.index(5) < came.index(3) < came.index(1)

    with pytest.raises(StoryFailed) as caught:
        explore(as_they_come, 9, crashes=0, stories=1_000, check=check)
    assert caught.value.stories > 800
    assert caught.value.story.count(";") == 2  # 8, 5 and 3 come before their time


def test_a_fingerprint_lets_the_order_of_work_not_count() -> None:
    strict = explore(all_of, 4, crashes=0, world=Log, activities=PLAYED)
    loose = explore(all_of, 4, crashes=0, world=Log, activities=PLAYED, fingerprint=lambda log: frozenset(log.worked))
    assert strict.exhaustive
    assert loose.exhaustive
    assert loose.states < strict.states / 4
    assert loose.orders == strict.orders == math.factorial(4) ** 2


def test_more_crashes_are_more_stories() -> None:
    told: list[Exploration] = [explore(all_of, 1, crashes=crashes) for crashes in range(4)]
    assert [each.stories for each in told] == [1, 3, 7, 15]
    assert [each.crashes for each in told] == [0, 2, 10, 34]
