# matplotlib is installed in an environment of its own only, so a type checker sees nothing of it.
# mypy: disable-error-code="import-not-found,import-untyped"
"""`python -m benchmarks.plots MEASUREMENT DIRECTORY`: draw what a measurement shows; called by `report`.

The same measurement gives the same files, byte for byte, so that a difference in them means something.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.curves import Curve, history_cost, throughput
from benchmarks.results import Measurement

COLOURS: Final = (
    "#0b6e4f",
    "#1d4e89",
    "#6a4c93",
    "#8c564b",
    "#d95f02",
    "#e7298a",
    "#666666",
    "#a6761d",
    "#17becf",
    "#e41a1c",
)
MARKERS: Final = "osD^vP*X<>"
STYLE: Final = {"svg.hashsalt": "durableflow", "svg.fonttype": "path", "font.size": 10}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("measurement", type=Path)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    mpl.rcParams |= STYLE
    measurement = Measurement.load(options.measurement)
    draw(
        throughput(measurement),
        options.directory / "benchmarks-throughput.svg",
        x="workflows started at a time",
        y="one-activity workflows per second",
    )
    draw(
        history_cost(measurement),
        options.directory / "benchmarks-history.svg",
        x="activities done before in the same instance",
        y="µs per activity",
    )


def draw(curves: Sequence[Curve], file: Path, *, x: str, y: str) -> None:
    """One plot, both scales logarithmic; nothing if there is nothing to show."""
    file.unlink(missing_ok=True)
    if not curves:
        return
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for number, curve in enumerate(curves):
        _line(axes, curve, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    plain(axes)
    ticks = sorted({point[0] for curve in curves for point in curve.points})
    if len(ticks) <= len(COLOURS):  # a few that were chosen, rather than powers of ten
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.minorticks_off()
    figure.legend(loc="outside right upper", frameon=False)
    save(figure, file)


def plain(axes: Any) -> None:
    """A grid, no box, and numbers as people write them."""
    axes.grid(visible=True, which="major", color="#dddddd")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))


def save(figure: Any, file: Path) -> None:
    """The same figure is the same file; its name goes to whoever called."""
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    print(file)


def _line(axes: Any, curve: Curve, colour: str, marker: str) -> None:
    axes.plot(
        *zip(*curve.points, strict=True),
        label=curve.title,
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=2.5 if curve.ours else 1.2,
        linestyle="-" if curve.ours else "--",
    )


if __name__ == "__main__":
    main()
