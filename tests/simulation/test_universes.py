"""Universes by seed: what is promised holds in all of them, and a seed says all that there is to say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durableflow.testing.simulation import campaign, draw_plan, dump_plan, load_plan, plan_by, run_plan

pytestmark = pytest.mark.slow

FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))


@pytest.mark.parametrize(("store", "universes"), [("memory", 60), ("fleet", 60), ("sqlite", 20)])
def test_what_is_promised_holds_in_every_universe(store: Any, universes: int) -> None:
    report = campaign(universes=universes, store=store, cores=1)
    assert report.failures == []
    assert report.instances > universes * 5
    assert report.all_faults > universes * 5
    assert min(report.checks.values()) > 0


@pytest.mark.parametrize("path", FOUND, ids=[path.stem for path in FOUND])
def test_what_was_found_once_is_not_found_again(path: Path) -> None:
    outcome = run_plan(load_plan(path.read_text()))
    assert outcome.violation is None, outcome.story


@pytest.mark.parametrize("store", ["memory", "fleet", "sqlite"])
def test_two_runs_of_a_seed_are_the_same_to_the_last_event(store: Any) -> None:
    first = [run_plan(draw_plan(seed, store)) for seed in range(5)]
    again = [run_plan(draw_plan(seed, store)) for seed in range(5)]
    assert [each.trace for each in first] == [each.trace for each in again]
    assert len({each.trace for each in first}) == 5


def test_a_seed_is_the_same_in_another_process_that_hashes_otherwise() -> None:
    traces = [
        subprocess.run(
            [sys.executable, str(Path(__file__).with_name("hashed_by_chance.py"))],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert len(set(traces[0].split())) == 12


def test_a_plan_is_data() -> None:
    plan = draw_plan(3)
    assert load_plan(dump_plan(plan)) == plan
    assert draw_plan(3) == plan != draw_plan(4)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.randoms(use_true_random=False), st.integers(0, 1_000))
def test_what_is_promised_holds_in_universes_that_hypothesis_makes(dice: Any, seed: int) -> None:
    outcome = run_plan(plan_by(dice, seed))
    assert outcome.violation is None, outcome.story
