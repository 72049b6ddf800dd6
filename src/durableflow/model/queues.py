"""Queues as people see them: how they stand, and the words for their limits."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

PRIORITY_MAX: Final = 1_000
_PERIODS_S: Final = {
    "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3_600, "hour": 3_600, "d": 86_400,
    "day": 86_400,
}  # fmt: skip
_COUNT_MAX: Final = 1_000_000


class QueueStatus(msgspec.Struct, frozen=True):
    """How a queue stands.

    Attributes:
        waiting: tasks that may be taken now.
        delayed: tasks whose time has not come: retries, and starts at a later moment.
        running: tasks that were taken and are not finished; of instances that it admitted, those not over.
        handed_over: tasks that whoever holds their token will finish.
        oldest_at: since when the oldest of the waiting ones is there.
        is_paused: nothing is taken.
        concurrency: how many may be running at once, over all processes; None for no limit.
        rate: so many may be taken in a period, as `(count, period)`; None for no limit.
        burst: so many at once at most, within the rate.
    """

    name: str
    waiting: int = 0
    delayed: int = 0
    running: int = 0
    handed_over: int = 0
    oldest_at: datetime | None = None
    is_paused: bool = False
    concurrency: int | None = None
    rate: tuple[int, timedelta] | None = None
    burst: int | None = None


def check_priority(priority: int) -> int:
    """`priority` itself, when it is one.

    Raises:
        ValueError: it is not a whole number from -1,000 to 1,000.
    """
    if type(priority) is not int or not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise ValueError(f"priority is {priority!r}, but must be a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}")
    return priority


def check_count(count: int, what: str) -> int:
    """`count` itself, when so many can be meant; raises `ValueError` by the name of `what`."""
    if type(count) is not int or not 1 <= count <= _COUNT_MAX:
        raise ValueError(f"{what} is {count!r}, but must be a whole number from 1 to {_COUNT_MAX:,}")
    return count


def read_rate(rate: str | tuple[int, timedelta]) -> tuple[int, int]:
    """Count and period in microseconds of `"100/min"`, `"5/s"`, `"1000/day"` or `(100, timedelta(minutes=1))`.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(rate, str):
        count_text, slash, period_text = rate.partition("/")
        seconds = _PERIODS_S.get(period_text.strip().lower())
        if not slash or not count_text.strip().isdecimal() or seconds is None:
            raise ValueError(f"rate is {rate!r}, but must be like '100/min', '5/s', '1000/hour' or '10/day'")
        return check_count(int(count_text), "the count of a rate"), seconds * 1_000_000
    count, period = rate
    period_us = period // timedelta(microseconds=1)
    if period_us <= 0:
        raise ValueError(f"the period of a rate is {period!r}, but must be above 0")
    return check_count(count, "the count of a rate"), period_us
