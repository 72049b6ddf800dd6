"""Each example does what it says, and goes on where it was after `kill -9` at any moment."""

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from example_ends import ENDS, FOLDER

from durableflow import Client, Status
from durableflow.core.view import HistoryEvent
from durableflow.model import events as ev

pytestmark = pytest.mark.slow  # each starts interpreters

LATEST_KILL_S = 1.2
RESULTS = (ev.ActivityCompleted, ev.ActivityFailed)


def begin(name: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", str(FOLDER / f"{name}.py")]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(name: str, folder: Path) -> list[str]:
    """What it says of its ends; lines of activities are indented."""
    with begin(name, folder) as process:
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, err
    return [line for line in out.splitlines() if not line.startswith(" ")]


async def histories(store: Path) -> dict[str, list[HistoryEvent]]:
    async with Client(f"sqlite:///{store}") as client:
        return {each.instance_id: await client.history(each.instance_id) for each in (await client.list()).instances}


def since_rewind(history: list[HistoryEvent]) -> list[HistoryEvent]:
    """What counts of it."""
    last = max((index for index, each in enumerate(history) if isinstance(each.event, ev.InstanceRewound)), default=-1)
    return history[last + 1 :]


async def check(store: Path) -> None:
    async with Client(f"sqlite:///{store}") as client:
        assert {each.status for each in (await client.list()).instances} <= {Status.COMPLETED, Status.FAILED}
    for instance, history in (await histories(store)).items():
        assert [entry.seq for entry in history] == list(range(1, len(history) + 1)), instance
        latest = since_rewind(history)
        assert [type(entry.event) in ev.ENDS for entry in latest] == [False] * (len(latest) - 1) + [True]
        results = Counter(entry.event.task for entry in latest if isinstance(entry.event, RESULTS))
        assert all(count == 1 for count in results.values()), instance


def test_every_example_is_tested() -> None:
    assert sorted(ENDS) == sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", sorted(ENDS))
def test_an_example_says_what_came_of_it_and_says_it_again(name: str, tmp_path: Path) -> None:
    assert finish(name, tmp_path) == ENDS[name]
    before = asyncio.run(histories(tmp_path / f"{name}.db"))
    assert finish(name, tmp_path) == ENDS[name], "the second time, from the record"
    assert asyncio.run(histories(tmp_path / f"{name}.db")) == before
    asyncio.run(check(tmp_path / f"{name}.db"))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", sorted(ENDS))
def test_an_example_that_is_killed_comes_to_the_same_end(name: str, seed: int, tmp_path: Path) -> None:
    dice = random.Random(f"{name} {seed}")
    store = tmp_path / f"{name}.db"
    for _ in range(2):
        kill_after_s = dice.uniform(0.1, LATEST_KILL_S)
        with begin(name, tmp_path) as process:
            time.sleep(kill_after_s)
            process.kill()
            process.communicate()
        recorded = asyncio.run(histories(store))
    assert finish(name, tmp_path) == ENDS[name], f"seed {seed}"
    asyncio.run(check(store))
    for instance, history in asyncio.run(histories(store)).items():
        kept = recorded.get(instance, [])
        assert history[: len(kept)] == kept, "what was recorded before the kill is never changed"
