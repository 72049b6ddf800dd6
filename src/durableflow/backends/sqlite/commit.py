"""A worker's commit, row by row."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from durableflow.backends.base import Commit, HistoryRow, Lease
from durableflow.backends.sqlite.instances import insert_instances, taken_ids
from durableflow.errors import AppendConflict, InstancesExist, LeaseLost


def write_row_by_row(connection: sqlite3.Connection, lease: Lease, commit: Commit) -> None:
    """Write a commit inside a transaction of the caller's, which must be rolled back if this raises.

    Raises:
        LeaseLost, InstancesExist, AppendConflict: as `Backend.commit` does.
    """
    if connection.execute("select 1 from workers where id = ?", (lease.worker_id,)).fetchone() is None:
        raise lease_lost(lease)
    taken = taken_ids(connection, commit.new)
    if taken:
        raise InstancesExist(taken)
    insert_instances(connection, commit.new)
    conflicts = _conflicting_ids(connection, commit.rows)
    if conflicts:
        raise AppendConflict(conflicts)
    connection.executemany("insert into history values (?, ?, ?, ?)", commit.rows)
    connection.executemany(
        "update instances set status = ?, wake_us = ?, finished_us = ?, custom_status = ?, stall_reason = ? "
        "where id = ?",
        [(c.status.value, c.wake_us, c.finished_us, c.custom_status, c.stall_reason, c.id) for c in commit.changes],
    )
    connection.executemany("delete from inbox where number = ?", [(number,) for number in commit.consumed])
    connection.executemany("insert or replace into heartbeats values (?, ?, ?, ?)", commit.heartbeats)
    connection.executemany("delete from heartbeats where instance = ?", [(each,) for each in commit.finished_ids()])


def lease_lost(lease: Lease) -> LeaseLost:
    """What a worker is told whose row is gone."""
    return LeaseLost(f"worker {lease.worker_id} was declared dead: another worker took over, nothing was written")


def _conflicting_ids(connection: sqlite3.Connection, rows: Sequence[HistoryRow]) -> set[str]:
    """Instances of which a row is in the store already, or comes twice."""
    there = "select 1 from history where instance = ? and first_seq = ?"
    seen: set[tuple[str, int]] = set()
    found: set[str] = set()
    for row in rows:
        key = (row.instance_id, row.first_seq)
        if key in seen or connection.execute(there, key).fetchone():
            found.add(row.instance_id)
        seen.add(key)
    return found
