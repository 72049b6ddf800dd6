"""`@activity(transactional=True)`: what it writes to the store's database, and its result, are one transaction."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from durableflow.authoring.activity import Activity, R_co
from durableflow.authoring.registry import DEFAULT
from durableflow.core.current import current_execution
from durableflow.errors import RegistrationError, UsageError
from durableflow.model.events import ActivityOptions

if TYPE_CHECKING:
    import sqlite3  # a driver: whoever writes such a function has loaded it

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

    def call_on(self, connection: sqlite3.Connection, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """A plain call of the function, for unit tests: with a connection and a transaction of your own."""
        return cast("R_co", cast("Callable[..., Any]", self.function)(connection, *args, **kwargs))


class TransactionalDecorator:
    """What `@activity(transactional=True, ...)` is before it meets its function."""

    def __init__(self, name: str | None, stored: ActivityOptions | None, max_concurrency: int | None) -> None:
        self._name = name
        self._stored = stored
        self._max_concurrency = max_concurrency

    def __call__(self, function: Callable[Concatenate[sqlite3.Connection, P], R], /) -> TransactionalActivity[P, R]:
        """The activity made of `function`, registered by its name.

        Raises:
            RegistrationError: it is no plain function whose first parameter is the connection, or its name is taken.
        """
        given: Callable[..., Any] = function
        made: TransactionalActivity[P, R] = TransactionalActivity(
            given,
            name=self._name,
            stored_options=self._stored,
            max_concurrency=self._max_concurrency,
            transactional=True,
        )
        if made.is_async:
            raise RegistrationError(
                f"activity {made.name!r} is transactional and async: it would hold the store's only writer at each "
                "await; write a plain def, and put what must be awaited into an activity of its own"
            )
        if not _takes_a_connection(given):
            raise RegistrationError(
                f"activity {made.name!r} is transactional, so its first parameter must be the connection: "
                f"def {made.name}(db: sqlite3.Connection, ...)"
            )
        DEFAULT.offer_activity(made)
        return made


def _takes_a_connection(function: Callable[..., Any]) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    usual = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return bool(kinds) and kinds[0] in usual
