"""Where a page ended, as a text; and what anybody else may pass for one."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow.errors import UsageError
from durableflow.model.cursors import dump_cursor, load_cursor

KIND = tuple[int, str]


@given(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_cursor_says_where_a_page_ended(number: int, name: str) -> None:
    assert load_cursor(dump_cursor((number, name)), KIND) == (number, name)


@pytest.mark.parametrize(
    "cursor", ["", "[]", "[1]", '["a",1]', "null", "[1e999,2]", f'[{2**63},"a"]', '[1,"\\u0000"]', "\ud800", 7, None]
)
def test_anything_else_is_told_to_be_none(cursor: Any) -> None:
    with pytest.raises(UsageError, match="is not the cursor of a page"):
        load_cursor(cursor, KIND)


@given(st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_no_text_does_more_than_that(cursor: str) -> None:
    with suppress(UsageError):
        assert isinstance(load_cursor(cursor, KIND), tuple)
