"""Schedules in their table."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from durableflow.backends.base import Lease, ScheduleRow, ScheduleWrite
from durableflow.backends.sqlite.commit import lease_lost
from durableflow.backends.sqlite.inbox import send_one

SCHEDULE_COLUMNS: Final = "id, revision, due_us, data"


def write_schedule(connection: sqlite3.Connection, write: ScheduleWrite, lease: Lease | None) -> bool:
    """See `Backend.write_schedule`; in a transaction of the caller's."""
    execute = connection.execute
    if lease is not None and execute("select 1 from workers where id = ?", (lease.worker_id,)).fetchone() is None:
        raise lease_lost(lease)
    known = execute("select revision from schedules where id = ?", (write.id,)).fetchone()
    if (0 if known is None else known[0]) != write.revision:
        return False
    if write.row is None:
        execute("delete from schedules where id = ?", (write.id,))
    else:
        execute(f"insert or replace into schedules ({SCHEDULE_COLUMNS}) values (?, ?, ?, ?)", write.row)
    for message in write.messages:
        send_one(connection, message)
    return True


def as_rows(found: Sequence[Any]) -> list[ScheduleRow]:
    """The rows of a question for `SCHEDULE_COLUMNS`."""
    return [ScheduleRow(*row) for row in found]
