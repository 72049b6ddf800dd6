"""Schedules in their table."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from durableflow.backends.base import Lease, ScheduleRow, ScheduleWrite
from durableflow.backends.sqlite.commit import check_lease
from durableflow.backends.sqlite.inbox import send_one

_COLUMNS: Final = "id, revision, due_us, data"
SCHEDULE_SQL: Final = f"select {_COLUMNS} from schedules where id = ?"
SCHEDULES_SQL: Final = f"select {_COLUMNS} from schedules where id > ? order by id limit ?"
DUE_SCHEDULES_SQL: Final = (
    f"select {_COLUMNS} from schedules where due_us is not null and (due_us, id) > (?, ?) order by due_us, id limit ?"
)


def write_schedule(connection: sqlite3.Connection, write: ScheduleWrite, lease: Lease | None) -> bool:
    """See `Backend.write_schedule`; in a transaction of the caller's."""
    execute = connection.execute
    if lease is not None:
        check_lease(connection, lease)
    known = execute("select revision from schedules where id = ?", (write.id,)).fetchone()
    if (0 if known is None else known[0]) != write.revision:
        return False
    if write.row is None:
        execute("delete from schedules where id = ?", (write.id,))
    else:
        execute(f"insert or replace into schedules ({_COLUMNS}) values (?, ?, ?, ?)", write.row)
    for message in write.messages:
        send_one(connection, message)
    return True


def as_rows(found: Sequence[Any]) -> list[ScheduleRow]:
    """The rows of a question for schedules; one whose time cannot be read is due, so that it gets another."""
    return [
        ScheduleRow(row_id, revision, due_us if isinstance(due_us, int | None) else 0, data)
        for row_id, revision, due_us, data in found
    ]
