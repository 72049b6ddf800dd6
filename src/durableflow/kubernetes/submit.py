"""Seeing to it that the Job of an attempt is there, exactly once, whatever is answered or not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

from durableflow.kubernetes.connection import ApiRefused, ApiSilent, Connection
from durableflow.kubernetes.documents import Job, read
from durableflow.kubernetes.identity import Identity, identity_of, spec_hash_of
from durableflow.kubernetes.manifest import Document, Documents, config_map, needs_secret, secret
from durableflow.kubernetes.outcome import Kind, Outcome

_BACKOFF_S: Final = 0.2
_BACKOFF_S_MAX: Final = 10.0
_GONE_POLL_S: Final = 1.0
_REFUSED_S: Final = 60.0
"""How long rights or a namespace may be missing: an API server that has just started refuses what it allows."""


class Submitted(NamedTuple):
    """A Job that is there."""

    job: Job
    is_adopted: bool


class _Answer(NamedTuple):
    """A Job as the server has it."""

    raw: Document
    is_adopted: bool


class SubmitFailed(Exception):
    """No Job will be there for this attempt."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(f"{outcome.reason}: {outcome.message}")


class Found(Enum):
    """What a Job of the wanted name is to the attempt."""

    OURS = "ours"
    GOING = "going"
    """Ours, but somebody has deleted it."""
    OTHER = "other"


def judge(job: Job, identity: Identity, spec_hash: str) -> Found:
    """Whether a Job that is there may be adopted."""
    if identity_of(job) != identity or spec_hash_of(job) != spec_hash:
        return Found.OTHER
    return Found.OURS if job.metadata.deletion_timestamp is None else Found.GOING


class Submission:
    """Sends one Job.

    Args:
        late: says, when asked, that there is no more time; None for as long as it takes.
        was_there: says, when asked, that the Job is known to have been there, so that it is not created again.
        files: of the Job's Secret, if it has one.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: str,
        identity: Identity,
        sent: Documents,
        late: Callable[[], bool],
        *,
        was_there: Callable[[], bool] = bool,
        files: Mapping[str, str] | None = None,
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._identity = identity
        self._sent = sent
        self._late = late
        self._was_there = was_there
        self._files = files or {}
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._backoff_s = _BACKOFF_S
        self._refused_s = 0.0

    async def run(self) -> Submitted:
        """Return when the Job and what its pod reads are there.

        Raises:
            SubmitFailed: as it says.
        """
        while True:
            found = await (self._look(None) if self._was_there() else self._try())
            if found is not None:
                job = read(Job, found.raw)
                await self._send_parts(job, found.raw)
                return Submitted(job, found.is_adopted)

    async def _try(self) -> _Answer | None:
        try:
            raw = msgspec.json.decode(await self._connection.ask("POST", self._jobs, body=self._sent.job))
            await self._check_suspended(raw)
            return _Answer(raw, is_adopted=False)
        except ApiSilent as silent:
            return await self._look(silent)
        except ApiRefused as refused:
            if refused.status == 409 or refused.status >= 500:
                return await self._look(refused)
            await self._pause(refused)
            return None

    async def _look(self, why: ApiSilent | ApiRefused | None) -> _Answer | None:
        """The POST said nothing, or that the name is taken, or was heard before: what is there tells."""
        try:
            raw = msgspec.json.decode(await self._connection.ask("GET", f"{self._jobs}/{self._identity.name}"))
        except ApiRefused as refused:
            was_taken = isinstance(why, ApiRefused) and why.reason == "AlreadyExists"
            if refused.status == 404 and (was_taken or self._was_there()):
                text = f"the Job {self._identity.name!r} was there and is gone; no name is used twice"
                raise SubmitFailed(Outcome(Kind.RETRYABLE, "JobDeleted", text)) from refused
            await self._pause(why if why is not None and refused.status == 404 else refused)
            return None
        except ApiSilent as silent:
            await self._pause(silent)
            return None
        job = read(Job, raw)
        match judge(job, self._identity, self._sent.spec_hash):
            case Found.OURS:
                await self._check_suspended(raw)
                return _Answer(raw, is_adopted=True)
            case Found.GOING:
                await self._wait_gone(job)
                text = f"somebody deleted the Job {job.metadata.name!r}"
                raise SubmitFailed(Outcome(Kind.RETRYABLE, "JobDeleted", text))
            case Found.OTHER:
                text = (
                    f"a Job {job.metadata.name!r} is there which is not of this attempt, or was made from another "
                    "definition; was gpu_job() changed while the attempt was open?"
                )
                raise SubmitFailed(Outcome(Kind.FATAL, "NameConflict", text))

    async def _check_suspended(self, raw: Any) -> None:
        """A queued Job that a server has not suspended runs unnoticed: old servers drop the field without a word."""
        if not self._sent.job["spec"].get("suspend") or "suspend" in raw["spec"]:
            return
        with suppress(ApiRefused, ApiSilent):  # the sweep finds it
            await delete_job(self._connection, self._namespace, self._identity.name, raw["metadata"]["uid"])
        text = "this API server does not know suspended Jobs, so no queue could hold the Job back; it was deleted"
        raise SubmitFailed(Outcome(Kind.FATAL, "SuspendUnsupported", text))

    async def _wait_gone(self, job: Job) -> None:
        while not self._late():
            await asyncio.sleep(_GONE_POLL_S)
            try:
                raw = await self._connection.ask("GET", f"{self._jobs}/{job.metadata.name}")
            except ApiRefused as refused:
                if refused.status == 404:
                    return
            except ApiSilent:
                continue
            else:
                if msgspec.json.decode(raw)["metadata"]["uid"] != job.metadata.uid:
                    return

    async def _send_parts(self, job: Job, raw: Document) -> None:
        """The pod waits for them, so they may come second; and only then is it known whose they are."""
        name, uid, deployment = job.metadata.name, job.metadata.uid, self._identity.deployment
        await self._send("configmaps", job, config_map(name, uid, self._namespace, deployment, self._sent.input))
        if self._files and needs_secret(raw):  # an adopted one may have been made by a worker of other habits
            await self._send("secrets", job, secret(name, uid, self._namespace, deployment, self._files))

    async def _send(self, kind: str, job: Job, document: Document) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/{kind}"
        self._backoff_s, self._refused_s = _BACKOFF_S, 0.0
        while True:
            try:
                await self._connection.ask("POST", path, body=document)
            except ApiRefused as refused:
                if refused.status == 409:
                    return
                try:
                    await self._pause(refused)
                except SubmitFailed:
                    with suppress(ApiRefused, ApiSilent):  # the sweep finds it
                        await delete_job(self._connection, self._namespace, job.metadata.name, job.metadata.uid)
                    raise
            except ApiSilent as silent:
                await self._pause(silent)
            else:
                return

    async def _pause(self, why: ApiSilent | ApiRefused) -> None:
        """Wait before the next try; raises `SubmitFailed` when there shall be none."""
        if isinstance(why, ApiRefused):
            self._give_up_if_hopeless(why)
        if self._late():
            text = f"the API server did not take the Job in time: {why}"
            raise SubmitFailed(Outcome(Kind.RETRYABLE, "ScheduleTimeout", text))
        asked_s = why.retry_after_s if isinstance(why, ApiRefused) else 0.0
        await asyncio.sleep(max(asked_s, self._backoff_s * random.uniform(0.5, 1.5)))  # noqa: S311  # no secret
        self._backoff_s = min(2 * self._backoff_s, _BACKOFF_S_MAX)

    def _give_up_if_hopeless(self, refused: ApiRefused) -> None:
        if refused.status in (400, 413, 415, 422):
            raise SubmitFailed(Outcome(Kind.FATAL, "InvalidSpec", str(refused)))
        if refused.status == 403 and "exceeded quota" in str(refused):
            return
        if refused.status in (401, 403, 404, 405):
            now_s = asyncio.get_running_loop().time()
            self._refused_s = self._refused_s or now_s
            if now_s - self._refused_s >= _REFUSED_S:
                raise SubmitFailed(Outcome(Kind.FATAL, "Forbidden", str(refused)))


async def delete_job(connection: Connection, namespace: str, name: str, uid: str) -> None:
    """Delete this Job, and no later one of its name, with its pods; when this returns it is gone or going.

    The server's own default for Jobs would leave the pods behind.

    Raises:
        ApiRefused, ApiSilent: that is not known.
    """
    body = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": uid},
        "propagationPolicy": "Foreground",  # the Job stays to be seen until its pods are gone
    }
    try:
        await connection.ask("DELETE", f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}", body=body)
    except ApiRefused as refused:
        if refused.status not in (404, 409):  # 409: another one has the name by now
            raise
