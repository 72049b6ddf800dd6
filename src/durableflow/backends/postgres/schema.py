"""The tables of a store in Postgres, and the way there from those of an older one.

A migration has two halves. The first (`pre`) only adds, so that workers of the version before go on beside it; the
second (`post`) takes away what none of them needs any more. A store is open to the versions between the two numbers that
`schema_version` holds: `version`, made by the newest that was here, and `readable_from`, the oldest that may write.

The functions are made anew by each migration: they belong to the version, and their names end with its number.
"""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """
        create table {s}.workers (
            id bigint generated always as identity primary key,
            name text not null,
            expires timestamptz not null,
            accepts boolean not null default true,
            owned bigint not null default 0
        ) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200)
        """,
        """
        create table {s}.instances (
            id text collate "C" primary key,
            workflow text collate "C" not null,
            version integer not null,
            status text collate "C" not null,
            created_us bigint not null,
            finished_us bigint,
            wake_us bigint,
            base_seq bigint not null default 1,
            owner bigint,
            parent text collate "C",
            tags jsonb,
            custom_status bytea,
            stall_reason text
        ) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
            autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0)
        """,
        # What is over is in none of these, so they stay small however much history there is.
        "create index instances_owner on {s}.instances (owner, wake_us, id) where finished_us is null",
        "create index instances_created on {s}.instances (created_us, id)",
        "create index instances_parent on {s}.instances (parent, created_us) where parent is not null",
        "create index instances_tags on {s}.instances using gin (tags jsonb_path_ops) where tags is not null",
        """
        create table {s}.history (
            instance text collate "C" not null,
            first_seq bigint not null,
            at_us bigint not null,
            events bytea not null,
            primary key (instance, first_seq)
        ) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
            autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0)
        """,
        """
        create table {s}.inbox (
            number bigint generated always as identity primary key,
            instance text collate "C" not null,
            data bytea not null,
            event_key bytea
        ) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
            autovacuum_vacuum_cost_delay = 0)
        """,
        "create index inbox_instance on {s}.inbox (instance, number)",
        "create unique index inbox_event on {s}.inbox (instance, event_key) where event_key is not null",
        """
        create table {s}.heartbeats (
            instance text collate "C" not null,
            task bigint not null,
            attempt integer not null,
            details bytea not null,
            primary key (instance, task)
        ) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)
        """,
        """
        create table {s}.dead_letters (
            instance text collate "C" not null,
            task bigint not null,
            kind text collate "C" not null,
            name text collate "C" not null,
            at_us bigint not null,
            attempts integer not null,
            type_name text collate "C" not null,
            message text not null,
            primary key (instance, task)
        )
        """,
        "create index dead_letters_at on {s}.dead_letters (at_us, instance, task)",
        """
        create table {s}.schedules (
            id text collate "C" primary key,
            revision bigint not null,
            due_us bigint,
            data bytea not null
        )
        """,
        "create index schedules_due on {s}.schedules (due_us, id) where due_us is not null",
        # Names of two parts can be longer than what an index holds: a digest stands for them.
        """
        create table {s}.circuits (
            key bytea primary key,
            name text collate "C" not null,
            state text not null,
            failures integer not null,
            successes integer not null,
            probes_out integer not null,
            opened_us bigint not null,
            probe_at_us bigint not null,
            revision bigint not null
        )
        """,
        """
        create table {s}.alerts (
            kind text collate "C" not null,
            subject text collate "C" not null,
            severity text not null,
            since_us bigint not null,
            told_us bigint not null,
            details text not null,
            primary key (kind, subject)
        )
        """,
        """
        create table {s}.notices (
            number bigint generated always as identity primary key,
            sink text collate "C" not null,
            body bytea not null,
            attempts integer not null,
            due_us bigint not null
        )
        """,
        "create index notices_sink on {s}.notices (sink, number)",
        "create table {s}.takeovers (worker bigint primary key, name text not null, at_us bigint not null)",
        """
        create table {s}.windows (
            key bytea primary key,
            instance text collate "C" not null unique,
            changed bytea not null,
            start_at_us bigint not null,
            until_us bigint
        )
        """,
    ),
)
"""Statements in order, of each version; `{s}` stands for the schema, quoted."""

HANGING_TABLES: Final = ("history", "inbox", "heartbeats", "dead_letters", "windows")
"""Tables whose rows belong to the instance that their column `instance` names."""
