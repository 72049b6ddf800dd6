"""A measurement is kept whole, and gone on with only by what is of one piece with it."""

import dataclasses
from copy import deepcopy
from pathlib import Path

import pytest

from benchmarks.results import Cell, Measurement, higher_is_better
from benchmarks.run import ResumeError, join, resumed


def test_a_measurement_is_read_as_it_was_written(measurement: Measurement, tmp_path: Path) -> None:
    measurement.cells.append(
        Cell(contender="dbos", workload="bytes", repeat=0, status="ok", figures={"x": 1.5}, samples={"y": [1.0, 2.0]})
    )
    measurement.save(tmp_path / "deep" / "full.json")
    assert Measurement.load(tmp_path / "deep" / "full.json") == measurement
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["full.json"]


def test_a_file_of_another_format_says_so(measurement: Measurement, tmp_path: Path) -> None:
    measurement.format = 1
    measurement.save(tmp_path / "full.json")
    with pytest.raises(ValueError, match=r"has format 1, this code reads 2: measure again"):
        Measurement.load(tmp_path / "full.json")


def test_a_figure_is_its_samples_where_there_are_some() -> None:
    cell = Cell(contender="x", workload="y", repeat=0, status="ok", figures={"a": 1.0}, samples={"b": [2.0, 3.0]})
    assert (cell.values("a"), cell.values("b"), cell.values("c")) == ([1.0], [2.0, 3.0], [])


def test_rates_alone_are_better_when_higher() -> None:
    assert higher_is_better("workflows_per_s")
    assert not higher_is_better("cpu_ms_per_workflow")


def test_another_sitting_goes_on_with_what_is_there(measurement: Measurement, tmp_path: Path) -> None:
    measurement.cells.append(Cell(contender="dbos", workload="bytes", repeat=0, status="ok"))
    measurement.save(tmp_path / "full.json")
    now = dataclasses.replace(measurement, cells=[], sittings=[], entrants={}, repeats=4)
    going_on = resumed(tmp_path / "full.json", now)
    assert (going_on.cells, going_on.sittings, going_on.entrants) == (
        measurement.cells,
        measurement.sittings,
        measurement.entrants,
    )
    assert going_on.repeats == 4


def test_a_contender_may_join_later(measurement: Measurement) -> None:
    now = deepcopy(measurement)
    newcomer = measurement.entrants.pop("dbos")
    join(measurement, now)
    assert measurement.entrants["dbos"] == newcomer


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"revision": "def5678"}, "revision: was 'abc1234', is 'def5678'"),
        ({"seed": 8}, "seed: was 7, is 8"),
        ({"scale": "quick"}, "scale: was 'full', is 'quick'"),
        ({"machine": {"processor": "abacus", "cores": "4"}}, "machine: was {'cores': '2'}, is {'cores': '4'}"),
    ],
    ids=["revision", "seed", "scale", "machine"],
)
def test_another_measurement_is_not_gone_on_with(
    measurement: Measurement, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    measurement.save(tmp_path / "full.json")
    now = deepcopy(measurement)
    for name, value in change.items():
        setattr(now, name, value)
    with pytest.raises(ResumeError, match="leave out --resume to begin anew") as refused:
        resumed(tmp_path / "full.json", now)
    assert str(refused.value).splitlines()[1:] == [f"  {told}"]


def test_a_contender_of_another_version_is_refused(measurement: Measurement) -> None:
    now = deepcopy(measurement)
    now.entrants["dbos"].versions = {"dbos": "1.1"}
    with pytest.raises(ResumeError, match=r"DBOS, SQLite, versions: was \{'dbos': '1.0'\}, is \{'dbos': '1.1'\}"):
        join(measurement, now)


def test_there_must_be_something_to_go_on_with(measurement: Measurement, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=r"there is nothing to resume: .*full\.json does not exist"):
        resumed(tmp_path / "full.json", measurement)
