"""Doing the same to many instances: which actions there are, to whom they apply, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from durableflow.model import events as ev
from durableflow.model.status import TERMINAL, Status

BulkAction: TypeAlias = Literal["suspend", "resume", "terminate", "cancel", "purge", "rewind", "restart"]

LISTED_MAX: Final = 1_000
"""Of so many a report holds the ids."""

_ACTIVE: Final = frozenset(Status) - TERMINAL


class Means(NamedTuple):
    """How an action is done.

    Attributes:
        statuses: of the instances to which it applies; others are passed by unless the caller asks for their status.
        message: makes the message that the action is, of the reason; None where a method of the client does it.
    """

    statuses: frozenset[Status]
    message: Callable[[str], ev.Observation] | None = None


def _resumed(_: str) -> ev.InstanceResumed:
    return ev.InstanceResumed()


ACTIONS: Final[Mapping[BulkAction, Means]] = {
    "suspend": Means(_ACTIVE - {Status.SUSPENDED}, ev.InstanceSuspended),
    "resume": Means(frozenset({Status.SUSPENDED}), _resumed),
    "terminate": Means(_ACTIVE, ev.InstanceTerminated),
    "cancel": Means(_ACTIVE, ev.CancelRequested),
    "purge": Means(TERMINAL),
    "rewind": Means(frozenset({Status.FAILED})),
    "restart": Means(TERMINAL),
}


class BulkReport(msgspec.Struct, frozen=True):
    """What `bulk` did, or with `dry_run` would do.

    Attributes:
        matched: how many instances the filter chose.
        done: for how many the action was done; 0 in a dry run.
        failed: for how many it was refused.
        instance_ids: the first thousand of those that matched, newest first.
        failures: of the first thousand that failed, why.
    """

    action: BulkAction
    dry_run: bool
    matched: int
    done: int
    failed: int
    instance_ids: Sequence[str]
    failures: Mapping[str, str]


class Tally:
    """Counts what comes of a bulk action."""

    def __init__(self, action: BulkAction, *, dry_run: bool) -> None:
        self._action: BulkAction = action
        self._dry_run = dry_run
        self._matched = self._done = self._failed = 0
        self._ids: list[str] = []
        self._failures: dict[str, str] = {}

    def match(self, instance_ids: Sequence[str]) -> None:
        """These were chosen."""
        self._matched += len(instance_ids)
        self._ids += instance_ids[: LISTED_MAX - len(self._ids)]

    def end(self, instance_id: str, error: BaseException | None) -> None:
        """What came of one."""
        if error is None:
            self._done += 1
            return
        self._failed += 1
        if len(self._failures) < LISTED_MAX:
            self._failures[instance_id] = str(error)

    def report(self) -> BulkReport:
        """All of it so far."""
        return BulkReport(
            self._action, self._dry_run, self._matched, self._done, self._failed, self._ids, self._failures
        )
