"""Schedules: which moments are theirs. What a user writes, and what the store keeps of it.

A *slot* is a nominal moment of a schedule, in whole microseconds. Each kind of spec answers one question: which slot
comes after this moment? The rules for clocks that are changed, of `Cron` and `Calendar` alike:

1. A moment that the clock skips (spring) is made up for at the first moment after the gap; several that fall into one
   gap are one slot.
2. A moment that the clock shows twice (autumn) is a slot the first time only.
3. What comes every hour, or every few minutes, goes by time that passes: nothing is made up for, and the hour that
   the clock shows twice counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from durableflow.errors import UsageError
from durableflow.model.duration import Duration, from_datetime, to_datetime, to_us
from durableflow.model.ids import check_name

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

Overlap: TypeAlias = Literal["skip", "allow", "buffer_one", "buffer_all", "cancel_previous", "terminate_previous"]
"""What happens to a slot that comes while the instance of one before is not over."""

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SHORTEST_US: Final = 100_000
_DAYS_SEARCHED: Final = 366 * 50
_ID_CHARS_MAX: Final = 400
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Cron(msgspec.Struct, frozen=True, tag="cron"):
    """The moments of a cron expression, as Debian's cron reads it.

    Args:
        expression: minute, hour, day of month, month, day of week; with a sixth field in front, also seconds.
        tz: the time zone whose clock counts, as `"Europe/Berlin"`.

    Raises:
        UsageError: it is no expression, or the zone is not known here.
    """

    expression: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        _zone(self.tz)
        _cron_from(self.expression, _EPOCH)

    def after(self, moment_us: int) -> int | None:
        """The first slot after a moment; None when there is none within fifty years."""
        try:
            for found in _cron_from(self.expression, to_datetime(moment_us).astimezone(_zone(self.tz))):
                slot_us = from_datetime(found, "a slot")
                if slot_us > moment_us:  # within an hour that comes twice, it begins with the first
                    return slot_us
        except OverflowError:
            pass
        return None


class Interval(msgspec.Struct, frozen=True, tag="interval"):
    """A moment every so often, by time that passes: no clock that is changed moves it.

    Args:
        every: seconds or a timedelta, at least 0.1 s.
        anchor: one of the moments, in the past or in the future; needs a time zone. By default 1970-01-01 UTC, so
            that an interval of an hour is at every full hour.

    Raises:
        UsageError: it is too short.
        ValueError: it is no time, or the anchor has no time zone.
    """

    every: Duration
    anchor: datetime = _EPOCH

    def __post_init__(self) -> None:
        every_us = to_us(self.every, "every")
        if every_us < _SHORTEST_US:
            raise UsageError(f"every is {self.every!r}, but must be at least 0.1 s")
        from_datetime(self.anchor, "anchor")
        msgspec.structs.force_setattr(self, "every", timedelta(microseconds=every_us))

    def after(self, moment_us: int) -> int | None:
        """The first slot after a moment."""
        every_us, anchor_us = to_us(self.every, "every"), from_datetime(self.anchor, "anchor")
        return anchor_us + ((moment_us - anchor_us) // every_us + 1) * every_us


class Calendar(msgspec.Struct, frozen=True, tag="calendar"):
    """Moments by date and clock: all that is given must hold; what is left out may be anything.

    Args:
        hours: 0 to 23, one or several; left out, every hour.
        minutes: 0 to 59, one or several; by default the full hour.
        weekdays: `"mon"` to `"sun"`, one or several.
        days: of the month, 1 to 31; -1 is the last, -2 the one before.
        months: 1 to 12.
        seconds: 0 to 59.
        tz: the time zone whose clock counts.

    Raises:
        UsageError: a number out of its range, a weekday that is none, a date that never comes, or an unknown zone.
    """

    hours: int | Sequence[int] | None = None
    minutes: int | Sequence[int] = 0
    weekdays: str | Sequence[str] | None = None
    days: int | Sequence[int] | None = None
    months: int | Sequence[int] | None = None
    seconds: int | Sequence[int] = 0
    tz: str = "UTC"

    def __post_init__(self) -> None:
        normal: dict[str, Any] = {
            "hours": _numbers("hours", self.hours, range(24)),
            "minutes": _numbers("minutes", self.minutes, range(60)),
            "weekdays": _weekdays(self.weekdays),
            "days": _numbers("days", self.days, [*range(-31, 0), *range(1, 32)]),
            "months": _numbers("months", self.months, range(1, 13)),
            "seconds": _numbers("seconds", self.seconds, range(60)),
        }
        for name, value in normal.items():
            msgspec.structs.force_setattr(self, name, value)
        _zone(self.tz)
        if self.after(0) is None:
            raise UsageError(f"{self!r} never comes: there is no such date")

    def after(self, moment_us: int) -> int | None:
        """The first slot after a moment; None when there is none within fifty years."""
        zone = _zone(self.tz)
        found: int | None = None
        try:
            day = to_datetime(moment_us).astimezone(zone).date() - timedelta(days=1)
            for _ in range(_DAYS_SEARCHED):
                was_found = found
                if self._has(day):
                    later = (slot_us for slot_us in self._slots(day, zone) if slot_us > moment_us)
                    found = min(later, default=found) if found is None else min(found, *later, found)
                if was_found is not None:  # a clock that is changed at midnight may mix two days
                    return found
                day += timedelta(days=1)
        except OverflowError:
            pass
        return found

    def _has(self, day: date) -> bool:
        months, days, weekdays = self.months, self.days, self.weekdays
        assert isinstance(months, tuple | None)
        assert isinstance(days, tuple | None)
        if months is not None and day.month not in months:
            return False
        if weekdays is not None and WEEKDAYS[day.weekday()] not in weekdays:
            return False
        days_left = (_month_after(day) - day).days
        return days is None or day.day in days or -days_left in days

    def _slots(self, day: date, zone: ZoneInfo) -> Iterator[int]:
        """The slots of a day, not in order where the clock is changed."""
        hours, minutes, seconds = self.hours, self.minutes, self.seconds
        assert isinstance(hours, tuple | None)
        assert isinstance(minutes, tuple)
        assert isinstance(seconds, tuple)
        for hour in range(24) if hours is None else hours:
            for minute in minutes:
                for second in seconds:
                    shown = datetime.combine(day, time(hour, minute, second), zone)
                    yield from _moments_of(shown, by_clock=hours is not None)


Spec: TypeAlias = Cron | Interval | Calendar


class _Timed(msgspec.Struct, frozen=True):
    spec: Spec


class Schedule(_Timed, frozen=True, kw_only=True):
    """When instances are started, and what happens when that is not possible in time.

    Args:
        spec: `Cron`, `Interval` or `Calendar`.
        overlap: what happens to a slot that comes while an instance of the schedule is not over: `"skip"` it (the
            default), `"allow"` both, `"buffer_one"` or `"buffer_all"` until that is over, `"cancel_previous"` and
            start when that is over, or `"terminate_previous"` and start at once.
        catch_up: slots that nobody could fire (no engine was there) still fire when they are no older than this;
            older ones are counted as missed. By default a day.
        jitter: each slot fires up to so much later, each by its own time, the same whoever asks.
        start: no slot is before.
        end: no slot is at this moment, or after.

    Raises:
        UsageError: an overlap that is none, or there is no slot at all.
        ValueError: a time out of range, or without a time zone.
    """

    overlap: Overlap = "skip"
    catch_up: Duration = timedelta(days=1)
    jitter: Duration = timedelta(0)
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        if self.overlap not in OVERLAPS:
            raise UsageError(f"overlap is {self.overlap!r}, but must be one of {', '.join(map(repr, OVERLAPS))}")
        for name in ("catch_up", "jitter"):
            microseconds = to_us(getattr(self, name), name)
            msgspec.structs.force_setattr(self, name, timedelta(microseconds=microseconds))
        start_us = 0 if self.start is None else from_datetime(self.start, "start")
        if self.end is not None and from_datetime(self.end, "end") <= start_us:
            raise UsageError(f"end is {self.end}, but must come after start, which is {self.start}")
        if self.after(start_us - 1) is None:
            raise UsageError(f"{self!r} has no slot: nothing would ever be started")

    def after(self, moment_us: int) -> int | None:
        """The first slot after a moment, if there is one."""
        if self.start is not None:
            moment_us = max(moment_us, from_datetime(self.start, "start") - 1)
        slot_us = self.spec.after(moment_us)
        if slot_us is None or (self.end is not None and slot_us >= from_datetime(self.end, "end")):
            return None
        return slot_us

    def upcoming(self, *, after: datetime, count: int = 5) -> list[datetime]:
        """Its slots after a moment, in UTC; fewer than `count` when it ends.

        Raises:
            ValueError: the datetime has no time zone.
        """
        found: list[datetime] = []
        slot_us = self.after(from_datetime(after, "after"))
        while slot_us is not None and len(found) < count:
            found.append(to_datetime(slot_us))
            slot_us = self.after(slot_us)
        return found

    def due_us(self, schedule_id: str, slot_us: int) -> int:
        """When a slot fires: with jitter a little later, by a time that follows from its name."""
        jitter_us = to_us(self.jitter, "jitter")
        if not jitter_us:
            return slot_us
        digest = blake2b(slot_id(schedule_id, slot_us).encode(), digest_size=8).digest()
        return slot_us + int.from_bytes(digest) % (jitter_us + 1)


class OverlapRule(msgspec.Struct, frozen=True):
    """What an overlap policy does with a slot, while an instance of one before is not over.

    Attributes:
        ask: what is asked of those that are not over.
        then: the slot fires all the same, waits, or is skipped.
        keep: which of the slots that wait are kept.
    """

    ask: Literal["cancel", "terminate"] | None
    then: Literal["fire", "wait", "skip"]
    keep: Literal["first", "last", "all"] = "first"


OVERLAPS: Final[dict[str, OverlapRule]] = {
    "skip": OverlapRule(None, "skip"),
    "allow": OverlapRule(None, "fire"),
    "buffer_one": OverlapRule(None, "wait", "first"),
    "buffer_all": OverlapRule(None, "wait", "all"),
    "cancel_previous": OverlapRule("cancel", "wait", "last"),
    "terminate_previous": OverlapRule("terminate", "fire"),
}


def as_schedule(given: Schedule | Spec) -> Schedule:
    """A bare spec is a schedule with the defaults."""
    if isinstance(given, Schedule):
        return given
    if isinstance(given, (Cron, Interval, Calendar)):  # pyright: ignore[reportUnnecessaryIsInstance]  # users pass anything
        return Schedule(given)
    raise UsageError(f"a schedule is a Schedule, Cron, Interval or Calendar, not {given!r:.80}")


# -- names --------------------------------------------------------------------------------------------------


def check_schedule_id(schedule_id: object) -> str:
    """The id itself, when ids of instances can be made of it.

    Raises:
        UsageError: it is none.
    """
    checked = check_name(schedule_id, "the schedule id")
    if len(checked) > _ID_CHARS_MAX:
        raise UsageError(f"the schedule id has {len(checked)} characters, over the limit of {_ID_CHARS_MAX}")
    return checked


def slot_id(schedule_id: str, slot_us: int) -> str:
    """The id of the instance that a slot makes: the same whoever makes it, so that there is one."""
    return f"{schedule_id}/{to_datetime(slot_us).replace(tzinfo=None).isoformat()}Z"


def trigger_id(schedule_id: str, name: str) -> str:
    """The id of the instance that a call of `trigger` makes."""
    return f"{schedule_id}/trigger/{name}"


def slot_of(instance_id: str) -> datetime | None:
    """The slot for which a schedule started an instance, by its id; None when it was started in another way.

    A workflow may ask it of `ctx.instance_id`: which day is this the report of?
    """
    schedule_id, _, text = instance_id.rpartition("/")
    try:
        slot = datetime.fromisoformat(text)
        is_slot = not schedule_id.endswith("/trigger") and slot_id(schedule_id, from_datetime(slot, "")) == instance_id
    except ValueError:
        return None
    return slot if is_slot else None


# -- clocks -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError) as error:
        raise UsageError(
            f"tz is {name!r}, which this machine does not know; write a name such as 'Europe/Berlin', "
            "and install the package tzdata where the system has no time zones"
        ) from error


def _cron_from(expression: str, moment: datetime) -> Iterator[datetime]:
    """The moments of a cron expression from one on."""
    from cronsim import CronSim, CronSimError

    try:
        return CronSim(expression, moment)
    except (CronSimError, AttributeError) as error:
        raise UsageError(
            f"{expression!r} is no cron expression: {error}; write minute, hour, day of month, month, day of week, "
            "as in '30 2 * * mon-fri'"
        ) from error


def _moments_of(shown: datetime, *, by_clock: bool) -> Iterator[int]:
    """The moments at which a clock shows this, by the rules at the top of this file."""
    first, second = (from_datetime(shown.replace(fold=fold), "a slot") for fold in (0, 1))
    if first == second:
        yield first
    elif first < second:  # shown twice
        yield first
        if not by_clock:
            yield second
    elif by_clock:  # never shown: the clock was moved on between `second` and `first`
        yield _change_between(second, first, shown.tzinfo)


def _month_after(day: date) -> date:
    """The first day of the next month."""
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)


def _change_between(early_us: int, late_us: int, zone: Any) -> int:
    """The moment between these at which the clock is changed, which it is at a full second."""
    low, high = early_us // 1_000_000, late_us // 1_000_000
    offset = to_datetime(low * 1_000_000).astimezone(zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if to_datetime(middle * 1_000_000).astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high * 1_000_000


def _numbers(what: str, given: int | Sequence[int] | None, allowed: Sequence[int]) -> tuple[int, ...] | None:
    if given is None:
        return None
    numbers = (given,) if isinstance(given, int) else tuple(given)
    wrong = [each for each in numbers if each not in allowed or isinstance(each, bool)]
    if wrong or not numbers:
        low, high = allowed[0], allowed[-1]
        raise UsageError(f"{what} is {given!r}, but must be one or more of {low} to {high}{' without 0' * (low < 0)}")
    return tuple(sorted(set(numbers)))


def _weekdays(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    names = (given,) if isinstance(given, str) else tuple(given)
    wrong = [each for each in names if each not in WEEKDAYS]
    if wrong or not names:
        raise UsageError(f"weekdays is {given!r}, but must be one or more of {', '.join(map(repr, WEEKDAYS))}")
    return tuple(each for each in WEEKDAYS if each in names)
