"""Lengths of time, and moments."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow.model.duration import from_datetime, to_datetime, to_us


@pytest.mark.parametrize(
    ("duration", "microseconds"),
    [
        (0, 0),
        (1, 1_000_000),
        (0.0000004, 0),
        (0.1 + 0.2, 300_000),
        (timedelta(days=365 * 100), 365 * 100 * 86_400_000_000),
        (timedelta(microseconds=1), 1),
        (True, 1_000_000),
    ],
)
def test_durations_are_whole_microseconds(duration: Any, microseconds: int) -> None:
    assert to_us(duration, "x") == microseconds


@pytest.mark.parametrize("wrong", [-1, -1e-5, float("nan"), float("inf"), timedelta(-1), timedelta(days=74_000), 1e12])
def test_durations_out_of_range_are_refused_by_name(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^the wait is .* but must be"):
        to_us(wrong, "the wait")


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))])))
def test_moments_come_back(moment: datetime) -> None:
    assert to_datetime(from_datetime(moment, "x")) == moment


def test_a_moment_without_a_zone_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"has no time zone; write datetime.now\(UTC\)"):
        from_datetime(datetime(2026, 1, 1), "start_at")  # noqa: DTZ001  # the mistake it is about
