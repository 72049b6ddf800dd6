"""An envelope is read back whole or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow.kubernetes.envelope import FAILURE, RESULT, STORED, Envelope, Stored, seal, stored_in, unseal

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(job=st.text(), kind=st.sampled_from([RESULT, FAILURE]), value=values, before=st.sampled_from(["", "Epoch 1\n"]))
def test_what_was_sealed_is_read_back(job: str, kind: str, value: object, before: str) -> None:
    envelope = Envelope(job, kind, value)
    assert unseal(before + seal(envelope) + "\n") == envelope


@given(value=values, data=st.data())
def test_a_line_that_was_cut_or_changed_is_not_taken(value: object, data: st.DataObject) -> None:
    line = seal(Envelope("j", RESULT, value))
    cut = data.draw(st.integers(0, len(line) - 1))
    assert unseal(line[:cut]) is None
    changed = line[:cut] + ("x" if line[cut] != "x" else "y") + line[cut + 1 :]
    assert unseal(changed) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_what_json_cannot_hold_is_refused_where_it_is_made(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        seal(Envelope("j", RESULT, value))


@pytest.mark.parametrize("message", ["", "df1", "df1 ", "df1 abc {}", "df2 " + "0" * 64 + " {}"])
def test_other_text_is_no_envelope(message: str) -> None:
    assert unseal(message) is None


DIGEST = "0" * 64


def test_a_stored_result_is_known_by_digest_and_size() -> None:
    sealed = seal(Envelope("j", STORED, {"sha256": DIGEST, "size": 7}))
    read = unseal(sealed)
    assert read is not None
    assert stored_in(read) == Stored(DIGEST, 7)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (RESULT, {"sha256": DIGEST, "size": 7}),
        (STORED, None),
        (STORED, "s3://bucket/key"),
        (STORED, {"sha256": DIGEST}),
        (STORED, {"sha256": DIGEST[1:], "size": 7}),
        (STORED, {"sha256": DIGEST, "size": -1}),
        (STORED, {"sha256": DIGEST, "size": True}),
        (STORED, {"sha256": DIGEST, "size": "7"}),
    ],
)
def test_what_makes_no_sense_is_no_stored_result(kind: str, value: object) -> None:
    assert stored_in(Envelope("j", kind, value)) is None
