"""Looking at what is in memory: records, histories, lists."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection

from durableflow.backends.base import HistoryRow, InstanceRecord, Query
from durableflow.backends.memory.rows import Rows, first_seq
from durableflow.model.status import Status


class MemoryReader(Rows):
    """The part of `MemoryBackend` that answers those who only look."""

    async def record(self, instance_id: str) -> InstanceRecord | None:
        """See `Backend.record`."""
        instance = self._instances.get(instance_id)
        return None if instance is None else instance.record

    async def history(self, instance_id: str, from_seq: int, limit: int) -> list[HistoryRow]:
        """See `Backend.history`."""
        instance = self._instances.get(instance_id)
        if instance is None:
            return []
        rows = instance.rows
        first = max(0, bisect_left(rows, from_seq + 1, key=first_seq) - 1)
        return rows[first : first + limit]

    async def last_row(self, instance_id: str) -> HistoryRow | None:
        """See `Backend.last_row`."""
        instance = self._instances.get(instance_id)
        return instance.rows[-1] if instance is not None and instance.rows else None

    async def list_records(self, query: Query) -> list[InstanceRecord]:
        """See `Backend.list_records`."""
        matching = [i.record for i in self._instances.values() if _matches(i.record, query)]
        matching.sort(key=lambda record: (record.created_us, record.id), reverse=True)
        return matching[: query.limit]

    async def finished(
        self, statuses: Collection[Status], before_us: int, after: tuple[int, str], limit: int
    ) -> list[tuple[int, str]]:
        """See `Backend.finished`."""
        found = [
            (record.created_us, record.id)
            for record in (instance.record for instance in self._instances.values())
            if record.status in statuses
            and record.finished_us is not None
            and record.finished_us < before_us
            and (record.created_us, record.id) > after
        ]
        return sorted(found)[:limit]


def _matches(record: InstanceRecord, query: Query) -> bool:
    return (
        (not query.statuses or record.status in query.statuses)
        and query.workflow in (None, record.workflow)
        and record.id.startswith(query.id_prefix or "")
        and (query.created_from_us is None or record.created_us >= query.created_from_us)
        and (query.created_before_us is None or record.created_us < query.created_before_us)
        and query.parent in (None, record.parent)
        and (query.after is None or (record.created_us, record.id) < query.after)
        and all(record.tags.get(key) == value for key, value in query.tags.items())
    )
