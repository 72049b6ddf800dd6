"""The envelope in which a pod says what came of its attempt; with the standard library alone, for it is read in pods.

It is one line of text: `df1`, the SHA-256 of the rest in hexadecimal, and the rest, which is JSON. Kubernetes keeps
4,096 bytes of a termination message and cuts what is longer, without a word; a line that was cut does not have its
digest.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Final, NamedTuple, cast

MESSAGE_BYTES_MAX: Final = 4_096
"""Source: Kubernetes documentation, "Determine the Reason for Pod Failure"."""
RESULT: Final = "result"
FAILURE: Final = "failure"
DELIVERED: Final = "delivered"
"""The result was too large for the message, and was brought by a callback."""
STORED: Final = "stored"
"""The result was too large for the message, and is in the object store."""
_MARK: Final = "df1"
_DIGEST_CHARS: Final = 64


class Envelope(NamedTuple):
    """What a pod says.

    Attributes:
        job: the name of the Job whose it is: an answer of another attempt is not taken.
        kind: `RESULT`, `FAILURE`, `DELIVERED` or `STORED`.
        value: the result; or a failure's `{"type": ..., "message": ..., "retryable": ...}`; or a digest; or a digest
            and a size, `{"sha256": ..., "size": ...}`. Where it is stored is not for a pod to say.
    """

    job: str
    kind: str
    value: Any


class Stored(NamedTuple):
    """What is said of a result that is in the object store: by this it is known again."""

    sha256: str
    size: int


def stored_in(envelope: Envelope) -> Stored | None:
    """What it says of a stored result; None when it says nothing of one that makes sense."""
    said: object = envelope.value
    if envelope.kind != STORED or not isinstance(said, dict):
        return None
    value = cast("dict[str, object]", said)
    digest, size = value.get("sha256"), value.get("size")
    if (
        not isinstance(digest, str)
        or len(digest) != _DIGEST_CHARS
        or not isinstance(size, int)
        or isinstance(size, bool)
        or size < 0
    ):
        return None
    return Stored(digest, size)


def seal(envelope: Envelope) -> str:
    """The line.

    Raises:
        ValueError, TypeError: the value is none that JSON can hold.
    """
    text = json.dumps(envelope._asdict(), separators=(",", ":"), sort_keys=True, allow_nan=False)
    return f"{_MARK} {sha256(text.encode()).hexdigest()} {text}"


def unseal(message: str) -> Envelope | None:
    """What the last line of a message says; None for anything else, a line that was cut among it."""
    mark, _, rest = message.strip().rpartition("\n")[2].partition(" ")
    digest, _, text = rest.partition(" ")
    if mark != _MARK or len(digest) != _DIGEST_CHARS or sha256(text.encode()).hexdigest() != digest:
        return None
    try:
        read = json.loads(text)
        return Envelope(str(read["job"]), str(read["kind"]), read["value"])
    except (ValueError, TypeError, KeyError):
        return None
