"""Finishing, from any process, an activity that was handed over: with its token."""

from __future__ import annotations

from typing import Any

from durableflow.backends.base import Backend
from durableflow.backends.tasks import CLAIMED, HANDED_OVER, StoredTask, TaskBeat
from durableflow.errors import NonRetryableError, RemoteError, TokenRefused, qualified_name
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.failure import Failure, record
from durableflow.model.tokens import OpenAttempt, TokenParts, read_token
from durableflow.runtime.attempt import failed_attempt
from durableflow.runtime.clock import Clock
from durableflow.runtime.tasks import activity_of, answered_until_us, damage_of, end_of, end_of_damaged, load_options

_NON_RETRYABLE = qualified_name(NonRetryableError)


class Tokens:
    """What the holder of a token may do. Nothing is written when a token is refused.

    Who has the store needs no token: an `OpenAttempt` that was read there does as well.
    """

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock

    async def open_attempt(self, instance_id: str, task: int) -> OpenAttempt | None:
        """The attempt that a token could finish now; None when there is none."""
        found = await self._backend.task(instance_id, task)
        if found is None or found.token_digest is None:
            return None
        details = None if found.details is None else converter.loader(Any)(found.details)
        return OpenAttempt(instance_id, task, found.attempt, found.name, details, found.scheduled_at_us)

    async def complete(self, token: str | OpenAttempt, output: bytes) -> None:
        """The activity's result is `output`.

        Raises:
            TokenRefused: as it says.
        """
        parts = _parts_of(token)
        while True:
            task = await self._task(parts)
            if await self._finish(task, ev.ActivityCompleted(task.task, output, task.attempt)):
                return

    async def fail(
        self,
        token: str | OpenAttempt,
        failure: Failure,
        type_names: tuple[str, ...],
        *,
        counts: bool = True,
        details: bytes | None = None,
    ) -> bool:
        """The attempt has failed; True when another follows, which reads `details`.

        Raises:
            TokenRefused: as it says.
        """
        parts = _parts_of(token)
        while True:
            task = await self._task(parts)
            event = failed_attempt(activity_of(task), failure, type_names, self._clock, counts=counts, details=details)
            if await self._finish(task, event, details):
                return isinstance(event, ev.AttemptFailed)

    async def heartbeat(self, token: str | OpenAttempt, details: bytes) -> bool:
        """Somebody is at it: the heartbeat timeout begins again. False when the result is no longer wanted.

        Raises:
            TokenRefused: it is no token, or not the one that was given out.
        """
        parts = _parts_of(token)
        try:
            task = await self._task(parts)
        except TokenRefused as refused:
            if refused.reason in ("malformed", "wrong"):
                raise
            return False
        until_us: int | None = None
        if task.state == HANDED_OVER:
            until_us = answered_until_us(
                load_options(task), task.scheduled_at_us, task.started_us, self._clock.now_us()
            )
        (is_wanted,) = await self._backend.beat_tasks([TaskBeat(task.number, task.attempt, details, until_us)])
        return is_wanted

    async def _finish(self, task: StoredTask, event: ev.Observation, details: bytes | None = None) -> bool:
        """False when the task is another than it was seen: to be looked at again."""
        (is_written,) = await self._backend.finish_tasks([end_of(task, event, self._clock.now_us(), details)], None)
        return is_written

    async def _task(self, parts: TokenParts) -> StoredTask:
        """The task that a token may finish now.

        Raises:
            TokenRefused: it may not.
        """
        kind = "open attempt" if parts.digest is None else "token"
        what = f"the {kind} of task {parts.task} of instance {parts.instance_id!r}"
        task = await self._backend.task(parts.instance_id, parts.task)
        if task is None:
            raise TokenRefused(
                "over", f"{what} is worth nothing any more: it was used, or the activity or its instance is over"
            )
        if damage := damage_of(task):
            await self._backend.finish_tasks([end_of_damaged(task, damage)], None)
            raise TokenRefused("over", f"{what} is worth nothing any more, for its task cannot be read: {damage}")
        if task.attempt != parts.attempt or task.token_digest is None:
            raise TokenRefused(
                "stale", f"{what} is of attempt {parts.attempt}, which is over; attempt {task.attempt} has its own"
            )
        import hmac

        if parts.digest is not None and not hmac.compare_digest(task.token_digest, parts.digest):
            raise TokenRefused("wrong", f"{what} is not the one that was given out")
        is_due = task.expires_us is not None and task.expires_us <= self._clock.now_us()
        if is_due and task.state != CLAIMED:  # of one that is claimed, it is the time by which it was to be
            raise TokenRefused("expired", f"{what} came too late: the time of this attempt is over")
        return task


def _parts_of(token: str | OpenAttempt) -> TokenParts:
    if isinstance(token, OpenAttempt):
        return TokenParts(token.instance_id, token.task, token.attempt, None)
    return read_token(token)


def failure_of(error: BaseException | str, message: str, *, retryable: bool) -> tuple[Failure, tuple[str, ...]]:
    """The record of an exception, or of a type's name and a message; and the names by which retries are judged."""
    if isinstance(error, BaseException):
        failure = record(error)
        names = tuple(qualified_name(kind) for kind in type(error).__mro__)
        if isinstance(error, RemoteError):
            names = (error.type_name, *names)
    else:
        failure = Failure(error, message)
        names = (error,)
    return failure, names if retryable else (*names, _NON_RETRYABLE)


__all__ = ["Tokens", "failure_of"]
