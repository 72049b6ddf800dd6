"""Tasks of queues and tokens, each function inside a transaction of the caller's; see `backends/tasks.py`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final

import msgspec

from durableflow.backends.tasks import (
    ADMITTED,
    CLAIMED,
    DELAYED,
    HANDED_OVER,
    START,
    UNREADABLE,
    WAITING,
    ClaimRequest,
    Claims,
    NewTask,
    NextAttempt,
    Offer,
    Outlook,
    QueueLimits,
    QueueRecord,
    StoredTask,
    TaskBeat,
    TaskEnd,
    rate_full_us,
    rate_next_us,
    rate_room,
)
from durableflow.errors import LeaseLost

_NEW: Final = (
    "instance, task, queue, name, input, options, priority, fairness_key, not_before_us, expires_us, scheduled_at_us"
)
STORED_COLUMNS: Final = (
    "number, instance, task, attempt, queue, name, input, options, priority, fairness_key, state, not_before_us, "
    "expires_us, claimed_by, started_us, token_digest, details, scheduled_at_us, uncounted, losses, is_suspect"
)
LIMIT_COLUMNS: Final = "concurrency, rate_count, rate_period_us, rate_burst"

_LATEST_US: Final = 2**63 - 1
"""Behind it, in SQLite's order, are texts and bytes, which a file may hold and no clock comes to."""
_VTIME_MAX: Final = 2**61
"""Who is put behind it has lost his place, but can be put there: one more is still a number."""
_NEXT_NUMBER: Final = """
    update task_numbers set last = 1 + case
        when typeof(last) = 'integer' and last between 0 and 1 << 60 then last
        else coalesce((select max(number) from tasks where number < 1 << 60), 0) end
"""

TASK_VIEWS: Final = (
    f"create temp view new_tasks as select {', '.join(f'0 as {name}' for name in _NEW.split(', '))}",
    # One row after the other: a task finds its place behind the one before it. Its number is never used again; with
    # AUTOINCREMENT, every commit would keep books of it, whether it writes tasks or not.
    f"""
    create temp trigger write_task instead of insert on new_tasks begin
        insert or ignore into queues (name) values (new.queue);
        {_NEXT_NUMBER};
        insert into tasks (number, {_NEW}, state, vtime) values (
            (select last from task_numbers),
            {", ".join(f"new.{name}" for name in _NEW.split(", "))},
            case when new.not_before_us > 0 then {DELAYED} else {WAITING} end,
            min({_VTIME_MAX}, cast(max(
                coalesce((select vtime from lanes where queue = new.queue and priority = new.priority), 0),
                coalesce((select max(vtime) + 1 from tasks where queue = new.queue and priority = new.priority
                    and fairness_key = new.fairness_key), 0)
            ) as integer))
        );
    end
    """,
)
"""How a connection learns to write tasks."""

_INSERT: Final = f"insert into new_tasks ({_NEW}) values ({', '.join('?' * len(_NEW.split(', ')))})"
_NAMED: Final = "tasks indexed by tasks_named where state = 0 and task > 0"
_STARTS: Final = "tasks indexed by tasks_starts where state = 0 and task = 0"
_NOT_SUSPECT: Final = "(is_suspect = 0 or :suspects)"
_NAMES_SQL: Final = f"""
    select value from json_each(:names)
    where exists (select 1 from {_NAMED} and queue = :queue and name = value and {_NOT_SUSPECT})
"""
_WAITS_SQL: Final = f"""
    select 1 from ({_NAMES_SQL}) where :room > 0
    union all select 1 from {_STARTS} and queue = :queue and :admits limit 1
"""
_ROWS: Final = f"select {STORED_COLUMNS}, vtime from"
_ORDER: Final = "order by priority desc, vtime, number"
_NAMED_SQL: Final = f"{_ROWS} {_NAMED} and queue = :queue and name = :name and {_NOT_SUSPECT} {_ORDER}"
_STARTS_SQL: Final = f"{_ROWS} {_STARTS} and queue = ? {_ORDER} limit ?"
_OPEN_QUEUES_SQL: Final = f"""
    select name, full_us, {LIMIT_COLUMNS} from queues as name_of
    where is_paused = 0 and (exists (select 1 from {_NAMED} and queue = name_of.name)
        or exists (select 1 from {_STARTS} and queue = name_of.name)) order by name
"""
"""Queues from which something might be claimed, had they room."""
_SEEN: Final = "number = ? and attempt = ? and state = ? and claimed_by = ?"


def write_tasks(connection: sqlite3.Connection, tasks: Sequence[NewTask]) -> None:
    """Make tasks, each behind those of its queue, priority and key."""
    if tasks:
        connection.executemany(
            _INSERT,
            [
                (
                    t.instance_id, t.task, t.queue, t.name, t.input, t.options, t.priority, t.fairness_key,
                    t.not_before_us, t.expires_us, t.scheduled_at_us,
                )
                for t in tasks
            ],
        )  # fmt: skip


# -- servers ------------------------------------------------------------------------------------------------


def check_server(connection: sqlite3.Connection, server_id: int) -> None:
    """Raise `LeaseLost` for a server that was declared dead."""
    alive = "select 1 from servers where id = ? and expires_us >= 0"
    if connection.execute(alive, (server_id,)).fetchone() is None:
        raise LeaseLost(f"server {server_id} of queues was declared dead, and its claims with it; nothing was written")


def renew_server(connection: sqlite3.Connection, server_id: int, expires_us: int) -> list[tuple[int, int]]:
    """See `TaskStore.renew_server`."""
    check_server(connection, server_id)
    connection.execute("update servers set expires_us = ? where id = ?", (expires_us, server_id))
    claimed = "select number, attempt from tasks where state = ? and claimed_by = ? order by number"
    return connection.execute(claimed, (CLAIMED, server_id)).fetchall()


def retire_server(connection: sqlite3.Connection, server_id: int, ends: Sequence[TaskEnd]) -> None:
    """See `TaskStore.retire_server`."""
    check_server(connection, server_id)
    finish(connection, ends)
    connection.execute(
        "update tasks set state = ?, claimed_by = 0, token_digest = null where state = ? and claimed_by = ?",
        (WAITING, CLAIMED, server_id),
    )
    connection.execute("delete from servers where id = ?", (server_id,))


def dead_servers(
    connection: sqlite3.Connection, server_id: int, now_us: int, is_dead: Callable[[int], bool]
) -> list[int]:
    """Other servers whose lease is over, or whose process is known to have ended."""
    others = connection.execute("select id, expires_us from servers where id <> ?", (server_id,)).fetchall()
    return [other for other, expires_us in others if not _is_ahead(expires_us, now_us) or is_dead(other)]


def _is_ahead(moment: object, now_us: int) -> bool:
    """False also of what is no time: whoever is looked at then is asked for again, and what he is comes to light."""
    return isinstance(moment, (int, float)) and moment > now_us


# -- claiming -----------------------------------------------------------------------------------------------


def look(connection: sqlite3.Connection, request: ClaimRequest, now_us: int, is_dead: Callable[[int], bool]) -> Outlook:
    """See `TaskStore.look_at_tasks`."""
    if connection.execute("select 1 from tasks limit 1").fetchone() is None:
        return Outlook(False, False, None)
    due = connection.execute("select min(not_before_us) from tasks where state = 1").fetchone()[0]
    is_due = due is not None and not _is_ahead(due, now_us)
    claimable, opening, unreadable = (True, None, []) if is_due else _opening(connection, request, now_us)
    expiry = connection.execute(
        "select min(expires_us) from tasks where expires_us is not null and state <> 2"
    ).fetchone()[0]
    overdue = expiry is not None and not _is_ahead(expiry, now_us)
    if not overdue:
        overdue = bool(dead_servers(connection, request.server_id, now_us, is_dead))
    others = "select min(expires_us) from servers where id <> ?"
    lease = connection.execute(others, (request.server_id,)).fetchone()[0]
    moments: list[Any] = [moment for moment in (due, opening, expiry, lease) if _is_ahead(moment, now_us)]
    return Outlook(claimable, overdue, min(moments, default=None), tuple(unreadable))


def _opening(connection: sqlite3.Connection, request: ClaimRequest, now_us: int) -> tuple[bool, int | None, list[str]]:
    """Whether there is a task to take now; if none, when a rate limit lets one go; queues that could not be read."""
    next_us: int | None = None
    unreadable: list[str] = []
    given = _given(request)
    for name, full_us, limits in _open_queues(connection):
        given |= {"queue": name, "room": request.rooms.get(name, request.other_room)}
        if connection.execute(_WAITS_SQL, given).fetchone() is None:
            continue
        if _most(connection, name, limits, full_us, now_us):
            return True, None, unreadable
        if limits.rate_count and rate_room(limits, full_us, now_us) == 0:
            next_us = _earlier(next_us, rate_next_us(limits, full_us))
        if limits is UNREADABLE:
            unreadable.append(name)
    return False, next_us, unreadable


def _open_queues(connection: sqlite3.Connection) -> list[tuple[str, int, QueueLimits]]:
    """Name, time at which its bucket is full, and limits of each queue from which something might be claimed."""
    rows = connection.execute(_OPEN_QUEUES_SQL).fetchall()
    return [(name, _whole(full_us), _limits(limits)) for name, full_us, *limits in rows]


def _given(request: ClaimRequest) -> dict[str, object]:
    """What the statements ask of a server, of whatever queue."""
    names = msgspec.json.encode(sorted(request.names)).decode()
    return {"names": names, "admits": request.admission is not None, "suspects": request.takes_suspect}


def claim(connection: sqlite3.Connection, request: ClaimRequest, now_us: int) -> Claims:
    """See `TaskStore.claim`."""
    check_server(connection, request.server_id)
    due = f"state = 1 and (not_before_us <= ? or not_before_us > {_LATEST_US})"
    connection.execute(f"update tasks set state = 0 where {due}", (now_us,))
    claimed: list[StoredTask] = []
    admitted: list[str] = []
    next_us: int | None = None
    takes_suspect = request.takes_suspect
    given = _given(request)
    for name, full_us, limits in _open_queues(connection):
        room = request.rooms.get(name, request.other_room)
        most = _most(connection, name, limits, full_us, now_us)
        given |= {"queue": name, "room": room, "suspects": takes_suspect}
        if most == 0:
            is_rate_up = limits.rate_count > 0 and rate_room(limits, full_us, now_us) == 0
            if is_rate_up and connection.execute(_WAITS_SQL, given).fetchone() is not None:
                next_us = _earlier(next_us, rate_next_us(limits, full_us))
            continue
        taken: list[tuple[Any, ...]] = []
        has_more = False
        for row in _waiting(connection, given, min(room, most), most):
            is_start = row[2] == START
            if room <= 0 and not is_start:
                continue
            if len(taken) == most:
                has_more = True
                break
            taken.append(row)
            room -= not is_start
            takes_suspect = takes_suspect and not row[20]
        if not taken:
            continue
        _mark_claimed(connection, request, name, taken, now_us)
        if limits.rate_count:
            later_us = rate_full_us(limits, full_us, now_us, len(taken))
            connection.execute("update queues set full_us = ? where name = ?", (later_us, name))
            if has_more and rate_room(limits, later_us, now_us) == 0:
                next_us = _earlier(next_us, rate_next_us(limits, later_us))
        admitted += [row[1] for row in taken if row[2] == START]
        claimed += [
            _stored(row)._replace(state=CLAIMED, claimed_by=request.server_id, started_us=now_us)
            for row in taken
            if row[2] != START
        ]
    return Claims(claimed, len(admitted), next_us)


def _waiting(
    connection: sqlite3.Connection, given: dict[str, object], room: int, most: int
) -> Iterator[tuple[Any, ...]]:
    """What waits in a queue and may be taken, in order; one more of either kind than there is room for."""
    named: list[tuple[Any, ...]] = []
    if room > 0:
        names = [name for (name,) in connection.execute(_NAMES_SQL, given)]
        sources = [connection.execute(_NAMED_SQL, given | {"name": name}) for name in names]
        named += islice(_with_one_suspect(merge(*sources, key=_place)), room + 1)
        for source in sources:
            source.close()
    starts = connection.execute(_STARTS_SQL, (given["queue"], most + 1 if given["admits"] else 0))
    return merge(named, starts.fetchall(), key=_place)


def _with_one_suspect(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    has_suspect = False
    for row in rows:
        if not (row[20] and has_suspect):
            yield row
        has_suspect = has_suspect or bool(row[20])


def _place(row: tuple[Any, ...]) -> tuple[int, int, int]:
    return -_whole(row[8]), _whole(row[21]), row[0]


def _whole(value: object) -> int:
    """A number that others are compared with; 0 for what is none."""
    return value if type(value) is int else 0


def _limits(row: Sequence[Any]) -> QueueLimits:
    """What bounds a queue; where that cannot be read, nothing is claimed until somebody sets it anew."""
    concurrency, *rate = row
    known = concurrency is None or _is_count(concurrency)
    return QueueLimits(*row) if known and all(map(_is_count, rate)) and (rate[1] or not rate[0]) else UNREADABLE


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _most(connection: sqlite3.Connection, name: str, limits: QueueLimits, full_us: int, now_us: int) -> int:
    """How many tasks of a queue may be claimed now, by whomever."""
    most = 1_000
    if limits.concurrency is not None:
        running = "select count(*) from tasks where state = 2 and queue = ?"
        most = min(most, limits.concurrency - connection.execute(running, (name,)).fetchone()[0])
    if limits.rate_count:
        most = min(most, rate_room(limits, full_us, now_us))
    return max(0, most)


def _mark_claimed(
    connection: sqlite3.Connection, request: ClaimRequest, queue: str, rows: Sequence[tuple[Any, ...]], now_us: int
) -> None:
    connection.executemany(
        "update tasks set state = 2, claimed_by = ?, started_us = ? where number = ?",
        [(ADMITTED if row[2] == START else request.server_id, now_us, row[0]) for row in rows],
    )
    lanes: dict[int, int] = {}
    for row in rows:
        # Else a key that is served at once is always first.
        lanes[row[8]] = max(lanes.get(row[8], 0), min(_whole(row[21]), _VTIME_MAX) + 1)
    connection.executemany(
        "insert into lanes values (?, ?, ?) on conflict do update set vtime = max(vtime, excluded.vtime)",
        [(queue, priority, vtime) for priority, vtime in lanes.items()],
    )
    connection.executemany(
        "insert into inbox (instance, data) values (?, ?)",
        [(row[1], request.admission) for row in rows if row[2] == START],
    )


def claimed_tasks(connection: sqlite3.Connection, server_id: int) -> list[StoredTask]:
    """See `TaskStore.claimed_tasks`."""
    sql = f"select {STORED_COLUMNS} from tasks where state = 2 and claimed_by = ? order by number"
    return [_stored(row) for row in connection.execute(sql, (server_id,))]


def overdue_tasks(connection: sqlite3.Connection, now_us: int, dead: Sequence[int], limit: int) -> list[StoredTask]:
    """See `TaskStore.overdue_tasks`; the `dead` servers stay, as such, until nothing is claimed by them."""
    unclaimed = "not exists (select 1 from tasks where state = 2 and claimed_by = ?1)"
    for each in dead:
        if connection.execute(f"delete from servers where id = ?1 and {unclaimed}", (each,)).rowcount != 1:
            connection.execute("update servers set expires_us = -1 where id = ?", (each,))
    rows = connection.execute(
        f"select {STORED_COLUMNS} from tasks where ((expires_us <= ?1 or expires_us > {_LATEST_US}) and state <> 2) "
        "or (state = 2 and claimed_by in (select id from servers where expires_us < 0)) order by number limit ?2",
        (now_us, limit),
    )
    return [_stored(row) for row in rows]


# -- what became of them ------------------------------------------------------------------------------------


def finish(connection: sqlite3.Connection, ends: Sequence[TaskEnd]) -> list[bool]:
    """See `TaskStore.finish_tasks`."""
    return [_finish_one(connection, end) for end in ends]


def _finish_one(connection: sqlite3.Connection, end: TaskEnd) -> bool:
    there = connection.execute(f"select instance from tasks where {_SEEN}", end.seen).fetchone()
    if there is None:
        return False
    if end.following is None:
        connection.execute("delete from tasks where number = ?", end.seen[:1])
    else:
        _go_on(connection, end.seen[0], end.following)
    connection.execute("insert into inbox (instance, data) values (?, ?)", (there[0], end.message))
    return True


def _go_on(connection: sqlite3.Connection, number: int, to: NextAttempt) -> None:
    connection.execute(
        "update tasks set state = ?, attempt = ?, not_before_us = ?, expires_us = ?, "
        "details = coalesce(?, details), uncounted = ?, "
        "losses = ?, is_suspect = ?, claimed_by = 0, token_digest = case when ? then token_digest end where number = ?",
        (*to, to.state == HANDED_OVER, number),
    )


def beat(connection: sqlite3.Connection, beats: Sequence[TaskBeat]) -> list[bool]:
    """See `TaskStore.beat_tasks`."""
    sql = (
        "update tasks set details = ?, expires_us = coalesce(?, expires_us) "
        "where number = ? and attempt = ? and state in (2, 3)"
    )
    return [connection.execute(sql, (b.details, b.expires_us, b.number, b.attempt)).rowcount == 1 for b in beats]


def offer(connection: sqlite3.Connection, offered: Offer) -> bool:
    """See `TaskStore.offer_task`; its instance is there and not over."""
    instance_id, task, attempt = offered.instance_id, offered.task, offered.attempt
    later = "select 1 from tasks where instance = ? and task = ? and attempt > ?"
    if connection.execute(later, (instance_id, task, attempt)).fetchone() is not None:
        return False
    connection.execute("delete from tasks where instance = ? and task = ?", (instance_id, task))
    connection.execute(_NEXT_NUMBER)
    connection.execute(
        "insert into tasks (number, instance, task, attempt, queue, name, input, options, state, expires_us, "
        "started_us, token_digest, scheduled_at_us, uncounted) "
        "values ((select last from task_numbers), ?, ?, ?, '', ?, x'', ?, ?, ?, ?, ?, ?, ?)",
        (
            instance_id, task, attempt, offered.name, offered.options, HANDED_OVER,
            offered.expires_us, offered.started_us, offered.token_digest, offered.scheduled_at_us, offered.uncounted,
        ),
    )  # fmt: skip
    return True


# -- asking, and queues -------------------------------------------------------------------------------------

OFFER_CLAIMED_SQL: Final = f"update tasks set token_digest = ? where {_SEEN}"
TASK_SQL: Final = f"select {STORED_COLUMNS} from tasks where instance = ? and task = ?"
OFFERED_SQL: Final = "select instance, task from tasks where queue = '' order by number"
QUEUES_SQL: Final = f"""
    select name, {LIMIT_COLUMNS}, is_paused,
        (select count(*) from tasks where queue = name_of.name and state = 0),
        (select count(*) from tasks where queue = name_of.name and state = 1),
        (select count(*) from tasks where queue = name_of.name and state = 2),
        (select count(*) from tasks where queue = name_of.name and state = 3),
        (select min(scheduled_at_us) from tasks where queue = name_of.name and state = 0)
    from queues as name_of where ?1 is null or name = ?1 order by name
"""


def as_queue(row: Sequence[Any]) -> QueueRecord:
    """The record of a row of `QUEUES_SQL`."""
    oldest_us = row[10] if _is_count(row[10]) else None
    return QueueRecord._make((row[0], _limits(row[1:5]), bool(row[5]), *row[6:10], oldest_us))


def limit_queue(connection: sqlite3.Connection, name: str, limits: QueueLimits) -> None:
    """See `TaskStore.limit_queue`."""
    connection.execute("insert or ignore into queues (name) values (?)", (name,))
    rate = (limits.rate_count, limits.rate_period_us, limits.rate_burst)
    connection.execute(
        "update queues set full_us = case when (rate_count, rate_period_us, rate_burst) = (?, ?, ?) then full_us "
        "else 0 end, concurrency = ?, rate_count = ?, rate_period_us = ?, rate_burst = ? where name = ?",
        (*rate, limits.concurrency, *rate, name),
    )


def pause_queue(connection: sqlite3.Connection, name: str, *, is_paused: bool) -> None:
    """See `TaskStore.pause_queue`."""
    connection.execute(
        "insert into queues (name, is_paused) values (?1, ?2) on conflict do update set is_paused = ?2",
        (name, is_paused),
    )


def as_task(row: Sequence[Any]) -> StoredTask:
    """The task of a row of `TASK_SQL`."""
    return _stored(row)


def _stored(row: Sequence[Any]) -> StoredTask:
    return StoredTask._make((*row[:20], bool(row[20])))


def _earlier(one_us: int | None, other_us: int) -> int:
    return other_us if one_us is None else min(one_us, other_us)
