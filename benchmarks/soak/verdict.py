"""What must be so of a record, by rules that know nothing of how it was made.

The beginning is left out: caches fill, retention has nothing to remove yet. Of the rest the first part is compared with
the last. A rule about time says nothing of a soak that is shorter than what it asks about.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.soak.record import CLIENT, STEADY, Record

WARM_SHARE: Final = 0.1
WARM_MIN_S: Final = 300.0
PART: Final = 0.1
LATENCY_PART_S: Final = 600.0
COUNTED_FROM_S: Final = 600.0
DRIFT_FROM_S: Final = 1_800.0
"""In less, a tenth is a single fault, and a slope of memory or a drift of latency cannot be told from noise."""

RSS_MAX_KB_PER_MIN: Final = 50.0
HEAP_MAX_KB_PER_MIN: Final = 10.0
BLOCKS_MAX_PER_MIN: Final = 100.0
COUNT_FACTOR: Final = 1.1
COUNT_MARGIN: Final = 2.0
BOUNDS: Final = {"threads": 35, "files": 24, "sessions": 55}
"""What a worker, or all together, may have open by design however long it runs: 32 threads of activities, that of the
engine, the watch on turns and that of alerts; 14 connections and what a process has anyhow; 14 sessions of each worker,
6 of each client and that of the judge. Within this, a burst may leave something open."""
TABLE_FACTOR: Final = 1.25
TABLE_MARGIN: Final = 50.0
ROWS_MAX: Final = {"takeovers": 1_000}
"""Tables that keep so many of the latest rows, and fill until then."""
P50_FACTOR, P50_MARGIN_MS = 1.25, 2.0
P99_FACTOR, P99_MARGIN_MS = 1.5, 20.0
RATE_SHARE: Final = 0.99

Points = Sequence[tuple[float, float]]


class Check(NamedTuple):
    """A rule, and what was found; `passed` is None where the soak is too short for it."""

    name: str
    rule: str
    found: str
    passed: bool | None


def checks(record: Record) -> list[Check]:
    """All rules, in the order in which they are told."""
    return [*_memory(record), *_counts(record), *_tables(record), *_latency(record), *_work(record)]


def passed(record: Record) -> bool:
    """No rule is broken."""
    return all(check.passed is not False for check in checks(record))


# -- the rules --------------------------------------------------------------------------------------------------------


def _memory(record: Record) -> Iterator[Check]:
    """Of the two that live through all of it; a line through all values, which single ones cannot tilt."""
    is_long = record.terms.duration_s >= DRIFT_FROM_S
    for who in (STEADY, CLIENT):
        for column, what, unit, most in (
            ("rss_kb", "resident memory", "kB", RSS_MAX_KB_PER_MIN),
            ("heap_kb", "memory in use by C code", "kB", HEAP_MAX_KB_PER_MIN),
            ("blocks", "blocks of the interpreter", "blocks", BLOCKS_MAX_PER_MIN),
        ):
            points = _warm(record, who, column)
            if column == "heap_kb" and not points:  # not every C library tells
                continue
            per_min = slope(points) * 60
            yield Check(
                f"{what} of {who}",
                f"grows by at most {most:g} {unit}/min",
                f"{per_min:+.1f} {unit}/min, {_told(points)}",
                (len(points) > 1 and per_min <= most) if is_long else None,
            )


def _counts(record: Record) -> Iterator[Check]:
    """What is opened is closed. Attempts that run have a task each; they are not counted."""
    for who in sorted(name for name in record.series if name == CLIENT or name.startswith("w")):
        for column, what in (("idle_tasks", "tasks"), ("threads", "threads"), ("files", "open files")):
            bound = BOUNDS.get(column, 0) if who != CLIENT else 0
            yield _grown(record, who, column, f"{what} of {who}", COUNT_FACTOR, COUNT_MARGIN, bound)
    bound = BOUNDS["sessions"]
    yield _grown(record, "server", "sessions", "sessions of the server", COUNT_FACTOR, COUNT_MARGIN, bound)
    yield _grown(record, STEADY, "live", f"instances in memory of {STEADY}", TABLE_FACTOR, TABLE_MARGIN)


def _tables(record: Record) -> Iterator[Check]:
    """Retention keeps them bounded; of those that never have more than a few rows one thing is told."""
    most = {
        column.removeprefix("rows_"): max((value for _, value in record.column("server", column)), default=0.0)
        for column in record.series.get("server", {})
        if column.startswith("rows_")
    }
    few = {table: rows for table, rows in most.items() if rows <= TABLE_MARGIN and table not in ROWS_MAX}
    for table, rows in most.items():
        if table in ROWS_MAX:
            yield Check(f"rows of {table}", f"at most {ROWS_MAX[table]:,}", f"{rows:,.0f}", rows <= ROWS_MAX[table])
        elif table not in few:
            yield _grown(record, "server", f"rows_{table}", f"rows of {table}", TABLE_FACTOR, TABLE_MARGIN)
    rule = f"never more than {TABLE_MARGIN:g} in one"
    yield Check(f"rows of {len(few)} other tables", rule, f"{max(few.values(), default=0):,.0f}", passed=True)
    yield _grown(record, "server", "store_mb", "megabytes of all tables", TABLE_FACTOR, TABLE_MARGIN)


def _latency(record: Record) -> Iterator[Check]:
    """From the moment at which a start was due to its result; medians over windows, so that a fault tilts none.

    A machine on which others work is slower at one time than at another. How much, a commit says that is made beside
    the load and has nothing to do with it.
    """
    control = _ten_minutes(_warm(record, "server", "probe_ms"))
    slower = max(1.0, control[1] / control[0]) if control else 1.0
    is_long = record.terms.duration_s >= DRIFT_FROM_S
    for column, what, factor, margin in (
        ("all_p50_ms", "p50 of all kinds", P50_FACTOR, P50_MARGIN_MS),
        ("all_p99_ms", "p99 of all kinds", P99_FACTOR, P99_MARGIN_MS),
        ("steady_p50_ms", "p50 of five activities in sequence", P50_FACTOR, P50_MARGIN_MS),
        ("start_p50_ms", "p50 of acknowledged starts", P50_FACTOR, P50_MARGIN_MS),
    ):
        rule = f"in the last ten minutes at most {factor:g} times that of the first ten, and {margin:g} ms"
        rule += ", times as much as a commit beside it became slower"
        medians = _ten_minutes(_warm(record, CLIENT, column))
        if medians is None:
            yield Check(what, rule, "no values", None if not is_long else False)
            continue
        before, after = medians
        found = f"{before:,.1f} ms, then {after:,.1f} ms; the commit became {slower:.2f} times slower"
        yield Check(what, rule, found, after <= (before * factor + margin) * slower if is_long else None)


def _ten_minutes(points: Points) -> tuple[float, float] | None:
    """Medians of the first and of the last ten."""
    if not points:
        return None
    first = [value for at_s, value in points if at_s < points[0][0] + LATENCY_PART_S]
    last = [value for at_s, value in points if at_s > points[-1][0] - LATENCY_PART_S]
    return statistics.median(first), statistics.median(last)


def _work(record: Record) -> Iterator[Check]:
    totals = record.totals
    began, judged, acked = (totals.get(name, 0) for name in ("began", "judged", "acknowledged"))
    planned = record.terms.rate * record.terms.duration_s
    yield Check(
        "starts",
        f"at least {RATE_SHARE:.0%} of those that were due were made, and all acknowledged",
        f"{began:,.0f} of {planned:,.0f} made, {acked:,.0f} acknowledged",
        began >= planned * RATE_SHARE and acked == began,
    )
    yield Check(
        "judgement",
        "each acknowledged instance came to its end, and all that ended were judged",
        f"{judged:,.0f} judged, {totals.get('judged_acknowledged', 0):,.0f} of them acknowledged starts",
        totals.get("judged_acknowledged", -1) == acked and acked > 0,
    )
    yield Check(
        "violations",
        "nothing lost, nothing doubled, nothing out of order",
        "; ".join(record.violations[:3]) or "none",
        not record.violations,
    )
    done = {fault.what for fault in record.faults}
    yield Check(
        "faults",
        "all that were planned were done, kills among them",
        f"{len(record.faults)} of {record.planned_faults}",
        len(record.faults) >= record.planned_faults and "kill" in done,
    )


# -- arithmetic -------------------------------------------------------------------------------------------------------


def slope(points: Points) -> float:
    """Units in a second, by Theil and Sen: the median of the slopes between all pairs of points.

    Source: P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63, 1968.
    """
    slopes = [
        (later - value) / (later_s - at_s)
        for number, (at_s, value) in enumerate(points)
        for later_s, later in points[number + 1 :]
        if later_s > at_s
    ]
    return statistics.median(slopes) if slopes else 0.0


def _warm(record: Record, series: str, column: str) -> Points:
    """What came after the beginning, while the load lasted."""
    points = record.column(series, column)
    duration_s = record.terms.duration_s
    warm_s = min(max(duration_s * WARM_SHARE, WARM_MIN_S), duration_s / 2)
    return [(at_s, value) for at_s, value in points if warm_s <= at_s <= duration_s]


def _parts(points: Points) -> tuple[Sequence[float], Sequence[float]]:
    """The first and the last tenth."""
    count = max(1, round(len(points) * PART))
    values = [value for _, value in points]
    return values[:count], values[-count:]


def _grown(
    record: Record, series: str, column: str, name: str, factor: float, margin: float, bound: float = 0.0
) -> Check:
    """The last tenth beside the first.

    Args:
        bound: what is allowed however little there was; 0 for nothing.
    """
    rule = f"at the end at most {factor:g} times those of the beginning, and {margin:g}"
    rule += f"; or {bound:g}, which is all that may be open" if bound else ""
    points = _warm(record, series, column)
    if not points or record.terms.duration_s < COUNTED_FROM_S:
        return Check(name, rule, _told(points), None if record.terms.duration_s < COUNTED_FROM_S else False)
    before, after = (statistics.median(part) for part in _parts(points))
    return Check(name, rule, _told(points), after <= max(before * factor + margin, bound))


def _told(points: Points) -> str:
    if not points:
        return "no values"
    before, after = (statistics.median(part) for part in _parts(points))
    return f"{before:,.0f}, then {after:,.0f}"


def lines(record: Record) -> Iterator[str]:
    """For people, a line for each rule."""
    for check in checks(record):
        mark = {True: "ok  ", False: "FAIL", None: "  - "}[check.passed]
        yield f"{mark} {check.name}: {check.found} ({check.rule})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.verdict", description=__doc__)
    parser.add_argument("record", type=Path)
    record = Record.load(parser.parse_args().record)
    print(*lines(record), sep="\n")
    raise SystemExit(0 if passed(record) else 1)


if __name__ == "__main__":
    main()
