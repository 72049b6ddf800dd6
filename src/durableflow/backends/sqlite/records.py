"""Rows of `instances` as records, one or a list of them, and the questions of those who only look."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from durableflow.backends.base import Ending, HistoryRow, InstanceRecord, Query
from durableflow.backends.rows import RECORD_COLUMNS
from durableflow.model.status import TERMINAL, Status

RECORD_SQL: Final = f"select {RECORD_COLUMNS} from instances where id = ?"
HISTORY_SQL: Final = (
    "select instance, first_seq, at_us, events from history where instance = ? and first_seq >= coalesce("
    "(select max(first_seq) from history where instance = ? and first_seq <= ?), 0) order by first_seq limit ?"
)
LAST_ROW_SQL: Final = (
    "select instance, first_seq, at_us, events from history where instance = ? order by first_seq desc limit 1"
)


TERMINAL_OR_STALLED: Final = ", ".join(repr(each.value) for each in sorted(TERMINAL | {Status.STALLED}))


def lenient_text(data: bytes) -> str:
    """Text as it is stored; what is not UTF-8 shows as U+FFFD, so that one spoilt row does not hide all others."""
    return data.decode("utf-8", "replace")


def as_record(row: Sequence[Any]) -> InstanceRecord:
    """The record of a row of `RECORD_COLUMNS`.

    One that cannot be read is STALLED and says so, so that it hurts its own instance only. Its history is the truth:
    when the instance is next loaded, what it says of the status is written again. Tags that cannot be read are none:
    they are here to be shown, and searched for in a table of their own.
    """
    (
        instance_id,
        workflow,
        version,
        status,
        created_us,
        finished_us,
        wake_us,
        tags,
        custom_status,
        stall,
        base_seq,
        parent,
    ) = row
    try:
        if type(version) is not int:
            raise ValueError(f"version {version!r} is no number")
        if type(created_us) is not int:
            raise ValueError(f"time of making {created_us!r} is no number")
        if type(base_seq) is not int:
            raise ValueError(f"first event that replay needs {base_seq!r} is no number")
        if not _is_time(wake_us):
            raise TypeError(f"time of waking {wake_us!r} is no number")
        known_status = Status(status)
    except (ValueError, TypeError) as error:
        version = version if type(version) is int else 0
        created_us = created_us if type(created_us) is int else 0
        known_status, finished_us = Status.STALLED, None
        base_seq = base_seq if type(base_seq) is int else 1
        stall = f"its row in the table of instances cannot be read: {error}"
    return InstanceRecord(
        instance_id,
        workflow,
        version,
        known_status,
        created_us,
        finished_us,
        wake_us,
        _tags(tags) if tags else {},
        custom_status,
        stall,
        base_seq,
        parent,
    )


ENDS_SQL: Final = (
    f"select a.value, {', '.join(f'i.{name}' for name in RECORD_COLUMNS.split(', '))}, "
    "h.instance, h.first_seq, h.at_us, h.events "
    "from json_each(?) a left join instances i on i.id = a.value left join history h on h.instance = i.id "
    f"and i.status <> '{Status.STALLED.value}' "
    "and h.first_seq = (select max(first_seq) from history where instance = i.id) "
    f"where i.id is null or i.status in ({TERMINAL_OR_STALLED})"
)
"""Of instances whose ids are a JSON text: see `Backend.ends`."""


def as_ending(row: Sequence[Any]) -> Ending:
    """What a row of `ENDS_SQL` says."""
    width = len(RECORD_COLUMNS.split(", ")) + 1
    record = None if row[1] is None else as_record(row[1:width])
    return Ending(row[0], record, None if row[width] is None else HistoryRow(*row[width:]))


def _is_time(value: object) -> bool:
    return value is None or isinstance(value, (int, float))


def _tags(text: str | bytes) -> dict[str, str]:
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except (ValueError, TypeError):
        return {}


def read_record(connection: sqlite3.Connection, instance_id: str) -> InstanceRecord | None:
    """The record of an instance, if there is one."""
    row = connection.execute(RECORD_SQL, (instance_id,)).fetchone()
    return None if row is None else as_record(row)


def list_sql(query: Query) -> tuple[str, list[object]]:
    """The question for the records that match, and its parameters."""
    conditions: list[str] = []
    parameters: list[object] = []

    def where(condition: str, *values: object) -> None:
        conditions.append(condition)
        parameters.extend(values)

    if query.statuses:
        where(f"status in ({', '.join('?' * len(query.statuses))})", *sorted(s.value for s in query.statuses))
    if query.workflow is not None:
        where("workflow = ?", query.workflow)
    if query.id_prefix:
        where("substr(id, 1, ?) = ?", len(query.id_prefix), query.id_prefix)
    if query.created_from_us is not None:
        where("created_us >= ?", query.created_from_us)
    if query.created_before_us is not None:
        where("created_us < ?", query.created_before_us)
    if query.parent is not None:
        where("parent = ?", query.parent)
    if query.after is not None:
        where("(created_us, id) < (?, ?)", *query.after)
    for key, value in query.tags.items():
        where("id in (select instance from tags where key = ? and value = ?)", key, value)
    clause = f"where {' and '.join(conditions)} " if conditions else ""
    sql = f"select {RECORD_COLUMNS} from instances {clause}order by created_us desc, id desc limit ?"
    return sql, [*parameters, query.limit]


def finished_sql(
    statuses: Collection[Status], before_us: int, after: tuple[int, str], limit: int
) -> tuple[str, list[object]]:
    """The question of `Backend.finished`, and its parameters."""
    wanted = sorted(status.value for status in statuses)
    sql = (
        "select created_us, id from instances where (created_us, id) > (?, ?) and finished_us < ? "
        f"and status in ({', '.join('?' * len(wanted))}) order by created_us, id limit ?"
    )
    return sql, [*after, before_us, *wanted, limit]
