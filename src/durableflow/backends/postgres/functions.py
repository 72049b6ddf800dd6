"""The functions of a store in Postgres: what must be one round trip, or must be decided where the rows are.

Each begins with the same settings. A table that has just been made has no statistics, and a plan that is kept from then
on is a bad one; to plan anew for each call, or to compile a plan, takes longer than all that it is for.
"""

from __future__ import annotations

from typing import Final

from durableflow.backends.postgres.database import SEALED
from durableflow.backends.postgres.schema import HANGING_TABLES
from durableflow.backends.tasks import ALL_TASKS

FENCED: Final = "DF001"
"""SQLSTATE: the worker was declared dead."""

_TASK_MAX: Final = 2**63 - 1
SETTINGS: Final = (
    "set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off "
    "set enable_bitmapscan = off set plan_cache_mode = force_generic_plan"
)
"""With what a function begins that is called from outside; one that it calls has them from it."""

_PURGE_ONE: Final = f"""
create or replace function {{s}}.purge_one(of_instance text) returns boolean language plpgsql {SETTINGS} as $$
declare
    gone bigint;
begin
    delete from {{s}}.instances where id = of_instance and finished_us is not null returning number into gone;
    if not found then
        return false;
    end if;
    delete from {{s}}.history where instance_number = gone;
    {" ".join(f"delete from {{s}}.{table} where instance = of_instance;" for table in HANGING_TABLES)}
    return true;
end $$
"""

_PICK_WORKER: Final = """
create or replace function {s}.pick_worker() returns bigint language sql volatile as $$
    select id from {s}.workers where accepts and expires > clock_timestamp() order by random() limit 1
$$
"""
"""One of those that live, or NULL: who comes next claims what nobody owns."""

_SEND_ONE: Final = """
create or replace function {s}.send_one(
    to_instance text, body bytea, key bytea, is_birth boolean, may_replace boolean, new_workflow text,
    new_version integer, new_status text, new_created bigint, new_wake bigint, new_tags jsonb, new_parent text,
    new_base bigint, new_admission jsonb, for_owner bigint
) returns text language plpgsql as $$
declare
    is_over boolean;
begin
    if is_birth then
        if may_replace then
            perform {s}.purge_one(to_instance);
        end if;
        insert into {s}.instances
            (id, workflow, version, status, created_us, wake_us, tags, parent, base_seq, owner)
            values (to_instance, new_workflow, new_version, new_status, new_created, new_wake, new_tags, new_parent,
                new_base, coalesce(for_owner, {s}.pick_worker()))
            on conflict (id) do nothing;
        if not found then
            return 'exists';
        end if;
        if new_admission is not null then
            perform {s}.write_tasks(array[to_instance], array[(new_admission ->> 'task')::bigint],
                array[new_admission ->> 'queue'], array[new_admission ->> 'name'],
                array[decode(new_admission ->> 'input', 'base64')],
                array[decode(new_admission ->> 'options', 'base64')],
                array[(new_admission ->> 'priority')::integer], array[new_admission ->> 'fairness_key'],
                array[(new_admission ->> 'not_before_us')::bigint], array[(new_admission ->> 'expires_us')::bigint],
                array[(new_admission ->> 'scheduled_at_us')::bigint]);
        end if;
    else
        select finished_us is not null into is_over from {s}.instances where id = to_instance;
        if not found then
            return 'missing';
        end if;
        if is_over then
            return 'over';
        end if;
    end if;
    insert into {s}.inbox (instance, data, event_key) values (to_instance, body, key)
        on conflict (instance, event_key) where event_key is not null do nothing;
    return 'delivered';
end $$
"""

_SEND: Final = f"""
create or replace function {{s}}.send(
    targets text[], bodies bytea[], keys bytea[], births boolean[], replaces boolean[], workflows text[],
    versions integer[], statuses text[], createds bigint[], wakes bigint[], tag_sets jsonb[], parents text[],
    bases bigint[], admissions jsonb[], for_owner bigint
) returns text[] language plpgsql {SETTINGS} as $$
declare
    m record;
    outcomes text[] := '{{{{}}}}';
begin
    perform txid_current();  -- before a number is drawn: readers of the inbox count on it
    for m in select * from unnest(targets, bodies, keys, births, replaces, workflows, versions, statuses, createds,
            wakes, tag_sets, parents, bases, admissions)
            as t(target, body, key, birth, replace, workflow, version, status, created, wake, tags, parent, base,
                admission) loop
        outcomes := outcomes || {{s}}.send_one(m.target, m.body, m.key, m.birth, m.replace, m.workflow, m.version,
            m.status, m.created, m.wake, m.tags, m.parent, m.base, m.admission, for_owner);
    end loop;
    return outcomes;
end $$
"""

_SEND_APART: Final = f"""
create or replace function {{s}}.send_apart(
    targets text[], bodies bytea[], keys bytea[], births boolean[], workflows text[], versions integer[],
    statuses text[], createds bigint[], wakes bigint[], tag_sets jsonb[], parents text[], bases bigint[]
) returns text[] language plpgsql {SETTINGS} as $$
declare
    living bigint[] := (select array_agg(id order by random()) from {{s}}.workers
        where accepts and expires > clock_timestamp());
    outcomes text[];
begin
    perform txid_current();  -- before a number is drawn: readers of the inbox count on it
    with m as materialized (
        select t.*, i.id is not null as is_there, i.finished_us is not null as is_over
        from unnest(targets, bodies, keys, births, workflows, versions, statuses, createds, wakes, tag_sets,
                parents, bases) with ordinality
                as t(target, body, key, birth, workflow, version, status, created, wake, tags, parent, base, place)
            left join {{s}}.instances i on i.id = t.target and not t.birth
    ), born as (
        insert into {{s}}.instances
            (id, workflow, version, status, created_us, wake_us, tags, parent, base_seq, owner)
            select target, workflow, version, status, created, wake, tags, parent, base,
                living[1 + place % cardinality(living)]
            from m where birth order by target
            on conflict (id) do nothing returning id
    ), said as (
        select m.*, case when m.birth and m.target in (select id from born) then 'delivered'
            when m.birth then 'exists' when m.is_over then 'over' when m.is_there then 'delivered'
            else 'missing' end as outcome
        from m
    ), told as (
        insert into {{s}}.inbox (instance, data, event_key)
            select target, body, key from said where outcome = 'delivered' order by place
            on conflict (instance, event_key) where event_key is not null do nothing
    )
    select array_agg(outcome order by place) into outcomes from said;
    return outcomes;
end $$
"""
"""`send` of messages none of which is about another: whoever is born is told of nothing else, and replaces nobody."""

_OWNERS_OF: Final = f"""
create or replace function {{s}}.owners_of(ids text[]) returns bigint[] language plpgsql {SETTINGS} as $$
begin
    return (select array_agg(distinct owner) from {{s}}.instances where id = any(ids));
end $$
"""
"""Asked in the statement that has written them, so that who wakes the owners need not ask again."""

_COMMIT: Final = f"""
create or replace function {{s}}.commit_turns(
    worker bigint,
    new_ids text[], new_workflows text[], new_versions integer[], new_statuses text[], new_createds bigint[],
    new_finisheds bigint[], new_wakes bigint[], new_tag_sets jsonb[], new_customs bytea[], new_bases bigint[],
    new_parents text[], replaced text[],
    row_ids text[], row_seqs bigint[], row_ats bigint[], row_events bytea[],
    ch_ids text[], ch_statuses text[], ch_wakes bigint[], ch_finisheds bigint[], ch_customs bytea[],
    ch_stalls text[], ch_bases bigint[], ch_versions integer[],
    consumed bigint[]
) returns void language plpgsql {SETTINGS} as $$
declare
    written bigint;
begin
    perform 1 from {{s}}.workers where id = worker for key share;
    if not found then
        raise exception 'the worker was declared dead' using errcode = '{FENCED}';
    end if;
    if cardinality(replaced) > 0 then
        perform {{s}}.purge_one(r.id) from unnest(replaced) as r(id);
    end if;
    if cardinality(new_ids) > 0 then
        insert into {{s}}.instances (id, workflow, version, status, created_us, finished_us, wake_us, tags,
                custom_status, base_seq, parent, owner)
            select t.*, worker from unnest(new_ids, new_workflows, new_versions, new_statuses, new_createds,
                new_finisheds, new_wakes, new_tag_sets, new_customs, new_bases, new_parents) as t;
    end if;
    if cardinality(row_ids) > 0 then
        insert into {{s}}.history (instance_number, first_seq, at_us, events)
            select i.number, r.seq, r.at_us, r.events
            from unnest(row_ids, row_seqs, row_ats, row_events) as r(id, seq, at_us, events)
                join {{s}}.instances i on i.id = r.id;
        get diagnostics written = row_count;
        if written <> cardinality(row_ids) then
            raise unique_violation using message = 'an instance is not there any more';
        end if;
    end if;
    if cardinality(ch_ids) > 0 then
        update {{s}}.instances as i set status = c.status, wake_us = c.wake, finished_us = c.finished,
                custom_status = c.custom, stall_reason = c.stall, base_seq = coalesce(c.base, i.base_seq),
                version = coalesce(c.version, i.version)
            from unnest(ch_ids, ch_statuses, ch_wakes, ch_finisheds, ch_customs, ch_stalls, ch_bases, ch_versions)
                as c(id, status, wake, finished, custom, stall, base, version)
            where i.id = c.id;
        if exists (select 1 from {{s}}.heartbeats) then
            delete from {{s}}.heartbeats as h using unnest(ch_ids, ch_finisheds) as c(id, finished)
                where h.instance = c.id and c.finished is not null;
        end if;
    end if;
    if cardinality(consumed) > 0 then
        delete from {{s}}.inbox where number = any(consumed);
    end if;
end $$
"""
"""The part of a commit that nearly all of them are made up of.

What is in the way of new rows is an error of the server's own, and is looked for after it: `on conflict` would look for
it each time, and write half a kilobyte more for a workflow of ten activities.
"""

_IN_THE_WAY: Final = f"""
create or replace function {{s}}.in_the_way(new_ids text[], replaced text[], row_ids text[], row_seqs bigint[])
returns table (taken text[], written text[]) language plpgsql {SETTINGS} as $$
begin
    return query select
        (select array_agg(i.id) from unnest(new_ids) as n(id) join {{s}}.instances i on i.id = n.id
            where i.finished_us is null or i.id <> all (replaced)),
        (select array_agg(distinct r.id) from unnest(row_ids, row_seqs) as r(id, seq)
            left join {{s}}.instances i on i.id = r.id
            where case when i.id is null then r.id <> all (new_ids) else r.id <> all (replaced) and exists (
                select 1 from {{s}}.history h where h.instance_number = i.number and h.first_seq = r.seq) end);
end $$
"""
"""Why a commit was refused: the ids that others have, and the instances of whose history there is more, or no more."""

_COMMIT_RARE: Final = f"""
create or replace function {{s}}.commit_rare(
    worker bigint, finished text[],
    beat_ids text[], beat_tasks bigint[], beat_attempts integer[], beat_details bytea[],
    letter_ids text[], letter_tasks bigint[], letter_kinds text[], letter_names text[], letter_ats bigint[],
    letter_attempts integer[], letter_types text[], letter_messages text[],
    redeemed text[],
    task_ids text[], task_numbers bigint[], task_queues text[], task_names text[], task_inputs bytea[],
    task_options bytea[], task_priorities integer[], task_keys text[], task_not_befores bigint[],
    task_expiries bigint[], task_scheduled_ats bigint[],
    dropped_ids text[], dropped_tasks bigint[],
    send_targets text[], send_bodies bytea[], send_keys bytea[], send_senders text[], send_births boolean[],
    send_replaces boolean[], send_workflows text[], send_versions integer[], send_statuses text[],
    send_createds bigint[], send_wakes bigint[], send_tag_sets jsonb[], send_parents text[], send_bases bigint[],
    send_admissions jsonb[], send_exists bytea[], send_delivered bytea[], send_missing bytea[], send_over bytea[]
) returns bigint[] language plpgsql {SETTINGS} as $$
declare
    m record;
    outcome text;
    answer bytea;
    owners bigint[];
begin
    if cardinality(beat_ids) > 0 then
        insert into {{s}}.heartbeats (instance, task, attempt, details)
            select * from unnest(beat_ids, beat_tasks, beat_attempts, beat_details)
            on conflict (instance, task) do update set attempt = excluded.attempt, details = excluded.details;
    end if;
    if cardinality(finished) > 0 then
        delete from {{s}}.heartbeats where instance = any(finished);
    end if;
    if cardinality(task_ids) > 0 then
        perform {{s}}.write_tasks(task_ids, task_numbers, task_queues, task_names, task_inputs, task_options,
            task_priorities, task_keys, task_not_befores, task_expiries, task_scheduled_ats);
    end if;
    if cardinality(dropped_ids) > 0 then
        with dropped as materialized (
            select t.number from unnest(dropped_ids, dropped_tasks) as d(instance, task)
                join {{s}}.tasks t on t.instance = d.instance
                    and t.task >= case when d.task = {ALL_TASKS} then 0 else d.task end
                    and t.task <= case when d.task = {ALL_TASKS} then {_TASK_MAX} else d.task end
            order by t.number for update of t
        )
        delete from {{s}}.tasks t using dropped d where t.number = d.number;
    end if;
    if cardinality(letter_ids) > 0 then
        insert into {{s}}.dead_letters (instance, task, kind, name, at_us, attempts, type_name, message)
            select * from unnest(letter_ids, letter_tasks, letter_kinds, letter_names, letter_ats, letter_attempts,
                letter_types, letter_messages)
            on conflict (instance, task) do update set kind = excluded.kind, name = excluded.name,
                at_us = excluded.at_us, attempts = excluded.attempts, type_name = excluded.type_name,
                message = excluded.message;
    end if;
    if cardinality(redeemed) > 0 then
        delete from {{s}}.dead_letters where task = 0 and instance = any(redeemed);
    end if;
    if cardinality(send_targets) = 0 then
        return '{{{{}}}}';
    end if;
    for m in select * from unnest(send_targets, send_bodies, send_keys, send_senders, send_births, send_replaces,
            send_workflows, send_versions, send_statuses, send_createds, send_wakes, send_tag_sets, send_parents,
            send_bases, send_admissions, send_exists, send_delivered, send_missing, send_over)
            as t(target, body, key, sender, birth, replace, workflow, version, status, created, wake, tags, parent,
                base, admission, when_exists, when_delivered, when_missing, when_over) loop
        outcome := {{s}}.send_one(m.target, m.body, m.key, m.birth, m.replace, m.workflow, m.version, m.status,
            m.created, m.wake, m.tags, m.parent, m.base, m.admission, null);
        answer := case outcome when 'exists' then m.when_exists when 'delivered' then m.when_delivered
            when 'missing' then m.when_missing else m.when_over end;
        if answer is not null then
            insert into {{s}}.inbox (instance, data)
                select m.sender, answer where exists (select 1 from {{s}}.instances where id = m.sender);
        end if;
    end loop;
    select array_agg(distinct owner) into owners from {{s}}.instances
        where id = any(send_targets) and owner is distinct from worker;
    return coalesce(owners, '{{{{}}}}');
end $$
"""
"""The other lists of a commit, in the transaction of `commit_turns`; gives the workers that have got messages."""

_CLAIM: Final = f"""
create or replace function {{s}}.claim_instances(worker bigint, most integer)
returns table (instance text, wake bigint) language plpgsql {SETTINGS} as $$
declare
    ghost bigint;
    room integer := most;
    got integer;
begin
    perform 1 from {{s}}.workers where id = worker for key share;
    if not found then
        raise exception 'the worker was declared dead' using errcode = '{FENCED}';
    end if;
    for ghost in
        with recursive owners(owner) as (
            (select i.owner from {{s}}.instances i where i.finished_us is null and i.owner is not null
                order by i.owner limit 1)
            union all
            select (select i.owner from {{s}}.instances i where i.finished_us is null and i.owner > o.owner
                order by i.owner limit 1) from owners o where o.owner is not null
        )
        select o.owner from owners o
            where o.owner is not null and not exists (select 1 from {{s}}.workers w where w.id = o.owner)
        union all select null
    loop
        exit when room <= 0;
        if ghost is null then
            return query
                with chosen as (
                    select i.id from {{s}}.instances i where i.finished_us is null and i.owner is null
                    order by i.wake_us limit room for update skip locked
                )
                update {{s}}.instances as i set owner = worker from chosen c where i.id = c.id
                returning i.id, i.wake_us;
        else
            return query
                with chosen as (
                    select i.id from {{s}}.instances i where i.finished_us is null and i.owner = ghost
                    order by i.wake_us limit room for update skip locked
                )
                update {{s}}.instances as i set owner = worker from chosen c where i.id = c.id
                returning i.id, i.wake_us;
        end if;
        get diagnostics got = row_count;
        room := room - got;
    end loop;
end $$
"""
"""Take over what nobody living owns; what is due comes first."""

_INBOX: Final = f"""
create or replace function {{s}}.read_inbox(worker bigint, after bigint, most integer)
returns table (number bigint, instance text, data bytea) language sql stable {SETTINGS} as $$
    select b.number, b.instance, b.data
    from {{s}}.inbox b
    where b.number > after and (select i.owner from {{s}}.instances i where i.id = b.instance) = worker
    order by b.number limit most
$$
"""

_REFUSE_WRITES: Final = f"""
create or replace function {{s}}.refuse_writes() returns trigger language plpgsql as $$
declare
    seal record;
begin
    select m.side, m.other, m.is_gone, m.is_writing into seal from {{s}}.moves m;
    if found and not seal.is_writing then
        raise exception 'the store is sealed' using errcode = '{SEALED}',
            detail = json_build_object('other', seal.other, 'is_source', seal.side = 'source', 'is_gone', seal.is_gone);
    end if;
    return null;
end $$
"""
"""Of the triggers that a seal puts before all writes."""

FUNCTIONS: Final = (
    _REFUSE_WRITES,
    _PURGE_ONE,
    _PICK_WORKER,
    _SEND_ONE,
    _SEND,
    _SEND_APART,
    _OWNERS_OF,
    _COMMIT,
    _IN_THE_WAY,
    _COMMIT_RARE,
    _CLAIM,
    _INBOX,
)
"""In an order in which they can be made; `{{s}}` stands for the schema, quoted."""
