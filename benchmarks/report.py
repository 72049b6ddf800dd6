"""`python -m benchmarks.report`: turn a measurement into `docs/benchmarks.md`. Every number on that page is from it."""

import argparse
import os
import statistics
import subprocess
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import environments
from benchmarks.bench import FULL, Workload
from benchmarks.contenders import SPECS
from benchmarks.results import DIRECTORY, Measurement, higher_is_better
from benchmarks.workloads import WORKLOADS

DURABLE: Final = "durableflow-sqlite"
VOLATILE: Final = "durableflow-memory"
POSTGRES: Final = "durableflow-postgres"
WIDTH: Final = 120
PLOTS: Final = {
    "benchmarks-throughput.svg": "One-activity workflows per second, over how many are started at a time",
    "benchmarks-history.svg": "Cost of an activity, over the length of its instance's history",
}

HEAD: Final = """\
# Benchmarks

What durableflow costs, beside other engines that were given the same work in the same measurement. This page is written
by `python -m benchmarks.report`; do not edit it.
"""

METHOD: Final = """\
## How it was measured

- Each contender has a virtual environment of its own, and each cell of the tables a process and an empty directory of
  its own. Within a workload the contenders take turns, so that a slow moment of the machine does not fall on one alone.
- All of them do the same work: activities add one to an integer, in the contender's process. Every result is checked,
  and so is the number of activities that really were run. A wrong result ends the cell.
- Contenders run with their own default settings and durability; the settings in force are listed above. An engine that
  does not sync its commits does less than one that does.
- Those on PostgreSQL get a server of their own for each cell, on the same disk, with PostgreSQL's own settings (every
  commit is synced), but for the number of connections it allows.
- Where a peer offers several ways, the fastest of those tried here was taken: DBOS with plain rather than `async`
  functions on SQLite, the other way round on PostgreSQL, Restate behind granian rather than hypercorn, results of
  duroxide and durabletask waited for by a bounded number of threads. duroxide is shown with its defaults and with the
  one option that helped a lone workflow. What else was chosen for a contender stands at the top of its file in
  `benchmarks/contenders/`.
- Rates are those of a closed loop: so many clients, each of which starts the next workflow when its last has ended.
  The clock runs from the first start to the last completion. The client shares the process of the engine, unless the
  table says otherwise; of Restate it shares the process of the handlers. Servers are processes of their own.
- CPU time is user and system time of all processes of a contender, its clients' included. On a busy machine it is
  steadier than the clock.
- Figures are medians over the repeats, with the least and the greatest in parentheses. Ratios are taken within one
  repeat, then treated likewise.
"""

CUT: Final = f"""\
What was cut, so that all of it fits into some hours:

- A rate is that of {FULL.start_for_s:.0f} seconds of starts after a short warm-up. What was started must be over within
  {FULL.deadline_s:.0f} seconds; if not, the rate is that of those that were, and it is listed below as cut.
- Latencies, fan-outs and wake-ups are as many as fit into {FULL.one_by_one_s:.0f} seconds, at most {FULL.latencies},
  {FULL.fan_outs} and {FULL.events}.
- What is dear is measured less often or for less time, as each table says: long instances, waiting instances, a filled
  file. The recovery of 10,000 instances and the filled file are measured for durableflow alone: they check promises of
  ours.
- Who could not do all of a workload is not asked for the larger one of its kind, and who failed in one repeat is not
  asked again in the next ones.
- When it was measured in several sittings, all had the same code, machine, seed and versions.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--input", type=Path, help="default: benchmarks/results/full.json, else quick.json")
    parser.add_argument("--output", type=Path, default=environments.REPOSITORY / "docs" / "benchmarks.md")
    options = parser.parse_args()
    source = options.input or next((file for file in _candidates() if file.exists()), None)
    if source is None:
        parser.error("nothing measured yet: python -m benchmarks")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    plots = drawn(source, options.output.parent)
    options.output.write_text(page(Measurement.load(source), plots))
    print(f"{os.path.relpath(source)} -> {os.path.relpath(options.output)}")


def _candidates() -> tuple[Path, Path]:
    return DIRECTORY / "full.json", DIRECTORY / "quick.json"


def drawn(source: Path, directory: Path, by: str = "benchmarks.plots") -> list[str]:
    """The names of the plots in `directory`, which this module draws anew; none if nothing can draw here."""
    try:
        command = [str(environments.drawing_python()), "-m", by, str(source), str(directory)]
    except environments.InstallError as error:
        print(f"no plots: {error}")
        return []
    done = subprocess.run(command, cwd=environments.REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    return [Path(line).name for line in done.stdout.splitlines()]


def page(measurement: Measurement, plots: Sequence[str] = ()) -> str:
    """The whole page; `plots` are files beside it."""
    sections = [
        HEAD,
        _circumstances(measurement),
        _contenders(measurement),
        _plots(plots),
        _ratios(measurement),
        METHOD,
        CUT,
        *(_workload(measurement, workload) for workload in _measured(measurement)),
        _gaps(measurement),
    ]
    return "\n".join(section for section in sections if section)


def _measured(measurement: Measurement) -> list[Workload]:
    names = dict.fromkeys(cell.workload for cell in measurement.cells)
    return [workload for name, workload in WORKLOADS.items() if name in names]


# --- sections --------------------------------------------------------------------------------------------------------


def _circumstances(measurement: Measurement) -> str:
    rows = [
        ("date", "; ".join(sitting.started for sitting in measurement.sittings)),
        ("command", "; ".join(f"`{sitting.command}`" for sitting in measurement.sittings)),
        ("revision", f"`{measurement.revision}`"),
        ("repeats, seed", f"{measurement.repeats}, {measurement.seed}"),
        ("duration", f"{measurement.took_s / 60:.0f} minutes"),
        *measurement.machine.items(),
        *_conditions(measurement),
    ]
    warning = ""
    if measurement.scale != "full":
        warning = (
            "**A quick measurement, of small sizes: it shows that everything works, and is not to be quoted.**\n\n"
        )
    return "## Where and when\n\n" + warning + table(("", ""), rows)


def _conditions(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """How the machine was at the start of each sitting."""
    for name in dict.fromkeys(name for sitting in measurement.sittings for name in sitting.conditions):
        yield name, "; ".join(sitting.conditions.get(name, "?") for sitting in measurement.sittings)


def _contenders(measurement: Measurement) -> str:
    rows = []
    for entrant in measurement.entrants.values():
        if entrant.status == "ok":
            versions, settings = _facts(entrant.versions), _facts(entrant.durability)
        else:
            versions, settings = f"not runnable: {entrant.reason}", ""
        rows.append((entrant.title, versions, settings))
    return "## Contenders\n\n" + table(("contender", "versions", "durability, as it was in force"), rows)


def _facts(facts: dict[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in facts.items())


def _plots(files: Sequence[str]) -> str:
    if not files:
        return ""
    shown = "\n".join(f"![{PLOTS.get(file, file)}]({file})\n" for file in files)
    return f"## At a glance\n\nBoth scales of a plot are logarithmic.\n\n{shown}"


def _ratios(measurement: Measurement) -> str:
    """How many times better durableflow is: each peer against the backend of ours that promises as much as it does."""
    peers = [name for name, entrant in measurement.entrants.items() if not SPECS[name].ours and entrant.status == "ok"]
    tables = [
        heading + _ratio_table(measurement, chosen)
        for heading, chosen in (
            ("", [peer for peer in peers if not SPECS[peer].postgres]),
            ("### On PostgreSQL\n\n", [peer for peer in peers if SPECS[peer].postgres]),
        )
        if chosen and (DURABLE if not heading else POSTGRES) in measurement.entrants
    ]
    if not tables:
        return ""
    text = (
        "Above 1 durableflow is ahead. Engines on PostgreSQL are compared with durableflow on PostgreSQL, others that "
        "keep what they acknowledge on disk with durableflow on SQLite, those that keep it in memory with durableflow "
        "in memory.\n\n"
    )
    return "## Ratios\n\n" + text + "\n".join(tables)


def _ratio_table(measurement: Measurement, peers: Sequence[str]) -> str:
    rows = []
    for workload in _measured(measurement):
        figure, heading = next(iter(workload.shown.items()))
        cells = [_ratio(measurement, workload, figure, peer) for peer in peers]
        if any(cells):
            rows.append((f"{workload.title} ({heading})", *(cell or "–" for cell in cells)))
    head = ("how many times better durableflow was", *(f"than {measurement.entrants[peer].title}" for peer in peers))
    return table(head, rows)


def _ratio(measurement: Measurement, workload: Workload, figure: str, peer: str) -> str:
    us = POSTGRES if SPECS[peer].postgres else DURABLE if SPECS[peer].durable else VOLATILE
    ours = _by_repeat(measurement, us, workload, figure)
    if not ours and us != DURABLE:  # what does not depend on the backend is measured once: the import
        ours = _by_repeat(measurement, DURABLE, workload, figure) if not workload.phases else {}
    ratios = []
    for repeat, theirs in _by_repeat(measurement, peer, workload, figure).items():
        own = ours.get(repeat, 0.0)
        if theirs > 0 and own > 0:
            ratios.append(own / theirs if higher_is_better(figure) else theirs / own)
    return _spread(ratios)


def _by_repeat(measurement: Measurement, contender: str, workload: Workload, figure: str) -> dict[int, float]:
    cells = measurement.find(contender, workload.name)
    return {cell.repeat: statistics.median(cell.values(figure)) for cell in cells if figure in cell}


def _workload(measurement: Measurement, workload: Workload) -> str:
    rows = []
    for name, entrant in measurement.entrants.items():
        cells = measurement.find(name, workload.name)
        figures = [_spread([value for cell in cells for value in cell.values(figure)]) for figure in workload.shown]
        if any(figures):
            rows.append((entrant.title, *(figure or "–" for figure in figures)))
    if not rows:
        return ""
    about = "".join(f"{line}\n" for line in textwrap.wrap(_about(measurement, workload), WIDTH))
    figures_of_all = table(("contender", *workload.shown.values()), rows)
    return f"## {workload.title}\n\n" + (f"{about}\n" if about else "") + figures_of_all


def _about(measurement: Measurement, workload: Workload) -> str:
    """What is to be known of a workload, and how often it was measured if that is not as often as the others."""
    ours, peers = (
        measurement.repeats if most is None else min(most, measurement.repeats)
        for most in (workload.repeats_max, workload.peer_repeats_max)
    )
    told = [workload.about] if workload.about else []
    if ours < measurement.repeats:
        told.append(f"Measured {_times(ours)}.")
    elif peers < measurement.repeats and any(not SPECS[name].ours for name in measurement.entrants):
        told.append(f"Measured {_times(ours)}, for peers {_times(peers)}; ratios are those of repeat 1.")
    return " ".join(told)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _gaps(measurement: Measurement) -> str:
    """Everything that is missing or was cut, with the reason: silence would read as a result."""
    lines = [
        f"- {entrant.title}: not runnable: {entrant.reason}"
        for entrant in measurement.entrants.values()
        if entrant.status != "ok"
    ]
    for workload in _measured(measurement):
        lines += [f"- {workload.title}: {title}: {reason}" for title, reason in _reasons(measurement, workload)]
    if not lines:
        return ""
    return "## What could not be measured, or not in full\n\n" + "\n".join(lines) + "\n"


def _reasons(measurement: Measurement, workload: Workload) -> Iterator[tuple[str, str]]:
    for name, entrant in measurement.entrants.items():
        told: dict[str, int] = {}
        again = ""
        for cell in measurement.find(name, workload.name):
            if cell.status == "skipped":
                again = "; not asked again"
                continue
            for reason in (*([f"{cell.status}: {cell.reason}"] if cell.status != "ok" else []), *cell.notes):
                told.setdefault(reason, cell.repeat + 1)
        for reason, repeat in told.items():
            alone = measurement.repeats == 1 or reason.startswith("unsupported")
            yield entrant.title, reason if alone else f"{reason} (repeat {repeat}{again})"


# --- cells of tables -------------------------------------------------------------------------------------------------


def _spread(values: Sequence[float]) -> str:
    """Median, and the least and greatest if they differ from it in print."""
    if not values:
        return ""
    least, median, greatest = (_number(each) for each in (min(values), statistics.median(values), max(values)))
    return median if least == median == greatest else f"{median} ({least} … {greatest})"


def _number(value: float) -> str:
    """Three digits that count, and no false ones after them."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
