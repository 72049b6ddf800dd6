"""Alerts, their notices, takeovers, and instances of which nothing was heard; in transactions of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from durableflow.backends.base import Lease, QuietInstance
from durableflow.backends.sqlite.commit import check_lease
from durableflow.model.alert import NOTICES_MAX, AlertChanges, AlertKind, AlertRecord, Notice, Severity, Takeover
from durableflow.model.status import Status

T = TypeVar("T")

_ALERTS: Final = "select kind, subject, severity, since_us, told_us, details from alerts order by kind, subject"
_NOTICES: Final = "select number, sink, body, attempts, due_us from notices where sink = ? order by number limit ?"
_TAKEOVERS: Final = "select worker, name, at_us from takeovers where at_us >= ? order by worker"
_QUIET: Final = f"""
    select id, workflow, status, wake_us, recorded_us, stall_reason from (
        select *, coalesce(
            (select at_us from history where instance = id order by first_seq desc limit 1), created_us
        ) as recorded_us
        from instances where wake_us is not null and wake_us < ?
    )
    where status = '{Status.STALLED.value}' or recorded_us < ? order by recorded_us, id limit ?
"""
_KINDS: Final = frozenset(kind.value for kind in AlertKind)
_SEVERITIES: Final = frozenset(severity.value for severity in Severity)
_TAKEOVERS_MAX: Final = 1_000


def _as_alerts(rows: Sequence[Sequence[Any]]) -> list[AlertRecord]:
    """The alerts of these rows, without those of a kind that only a newer version knows."""
    return [_as_alert(row) for row in rows if row[0] in _KINDS and row[2] in _SEVERITIES]


def _as_alert(row: Sequence[Any]) -> AlertRecord:
    kind, subject, severity, since_us, told_us, details = row
    return AlertRecord(AlertKind(kind), subject, Severity(severity), since_us, told_us, details)


def _as_quiet(row: Sequence[Any]) -> QuietInstance:
    """The instance of a row; a status that cannot be read is as good as STALLED."""
    instance_id, workflow, status, wake_us, recorded_us, stall_reason = row
    known = Status(status) if status in Status.__members__ else Status.STALLED
    return QuietInstance(instance_id, workflow, known, wake_us, recorded_us, stall_reason)


def _change_alerts(connection: sqlite3.Connection, lease: Lease, changes: AlertChanges) -> None:
    """See `Backend.change_alerts`."""
    check_lease(connection, lease)
    connection.executemany(
        "insert or replace into alerts (kind, subject, severity, since_us, told_us, details) values (?, ?, ?, ?, ?, ?)",
        [(a.kind.value, a.subject, a.severity.value, a.since_us, a.told_us, a.details) for a in changes.kept],
    )
    connection.executemany(
        "delete from alerts where kind = ? and subject = ?",
        [(kind.value, subject) for kind, subject in changes.resolved],
    )
    connection.executemany("delete from notices where number = ?", [(number,) for number in changes.settled])
    connection.executemany(
        "update notices set attempts = ?, due_us = ? where number = ?",
        [(notice.attempts, notice.due_us, notice.number) for notice in changes.delayed],
    )
    connection.executemany("insert into notices (sink, body, attempts, due_us) values (?, ?, 0, ?)", changes.notices)
    if changes.notices:
        connection.execute(
            "delete from notices where number <= (select number from notices order by number desc limit 1 offset ?)",
            (NOTICES_MAX,),
        )


def note_takeover(connection: sqlite3.Connection, worker_id: int, name: str, now_us: int) -> None:
    """Remember it, and no more than the latest thousand."""
    connection.execute("insert into takeovers values (?, ?, ?)", (worker_id, name, now_us))
    connection.execute("delete from takeovers where worker <= ?", (worker_id - _TAKEOVERS_MAX,))


class AlertTables:
    """What `SqliteBackend` is besides: the store of alerts."""

    async def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        raise NotImplementedError

    async def _read(self, sql: str, parameters: Sequence[object]) -> Sequence[Any]:
        raise NotImplementedError

    async def alerts(self) -> list[AlertRecord]:
        """See `Backend.alerts`."""
        return _as_alerts(await self._read(_ALERTS, ()))

    async def change_alerts(self, lease: Lease, changes: AlertChanges) -> None:
        """See `Backend.change_alerts`."""
        await self._write(partial(_change_alerts, lease=lease, changes=changes))

    async def notices(self, sink: str, limit: int) -> list[Notice]:
        """See `Backend.notices`."""
        return [Notice(*row) for row in await self._read(_NOTICES, (sink, limit))]

    async def takeovers(self, since_us: int) -> list[Takeover]:
        """See `Backend.takeovers`."""
        return [Takeover(*row) for row in await self._read(_TAKEOVERS, (since_us,))]

    async def quiet(self, before_us: int, limit: int, lease: Lease | None = None) -> list[QuietInstance]:  # noqa: ARG002  # it owns all
        """See `Backend.quiet`."""
        return [_as_quiet(row) for row in await self._read(_QUIET, (before_us, before_us, limit))]
