"""The benchmarks lie beside the library, not in it: here they are found, and a measurement is made up."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.results import Entrant, Measurement, Sitting


@pytest.fixture
def measurement() -> Measurement:
    """Durableflow on both backends and three peers, nothing measured yet."""
    titles = {
        "durableflow-sqlite": "durableflow, SQLite",
        "durableflow-memory": "durableflow, memory",
        "dbos": "DBOS, SQLite",
        "duroxide": "duroxide, SQLite",
        "durabletask": "durabletask, in-memory test backend",
    }
    return Measurement(
        scale="full",
        seed=7,
        repeats=3,
        revision="abc1234",
        machine={"processor": "abacus", "cores": "2"},
        sittings=[Sitting(started="2030-01-01", command="python -m benchmarks", conditions={"load": "0.1"}, took_s=60)],
        entrants={
            name: Entrant(title=title, status="ok", versions={name: "1.0"}, durability={"synchronous": "2"})
            for name, title in titles.items()
        },
    )
