"""Windows of debounced starts; in transactions of the caller's."""

from __future__ import annotations

import sqlite3

from durableflow.backends.base import DebouncedStart, Outgoing
from durableflow.backends.sqlite.inbox import send_one
from durableflow.backends.sqlite.records import read_record
from durableflow.errors import InstancesExist
from durableflow.model.status import Status


def debounce(connection: sqlite3.Connection, start: DebouncedStart) -> str:
    """See `Backend.debounce`."""
    key = (start.new.workflow, start.new.version, start.key)
    of_key = "where workflow = ? and version = ? and key = ?"
    row = connection.execute(f"select instance, until_us from windows {of_key}", key).fetchone()
    record = None if row is None else read_record(connection, row[0])
    if row is not None and record is not None and not record.status.is_terminal:
        instance_id, until_us = row
        start_at_us = start.start_at_us if until_us is None else min(start.start_at_us, until_us)
        connection.execute(
            f"update windows set changed = ?, start_at_us = ? {of_key}", (start.changed, start_at_us, *key)
        )
        connection.execute(
            "update instances set wake_us = ? where id = ? and status = ? and wake_us > 0",
            (start_at_us, instance_id, Status.PENDING.value),
        )
        return str(instance_id)
    if send_one(connection, Outgoing(start.new.id, start.started, start.new)).outcome != "delivered":
        raise InstancesExist({start.new.id})
    connection.execute(
        "insert or replace into windows (workflow, version, key, instance, changed, start_at_us, until_us) "
        "values (?, ?, ?, ?, ?, ?, ?)",
        (*key, start.new.id, start.changed, start.start_at_us, start.until_us),
    )
    return start.new.id


def close_window(connection: sqlite3.Connection, instance_id: str, now_us: int) -> int | None:
    """See `Backend.close_window`."""
    of_instance = "from windows where instance = ?"
    row = connection.execute(f"select changed, start_at_us {of_instance}", (instance_id,)).fetchone()
    if row is None:
        return None
    changed, start_at_us = row
    if start_at_us > now_us:
        return int(start_at_us)
    connection.execute(f"delete {of_instance}", (instance_id,))
    send_one(connection, Outgoing(instance_id, changed))  # refused when it is over: nobody waits for it
    return None
