"""Alerts in a store, their notices, and what they are made of: for people who look after the store."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from durableflow.backends.records import Lease
from durableflow.model.alert import AlertChanges, AlertRecord, Notice, Takeover
from durableflow.model.status import Status


class QuietInstance(NamedTuple):
    """An instance of which nothing was recorded since `recorded_us`, or which is STALLED."""

    id: str
    workflow: str
    status: Status
    wake_us: int
    recorded_us: int
    stall_reason: str | None


class AlertStore(Protocol):
    """The part of a backend that keeps alerts; each method is one transaction."""

    async def alerts(self) -> list[AlertRecord]:
        """Those that are not resolved, by kind and subject."""
        ...

    async def change_alerts(self, lease: Lease, changes: AlertChanges) -> None:
        """Make all of `changes`; of the notices that wait, the latest `NOTICES_MAX` stay.

        Raises:
            LeaseLost: nothing was written.
        """
        ...

    async def notices(self, sink: str, limit: int) -> list[Notice]:
        """The oldest that wait to be delivered to `sink`, in order; their numbers are never used again."""
        ...

    async def takeovers(self, since_us: int) -> list[Takeover]:
        """Each `acquire` that succeeded since then, in order; older ones than the latest 1,000 may be forgotten."""
        ...

    async def quiet(self, before_us: int, limit: int, lease: Lease | None = None) -> list[QuietInstance]:
        """Active instances that were due before `before_us` and of which nothing was recorded since, and STALLED ones.

        Those of which nothing was recorded for longest come first; of those without a history, their making counts.

        Args:
            lease: only those that this worker owns; None for all.
        """
        ...
