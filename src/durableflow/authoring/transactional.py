"""`@activity(transactional=True)`: what it writes to the store's database, and its result, are one transaction.

A function has the form that its driver has: a plain one with a `sqlite3.Connection` for a store in a SQLite file, an
async one with an `asyncpg.Connection` for a store in Postgres.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast, overload

from durableflow.authoring.activity import Activity, R_co
from durableflow.authoring.registry import DEFAULT
from durableflow.core.current import current_execution
from durableflow.errors import RegistrationError, UsageError
from durableflow.model.events import ActivityOptions

if TYPE_CHECKING:
    import sqlite3  # a driver: whoever writes such a function has loaded it

    import asyncpg  # the same

P = ParamSpec("P")
R = TypeVar("R")


class TransactionalActivity(Activity[P, R_co]):
    """An activity whose function is given a connection first; a workflow calls it without: `call_activity(book, x)`.

    All else is as of `Activity`.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Refused everywhere: there is no connection to call it with.

        Raises:
            DirectCallError: inside a workflow; the message has the line to write instead.
            UsageError: elsewhere.
        """
        if current_execution.get() is not None:
            return super().__call__(*args, **kwargs)  # which refuses it
        raise UsageError(
            f"activity {self.name!r} is transactional: its function needs a connection; for a plain call with one of "
            f"your own write {self.name}.call_on(connection, ...)"
        )

    @overload
    def call_on(self, connection: sqlite3.Connection, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def call_on(
        self, connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy, /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[R_co]: ...
    def call_on(self, connection: Any, /, *args: P.args, **kwargs: P.kwargs) -> R_co | Awaitable[R_co]:
        """A plain call of the function, for unit tests: with a connection and a transaction of your own.

        One that is async is awaited.
        """
        return cast("R_co", cast("Callable[..., Any]", self.function)(connection, *args, **kwargs))


class TransactionalDecorator:
    """What `@activity(transactional=True, ...)` is before it meets its function."""

    def __init__(self, name: str | None, stored: ActivityOptions | None, max_concurrency: int | None) -> None:
        self._name = name
        self._stored = stored
        self._max_concurrency = max_concurrency

    @overload
    def __call__(
        self, function: Callable[Concatenate[asyncpg.Connection, P], Coroutine[Any, Any, R]], /
    ) -> TransactionalActivity[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[sqlite3.Connection, P], R], /) -> TransactionalActivity[P, R]: ...
    def __call__(self, function: Callable[Concatenate[Any, P], Any], /) -> TransactionalActivity[P, Any]:
        """The activity made of `function`, registered by its name.

        Raises:
            RegistrationError: it is no function whose first parameter is the connection, or its form is not that of the
                driver which it names there; or its name is taken.
        """
        given: Callable[..., Any] = function
        made: TransactionalActivity[P, Any] = TransactionalActivity(
            given,
            name=self._name,
            stored_options=self._stored,
            max_concurrency=self._max_concurrency,
            transactional=True,
        )
        if not _takes_a_connection(given):
            raise RegistrationError(
                f"activity {made.name!r} is transactional, so its first parameter must be the connection: "
                f"def {made.name}(db: sqlite3.Connection, ...), or for a store in Postgres "
                f"async def {made.name}(db: asyncpg.Connection, ...)"
            )
        driver = _driver_of(given)
        if driver == "sqlite3" and made.is_async:
            raise RegistrationError(
                f"activity {made.name!r} is transactional and async: it would hold the SQLite file's only writer at "
                "each await; write a plain def, and put what must be awaited into an activity of its own"
            )
        if driver == "asyncpg" and not made.is_async:
            raise RegistrationError(
                f"activity {made.name!r} is given a connection of asyncpg, whose methods are awaited: write async def"
            )
        DEFAULT.offer_activity(made)
        return made


def _takes_a_connection(function: Callable[..., Any]) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    usual = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return bool(kinds) and kinds[0] in usual


def _driver_of(function: Callable[..., Any]) -> str:
    """The module that the annotation of the connection begins with; empty if it does not tell."""
    first = next(iter(inspect.signature(function).parameters.values())).annotation
    text = first if isinstance(first, str) else getattr(first, "__module__", "")
    return str(text).strip("'\"").partition(".")[0]
