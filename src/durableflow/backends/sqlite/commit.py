"""A worker's commit as one statement.

The interpreter lets go of its lock around every step of a statement and needs it back after each. Beside a thread that
computes, each of these returns can take as long as that thread may hold on, 5 ms, and a commit of a hundred turns, row
by row, took a third of a second. So all of a commit is handed to SQLite at once: as one row that is inserted into a
view, whose trigger writes the tables. The lists travel as JSON. The bytes, which JSON cannot hold, travel joined
together, and each list says where its piece begins and how long it is.

In autocommit mode this one statement is BEGIN, all that is written, and COMMIT, and the lock is let go once.

The statement does not tell what was wrong, only that something was: a row that is there, an id that is taken, a worker
that was declared dead. Then nothing was written, and `write_row_by_row` does the same again, looks before each step,
and knows the name of what it finds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from durableflow.backends.base import Commit, HistoryRow, InstanceChange, Lease
from durableflow.backends.rows import tags_text
from durableflow.backends.sqlite.dead_letters import write_dead_letters
from durableflow.backends.sqlite.inbox import send_for
from durableflow.backends.sqlite.instances import HANGING_TABLES, TERMINAL_SQL, insert_instances, taken_ids
from durableflow.backends.sqlite.outbox import write_outbox
from durableflow.backends.sqlite.sends import SENDS_SQL, SENDS_VIEWS, pack_send
from durableflow.backends.sqlite.tasks import TASK_VIEWS, write_tasks
from durableflow.backends.tasks import ALL_TASKS
from durableflow.errors import AppendConflict, InstancesExist, LeaseLost

PACKED_MAX_BYTES: Final = 64 * 1024 * 1024
"""A commit above this is written row by row: it would be copied twice on its way, and its few rows are few steps."""

REFUSALS: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_TOOBIG,
    }
)
"""Results of a statement in autocommit mode after which nothing of it is in the store, nor ever will be.

Whatever goes wrong in such a statement, SQLite rolls its transaction back before it answers
(https://sqlite.org/lang_transaction.html, "Response To Errors Within A Transaction"), so no connection that lives sees
any of it. But a transaction is in a write-ahead log as soon as its last frame, the one with the mark of a commit, is in
the file. What comes after that frame can still fail: the wait for the disk, and the entry in the index of the log that
all processes share. A rollback leaves the frame where it is, until the next transaction is written over it. If all
processes die before that, the next one to open the file finds the frame, takes the transaction for committed, and it is
there after all.

So these count as refusals, because they come before that frame:

- All that executing finds: constraints, the trigger's own refusal, a file that may not be written to, values that do
  not fit, an interruption. The commit frame is written when all has been executed.
- Not getting the file (BUSY, LOCKED, PROTOCOL, CANTOPEN, SCHEMA, NOTADB), which happens at the beginning.
- FULL: a page that may not be added (`max_page_count`), or a write for which there was no room. That write was the
  commit frame itself, which then lacks its end and does not match its checksum, or one before it. (Only where a loss
  of power may harm neighbours of what was written would copies of the last frame follow it, and SQLite is built to
  assume that it does not. No room found at the wait for the disk is an I/O error.)

Every other result, among them an I/O error, no memory and a corrupt index, can be of the time after that frame: the
outcome is unknown.
"""


def _item(place: int) -> str:
    return f"json_extract(value, '$[{place}]')"


def _items(*places: int) -> str:
    return ", ".join(map(_item, places))


def _piece(place: int) -> str:
    """The bytes of which an item says where they begin, and the next one how long they are; NULL if both are."""
    return f"substr(new.bytes, {_item(place)}, {_item(place + 1)})"


_REPLACED: Final = "(select value from json_each(new.replaced))"

_WRITES: Final = {
    # What hangs on an instance that is to be replaced goes before it is known to be over: if it is not, its row stays,
    # the insert of the new one fails, and with it all of this.
    "replaced": " ".join(f"delete from {table} where instance in {_REPLACED};" for table in HANGING_TABLES)
    + f"delete from instances where id in {_REPLACED} and status in {TERMINAL_SQL};",
    "new": f"""
        insert into instances
            (id, workflow, version, status, created_us, finished_us, wake_us, tags, base_seq, parent, custom_status)
            select {_items(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)}, {_piece(10)} from json_each(new.new);""",
    # Each item that is taken out of JSON costs; most instances that are made, and most changes, need only a few.
    "plain_new": f"""
        insert into instances (id, workflow, version, status, created_us, wake_us)
            select {_items(0, 1, 2, 3, 4, 5)} from json_each(new.plain_new);""",
    "tags": f"insert into tags (key, value, instance) select {_items(0, 1, 2)} from json_each(new.tags);",
    "rows": f"""
        insert into history (instance, first_seq, at_us, events)
            select {_items(0, 1, 2)}, {_piece(3)} from json_each(new.rows);""",
    "changes": f"""
        insert into changes (id, status, wake_us, finished_us, stall_reason, base_seq, version, custom_status)
            select {_items(0, 1, 2, 3, 4, 5, 6)}, {_piece(7)} from json_each(new.changes);""",
    "plain_changes": f"""
        insert into changes (id, status, wake_us, finished_us)
            select {_items(0, 1, 2, 3)} from json_each(new.plain_changes);""",
    "consumed": "delete from inbox where number in (select value from json_each(new.consumed));",
    "heartbeats": f"""
        insert or replace into heartbeats (instance, task, attempt, details)
            select {_items(0, 1, 2)}, {_piece(3)} from json_each(new.heartbeats);""",
    "tasks": f"""
        insert into new_tasks
            (instance, task, queue, name, input, options, priority, fairness_key, not_before_us, expires_us,
                scheduled_at_us)
            select {_items(0, 1, 2, 3)}, {_piece(4)}, {_piece(6)}, {_items(8, 9, 10, 11, 12)}
            from json_each(new.tasks);""",
    "tasks_dropped": f"""
        delete from tasks where number in (
            select number from json_each(new.tasks_dropped), tasks
            where instance = {_item(0)} and (task = {_item(1)} or {_item(1)} = {ALL_TASKS}));""",
    "finished": """
        delete from heartbeats
            where exists (select 1 from heartbeats) and instance in (select value from json_each(new.finished));""",
    "dead_letters": f"""
        insert or replace into dead_letters (instance, task, kind, name, at_us, attempts, type_name, message)
            select {_items(0, 1, 2, 3, 4, 5, 6, 7)} from json_each(new.dead_letters);""",
    "redeemed": "delete from dead_letters where task = 0 and instance in (select value from json_each(new.redeemed));",
    "sends": SENDS_SQL,
}  # fmt: skip
"""How each list of a commit is written, in this order. A list that is NULL is an empty one."""

_OF_TASKS: Final = ("tasks", "tasks_dropped")
_SHAPES: Final = (
    ("plain_new", "rows"),
    ("rows", "plain_changes", "finished"),
    tuple(name for name in _WRITES if name not in _OF_TASKS),
    tuple(_WRITES),
)
"""Which lists a commit can have; each shape has a trigger, and the first that fits is taken.

A lone start, or a lone turn after it, costs half of what it would with the trigger for all lists, which opens eight of
them for reading, six in vain.
"""

_VIEWS: Final = (
    f"""
    create temp view commits as
    select 0 as worker_id, 0 as shape, {", ".join(f"0 as {name}" for name in _WRITES)}, x'' as bytes
    """,
    # One row after the other, so that of two changes of an instance the later one is the last; and unlike
    # UPDATE FROM it is known to every SQLite.
    """
    create temp view changes as
    select '' as id, '' as status, 0 as wake_us, 0 as finished_us, '' as stall_reason, 0 as base_seq, 0 as version,
        x'' as custom_status
    """,
    """
    create temp trigger write_change instead of insert on changes begin
        update instances set status = new.status, wake_us = new.wake_us, finished_us = new.finished_us,
            custom_status = new.custom_status, stall_reason = new.stall_reason,
            base_seq = coalesce(new.base_seq, base_seq), version = coalesce(new.version, version)
        where id = new.id;
    end
    """,
    *SENDS_VIEWS,
    *(
        f"""
    create temp trigger write_shape_{shape} instead of insert on commits when new.shape = {shape} begin
        select raise(abort, 'the worker was declared dead')
        where not exists (select 1 from workers where id = new.worker_id);
        {" ".join(_WRITES[name] for name in names)}
    end
    """
        for shape, names in enumerate(_SHAPES)
    ),
)

_INSERT: Final = f"insert into commits values ({', '.join('?' * (len(_WRITES) + 3))})"

_encode: Final = msgspec.json.Encoder().encode

Packed = tuple[int | str | bytes | None, ...]
"""The row of `commits`."""


def create_commit_view(connection: sqlite3.Connection) -> None:
    """Teach a connection the statement; only it sees the view, which ends with it."""
    for statement in (*TASK_VIEWS, *_VIEWS):
        connection.execute(statement)


def pack(lease: Lease, commit: Commit) -> Packed | None:
    """A commit as one row; None for one that cannot travel so and must be written row by row."""
    if commit.outbox:
        return None  # rare, and few
    at = 1  # SQL counts from 1
    pieces: list[bytes] = []

    def piece(data: bytes) -> tuple[int, int]:
        nonlocal at
        pieces.append(data)
        at += len(data)
        return at - len(data), len(data)

    new: list[tuple[Any, ...]]
    new_is_plain = all(
        i.parent is None and i.finished_us is None and not i.tags and i.base_seq == 1 and i.custom_status is None
        for i in commit.new
    )
    if new_is_plain:
        new = [(i.id, i.workflow, i.version, i.status, i.created_us, i.wake_us) for i in commit.new]
    else:
        new = [
            (
                i.id,
                i.workflow,
                i.version,
                i.status,
                i.created_us,
                i.finished_us,
                i.wake_us,
                tags_text(i) if i.tags else None,
                i.base_seq,
                i.parent,
                *(() if i.custom_status is None else piece(i.custom_status)),
            )
            for i in commit.new
        ]
    rows: list[tuple[Any, ...]] = []
    for instance_id, first_seq, at_us, events in commit.rows:  # the many; a call for each would show
        size = len(events)
        rows.append((instance_id, first_seq, at_us, at, size))
        pieces.append(events)
        at += size
    changes: list[tuple[Any, ...]]
    changes_are_plain = all(
        c.custom_status is None and c.stall_reason is None and c.base_seq is None and c.version is None
        for c in commit.changes
    )
    if changes_are_plain:
        changes = [(c.id, c.status, c.wake_us, c.finished_us) for c in commit.changes]
    else:
        changes = [
            (
                c.id,
                c.status,
                c.wake_us,
                c.finished_us,
                c.stall_reason,
                c.base_seq,
                c.version,
                *(() if c.custom_status is None else piece(c.custom_status)),
            )
            for c in commit.changes
        ]
    tasks = [
        (t.instance_id, t.task, t.queue, t.name, *piece(t.input), *piece(t.options), t.priority, t.fairness_key,
         t.not_before_us, t.expires_us, t.scheduled_at_us)
        for t in [*commit.tasks, *(i.admission for i in commit.new if i.admission is not None)]
    ]  # fmt: skip
    heartbeats = [(b.instance_id, b.task, b.attempt, *piece(b.details)) for b in commit.heartbeats]
    lists: dict[str, Sequence[Any]] = {
        "replaced": [i.id for i in commit.new if i.replace],
        "new": () if new_is_plain else new,
        "plain_new": new if new_is_plain else (),
        "tags": [(key, value, i.id) for i in commit.new if i.tags for key, value in i.tags.items()],
        "rows": rows,
        "changes": () if changes_are_plain else changes,
        "plain_changes": changes if changes_are_plain else (),
        "consumed": commit.consumed,
        "heartbeats": heartbeats,
        "tasks": tasks,
        "tasks_dropped": commit.tasks_dropped,
        "finished": commit.finished_ids(),
        "dead_letters": commit.dead_letters,
        "redeemed": commit.redeemed,
        "sends": [pack_send(message, piece) for message in commit.sends],
    }
    texts = [_encode(each).decode() if each else None for each in lists.values()]
    given = {name for name, each in lists.items() if each}
    shape = next(number for number, names in enumerate(_SHAPES) if given.issubset(names))
    # Older versions of SQLite end a text of JSON at a NUL.
    if at + sum(len(text) for text in texts if text) > PACKED_MAX_BYTES or any("\\u0000" in t for t in texts if t):
        return None
    pieces.append(b".")  # of a value without bytes SQLite makes NULL, not a piece without bytes
    return (lease.worker_id, shape, *texts, b"".join(pieces))


def write_packed(connection: sqlite3.Connection, packed: Packed) -> None:
    """Write all of a commit, or nothing, in one step.

    Raises:
        sqlite3.IntegrityError: there is something in the way; `write_row_by_row` knows what.
    """
    connection.execute(_INSERT, packed)


def write_row_by_row(connection: sqlite3.Connection, lease: Lease, commit: Commit) -> None:
    """Write a commit inside a transaction of the caller's, which must be rolled back if this raises.

    Raises:
        LeaseLost, InstancesExist, AppendConflict: as `Backend.commit` does.
    """
    check_lease(connection, lease)
    taken = taken_ids(connection, commit.new)
    if taken:
        raise InstancesExist(taken)
    insert_instances(connection, commit.new)
    conflicts = _conflicting_ids(connection, commit.rows)
    if conflicts:
        raise AppendConflict(conflicts)
    connection.executemany("insert into history values (?, ?, ?, ?)", commit.rows)
    write_changes(connection, commit.changes)
    connection.executemany("delete from inbox where number = ?", [(number,) for number in commit.consumed])
    connection.executemany("insert or replace into heartbeats values (?, ?, ?, ?)", commit.heartbeats)
    write_tasks(connection, commit.tasks)
    connection.executemany(
        f"delete from tasks where instance = ?1 and (task = ?2 or ?2 = {ALL_TASKS})", commit.tasks_dropped
    )
    connection.executemany("delete from heartbeats where instance = ?", [(each,) for each in commit.finished_ids()])
    write_dead_letters(connection, commit.dead_letters, commit.redeemed)
    for message in commit.sends:
        send_for(connection, message)
    write_outbox(connection, commit.outbox)


def write_changes(connection: sqlite3.Connection, changes: Sequence[InstanceChange]) -> None:
    """Write the new values of instances that are there."""
    connection.executemany(
        "update instances set status = ?, wake_us = ?, finished_us = ?, custom_status = ?, stall_reason = ?, "
        "base_seq = coalesce(?, base_seq), version = coalesce(?, version) where id = ?",
        [
            (
                c.status.value,
                c.wake_us,
                c.finished_us,
                c.custom_status,
                c.stall_reason,
                c.base_seq,
                c.version,
                c.id,
            )
            for c in changes
        ],
    )


def check_lease(connection: sqlite3.Connection, lease: Lease) -> None:
    """Raise `LeaseLost` when the worker was declared dead."""
    if connection.execute("select 1 from workers where id = ?", (lease.worker_id,)).fetchone() is None:
        raise lease_lost(lease)


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
