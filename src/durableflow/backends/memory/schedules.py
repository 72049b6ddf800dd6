"""Schedules in memory."""

from __future__ import annotations

from durableflow.backends.base import Lease, ScheduleRow, ScheduleWrite
from durableflow.backends.memory.rows import Rows


class MemorySchedules(Rows):
    """The part of `MemoryBackend` that keeps schedules."""

    def __init__(self) -> None:
        super().__init__()
        self._schedules: dict[str, ScheduleRow] = {}

    async def write_schedule(self, write: ScheduleWrite, lease: Lease | None = None) -> bool:
        """See `Backend.write_schedule`."""
        self._check_seal()
        if lease is not None:
            self._check(lease)
        known = self._schedules.get(write.id)
        if (0 if known is None else known.revision) != write.revision:
            return False
        self._schedules.pop(write.id, None)
        if write.row is not None:
            self._schedules[write.id] = write.row
        for message in write.messages:
            self._send_one(message)
        self._notify()
        return True

    async def schedule(self, schedule_id: str) -> ScheduleRow | None:
        """See `Backend.schedule`."""
        return self._schedules.get(schedule_id)

    async def list_schedules(self, after: str, limit: int) -> list[ScheduleRow]:
        """See `Backend.list_schedules`."""
        return [self._schedules[each] for each in sorted(self._schedules) if each > after][:limit]

    async def due_schedules(self, after: tuple[int, str], limit: int) -> list[ScheduleRow]:
        """See `Backend.due_schedules`."""
        found = [(row.due_us, row.id) for row in self._schedules.values() if row.due_us is not None]
        return [self._schedules[schedule_id] for _, schedule_id in sorted(key for key in found if key > after)[:limit]]
