"""Tokens: what is given away says whose it is; whatever else comes is refused as none."""

from hashlib import sha256
from typing import Any

import pytest

from durableflow import TokenRefused
from durableflow.model.tokens import SECRET_BITS, TokenParts, new_token, read_token


@pytest.mark.parametrize("instance_id", ["order-1", "ünïcödé 🚀", "x" * 500])
def test_a_token_says_whose_it_is_and_its_secret_is_kept_as_a_digest_only(instance_id: str) -> None:
    token, digest = new_token(instance_id, 7, 2, 2**SECRET_BITS - 5)
    assert read_token(token) == TokenParts(instance_id, 7, 2, digest)
    assert digest == sha256((2**SECRET_BITS - 5).to_bytes(32)).digest()
    assert token.isascii()
    assert token.replace(".", "").replace("-", "").replace("_", "").isalnum(), "it fits into a URL as it is"


def test_tokens_of_one_attempt_are_different_by_their_secrets() -> None:
    (one, of_one), (other, of_other) = (new_token("i", 1, 1, bits) for bits in (1, 2))
    assert one != other
    assert of_one != of_other


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (-1, 1), (2**63, 1), (1, 2**80 % 2**64)])
def test_a_token_with_numbers_that_none_can_have_is_refused(numbers: tuple[int, int]) -> None:
    token, _ = new_token("i", *numbers, 7)
    with pytest.raises(TokenRefused) as caught:
        read_token(token)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("token", [b"df1.x", None, 5, "", "df1.", "df1.\ud800", "x" * 10_000, "df1." + "A" * 40])
def test_what_is_no_token_is_refused_as_malformed(token: Any) -> None:
    with pytest.raises(TokenRefused) as caught:
        read_token(token)
    assert caught.value.reason == "malformed"
