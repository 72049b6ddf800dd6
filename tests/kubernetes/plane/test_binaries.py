"""The cache of the plane's programs: whole or not there, built once however many ask."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from planekit import binaries
from planekit.binaries import CACHE_VARIABLE, find_binaries, key

PROGRAM = """
import sys, time
from pathlib import Path
from planekit import binaries

class Slow:
    def __init__(self, folder):
        self.folder = folder
    def make(self, target):
        Path(sys.argv[1], "begun").open("a").write("x")
        (target / "etcd").write_text("half")
        while not Path(sys.argv[1], "go").exists():
            time.sleep(0.01)
        (target / "etcd").write_text("whole")

binaries._Build = Slow
print(binaries.find_binaries().etcd.read_text())
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def begin(folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(binaries.__file__).parent.parent)}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_begun(folder: Path) -> None:
    give_up_s = time.monotonic() + 20
    while not (folder / "begun").exists():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


@pytest.mark.slow
def test_two_who_ask_at_once_build_once_and_neither_sees_half(tmp_path: Path, cache: Path) -> None:
    first = begin(tmp_path)
    wait_begun(tmp_path)
    second = begin(tmp_path)
    assert not (cache / key()).exists()
    (tmp_path / "go").touch()
    assert [builder.communicate()[0] for builder in (first, second)] == ["whole\n", "whole\n"]
    assert (tmp_path / "begun").read_text() == "x"
    assert sorted(file.name for file in cache.iterdir()) == [key(), f"{key()}.lock"]


@pytest.mark.slow
def test_a_builder_that_was_killed_leaves_nothing_that_is_taken_for_whole(tmp_path: Path, cache: Path) -> None:
    killed = begin(tmp_path)
    wait_begun(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (cache / key()).exists()
    (tmp_path / "go").touch()
    assert begin(tmp_path).communicate()[0] == "whole\n"
    assert sorted(file.name for file in cache.iterdir()) == [key(), f"{key()}.lock"]


def test_a_build_that_fails_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, folder: Path) -> None:
            (folder / "large").write_text("x")

        def make(self, target: Path) -> None:
            raise binaries.PlaneUnavailable("no compiler")

    monkeypatch.setattr(binaries, "_Build", Failing)
    with pytest.raises(binaries.PlaneUnavailable, match="no compiler"):
        find_binaries()
    assert [file.name for file in cache.iterdir()] == [f"{key()}.lock"]


def test_another_recipe_has_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(binaries, "OPTIONS", ())
    assert key() != before
