"""Tokens of activities that were handed over: what is given away, and what is kept of it.

A token says whose it is, and holds a secret of 32 random bytes. A store keeps a digest of the secret only: whoever
reads the store cannot finish an activity with what they find there.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from durableflow.errors import TokenRefused

_PREFIX: Final = "df1."
SECRET_BITS: Final = 256
_TOKEN_CHARS_MAX: Final = 8_000
_NUMBERS_MAX: Final = 2**53


class TokenParts(NamedTuple):
    """What a token says: which attempt of which activity, and the digest of its secret.

    `digest` is None for those who have the store, and so need no token.
    """

    instance_id: str
    task: int
    attempt: int
    digest: bytes | None


class OpenAttempt(msgspec.Struct, frozen=True):
    """An attempt for which a token was given out, and which has no result yet.

    Takes the place of the token for those who have the store itself: `client.complete(attempt, value)`.

    Attributes:
        instance_id: the instance that asked for it.
        task: its number there; part of the idempotency key.
        attempt: which one it is, counted from 1.
        activity: its name.
        details: plain JSON values of the last heartbeat with the token, or of an earlier attempt's; None without.
        scheduled_at_us: when the workflow asked for the activity, in microseconds since 1970.
    """

    instance_id: str
    task: int
    attempt: int
    activity: str
    details: Any
    scheduled_at_us: int


def new_token(instance_id: str, task: int, attempt: int, bits: int) -> tuple[str, bytes]:
    """A token of an attempt, and the digest by which it is known again; `bits` are `SECRET_BITS` of the caller's."""
    secret = bits.to_bytes(SECRET_BITS // 8)
    parts = msgspec.msgpack.encode((instance_id, task, attempt, secret))
    return _PREFIX + base64.urlsafe_b64encode(parts).decode().rstrip("="), sha256(secret).digest()


def read_token(token: str) -> TokenParts:
    """What a token says.

    Raises:
        TokenRefused: it is none.
    """
    try:
        if not token.startswith(_PREFIX) or len(token) > _TOKEN_CHARS_MAX:
            raise ValueError("no such beginning")
        text = token[len(_PREFIX) :]
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        instance_id, task, attempt, secret = msgspec.msgpack.decode(data, type=tuple[str, int, int, bytes])
        if not (0 < task < _NUMBERS_MAX and 0 < attempt < _NUMBERS_MAX):
            raise ValueError("no such number")
    except (AttributeError, TypeError, ValueError, binascii.Error, msgspec.DecodeError) as error:
        message = f"{str(token)[:16]!r}... is not the token of an activity; pass on what hand_over() gave, as it is"
        raise TokenRefused("malformed", message) from error
    return TokenParts(instance_id, task, attempt, sha256(secret).digest())
