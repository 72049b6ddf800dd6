"""What is asked, what is not asked again, and how long the rest will take."""

import pytest

from benchmarks.contenders import SPECS
from benchmarks.plan import GUESS_S, Asked, plan, refusal, remaining_s, still_to_do
from benchmarks.results import Cell, Measurement
from benchmarks.workloads import WORKLOADS

OURS, DBOS = SPECS["durableflow-sqlite"], SPECS["dbos"]
ONE, LONG, LONGER = WORKLOADS["one-activity-1"], WORKLOADS["long-2000"], WORKLOADS["long-10000"]


def done(contender: str, workload: str, repeat: int = 0, *, status: str = "ok", took_s: float = 1.0) -> Cell:
    return Cell(contender=contender, workload=workload, repeat=repeat, status=status, took_s=took_s)


def names(asked: list[Asked]) -> list[tuple[int, str, str]]:
    return [(each.repeat, each.workload.name, each.spec.name) for each in asked]


def test_contenders_take_turns_within_a_workload_and_workloads_within_a_repeat() -> None:
    assert names(plan([ONE, LONGER], [OURS, DBOS], 2)) == [
        (0, "one-activity-1", "durableflow-sqlite"),
        (0, "one-activity-1", "dbos"),
        (0, "long-10000", "durableflow-sqlite"),
        (0, "long-10000", "dbos"),
        (1, "one-activity-1", "durableflow-sqlite"),
        (1, "one-activity-1", "dbos"),
        (1, "long-10000", "durableflow-sqlite"),  # dear for peers, who are asked once
    ]


def test_every_contender_is_asked_for_every_workload_but_for_those_of_a_store_that_it_does_not_use() -> None:
    asked = {(each.workload.name, each.spec.name) for each in plan([*WORKLOADS.values()], [*SPECS.values()], 3)}
    assert asked == {
        (name, spec.name)
        for name, workload in WORKLOADS.items()
        for spec in SPECS.values()
        if spec.postgres or not workload.postgres
    }


def test_what_an_earlier_sitting_measured_is_not_measured_again(measurement: Measurement) -> None:
    measurement.cells = [done("dbos", "one-activity-1"), done("durableflow-sqlite", "one-activity-1", 1)]
    assert names(still_to_do(plan([ONE], [OURS, DBOS], 2), measurement)) == [
        (0, "one-activity-1", "durableflow-sqlite"),
        (1, "one-activity-1", "dbos"),
    ]


def test_nothing_speaks_against_a_cell_that_went_well_before(measurement: Measurement) -> None:
    measurement.cells = [done("dbos", "one-activity-1")]
    assert refusal(measurement, Asked(1, ONE, DBOS)) is None


@pytest.mark.parametrize("status", ["failed", "incomplete", "unsupported", "skipped"])
def test_what_could_not_be_done_is_not_asked_again(measurement: Measurement, status: str) -> None:
    measurement.cells = [done("dbos", "one-activity-1", status=status)]
    refused = refusal(measurement, Asked(1, ONE, DBOS))
    assert refused is not None
    assert refused == ("skipped", "not asked again after repeat 1")
    assert refusal(measurement, Asked(0, ONE, DBOS)) is None


def test_who_was_cut_at_the_smaller_size_is_not_asked_for_the_larger(measurement: Measurement) -> None:
    measurement.cells = [done("dbos", "long-2000")]
    assert refusal(measurement, Asked(0, LONGER, DBOS)) is None
    measurement.cells[0].notes.append("1500 of 2000 activities in 12 s")
    assert refusal(measurement, Asked(0, LONGER, DBOS)) == ("unsupported", "already too much at long-2000")
    assert refusal(measurement, Asked(0, LONGER, OURS)) is None


def test_what_a_contender_cannot_do_is_said_in_its_own_words(measurement: Measurement) -> None:
    refused = refusal(measurement, Asked(0, WORKLOADS["recovery"], DBOS))
    assert refused is not None
    assert refused == ("unsupported", DBOS.unsupported["recovery"])


def test_the_rest_takes_as_long_as_the_same_cells_took_before() -> None:
    left = [Asked(1, ONE, OURS), Asked(1, ONE, DBOS), Asked(1, LONG, DBOS)]
    measured = [done("durableflow-sqlite", "one-activity-1", took_s=4), done("dbos", "long-2000", took_s=20)]
    earlier = [done("dbos", "one-activity-1", took_s=7), done("dbos", "long-2000", took_s=99)]
    assert remaining_s(left, measured, earlier) == 4 + 7 + 20


def test_the_time_of_an_unknown_cell_is_guessed_from_the_others() -> None:
    assert remaining_s([Asked(0, ONE, OURS)], []) == GUESS_S
    measured = [done("dbos", "one-activity-1", took_s=8), done("dbos", "bytes", took_s=2)]
    assert remaining_s([Asked(0, ONE, OURS)], measured) == 8
    assert remaining_s([Asked(0, LONG, OURS)], measured) == 5
