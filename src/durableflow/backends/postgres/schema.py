"""The tables of a store in Postgres, and the way there from those of an older one.

A migration only adds, so that workers of the version before could go on beside it until they are replaced; they are
refused all the same when they come anew. What none of them needs any more is taken away by a later one. The functions
are made anew by each migration: they belong to the version.
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
            number bigint generated always as identity,
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
        # A row is told apart by the number of its instance: an id would be most of it, and twice, with the index.
        """
        create table {s}.history (
            instance_number bigint not null,
            first_seq bigint not null,
            at_us bigint not null,
            events bytea not null,
            primary key (instance_number, first_seq)
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
            name text not null,
            instance text collate "C" not null unique,
            changed bytea not null,
            start_at_us bigint not null,
            until_us bigint
        )
        """,
        """
        create table {s}.servers (
            id bigint generated always as identity primary key,
            name text not null,
            expires timestamptz not null
        ) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200)
        """,
        """
        create table {s}.queues (
            id bigint generated always as identity primary key,
            name text collate "C" not null unique,
            concurrency bigint,
            rate_count bigint not null default 0,
            rate_period_us bigint not null default 0,
            rate_burst bigint not null default 0,
            is_paused boolean not null default false,
            full_us bigint not null default 0
        ) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200)
        """,
        """
        create table {s}.lanes (
            queue bigint not null,
            priority integer not null,
            vtime bigint not null default 0,
            primary key (queue, priority)
        ) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200)
        """,
        # A queue is known by its number: its name and a key of fairness together can be longer than what an index
        # holds. What has been offered to a token has no queue: 0. `kind` tells apart what servers ask for apart: tasks,
        # those that are suspects (1), and starts of instances (2).
        """
        create table {s}.tasks (
            number bigint generated always as identity primary key,
            instance text collate "C" not null,
            task bigint not null,
            attempt integer not null default 1,
            queue bigint not null,
            name text collate "C" not null,
            input bytea not null,
            options bytea not null,
            priority integer not null default 0,
            fairness_key text collate "C" not null default '',
            state smallint not null,
            not_before_us bigint not null default 0,
            expires_us bigint,
            claimed_by bigint not null default 0,
            started_us bigint not null default 0,
            token_digest bytea,
            details bytea,
            scheduled_at_us bigint not null,
            uncounted integer not null default 0,
            losses integer not null default 0,
            is_suspect boolean not null default false,
            vtime bigint not null default 0,
            kind smallint generated always as (case when task = 0 then 2 when is_suspect then 1 else 0 end) stored
        ) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
            autovacuum_vacuum_cost_delay = 0)
        """,
        "create unique index tasks_instance on {s}.tasks (instance, task)",
        "create index tasks_waiting on {s}.tasks (queue, kind, priority desc, vtime, number) where state = 0",
        "create index tasks_delayed on {s}.tasks (not_before_us) where state = 1",
        "create index tasks_claimed on {s}.tasks (claimed_by, number) where state = 2",
        "create index tasks_running on {s}.tasks (queue) where state = 2",
        "create index tasks_expiry on {s}.tasks (expires_us) where expires_us is not null and state <> 2",
        "create index tasks_key on {s}.tasks (queue, priority, fairness_key, vtime)",
        "create index tasks_offered on {s}.tasks (number) where queue = 0",
        """
        create table {s}.moves (
            move_id text not null,
            side text not null,
            other text not null,
            mover text not null,
            holder bigint not null,
            is_gone boolean not null,
            is_writing boolean not null default false
        )
        """,
        """
        create table {s}.outbox (
            number bigint generated always as identity primary key,
            message bytea not null
        ) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)
        """,
        "create table {s}.relays (source text primary key, epoch bigint not null)",
        """
        create table {s}.delivered (
            source text not null,
            number bigint not null,
            outcome text not null,
            primary key (source, number)
        ) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)
        """,
    ),
    (
        # For servers that know some names only. Its condition, which holds for whatever waits, is one that nobody else
        # says: so the planner gives it to those who ask by name, and nothing else to them, whatever it believes.
        """
        create index tasks_named on {s}.tasks (queue, kind, name, priority desc, vtime, number)
            where state <= 0 and number > 0
        """,
    ),
)
"""Statements in order, of each version; `{s}` stands for the schema, quoted."""

HANGING_TABLES: Final = ("tasks", "inbox", "heartbeats", "dead_letters", "windows")
"""Tables besides `history` whose rows belong to the instance that their column `instance` names, in the order in which
they are emptied: whoever finishes a task writes to the inbox, and is waited for."""
