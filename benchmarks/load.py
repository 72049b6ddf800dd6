"""A closed loop of clients, and the arithmetic of what they saw."""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks import process, work
from benchmarks.contract import Contender, WrongResultError


@dataclass(frozen=True)
class Load:
    """What one closed loop did."""

    completed: int
    took_s: float
    cpu_s: float
    cut_short: bool  # the deadline came before everything that was started had ended

    @property
    def rate(self) -> float:
        return self.completed / self.took_s

    @property
    def cpu_ms(self) -> float:
        return self.cpu_s * 1000 / self.completed


async def closed_loop(
    client: Callable[[int], Awaitable[None]],
    *,
    concurrency: int,
    start_for_s: float,
    deadline_s: float,
    pids: Sequence[int],
    at_most: int | None = None,
) -> Load:
    """Keep `concurrency` clients busy: each starts the next as soon as its last has ended.

    Every client does at least one; new ones start for `start_for_s`, what was started may end until `deadline_s`.
    The clock runs from the first start to the last completion, so ramp-up and drain count.
    """
    state = _Loop(client, at_most=at_most)
    before_cpu_s = process.cpu_s(pids)
    state.began_s = time.perf_counter()
    state.stop_s = state.began_s + start_for_s
    clients = [asyncio.ensure_future(state.keep_going()) for _ in range(concurrency)]
    done, pending = await asyncio.wait(clients, timeout=deadline_s, return_when=asyncio.FIRST_EXCEPTION)
    took_s = (state.last_s if not pending else time.perf_counter()) - state.began_s
    cpu_s = process.cpu_s(pids) - before_cpu_s
    for task in pending:
        task.cancel()
    for task in done:
        task.result()
    if not state.completed:
        message = f"nothing completed in {took_s:.0f} s"
        raise TimeoutError(message)
    return Load(state.completed, took_s, cpu_s, cut_short=bool(pending))


class _Loop:
    def __init__(self, client: Callable[[int], Awaitable[None]], *, at_most: int | None) -> None:
        self.client = client
        self.at_most = at_most
        self.started = 0
        self.completed = 0
        self.began_s = self.stop_s = self.last_s = 0.0

    async def keep_going(self) -> None:
        while self.at_most is None or self.started < self.at_most:
            number = self.started
            self.started += 1
            await self.client(number)
            self.completed += 1
            self.last_s = time.perf_counter()
            if self.last_s >= self.stop_s:
                return


def checked_calls(contender: Contender, workflow: str, dice: random.Random) -> Callable[[int], Awaitable[None]]:
    """A client that calls `workflow` with seeded arguments and accepts only the right result."""
    offset = dice.randrange(1_000_000)

    async def client(number: int) -> None:
        await checked_call(contender, workflow, offset + number)

    return client


async def checked_call(contender: Contender, workflow: str, argument: int) -> None:
    check(workflow, argument, await contender.call(workflow, argument))


def check(workflow: str, argument: int, result: object) -> None:
    """Refuse any result but the right one.

    Raises:
        WrongResultError: the contender failed, or did other work than it was given.
    """
    wanted = work.expected(workflow, argument)
    if result != wanted:
        message = f"{workflow}({argument}) returned {result!r}, not {wanted!r}"
        raise WrongResultError(message)


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least the share `q` of all values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]
