"""The example of a fleet does what its page says, whoever of it is killed."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from durableflow.testing import PostgresServer

pytestmark = pytest.mark.slow  # starts a server and interpreters

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "fleet"
JUDGE = ROOT / "tests" / "fleet" / "check_tables.py"
ENDS = [
    f"order-{number}: parcel from shelf {len(item)}, label of order-{number}, {100 + number} paid"
    for number, item in ((number, ["lamp", "chair", "sofa"][number % 3]) for number in range(1, 13))
]
KILLS = 5
TIMEOUT_S = 60
BEGINS = re.compile(r"^  (worker|client) begins: process (\d+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=False) as server:
        yield server


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLE), *arguments]


def ends_in(said: str) -> list[str]:
    return [line for line in said.splitlines() if not line.startswith(" ")]


def judge(url: str) -> None:
    """Histories are in order, nothing is left, nobody who is dead owns anything."""
    done = subprocess.run(
        [sys.executable, str(JUDGE), url, "--flows", str(EXAMPLE / "__main__.py")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_brings_a_server_of_its_own_which_goes_with_it() -> None:
    done = subprocess.run(command(), capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    assert ends_in(done.stdout) == ENDS
    begun = BEGINS.findall(done.stdout)
    assert len(begun) == 4, "nobody died"
    for _, number in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(int(number), 0)
    port = re.search(r"listens: postgresql://.*@127\.0\.0\.1:(\d+)/", done.stdout)
    assert port is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port[1])), timeout=5)


def test_it_says_the_same_again_from_the_record(server: PostgresServer) -> None:
    url = server.create_database()
    for turn in range(2):
        done = subprocess.run(command(url), capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
        assert ends_in(done.stdout) == ENDS
        assert ("is reserved" in done.stdout) is (turn == 0)
        judge(url)


@pytest.mark.parametrize("seed", range(2))
def test_any_of_it_may_be_killed_at_any_time(seed: int, server: PostgresServer, tmp_path: Path) -> None:
    url = server.create_database()
    dice = random.Random(seed)
    said, warned = tmp_path / "said.txt", tmp_path / "warned.txt"
    killed: set[str] = set()
    with (
        said.open("w") as out,
        warned.open("w") as warnings,  # of attempts that were lost with their workers, among others
        subprocess.Popen(command(url), stdout=out, stderr=warnings) as fleet,
    ):
        deadline_s = time.monotonic() + TIMEOUT_S
        while fleet.poll() is None:
            assert time.monotonic() < deadline_s, said.read_text()
            time.sleep(dice.uniform(0.2, 0.6))
            alive = sorted({number for _, number in BEGINS.findall(said.read_text())} - killed)
            if len(killed) < KILLS and len(alive) == 4 and "is reserved" in said.read_text():
                number = dice.choice(alive)
                killed.add(number)
                with suppress(ProcessLookupError):  # the client, which has all that it wanted
                    os.kill(int(number), signal.SIGKILL)
    assert fleet.returncode == 0, said.read_text() + warned.read_text()
    assert len(killed) >= 3, "it was over before it was disturbed"
    text = said.read_text()
    assert set(ends_in(text)) == set(ENDS), text
    assert ends_in(text)[-12:] == ENDS, "the client that lived to the end says all"
    judge(url)
