"""A store on SQLite as the judge of `tests/fleet/check_tables.py` wants it, which knows nothing of servers."""

import sqlite3
import tempfile
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Final

from check_tables import Instance, Row, Tables, _decoded, _event

_OTHERS: Final = ("heartbeats", "windows", "tasks")


def read_store(path: Path) -> Tables:
    """All tables, from a copy: to open a store is to recover it, and that is for the engine to do."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for each in path.parent.glob(f"{path.name}*"):
            if each.name.removeprefix(path.name) in ("", "-wal", "-journal"):
                copy.with_name(each.name).write_bytes(each.read_bytes())
        return recover_and_read(copy)


def recover_and_read(path: Path) -> Tables:
    """The same where nothing else will be done with the store."""
    with closing(sqlite3.connect(path)) as connection:
        return _read(connection)


def _read(connection: sqlite3.Connection) -> Tables:
    tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    if "instances" not in tables:  # killed before it was made
        return Tables({}, {}, {})
    instances = {
        row[0]: Instance(row[1], bool(row[2]), None, row[3])
        for row in connection.execute("select id, status, finished_us is not null, parent from instances")
    }
    history = defaultdict[str, list[Row]](list)
    for instance, *row in connection.execute(
        "select instance, first_seq, at_us, events from history order by instance, first_seq"
    ):
        history[instance].append(_decoded(*row))
    inbox = [(row[0], _event(row[1])) for row in connection.execute("select instance, data from inbox order by number")]
    others = {
        table: [each for (each,) in connection.execute(f"select instance from {table}")]
        for table in _OTHERS
        if table in tables
    }
    # On one machine who owns the file owns all in it: there is no owner to judge.
    return Tables({}, instances, history, inbox, others)
