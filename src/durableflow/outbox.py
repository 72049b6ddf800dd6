"""The outbox: start instances and raise events inside a transaction of the user's own, on the store's SQLite file.

Comes in: a `sqlite3.Connection` of the user's, in whose transaction rows of theirs are written. Goes out: the rows that
a client would have written, in the same transaction. Never enters: a commit. Whoever owns the transaction ends it, and
an engine on the file hears of it, as of any other message, within some 20 ms.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec

from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import Outgoing, SendResult
from durableflow.backends.sqlite.inbox import send_one
from durableflow.backends.sqlite.records import lenient_text
from durableflow.backends.sqlite.schema import MIGRATIONS, schema_version
from durableflow.backends.sqlite.transact import GuardedConnection
from durableflow.errors import SchemaMismatch, StorageError, UsageError
from durableflow.model.converter import PAYLOAD_LIMIT_BYTES
from durableflow.model.ids import check_name
from durableflow.runtime.clock import Clock, SystemClock
from durableflow.runtime.messages import check_sent, outgoing
from durableflow.runtime.starts import judge_conflict, new_event, new_start

P = ParamSpec("P")

_SAVEPOINT: Final = "durableflow_outbox"


class Outbox:
    """Writes starts and events by a connection of yours; they are sent when, and only when, its transaction commits.

    Args:
        connection: to the SQLite file that an engine works on; also the one that a transactional activity is given.
        clock: where time comes from; tests pass a virtual one.
        payload_limit_bytes: no stored value may be larger.

    Raises:
        UsageError: it is no such connection, or the file is no store.
        SchemaMismatch: the file is that of an older durableflow, or of a newer one.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        clock: Clock | None = None,
        payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES,
    ) -> None:
        if not isinstance(connection, sqlite3.Connection):  # pyright: ignore[reportUnnecessaryIsInstance]  # users pass anything
            raise UsageError(
                f"Outbox takes a sqlite3.Connection, not {connection!r:.80}; of a wrapper, pass what is inside it; "
                "for a connection of asyncpg write AsyncOutbox(connection)"
            )
        self._connection = connection
        self._clock = clock or SystemClock()
        self._payload_limit_bytes = payload_limit_bytes
        with self._plain():
            _check_schema(connection)

    def __repr__(self) -> str:
        return f"<outbox on {self._connection!r}>"

    def start(self, workflow: Workflow[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Start an instance, once the transaction commits; its id.

        With an `instance_id` that is taken, `on_conflict` of the workflow's options decides, as for `Client.start`.

        Raises:
            InstanceExists: the id is taken and may not be shared or replaced, or is another workflow's.
            PayloadError: an argument cannot be stored.
            UsageError: the connection is in autocommit mode and no transaction is open.
            StorageError: the file refused it. Whatever is raised, nothing was written.
        """
        new, started = new_start(workflow, args, kwargs, self._clock, self._payload_limit_bytes)
        result = self._write(outgoing(new.id, started, new))
        if result.outcome == "exists" and result.record is not None:
            judge_conflict(workflow, result.record)
        return new.id

    def raise_event(self, instance_id: str, name: str, payload: object = None, *, event_id: str | None = None) -> None:
        """Send an external event, once the transaction commits. See `Client.raise_event`.

        Raises:
            InstanceNotFound, InstanceNotActive: there is none, or it is over.
            PayloadError: the payload cannot be stored.
            UsageError, StorageError: as `start` does. Whatever is raised, nothing was written.
        """
        event = new_event(name, payload, event_id, self._payload_limit_bytes)
        result = self._write(outgoing(check_name(instance_id, "the instance id"), event))
        check_sent(instance_id, result, f"event {name!r}")

    def _write(self, message: Outgoing) -> SendResult:
        connection = self._connection
        self._be_in_a_transaction()
        with self._plain():
            try:
                connection.execute(f"savepoint {_SAVEPOINT}")
                try:
                    result = send_one(connection, message)
                except BaseException:
                    if connection.in_transaction:  # some errors have rolled all of it back
                        connection.execute(f"rollback to {_SAVEPOINT}")
                        connection.execute(f"release {_SAVEPOINT}")
                    raise
                connection.execute(f"release {_SAVEPOINT}")
            except sqlite3.Error as error:
                raise StorageError(f"the outbox could not write: {error}; nothing of it was written") from error
        return result

    def _be_in_a_transaction(self) -> None:
        """Begin one where `sqlite3` itself would, before a statement that writes; elsewhere there must be one."""
        connection = self._connection
        if connection.in_transaction:
            return
        if connection.isolation_level is None or getattr(connection, "autocommit", None) is True:
            raise UsageError(
                "this connection is in autocommit mode and no transaction is open, so the message would be sent "
                "whatever becomes of your rows: execute 'BEGIN IMMEDIATE' first, and 'COMMIT' when all is written"
            )
        try:
            connection.execute("begin immediate")
        except sqlite3.Error as error:
            raise StorageError(f"the outbox could not begin to write: {error}; nothing was written") from error

    @contextmanager
    def _plain(self) -> Generator[None]:
        """Have rows as they are, whatever the connection's owner makes of them, and the guard, if any, look away."""
        connection = self._connection
        factories = connection.row_factory, connection.text_factory
        connection.row_factory, connection.text_factory = None, lenient_text
        try:
            if isinstance(connection, GuardedConnection):
                with connection.guard.lifted():
                    yield
            else:
                yield
        finally:
            connection.row_factory, connection.text_factory = factories


def _check_schema(connection: sqlite3.Connection) -> None:
    file = "the file of this connection"
    try:
        row = connection.execute("select 1 from sqlite_master where type = 'table' and name = 'inbox'").fetchone()
        version = schema_version(connection, file) if row else 0
    except sqlite3.Error as error:
        raise StorageError(f"{file} cannot be read: {error}") from error
    if not version:
        raise UsageError(f"{file} is no store of durableflow; connect to the one that your Engine is given")
    if version < len(MIGRATIONS):
        raise SchemaMismatch(
            f"{file} has schema version {version}, that of an older durableflow (this one writes {len(MIGRATIONS)}): "
            "open it once with an Engine or a Client, which brings it up to date"
        )


__all__ = ["Outbox"]
