"""The simulated loop keeps asyncio's order, jumps over time, and holds back what belongs to a frozen process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from durableflow.testing.simulation.loop import (
    Deadlock,
    Livelock,
    Process,
    SimulatedLoop,
    current_process,
    simulated_loop,
)


def run(coroutine: Coroutine[Any, Any, Any], seed: int = 0) -> Any:
    with simulated_loop(seed) as loop:
        return loop.run_until_complete(coroutine)


def the_loop() -> SimulatedLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    return loop


async def count_to(number: int, told: list[Any], pause_s: float = 1.0) -> None:
    for each in range(number):
        await asyncio.sleep(pause_s)
        told.append((each, the_loop().time()))


def test_a_day_takes_no_time_and_ends_to_the_microsecond() -> None:
    async def sleep() -> float:
        await asyncio.sleep(86_400.000_001)
        return the_loop().time()

    assert run(sleep()) == 86_400.000_001


def test_what_is_ready_is_first_in_first_out() -> None:
    async def tell() -> list[int]:
        told: list[int] = []
        for number in range(20):
            the_loop().call_soon(told.append, number)
        await asyncio.sleep(0)
        return told

    assert run(tell()) == list(range(20))


def test_timers_of_one_moment_ring_in_an_order_that_the_seed_decides() -> None:
    async def tell() -> tuple[int, ...]:
        told: list[int] = []
        for number in range(6):
            the_loop().call_later(1, told.append, number)
        await asyncio.sleep(2)
        return tuple(told)

    orders = [run(tell(), seed) for seed in range(20)]
    assert orders == [run(tell(), seed) for seed in range(20)]
    assert len(set(orders)) > 10


def test_a_timer_is_never_early() -> None:
    async def sleep() -> list[float]:
        early: list[float] = []
        for pause_s in (0.1, 0.2, 0.3, 1e-6, 1 / 3, 2 / 7):
            until_s = the_loop().time() + pause_s
            await asyncio.sleep(pause_s)
            if the_loop().now_us < round(until_s * 1e6):
                early.append(pause_s)
        return early

    assert run(sleep()) == []


def test_a_frozen_process_goes_on_where_it_was() -> None:
    async def freeze() -> list[Any]:
        told: list[Any] = []
        process = Process("p")
        task = the_loop().create_task(count_to(3, told), context=process.context)
        await asyncio.sleep(1.5)
        process.freeze()
        await asyncio.sleep(10)
        process.thaw()
        await task
        return told

    assert run(freeze()) == [(0, 1.0), (1, 11.5), (2, 12.5)]


def test_what_a_frozen_process_was_told_waits_for_it() -> None:
    async def freeze() -> tuple[bool, str]:
        process = Process("p")
        asked: asyncio.Future[str] = the_loop().create_future()
        heard: list[str] = []

        async def hear() -> None:
            heard.append(await asked)

        task = the_loop().create_task(hear(), context=process.context)
        await asyncio.sleep(1)
        process.freeze()
        asked.set_result("news")
        await asyncio.sleep(1)
        was_deaf = not heard
        process.thaw()
        await task
        return was_deaf, heard[0]

    assert run(freeze()) == (True, "news")


def test_tasks_belong_to_the_process_that_began_them() -> None:
    async def ask() -> list[str | None]:
        async def who() -> str | None:
            process = current_process()
            inner = await asyncio.gather(asyncio.sleep(0, process), asyncio.sleep(0, current_process()))
            return process.name if process is not None and inner == [process, process] else None

        process = Process("p")
        theirs = the_loop().create_task(who(), context=process.context)
        return [await theirs, await the_loop().create_task(who())]

    assert run(ask()) == ["p", None]


def test_a_set_of_tasks_has_the_order_in_which_they_were_made() -> None:
    async def make() -> list[int]:
        tasks = {asyncio.ensure_future(asyncio.sleep(0, number)) for number in range(50)}
        return [await task for task in tasks]

    assert run(make()) == list(range(50))


def test_waiting_for_nothing_is_told() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with simulated_loop() as loop:
        task = loop.create_task(wait())
        with pytest.raises(Deadlock):
            loop.run_until_complete(task)
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))


@pytest.mark.slow
def test_a_loop_that_never_waits_is_told() -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110  # that is what is wrong with it
            await asyncio.sleep(0)

    with simulated_loop() as loop:
        task = loop.create_task(spin())
        with pytest.raises(Livelock):
            loop.run_until_complete(task)
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
