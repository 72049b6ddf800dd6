"""The token of one Job, for pods whose own token no API server can be asked about: what is given away and what is kept.

The pod finds it in a Secret that belongs to its Job. The store keeps a digest: who reads the store, a history or a Job
cannot speak for a pod.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

PREFIX: Final = "dfj_"
"""By which it is known from tokens that an API server knows, and is found in logs."""
_SECRET_BYTES: Final = 32
_TOKEN_CHARS: Final = 47


def new_token() -> str:
    """Nobody else has this one."""
    return PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def is_token(text: str) -> bool:
    """Whether it looks like one."""
    return text.startswith(PREFIX) and len(text) == _TOKEN_CHARS


def digest_of(token: str) -> str:
    """What is kept of it."""
    return sha256(token.encode()).hexdigest()


def is_among(token: str, digests: Iterable[str]) -> bool:
    """Whether one of the digests is of this token; all are compared, and each as a whole."""
    digest = digest_of(token)
    return sum(hmac.compare_digest(digest, each) for each in digests) > 0
