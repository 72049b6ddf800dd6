"""Instance ids and the texts that stores must hold."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow import UsageError
from durableflow.model.ids import RANDOM_BITS, check_name, fresh_id

TIMES = st.integers(0, 2**47 * 1_000)
BITS = st.integers(0, 2**RANDOM_BITS - 1)


@given(TIMES, BITS, TIMES, BITS)
def test_ids_sort_by_time(one_us: int, one_bits: int, two_us: int, two_bits: int) -> None:
    one, two = fresh_id(one_us, one_bits), fresh_id(two_us, two_bits)
    if one_us // 1_000 != two_us // 1_000:
        assert (one < two) == (one_us < two_us)
    else:
        assert (one < two) == (one_bits < two_bits)


@given(TIMES, BITS)
def test_ids_have_26_characters_that_can_be_read_aloud(now_us: int, bits: int) -> None:
    made = fresh_id(now_us, bits)
    assert len(made) == 26
    assert set(made) <= set("0123456789abcdefghjkmnpqrstvwxyz")
    assert check_name(made, "the id") == made


def test_the_layout_is_pinned_because_stores_hold_it() -> None:
    assert fresh_id(0, 0) == "0" * 26
    assert fresh_id(1_800_000_000_000_000, 5) == "01mcc5rm00" + "0" * 15 + "5"
    assert fresh_id(0, 2**RANDOM_BITS - 1) == "0" * 10 + "z" * 16


def test_ids_of_one_moment_differ_by_their_dice_alone() -> None:
    assert len({fresh_id(5_000, bits) for bits in range(2_000)}) == 2_000


@pytest.mark.parametrize("name", ["a", "order/1 é \U0001f600", " padded ", "x" * 500, "\n."])
def test_any_visible_text_is_a_name(name: str) -> None:
    assert check_name(name, "the instance id") is name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "is empty"),
        (" \t\n", "is empty"),
        ("x" * 501, "over the limit of 500"),
        ("a\0b", "contains NUL"),
        ("\ud800", "lone surrogate"),
        (5, "must be a string, not 5"),
        (None, "must be a string, not None"),
        (b"a", "must be a string"),
    ],
)
def test_what_a_store_could_not_hold_is_refused(name: Any, text: str) -> None:
    with pytest.raises(UsageError, match=f"^the instance id .*{text}"):
        check_name(name, "the instance id")
