"""A virtual environment per contender and one to draw in, made once in the cache; Node packages likewise."""

import hashlib
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.contract import Spec

REPOSITORY: Final = Path(__file__).resolve().parent.parent
CACHE: Final = REPOSITORY / "benchmarks" / ".cache"
NPM: Final = CACHE / "npm"
REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")


class InstallError(Exception):
    """A contender's packages cannot be had; the message ends with what the installer said."""


def python_for(spec: Spec, *, reinstall: bool = False) -> Path:
    """The interpreter of this contender's environment, which is made if it is missing or out of date."""
    # an editable install follows the code by itself, but not the list of dependencies
    also = (REPOSITORY / "pyproject.toml").read_text() if spec.ours else ""
    python = _python_with(spec.requirements, also, reinstall=reinstall)
    for package in spec.npm:
        _npm(package, reinstall=reinstall)
    return python


def drawing_python() -> Path:
    """The interpreter that draws: it has what `requirements.txt` names."""
    return _python_with(("-r benchmarks/requirements.txt",), REQUIREMENTS.read_text())


def _python_with(requirements: Sequence[str], also: str, *, reinstall: bool = False) -> Path:
    """An interpreter with these packages; another one as soon as they, or `also`, change."""
    wanted = hashlib.sha256("\n".join([sys.version, *requirements, *([also] if also else [])]).encode()).hexdigest()
    directory = CACHE / "venvs" / wanted[:16]
    python = directory / "bin" / "python"
    stamp = directory / "complete"
    if reinstall or not stamp.exists():
        shutil.rmtree(directory, ignore_errors=True)
        venv.create(directory, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _install([*pip, *(word for line in requirements for word in line.split())])
        stamp.touch()
    return python


def _npm(package: str, *, reinstall: bool) -> None:
    if (NPM / "node_modules" / package).exists() and not reinstall:
        return
    NPM.mkdir(parents=True, exist_ok=True)
    # no scripts: the binary is in the package, and what else would run is telemetry
    _install(["npm", "install", "--prefix", str(NPM), "--no-audit", "--no-fund", "--ignore-scripts", package])


def _install(command: list[str]) -> None:
    try:
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        message = f"{command[0]} is not installed here"
        raise InstallError(message) from error
    except subprocess.CalledProcessError as error:
        message = f"{' '.join(command[-2:])} failed: {_reason(error.stderr or error.stdout or str(error))}"
        raise InstallError(message) from error


def _reason(told: str) -> str:
    """The line that names the error: installers say much after it."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"(\w+Error|ERROR|npm error)\b", line)]
    return (named or lines or ["it said nothing"])[-1]


def restate_server() -> Path:
    """The server's binary inside the npm package for this platform.

    Raises:
        FileNotFoundError: npm has no binary for this platform.
    """
    found = sorted((NPM / "node_modules" / "@restatedev").glob("restate-server-*/bin/restate-server"))
    if not found:
        message = "@restatedev/restate-server brought no binary for this platform"
        raise FileNotFoundError(message)
    return found[0]
