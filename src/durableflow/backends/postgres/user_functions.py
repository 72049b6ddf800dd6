"""The functions of a store by which user code writes in one transaction with the engine.

The server itself keeps count of the rows that a transaction has written, table by table. So what user code has written
to the store's tables is what was counted since its transaction began, less what the store's own functions wrote for it.
"""

from __future__ import annotations

import re
from typing import Final

from durableflow.backends.postgres.commit import SEND_ARRAYS
from durableflow.backends.postgres.functions import FENCED, SETTINGS
from durableflow.backends.postgres.schema import MIGRATIONS

ELSEWHERE: Final = "DF004"
"""SQLSTATE: the instance is over, gone, or another worker's."""
TRESPASSED: Final = "DF005"
"""SQLSTATE: user code wrote to a table of the store, or locked it; the detail names those that are locked."""

_STATEMENTS: Final = " ".join(statement for version in MIGRATIONS for statement in version)
OWN_TABLES: Final = tuple(dict.fromkeys(re.findall(r"\bcreate (?:unlogged )?table \{s\}\.(\w+)", _STATEMENTS)))
_TABLES: Final = f"array{list(OWN_TABLES)}::regclass[]"

_TOUCHED: Final = f"""
create or replace function {{s}}.touched() returns bigint language plpgsql {SETTINGS}
    set search_path = {{s}}, pg_temp as $$
begin
    return (select sum(pg_stat_get_xact_tuples_inserted(t) + pg_stat_get_xact_tuples_updated(t)
        + pg_stat_get_xact_tuples_deleted(t)) from unnest({_TABLES}) as t);
end $$
"""  # names of ours
"""How many rows of the store's tables this transaction has written; only the difference of two such numbers says it."""

_SEND_WITHIN: Final = f"""
create or replace function {{s}}.send_within({", ".join(SEND_ARRAYS)}) returns text[] language plpgsql as $$
declare
    before bigint := {{s}}.touched();
    outcomes text[];
begin
    outcomes := {{s}}.send({", ".join(f"${n}" for n in range(1, len(SEND_ARRAYS) + 1))}, null);
    return outcomes || ({{s}}.touched() - before)::text;
end $$
"""
"""What became of each message and, last, how many rows were written for them."""

_CONCLUDE: Final = f"""
create or replace function {{s}}.conclude(
    worker bigint, of_instance text, body bytea, before bigint, lawful bigint
) returns void language plpgsql {SETTINGS} set search_path = {{s}}, pg_temp as $$
declare
    is_over boolean;
    in_the_way text;
begin
    perform txid_current();  -- before a number is drawn: readers of the inbox count on it
    select string_agg(distinct l.relation::regclass::text, ', ') into in_the_way from pg_locks l
        where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.relation = any({_TABLES}::oid[])
            and l.mode <> 'AccessShareLock' and (lawful = 0 or l.mode <> 'RowExclusiveLock');
    if in_the_way is not null or {{s}}.touched() - before <> lawful then
        raise exception 'a table of the store was written to' using errcode = '{TRESPASSED}',
            detail = coalesce(in_the_way, '');
    end if;
    perform 1 from workers where id = worker for key share;
    if not found then
        raise exception 'the worker was declared dead' using errcode = '{FENCED}';
    end if;
    select finished_us is not null into is_over from instances where id = of_instance and owner = worker for share;
    if not found or is_over then
        raise exception 'the instance is not to be told' using errcode = '{ELSEWHERE}';
    end if;
    insert into inbox (instance, data) values (of_instance, body);
end $$
"""  # names of ours
"""The end of a transaction of user code, sent together with its COMMIT: whether it may be, and the message."""

USER_FUNCTIONS: Final = (_TOUCHED, _SEND_WITHIN, _CONCLUDE)
"""In an order in which they can be made, behind those of `functions.py`; `{s}` stands for the schema, quoted."""

BEGIN: Final = """
    select pg_backend_pid(), txid_current(), {s}.touched(), exists (select 1 from {s}.workers where id = $1::bigint),
        set_config('idle_in_transaction_session_timeout', idle.ms, true), idle.ms::bigint,
        (select array_agg(number order by number) from {s}.inbox where instance = $2::text),
        (select array_agg(data order by number) from {s}.inbox where instance = $2::text)
    from (select greatest(
        $4::bigint, ($3::bigint - extract(epoch from clock_timestamp()) * 1000000)::bigint / 1000
    )::text as ms) as idle
"""
"""What is to be known when user code begins. Should its worker freeze, its locks are gone when its lease is."""

FATE: Final = """
    select txid_status($1::bigint), (
        select bool_or(pg_terminate_backend(a.pid)) from pg_stat_activity a
        where a.pid = $2::int and a.backend_xid::text::bigint = $1::bigint % 4294967296
            and a.state like 'idle in transaction%'
    )
"""
"""What became of a transaction whose connection is lost; one that waits for its client, who is gone, is ended."""
