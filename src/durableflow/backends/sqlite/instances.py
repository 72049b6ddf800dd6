"""Making instances and removing them, whole, each inside a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from durableflow.backends.base import NewInstance
from durableflow.backends.rows import tags_text
from durableflow.backends.sqlite.records import read_record
from durableflow.backends.sqlite.tasks import write_tasks
from durableflow.model.status import TERMINAL

TERMINAL_SQL: Final = "(" + ", ".join(repr(status.value) for status in sorted(TERMINAL)) + ")"
HANGING_TABLES: Final = ("history", "inbox", "heartbeats", "tags", "dead_letters", "tasks", "windows")
"""Tables whose rows belong to the instance that their column `instance` names."""


def taken_ids(connection: sqlite3.Connection, new: Sequence[NewInstance]) -> set[str]:
    """Ids that cannot be had: they are in the store and may not be replaced, or come twice."""
    seen: set[str] = set()
    taken: set[str] = set()
    for instance in new:
        record = read_record(connection, instance.id)
        if instance.id in seen or (record is not None and not (instance.replace and record.status.is_terminal)):
            taken.add(instance.id)
        seen.add(instance.id)
    return taken


def insert_instances(connection: sqlite3.Connection, new: Sequence[NewInstance]) -> None:
    """Write those of which `taken_ids` says that their ids can be had."""
    for instance in new:
        if instance.replace:
            purge_one(connection, instance.id)
    connection.executemany(
        "insert into instances (id, workflow, version, status, created_us, finished_us, wake_us, tags, custom_status, "
        "base_seq, parent) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                i.id,
                i.workflow,
                i.version,
                i.status.value,
                i.created_us,
                i.finished_us,
                i.wake_us,
                tags_text(i),
                i.custom_status,
                i.base_seq,
                i.parent,
            )
            for i in new
        ],
    )
    write_tasks(connection, [i.admission for i in new if i.admission is not None])
    tags = [(key, value, i.id) for i in new for key, value in i.tags.items()]
    if tags:
        connection.executemany("insert into tags values (?, ?, ?)", tags)


def purge(connection: sqlite3.Connection, instance_ids: Sequence[str]) -> list[str]:
    """See `Backend.purge`."""
    return [instance_id for instance_id in instance_ids if purge_one(connection, instance_id)]


def purge_one(connection: sqlite3.Connection, instance_id: str) -> bool:
    """Remove an instance that is over, whole; False when it is not there or not over."""
    cursor = connection.execute(
        f"delete from instances where id = ? and status in {TERMINAL_SQL}",
        (instance_id,),
    )
    if cursor.rowcount != 1:
        return False
    for table in HANGING_TABLES:
        connection.execute(f"delete from {table} where instance = ?", (instance_id,))
    return True
