"""The judge of a soak finds what is lost, doubled, late or left behind, though the past is removed all the time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.environments import REPOSITORY

pytestmark = pytest.mark.slow  # a server

APP = Path(__file__).parent / "apps" / "planted.py"
TOLD = {
    "lose_a_start": "acknowledged start of x is lost",
    "remove_what_was_not_judged": "acknowledged start of s is lost",
    "tell_another_end": "s was said to be CANCELLED, and is COMPLETED",
    "book_twice": "-booking-5 has booked [5, 6, 6]",
    "run_late": "s was over and judged when it ran",
    "leave_a_history": "1 rows of history are left",
    "remove_behind_its_back": "instances were removed; of those that were judged",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the judge says of each store in which something was planted."""
    command = [sys.executable, "-W", "error", str(APP), str(tmp_path_factory.mktemp("planted"))]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {entry["plant"]: entry["found"] for entry in map(json.loads, done.stdout.splitlines())}


def test_where_all_is_in_order_nothing_is_found(found: dict[str, list[str]]) -> None:
    assert found["nothing"] == []
    assert set(found) == {"nothing", *TOLD}


@pytest.mark.parametrize("plant", TOLD)
def test_what_was_planted_is_found(found: dict[str, list[str]], plant: str) -> None:
    assert [line for line in found[plant] if TOLD[plant] in line], found[plant]
