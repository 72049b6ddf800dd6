"""The page says what was measured, what was not, and nothing else."""

from benchmarks.contenders import SPECS
from benchmarks.report import page
from benchmarks.results import Cell, Entrant, Measurement

ONE, LONG, FILLED = "one-activity-1", "long-10000", "finished-million"


def rate(contender: str, repeat: int, workflows_per_s: float) -> Cell:
    figures = {"workflows_per_s": workflows_per_s, "cpu_ms_per_workflow": 1 / workflows_per_s}
    return Cell(contender=contender, workload=ONE, repeat=repeat, status="ok", figures=figures)


def long(contender: str, repeat: int, last_us: float) -> Cell:
    return Cell(contender=contender, workload=LONG, repeat=repeat, status="ok", figures={"last_us": last_us})


def line(text: str, start: str) -> str:
    (found,) = (line for line in text.splitlines() if line.startswith(start))
    return found


def test_a_figure_is_the_median_between_the_least_and_the_greatest(measurement: Measurement) -> None:
    measurement.cells = [rate("dbos", repeat, value) for repeat, value in enumerate([120, 100, 300])]
    assert line(page(measurement), "| DBOS, SQLite | 1") == (
        "| DBOS, SQLite | 120 (100 … 300) | 0.00833 (0.00333 … 0.01) |"
    )


def test_a_ratio_is_taken_within_a_repeat_and_against_the_backend_of_the_peers_kind(measurement: Measurement) -> None:
    measurement.cells = [
        *(rate("durableflow-sqlite", repeat, value) for repeat, value in enumerate([1000, 2000, 3000])),
        *(rate("durableflow-memory", repeat, 9000) for repeat in range(3)),
        *(rate("dbos", repeat, 100) for repeat in range(3)),
        rate("duroxide", 0, 10),
        *(rate("durabletask", repeat, 300) for repeat in range(3)),
    ]
    text = page(measurement)
    assert line(text, "| how many times").count("than") == 3
    assert line(text, "| One-activity workflows, 1 at a time (") == (
        "| One-activity workflows, 1 at a time (workflows/s) | 20 (10 … 30) | 100 | 30 |"
    )


def test_of_a_cost_the_smaller_one_is_ahead(measurement: Measurement) -> None:
    measurement.cells = [long("durableflow-sqlite", 0, 100), long("durableflow-sqlite", 1, 200), long("dbos", 0, 400)]
    text = page(measurement)
    assert line(text, "| 10,000 activities in one instance (") == (
        "| 10,000 activities in one instance (µs/activity, last 10 %) | 4 | – | – |"
    )
    assert "Measured 3 times, for peers once; ratios are those of repeat 1." in " ".join(text.split())


def test_what_was_sampled_within_one_cell_shows_its_spread(measurement: Measurement) -> None:
    samples = {"filled_to_empty": [0.98, 1.02, 0.95]}
    measurement.cells = [
        Cell(contender="durableflow-sqlite", workload=FILLED, repeat=0, status="ok", samples=samples, figures={"x": 1})
    ]
    text = page(measurement)
    assert line(text, "| durableflow, SQLite | 0.98 (") == (
        "| durableflow, SQLite | 0.98 (0.95 … 1.02) | – | – | – | – | – |"
    )
    assert "Measured once." in " ".join(text.split())


def test_what_is_missing_is_said_with_its_reason(measurement: Measurement) -> None:
    measurement.entrants["duroxide"].status = "not runnable"
    measurement.entrants["duroxide"].reason = "npm is not installed here"
    measurement.cells = [
        Cell(contender="dbos", workload=ONE, repeat=0, status="failed", reason="nothing completed in 20 s"),
        Cell(contender="dbos", workload=ONE, repeat=1, status="skipped", reason="not asked again after repeat 1"),
        rate("durabletask", 0, 300),
        rate("durabletask", 1, 300),
    ]
    measurement.cells[-1].notes.append("cut after 20 s: 5 completed, others still open")
    gaps = page(measurement).split("## What could not be measured, or not in full\n\n")[1].splitlines()
    title = "One-activity workflows, 1 at a time"
    assert gaps == [
        "- duroxide, SQLite: not runnable: npm is not installed here",
        f"- {title}: DBOS, SQLite: failed: nothing completed in 20 s (repeat 1; not asked again)",
        f"- {title}: durabletask, in-memory test backend: cut after 20 s: 5 completed, others still open (repeat 2)",
    ]


def test_a_quick_measurement_warns_of_itself(measurement: Measurement) -> None:
    measurement.cells = [rate("dbos", 0, 100)]
    assert "not to be quoted" not in page(measurement)
    measurement.scale = "quick"
    assert "not to be quoted" in page(measurement)


def test_each_sitting_is_shown(measurement: Measurement) -> None:
    measurement.sittings *= 2
    measurement.cells = [rate("dbos", 0, 100)]
    text = page(measurement)
    assert line(text, "| date |") == "| date | 2030-01-01; 2030-01-01 |"
    assert line(text, "| load |") == "| load | 0.1; 0.1 |"
    assert line(text, "| duration |") == "| duration | 2 minutes |"


def test_engines_on_postgresql_are_compared_with_ours_on_postgresql(measurement: Measurement) -> None:
    for name in ("durableflow-postgres", "dbos-postgres"):
        measurement.entrants[name] = Entrant(title=SPECS[name].title, status="ok")
    measurement.cells = [
        rate("durableflow-sqlite", 0, 9000),
        rate("durableflow-postgres", 0, 5000),
        rate("dbos", 0, 100),
        rate("dbos-postgres", 0, 200),
    ]
    first, second = page(measurement).split("### On PostgreSQL")
    start = "| One-activity workflows, 1 at a time ("
    assert line(first, start) == "| One-activity workflows, 1 at a time (workflows/s) | 90 | – | – |"
    assert line(second, start) == "| One-activity workflows, 1 at a time (workflows/s) | 25 |"


def test_plots_are_shown_with_what_they_are_of(measurement: Measurement) -> None:
    measurement.cells = [rate("dbos", 0, 100)]
    assert "At a glance" not in page(measurement)
    shown = page(measurement, ["benchmarks-history.svg"])
    assert "![Cost of an activity, over the length of its instance's history](benchmarks-history.svg)" in shown
