"""What an attempt leaves for the next one, in the heartbeat details: which Job it is about, and what has been used up.

Only an answer moves the number on, in the transaction that writes the answer. An attempt that was lost leaves it as it
is, so the next one makes the same name and adopts.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where an activity is.

    Attributes:
        deployment, namespace: where its Jobs are.
        number: of the Job that the current attempt is about, from 1.
        infrastructure: how many attempts have failed by nobody's fault.
        is_sent: whether it is known that the Job was there.
        tokens: digests of the tokens that its pod may show; each attempt that sent the Job drew one.
        beat_us: when the pod last gave a heartbeat; 0 for never.
        user: what the pod said in its last heartbeat.
    """

    deployment: str
    namespace: str
    number: int = 1
    infrastructure: int = 0
    is_sent: bool = False
    tokens: tuple[str, ...] = ()
    beat_us: int = 0
    user: Any = None

    def dump(self) -> dict[str, Any]:
        """As heartbeat details."""
        own = msgspec.to_builtins(self)
        return {"kubernetes": own, "details": own.pop("user")}

    def after(self, *, is_infrastructure: bool) -> Progress:
        """What the next attempt reads when this one has an answer."""
        used = self.infrastructure + is_infrastructure
        return msgspec.structs.replace(
            self, number=self.number + 1, infrastructure=used, is_sent=False, tokens=(), beat_us=0
        )


class _Details(msgspec.Struct):
    kubernetes: Progress
    details: Any = None


def progress_in(details: object) -> Progress | None:
    """What heartbeat details say; None when they are not of a Job's attempt."""
    try:
        read = msgspec.convert(details, _Details)
    except msgspec.ValidationError:
        return None
    return msgspec.structs.replace(read.kubernetes, user=read.details)
