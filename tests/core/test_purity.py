"""Replay does not depend on the process it runs in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from stories import Story, done, number, received, work

def flow(ctx, names):
    bag = {{"b": 1, "a": 2, "c": {{"y": 0, "x": 0}}}}
    task = ctx.call_activity(work, [bag, set(names), frozenset(names)])
    dice = [ctx.random().random(), str(ctx.uuid4()), ctx.random().sample(range(100), 5)]
    ctx.set_custom_status(dict(reversed(bag.items())))
    timer = ctx.sleep(3)
    winner = yield from ctx.when_any(task, timer)
    answer = yield from ctx.wait_for_event("STRASSE")
    return [dice, winner.result(), answer, ctx.now().isoformat()]

story = Story(flow, ["x", "y", "z", "w", "v"])
story.complete(1, "done")
story.wait(1)
story.event("straße", 1)
story.check()
from durableflow.model.events import dump_events
print(story.status, [dump_events(row).hex() for *_, row in story.rows])
"""


@pytest.mark.slow
def test_other_processes_with_other_hash_seeds_make_the_same_bytes() -> None:
    script = SCRIPT.format(here=str(Path(__file__).parent))
    outputs: set[str] = set()
    for seed in ("0", "1", "12345"):
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-W", "error", "-c", script]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert outputs.pop().startswith("COMPLETED")
