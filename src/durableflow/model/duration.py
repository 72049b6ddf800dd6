"""Lengths of time as people write them, and as the engine counts them: whole microseconds."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

Duration: TypeAlias = timedelta | float
"""Seconds, or a timedelta."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LONGEST_US: Final = 200 * 366 * 86_400 * 1_000_000


def to_us(duration: Duration, what: str) -> int:
    """Whole microseconds of `duration`; `what` names it in the error.

    Raises:
        ValueError: negative, not a number, or longer than 200 years.
    """
    if isinstance(duration, timedelta):
        microseconds = duration // _MICROSECOND
    elif isinstance(duration, (int, float)) and math.isfinite(duration):  # pyright: ignore[reportUnnecessaryIsInstance]  # users pass anything
        microseconds = round(duration * 1_000_000)
    else:
        raise ValueError(f"{what} is {duration!r}, but must be seconds or a timedelta")
    if not 0 <= microseconds <= _LONGEST_US:
        raise ValueError(f"{what} is {duration!r}, but must be from 0 to 200 years")
    return microseconds


def to_datetime(at_us: int) -> datetime:
    """The moment `at_us` microseconds after 1970 in UTC, with its time zone.

    Of what a spoiled row may hold: a moment that no datetime can name is the latest or the first, and what is no number
    is 1970, so that whoever looks sees the rest.
    """
    try:
        return _EPOCH + timedelta(microseconds=at_us)
    except OverflowError:
        return _LATEST if at_us > 0 else _FIRST
    except TypeError:
        return _EPOCH


def from_datetime(moment: datetime, what: str) -> int:
    """Microseconds since 1970 in UTC.

    Raises:
        ValueError: the datetime has no time zone; `what` names it.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{what} is {moment!r}, which has no time zone; write datetime.now(UTC) or attach one")
    return (moment - _EPOCH) // _MICROSECOND
