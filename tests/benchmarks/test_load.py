"""The closed loop counts what it says it counts."""

import asyncio

import pytest

from benchmarks.contract import WrongResultError
from benchmarks.load import check, closed_loop, quantile


async def test_no_more_are_started_than_are_asked_for() -> None:
    numbers = list[int]()

    async def client(number: int) -> None:
        numbers.append(number)
        await asyncio.sleep(0)

    done = await closed_loop(client, concurrency=3, start_for_s=60, deadline_s=60, pids=[], at_most=10)
    assert (done.completed, done.cut_short, sorted(numbers)) == (10, False, list(range(10)))
    assert done.rate == pytest.approx(10 / done.took_s)


async def test_what_is_open_at_the_deadline_is_given_up_and_noted() -> None:
    async def client(number: int) -> None:
        await asyncio.sleep(0 if number else 60)

    done = await closed_loop(client, concurrency=2, start_for_s=0.001, deadline_s=0.02, pids=[])
    assert done.cut_short
    assert done.completed >= 1


async def test_nothing_completed_is_no_rate() -> None:
    async def client(number: int) -> None:
        await asyncio.sleep(60)

    with pytest.raises(TimeoutError, match="nothing completed"):
        await closed_loop(client, concurrency=2, start_for_s=0, deadline_s=0.01, pids=[])


def test_a_wrong_result_is_refused() -> None:
    check("one", 4, 5)
    with pytest.raises(WrongResultError, match=r"one\(4\) returned 6, not 5"):
        check("one", 4, 6)


def test_a_quantile_is_one_of_the_values() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [quantile(values, q) for q in (0, 0.5, 0.99, 1)] == [1, 3, 5, 5]
