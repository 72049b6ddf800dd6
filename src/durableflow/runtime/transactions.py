"""Transactional activities: attempts that run inside the store, and whose result is a message in the inbox.

An attempt is either committed, with what the user's code wrote and with the message that it is completed, or it comes
to nothing. What keeps it so:

1. The store checks the lease and that the instance is not over, in the same transaction.
2. An attempt has a seal, taken once. The store takes it when the user's code is through, just before the commit; who
   gives the attempt up (a time-out, a cancellation, the end of the engine) takes it before that is told to anyone. So
   no attempt is both recorded as failed and committed.
3. Of two answers of one attempt in the inbox the first is the truth; an attempt that finds one there does nothing.
4. After a crash the inbox tells: with a message there it is completed, and without one nothing was written.
5. Where the store commits beside other transactions, an instance is not read again while an attempt of it is being
   committed: its message might not be there yet, and the attempt be made a second time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final

from durableflow.authoring.activity import current_activity
from durableflow.backends.base import Message
from durableflow.errors import (
    CommitOutcomeUnknown,
    CorruptHistory,
    EngineClosed,
    LeaseLost,
    StorageError,
    TransactionMisused,
)
from durableflow.model import events as ev
from durableflow.runtime.attempt import Attempt
from durableflow.runtime.attempts import Attempts
from durableflow.runtime.means import Means
from durableflow.runtime.messages import event_in, is_answer
from durableflow.runtime.places import TRANSACTIONS_AT_ONCE

_PLAIN_AT_ONCE: Final = 4
"""So many are handed at a time to a store with one writer: the engine's own commits find their way between them."""


class _GivenUp(Exception):
    """Nobody wants the attempt any more; nothing was written."""


class _Interrupted(Exception):
    """The user's code ended by something that would end more than itself."""


class Transactions:
    """Runs transactional attempts, in the order in which they began.

    Args:
        look: has the inbox read.
    """

    def __init__(self, means: Means, attempts: Attempts, look: Callable[[], None]) -> None:
        self._means = means
        self._attempts = attempts
        self._look = look
        self._at_once = _PLAIN_AT_ONCE if means.backend.user_work == "plain" else TRANSACTIONS_AT_ONCE
        self._line: deque[Attempt] = deque()
        self._under_way = 0

    def begin(self, attempt: Attempt) -> None:
        """Run an attempt as soon as the store has time for it."""
        self._line.append(attempt)
        if self._under_way < self._at_once:
            self._under_way += 1
            self._means.in_background(self._work())

    async def _work(self) -> None:
        try:
            while self._line:
                await self._run(self._line.popleft())
        except (EngineClosed, LeaseLost):
            pass  # the worker ends, and the next one reads the inbox
        finally:
            self._under_way -= 1

    async def _run(self, attempt: Attempt) -> None:
        attempts = self._attempts
        raised: list[BaseException] = []
        call = self._call_async if attempt.definition.is_async else self._call
        try:
            self._check_form(attempt)
            await self._means.transact(attempt.owner.id, partial(call, attempt, raised))
        except BaseException as error:
            if isinstance(error, _Interrupted):
                attempts.end_in_store(attempt, raised[0])
            elif any(error is each for each in raised) or isinstance(error, TransactionMisused):
                attempts.end_in_store(attempt, error)
            else:
                await self._not_done(attempt, error)
        else:
            await self._done(attempt)

    async def _not_done(self, attempt: Attempt, error: BaseException) -> None:
        """The store has something to say of it."""
        if isinstance(error, (_GivenUp, LeaseLost)):  # who gave it up knows; a lost lease is told by the next commit
            self._attempts.end_in_store(attempt)
        elif isinstance(error, CommitOutcomeUnknown) and await self._is_in_the_log(attempt):
            await self._done(attempt)
        elif isinstance(error, StorageError):
            self._attempts.take_back(attempt, error)
        elif isinstance(error, Exception):
            self._attempts.end_in_store(attempt, error)
        else:  # this worker is being stopped
            raise error

    async def _done(self, attempt: Attempt) -> None:
        self._attempts.end_in_store(attempt)
        self._look()

    async def _is_in_the_log(self, attempt: Attempt) -> bool:
        load = partial(self._means.backend.load, [attempt.owner.id])
        return any(_is_answered(attempt, loaded.messages) for loaded in await self._means.patiently(load))

    def _check_form(self, attempt: Attempt) -> None:
        """Raises `TransactionMisused` for an activity whose function this store cannot call."""
        form, definition = self._means.backend.user_work, attempt.definition
        if form == "plain" and definition.is_async:
            raise TransactionMisused(
                f"activity {definition.name!r} is async, and the store's only writer would stand still at each await: "
                f"on a SQLite file write a plain function, def {definition.name}(db: sqlite3.Connection, ...)"
            )
        if form == "async" and not definition.is_async:
            raise TransactionMisused(
                f"activity {definition.name!r} is a plain function, and a store in Postgres is written to on the event "
                f"loop: write async def {definition.name}(db: asyncpg.Connection, ...), and await what it asks of db"
            )

    def _call(
        self, attempt: Attempt, raised: list[BaseException], connection: Any, waiting: Sequence[Message]
    ) -> bytes:
        """The user's code; on the store's thread, inside the transaction. What it raises is also put into `raised`."""
        context = _context_of(attempt, waiting)
        definition = attempt.definition
        try:
            args, kwargs = definition.arguments.load(attempt.activity.input)
            value = context.run(definition.function, connection, *args, **kwargs)
            output = self._attempts.dump(definition, value)
        except BaseException as error:
            raised.append(error)
            raise
        return _seal(attempt, output)

    async def _call_async(
        self, attempt: Attempt, raised: list[BaseException], connection: Any, waiting: Sequence[Message]
    ) -> bytes:
        """The same on the event loop, as a task of its own, which can be told to stop."""
        context = _context_of(attempt, waiting)
        definition = attempt.definition
        try:
            args, kwargs = definition.arguments.load(attempt.activity.input)
            called = _call_inside(partial(definition.function, connection, *args, **kwargs))
            task = attempt.task = asyncio.Task(called, name=definition.name, context=context)
            output = self._attempts.dump(definition, await task)
        except BaseException as error:
            if attempt.over:
                raise _GivenUp from error
            raised.append(error)
            if not isinstance(error, Exception):
                raise _Interrupted from error
            raise
        data = _seal(attempt, output)
        self._attempts.note_commit(attempt)
        return data


async def _call_inside(function: Callable[[], Awaitable[Any]]) -> Any:
    """Called by the task itself: one that is told to stop before its first step has then made nothing."""
    return await function()


def _context_of(attempt: Attempt, waiting: Sequence[Message]) -> Context:
    """Where its code runs.

    Raises:
        _GivenUp: it is not to be run.
    """
    if attempt.over or _is_answered(attempt, waiting):
        raise _GivenUp
    context = copy_context()
    if attempt.context is not None:
        attempt.context.is_transactional = True
        context.run(current_activity.set, attempt.context)
    return context


def _seal(attempt: Attempt, output: bytes) -> bytes:
    """The message that it is completed; from here on it cannot be given up.

    Raises:
        _GivenUp: it was.
    """
    assert attempt.seal is not None
    if not attempt.seal.acquire(blocking=False):
        raise _GivenUp
    return ev.dump_event(ev.ActivityCompleted(attempt.activity.task, output, attempt.number))


def _is_answered(attempt: Attempt, messages: Sequence[Message]) -> bool:
    """Whether one of these messages is what became of it."""
    for message in messages:
        try:
            event = event_in(message)
        except CorruptHistory:  # it stalls its instance when that is next loaded
            continue
        if is_answer(event) and (event.task, event.attempt) == (attempt.activity.task, attempt.number):
            return True
    return False
