"""Queues, as clients look at them and set their limits."""

from __future__ import annotations

from datetime import timedelta

from durableflow.backends.base import Backend
from durableflow.backends.tasks import QueueLimits, QueueRecord
from durableflow.errors import UsageError
from durableflow.model.duration import to_datetime
from durableflow.model.ids import check_name
from durableflow.model.queues import QueueStatus, check_count, read_rate

Rate = str | tuple[int, timedelta]


async def set_limits(
    backend: Backend, name: str, concurrency: int | None, rate: Rate | None, burst: int | None
) -> None:
    """Set them; what is None has no limit.

    Raises:
        ValueError: a limit is out of range.
        UsageError: a burst without a rate, or a name that not every store can hold.
    """
    check_name(name, "the name of a queue")
    if concurrency is not None:
        check_count(concurrency, "concurrency")
    if burst is not None and rate is None:
        raise UsageError("burst says how many may be taken at once within a rate; give the rate, too")
    count, period_us = (0, 0) if rate is None else read_rate(rate)
    most = count if burst is None else check_count(burst, "burst")
    await backend.limit_queue(name, QueueLimits(concurrency, count, period_us, most))


async def set_paused(backend: Backend, name: str, *, is_paused: bool) -> None:
    """Have nothing taken from a queue, or go on with it."""
    await backend.pause_queue(check_name(name, "the name of a queue"), is_paused=is_paused)


def queue_status(record: QueueRecord) -> QueueStatus:
    """A queue as people see it."""
    limits = record.limits
    has_rate = limits.rate_count > 0
    return QueueStatus(
        record.name,
        record.waiting,
        record.delayed,
        record.claimed,
        record.handed_over,
        None if record.oldest_us is None else to_datetime(record.oldest_us),
        record.is_paused,
        limits.concurrency,
        (limits.rate_count, timedelta(microseconds=limits.rate_period_us)) if has_rate else None,
        limits.rate_burst if has_rate else None,
    )
