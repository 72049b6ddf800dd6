"""User code inside a transaction of the store.

It runs on the writer's thread but on a connection of its own: nothing that it does to a connection reaches the
engine's, and its statements are not kept, so that each is looked at when it is made. Rules:

1. One BEGIN IMMEDIATE and one COMMIT, both ours. The guard, an authorizer, refuses every other.
2. When the transaction is gone all the same (INSERT OR ROLLBACK, a full disk), no further statement is let through:
   in autocommit mode it would be committed on its own.
3. Tables of the store are read, not written. The outbox may, because it writes what the store itself would.
4. Whatever is not as it was afterwards costs the connection, which is closed and made anew.
"""

from __future__ import annotations

import inspect
import re
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from durableflow.backends.base import Lease, Message, Outgoing, SendResult, UserWork
from durableflow.backends.sqlite.commit import REFUSALS, lease_lost
from durableflow.backends.sqlite.inbox import put_in
from durableflow.backends.sqlite.records import read_record
from durableflow.backends.sqlite.schema import MIGRATIONS
from durableflow.errors import CommitOutcomeUnknown, StorageError, TransactionMisused

OWN_TABLES: Final = frozenset(re.findall(r"\bcreate table (?:if not exists )?(\w+)", " ".join(MIGRATIONS)))
"""The tables that belong to the store; their names cannot be those of the user's."""

_LEGACY: Final = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", -1)
_OK: Final = sqlite3.SQLITE_OK
_DENY: Final = sqlite3.SQLITE_DENY

_WRITES_TABLE: Final = frozenset(
    {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_DROP_TABLE}
)
"""Their first argument names the table."""

_CHANGES_TABLE: Final = frozenset(
    {
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_DROP_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
    }
)
"""Their second argument does."""

_PRAGMAS_WITH_ARGUMENT: Final = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
)
_PRAGMAS: Final = _PRAGMAS_WITH_ARGUMENT | {
    "database_list", "encoding", "foreign_key_check", "foreign_keys", "journal_mode", "page_count", "page_size",
    "user_version",
}  # fmt: skip


class Guard:
    """The authorizer of a connection while user code has it.

    Attributes:
        refused: what was refused first, and why; None when nothing was.
    """

    def __init__(self, connection: GuardedConnection) -> None:
        self._connection = connection
        self._lifted = False
        self.refused: str | None = None

    @contextmanager
    def lifted(self) -> Generator[None]:
        """Let what runs inside write to the store's tables."""
        before, self._lifted = self._lifted, True
        try:
            yield
        finally:
            self._lifted = before

    def __call__(self, action: int, first: str | None, second: str | None, _: str | None, __: str | None) -> int:
        """What SQLite asks while it prepares a statement."""
        reason = self._objection(action, first or "", second or "")
        if reason is None:
            return _OK
        self.refused = self.refused or reason
        return _DENY

    def _objection(self, action: int, first: str, second: str) -> str | None:
        if not self._connection.in_transaction:
            return (
                "went on after its transaction had been rolled back (by OR ROLLBACK, RAISE(ROLLBACK), or because the "
                "disk is full): let the error through, or use OR ABORT"
            )
        if action == sqlite3.SQLITE_TRANSACTION:
            return (
                f"asked for {first}: its writes are committed by the engine, together with its result, and rolled back "
                "when it raises; leave out commit(), rollback(), executescript() and 'with connection:'"
            )
        if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
            return "asked for another database: one transaction is kept in one file only"
        if action == sqlite3.SQLITE_PRAGMA:
            name = first.casefold()
            if name in _PRAGMAS_WITH_ARGUMENT or (name in _PRAGMAS and not second):
                return None
            return f"asked for PRAGMA {first}, which could change the connection or the file"
        table = first if action in _WRITES_TABLE else second if action in _CHANGES_TABLE else ""
        if table.casefold() in OWN_TABLES and not self._lifted:
            return (
                f"would write to {table!r}, a table of durableflow's own: to start instances and raise events in its "
                "transaction use durableflow.Outbox(connection); tables of your own need other names"
            )
        return None


class GuardedConnection(sqlite3.Connection):
    """The connection that user code is given.

    Attributes:
        guard: what watches it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.guard = Guard(self)


class UserTransactions:
    """Runs user code in transactions; used on one thread only.

    Args:
        prepare: makes a fresh connection ready.
    """

    def __init__(self, path: Path, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self._path = path
        self._prepare = prepare
        self._connection: GuardedConnection | None = None

    def run(
        self, lease: Lease, instance_id: str, work: UserWork, hook: Callable[[str], None] | None
    ) -> SendResult | BaseException:
        """See `Backend.transact`. What is to be raised is returned, so that the thread takes nothing for its own.

        Raises:
            sqlite3.OperationalError: the file is busy; nothing was done, call it again.
        """
        connection = self._connection or self._connect()
        connection.execute("begin immediate")
        try:
            outcome = self._inside(connection, lease, instance_id, work, hook)
        except BaseException as error:
            self._put_right(connection, roll_back=True)
            return error
        if outcome.outcome != "delivered":
            self._put_right(connection, roll_back=True)
            return outcome
        try:
            connection.execute("commit")
            if hook is not None:
                hook("after commit")
        except BaseException as error:
            self._put_right(connection, roll_back=True)
            if isinstance(error, sqlite3.IntegrityError):
                return error  # a deferred foreign key: the user's rows do not fit
            code = getattr(error, "sqlite_errorcode", None)
            if code is not None and code & 0xFF in REFUSALS:
                return _with_cause(StorageError(f"{self._path}: {error}; nothing was written"), error)
            return _with_cause(CommitOutcomeUnknown(f"{self._path}: the commit did not answer: {error}"), error)
        self._put_right(connection, roll_back=False)
        return outcome

    def _inside(
        self,
        connection: GuardedConnection,
        lease: Lease,
        instance_id: str,
        work: UserWork,
        hook: Callable[[str], None] | None,
    ) -> SendResult:
        try:
            if hook is not None:
                hook("begin")
            if connection.execute("select 1 from workers where id = ?", (lease.worker_id,)).fetchone() is None:
                raise lease_lost(lease)
            record = read_record(connection, instance_id)
            if record is None:
                return SendResult("missing")
            if record.status.is_terminal:
                return SendResult("over", record)
            waiting = connection.execute(
                "select number, instance, data from inbox where instance = ? order by number", (instance_id,)
            ).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}; nothing was written") from error
        data = self._call(connection, work, [Message(*row) for row in waiting])
        try:
            put_in(connection, Outgoing(instance_id, data))
            if hook is not None:
                hook("before commit")
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}; nothing was written") from error
        return SendResult("delivered", record)

    def _call(self, connection: GuardedConnection, work: UserWork, waiting: list[Message]) -> bytes:
        """User code, watched; the connection is as it was before when this returns."""
        guard = connection.guard
        guard.refused = None
        connection.set_authorizer(guard)
        try:
            data = work(connection, waiting)
        except Exception as error:
            if guard.refused is not None and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_AUTH:
                raise TransactionMisused(f"a transactional activity {guard.refused}") from error
            raise
        finally:
            with suppress(sqlite3.ProgrammingError):  # user code has closed it
                connection.set_authorizer(None)
        if not isinstance(data, bytes):
            if inspect.iscoroutine(data):
                data.close()
            raise TransactionMisused("user code that writes to a SQLite file runs on its writer's thread: write def")
        if not _is_open(connection):
            raise TransactionMisused("a transactional activity closed the connection that it was lent")
        if not connection.in_transaction:
            raise TransactionMisused(
                f"a transactional activity {guard.refused or 'swallowed an error that rolled its transaction back'}; "
                "nothing was written"
            )
        connection.row_factory = None
        connection.text_factory = str
        return data

    # -- the connection -------------------------------------------------------------------------------------

    def _connect(self) -> GuardedConnection:
        # Without a cache of statements: one that is kept would not be looked at when it is used again.
        made = sqlite3.connect(
            self._path, timeout=0, isolation_level=None, factory=GuardedConnection, cached_statements=0
        )
        try:
            self._prepare(made)
        except BaseException:
            made.close()
            raise
        self._connection = made
        return made

    def _put_right(self, connection: GuardedConnection, *, roll_back: bool) -> None:
        """Leave no transaction open; a connection that cannot be put right is closed, which takes all back."""
        try:
            if roll_back and connection.in_transaction:
                connection.execute("rollback")
            is_well = not connection.in_transaction
            if is_well:
                _restore(connection)
        except sqlite3.Error:
            is_well = False
        if not is_well:
            self.close()

    def close(self) -> None:
        """Let the connection go."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.total_changes  # noqa: B018  # asked for its refusal
    except sqlite3.ProgrammingError:
        return False
    return True


def _restore(connection: sqlite3.Connection) -> None:
    """As user code found it; outside of a transaction, which some of this would end."""
    if getattr(connection, "autocommit", _LEGACY) != _LEGACY:  # Python 3.12 and above
        setattr(connection, "autocommit", _LEGACY)  # noqa: B010  # older ones do not know it
    if connection.isolation_level is not None:
        connection.isolation_level = None
    connection.row_factory = None
    connection.text_factory = str
    connection.set_trace_callback(None)
    connection.set_progress_handler(None, 0)


def _with_cause(error: StorageError, cause: BaseException) -> StorageError:
    error.__cause__ = cause
    return error
