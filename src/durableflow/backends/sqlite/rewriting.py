"""Histories that clients write: of copies, and of instances that were over and go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from durableflow.backends.base import InstanceChange, Rewrite
from durableflow.backends.relaying import Outcome
from durableflow.backends.sqlite.commit import write_changes
from durableflow.backends.sqlite.inbox import send_for
from durableflow.backends.sqlite.instances import insert_instances, taken_ids
from durableflow.backends.sqlite.outbox import write_outbox
from durableflow.backends.sqlite.records import read_record
from durableflow.backends.transfers import load_rewrites
from durableflow.errors import AppendConflict, InstancesExist


def write_rewrites(connection: sqlite3.Connection, rewrites: Sequence[Rewrite]) -> None:
    """Write all of these; in a transaction of the caller's, which must be rolled back if this raises.

    Raises:
        InstancesExist, AppendConflict: as `Backend.rewrite` does.
    """
    made = [each.instance for each in rewrites if not each.after_seq]
    taken = taken_ids(connection, made)
    if taken:
        raise InstancesExist(taken)
    changed = {each.instance.id for each in rewrites if each.after_seq and not _may_go_on(connection, each)}
    if changed:
        raise AppendConflict(changed)
    insert_instances(connection, made)
    for each in rewrites:
        connection.executemany("insert into history values (?, ?, ?, ?)", each.rows)
    changes = [
        InstanceChange(i.id, i.status, i.wake_us, None, i.custom_status, None, i.base_seq, i.version)
        for i in (each.instance for each in rewrites if each.after_seq)
    ]
    write_changes(connection, changes)
    connection.executemany("delete from dead_letters where instance = ?", [(change.id,) for change in changes])
    for each in rewrites:
        for message in each.messages:
            send_for(connection, message)
        write_outbox(connection, each.outbox)


def go_on(connection: sqlite3.Connection, data: bytes) -> Outcome:
    """Write histories that come from another store, of those that are as they were seen."""
    rewrites = load_rewrites(data)
    going = [_may_go_on(connection, each) for each in rewrites]
    write_rewrites(connection, [each for each, goes in zip(rewrites, going, strict=True) if goes])
    return "delivered" if going[0] else "over"


def _may_go_on(connection: sqlite3.Connection, rewrite: Rewrite) -> bool:
    record = read_record(connection, rewrite.instance.id)
    if record is None or not record.status.is_terminal:
        return False
    last = connection.execute("select max(first_seq) from history where instance = ?", (record.id,)).fetchone()[0]
    return bool(last == rewrite.after_seq)
