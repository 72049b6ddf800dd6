"""The part of a client that deals with work which others do: activities that were handed over, and queues."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from durableflow.backends.base import Backend
from durableflow.model import converter
from durableflow.model.ids import check_name
from durableflow.model.queues import QueueStatus
from durableflow.model.tokens import OpenAttempt
from durableflow.runtime.clock import Clock
from durableflow.runtime.queues import queue_status, set_limits, set_paused
from durableflow.runtime.starts import check_size
from durableflow.runtime.tokens import Tokens, failure_of


class Work:
    """What a `Client` can do about tasks in queues, and about activities that were handed over."""

    _backend: Backend
    _clock: Clock
    _payload_limit_bytes: int

    def _note_written(self) -> None:
        """Something was written that an engine in this process does not hear of by itself."""
        raise NotImplementedError

    # -- activities that were handed over -------------------------------------------------------------------

    async def open_attempt(self, instance_id: str, task: int) -> OpenAttempt | None:
        """The attempt of task `task` that has a token and no result; None when there is none.

        What it gives does the same as the token, for those who have the store itself.
        """
        return await Tokens(self._backend, self._clock).open_attempt(instance_id, task)

    async def open_attempts(self) -> Sequence[tuple[str, int]]:
        """Instance and task number of each attempt that has a token and no result, of activities without a queue."""
        return await self._backend.offered_tasks()

    async def complete(self, token: str | OpenAttempt, value: object = None) -> None:
        """Bring the result of an activity that was handed over; returns when it is durable.

        Args:
            token: what `hand_over()` gave in the activity, or what `open_attempt()` found.
            value: what the activity is to return; it must fit the type that it is annotated with.

        Raises:
            TokenRefused: it is no token, or none any more: used, expired, cancelled; nothing was written.
            PayloadError: the value cannot be stored.
        """
        what = "the result of an activity that was handed over"
        data = converter.dump(value, what)
        check_size(what, data, self._payload_limit_bytes)
        await Tokens(self._backend, self._clock).complete(token, data)
        self._note_written()

    async def fail(
        self,
        token: str | OpenAttempt,
        error: BaseException | str,
        message: str = "",
        *,
        retryable: bool = True,
        counts: bool = True,
        details: object = None,
    ) -> bool:
        """Say that the attempt has failed; True when the retry policy allows another, which will ask anew.

        Args:
            token: what `hand_over()` gave in the activity, or what `open_attempt()` found.
            error: an exception, or the name of a type for which `message` says more.
            retryable: False to let no attempt follow, whatever the policy says.
            counts: False for what is not the attempt's fault: the retry policy does not count it.
            details: plain JSON values for the next attempt, in place of the last heartbeat's; written with the failure.

        Raises:
            TokenRefused: as `complete` does.
        """
        failure, type_names = failure_of(error, message, retryable=retryable)
        data: bytes | None = None
        if details is not None:
            data = converter.dump(details, "the details of a failed attempt")
            check_size("the details of a failed attempt", data, self._payload_limit_bytes)
        is_retried = await Tokens(self._backend, self._clock).fail(
            token, failure, type_names, counts=counts, details=data
        )
        self._note_written()
        return is_retried

    async def heartbeat(self, token: str | OpenAttempt, details: object = None) -> bool:
        """Say that somebody is at it; False when the result is no longer wanted, and the work may stop.

        Args:
            token: what `hand_over()` gave in the activity, or what `open_attempt()` found.
            details: plain JSON values; the next attempt, if there is one, can read them.

        Raises:
            TokenRefused: it is no token, or not the one that was given out.
            PayloadError: the details cannot be stored.
        """
        data = converter.dump(details, "the heartbeat details")
        check_size("the heartbeat details", data, self._payload_limit_bytes)
        return await Tokens(self._backend, self._clock).heartbeat(token, data)

    # -- queues ---------------------------------------------------------------------------------------------

    async def queues(self) -> Sequence[QueueStatus]:
        """How all queues stand that were ever used or given limits, by name."""
        return [queue_status(record) for record in await self._backend.queues()]

    async def queue(self, name: str) -> QueueStatus:
        """How a queue stands; one that was never used is empty."""
        found = await self._backend.queues(check_name(name, "the name of a queue"))
        return queue_status(found[0]) if found else QueueStatus(name)

    async def set_queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        rate: str | tuple[int, timedelta] | None = None,
        burst: int | None = None,
    ) -> None:
        """Set the limits of a queue, over all processes; what is left out has none. They hold from the next task on.

        Args:
            concurrency: how many of its tasks may run at once.
            rate: so many may begin in a period, on average: `"100/min"`, `"5/s"`, or `(100, timedelta(minutes=1))`.
            burst: so many may begin at once, within the rate; by default as many as the rate's count.

        Raises:
            ValueError: a limit is out of range.
        """
        await set_limits(self._backend, name, concurrency, rate, burst)
        self._note_written()

    async def pause_queue(self, name: str) -> None:
        """Have nothing taken from a queue until it is resumed; what runs goes on."""
        await set_paused(self._backend, name, is_paused=True)

    async def resume_queue(self, name: str) -> None:
        """Go on with a queue that was paused."""
        await set_paused(self._backend, name, is_paused=False)
        self._note_written()
