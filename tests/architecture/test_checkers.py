"""The linters and type checkers are tests, so that one command says whether all is well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each test starts a checker over the whole tree

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "."], id="ruff-check"),
        pytest.param(["ruff", "format", "--check", "."], id="ruff-format"),
        pytest.param(["mypy"], id="mypy-strict"),
        # Told which interpreter, or it takes the first on PATH and finds nothing that is installed here.
        pytest.param(["pyright", "--pythonpath", sys.executable], id="pyright-strict"),
    ],
)
def test_the_checker_has_no_complaint(command: list[str]) -> None:
    env = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # else it asks the network for its newest version
    command = [sys.executable, "-m", *command]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{done.stdout}{done.stderr}", pytrace=False)
