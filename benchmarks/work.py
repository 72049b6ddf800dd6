"""The work itself: the functions every contender runs, their right answers, and what they leave behind to count.

Contenders run user code in this same process, so plain counters see each call. That is how a workload knows that work
was really done, when an instance has come to its wait, and how long the first and the last steps of a long one took.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Callable
from typing import Final

SEQUENCE_LENGTH: Final = 10
MEMBER: Final = "BENCHMARKS_MEMBER"  # the variable that names a process of a fleet
EVENTS_BEFORE_CRASH: Final = 10  # 1 start + 4 × (asked, completed) + 1 asked


class Counter:
    """Counts calls from any thread; `next` on a C iterator cannot be interrupted half way."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self.value = 0

    def add(self) -> None:
        self.value = next(self._count)


calls = Counter()
waits = Counter()
gates = Counter()
marks: list[tuple[float, float]] = []  # wall and CPU seconds at each call of `mark`
gate_open = True
mark_listeners: list[Callable[[], object]] = []


def add_one(x: int) -> int:
    """The activity of nearly all workloads: as good as nothing, since the engine is what is measured."""
    calls.add()
    return x + 1


def mark(x: int) -> int:
    """The activity of the long instance: `add_one` that also notes the time."""
    calls.add()
    marks.append((time.perf_counter(), time.process_time()))
    for listener in mark_listeners:
        listener()
    return x + 1


async def gate(x: int) -> int:
    """The activity that holds an instance open until the process is killed, and passes in the next process."""
    gates.add()
    if not gate_open:
        await asyncio.Event().wait()
    return x + 1


def is_member() -> bool:
    """Whether this process is one of a fleet, which works for others as well."""
    return MEMBER in os.environ


def note_wait() -> None:
    """Called by the workflow `wait` just before its wait; in a replay as well."""
    waits.add()


def expected(workflow: str, argument: int) -> int:
    """The one right result of `workflow(argument)`; for `wait`, of an event that carries 1."""
    return WORKFLOWS[workflow](argument)


# what each workflow does, and what must come out
WORKFLOWS: Final[dict[str, Callable[[int], int]]] = {
    "one": lambda x: x + 1,  # one activity
    "ten": lambda x: x + SEQUENCE_LENGTH,  # ten activities, each takes the result of the one before
    "fan_out": lambda width: width * (width + 1) // 2,  # `width` activities at once; the sum of their results
    "long": lambda length: length,  # `length` activities (`mark`), one after the other, from 0
    "wait": lambda x: x + 1,  # wait for the event `go`; argument plus what the event carries
    "gated": lambda x: x + 5,  # four activities, then `gate`
    "react": lambda x: x + 2,  # wait for the event `go`; `mark` of the argument plus what the event carries
}


def crash() -> None:
    """Leave as a killed process does: nothing is flushed, no clean-up runs."""
    os._exit(0)
