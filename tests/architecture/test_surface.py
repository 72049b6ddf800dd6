"""What the package exports and what docs/reference/api.md describes are the same names."""

import re
from functools import reduce
from pathlib import Path

import pytest

import durableflow

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"
# A heading opens with the name in backticks, alone or with its signature: ## `Engine`, ### `Engine.start(...)`
HEADING = re.compile(r"^#{2,6} `([A-Za-z_][\w.]*)", re.MULTILINE)
HEADINGS = HEADING.findall(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else []


def test_every_public_name_has_a_heading() -> None:
    assert sorted(set(durableflow.__all__) - set(HEADINGS)) == []


def test_every_public_name_is_there_and_named_once() -> None:
    assert sorted(set(durableflow.__all__)) == sorted(durableflow.__all__)
    assert [name for name in durableflow.__all__ if not hasattr(durableflow, name)] == []


@pytest.mark.parametrize("heading", sorted(set(HEADINGS)))
def test_a_heading_names_what_can_be_imported(heading: str) -> None:
    assert heading.partition(".")[0] in durableflow.__all__
    reduce(getattr, heading.split("."), durableflow)
