"""What the store says of an attempt, and telling it what became of one."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, NamedTuple

from durableflow import Client, InstanceNotFound, OpenAttempt, PayloadError, TokenRefused
from durableflow.errors import DurableflowError, RemoteError
from durableflow.kubernetes.identity import Identity
from durableflow.kubernetes.outcome import Kind, Outcome
from durableflow.kubernetes.progress import Progress, progress_in
from durableflow.model import converter

_TERMINAL: Final = frozenset({"COMPLETED", "FAILED", "TERMINATED", "CANCELLED"})


class Standing(Enum):
    """What a Job is to the store."""

    OPEN = "open"
    """An attempt that is open is about it."""
    OVER = "over"
    """No attempt is, and none will be."""
    LATER = "later"
    """That cannot be told in this moment: an attempt is about to begin, to adopt or to be handed over."""


class Entry(NamedTuple):
    """What the store says; with the attempt where there is one."""

    standing: Standing
    attempt: OpenAttempt | None = None
    progress: Progress | None = None


class Ledger:
    """The store, as Jobs see it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def look_up(self, identity: Identity) -> Entry:
        """What the store says of the attempt that a Job is of."""
        attempt = await self._client.open_attempt(identity.instance_id, identity.task)
        if attempt is None:
            return Entry(Standing.OVER if await self._is_over(identity) else Standing.LATER)
        if attempt.scheduled_at_us != identity.scheduled_at_us:  # of another instance with the same id
            return Entry(Standing.OVER)
        progress = progress_in(attempt.details)
        if progress is None or progress.number < identity.number:
            return Entry(Standing.LATER)
        if progress.number > identity.number:
            return Entry(Standing.OVER)
        return Entry(Standing.OPEN, attempt, progress)

    async def _is_over(self, identity: Identity) -> bool:
        """Whether no attempt of the activity can follow."""
        try:
            status = await self._client.status(identity.instance_id)
            if status.status.value in _TERMINAL:
                return True
            view = await self._client.view(identity.instance_id)
        except InstanceNotFound:
            return True
        task = next((each for each in view.tasks if each.task == identity.task and each.kind == "activity"), None)
        return (
            task is None or task.scheduled_at_us != identity.scheduled_at_us or task.state not in ("running", "waiting")
        )

    async def open_attempts(self) -> list[tuple[OpenAttempt, Progress]]:
        """All open attempts whose Job was there."""
        found: list[tuple[OpenAttempt, Progress]] = []
        for instance_id, task in await self._client.open_attempts():
            attempt = await self._client.open_attempt(instance_id, task)
            progress = None if attempt is None else progress_in(attempt.details)
            if attempt is not None and progress is not None and progress.is_sent:
                found.append((attempt, progress))
        return found

    async def workflow_of(self, identity: Identity) -> str:
        """The name of the workflow that asked; empty when that cannot be told any more, or not now."""
        try:
            return (await self._client.status(identity.instance_id)).workflow
        except DurableflowError:
            return ""

    async def give_back(self, token: str, progress: Progress, why: str) -> None:
        """Nothing is known of the attempt's Job, and we end: the next attempt looks for it."""
        error = RemoteError("WorkerStopped", why, "")
        await self._client.fail(token, error, counts=False, details=progress.dump())

    async def begin(self, token: str, progress: Progress) -> bool:
        """Make durable which Job the attempt is about; False when the attempt is not the current one any more."""
        return await self._client.heartbeat(token, progress.dump())

    async def beat(self, attempt: OpenAttempt, progress: Progress) -> bool:
        """The pod is alive; False when nobody wants its result any more."""
        return await self._client.heartbeat(attempt, progress.dump())

    async def end(
        self, attempt: str | OpenAttempt, progress: Progress, outcome: Outcome, text: str, log: str, retries: int
    ) -> Outcome:
        """Tell what became of the attempt; returns, when it is durable, what was told.

        Args:
            text: the account of a failure.
            log: the last lines of the pod's.
            retries: so many attempts may fail by infrastructure.

        Raises:
            TokenRefused: it had its end already, or is another.
        """
        if outcome.kind is Kind.SUCCESS:
            try:
                await self._client.complete(attempt, outcome.value)
            except TokenRefused:
                raise
            except PayloadError as error:
                outcome = Outcome(Kind.FATAL, "ResultInvalid", str(error))
                text = outcome.message
            else:
                return outcome
        after = progress.after(is_infrastructure=outcome.kind is Kind.INFRASTRUCTURE)
        is_used_up = outcome.kind is Kind.INFRASTRUCTURE and after.infrastructure > retries
        if is_used_up:
            text += f"\ngiven up after {after.infrastructure} attempts that failed by infrastructure"
        await self._client.fail(
            attempt,
            RemoteError(outcome.reason, text, log),
            retryable=outcome.kind is not Kind.FATAL and not is_used_up,
            counts=outcome.kind is not Kind.INFRASTRUCTURE,
            details=after.dump(),
        )
        return outcome


def check_result(outcome: Outcome, load: Any) -> Outcome:
    """The same, or a failure if the value is not of the type that the activity is annotated with."""
    if outcome.kind is not Kind.SUCCESS:
        return outcome
    try:
        load(converter.dump(outcome.value, "the result of the Job"))
    except PayloadError as error:
        return Outcome(Kind.FATAL, "ResultInvalid", str(error), node=outcome.node, pod=outcome.pod)
    return outcome
