"""The functions of tasks; see `functions.py` for what all functions of a store have in common.

Who waits for whom, so that nobody waits in a circle:

1. The row of a server is locked first: shared by what it writes, alone by what ends it.
2. The row of a queue is locked by claims, and only of a queue that has a limit, in the order of their names.
3. Tasks are locked in the order of their numbers, or skipped when somebody else has them.
4. A lane is moved on by one claim at a time; another that goes on meanwhile leaves it to that one.
"""

from __future__ import annotations

from typing import Final

from durableflow.backends.postgres.functions import SETTINGS
from durableflow.backends.tasks import ADMITTED, CLAIMED, DELAYED, HANDED_OVER, WAITING

SERVER_DEAD: Final = "DF004"
"""SQLSTATE: the server of queues was declared dead."""
_CLAIM_MAX: Final = 1_000
_DUE_MAX: Final = 10_000
_AHEAD: Final = 50
"""So many more than are wanted are looked at, and twice as many: some may be in the hands of others."""
_PLAIN, _SUSPECT, _START = 0, 1, 2
"""What the column `kind` says."""

_VTIME_MAX: Final = 2**61
"""Who is put behind it has lost his place, but can be put there: one more is still a number."""

_WRITE_TASKS: Final = f"""
create or replace function {{s}}.write_tasks(
    instances text[], tasks bigint[], queue_names text[], names text[], inputs bytea[], options_of bytea[],
    priorities integer[], keys text[], not_befores bigint[], expiries bigint[], scheduled_ats bigint[]
) returns void language plpgsql {SETTINGS} as $$
begin
    insert into {{s}}.queues (name)
        select distinct n.name from unnest(queue_names) as n(name)
        where not exists (select 1 from {{s}}.queues k where k.name = n.name)
        order by n.name on conflict do nothing;
    insert into {{s}}.lanes (queue, priority)
        select distinct k.id, n.priority
        from unnest(queue_names, priorities) as n(name, priority) join {{s}}.queues k on k.name = n.name
        where not exists (select 1 from {{s}}.lanes l where l.queue = k.id and l.priority = n.priority)
        order by k.id, n.priority on conflict do nothing;
    with made as materialized (
        select u.*, k.id as queue_id,
            row_number() over (partition by k.id, u.priority, u.fairness_key order by u.place) as rank
        from unnest(instances, tasks, queue_names, names, inputs, options_of, priorities, keys, not_befores, expiries,
                scheduled_ats) with ordinality
            as u(instance, task, queue_name, name, input, options, priority, fairness_key, not_before_us, expires_us,
                scheduled_at_us, place)
            join {{s}}.queues k on k.name = u.queue_name
    ), begun as materialized (
        select m.*, case when m.rank = 1 then greatest(
            (select l.vtime from {{s}}.lanes l where l.queue = m.queue_id and l.priority = m.priority),
            (select least(t.vtime, {_VTIME_MAX}) + 1 from {{s}}.tasks t
                where t.queue = m.queue_id and t.priority = m.priority
                and t.fairness_key = m.fairness_key order by t.vtime desc limit 1)
        ) end as first_vtime
        from made m
    )
    insert into {{s}}.tasks (instance, task, queue, name, input, options, priority, fairness_key, state, not_before_us,
            expires_us, scheduled_at_us, vtime)
        select b.instance, b.task, b.queue_id, b.name, b.input, b.options, b.priority, b.fairness_key,
            case when b.not_before_us > 0 then {DELAYED} else {WAITING} end, b.not_before_us, b.expires_us,
            b.scheduled_at_us,
            least({_VTIME_MAX}, max(b.first_vtime) over (partition by b.queue_id, b.priority, b.fairness_key))
                + b.rank - 1
        from begun b order by b.place;
end $$
"""
"""Each behind those of its queue, priority and key: start-time fair queuing, see `backends/tasks.py`.

Of two workers that write tasks of one key in the same moment, neither sees those of the other: some of these tasks have
the same places. They would have to wait for each other otherwise.
"""

_RATE_ROOM: Final = """
create or replace function {s}.rate_room(k {s}.queues, now_us bigint) returns bigint language sql immutable as $$
    select greatest(0, k.rate_burst - div(greatest(0, k.full_us::numeric - now_us) * k.rate_count
        + k.rate_period_us - 1, k.rate_period_us))::bigint
$$
"""
_RATE_NEXT: Final = """
create or replace function {s}.rate_next_us(k {s}.queues) returns bigint language sql immutable as $$
    select greatest(0, k.full_us - div((k.rate_burst - 1)::numeric * k.rate_period_us, k.rate_count))::bigint
$$
"""
"""As `tasks.rate_room` and `tasks.rate_next_us`; in numbers that cannot overflow, and are whole all the same."""

_QUEUE_ROOM: Final = f"""
create or replace function {{s}}.queue_room(k {{s}}.queues, now_us bigint) returns bigint language plpgsql stable as $$
declare
    most bigint := {_CLAIM_MAX};
begin
    if k.concurrency is not null then
        most := least(most, k.concurrency - (
            select count(*) from {{s}}.tasks t where t.queue = k.id and t.state = {CLAIMED}));
    end if;
    if k.rate_count > 0 then
        most := least(most, {{s}}.rate_room(k, now_us));
    end if;
    return greatest(0, most);
end $$
"""
"""How many tasks may be claimed now, by whomever."""

_ALL_WAITING: Final = f"t.state = {WAITING} and t.queue = of_queue and t.kind = of_kind"
_WAITING_BY_NAME: Final = f"t.state <= {WAITING} and t.number > 0 and t.queue = of_queue and t.kind = of_kind"
"""What makes the index by name the one that is used; see the schema."""
_ORDER: Final = "t.priority desc, t.vtime, t.number"

_NAME_WAITS: Final = f"""
create or replace function {{s}}.name_waits(of_queue bigint, of_kind integer, known text[])
returns boolean language plpgsql stable as $$
begin
    return exists (
        select 1 from unnest(known) as n(name) cross join lateral (
            select 1 from {{s}}.tasks t where {_WAITING_BY_NAME} and t.name = n.name order by {_ORDER} limit 1
        ) as f
    );
end $$
"""

_PICK: Final = f"""
create or replace function {{s}}.pick_tasks(of_queue bigint, of_kind integer, known text[], most bigint)
returns bigint[] language plpgsql as $$
declare
    ahead bigint := 2 * most + {_AHEAD};
    seen bigint[];
    picked bigint[];
begin
    if most <= 0 then
        return '{{{{}}}}';
    end if;
    picked := array(
        select t.number from (
            select t.number, t.name, t.priority, t.vtime from {{s}}.tasks t where {_ALL_WAITING}
            order by {_ORDER} limit ahead
        ) as f join {{s}}.tasks t on t.number = f.number and t.state = {WAITING}
        where f.name = any(known)
        order by f.priority desc, f.vtime, f.number limit most for update of t skip locked
    );
    if cardinality(picked) = most
        or not exists (select 1 from {{s}}.tasks t where {_ALL_WAITING} order by {_ORDER} offset ahead limit 1)
    then
        return picked;
    end if;
    loop
        seen := array(
            select t.number from unnest(known) as n(name) cross join lateral (
                select t.number, t.priority, t.vtime from {{s}}.tasks t where {_WAITING_BY_NAME} and t.name = n.name
                order by {_ORDER} limit ahead
            ) as t
            order by {_ORDER} limit ahead
        );
        picked := array(
            select t.number from unnest(seen) with ordinality as s(number, place) join {{s}}.tasks t
                on t.number = s.number and t.state = {WAITING}
            order by s.place limit most for update of t skip locked
        );
        if cardinality(picked) = most or cardinality(seen) < ahead then
            return picked;
        end if;
        ahead := 4 * ahead;  -- so many are in the hands of others
    end loop;
end $$
"""
"""Locks the first tasks that wait and are known by name, and that nobody else has got hold of.

Nearly always they are among the first of all. Where any number of others is before them, each name is looked at by
itself.
"""

_TASK_WAITS: Final = f"""
create or replace function {{s}}.task_waits(
    of_queue bigint, known text[], has_room boolean, takes_suspect boolean, admits boolean
) returns boolean language plpgsql stable as $$
begin
    return (has_room and {{s}}.name_waits(of_queue, {_PLAIN}, known))
        or (has_room and takes_suspect and {{s}}.name_waits(of_queue, {_SUSPECT}, known))
        or (admits and exists (select 1 from {{s}}.tasks t where t.state = {WAITING} and t.queue = of_queue
            and t.kind = {_START}));
end $$
"""
"""Whether there is something for a server to take, had the queue room."""

_GHOSTS: Final = f"""
create or replace function {{s}}.ghost_servers() returns setof bigint language sql stable as $$
    with recursive holders(server) as (
        (select t.claimed_by from {{s}}.tasks t where t.state = {CLAIMED} and t.claimed_by > 0
            order by t.claimed_by limit 1)
        union all
        select (select t.claimed_by from {{s}}.tasks t where t.state = {CLAIMED} and t.claimed_by > h.server
            order by t.claimed_by limit 1) from holders h where h.server is not null
    )
    select h.server from holders h
        where h.server is not null and not exists (select 1 from {{s}}.servers v where v.id = h.server)
$$
"""
"""Servers that have claimed tasks, and are none any more; from one to the next, however many tasks there are."""

READABLE_LIMITS: Final = (
    "coalesce(q.concurrency >= 0, true) and q.rate_count >= 0 and q.rate_burst >= 0 "
    "and (q.rate_count = 0 or q.rate_period_us > 0)"
)
"""Of a queue whose limits somebody has set; from any other nothing is claimed."""

_OPEN_QUEUES: Final = f"""
    select q.* from {{s}}.queues q where not q.is_paused and {READABLE_LIMITS}
        and (select true from {{s}}.tasks t where t.queue = q.id and t.state = {WAITING} limit 1) order by q.name
"""
"""Those from which something might be claimed, had they room. With EXISTS all tasks that wait would be read."""

_LOOK: Final = f"""
create or replace function {{s}}.look_at_tasks(
    server bigint, known text[], room_queues text[], rooms bigint[], other_room bigint, takes_suspect boolean,
    admits boolean, now_us bigint
) returns table (is_claimable boolean, is_overdue boolean, next_us bigint)
language plpgsql stable {SETTINGS} as $$
declare
    k {{s}}.queues;
    room bigint;
    due bigint;
    opens bigint;
    expiry bigint;
    lease_us bigint;
begin
    if not exists (select 1 from {{s}}.tasks) then
        return query select false, false, null::bigint;
        return;
    end if;
    select min(t.not_before_us) into due from {{s}}.tasks t where t.state = {DELAYED};
    is_claimable := coalesce(due <= now_us, false);
    if not is_claimable then
        for k in {_OPEN_QUEUES} loop
            room := coalesce((select r.room from unnest(room_queues, rooms) as r(queue, room) where r.queue = k.name),
                other_room);
            if not {{s}}.task_waits(k.id, known, room > 0, takes_suspect, admits) then
                continue;
            end if;
            if {{s}}.queue_room(k, now_us) > 0 then
                is_claimable := true;
                opens := null;
                exit;
            end if;
            if k.rate_count > 0 and {{s}}.rate_room(k, now_us) = 0 then
                opens := least(opens, {{s}}.rate_next_us(k));
            end if;
        end loop;
    end if;
    select min(t.expires_us) into expiry from {{s}}.tasks t where t.expires_us is not null and t.state <> {CLAIMED};
    -- A moment that is infinite, which nobody writes, has no distance from now, and that must not stop the queues.
    select ceil(extract(epoch from min(greatest(v.expires, 'epoch')) - clock_timestamp()) * 1000000)::bigint
        into lease_us from {{s}}.servers v where v.id <> server and v.expires < 'infinity';
    is_overdue := coalesce(expiry <= now_us, false) or coalesce(lease_us <= 0, false)
        or exists (select 1 from {{s}}.ghost_servers());
    next_us := (select min(m.at_us) from unnest(array[due, opens, expiry, now_us + lease_us]) as m(at_us)
        where m.at_us > now_us);
    return next;
end $$
"""
"""It reads only. Leases are counted by this server's clock: what is left of them is added to the time that is given."""

_CLAIM: Final = f"""
create or replace function {{s}}.claim_tasks(
    server bigint, known text[], room_queues text[], rooms bigint[], other_room bigint, takes_suspect boolean,
    admission bytea, now_us bigint
) returns table (admitted bigint, owners bigint[], next_us bigint, taken {{s}}.tasks, queue_name text)
language plpgsql {SETTINGS} as $$
declare
    k {{s}}.queues;
    room bigint;
    most bigint;
    numbers bigint[];
    let_in text[];
    all_in text[] := '{{{{}}}}';
    begun bigint;
    has_suspect boolean;
    opens bigint;
begin
    perform txid_current();  -- before a number is drawn: readers of the inbox count on it
    perform 1 from {{s}}.servers v where v.id = server for key share;
    if not found then
        raise exception 'the server was declared dead' using errcode = '{SERVER_DEAD}';
    end if;
    with due as materialized (
        select t.number from {{s}}.tasks t where t.state = {DELAYED} and t.not_before_us <= now_us
        order by t.not_before_us limit {_DUE_MAX} for update skip locked
    )
    update {{s}}.tasks t set state = {WAITING} from due d where t.number = d.number;
    for k in {_OPEN_QUEUES} loop
        room := coalesce((select r.room from unnest(room_queues, rooms) as r(queue, room) where r.queue = k.name),
            other_room);
        if room <= 0 and admission is null then
            continue;
        end if;
        most := {_CLAIM_MAX};
        if k.concurrency is not null or k.rate_count > 0 then
            select q.* into k from {{s}}.queues q where q.id = k.id for no key update;
            if k.is_paused then
                continue;
            end if;
            most := {{s}}.queue_room(k, now_us);
        end if;
        numbers := {{s}}.pick_tasks(k.id, {_PLAIN}, known, least(room, most));
        if takes_suspect and room > 0 and most > 0 and exists (
            select 1 from {{s}}.tasks t where t.state = {WAITING} and t.queue = k.id and t.kind = {_SUSPECT}
        ) then
            numbers := numbers || {{s}}.pick_tasks(k.id, {_SUSPECT}, known, 1);
        end if;
        with start as materialized (
            select t.number, t.kind, t.priority, t.vtime from {{s}}.tasks t
            where t.state = {WAITING} and t.queue = k.id and t.kind = {_START}
            order by {_ORDER}
            limit case when admission is null then 0 else most end for update skip locked
        ), ranked as (
            select p.*, sum(case when p.kind = {_START} then 0 else 1 end)
                over (order by p.priority desc, p.vtime, p.number) as rank
            from (
                select t.number, t.kind, t.priority, t.vtime from {{s}}.tasks t where t.number = any(numbers)
                union all select * from start
            ) as p
        ), chosen as materialized (
            select r.* from ranked r where r.kind = {_START} or r.rank <= room
            order by r.priority desc, r.vtime, r.number limit most
        ), claimed as (
            update {{s}}.tasks t set state = {CLAIMED}, started_us = now_us,
                claimed_by = case when c.kind = {_START} then {ADMITTED} else server end
            from chosen c where t.number = c.number
            returning t.number, t.instance, c.kind, c.priority, c.vtime
        )
        select array_agg(c.number order by c.priority desc, c.vtime, c.number),
            array_agg(c.instance order by c.priority desc, c.vtime, c.number) filter (where c.kind = {_START}),
            count(*) filter (where c.kind <> {_START}), coalesce(bool_or(c.kind = {_SUSPECT}), false)
            into numbers, let_in, begun, has_suspect from claimed c;
        takes_suspect := takes_suspect and not has_suspect;
        if numbers is not null then
            with passed as materialized (
                select t.priority, least({_VTIME_MAX}, max(t.vtime)) + 1 as vtime
                from {{s}}.tasks t where t.number = any(numbers) group by t.priority
            ), behind as materialized (
                select l.priority, p.vtime from passed p
                    join {{s}}.lanes l on l.queue = k.id and l.priority = p.priority and l.vtime < p.vtime
                for no key update of l skip locked
            )
            update {{s}}.lanes l set vtime = b.vtime from behind b where l.queue = k.id and l.priority = b.priority;
        end if;
        if k.rate_count > 0 then
            if numbers is not null then
                k.full_us := greatest(k.full_us, now_us) + div(
                    cardinality(numbers)::numeric * k.rate_period_us + k.rate_count - 1, k.rate_count)::bigint;
                update {{s}}.queues q set full_us = k.full_us where q.id = k.id;
            end if;
            if {{s}}.rate_room(k, now_us) = 0
                and {{s}}.task_waits(k.id, known, room > begun, takes_suspect, admission is not null)
            then
                opens := least(opens, {{s}}.rate_next_us(k));
            end if;
        end if;
        if let_in is not null then
            insert into {{s}}.inbox (instance, data)
                select i.id, admission from unnest(let_in) with ordinality as i(id, place) order by i.place;
            all_in := all_in || let_in;
        end if;
        return query select null::bigint, null::bigint[], null::bigint, t, k.name
            from unnest(numbers) with ordinality as n(number, place) join {{s}}.tasks t on t.number = n.number
            where t.kind <> {_START} order by n.place;
    end loop;
    return query select cardinality(all_in)::bigint,
        array(select distinct i.owner from {{s}}.instances i where i.id = any(all_in)), opens, null::{{s}}.tasks,
        null::text;
end $$
"""
"""The tasks, in order; then a row without one, with what else is to be said.

Servers that claim at once each pass by what the others have got hold of. A queue without limits holds nobody up; of one
that has some, the row is locked until the claim is durable, so that what the others claimed is counted.
"""

_FINISH: Final = f"""
create or replace function {{s}}.finish_tasks(
    server bigint, numbers bigint[], attempts integer[], states integer[], claimers bigint[], messages bytea[],
    goings boolean[], next_states integer[], next_attempts integer[], next_not_befores bigint[],
    next_expiries bigint[], next_details bytea[], next_uncounted integer[], next_losses integer[],
    next_suspects boolean[]
) returns table (written bigint[], owners bigint[], frees boolean)
language plpgsql {SETTINGS} as $$
declare
    told text[];
    of_queues bigint[];
begin
    perform txid_current();  -- before a number is drawn: readers of the inbox count on it
    if server is not null then
        perform 1 from {{s}}.servers v where v.id = server for key share;
        if not found then
            raise exception 'the server was declared dead' using errcode = '{SERVER_DEAD}';
        end if;
    end if;
    with seen as materialized (
        select e.*, t.instance, t.queue
        from unnest(numbers, attempts, states, claimers, messages, goings, next_states, next_attempts,
                next_not_befores, next_expiries, next_details, next_uncounted, next_losses, next_suspects)
                with ordinality
            as e(number, attempt, state, claimed_by, message, goes_on, next_state, next_attempt, next_not_before_us,
                next_expires_us, next_details, next_uncounted, next_losses, next_suspect, place)
            join {{s}}.tasks t on t.number = e.number and t.attempt = e.attempt and t.state = e.state
                and t.claimed_by = e.claimed_by
        order by e.number, e.place for update of t
    ), ended as materialized (
        select distinct on (s.number) s.* from seen s order by s.number, s.place
    ), gone as (
        delete from {{s}}.tasks t using ended e where t.number = e.number and not e.goes_on
    ), gone_on as (
        update {{s}}.tasks t set state = e.next_state, attempt = e.next_attempt, not_before_us = e.next_not_before_us,
            expires_us = e.next_expires_us, details = coalesce(e.next_details, t.details),
            uncounted = e.next_uncounted, losses = e.next_losses, is_suspect = e.next_suspect, claimed_by = 0,
            token_digest = case when e.next_state = {HANDED_OVER} then t.token_digest end
        from ended e where t.number = e.number and e.goes_on
    ), said as (
        insert into {{s}}.inbox (instance, data) select e.instance, e.message from ended e order by e.place
    )
    select array_agg(e.place), array_agg(distinct e.instance), array_agg(distinct e.queue),
        bool_or(e.goes_on and e.next_state <> {HANDED_OVER})
        into written, told, of_queues, frees from ended e;
    if written is not null then
        owners := array(select distinct i.owner from {{s}}.instances i where i.id = any(told));
        frees := frees or exists (
            select 1 from {{s}}.queues k where k.id = any(of_queues) and k.concurrency is not null);
    end if;
    return next;
end $$
"""
"""Which of the ends counted, by place from 1; who is to be told; and whether others may find something to claim.

Of two ends of one task in a group the first counts.
"""

TASK_FUNCTIONS: Final = (
    _WRITE_TASKS,
    _RATE_ROOM,
    _RATE_NEXT,
    _QUEUE_ROOM,
    _NAME_WAITS,
    _PICK,
    _TASK_WAITS,
    _GHOSTS,
    _LOOK,
    _CLAIM,
    _FINISH,
)
"""In an order in which they can be made; `{{s}}` stands for the schema, quoted."""
