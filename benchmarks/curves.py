"""What the plots show: points taken from a measurement. How they look is for `plots`."""

import re
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.contenders import SPECS
from benchmarks.results import Measurement

Point = tuple[float, float]


class Curve(NamedTuple):
    """One contender's line."""

    contender: str
    title: str
    ours: bool
    points: Sequence[Point]


def throughput(measurement: Measurement) -> list[Curve]:
    """One-activity workflows in a second, over how many are started at a time."""
    concurrency = {
        workload: int(found[1])
        for workload in {cell.workload for cell in measurement.cells}
        if (found := re.fullmatch(r"one-activity-(\d+)", workload))
    }
    return _curves(
        measurement,
        {
            contender: [
                (concurrency[workload], rate)
                for workload in sorted(concurrency, key=concurrency.__getitem__)
                if (rate := _median(measurement, contender, workload, "workflows_per_s"))
            ]
            for contender in measurement.entrants
        },
    )


def history_cost(measurement: Measurement) -> list[Curve]:
    """Microseconds for each activity of one long instance, over how many it had done before: a point for each tenth.

    Of each contender the longest instance that it came to the end of, else the longest that it began.
    """
    points = {contender: _tenths(measurement, contender) for contender in measurement.entrants}
    return _curves(measurement, points)


def _tenths(measurement: Measurement, contender: str) -> list[Point]:
    cells = [
        cell
        for workload in ("long-10000", "long-2000")
        for cell in measurement.find(contender, workload)
        if "tenths_us" in cell.samples
    ]
    if not cells:
        return []
    best = max(cells, key=lambda cell: (not cell.notes, cell.figures["activities"]))
    alike = [cell for cell in cells if cell.workload == best.workload and bool(cell.notes) == bool(best.notes)]
    activities = statistics.median(cell.figures["activities"] for cell in alike)
    tenths = zip(*(cell.samples["tenths_us"] for cell in alike), strict=True)
    return [((part + 0.5) * activities / 10, statistics.median(tenth)) for part, tenth in enumerate(tenths)]


def _median(measurement: Measurement, contender: str, workload: str, figure: str) -> float:
    values = [value for cell in measurement.find(contender, workload) for value in cell.values(figure)]
    return statistics.median(values) if values else 0.0


def _curves(measurement: Measurement, points: dict[str, list[Point]]) -> list[Curve]:
    return [
        Curve(contender, measurement.entrants[contender].title, SPECS[contender].ours, found)
        for contender, found in points.items()
        if found
    ]
