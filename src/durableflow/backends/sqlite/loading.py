"""Instances as a whole, many at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from durableflow.backends.base import Heartbeat, HistoryRow, LoadedInstance, Message
from durableflow.backends.sqlite.records import RECORD_COLUMNS, as_record


def load(connection: sqlite3.Connection, instance_ids: Sequence[str]) -> list[LoadedInstance]:
    """Four questions for all of them together, not four for each."""
    ids = (msgspec.json.encode(instance_ids).decode(),)
    among = "in (select value from json_each(?))"
    loaded: dict[str, LoadedInstance] = {}
    for row in connection.execute(f"select {RECORD_COLUMNS} from instances where id {among}", ids):  # noqa: S608  # constants
        loaded[row[0]] = LoadedInstance(as_record(row), [], [], [])
    history = f"select instance, first_seq, at_us, events from history where instance {among} order by 1, 2"  # noqa: S608
    for row in connection.execute(history, ids):
        if row[0] in loaded:
            loaded[row[0]].rows.append(HistoryRow(*row))
    inbox = f"select number, instance, data from inbox where instance {among} order by number"  # noqa: S608
    for row in connection.execute(inbox, ids):
        if row[1] in loaded:
            loaded[row[1]].messages.append(Message(*row))
    beats = f"select instance, task, attempt, details from heartbeats where instance {among}"  # noqa: S608
    for row in connection.execute(beats, ids):
        if row[0] in loaded:
            loaded[row[0]].heartbeats.append(Heartbeat(*row))
    return [loaded[instance_id] for instance_id in instance_ids if instance_id in loaded]
