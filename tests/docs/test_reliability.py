"""Each promise has a guard, and each guard that the page names is there."""

import ast
import re
from pathlib import Path

import pytest

from durableflow.testing.simulation.reliability import BEGIN, END, table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
GUARD = re.compile(r"`(?P<file>tests/[\w/]+\.py)(?:::(?P<name>\w+))?`")
GUARDS = sorted({(found["file"], found["name"] or "") for found in GUARD.finditer(PAGE)})
PROMISES = 48


@pytest.mark.parametrize(("file", "name"), GUARDS)
def test_each_guard_is_there(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    known = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    assert name in {"", *known}


def test_each_promise_has_a_guard() -> None:
    first_cells = re.findall(r"^\| ([^|]+) \|", PAGE, re.MULTILINE)
    guarded = {number for cell in first_cells for number in re.findall(r"\bI\d+\b", cell)}
    assert {f"I{number}" for number in range(1, PROMISES + 1)} - guarded == set()


def test_the_table_has_each_checker_of_the_simulator() -> None:
    written = PAGE.partition(BEGIN)[2].partition(END)[0]
    assert _without_counts(table({})) == _without_counts(written[written.index("| promise |") :].strip())


def _without_counts(rows: str) -> list[str]:
    return [line.rstrip("|").rpartition("|")[0] for line in rows.splitlines()]
