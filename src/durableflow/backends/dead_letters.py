"""Dead letters: what failed for good, kept in a store until somebody has looked at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec


class DeadLetter(NamedTuple):
    """Something that failed for good, and waits for somebody to look at it.

    Attributes:
        task: the number of an activity that is exhausted; 0 for the instance itself, which failed or is stalled.
        kind: `"activity"`, `"failed"` or `"stalled"`.
        name: of the activity or the workflow.
        attempts: how many were made; 0 for an instance.
        type_name: of the failure; for a stall, empty.
    """

    instance_id: str
    task: int
    kind: str
    name: str
    at_us: int
    attempts: int
    type_name: str
    message: str


class DeadLetterQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters to list, the latest first; `after` is the (at_us, instance, task) of the last one before."""

    kind: str | None = None
    name: str | None = None
    type_name: str | None = None
    instance_id: str | None = None
    after: tuple[int, str, int] | None = None
    limit: int = 100


class DeadLetterStore(Protocol):
    """The part of a backend that keeps the dead letters of its commits; each method is one transaction."""

    async def dead_letters(self, query: DeadLetterQuery) -> list[DeadLetter]:
        """Those that match, the latest first."""
        ...

    async def discard(self, letters: Sequence[tuple[str, int]]) -> int:
        """Remove dead letters, named by instance and task; how many there were."""
        ...
