"""From an attempt that begins to a Job that is there: what is durable before anything is sent, and what after.

Rule 1. The intent is durable first: number, and digest of the token.
Rule 2. Whoever tries again makes the same name, and adopts.
Rule 3. An attempt that is not the current one any more sends nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import msgspec

from durableflow import ActivityContext, TokenRefused
from durableflow.kubernetes.account import describe
from durableflow.kubernetes.activity import GpuJob
from durableflow.kubernetes.board import Board, Case
from durableflow.kubernetes.connection import ApiClosed, Connection
from durableflow.kubernetes.identity import Identity
from durableflow.kubernetes.ledger import Ledger
from durableflow.kubernetes.manifest import OBJECTS_KEY, TOKEN_KEY, Documents, Doors, InputTooLarge, documents
from durableflow.kubernetes.objects import Objects, ObjectsFailed
from durableflow.kubernetes.outcome import Kind, Outcome
from durableflow.kubernetes.progress import Progress, progress_in
from durableflow.kubernetes.spec import JobSpec, rules_of
from durableflow.kubernetes.statistics import Tally
from durableflow.kubernetes.submit import Submission, SubmitFailed, Submitted
from durableflow.kubernetes.tokens import digest_of, new_token

_AT_ONCE: Final = 32
_LEAVE_S: Final = 5.0


class Sender:
    """Sends the Jobs of a deployment.

    Args:
        doors: how their pods reach us.
        objects: for what is large; None without.
        touch: called with a case that is to be looked at.
    """

    def __init__(
        self,
        connection: Connection,
        deployment: str,
        namespace: str,
        board: Board,
        ledger: Ledger,
        tally: Tally,
        doors: Doors,
        objects: Objects | None,
        touch: Callable[[Case], None],
        now_us: Callable[[], int],
    ) -> None:
        self._connection = connection
        self._deployment = deployment
        self._namespace = namespace
        self._board = board
        self._ledger = ledger
        self._tally = tally
        self._doors = doors
        self._objects = objects
        self._touch = touch
        self._now_us = now_us
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._sends: set[asyncio.Task[Submitted]] = set()
        self._is_closed = False
        self._idle = asyncio.Event()
        """Set when no attempt is here."""
        self._here = 0

    def open(self) -> None:
        """Send, from here on."""
        self._is_closed = False

    async def close(self) -> None:
        """Let those attempts go whose Job is not known to be there, with what they must leave for the next."""
        self._is_closed = True
        for task in self._sends:
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                while self._here:
                    self._idle.clear()
                    await self._idle.wait()

    async def send(self, definition: GpuJob[Any], context: ActivityContext, input: bytes) -> None:
        """Return when the Job of an attempt is there, or the attempt has its end."""
        self._here += 1
        try:
            await self._send(definition, context, input)
        finally:
            self._here -= 1
            if not self._here:
                self._idle.set()

    async def _send(self, definition: GpuJob[Any], context: ActivityContext, input: bytes) -> None:
        progress = progress_in(context.heartbeat_details) or Progress(
            deployment=self._deployment, namespace=self._namespace
        )
        identity = Identity(
            deployment=self._deployment,
            instance_id=context.instance_id,
            task=context.task,
            scheduled_at_us=context.scheduled_at_us,
            number=progress.number,
            activity=definition.name,
        )
        files: dict[str, str] = {}
        if self._doors.keeps_token or progress.tokens:  # one of an attempt before may have been lost on its way
            files[TOKEN_KEY] = new_token()
            progress = msgspec.structs.replace(progress, tokens=(*progress.tokens, digest_of(files[TOKEN_KEY])))
        attempt = await context.hand_over()
        if not await self._ledger.begin(attempt, progress):
            return
        rules = rules_of(definition.spec, identity.name)
        limit_us = rules.schedule_us + context.scheduled_at_us if rules.schedule_us else 0
        late = lambda: bool(limit_us) and self._now_us() >= limit_us  # noqa: E731  # read in one place
        known = self._board.cases.get(identity.name)
        was_known = progress.is_sent or (known is not None and bool(known.uid))
        case = self._board.expect(identity, rules)
        was_there = lambda: was_known or bool(case.uid)  # noqa: E731  # likewise
        try:
            submitted = await self._unless_closed(
                self._submit(definition.spec, identity, input, progress, files, late, was_there)
            )
        except BaseException as error:
            if not case.uid:
                self._board.forget(case)  # if it is there after all, it is seen
            if not isinstance(error, (ApiClosed, SubmitFailed)):
                raise
            with suppress(TokenRefused):  # its Job has brought its end already
                await self._end(attempt, identity, progress, error, rules.infrastructure_retries)
            return
        with suppress(TokenRefused):  # it may have its end already
            await self._ledger.begin(attempt, msgspec.structs.replace(progress, is_sent=True))
        self._tally.sent(identity, is_adopted=submitted.is_adopted)
        if self._board.cases.get(case.name) is case:
            if not case.uid:
                self._board.see_job(submitted.job)
            self._touch(case)  # it may be over since, and has waited for this attempt

    async def _end(
        self, attempt: str, identity: Identity, progress: Progress, error: ApiClosed | SubmitFailed, retries: int
    ) -> None:
        """There will be no Job for this attempt, or that is not known."""
        if isinstance(error, ApiClosed):
            await self._ledger.give_back(attempt, progress, "these KubernetesJobs were closed while a Job was sent")
            return
        text = describe(error.outcome, identity.name, ())
        ended = await self._ledger.end(attempt, progress, error.outcome, text, "", retries)
        self._tally.ended(identity, await self._ledger.workflow_of(identity), ended)
        if self._objects is not None:
            await self._objects.forget(identity.name)

    async def _unless_closed(self, work: Coroutine[Any, Any, Submitted]) -> Submitted:
        """What it gives; raises `ApiClosed` when that is not waited for any longer."""
        if self._is_closed:
            work.close()
            raise ApiClosed
        task = asyncio.create_task(work)
        self._sends.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if self._is_closed and this is not None and not this.cancelling():
                raise ApiClosed from None
            raise
        finally:
            self._sends.discard(task)

    async def _submit(
        self,
        spec: JobSpec,
        identity: Identity,
        input: bytes,
        progress: Progress,
        files: dict[str, str],
        late: Callable[[], bool],
        was_there: Callable[[], bool],
    ) -> Submitted:
        async with self._at_once:
            sent = await self._prepare(spec, identity, input, progress, files)
            submission = Submission(
                self._connection, self._namespace, identity, sent, late, was_there=was_there, files=files
            )
            return await submission.run()

    async def _prepare(
        self, spec: JobSpec, identity: Identity, input: bytes, progress: Progress, files: dict[str, str]
    ) -> Documents:
        """The documents of a Job; what its pod reads from the object store is there, and `files` say where.

        Raises:
            SubmitFailed: the input is too large, or the object store does not answer.
        """
        try:
            sent = documents(spec, identity, self._namespace, input, details=progress.user, doors=self._doors)
            if self._objects is not None:
                files[OBJECTS_KEY] = msgspec.json.encode(await self._objects.urls(identity.name, spec)).decode()
                if sent.object is not None:
                    await self._objects.put_input(identity.name, sent.object)
        except InputTooLarge as error:
            raise SubmitFailed(Outcome(Kind.FATAL, "InputTooLarge", str(error))) from error
        except ObjectsFailed as error:
            raise SubmitFailed(Outcome(Kind.INFRASTRUCTURE, "ObjectStoreFailed", str(error))) from error
        return sent
