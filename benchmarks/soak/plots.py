# matplotlib is installed in an environment of its own only, so a type checker sees nothing of it.
# mypy: disable-error-code="import-not-found,import-untyped"
"""`python -m benchmarks.soak.plots RECORD DIRECTORY`: draw what a record shows; called by `report`."""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.plots import COLOURS, STYLE, plain, save
from benchmarks.soak.record import CLIENT, STEADY, Record

FAULTS: Final = {"kill": "#d95f02", "freeze": "#1d4e89", "sessions": "#a6761d", "crash of the server": "#e41a1c"}
TITLES: Final = {STEADY: "worker, never killed", "w2": "worker", "w3": "another worker", CLIENT: "client"}


class Line(NamedTuple):
    """A column of a series, in units of the plot."""

    series: str
    column: str
    title: str
    unit: float = 1.0
    every: int = 1  # so many values are shown as their median


class Panel(NamedTuple):
    """One of the plots that share the time below them."""

    y: str
    lines: Sequence[Line]
    is_logarithmic: bool = False


def _of_members(column: str, names: Sequence[str], unit: float = 1.0, every: int = 1) -> list[Line]:
    return [Line(name, column, TITLES[name], unit, every) for name in names]


EVERYBODY: Final = tuple(TITLES)
FILES: Final[Mapping[str, Sequence[Panel]]] = {
    "soak-memory.svg": (
        Panel("resident memory, MB", _of_members("rss_kb", EVERYBODY, 1_000.0)),
        Panel("C heap in use, MB", _of_members("heap_kb", (STEADY, CLIENT), 1_000.0)),
        Panel("interpreter's blocks, thousands", _of_members("blocks", (STEADY, CLIENT), 1_000.0)),
        Panel("server's memory, MB", [Line("server", "memory_mb", "all processes of the server")]),
    ),
    "soak-counts.svg": (
        Panel("tasks beside attempts", _of_members("idle_tasks", EVERYBODY, every=6)),
        Panel("open files", _of_members("files", EVERYBODY)),
        Panel("threads", _of_members("threads", EVERYBODY)),
        Panel("sessions", [Line("server", "sessions", "sessions of the server")]),
        Panel("in memory", _of_members("live", (STEADY, "w2", "w3"))),
    ),
    "soak-latency.svg": (
        Panel(
            "start to result, ms",
            [
                Line(CLIENT, "all_p99_ms", "p99 of all kinds"),
                Line(CLIENT, "all_p50_ms", "p50 of all kinds"),
                Line(CLIENT, "steady_p50_ms", "p50 of five activities in sequence"),
                Line(CLIENT, "start_p50_ms", "p50 of acknowledged starts"),
            ],
            is_logarithmic=True,
        ),
        Panel("a bare commit, ms", [Line("server", "probe_ms", "one row, beside the load", every=6)]),
        Panel("instances, not over", [Line("server", "open", "not over")]),
        Panel(
            "cores in use",
            [
                Line("machine", "all_cores", "by all on the machine", every=6),
                Line("machine", "own_cores", "by the soak and its server", every=6),
            ],
        ),
    ),
    "soak-tables.svg": (
        Panel(
            "rows, thousands",
            [Line("server", f"rows_{name}", name, 1_000.0) for name in ("instances", "history")],
        ),
        Panel("rows", [Line("server", f"rows_{name}", name) for name in ("inbox", "tasks")]),
        Panel("megabytes", [Line("server", "store_mb", "all tables and their indexes")]),
    ),
}
"""In the order in which they are shown."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak.plots", description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    mpl.rcParams |= STYLE
    record = Record.load(options.record)
    for name, panels in FILES.items():
        draw(record, panels, options.directory / name)


def draw(record: Record, panels: Sequence[Panel], file: Path) -> None:
    """Panels above each other, with a mark at each fault; those of which nothing was measured are left out."""
    panels = [panel for panel in panels if any(record.column(line.series, line.column) for line in panel.lines)]
    figure, rows = plt.subplots(
        len(panels), figsize=(9, 1.9 * len(panels) + 0.9), layout="constrained", sharex=True, squeeze=False
    )
    for panel, axes in zip(panels, rows[:, 0], strict=True):
        _fill(axes, record, panel)
    rows[-1, 0].set_xlabel("minutes")
    marks = [mpl.lines.Line2D([], [], color=colour, linewidth=1, label=what) for what, colour in FAULTS.items()]
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), frameon=False)
    save(figure, file)


def _fill(axes: Any, record: Record, panel: Panel) -> None:
    for fault in record.faults:
        axes.axvline(fault.at_s / 60, color=FAULTS[fault.what], linewidth=0.6, alpha=0.6, zorder=0)
    for number, line in enumerate(panel.lines):
        points = _thinned(record.column(line.series, line.column), line.every)
        minutes, values = [at_s / 60 for at_s, _ in points], [value / line.unit for _, value in points]
        axes.plot(minutes, values, label=line.title, color=COLOURS[number], linewidth=1.1)
    if panel.is_logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(panel.y)
    plain(axes)
    axes.yaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,g}"))
    axes.grid(visible=False, axis="x")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _thinned(points: Sequence[tuple[float, float]], every: int) -> Sequence[tuple[float, float]]:
    groups = [points[begin : begin + every] for begin in range(0, len(points), every)]
    return [(group[0][0], statistics.median(value for _, value in group)) for group in groups]


if __name__ == "__main__":
    main()
