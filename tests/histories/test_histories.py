"""Histories of every released version replay with today's code. See README.md: they are never edited."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from durableflow import NondeterminismError
from durableflow.authoring.workflow import Workflow
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.testing.histories import load_history, replay

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("v*/*.jsonl"))
NAMES = [path.relative_to(HERE).with_suffix("").as_posix() for path in FILES]
ENDS = {
    "v0.1.0/after_the_patches": Status.COMPLETED,
    "v0.1.0/before_the_patches": Status.COMPLETED,
    "v0.1.0/between_the_patches": Status.COMPLETED,
    "v0.1.0/branches": Status.COMPLETED,
    "v0.1.0/days": Status.COMPLETED,
    "v0.1.0/events": Status.COMPLETED,
    "v0.1.0/facts": Status.COMPLETED,
    "v0.1.0/family": Status.COMPLETED,
    "v0.1.0/forked": Status.COMPLETED,
    "v0.1.0/order": Status.COMPLETED,
    "v0.1.0/pause": Status.COMPLETED,
    "v0.1.0/quick": Status.COMPLETED,
    "v0.1.0/retries": Status.COMPLETED,
    "v0.1.0/rewound": Status.COMPLETED,
    "v0.1.0/saga": Status.FAILED,
    "v0.1.0/second_thoughts": Status.COMPLETED,
    "v0.1.0/stages": Status.COMPLETED,
    "v0.1.0/handed_over": Status.COMPLETED,
    "v0.1.0/debounced": Status.COMPLETED,
    "v0.1.0/still_open": Status.RUNNING,
    "v0.1.0/terminated": Status.TERMINATED,
    "v0.1.0/tidy": Status.CANCELLED,
    "v0.1.0/timed_out": Status.FAILED,
    "v0.1.0/timers": Status.COMPLETED,
}


def _load_workflows() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_workflows", HERE / "workflows.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look for their module
    spec.loader.exec_module(module)
    return module


WORKFLOWS = {each.name: each for each in vars(_load_workflows()).values() if isinstance(each, Workflow)}


def test_no_history_was_lost() -> None:
    assert sorted(ENDS) == NAMES


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_history_replays_from_every_turn_on(path: Path) -> None:
    history = load_history(path)
    report = replay(WORKFLOWS[history.started.workflow], history, every_prefix=True, every_round=True)
    assert report.status is ENDS[path.relative_to(HERE).with_suffix("").as_posix()]
    notes = sum(isinstance(row.events[0], ev.InstanceRewound) for row in history.rows)
    assert report.turns == len(history.rows) - notes


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_bytes_of_a_store_are_still_read(path: Path) -> None:
    lines = path.with_suffix(".rows").read_text(encoding="ascii").splitlines()
    history = load_history(path)
    assert len(lines) == len(history.rows)
    for line, row in zip(lines, history.rows, strict=True):
        first_seq, at_us, data = line.split()
        assert (int(first_seq), int(at_us)) == (row.first_seq, row.at_us)
        assert ev.load_events(bytes.fromhex(data)) == list(row.events)


def test_every_kind_of_event_is_among_them() -> None:
    """A kind that no golden history holds could change without anybody noticing."""
    kinds = {type(entry.event) for path in FILES for entry in load_history(path).events}
    assert kinds == set(get_args(ev.Event))


def test_a_change_of_the_workflow_is_noticed_in_each_of_them() -> None:
    """The net has no holes: another workflow does not follow any of these histories."""
    for path in FILES:
        history = load_history(path)
        stranger = next(flow for flow in WORKFLOWS.values() if flow.name != history.started.workflow)
        twin = Workflow(stranger.function, name=history.started.workflow, version=history.started.version)
        with pytest.raises(NondeterminismError):
            replay(twin, history)
