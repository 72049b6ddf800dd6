"""Instances as a whole, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from durableflow.backends.base import Heartbeat, HistoryRow, LoadedInstance, Message
from durableflow.backends.postgres.database import Connection
from durableflow.backends.postgres.records import as_record
from durableflow.backends.rows import RECORD_COLUMNS

_RECORDS: Final = f"select {RECORD_COLUMNS}, owner from {{s}}.instances where id = any($1::text[])"
_ROWS: Final = """
    select a.id, h.first_seq, h.at_us, h.events
    from unnest($1::text[]) as a(id) join {s}.instances i on i.id = a.id
        join lateral (
            select * from {s}.history where instance_number = i.number and first_seq >= i.base_seq offset 0
        ) h on true
    order by a.id, h.first_seq
"""
_MESSAGES: Final = "select number, instance, data from {s}.inbox where instance = any($1::text[]) order by number"
_BEATS: Final = """
    select instance, task, attempt, details from {s}.heartbeats where instance = any($1::text[]) order by instance, task
"""


async def load(
    connection: Connection, schema: str, instance_ids: Sequence[str], worker_id: int | None
) -> list[LoadedInstance]:
    """These instances, whole, in the order of the ids; unknown ones are left out.

    In a transaction that sees one moment: a message that was taken meanwhile is in the history.
    """
    loaded: dict[str, LoadedInstance] = {}
    for row in await connection.fetch(_RECORDS.format(s=schema), instance_ids):
        *columns, owner = row
        is_ours = worker_id is None or owner == worker_id
        loaded[row[0]] = LoadedInstance(as_record(columns), [], [], [], is_ours)
    if not loaded:
        return []
    for row in await connection.fetch(_ROWS.format(s=schema), instance_ids):
        if row[0] in loaded:
            loaded[row[0]].rows.append(HistoryRow(*row))
    for row in await connection.fetch(_MESSAGES.format(s=schema), instance_ids):
        if row[1] in loaded:
            loaded[row[1]].messages.append(Message(*row))
    for row in await connection.fetch(_BEATS.format(s=schema), instance_ids):
        if row[0] in loaded:
            loaded[row[0]].heartbeats.append(Heartbeat(*row))
    return [loaded[instance_id] for instance_id in instance_ids if instance_id in loaded]
