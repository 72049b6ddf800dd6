"""The outbox for a store in Postgres: starts and events inside a transaction of the user's own, by asyncpg.

Comes in: a connection of the user's with a transaction that is begun, or the one that a transactional activity is lent.
Goes out: the rows that a client would have written, by the same function of the store, in the same transaction. Never
enters: a commit, a driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, ParamSpec, cast

from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import InstanceRecord, Outgoing, SendResult
from durableflow.backends.postgres.commit import SEND_ARRAYS, places, send_arrays
from durableflow.backends.postgres.lent import LentConnection
from durableflow.backends.postgres.naming import channel_of, quoted
from durableflow.backends.postgres.records import as_record
from durableflow.backends.postgres.schema import MIGRATIONS
from durableflow.backends.rows import RECORD_COLUMNS
from durableflow.errors import SchemaMismatch, UsageError
from durableflow.model.converter import PAYLOAD_LIMIT_BYTES
from durableflow.model.ids import check_name
from durableflow.runtime.clock import Clock, SystemClock
from durableflow.runtime.messages import check_sent, outgoing
from durableflow.runtime.starts import judge_conflict, new_event, new_start

if TYPE_CHECKING:
    import asyncpg  # a driver: whoever has such a connection has loaded it

P = ParamSpec("P")

_PLACES: Final = places(SEND_ARRAYS, 1)
_SEND: Final = f"select {{s}}.send({_PLACES}, null::bigint)"
_SEND_WITHIN: Final = f"select {{s}}.send_within({_PLACES})"
_COLUMNS: Final = RECORD_COLUMNS.replace("tags", "tags::text")
_RECORD: Final = f"select {_COLUMNS} from {{s}}.instances where id = $1"  # noqa: S608  # columns of ours
_HINT: Final = """
    select pg_notify($2, coalesce('w' || owner, 'o') || ' ') from {s}.instances where id = $1
"""
_SCHEMA_VERSION: Final = "select version from {s}.schema_version"


class AsyncOutbox:
    """Writes starts and events by a connection of yours; they are sent when, and only when, its transaction commits.

    Args:
        connection: of asyncpg, to the database that an engine works on; also the one that a transactional activity is
            given.
        schema: that of the store, as its URL says; a transactional activity's connection knows it.
        hint: wake the engine with the commit, instead of letting it find the message within a second. It costs your
            commit: the server makes those that give hints wait for one another. In a transactional activity the
            engine is told in any case, and at no such cost.
        clock: where time comes from; tests pass a virtual one.
        payload_limit_bytes: no stored value may be larger.

    Raises:
        UsageError: it is no such connection.
    """

    def __init__(
        self,
        connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy,
        *,
        schema: str = "durableflow",
        hint: bool = False,
        clock: Clock | None = None,
        payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES,
    ) -> None:
        if not all(hasattr(connection, name) for name in ("fetchval", "fetchrow", "is_in_transaction")):
            raise UsageError(
                f"AsyncOutbox takes a connection of asyncpg, not {connection!r:.80}; for a sqlite3.Connection write "
                "Outbox(connection)"
            )
        self._connection = cast("Any", connection)
        self._lent = connection if isinstance(connection, LentConnection) else None
        self._schema = quoted(schema) if self._lent is None else self._lent.schema
        self._channel = channel_of(schema) if hint and self._lent is None else None
        self._is_checked = self._lent is not None
        self._clock = clock or SystemClock()
        self._payload_limit_bytes = payload_limit_bytes

    def __repr__(self) -> str:
        return f"<outbox on {self._connection!r}>"

    async def start(self, workflow: Workflow[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Start an instance, once the transaction commits; its id.

        With an `instance_id` that is taken, `on_conflict` of the workflow's options decides, as for `Client.start`.

        Raises:
            InstanceExists: the id is taken and may not be shared or replaced, or is another workflow's.
            PayloadError: an argument cannot be stored.
            UsageError: no transaction is open, or there is no store in this schema.
            SchemaMismatch: the store is that of an older durableflow, or of a newer one. Whatever is raised, nothing
                was written; what the driver raises has failed the transaction, as any error of the server does.
        """
        new, started = new_start(workflow, args, kwargs, self._clock, self._payload_limit_bytes)
        result = await self._write(outgoing(new.id, started, new))
        if result.outcome == "exists" and result.record is not None:
            judge_conflict(workflow, result.record)
        return new.id

    async def raise_event(
        self, instance_id: str, name: str, payload: object = None, *, event_id: str | None = None
    ) -> None:
        """Send an external event, once the transaction commits. See `Client.raise_event`.

        Raises:
            InstanceNotFound, InstanceNotActive: there is none, or it is over.
            PayloadError: the payload cannot be stored.
            UsageError, SchemaMismatch: as `start` does. Whatever is raised, nothing was written.
        """
        event = new_event(name, payload, event_id, self._payload_limit_bytes)
        result = await self._write(outgoing(check_name(instance_id, "the instance id"), event))
        check_sent(instance_id, result, f"event {name!r}")

    async def _write(self, message: Outgoing) -> SendResult:
        connection = self._connection
        if not connection.is_in_transaction():
            raise UsageError(
                "no transaction is open on this connection, so the message would be sent whatever becomes of your "
                "rows: write both inside 'async with connection.transaction():'"
            )
        await self._check_schema()
        arrays = send_arrays([message])
        outcome: Any  # one of the four, by the function
        if self._lent is not None:
            (outcome,) = await self._lent.send([message.instance_id], self._sql(_SEND_WITHIN), *arrays)
        else:
            (outcome,) = await connection.fetchval(self._sql(_SEND), *arrays)
            if outcome == "delivered" and self._channel is not None:
                await connection.fetchval(self._sql(_HINT), message.instance_id, self._channel)
        return SendResult(outcome, await self._record(message.instance_id) if outcome in ("exists", "over") else None)

    async def _record(self, instance_id: str) -> InstanceRecord | None:
        row = await self._connection.fetchrow(self._sql(_RECORD), instance_id)
        return None if row is None else as_record(tuple(row))

    async def _check_schema(self) -> None:
        if self._is_checked:
            return
        connection = self._connection
        found = await connection.fetchval("select to_regclass($1)::oid", f"{self._schema}.schema_version")
        if found is None:
            raise UsageError(
                f"this connection's database has no store in schema {self._schema}; connect to the database of your "
                "Engine, and pass the schema= that its URL names"
            )
        version = int(await connection.fetchval(self._sql(_SCHEMA_VERSION)))
        if version != len(MIGRATIONS):
            whose, remedy = "a newer", "upgrade durableflow"
            if version < len(MIGRATIONS):
                whose, remedy = "an older", "open it once with an Engine or a Client, which brings it up to date"
            raise SchemaMismatch(
                f"schema {self._schema} has version {version}, that of {whose} durableflow (this one writes "
                f"{len(MIGRATIONS)}): {remedy}"
            )
        self._is_checked = True

    def _sql(self, template: str) -> str:
        return template.format(s=self._schema)


__all__ = ["AsyncOutbox"]
