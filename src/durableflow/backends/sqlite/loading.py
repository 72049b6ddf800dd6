"""Instances as a whole, many at once, in one row; and when they want to be loaded.

As with a commit (see `commit.py`), each row that is fetched is a step, and beside a thread that computes each step can
cost 5 ms: 200 instances of five rows took half a second. So SQLite gathers the rows of all tables into lists of JSON,
bytes as hexadecimal digits. What is not what it should be, or too much, is asked for row by row as it is:
whoever takes the instance over must see exactly what is stored, to stall it with a reason.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from durableflow.backends.base import Heartbeat, HistoryRow, LoadedInstance, Message
from durableflow.backends.rows import RECORD_COLUMNS
from durableflow.backends.sqlite.records import as_record

_GATHERED_ROWS_MAX: Final = 10_000
"""Of a table with more rows than that for the instances asked for, the rows are fetched one by one."""

_GATHERED_BYTES_MAX: Final = 4096
"""Larger values are fetched on their own, so that the lists of a table stay below 100 MB."""

_NOT_GATHERED: Final = 0
"""Stands in a list for a value that is fetched on its own."""


class _Table(NamedTuple):
    """What is asked of a table: columns, of which the first `key_columns` are the key and `blob` holds bytes."""

    name: str
    columns: tuple[str, ...]
    key_columns: int
    blob: int
    instance: str = "instance"
    source: str | None = None
    """What is asked, when it is not all of the table."""

    @property
    def _asked(self) -> str:
        return f"from {self.source or self.name} where {self.instance} in (select value from json_each(?))"

    @property
    def _order(self) -> str:
        return "order by " + ", ".join(self.columns[: self.key_columns])

    @property
    def _fits(self) -> str:
        blob = self.columns[self.blob]
        return f"(typeof({blob}) = 'blob' and length({blob}) <= {_GATHERED_BYTES_MAX})"

    def one_by_one(self) -> str:
        """The rows, in the order of their keys."""
        return f"select {', '.join(self.columns)} {self._asked} {self._order}"

    def gathered(self) -> str:
        """One value: the list of all rows, in no certain order."""
        blob = self.columns[self.blob]
        digits = f"case when {self._fits} then hex({blob}) when {blob} is not null then {_NOT_GATHERED} end"
        values = ", ".join(digits if column == blob else column for column in self.columns)
        return (
            f"select json_group_array(json_array({values})) "
            f"from (select {', '.join(self.columns)} {self._asked} limit {_GATHERED_ROWS_MAX})"
        )

    def not_gathered(self) -> str:
        """Keys and values of those that were left out of the list."""
        keys = ", ".join(self.columns[: self.key_columns])
        blob = self.columns[self.blob]
        return f"select {keys}, {blob} {self._asked} and {blob} is not null and not {self._fits}"


_RECORD: Final = tuple(RECORD_COLUMNS.split(", "))
_SINCE_BASE: Final = "instances cross join history on history.instance = instances.id and first_seq >= base_seq"
_TABLES: Final = (
    _Table("instances", _RECORD, 1, _RECORD.index("custom_status"), "id"),
    _Table("history", ("instance", "first_seq", "at_us", "events"), 2, 3, "id", _SINCE_BASE),
    _Table("inbox", ("number", "instance", "data"), 1, 2),
    _Table("heartbeats", ("instance", "task", "attempt", "details"), 2, 3),
)
_ALL_GATHERED: Final = f"select {', '.join(f'({table.gathered()})' for table in _TABLES)}"

_LATEST_US: Final = 2**63 - 1
"""Behind it are texts and bytes, which a file may hold and no clock comes to."""

_Rows = Sequence[Sequence[Any]]


def load(connection: sqlite3.Connection, instance_ids: Sequence[str]) -> list[LoadedInstance]:
    """These instances, whole, in the order of the ids; unknown ones are left out."""
    asked = (msgspec.json.encode(instance_ids).decode(),)
    try:
        tables = _gathered(connection, asked)
    except (sqlite3.Error, msgspec.DecodeError, LookupError, TypeError):
        # Keys that are bytes, numbers that are text, text that is not UTF-8, rows that are gone between two questions.
        tables = [connection.execute(table.one_by_one(), asked).fetchall() for table in _TABLES]
    records, rows, messages, heartbeats = tables
    loaded = {row[0]: LoadedInstance(as_record(row), [], [], []) for row in records}
    for row in rows:
        if row[0] in loaded:
            loaded[row[0]].rows.append(HistoryRow(*row))
    for row in messages:
        if row[1] in loaded:
            loaded[row[1]].messages.append(Message(*row))
    for row in heartbeats:
        if row[0] in loaded:
            loaded[row[0]].heartbeats.append(Heartbeat(*row))
    return [loaded[instance_id] for instance_id in instance_ids if instance_id in loaded]


def due(connection: sqlite3.Connection, after: tuple[int, str], until_us: int, limit: int) -> list[tuple[int, str]]:
    """See `Backend.due`."""
    return connection.execute(
        "select wake_us, id from instances where (wake_us, id) > (?, ?) and wake_us < ? order by wake_us, id limit ?",
        (*after, until_us, limit),
    ).fetchall()


def next_wake(connection: sqlite3.Connection, from_us: int) -> int | None:
    """See `Backend.next_wake`."""
    row = connection.execute(
        f"select min(wake_us) from instances where wake_us between ? and {_LATEST_US}", (from_us,)
    ).fetchone()
    return None if row is None else row[0]


def _gathered(connection: sqlite3.Connection, asked: tuple[str]) -> list[_Rows]:
    lists = connection.execute(_ALL_GATHERED, asked * len(_TABLES)).fetchone()
    return [_rows(connection, asked, table, text) for table, text in zip(_TABLES, lists, strict=True)]


def _rows(connection: sqlite3.Connection, asked: tuple[str], table: _Table, text: str) -> _Rows:
    rows: list[list[Any]] = msgspec.json.decode(text)
    if len(rows) == _GATHERED_ROWS_MAX:
        return connection.execute(table.one_by_one(), asked).fetchall()
    rows.sort()  # by their keys; the order of a gathered list is SQLite's own, and it happens to be this one
    blob = table.blob
    left_out: list[list[Any]] = []
    for row in rows:
        digits = row[blob]
        if digits.__class__ is str:
            row[blob] = bytes.fromhex(digits)
        elif digits is not None:
            left_out.append(row)
    if left_out:
        keys = table.key_columns
        found = {row[:keys]: row[keys] for row in connection.execute(table.not_gathered(), asked)}
        for row in left_out:
            row[blob] = found[tuple(row[:keys])]
    return rows
