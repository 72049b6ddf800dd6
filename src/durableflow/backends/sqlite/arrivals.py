"""Instances from other stores, inside a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from durableflow.backends.base import Arrival
from durableflow.backends.rows import RECORD_COLUMNS, values_of
from durableflow.backends.sqlite.inbox import put_in
from durableflow.backends.sqlite.records import read_record


def take_in(connection: sqlite3.Connection, arrivals: Sequence[Arrival]) -> set[str]:
    """Write them, whole; the ids that are taken, of which nothing was written."""
    taken: set[str] = set()
    for record, rows, messages, heartbeats in arrivals:
        if read_record(connection, record.id) is not None:
            taken.add(record.id)
            continue
        values = values_of(record)
        places = ", ".join("?" * len(values))
        connection.execute(f"insert into instances ({RECORD_COLUMNS}) values ({places})", values)
        tags = [(key, value, record.id) for key, value in record.tags.items()]
        connection.executemany("insert into tags (key, value, instance) values (?, ?, ?)", tags)
        connection.executemany("insert into history (instance, first_seq, at_us, events) values (?, ?, ?, ?)", rows)
        for message in messages:
            put_in(connection, message)
        connection.executemany(
            "insert into heartbeats (instance, task, attempt, details) values (?, ?, ?, ?)", heartbeats
        )
    return taken
