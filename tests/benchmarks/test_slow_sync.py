"""A slower disk is slow exactly where a disk is: when it is told to sync."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import slow_sync

TIMED = """
import os, sys, time
file = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
for call in (lambda: os.write(file, b"x"), lambda: os.fsync(file), lambda: os.fdatasync(file)):
    began = time.perf_counter()
    call()
    print((time.perf_counter() - began) * 1000)
try:
    os.fsync(9999)
except OSError as error:
    print(error.errno)
"""


def test_without_a_wish_nothing_is_built(tmp_path: Path) -> None:
    assert slow_sync.environment(tmp_path, 0) == {}
    assert list(tmp_path.iterdir()) == []


def test_syncs_take_as_long_as_is_wished_and_writes_do_not(tmp_path: Path) -> None:
    try:
        added = slow_sync.environment(tmp_path, 40)
    except slow_sync.NoCompilerError as error:
        assert (shutil.which("cc"), shutil.which("gcc")) == (None, None), error  # noqa: PT017 - no compiler, no library
        return
    child = subprocess.run(
        [sys.executable, "-c", TIMED, str(tmp_path / "file")],
        env={**os.environ, **added},
        capture_output=True,
        text=True,
        check=True,
    )
    write_ms, fsync_ms, fdatasync_ms, errno = map(float, child.stdout.split())
    assert write_ms < 40 <= min(fsync_ms, fdatasync_ms)
    assert errno == 9  # a bad file descriptor is still one
    assert child.stderr == ""


def test_a_machine_without_a_compiler_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(slow_sync.NoCompilerError, match="there is no C compiler here"):
        slow_sync.environment(tmp_path, 2)
