"""Dead letters in their table."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from durableflow.backends.base import DeadLetter, DeadLetterQuery

_COLUMNS = "instance, task, kind, name, at_us, attempts, type_name, message"


def write_dead_letters(connection: sqlite3.Connection, letters: Sequence[DeadLetter], redeemed: Sequence[str]) -> None:
    """Put letters by, and remove those of instances that are stalled no more; in a transaction of the caller's."""
    connection.executemany(f"insert or replace into dead_letters ({_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?)", letters)
    connection.executemany("delete from dead_letters where task = 0 and instance = ?", [(each,) for each in redeemed])


def discard(connection: sqlite3.Connection, letters: Sequence[tuple[str, int]]) -> int:
    """Remove letters; how many there were."""
    delete = "delete from dead_letters where instance = ? and task = ?"
    return sum(connection.execute(delete, letter).rowcount for letter in letters)


def dead_letters_sql(query: DeadLetterQuery) -> tuple[str, list[object]]:
    """The question for the letters that match, and its parameters."""
    given = {
        "kind = ?": query.kind,
        "name = ?": query.name,
        "type_name = ?": query.type_name,
        "instance = ?": query.instance_id,
    }
    conditions = [condition for condition, value in given.items() if value is not None]
    parameters: list[object] = [value for value in given.values() if value is not None]
    if query.after is not None:
        conditions.append("(at_us, instance, task) < (?, ?, ?)")
        parameters += query.after
    clause = f"where {' and '.join(conditions)} " if conditions else ""
    sql = f"select {_COLUMNS} from dead_letters {clause}order by at_us desc, instance desc, task desc limit ?"
    return sql, [*parameters, query.limit]
