"""A node is shown in one short line."""

import ast
from collections.abc import Callable
from typing import Any

import pytest

from durableflow.authoring.determinism.nodes import text

Look = Callable[..., Any]


def test_a_long_call_is_shown_short(in_body: Look) -> None:
    [finding] = in_body("time.sleep(\n    order.a_long_name + order.another_long_name,\n)", "import time")
    assert finding.call == "time.sleep(...)"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("f()", "f()"),
        ("f(1, key=2).g(*a)", "f(1, key=2).g(...)"),
        ("for  x in  f(1): pass", "for x in f(...)"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 56 + " ..."),
        ("for x in a \\\n  | b: pass", "for x in a | b"),
    ],
    ids=str,
)
def test_a_node_is_shown_in_one_line_of_60_characters_at_most(source: str, shown: str) -> None:
    [statement] = ast.parse(source).body
    assert text(statement.value if isinstance(statement, ast.Expr) else statement) == shown
