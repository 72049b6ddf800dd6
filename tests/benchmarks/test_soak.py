"""A soak of some seconds, with everything in it that one of an hour has."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.environments import REPOSITORY
from benchmarks.soak.record import CLIENT, STEADY, Record
from benchmarks.soak.verdict import checks

pytestmark = pytest.mark.slow  # processes and a server


def test_a_short_soak_survives_a_kill_and_is_judged(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    words = ["--minutes", "0.12", "--rate", "30", "--fault-every", "3", "3.5", "--lease", "1.5", "--every", "0.5"]
    words += ["--judge-after", "1", "--retention", "3", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks.soak", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout + done.stderr
    record = Record.load(output)
    judged = [check.name for check in checks(record) if check.passed is not None]
    assert [name for name in judged if "rows" not in name] == ["starts", "judgement", "violations", "faults"], told
    assert done.returncode == 0, told
    assert record.faults[0].what == "kill"
    assert record.totals["judged_acknowledged"] > 100
    assert record.totals["removed"] > 0, "retention had nothing to do"
    assert len({pid for _, pid in record.column(STEADY, "pid")}) == 1
    assert len({pid for _, pid in record.column(record.faults[0].whom, "pid")}) == 2, "nobody came back"
    assert record.column(CLIENT, "all_p50_ms")
    assert record.column("server", "rows_history")
