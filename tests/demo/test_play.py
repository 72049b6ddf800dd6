"""The demo as a stranger meets it: one command, a process of its own."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from durableflow import Client, Status
from durableflow.model import events as ev

pytestmark = pytest.mark.slow  # each plays the demo, which starts processes and kills them

COMMAND = [sys.executable, "-W", "error", "-m", "durableflow", "demo"]
LIMIT_S = 180  # the machine may be busy


def play(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | environment
    return subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def begin() -> subprocess.Popen[str]:
    return subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)


def read_to(process: subprocess.Popen[str], pattern: str) -> str:
    """What the first line says that matches; the group of the pattern."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(f"no line matches {pattern!r}")


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # A child that nobody waits for yet is dead all the same.
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_gone(process: int) -> bool:
    deadline_s = time.monotonic() + 30
    while is_there(process) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return not is_there(process)


def test_the_demo_needs_no_flags_and_proves_what_it_shows() -> None:
    done = play(PYTHONIOENCODING="ascii:strict", LC_ALL="C")  # nor does it need more than ASCII
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("kill -9") == 3, "two in the timeline, one in the title"
    claims = re.findall(r"^  (yes|NO)  ", done.stdout, re.MULTILINE)
    assert claims == ["yes"] * 7
    began = re.findall(r"^  order-\d +(\w+) +(\d+) +(\d+)", done.stdout, re.MULTILINE)
    again = {name for name, times, _ in began if int(times) > 1}
    assert (len(began), again) == (10, {"charge", "release_stock"})
    assert "\x1b" not in done.stdout, "a pipe gets no colours"
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_a_store_that_is_kept_holds_what_was_shown_and_can_be_played_on_again(tmp_path: Path) -> None:
    store = tmp_path / "orders.db"
    assert [play("--store", str(store)).returncode for _ in range(2)] == [0, 0]

    async def look() -> None:
        async with Client(f"sqlite:///{store}") as client:
            page = await client.list()
            assert {each.instance_id: each.status for each in page.instances} == {
                "order-1": Status.COMPLETED,
                "order-2": Status.FAILED,
                "order-3": Status.COMPLETED,
                "order-4": Status.FAILED,
            }
            for each in page.instances:
                history = await client.history(each.instance_id)
                assert [entry.seq for entry in history] == list(range(1, len(history) + 1))
                asked = Counter(e.event.task for e in history if isinstance(e.event, ev.ActivityScheduled))
                kinds = (ev.ActivityCompleted, ev.ActivityFailed)
                assert asked == Counter(e.event.task for e in history if isinstance(e.event, kinds))

    asyncio.run(look())


@pytest.mark.usefixtures("heeds_sigint")
@pytest.mark.parametrize("line", [r"worker (\d+) .*begins", r"worker (\d+) .*ship +begins"], ids=["begun", "waiting"])
def test_ctrl_c_stops_the_worker_too(line: str) -> None:
    with begin() as demo:
        worker = int(read_to(demo, line))
        demo.send_signal(signal.SIGINT)
        _, complaint = demo.communicate(timeout=LIMIT_S)
    assert (demo.returncode, complaint.strip()) == (130, "interrupted; the worker is stopped")
    assert wait_gone(worker)


def test_a_reader_who_leaves_stops_the_demo_quietly() -> None:
    with begin() as demo:
        worker = int(read_to(demo, r"worker (\d+) .*begins"))
        assert demo.stdout is not None
        demo.stdout.close()
        assert demo.wait(timeout=LIMIT_S) == 1
        assert demo.stderr is not None
        assert demo.stderr.read() == ""
    assert wait_gone(worker)


def test_a_worker_does_not_outlive_a_demo_that_was_killed() -> None:
    with begin() as demo:
        worker = int(read_to(demo, r"worker (\d+) .*begins"))
        demo.kill()
        demo.communicate(timeout=LIMIT_S)
    assert wait_gone(worker)


def test_what_the_demo_cannot_do_it_says_in_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("not a database\n" * 400)
    for store, sentence in ((tmp_path / "none" / "x.db", "there is no folder"), (text, "not a database")):
        done = play("--store", str(store))
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(rf"durableflow demo: .*{sentence}.*\n", done.stderr), done.stderr


def test_the_demo_does_not_touch_a_store_of_other_workflows(tmp_path: Path) -> None:
    store = tmp_path / "mine.db"
    program = (
        "from durableflow import Context, Engine, workflow\n"
        "@workflow\n"
        "def mine(ctx: Context) -> int: return 1\n"
        f"Engine('sqlite:///{store}').run(mine)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=LIMIT_S)
    done = play("--store", str(store))
    assert (done.returncode, done.stdout) == (1, "")
    assert "'mine'" in done.stderr
    assert "a file of its own" in done.stderr
