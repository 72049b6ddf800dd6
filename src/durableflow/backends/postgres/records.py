"""Rows of `instances` as records, one or a list of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from durableflow.backends.base import InstanceRecord, Query
from durableflow.backends.rows import RECORD_COLUMNS
from durableflow.model.status import Status

_PLACES: Final = ", ".join(f"${number}" for number in range(1, len(RECORD_COLUMNS.split(", ")) + 1))
INSERT_RECORD: Final = f"insert into {{s}}.instances ({RECORD_COLUMNS}) values ({_PLACES})"
INSERT_ROW: Final = """
    insert into {s}.history (instance_number, first_seq, at_us, events)
        select number, $2::bigint, $3::bigint, $4::bytea from {s}.instances where id = $1
"""
"""Of a `HistoryRow`."""


def as_record(row: Sequence[Any]) -> InstanceRecord:
    """The record of a row of `RECORD_COLUMNS`; one whose status nobody knows is STALLED, and says so.

    Tags that are none are not there: they are here to be shown, and searched for where they are.
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
    known = Status.__members__.get(status)
    if known is None:
        known, finished_us = Status.STALLED, None
        stall = f"its row in the table of instances cannot be read: {status!r} is no status"
    return InstanceRecord(
        instance_id,
        workflow,
        version,
        known,
        created_us,
        finished_us,
        wake_us,
        _tags(tags) if tags else {},
        custom_status,
        stall,
        base_seq,
        parent,
    )


def _tags(text: str) -> dict[str, str]:
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.ValidationError:
        return {}


class Conditions:
    """The `where` of a question, put together from what is asked for."""

    def __init__(self) -> None:
        self._conditions: list[str] = []
        self.parameters: list[object] = []

    def add(self, condition: str, *values: object) -> None:
        """`condition` has `{}` where a value goes."""
        first = len(self.parameters) + 1
        self._conditions.append(condition.format(*(f"${number}" for number in range(first, first + len(values)))))
        self.parameters.extend(values)

    def parameter(self, value: object) -> str:
        """The name of one more parameter."""
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def __str__(self) -> str:
        return f"where {' and '.join(self._conditions)}" if self._conditions else ""


def list_sql(query: Query) -> tuple[str, list[object]]:
    """The question for the records that match, and its parameters."""
    where = Conditions()
    if query.statuses:
        where.add("status = any({}::text[])", sorted(status.value for status in query.statuses))
    if query.workflow is not None:
        where.add("workflow = {}", query.workflow)
    if query.id_prefix:
        where.add("starts_with(id, {})", query.id_prefix)
    if query.created_from_us is not None:
        where.add("created_us >= {}", query.created_from_us)
    if query.created_before_us is not None:
        where.add("created_us < {}", query.created_before_us)
    if query.parent is not None:
        where.add("parent = {}", query.parent)
    if query.after is not None:
        where.add("(created_us, id) < ({}, {})", *query.after)
    if query.tags:
        where.add("tags @> {}::jsonb", msgspec.json.encode(query.tags).decode())
    limit = where.parameter(query.limit)
    sql = f"select {RECORD_COLUMNS} from {{s}}.instances {where} order by created_us desc, id desc limit {limit}"
    return sql, where.parameters
