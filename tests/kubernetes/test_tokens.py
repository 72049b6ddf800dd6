"""A token of a Job's: nobody else has it, and its digest is all that is kept."""

from __future__ import annotations

import pytest

from durableflow.kubernetes.account import redact
from durableflow.kubernetes.tokens import PREFIX, digest_of, is_among, is_token, new_token


def test_each_token_is_another_and_is_known_for_one() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(is_token(each) for each in tokens)


@pytest.mark.parametrize("other", ["", PREFIX, "eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", PREFIX + "x" * 42, PREFIX + "x" * 44])
def test_nothing_else_is_taken_for_one(other: str) -> None:
    assert not is_token(other)


def test_only_the_token_itself_is_among_the_digests() -> None:
    mine, other = new_token(), new_token()
    assert is_among(mine, [digest_of(other), digest_of(mine)])
    assert not is_among(mine, [digest_of(other)])
    assert not is_among(mine, [])
    assert not is_among(digest_of(mine), [digest_of(mine)])


def test_a_digest_holds_nothing_of_the_token() -> None:
    token = new_token()
    assert token[len(PREFIX) :] not in digest_of(token)


def test_a_token_that_a_program_prints_is_not_kept_with_its_log() -> None:
    assert all(redact(f"got {new_token()}, go") in ("got [redacted], go", "got [redacted]-, go") for _ in range(100))
