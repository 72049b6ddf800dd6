"""Tasks of queues and tokens; see `backends/tasks.py`. Leases are counted by the clock of the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from durableflow.backends.base import Lease
from durableflow.backends.postgres.database import Connection, Refused
from durableflow.backends.postgres.store import Store, owner_words
from durableflow.backends.postgres.task_functions import READABLE_LIMITS, SERVER_DEAD
from durableflow.backends.tasks import (
    CLAIMED,
    HANDED_OVER,
    WAITING,
    ClaimRequest,
    Claims,
    Offer,
    Outlook,
    QueueLimits,
    QueueRecord,
    StoredTask,
    TaskBeat,
    TaskEnd,
)
from durableflow.errors import LeaseLost

_BEFORE_QUEUE: Final = ("number", "instance", "task", "attempt")
_AFTER_QUEUE: Final = (
    "name", "input", "options", "priority", "fairness_key", "state", "not_before_us", "expires_us", "claimed_by",
    "started_us", "token_digest", "details", "scheduled_at_us", "uncounted", "losses", "is_suspect",
)  # fmt: skip


def _stored(row: str, queue: str) -> str:
    """The columns of a `StoredTask`, of a row and the name of its queue."""
    return ", ".join([*(f"{row}.{name}" for name in _BEFORE_QUEUE), queue, *(f"{row}.{name}" for name in _AFTER_QUEUE)])


_NAME: Final = "coalesce(k.name, '')"
_TASKS: Final = f"select {_stored('t', _NAME)} from {{s}}.tasks t left join {{s}}.queues k on k.id = t.queue"
_ENLIST: Final = """
    insert into {s}.servers (name, expires) values ($1, clock_timestamp() + $2 * interval '1 microsecond') returning id
"""
_RENEW: Final = f"""
    with alive as (
        update {{s}}.servers set expires = clock_timestamp() + $2 * interval '1 microsecond' where id = $1 returning id
    )
    select t.number, t.attempt from alive a left join {{s}}.tasks t on t.state = {CLAIMED} and t.claimed_by = a.id
    order by t.number
"""
_SERVER: Final = "select 1 from {s}.servers where id = $1 for update"
_GIVE_BACK: Final = f"""
    with held as materialized (
        select t.number from {{s}}.tasks t where t.state = {CLAIMED} and t.claimed_by = $1 order by t.number for update
    )
    update {{s}}.tasks t set state = {WAITING}, claimed_by = 0, token_digest = null
    from held h where t.number = h.number
"""
_LOOK: Final = f"""
    select is_claimable, is_overdue, next_us,
        (select coalesce(array_agg(q.name), '{{{{}}}}') from {{s}}.queues q where not ({READABLE_LIMITS}))
    from {{s}}.look_at_tasks($1::bigint, $2::text[], $3::text[], $4::bigint[], $5::bigint, $6::boolean, $7::boolean,
        $8::bigint)
"""
_CLAIM: Final = f"""
    select c.admitted, c.owners, c.next_us, {_stored("(c.taken)", "c.queue_name")}
    from {{s}}.claim_tasks($1::bigint, $2::text[], $3::text[], $4::bigint[], $5::bigint, $6::boolean, $7::bytea,
        $8::bigint) as c
"""
_BURY: Final = """
    delete from {s}.servers where id in (
        select id from {s}.servers where id <> $1 and expires <= clock_timestamp() for update skip locked
    )
"""
_OVERDUE: Final = f"""
    with late as materialized (
        (select t.number from {{s}}.tasks t where t.expires_us <= $1 and t.state <> {CLAIMED}
            order by t.number limit $2)
        union all
        (select t.number from {{s}}.ghost_servers() as g(server)
            join {{s}}.tasks t on t.state = {CLAIMED} and t.claimed_by = g.server order by t.number limit $2)
    )
    {_TASKS} where t.number in (select number from late) order by t.number limit $2
"""
_FINISH: Final = """
    select written, owners, frees from {s}.finish_tasks($1::bigint, $2::bigint[], $3::int[], $4::int[], $5::bigint[],
        $6::bytea[], $7::boolean[], $8::int[], $9::int[], $10::bigint[], $11::bigint[], $12::bytea[], $13::int[],
        $14::int[], $15::boolean[])
"""
_BEAT: Final = f"""
    with there as materialized (
        select b.* from unnest($1::bigint[], $2::int[], $3::bytea[], $4::bigint[])
                as b(number, attempt, details, expires_us)
            join {{s}}.tasks t on t.number = b.number and t.attempt = b.attempt
                and t.state in ({CLAIMED}, {HANDED_OVER})
        order by b.number for update of t
    )
    update {{s}}.tasks t set details = b.details, expires_us = coalesce(b.expires_us, t.expires_us)
    from there b where t.number = b.number returning t.number, t.attempt
"""
_ACTIVE: Final = "select 1 from {s}.instances where id = $1 and finished_us is null for share"
_OFFER: Final = f"""
    insert into {{s}}.tasks (instance, task, attempt, queue, name, input, options, state, expires_us, started_us,
        token_digest, scheduled_at_us, uncounted) values ($1, $2, $3, 0, $4, '', $5, {HANDED_OVER}, $6, $7, $8, $9, $10)
    on conflict (instance, task) do nothing returning 1
"""
_OFFER_CLAIMED: Final = f"""
    update {{s}}.tasks set token_digest = $4
    where number = $1 and attempt = $2 and state = {CLAIMED} and claimed_by = $3 returning 1
"""
_QUEUES: Final = """
    select k.name, k.concurrency, k.rate_count, k.rate_period_us, k.rate_burst, k.is_paused, c.waiting, c.delayed,
        c.claimed, c.handed_over, c.oldest_us
    from {s}.queues k cross join lateral (
        select count(*) filter (where t.state = 0) as waiting, count(*) filter (where t.state = 1) as delayed,
            count(*) filter (where t.state = 2) as claimed, count(*) filter (where t.state = 3) as handed_over,
            min(t.scheduled_at_us) filter (where t.state = 0) as oldest_us
        from {s}.tasks t where t.queue = k.id
    ) c
    where $1::text is null or k.name = $1::text order by k.name
"""
_LIMIT: Final = """
    insert into {s}.queues as k (name, concurrency, rate_count, rate_period_us, rate_burst) values ($1, $2, $3, $4, $5)
    on conflict (name) do update set concurrency = $2, rate_count = $3, rate_period_us = $4, rate_burst = $5,
        full_us = case when (k.rate_count, k.rate_period_us, k.rate_burst) = ($3, $4, $5) then k.full_us else 0 end
"""
_PAUSE: Final = """
    insert into {s}.queues (name, is_paused) values ($1, $2) on conflict (name) do update set is_paused = $2
"""


class Tasks(Store):
    """The part of the backend that keeps tasks."""

    # -- the side of those who serve ------------------------------------------------------------------------

    async def enlist_server(self, name: str, ttl_us: int, now_us: int) -> int:  # noqa: ARG002  # the database's time counts
        """See `TaskStore.enlist_server`."""
        ((server_id,),) = await self._write(_ENLIST, name, ttl_us)
        return int(server_id)

    async def renew_server(self, server_id: int, ttl_us: int, now_us: int) -> list[tuple[int, int]]:  # noqa: ARG002  # likewise
        """See `TaskStore.renew_server`."""
        rows = await self._database.write_at_once(self._sql(_RENEW), server_id, ttl_us)
        if not rows:
            raise _declared_dead(server_id)
        return [(number, attempt) for number, attempt in rows if number is not None]

    async def retire_server(self, server_id: int, ends: Sequence[TaskEnd]) -> None:
        """See `TaskStore.retire_server`."""

        async def work(connection: Connection) -> Any:
            # Alone from here on: a claim that is under way is waited for, and none comes after.
            if await connection.fetchval(self._sql(_SERVER), server_id) is None:
                raise _declared_dead(server_id)
            finished = await connection.fetchrow(self._sql(_FINISH), server_id, *_end_arrays(ends))
            await connection.execute(self._sql(_GIVE_BACK), server_id)
            await connection.execute(self._sql("delete from {s}.servers where id = $1"), server_id)
            return finished

        finished = await self._transaction(work)
        self._hint(["t", *owner_words(finished["owners"] or ())])

    async def look_at_tasks(self, request: ClaimRequest, now_us: int) -> Outlook:
        """See `TaskStore.look_at_tasks`."""
        admits = request.admission is not None
        (row,) = await self._read(_LOOK, *_asked(request), request.takes_suspect, admits, now_us)
        return Outlook._make((*row[:3], tuple(row[3])))

    async def claim(self, request: ClaimRequest, now_us: int) -> Claims:
        """See `TaskStore.claim`."""
        given = (*_asked(request), request.takes_suspect, request.admission, now_us)
        *rows, last = await self._as_server(request.server_id, _CLAIM, *given)
        admitted, owners, next_us = last[:3]
        if admitted:
            self._hint(owner_words(owners))
        return Claims([StoredTask._make(row[3:]) for row in rows], admitted, next_us)

    async def claimed_tasks(self, server_id: int) -> list[StoredTask]:
        """See `TaskStore.claimed_tasks`."""
        where = f"where t.state = {CLAIMED} and t.claimed_by = $1 order by t.number"
        return [StoredTask(*row) for row in await self._read(f"{_TASKS} {where}", server_id)]

    async def overdue_tasks(self, server_id: int, now_us: int, limit: int) -> list[StoredTask]:
        """See `TaskStore.overdue_tasks`. Of a server that is dead there is no row; so its claims are nobody's."""

        async def work(connection: Connection) -> list[StoredTask]:
            await connection.execute(self._sql(_BURY), server_id)
            return [StoredTask(*row) for row in await connection.fetch(self._sql(_OVERDUE), now_us, limit)]

        return await self._transaction(work)

    async def finish_tasks(self, ends: Sequence[TaskEnd], server_id: int | None) -> list[bool]:
        """See `TaskStore.finish_tasks`."""
        (row,) = await self._as_server(server_id, _FINISH, server_id, *_end_arrays(ends))
        written, owners, frees = row
        if written is None:
            return [False] * len(ends)
        self._hint([*owner_words(owners), *(["t"] if frees else [])])
        counted = set(written)
        return [place in counted for place in range(1, len(ends) + 1)]

    async def beat_tasks(self, beats: Sequence[TaskBeat]) -> list[bool]:
        """See `TaskStore.beat_tasks`."""
        last: dict[tuple[int, int], TaskBeat] = {}
        for beat in beats:
            before = last.get(beat[:2], beat)
            expires_us = before.expires_us if beat.expires_us is None else beat.expires_us
            last[beat[:2]] = beat._replace(expires_us=expires_us)
        columns = list(zip(*last.values(), strict=True)) if last else [()] * 4
        known = {(number, attempt) for number, attempt in await self._write(_BEAT, *columns)}
        return [beat[:2] in known for beat in beats]

    async def _as_server(self, server_id: int | None, template: str, *parameters: object) -> Sequence[Any]:
        try:
            return await self._write(template, *parameters)
        except Refused as error:
            if error.state == SERVER_DEAD and server_id is not None:
                raise _declared_dead(server_id) from error
            raise

    # -- tokens ---------------------------------------------------------------------------------------------

    async def offer_task(self, lease: Lease, offer: Offer) -> bool:
        """See `TaskStore.offer_task`."""

        async def work(connection: Connection) -> bool:
            await self._fence(connection, lease)
            if await connection.fetchval(self._sql(_ACTIVE), offer.instance_id) is None:
                return False
            gone = "delete from {s}.tasks where instance = $1 and task = $2 and attempt <= $3"
            await connection.execute(self._sql(gone), offer.instance_id, offer.task, offer.attempt)
            written = await connection.fetchval(
                self._sql(_OFFER), offer.instance_id, offer.task, offer.attempt, offer.name, offer.options,
                offer.expires_us, offer.started_us, offer.token_digest, offer.scheduled_at_us, offer.uncounted,
            )  # fmt: skip
            return written is not None

        return await self._transaction(work)

    async def offer_claimed(self, number: int, attempt: int, server_id: int, token_digest: bytes) -> bool:
        """See `TaskStore.offer_claimed`."""
        return bool(await self._write(_OFFER_CLAIMED, number, attempt, server_id, token_digest))

    async def offered_tasks(self) -> list[tuple[str, int]]:
        """See `TaskStore.offered_tasks`."""
        rows = await self._read("select instance, task from {s}.tasks where queue = 0 order by number")
        return [(instance_id, task) for instance_id, task in rows]

    async def task(self, instance_id: str, task: int) -> StoredTask | None:
        """See `TaskStore.task`."""
        rows = await self._read(f"{_TASKS} where t.instance = $1 and t.task = $2", instance_id, task)
        return StoredTask(*rows[0]) if rows else None

    # -- queues ---------------------------------------------------------------------------------------------

    async def queues(self, name: str | None = None) -> list[QueueRecord]:
        """See `TaskStore.queues`."""
        rows = await self._read(_QUEUES, name)
        return [QueueRecord(row[0], QueueLimits(*row[1:5]), *row[5:]) for row in rows]

    async def limit_queue(self, name: str, limits: QueueLimits) -> None:
        """See `TaskStore.limit_queue`."""
        rate = (limits.rate_count, limits.rate_period_us, limits.rate_burst)
        await self._write(_LIMIT, name, limits.concurrency, *rate)
        self._hint(["t"])

    async def pause_queue(self, name: str, *, is_paused: bool) -> None:
        """See `TaskStore.pause_queue`."""
        await self._write(_PAUSE, name, is_paused)
        self._hint(["t"])


def _declared_dead(server_id: int) -> LeaseLost:
    return LeaseLost(f"server {server_id} of queues was declared dead, and its claims with it; nothing was written")


def _asked(request: ClaimRequest) -> tuple[object, ...]:
    """Who asks, and what there is room for."""
    return (
        request.server_id, list(request.names), list(request.rooms), list(request.rooms.values()), request.other_room
    )  # fmt: skip


def _end_arrays(ends: Sequence[TaskEnd]) -> list[Sequence[Any]]:
    """What `finish_tasks` takes behind the server."""
    nothing = (None,) * 8
    rows = [(*e.seen, e.message, e.following is not None, *(e.following or nothing)) for e in ends]
    return list(zip(*rows, strict=True)) if rows else [()] * 14
