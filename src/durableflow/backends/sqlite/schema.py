"""The tables of a store, and the way there from those of an older one."""

from __future__ import annotations

import sqlite3
from typing import Final

from durableflow.errors import SchemaMismatch

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    create table workers (
        id integer primary key autoincrement,
        name text not null,
        expires_us integer not null
    );
    create table instances (
        id text primary key,
        workflow text not null,
        version integer not null,
        status text not null,
        created_us integer not null,
        finished_us integer,
        wake_us integer,
        tags text,
        custom_status blob,
        stall_reason text
    ) without rowid;
    create index instances_wake on instances (wake_us) where wake_us is not null;
    create index instances_created on instances (created_us, id);
    create table history (
        instance text not null,
        first_seq integer not null,
        at_us integer not null,
        events blob not null,
        primary key (instance, first_seq)
    ) without rowid;
    create table inbox (
        number integer primary key autoincrement,
        instance text not null,
        data blob not null,
        event_id text
    );
    create index inbox_instance on inbox (instance, number);
    create unique index inbox_event_id on inbox (instance, event_id) where event_id is not null;
    create table heartbeats (
        instance text not null,
        task integer not null,
        attempt integer not null,
        details blob not null,
        primary key (instance, task)
    ) without rowid;
    create table tags (
        key text not null,
        value text not null,
        instance text not null,
        primary key (key, value, instance)
    ) without rowid;
    create index tags_instance on tags (instance);
    """,
    """
    alter table instances add column base_seq integer not null default 1;
    alter table instances add column parent text;
    create index instances_parent on instances (parent, created_us) where parent is not null;
    """,
    """
    create table dead_letters (
        instance text not null,
        task integer not null,
        kind text not null,
        name text not null,
        at_us integer not null,
        attempts integer not null,
        type_name text not null,
        message text not null,
        primary key (instance, task)
    ) without rowid;
    create index dead_letters_at on dead_letters (at_us, instance, task);
    """,
    """
    create table schedules (
        id text primary key,
        revision integer not null,
        due_us integer,
        data blob not null
    ) without rowid;
    create index schedules_due on schedules (due_us, id) where due_us is not null;
    """,
    """
    create table servers (
        id integer primary key autoincrement,
        name text not null,
        expires_us integer not null
    );
    create table queues (
        name text primary key,
        concurrency integer,
        rate_count integer not null default 0,
        rate_period_us integer not null default 0,
        rate_burst integer not null default 0,
        is_paused integer not null default 0,
        full_us integer not null default 0
    ) without rowid;
    create table lanes (
        queue text not null,
        priority integer not null,
        vtime integer not null,
        primary key (queue, priority)
    ) without rowid;
    create table task_numbers (
        id integer primary key,
        last integer not null
    );
    insert into task_numbers values (1, 0);
    create table tasks (
        number integer primary key,
        instance text not null,
        task integer not null,
        attempt integer not null default 1,
        queue text not null,
        name text not null,
        input blob not null,
        options blob not null,
        priority integer not null default 0,
        fairness_key text not null default '',
        state integer not null,
        not_before_us integer not null default 0,
        expires_us integer,
        claimed_by integer not null default 0,
        started_us integer not null default 0,
        token_digest blob,
        details blob,
        scheduled_at_us integer not null,
        uncounted integer not null default 0,
        losses integer not null default 0,
        is_suspect integer not null default 0,
        vtime integer not null default 0
    );
    create unique index tasks_instance on tasks (instance, task);
    create index tasks_waiting on tasks (queue, priority desc, vtime, number) where state = 0;
    create index tasks_delayed on tasks (not_before_us) where state = 1;
    create index tasks_claimed on tasks (queue, claimed_by) where state = 2;
    create index tasks_expiry on tasks (expires_us) where expires_us is not null;
    create index tasks_key on tasks (queue, priority, fairness_key, vtime);
    """,
    """
    create table circuits (
        name text primary key,
        state text not null,
        failures integer not null,
        successes integer not null,
        probes_out integer not null,
        opened_us integer not null,
        probe_at_us integer not null,
        revision integer not null
    ) without rowid;
    """,
    """
    create table alerts (
        kind text not null,
        subject text not null,
        severity text not null,
        since_us integer not null,
        told_us integer not null,
        details text not null,
        primary key (kind, subject)
    ) without rowid;
    create table notices (
        number integer primary key autoincrement,
        sink text not null,
        body blob not null,
        attempts integer not null,
        due_us integer not null
    );
    create index notices_sink on notices (sink, number);
    create table takeovers (
        worker integer primary key,
        name text not null,
        at_us integer not null
    );
    """,
    """
    create table windows (
        workflow text not null,
        version integer not null,
        key text not null,
        instance text not null unique,
        changed blob not null,
        start_at_us integer not null,
        until_us integer,
        primary key (workflow, version, key)
    ) without rowid;
    """,
    """
    create table moves (
        move_id text primary key,
        side text not null,
        other text not null,
        mover text not null,
        holder integer not null,
        is_gone integer not null,
        is_writing integer not null default 0
    ) without rowid;
    """,
    """
    create table outbox (
        number integer primary key autoincrement,
        message blob not null
    );
    create table relays (
        source text primary key,
        epoch integer not null
    ) without rowid;
    create table delivered (
        source text not null,
        number integer not null,
        outcome text not null,
        primary key (source, number)
    ) without rowid;
    """,
    """
    create index tasks_named on tasks (queue, name, priority desc, vtime, number) where state = 0 and task > 0;
    create index tasks_starts on tasks (queue, priority desc, vtime, number) where state = 0 and task = 0;
    drop index tasks_waiting;
    """,
)
"""Schema changes in order; `pragma user_version` counts those that were made."""

TABLES: Final = tuple(
    statement.split()[2] for script in MIGRATIONS for statement in script.split(";") if "create table" in statement
)
"""All that are the store's own."""


def schema_version(connection: sqlite3.Connection, where: object) -> int:
    """How many migrations the store has seen.

    Raises:
        SchemaMismatch: more than this version knows; `where` names the store.
    """
    made: int = connection.execute("pragma user_version").fetchone()[0]
    if made > len(MIGRATIONS):
        raise SchemaMismatch(
            f"{where} has schema version {made}, written by a newer durableflow; "
            f"this one knows up to {len(MIGRATIONS)}: upgrade durableflow"
        )
    return made


def migrate(connection: sqlite3.Connection, where: object) -> None:
    """Make the changes that the store has not seen; in a transaction of the caller's."""
    made = schema_version(connection, where)  # perhaps another process was faster
    for number, script in enumerate(MIGRATIONS[made:], made + 1):
        for statement in script.split(";"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"pragma user_version={number}")
