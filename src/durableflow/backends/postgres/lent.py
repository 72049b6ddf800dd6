"""What user code has of a connection, for as long as its transaction lasts.

Everything that reads or writes is there, as the driver has it; `transaction()` makes a savepoint. What would end the
transaction, or outlive it, is refused before it reaches the server:

1. A call is one statement. So its first words say what it is, and nothing is hidden behind a semicolon.
2. Statements that control the transaction are refused by these words. Inside functions and DO blocks the server refuses
   them itself.
3. After an error the server lets nothing through but a return to a savepoint.
4. Writing to the store's tables is not looked for in the text: the server counts what was written (see `functions.py`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from durableflow.errors import TransactionMisused

Connection: TypeAlias = Any
"""The driver's; it is not needed here, so that an outbox can be made where there is none."""

_STATEMENTS: Final = frozenset({"cursor", "executemany", "fetch", "fetchmany", "fetchrow", "fetchval", "prepare"})
"""Methods whose first argument is a statement; the server takes one at a time from them."""
_FREE: Final = frozenset(
    {
        "copy_from_query",
        "copy_from_table",
        "copy_records_to_table",
        "copy_to_table",
        "get_server_pid",
        "get_server_version",
        "get_settings",
        "is_closed",
        "is_in_transaction",
        "transaction",
    }
)
_BLANK: Final = re.compile(r"(?:\s|--[^\n\r]*(?:[\n\r]|\Z))+")
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_WORD: Final = re.compile(r"[^\W\d]\w*")
_REFUSED: Final = frozenset({"abort", "begin", "commit", "discard", "end", "listen", "start", "unlisten"})


class LentConnection:
    """A connection of the driver's, without what would break its transaction.

    Attributes:
        misuse: what was refused first, and why; None when nothing was.
        written: how many rows the store's own code has written to the store's tables, on behalf of user code.
        told: instances that are sent something when this commits.
        asked_s: when something was last asked for, on the loop's clock.
    """

    __slots__ = ("_connection", "_loop", "asked_s", "misuse", "schema", "told", "written")

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection: Connection | None = connection
        self._loop = asyncio.get_running_loop()
        self.asked_s = self._loop.time()
        self.schema = schema
        self.misuse: str | None = None
        self.written = 0
        self.told: list[str] = []

    def __repr__(self) -> str:
        return f"<the connection of a transactional activity, {self._connection!r}>"

    def __getattr__(self, name: str) -> Any:
        connection = self._lent()
        if name in _FREE:
            return getattr(connection, name)
        if name in _STATEMENTS:
            return self._looking_at(getattr(connection, name))
        if name.startswith("_") or not hasattr(connection, name):
            raise AttributeError(f"{type(connection).__name__!r} object has no attribute {name!r}")
        raise self._refuse(f"asked its connection for {name}, which would outlive its transaction or end it")

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """Execute one statement; its status, as "INSERT 0 1"."""
        connection = self._lent()
        self._look_at(query)
        if args or ";" not in query.rstrip().removesuffix(";"):
            return str(await connection.execute(query, *args, timeout=timeout))
        # The driver would send it as a script. Prepared, it is one statement, or refused by the server.
        statement = await connection.prepare(query, timeout=timeout)
        await statement.fetch(timeout=timeout)
        return str(statement.get_statusmsg())

    async def send(self, instance_ids: list[str], sql: str, *parameters: object) -> list[str]:
        """For an outbox: have the store's own function write messages to these; what became of each."""
        answer: list[str] = await self._lent().fetchval(sql, *parameters)
        self.written += int(answer[-1])
        self.told += instance_ids
        return answer[:-1]

    def take_back(self) -> Connection | None:
        """From here on whoever kept it can do nothing with it."""
        connection, self._connection = self._connection, None
        return connection

    def _lent(self) -> Connection:
        if self._connection is None:
            raise TransactionMisused(
                "a transactional activity went on with its connection after it had ended: await all that it begins"
            )
        try:
            is_there = not self._connection.is_closed()
        except Exception:  # the driver's: it has been closed and put away
            is_there = False
        if not is_there:
            raise ConnectionResetError("the connection of this transactional activity is lost, and nothing was written")
        self.asked_s = self._loop.time()
        return self._connection

    def _looking_at(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(query: str, *args: Any, **kwargs: Any) -> Any:
            self._look_at(query)
            return method(query, *args, **kwargs)

        return call

    def _look_at(self, query: str) -> None:
        words = first_words(query)
        if ends_transaction(words):
            raise self._refuse(
                f"asked for {' '.join(words).upper()}: its writes are committed by the engine, together with its "
                "result, and rolled back when it raises; for a part that may fail write: async with db.transaction()"
            )

    def _refuse(self, what: str) -> TransactionMisused:
        self.misuse = self.misuse or what
        return TransactionMisused(f"a transactional activity {what}")


def ends_transaction(words: list[str]) -> bool:
    """Whether a statement that begins with these would end its transaction, or outlive it."""
    match words:
        case ["rollback", "to", *_] | ["rollback", "work" | "transaction", "to"]:  # a savepoint
            return False
        case ["rollback", *_] | ["prepare", "transaction", *_]:
            return True
        case [first, *_]:
            return first in _REFUSED
        case _:
            return False


def first_words(sql: str) -> list[str]:
    """The first three words of a statement, or as many as come before anything else; empty statements do not count."""
    words: list[str] = []
    at = _behind_blanks(sql, 0)
    while sql.startswith(";", at):
        at = _behind_blanks(sql, at + 1)
    while len(words) < 3 and (word := _WORD.match(sql, at)) is not None:
        words.append(word[0].lower())
        at = _behind_blanks(sql, word.end())
    return words


def _behind_blanks(sql: str, at: int) -> int:
    """Where the blanks and comments end that begin there."""
    while True:
        blank = _BLANK.match(sql, at)
        if blank is not None:
            at = blank.end()
        if not sql.startswith("/*", at):
            return at
        depth, at = 1, at + 2
        while depth:  # comments of SQL are nested
            edge = _COMMENT_EDGE.search(sql, at)
            if edge is None:
                return len(sql)  # the server will not understand it either
            depth += 1 if edge[0] == "/*" else -1
            at = edge.end()
