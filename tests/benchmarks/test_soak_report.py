"""The page on a soak says what was measured, and what was broken."""

from pathlib import Path

from benchmarks.soak.record import CLIENT, Fault, Record, Terms
from benchmarks.soak.report import PLOTS, page


def short_record() -> Record:
    return Record(
        terms=Terms(duration_s=60.0, rate=10.0),
        started="2030-01-01 10:00",
        command="python -m benchmarks.soak --minutes 1",
        revision="abc1234",
        machine={"processor": "abacus"},
        planned_faults=2,
        faults=[Fault(at_s=10.0, what="kill", whom="w2"), Fault(at_s=50.0, what="kill", whom="w3")],
        series={CLIENT: {"at_s": [30.0, 60.0], "threads": [1, 1]}, "machine": {"at_s": [30.0], "own_cores": [0.5]}},
        totals={
            "began": 600,
            "acknowledged": 600,
            "judged": 720,
            "judged_acknowledged": 600,
            "removed": 700,
            "slots": 60,
        },
    )


def test_it_says_what_was_done_and_that_no_rule_is_broken() -> None:
    told = page(short_record())
    assert "No rule is broken." in told
    assert "| faults | kill: 2 |" in told
    assert "600 started by the client, 60 by the schedule; with children 720 ended and were judged, 700 removed" in told
    assert "| threads of client |" in told
    assert "| too short |" in told
    assert "0.50 by the soak and its server" in told
    assert "## The curves" not in told


def test_it_does_not_hide_a_broken_rule() -> None:
    record = short_record()
    record.violations.append("acknowledged start of soak-sequence-3 is lost")
    told = page(record)
    assert "**At least one rule is broken; see the table.**" in told
    (line,) = [line for line in told.splitlines() if line.startswith("| violations | nothing lost")]
    assert line == (
        "| violations | nothing lost, nothing doubled, nothing out of order | "
        "acknowledged start of soak-sequence-3 is lost | **broken** |"
    )


def test_each_plot_is_shown_with_what_it_is_of() -> None:
    told = page(short_record(), list(PLOTS), "## What was seen\n\nNothing.\n")
    assert [name for name in PLOTS if f"]({name})" not in told] == []
    assert told.index("## The curves") < told.index("## What was seen\n\nNothing.\n") < told.index("## What ran")


def test_every_plot_that_is_drawn_has_its_words() -> None:
    drawn = (Path(__file__).parents[2] / "benchmarks" / "soak" / "plots.py").read_text()
    assert [name for name in PLOTS if f'"{name}"' not in drawn] == []
