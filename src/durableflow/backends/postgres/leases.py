"""Who works here: leases, who is dead, and who owns which instances. Time is the server's."""

from __future__ import annotations

from typing import Final

ACQUIRE: Final = """
    insert into {s}.workers (name, expires) values ($1, clock_timestamp() + $2 * interval '1 microsecond') returning id
"""
RENEW: Final = """
    update {s}.workers set expires = clock_timestamp() + $2 * interval '1 microsecond'
    where id = $1
    returning (extract(epoch from clock_timestamp()) * 1000000)::bigint,
        not exists (select 1 from {s}.workers w where w.id < $1 and w.expires > clock_timestamp())
"""
"""The server's time, and whether this worker is the one that does what one must do for all: the oldest that lives."""

NOTE_SHARE: Final = "update {s}.workers set owned = $2, accepts = $3 where id = $1"
BURY: Final = """
    with dead as (
        delete from {s}.workers where id in (
            select id from {s}.workers where expires < clock_timestamp() for update skip locked
        ) returning id, name
    )
    insert into {s}.takeovers (worker, name, at_us)
        select id, name, (extract(epoch from clock_timestamp()) * 1000000)::bigint from dead
        returning worker
"""
"""A worker that is dead owns nothing from here on; a commit of its own that is under way is waited for, elsewhere."""

SWEEP: Final = """
    delete from {s}.inbox b where exists (
        select 1 from {s}.instances i where i.id = b.instance and i.finished_us is not null
            and not exists (select 1 from {s}.workers w where w.id = i.owner)
    )
"""
"""Messages that came while the turn that ended their instance was being committed: its worker, who would have found and
dropped them, is gone."""

FORGET_TAKEOVERS: Final = """
    delete from {s}.takeovers
    where worker <= (select worker from {s}.takeovers order by worker desc offset 1000 limit 1)
"""
RELEASE: Final = "delete from {s}.workers where id = $1"
HAND_OVER: Final = """
    update {s}.instances set owner = null where id = any($2::text[]) and owner = $1 and finished_us is null
"""
SHARES: Final = """
    select coalesce(sum(owned), 0)::bigint, count(*) from {s}.workers where accepts and expires > clock_timestamp()
"""
COUNT_OWNED: Final = "select count(*) from {s}.instances where owner = $1 and finished_us is null"
OWNERS: Final = """
    select i.id, i.owner from {s}.instances i join {s}.workers w on w.id = i.owner
    where i.id = any($1::text[]) and w.expires > clock_timestamp()
"""
OWNED: Final = "select id from {s}.instances where owner = $1 and finished_us is null order by wake_us desc limit $2"
"""Those that are due last come first."""
