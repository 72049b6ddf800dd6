"""The verdict of a soak finds what has grown, each leak that is planted here, and nothing where nothing has."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.soak.record import CLIENT, STEADY, Fault, Record, Terms
from benchmarks.soak.verdict import checks, passed, slope

EVERY_S = 15.0
HOUR = Terms(duration_s=3_600.0, rate=100.0)


def shaped(terms: Terms, level: float, noise: float, seed: str) -> list[float | None]:
    dice = random.Random(seed)
    return [level + dice.uniform(-noise, noise) for _ in range(int(terms.duration_s / EVERY_S))]


def recorded(terms: Terms = HOUR) -> Record:
    """A soak in which nothing grew, with the noise of a real one."""
    moments: list[float | None] = [(number + 1) * EVERY_S for number in range(int(terms.duration_s / EVERY_S))]
    levels = {
        STEADY: {
            "rss_kb": (90_000, 900),
            "heap_kb": (8_000, 200),
            "blocks": (400_000, 9_000),
            "idle_tasks": (25, 4),
            "threads": (34, 1),
        }
        | {"files": (14, 1), "live": (700, 120)},
        "w2": {"rss_kb": (80_000, 9_000), "idle_tasks": (25, 4), "threads": (34, 2), "files": (14, 1)},
        CLIENT: {"rss_kb": (60_000, 500), "blocks": (200_000, 3_000), "idle_tasks": (6, 2), "threads": (1, 0)}
        | {"files": (9, 1), "all_p50_ms": (60, 20), "all_p99_ms": (1_500, 500), "steady_p50_ms": (70, 20)}
        | {"start_p50_ms": (5, 2)},
        "server": {"sessions": (46, 3), "rows_instances": (24_000, 900), "rows_inbox": (5, 5), "store_mb": (80, 4)}
        | {"rows_takeovers": (30, 30), "rows_windows": (2, 2), "probe_ms": (4, 0.5)},
    }
    series = {
        name: {"at_s": moments}
        | {column: shaped(terms, *level, f"{name} {column}") for column, level in columns.items()}
        for name, columns in levels.items()
    }
    began = terms.rate * terms.duration_s
    return Record(
        terms=terms,
        planned_faults=2,
        faults=[Fault(at_s=40.0, what="kill", whom="w2"), Fault(at_s=90.0, what="sessions")],
        series=series,
        totals={"began": began, "acknowledged": began, "judged": began * 1.2, "judged_acknowledged": began},
    )


def grow(record: Record, series: str, column: str, per_min: float) -> None:
    """Have a column grow; the moments stay."""
    columns = record.series[series]
    columns[column] = [
        value + per_min * at_s / 60
        for at_s, value in zip(columns["at_s"], columns[column], strict=True)
        if at_s is not None and value is not None
    ]


def broken(record: Record) -> list[str]:
    return [check.name for check in checks(record) if check.passed is False]


def test_a_soak_in_which_nothing_grew_passes() -> None:
    assert broken(recorded()) == []
    assert all(check.passed for check in checks(recorded()))
    assert passed(recorded())


@pytest.mark.parametrize(
    ("series", "column", "per_min", "named"),
    [
        (STEADY, "rss_kb", 90.0, "resident memory of w1"),  # of 40 instances in a second: 38 bytes each
        (CLIENT, "rss_kb", 90.0, "resident memory of client"),
        (STEADY, "heap_kb", 20.0, "memory in use by C code of w1"),
        (STEADY, "blocks", 240.0, "blocks of the interpreter of w1"),  # a block for each tenth instance
        (STEADY, "idle_tasks", 0.3, "tasks of w1"),  # a task for each fourth fault
        ("w2", "files", 0.3, "open files of w2"),
        (STEADY, "threads", 0.3, "threads of w1"),
        (CLIENT, "threads", 0.1, "threads of client"),
        ("server", "sessions", 0.4, "sessions of the server"),
        (STEADY, "live", 10.0, "instances in memory of w1"),
        ("server", "rows_instances", 200.0, "rows of instances"),
        ("server", "rows_inbox", 3.0, "rows of inbox"),
        ("server", "rows_windows", 3.0, "rows of windows"),
        ("server", "store_mb", 3.0, "megabytes of all tables"),
        ("server", "rows_takeovers", 20.0, "rows of takeovers"),
        (CLIENT, "all_p50_ms", 0.8, "p50 of all kinds"),
        (CLIENT, "all_p99_ms", 40.0, "p99 of all kinds"),
        (CLIENT, "steady_p50_ms", 0.8, "p50 of five activities in sequence"),
        (CLIENT, "start_p50_ms", 0.2, "p50 of acknowledged starts"),
    ],
)
def test_what_grows_is_found_and_named(series: str, column: str, per_min: float, named: str) -> None:
    record = recorded()
    grow(record, series, column, per_min)
    assert broken(record) == [named]
    assert not passed(record)


def test_what_a_burst_has_opened_within_its_bounds_is_no_leak() -> None:
    record = recorded()
    for name, column, least, most in (("w2", "threads", 8.0, 35.0), (STEADY, "files", 14.0, 23.0)):
        half = len(record.series[name]["at_s"]) // 2
        record.series[name][column] = [least] * half + [most] * half
    assert broken(record) == []


def test_memory_that_is_high_for_a_while_is_no_leak() -> None:
    """A take-over brings instances into memory, and the allocator may keep the room: a step, then a plain."""
    record = recorded()
    rss = record.series[STEADY]["rss_kb"]
    record.series[STEADY]["rss_kb"] = [
        value + 8_000 if number > 40 and value is not None else value for number, value in enumerate(rss)
    ]
    assert broken(record) == []


def test_a_machine_that_becomes_slower_is_no_drift_of_ours() -> None:
    """What became no slower than a bare commit beside it is in order; what became much slower is not."""
    record = recorded()
    grow(record, "server", "probe_ms", 4 / 60)
    grow(record, CLIENT, "all_p50_ms", 1.0)
    assert broken(record) == []
    grow(record, CLIENT, "all_p50_ms", 3.0)
    assert broken(record) == ["p50 of all kinds"]


def lose_a_start(record: Record) -> None:
    record.totals["judged_acknowledged"] -= 1


def fall_behind(record: Record) -> None:
    record.totals["began"] = record.totals["acknowledged"] = record.totals["judged_acknowledged"] = 0.9 * 360_000


def leave_a_start_unanswered(record: Record) -> None:
    record.totals["acknowledged"] -= 1
    record.totals["judged_acknowledged"] -= 1


def double_an_attempt(record: Record) -> None:
    record.violations.append("soak-sequence-1/3 attempt 1 ran 2 times")


def skip_a_fault(record: Record) -> None:
    record.planned_faults += 1


def kill_nobody(record: Record) -> None:
    record.faults = [Fault(at_s=each.at_s, what="freeze", whom="w2") for each in record.faults]


def hear_nothing(record: Record) -> None:
    record.series[CLIENT]["all_p50_ms"] = [None] * len(record.series[CLIENT]["at_s"])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lose_a_start, "judgement"),
        (fall_behind, "starts"),
        (leave_a_start_unanswered, "starts"),
        (double_an_attempt, "violations"),
        (skip_a_fault, "faults"),
        (kill_nobody, "faults"),
        (hear_nothing, "p50 of all kinds"),
    ],
)
def test_what_was_lost_left_out_or_not_measured_is_found(spoil: Callable[[Record], None], named: str) -> None:
    record = recorded()
    spoil(record)
    assert broken(record) == [named]


def test_of_a_short_soak_the_verdict_says_nothing_about_drift() -> None:
    record = recorded(Terms(duration_s=600.0, rate=100.0))
    grow(record, STEADY, "rss_kb", 500.0)
    grow(record, CLIENT, "all_p50_ms", 500.0)
    unsaid = [check.name for check in checks(record) if check.passed is None]
    assert [name.partition(" of ")[0] for name in unsaid] == [
        *["resident memory", "memory in use by C code", "blocks", "resident memory", "blocks"],
        *["p50", "p99", "p50", "p50"],
    ]
    assert passed(record)


def test_a_slope_is_not_tilted_by_outliers() -> None:
    points = [(float(at_s), 5.0 + 2.0 * at_s) for at_s in range(50)]
    points[7] = (7.0, 1e6)
    points[31] = (31.0, -1e6)
    assert slope(points) == pytest.approx(2.0)
    assert slope(points[:1]) == 0.0


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = recorded(Terms(duration_s=60.0))
    record.series["w2"]["rss_kb"][1] = None
    record.save(tmp_path / "soak.json")
    assert Record.load(tmp_path / "soak.json") == record
    assert len(record.column("w2", "rss_kb")) == 3
