"""Which moments are a schedule's: strictly later ones, in order, by the rules for clocks that are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow import Calendar, Cron, Interval, Schedule, UsageError, slot_of
from durableflow.model.duration import from_datetime, to_datetime
from durableflow.model.schedule import OVERLAPS, Spec, as_schedule, check_schedule_id, slot_id, trigger_id

BERLIN = "Europe/Berlin"
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001  # what is refused
ZONES = [BERLIN, "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kolkata", "UTC", "Africa/Cairo"]


def us(text: str) -> int:
    return from_datetime(datetime.fromisoformat(text), "text")


def slots(spec: Any, since: str, until: str) -> list[str]:
    """Slots after `since` and before `until`, in UTC, without the year's century and the zone."""
    found = list[str]()
    slot_us = spec.after(us(since))
    while slot_us is not None and slot_us < us(until):
        found.append(to_datetime(slot_us).strftime("%m-%d %H:%M"))
        slot_us = spec.after(slot_us)
    return found


# -- clocks that are changed: at 01:00 UTC, Berlin goes from 2 to 3 on 29 March 2026, and from 3 to 2 on 25 October


AT_HALF_PAST_TWO = [Cron("30 2 * * *", BERLIN), Calendar(2, 30, tz=BERLIN)]


@pytest.mark.parametrize("spec", AT_HALF_PAST_TWO, ids=["cron", "calendar"])
def test_a_moment_that_the_clock_skips_comes_at_the_first_moment_after_the_gap(spec: Spec) -> None:
    found = slots(spec, "2026-03-28T00:00Z", "2026-03-31T00:00Z")
    assert found == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]


@pytest.mark.parametrize("spec", AT_HALF_PAST_TWO, ids=["cron", "calendar"])
def test_a_moment_that_the_clock_shows_twice_comes_the_first_time_only(spec: Spec) -> None:
    found = slots(spec, "2026-10-24T00:00Z", "2026-10-27T00:00Z")
    assert found == ["10-24 00:30", "10-25 00:30", "10-26 01:30"]


@pytest.mark.parametrize("spec", AT_HALF_PAST_TWO, ids=["cron", "calendar"])
@pytest.mark.parametrize("asked", ["2026-10-25T00:30Z", "2026-10-25T01:00Z", "2026-10-25T01:10Z", "2026-10-25T01:30Z"])
def test_asked_within_the_hour_that_comes_twice_the_next_is_tomorrow(spec: Spec, asked: str) -> None:
    assert spec.after(us(asked)) == us("2026-10-26T01:30Z")


@pytest.mark.parametrize(
    "spec", [Cron("0,15,30,45 2 * * *", BERLIN), Calendar(2, [0, 15, 30, 45], tz=BERLIN)], ids=["cron", "calendar"]
)
def test_several_moments_in_one_gap_are_one_slot(spec: Spec) -> None:
    assert slots(spec, "2026-03-29T00:00Z", "2026-03-29T12:00Z") == ["03-29 01:00"]


@pytest.mark.parametrize(
    "spec", [Cron("30 * * * *", BERLIN), Calendar(minutes=30, tz=BERLIN)], ids=["cron", "calendar"]
)
def test_what_comes_every_hour_goes_by_the_time_that_passes(spec: Spec) -> None:
    spring = slots(spec, "2026-03-29T00:00Z", "2026-03-29T03:00Z")
    assert spring == ["03-29 00:30", "03-29 01:30", "03-29 02:30"]
    autumn = slots(spec, "2026-10-25T00:00Z", "2026-10-25T03:00Z")
    assert autumn == ["10-25 00:30", "10-25 01:30", "10-25 02:30"]


def test_an_interval_knows_no_clock() -> None:
    spec = Interval(timedelta(hours=24), anchor=datetime(2026, 3, 1, 2, 30, tzinfo=ZoneInfo(BERLIN)))
    assert slots(spec, "2026-03-28T00:00Z", "2026-03-31T00:00Z") == ["03-28 01:30", "03-29 01:30", "03-30 01:30"]


def test_a_gap_of_half_an_hour_ends_where_it_ends() -> None:
    spec = Calendar(2, 10, tz="Australia/Lord_Howe")  # 2:00 becomes 2:30 on 4 October 2026, at 15:30 UTC of the 3rd
    assert slots(spec, "2026-10-03T00:00Z", "2026-10-04T00:00Z") == ["10-03 15:30"]


def test_a_day_that_a_clock_skips_whole_is_made_up_for_at_its_end() -> None:
    spec = Calendar(12, tz="Pacific/Apia")  # there was no 30 December 2011
    found = slots(spec, "2011-12-29T00:00Z", "2011-12-31T12:00Z")
    assert found == ["12-29 22:00", "12-30 10:00", "12-30 22:00"]


# -- what is asked for ----------------------------------------------------------------------------------------------


def test_a_calendar_means_all_that_it_says() -> None:
    spec = Calendar([9, 17], 30, weekdays=["fri", "mon"], months=[1])
    found = slots(spec, "2026-01-01T00:00Z", "2026-01-06T00:00Z")
    assert found == ["01-02 09:30", "01-02 17:30", "01-05 09:30", "01-05 17:30"]


def test_the_last_day_of_a_month_is_minus_one() -> None:
    assert slots(Calendar(0, days=-1), "2028-01-01T00:00Z", "2028-04-01T00:00Z") == [
        "01-31 00:00", "02-29 00:00", "03-31 00:00",
    ]  # fmt: skip
    assert slots(Calendar(0, days=[1, -2], months=2), "2026-01-01T00:00Z", "2027-01-01T00:00Z") == [
        "02-01 00:00", "02-27 00:00",
    ]  # fmt: skip


def test_a_date_that_is_rare_is_found() -> None:
    assert Calendar(0, days=29, months=2, weekdays="mon").after(us("2024-03-01T00:00Z")) == us("2044-02-29T00:00Z")
    assert Cron("0 0 29 2 *").after(us("2026-03-01T00:00Z")) == us("2028-02-29T00:00Z")


def test_seconds_can_be_asked_for() -> None:
    assert Cron("*/20 * * * * *").after(us("2026-01-01T00:00:01Z")) == us("2026-01-01T00:00:20Z")
    assert Calendar(seconds=[5, 50]).after(us("2026-01-01T00:00:06Z")) == us("2026-01-01T00:00:50Z")


def test_an_interval_counts_from_its_anchor_in_both_directions() -> None:
    spec = Interval(90, anchor=datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC))
    assert spec.after(us("2026-01-01T00:00:10Z")) == us("2026-01-01T00:01:40Z")
    assert spec.after(us("2026-01-01T00:00:09Z")) == us("2026-01-01T00:00:10Z")
    assert spec.after(us("2025-12-31T23:58:40Z")) == us("2026-01-01T00:00:10Z")


def test_nothing_is_found_at_the_end_of_time() -> None:
    late_us = us("9999-12-31T23:59:59Z")
    assert Calendar(0).after(late_us) is None
    assert Cron("0 0 * * *").after(late_us) is None


specs = st.one_of(
    st.builds(
        Calendar,
        st.none() | st.sets(st.integers(0, 23), min_size=1, max_size=3).map(sorted),
        st.sets(st.integers(0, 59), min_size=1, max_size=3).map(sorted),
        st.none() | st.sets(st.sampled_from(["mon", "wed", "sun"]), min_size=1).map(sorted),
        st.none() | st.sampled_from([1, 15, -1, [28, 29]]),
        tz=st.sampled_from(ZONES),
    ),
    st.builds(
        Cron,
        st.sampled_from(["30 2 * * *", "*/7 * * * *", "0 0 1 * mon", "15 0 * * *", "59 23 L * *", "0 */6 * * *"]),
        st.sampled_from(ZONES),
    ),
    st.builds(Interval, st.sampled_from([0.1, 7, 3_600, 100_000.5])),
)
moments = st.integers(us("2024-01-01T00:00Z"), us("2027-01-01T00:00Z"))


@given(specs, moments)
def test_the_next_slot_is_later_and_there_is_none_between(spec: Spec, moment_us: int) -> None:
    first = spec.after(moment_us)
    assert first is not None
    assert first > moment_us
    assert spec.after(first - 1) == first
    assert spec.after((moment_us + first) // 2) == first, "whoever asks meanwhile is told the same"


@given(specs, moments)
def test_a_spec_is_the_same_when_it_comes_back_from_the_store(spec: Spec, moment_us: int) -> None:
    schedule = Schedule(spec, jitter=5)
    again = msgspec.json.decode(msgspec.json.encode(schedule), type=Schedule)
    assert again == schedule
    assert again.after(moment_us) == schedule.after(moment_us)


@given(st.integers(0, 27), st.integers(0, 23), st.integers(0, 59), st.sampled_from(ZONES), moments)
def test_cron_and_calendar_agree(day: int, hour: int, minute: int, zone: str, moment_us: int) -> None:
    days = f"{day}" if day else "*"
    cron = Cron(f"{minute} {hour} {days} * *", zone)
    calendar = Calendar(hour, minute, days=day or None, tz=zone)
    for _ in range(3):
        slot_us = cron.after(moment_us)
        assert slot_us == calendar.after(moment_us)
        assert slot_us is not None
        moment_us = slot_us


# -- bounds, jitter, names ------------------------------------------------------------------------------------------


def test_the_first_slot_may_be_at_the_start_and_none_is_at_the_end() -> None:
    hour = timedelta(hours=1)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    schedule = Schedule(Interval(hour), start=start, end=start + 2 * hour)
    assert slots(schedule, "2025-01-01T00:00Z", "2027-01-01T00:00Z") == ["01-01 00:00", "01-01 01:00"]


def test_the_slots_to_come_can_be_asked_for() -> None:
    schedule = Schedule(Interval(60), end=datetime(2026, 1, 1, 0, 3, tzinfo=UTC))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert schedule.upcoming(after=start) == [start + timedelta(minutes=1), start + timedelta(minutes=2)]
    assert schedule.upcoming(after=start, count=1) == [start + timedelta(minutes=1)]
    with pytest.raises(ValueError, match="time zone"):
        schedule.upcoming(after=NAIVE)


def test_jitter_is_the_same_whoever_asks_and_differs_between_slots() -> None:
    schedule = Schedule(Interval(3_600), jitter=600)
    late = [schedule.due_us("s", slot_us) - slot_us for slot_us in range(0, 36_000_000_000, 3_600_000_000)]
    assert late == [schedule.due_us("s", slot_us) - slot_us for slot_us in range(0, 36_000_000_000, 3_600_000_000)]
    assert all(0 <= each <= 600_000_000 for each in late)
    assert len(set(late)) == 10
    assert late[0] != schedule.due_us("t", 0)
    assert Schedule(Interval(3_600)).due_us("s", 7) == 7


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.600000Z"])
def test_an_instance_id_says_its_slot(text: str) -> None:
    made = slot_id("team/nightly", us(text))
    assert made == f"team/nightly/{text}"
    assert slot_of(made) == datetime.fromisoformat(text)


@pytest.mark.parametrize(
    "other", ["order-1", "a/b", "a/2026-01-01", "a/20260101T000000Z", trigger_id("n", "2026-01-02T03:04:05Z")]
)
def test_an_id_that_no_slot_has_made_says_none(other: str) -> None:
    assert slot_of(other) is None


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cron("61 * * * *"), "no cron expression: Bad minute"),
        (lambda: Cron("* * *"), "Wrong number of fields"),
        (lambda: Cron("0 0 31 2 *"), "no cron expression"),
        (lambda: Cron("* * * * *", "Mars/Olympus"), "tz is 'Mars/Olympus'"),
        (lambda: Cron("* * * * *", ""), "tz is ''"),
        (lambda: Interval(0.01), "at least 0.1 s"),
        (lambda: Calendar(24), "hours is 24"),
        (lambda: Calendar(hours=[]), r"hours is \[\]"),
        (lambda: Calendar(minutes=[0, 60]), r"minutes is \[0, 60\]"),
        (lambda: Calendar(days=0), "without 0"),
        (lambda: Calendar(weekdays="friday"), "weekdays is 'friday'"),
        (lambda: Calendar(0, days=31, months=[2, 4]), "never comes"),
        (lambda: Calendar(0, tz="nowhere"), "tz is 'nowhere'"),
        (lambda: Schedule(Interval(1), overlap="maybe"), "overlap is 'maybe', but must be one of 'skip', 'allow'"),  # type: ignore[arg-type]
        (
            lambda: Schedule(Interval(1), start=datetime(2026, 1, 2, tzinfo=UTC), end=datetime(2026, 1, 1, tzinfo=UTC)),
            "must come after start",
        ),
        (
            lambda: Schedule(Interval(10), start=datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC),
                             end=datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)),
            "has no slot",
        ),
        (lambda: as_schedule("0 0 * * *"), "a schedule is a Schedule, Cron, Interval or Calendar"),  # type: ignore[arg-type]
        (lambda: check_schedule_id(""), "the schedule id is empty"),
        (lambda: check_schedule_id("x" * 401), "over the limit of 400"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_can_be_no_schedule_is_refused_by_name(make: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Interval(60, anchor=NAIVE),
        lambda: Schedule(Interval(60), start=NAIVE),
        lambda: Schedule(Interval(60), catch_up=-1),
        lambda: Schedule(Interval(60), jitter=float("nan")),
    ],
    ids=["anchor", "start", "catch_up", "jitter"],
)
def test_a_time_that_is_none_is_refused_as_everywhere(make: Any) -> None:
    with pytest.raises(ValueError, match=r"time zone|must be"):
        make()


def test_every_policy_has_a_rule() -> None:
    assert list(OVERLAPS) == ["skip", "allow", "buffer_one", "buffer_all", "cancel_previous", "terminate_previous"]
    assert as_schedule(Interval(1)).overlap == "skip"
