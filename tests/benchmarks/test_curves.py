"""The plots show what was measured, and of a long instance only what was done."""

from benchmarks.curves import history_cost, throughput
from benchmarks.results import Cell, Measurement


def rate(contender: str, concurrency: int, repeat: int, workflows_per_s: float) -> Cell:
    return Cell(
        contender=contender,
        workload=f"one-activity-{concurrency}",
        repeat=repeat,
        status="ok",
        figures={"workflows_per_s": workflows_per_s},
    )


def long(contender: str, length: int, repeat: int, tenths_us: list[float], *, done: int | None = None) -> Cell:
    return Cell(
        contender=contender,
        workload=f"long-{length}",
        repeat=repeat,
        status="ok",
        figures={"activities": done or length},
        samples={"tenths_us": tenths_us},
        notes=[] if done is None else [f"{done} of {length} activities in 12 s"],
    )


def test_throughput_is_the_median_at_each_concurrency_in_its_order(measurement: Measurement) -> None:
    measurement.cells = [
        rate("dbos", 256, 0, 900),
        *(rate("dbos", 16, repeat, value) for repeat, value in enumerate([300, 100, 200])),
        rate("durableflow-sqlite", 1, 0, 1000),
        Cell(contender="dbos", workload="one-activity-1-sync-2ms", repeat=0, status="ok"),
        Cell(contender="duroxide", workload="one-activity-16", repeat=0, status="failed"),
    ]
    ours, dbos = throughput(measurement)
    assert (ours.ours, dbos.ours, dbos.title) == (True, False, "DBOS, SQLite")
    assert list(ours.points) == [(1, 1000)]
    assert list(dbos.points) == [(16, 200), (256, 900)]


def test_the_cost_of_history_is_that_of_the_longest_instance_that_came_to_its_end(measurement: Measurement) -> None:
    measurement.cells = [
        long("dbos", 2000, 0, [1.0] * 10),
        long("dbos", 2000, 1, [3.0] * 9 + [7.0]),
        long("dbos", 10000, 0, [9.0] * 10, done=1500),
        long("durableflow-sqlite", 2000, 0, [1.0] * 10),
        long("durableflow-sqlite", 10000, 0, [2.0] * 10),
    ]
    ours, dbos = history_cost(measurement)
    assert [x for x, _ in dbos.points] == [100, 300, 500, 700, 900, 1100, 1300, 1500, 1700, 1900]
    assert [y for _, y in dbos.points] == [2.0] * 9 + [4.0]
    assert ours.points[-1] == (9500, 2.0)


def test_who_came_to_no_end_is_shown_with_what_it_did(measurement: Measurement) -> None:
    measurement.cells = [long("dbos", 2000, 0, [5.0] * 10, done=400)]
    (dbos,) = history_cost(measurement)
    assert dbos.points[-1] == (380, 5.0)
