"""Alerts, their notices, takeovers, and instances of which nothing was heard."""

from __future__ import annotations

from typing import Final

from durableflow.backends.base import Lease, QuietInstance
from durableflow.backends.postgres.database import Connection
from durableflow.backends.postgres.store import Store
from durableflow.model.alert import (
    NOTICES_MAX,
    AlertChanges,
    AlertKind,
    AlertRecord,
    Notice,
    Severity,
    Takeover,
)
from durableflow.model.status import Status

_QUIET: Final = f"""
    select id, workflow, status, wake_us, recorded_us, stall_reason from (
        select i.*, coalesce(
            (select h.at_us from {{s}}.history h where h.instance_number = i.number order by h.first_seq desc limit 1),
            i.created_us
        ) as recorded_us
        from {{s}}.instances i where i.finished_us is null and i.wake_us is not null and i.wake_us < $1
            and ($3::bigint is null or i.owner = $3)
    ) q
    where status = '{Status.STALLED.value}' or recorded_us < $1 order by recorded_us, id limit $2
"""
_KINDS: Final = frozenset(kind.value for kind in AlertKind)
_SEVERITIES: Final = frozenset(severity.value for severity in Severity)


class Alerts(Store):
    """The part of the backend that people who look after the store are told by."""

    async def alerts(self) -> list[AlertRecord]:
        """See `Backend.alerts`; without those of a kind that only a newer version knows."""
        rows = await self._read(
            "select kind, subject, severity, since_us, told_us, details from {s}.alerts order by kind, subject"
        )
        return [
            AlertRecord(AlertKind(kind), subject, Severity(severity), since_us, told_us, details)
            for kind, subject, severity, since_us, told_us, details in rows
            if kind in _KINDS and severity in _SEVERITIES
        ]

    async def change_alerts(self, lease: Lease, changes: AlertChanges) -> None:
        """See `Backend.change_alerts`."""

        async def work(connection: Connection) -> None:
            await self._fence(connection, lease)
            await connection.executemany(
                self._sql(
                    "insert into {s}.alerts (kind, subject, severity, since_us, told_us, details) "
                    "values ($1, $2, $3, $4, $5, $6) on conflict (kind, subject) do update set "
                    "severity = excluded.severity, since_us = excluded.since_us, told_us = excluded.told_us, "
                    "details = excluded.details"
                ),
                [(a.kind.value, a.subject, a.severity.value, a.since_us, a.told_us, a.details) for a in changes.kept],
            )
            await connection.executemany(
                self._sql("delete from {s}.alerts where kind = $1 and subject = $2"),
                [(kind.value, subject) for kind, subject in changes.resolved],
            )
            await connection.execute(
                self._sql("delete from {s}.notices where number = any($1::bigint[])"), list(changes.settled)
            )
            await connection.executemany(
                self._sql("update {s}.notices set attempts = $2, due_us = $3 where number = $1"),
                [(notice.number, notice.attempts, notice.due_us) for notice in changes.delayed],
            )
            if changes.notices:
                await connection.executemany(
                    self._sql("insert into {s}.notices (sink, body, attempts, due_us) values ($1, $2, 0, $3)"),
                    changes.notices,
                )
                await connection.execute(
                    self._sql(
                        "delete from {s}.notices where number <= "
                        "(select number from {s}.notices order by number desc limit 1 offset $1)"
                    ),
                    NOTICES_MAX,
                )

        await self._transaction(work)

    async def notices(self, sink: str, limit: int) -> list[Notice]:
        """See `Backend.notices`."""
        sql = "select number, sink, body, attempts, due_us from {s}.notices where sink = $1 order by number limit $2"
        return [Notice(*row) for row in await self._read(sql, sink, limit)]

    async def takeovers(self, since_us: int) -> list[Takeover]:
        """See `Backend.takeovers`; here, each worker that was buried."""
        sql = "select worker, name, at_us from {s}.takeovers where at_us >= $1 order by worker"
        return [Takeover(*row) for row in await self._read(sql, since_us)]

    async def quiet(self, before_us: int, limit: int, lease: Lease | None = None) -> list[QuietInstance]:
        """See `Backend.quiet`."""
        return [
            QuietInstance(
                instance_id,
                workflow,
                Status.__members__.get(status, Status.STALLED),
                wake_us,
                recorded_us,
                stall_reason,
            )
            for instance_id, workflow, status, wake_us, recorded_us, stall_reason in await self._read(
                _QUIET, before_us, limit, None if lease is None else lease.worker_id
            )
        ]
