"""Both checkers over the claims of this folder, with the errors at the very lines that expect them.

`tests/architecture/test_checkers.py` runs them over everything; here each suppression is shown to be worth its
place: without it, that line has an error of that kind, and no other line has one.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # starts two checkers

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CLAIMS = sorted(path.name for path in HERE.glob("*.py") if not path.name.startswith("test_"))
SUPPRESSION = {
    "mypy": re.compile(r"# type: ignore\[([^\]]+)\]"),
    "pyright": re.compile(r"# pyright: ignore\[([^\]]+)\]"),
}
Errors = dict[tuple[str, int], set[str]]


def expected(checker: str) -> Errors:
    """The errors that the files say are coming, by file and line."""
    found: Errors = {}
    for name in CLAIMS:
        for number, line in enumerate((HERE / name).read_text(encoding="utf-8").splitlines(), 1):
            if match := SUPPRESSION[checker].search(line):
                found[name, number] = {code.strip() for code in match[1].split(",")}
    return found


@pytest.fixture(scope="module")
def unsuppressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The claims without a single suppression, line for line."""
    folder = tmp_path_factory.mktemp("claims")
    for name in CLAIMS:
        text = (HERE / name).read_text(encoding="utf-8")
        for pattern in SUPPRESSION.values():
            text = pattern.sub("", text)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(*command: str) -> str:
    env = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "MYPYPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


def mypy_errors(folder: Path) -> Iterator[tuple[str, int, str]]:
    cache = f"--cache-dir={folder / 'cache'}"
    output = run("mypy", "--config-file=pyproject.toml", cache, *(str(folder / name) for name in CLAIMS))
    for path, line, code in re.findall(r"^(.+?):(\d+): error: .*\[([a-z-]+)\]$", output, re.MULTILINE):
        yield Path(path).name, int(line), code


def pyright_errors(folder: Path) -> Iterator[tuple[str, int, str]]:
    settings = {
        "include": ["."],
        "extraPaths": [str(ROOT / "src")],
        "pythonVersion": "3.11",
        "typeCheckingMode": "strict",
        "enableTypeIgnoreComments": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    output = run("pyright", "--pythonpath", sys.executable, "--outputjson", "--project", str(folder))
    for error in json.loads(output)["generalDiagnostics"]:
        yield Path(error["file"]).name, error["range"]["start"]["line"] + 1, error["rule"]


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_every_expected_error_comes_and_no_other(checker: str, unsuppressed: Path) -> None:
    came: Errors = {}
    for name, line, code in (mypy_errors if checker == "mypy" else pyright_errors)(unsuppressed):
        came.setdefault((name, line), set()).add(code)
    assert came == expected(checker)


def test_there_is_something_to_refuse_and_to_infer() -> None:
    for checker in SUPPRESSION:
        assert len(expected(checker)) >= 30
    assert (HERE / "inferred.py").read_text(encoding="utf-8").count("assert_type(") >= 60
