"""What pods say over HTTP: who they are is asked of the API server, and what they say is told to the store."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from durableflow import PayloadError, StorageError, TokenRefused
from durableflow.kubernetes.board import Board, Case
from durableflow.kubernetes.connection import ApiClosed, ApiRefused, ApiSilent, Connection
from durableflow.kubernetes.documents import Pod, job_of, read
from durableflow.kubernetes.envelope import unseal
from durableflow.kubernetes.ledger import Entry, Ledger, Standing
from durableflow.kubernetes.manifest import AUDIENCE
from durableflow.kubernetes.outcome import Outcome, answer_of

_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_KNOWN_S: Final = 30.0
"""For how long an answer of the API server's about a token is believed."""
_KNOWN_MAX: Final = 10_000

Tell = Callable[[Case, Entry, Outcome], Awaitable[None]]


class Said(NamedTuple):
    """What is answered to a pod; see `durableflow.http.callbacks.Reply`."""

    status: int
    wanted: bool
    reason: str = ""
    retry_after_s: int = 0


class _Refused(Exception):
    def __init__(self, said: Said) -> None:
        self.said = said
        super().__init__(said.reason)


class _User(msgspec.Struct, frozen=True):
    extra: dict[str, list[str]] = {}


class _ReviewStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    audiences: list[str] = []
    user: _User = _User()


class _TokenReview(msgspec.Struct):
    status: _ReviewStatus


class _Bearer(NamedTuple):
    pod: str
    uid: str
    until_s: float


class PodCallbacks:
    """Behind the routes of `durableflow.http.callbacks`.

    Args:
        tell: ends an attempt; raises `TokenRefused` when it has its end already.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: str,
        board: Board,
        ledger: Ledger,
        tell: Tell,
        now_us: Callable[[], int],
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._board = board
        self._ledger = ledger
        self._tell = tell
        self._now_us = now_us
        self._known: dict[bytes, _Bearer] = {}

    async def answer(self, job: str, token: str, body: bytes) -> Said:
        """A pod says what came of its attempt."""
        try:
            pod = await self._authenticate(job, token)
            envelope = unseal(body.decode(errors="replace"))
            if envelope is None or envelope.job != job:
                return Said(400, wanted=True, reason="no whole envelope of this Job")
            case = self._case(job)
            digest = sha256(body).digest()
            if case.is_closed and case.answer == digest:
                return Said(200, wanted=True, reason="it was taken before")
            entry = await self._open(case)
            outcome = answer_of(case.seen, case.rules, pod, envelope)
            if outcome is None:
                return Said(400, wanted=True, reason=f"an envelope of kind {envelope.kind!r} is no answer")
            try:
                await self._tell(case, entry, outcome)
            except TokenRefused:
                return Said(409, wanted=False, reason="the attempt has its end already")
            case.answer = digest
            return Said(200, wanted=True)
        except _Refused as refused:
            return refused.said
        except (StorageError, ApiRefused, ApiSilent, ApiClosed) as error:
            return Said(503, wanted=True, reason=type(error).__name__, retry_after_s=1)

    async def heartbeat(self, job: str, token: str, body: bytes) -> Said:
        """A pod says that it is at work."""
        try:
            await self._authenticate(job, token)
            case = self._case(job)
            entry = await self._open(case)
            assert entry.attempt is not None
            assert entry.progress is not None
            try:
                details = msgspec.json.decode(body or b"{}", type=dict[str, Any]).get("details")
            except msgspec.DecodeError:
                return Said(400, wanted=True, reason="no JSON")
            now_us = self._now_us()
            progress = msgspec.structs.replace(entry.progress, user=details, beat_us=now_us)
            if not await self._ledger.beat(entry.attempt, progress):
                return Said(409, wanted=False, reason="nobody wants the result any more")
            case.seen.beat_us = now_us
            return Said(200, wanted=True)
        except _Refused as refused:
            return refused.said
        except PayloadError as error:
            return Said(413, wanted=True, reason=str(error)[:300])
        except (StorageError, ApiRefused, ApiSilent, ApiClosed) as error:
            return Said(503, wanted=True, reason=type(error).__name__, retry_after_s=1)

    def _case(self, job: str) -> Case:
        case = self._board.cases.get(job)
        if case is None or case.identity is None:
            raise _Refused(Said(503, wanted=True, reason="this Job is not known yet", retry_after_s=1))
        return case

    async def _open(self, case: Case) -> Entry:
        assert case.identity is not None
        if case.is_closed:
            raise _Refused(Said(409, wanted=False, reason="the attempt has its end already"))
        entry = await self._ledger.look_up(case.identity)
        if case.is_closed:  # meanwhile
            raise _Refused(Said(409, wanted=False, reason="the attempt has its end already"))
        if entry.standing is Standing.OVER or case.is_unwanted:
            raise _Refused(Said(409, wanted=False, reason="nobody wants the result any more"))
        if entry.standing is Standing.LATER:
            raise _Refused(Said(503, wanted=True, reason="the attempt is being taken over", retry_after_s=1))
        return entry

    # -- who it is ------------------------------------------------------------------------------------------

    async def _authenticate(self, job: str, token: str) -> str:
        """The uid of the pod whose token this is, which belongs to the Job and is still there."""
        key = sha256(token.encode()).digest()
        bearer = self._known.get(key)
        if bearer is None or bearer.until_s < time.monotonic():
            bearer = await self._review(token)
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[key] = bearer
        case = self._board.cases.get(job)
        seen = None if case is None else case.seen.pods.get(bearer.uid)
        if seen is None:
            await self._look_at_pod(job, bearer)  # the watch may be behind
        elif seen.is_gone:
            raise _Refused(Said(403, wanted=False, reason="the pod is gone"))
        return bearer.uid

    async def _review(self, token: str) -> _Bearer:
        document = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        answer = await self._connection.ask("POST", _REVIEWS, body=document)
        status = msgspec.json.decode(answer, type=_TokenReview).status
        extra = status.user.extra
        pods, uids = extra.get(_POD_NAME), extra.get(_POD_UID)
        if not status.authenticated or AUDIENCE not in status.audiences or not pods or not uids:
            raise _Refused(Said(401, wanted=True, reason="this token is of no pod, or not for us"))
        return _Bearer(pods[0], uids[0], time.monotonic() + _KNOWN_S)

    async def _look_at_pod(self, job: str, bearer: _Bearer) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/pods/{bearer.pod}"
        try:
            pod = read(Pod, msgspec.json.decode(await self._connection.ask("GET", path)))
        except ApiRefused as refused:
            if refused.status != 404:
                raise
            raise _Refused(Said(403, wanted=False, reason="the pod is gone")) from refused
        case = self._board.cases.get(job)
        owner, uid = job_of(pod)
        is_of_job = owner == job and (case is None or not case.uid or case.uid == uid)
        if pod.metadata.uid != bearer.uid or not is_of_job:
            raise _Refused(Said(403, wanted=True, reason="the pod is not of this Job"))
