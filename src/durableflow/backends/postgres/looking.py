"""Reading: records, histories, lists, and who has ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from durableflow.backends.base import Ending, HistoryRow, InstanceRecord, Query
from durableflow.backends.postgres.records import as_record, list_sql
from durableflow.backends.postgres.store import Store
from durableflow.backends.rows import RECORD_COLUMNS
from durableflow.model.status import Status

_ROWS: Final = """
    select i.id, h.first_seq, h.at_us, h.events
    from {s}.instances i join {s}.history h on h.instance_number = i.number where i.id = $1
"""


class Looking(Store):
    """The part of the backend that answers questions."""

    async def record(self, instance_id: str) -> InstanceRecord | None:
        """See `Backend.record`."""
        rows = await self._read(f"select {RECORD_COLUMNS} from {{s}}.instances where id = $1", instance_id)
        return as_record(rows[0]) if rows else None

    async def history(self, instance_id: str, from_seq: int, limit: int) -> list[HistoryRow]:
        """See `Backend.history`."""
        rows = await self._read(
            f"{_ROWS} and h.first_seq >= coalesce((select max(first_seq) from {{s}}.history "
            "where instance_number = i.number and first_seq <= $2), 0) order by h.first_seq limit $3",
            instance_id,
            from_seq,
            limit,
        )
        return [HistoryRow(*row) for row in rows]

    async def last_row(self, instance_id: str) -> HistoryRow | None:
        """See `Backend.last_row`."""
        rows = await self._read(f"{_ROWS} order by h.first_seq desc limit 1", instance_id)
        return HistoryRow(*rows[0]) if rows else None

    async def list_records(self, query: Query) -> list[InstanceRecord]:
        """See `Backend.list_records`."""
        sql, parameters = list_sql(query)
        return [as_record(row) for row in await self._read(sql, *parameters)]

    async def finished(
        self, statuses: Collection[Status], before_us: int, after: tuple[int, str], limit: int
    ) -> list[tuple[int, str]]:
        """See `Backend.finished`."""
        rows = await self._read(
            "select created_us, id from {s}.instances where (created_us, id) > ($1, $2) and finished_us < $3 "
            "and status = any($4::text[]) order by created_us, id limit $5",
            *after,
            before_us,
            sorted(status.value for status in statuses),
            limit,
        )
        return [(created_us, instance_id) for created_us, instance_id in rows]

    async def ends(self, instance_ids: Sequence[str]) -> list[Ending]:
        """See `Backend.ends`."""
        rows = await self._read(
            f"select a.id, {', '.join(f'i.{each}' for each in RECORD_COLUMNS.split(', '))}, "
            "i.id, h.first_seq, h.at_us, h.events "
            "from unnest($1::text[]) as a(id) left join {s}.instances i on i.id = a.id left join lateral ("
            "select * from {s}.history where instance_number = i.number and i.finished_us is not null "
            "order by first_seq desc limit 1) h on true "
            "where i.id is null or i.finished_us is not null or i.status = $2",
            instance_ids,
            Status.STALLED.value,
        )
        width = len(RECORD_COLUMNS.split(", ")) + 1
        return [
            Ending(
                row[0],
                as_record(row[1:width]) if row[1] is not None else None,
                HistoryRow(*row[width:]) if row[-1] is not None else None,
            )
            for row in map(tuple, rows)
        ]

    async def purge(self, instance_ids: Sequence[str]) -> list[str]:
        """See `Backend.purge`."""
        rows = await self._write("select a.id from unnest($1::text[]) as a(id) where {s}.purge_one(a.id)", instance_ids)
        return [instance_id for (instance_id,) in rows]
