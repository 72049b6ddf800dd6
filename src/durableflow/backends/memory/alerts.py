"""Alerts in memory, their notices, takeovers, and instances of which nothing was heard."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from durableflow.backends.base import Lease, QuietInstance
from durableflow.backends.memory.rows import Rows
from durableflow.model.alert import NOTICES_MAX, AlertChanges, AlertKind, AlertRecord, Notice, Takeover
from durableflow.model.status import Status

_TAKEOVERS_MAX: Final = 1_000


class MemoryAlerts(Rows):
    """The part of `MemoryBackend` that keeps alerts."""

    def __init__(self) -> None:
        super().__init__()
        self._alerts: dict[tuple[AlertKind, str], AlertRecord] = {}
        self._notices: dict[int, Notice] = {}
        self._last_notice = 0
        self._takeovers: list[Takeover] = []

    async def alerts(self) -> list[AlertRecord]:
        """See `Backend.alerts`."""
        return [self._alerts[key] for key in sorted(self._alerts)]

    async def change_alerts(self, lease: Lease, changes: AlertChanges) -> None:
        """See `Backend.change_alerts`."""
        self._check(lease)
        for record in changes.kept:
            self._alerts[record.key] = record
        for key in changes.resolved:
            self._alerts.pop(key, None)
        for number in changes.settled:
            self._notices.pop(number, None)
        for number, attempts, due_us in changes.delayed:
            if number in self._notices:
                self._notices[number] = self._notices[number]._replace(attempts=attempts, due_us=due_us)
        for sink, body, due_us in changes.notices:
            number = self._last_notice = self._last_notice + 1
            self._notices[number] = Notice(number, sink, body, 0, due_us)
        while len(self._notices) > NOTICES_MAX:
            del self._notices[next(iter(self._notices))]

    async def notices(self, sink: str, limit: int) -> list[Notice]:
        """See `Backend.notices`."""
        return [notice for notice in self._notices.values() if notice.sink == sink][:limit]

    async def takeovers(self, since_us: int) -> list[Takeover]:
        """See `Backend.takeovers`."""
        return [takeover for takeover in self._takeovers if takeover.at_us >= since_us]

    def _note_takeover(self, takeover: Takeover) -> None:
        """Remember it, and no more than the latest thousand."""
        self._takeovers = [*self._takeovers[-_TAKEOVERS_MAX + 1 :], takeover]

    async def quiet(self, before_us: int, limit: int, lease: Lease | None = None) -> list[QuietInstance]:  # noqa: ARG002  # it owns all
        """See `Backend.quiet`."""
        found: list[QuietInstance] = []
        for wake_us, instance_id in self._wakes[: bisect_left(self._wakes, (before_us, ""))]:
            record, rows = self._instances[instance_id].record, self._instances[instance_id].rows
            recorded_us = rows[-1].at_us if rows else record.created_us
            if record.status is Status.STALLED or recorded_us < before_us:
                quiet = QuietInstance(
                    instance_id, record.workflow, record.status, wake_us, recorded_us, record.stall_reason
                )
                found.append(quiet)
        return sorted(found, key=lambda each: (each.recorded_us, each.id))[:limit]
