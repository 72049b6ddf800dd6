"""Jobs of an engine's activities: sent, watched, judged, told to the store, and deleted.

Rule 1. The store says what is wanted, the cluster what is there; nothing that only this process knows is needed by any
other. So workers side by side may do the same, and the first wins.
Rule 2. A Job is deleted when the end of its attempt is durable, or when no attempt wants it; never because a worker
ends.
Rule 3. What did not work is tried again; a sweep finds what nobody was told of.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Literal, Self

from durableflow import ActivityContext, Engine, OpenAttempt, StorageError, TokenRefused, UsageError
from durableflow.kubernetes.account import Archive, describe
from durableflow.kubernetes.activity import GpuJob
from durableflow.kubernetes.board import Board, Case
from durableflow.kubernetes.callbacks import PodCallbacks
from durableflow.kubernetes.connection import ApiRefused, ApiSilent, Configure, Connection, configured
from durableflow.kubernetes.documents import Job, Pod
from durableflow.kubernetes.envelope import Stored
from durableflow.kubernetes.identity import DEPLOYMENT, Identity
from durableflow.kubernetes.informer import Informer, Times
from durableflow.kubernetes.ledger import Entry, Ledger, Standing, check_result
from durableflow.kubernetes.manifest import Doors
from durableflow.kubernetes.objects import Objects, ObjectsFailed, ObjectStore
from durableflow.kubernetes.outcome import Kind, Outcome, Pending, decide
from durableflow.kubernetes.progress import Progress
from durableflow.kubernetes.runners import register, unregister
from durableflow.kubernetes.sending import Sender
from durableflow.kubernetes.spec import check_label
from durableflow.kubernetes.statistics import JobStatistics, Tally, spent_by
from durableflow.kubernetes.submit import delete_job
from durableflow.observe import facts

_LOGGER: Final = logging.getLogger("durableflow.kubernetes")
_AT_ONCE: Final = 16
"""So many cases are told to the store, or deleted, at a time."""
_US: Final = 1_000_000
_RETRY_S: Final = 0.5
_RETRY_S_MAX: Final = 30.0
_EVENTS_AFTER_US: Final = 3 * _US
_EVENTS_EVERY_US: Final = 20 * _US
_WITH_EVENTS: Final = frozenset({"starting", "unschedulable"})
"""Phases of which only events say why."""
_DELETE_AGAIN_S: Final = 20.0
_WITHOUT_LOG: Final = frozenset({"NodeLost", "PodGone", "JobDeleted", "PodRefused", "ImagePull", "ConfigMissing"})


class KubernetesJobs:
    """Beside an engine: `async with engine, KubernetesJobs(engine, deployment="orders", namespace="gpus"): ...`.

    Args:
        engine: whose activities are Jobs.
        deployment: whose Jobs these are; a DNS label that no other store has in the namespace.
        namespace: where they are.
        cluster: the name by which activities ask for it.
        configure: where the server is; by default as the pod is told, or `kubectl`.
        callback: URL at which pods reach `durableflow.http.callbacks`; None without.
        callback_identity: as who pods speak there: as the `"pod"`, by a token that the API server is asked about, or as
            the `"job"`, by a secret one that was drawn for it, where workers may not ask or pods have no token.
        objects: where inputs and results are that are too large for Kubernetes; None for nowhere.
        times: of the watches.
        sweep_s: how often cluster and store are compared.
        now_us: the time.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        deployment: str,
        namespace: str = "default",
        cluster: str = "default",
        configure: Configure | None = None,
        callback: str | None = None,
        callback_identity: Literal["pod", "job"] = "pod",
        objects: ObjectStore | None = None,
        times: Times | None = None,
        sweep_s: float = 60.0,
        now_us: Callable[[], int] | None = None,
    ) -> None:
        check_label("deployment", deployment)
        check_label("namespace", namespace)
        self.deployment = deployment
        self.namespace = namespace
        self.cluster = cluster
        self._engine = engine
        self._sweep_s = sweep_s
        self._now_us = now_us or (lambda: time.time_ns() // 1_000)
        self.connection = Connection(configure or configured())
        self.ledger = Ledger(engine)
        self.board = Board(self._now_us, self._touch)
        self.callbacks = PodCallbacks(
            self.connection, namespace, self.board, self.ledger, self._tell_said, self._now_us
        )
        self._archive = Archive(self.connection, namespace)
        self._tally = Tally(engine.tell)
        url = None if callback is None else callback.rstrip("/")
        doors = Doors(callback=url, has_own_token=callback_identity == "job", has_objects=objects is not None)
        limit_bytes = engine.settings.payload_limit_bytes
        self._objects = None if objects is None else Objects(objects, deployment, limit_bytes)
        self._sender = Sender(
            self.connection,
            deployment,
            namespace,
            self.board,
            self.ledger,
            self._tally,
            doors,
            self._objects,
            self._touch,
            self._now_us,
        )
        self._ready: asyncio.Queue[Case] = asyncio.Queue()
        self._queued: set[Case] = set()
        self._definitions: dict[str, GpuJob[Any]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._leave: Callable[[], None] | None = None
        times = times or Times()
        selector = f"{DEPLOYMENT}={deployment}"
        jobs, pods = f"/apis/batch/v1/namespaces/{namespace}/jobs", f"/api/v1/namespaces/{namespace}/pods"
        board, broken = self.board, self._tell_broken
        self._jobs = Informer(
            self.connection, jobs, selector, Job, board.see_job, board.lose_job, times, broken=broken(jobs)
        )
        self._pods = Informer(
            self.connection, pods, selector, Pod, board.see_pod, board.lose_pod, times, broken=broken(pods)
        )

    def _tell_broken(self, path: str) -> Callable[[str], None]:
        return lambda reason: self._engine.tell(facts.WatchBroken(path, reason))

    # -- life cycle -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._tasks:
            raise UsageError("these KubernetesJobs are open already")
        await self.connection.open()
        try:
            register(
                self.cluster, self
            )  # not before: attempts of the engine's may wait for us, and would be given back
        except BaseException:
            await self.connection.close()
            raise
        self._sender.open()
        self._leave = self._engine.listen(self._hear)
        loops = [self._jobs.run(), self._pods.run(), self._sweep(), *(self._work() for _ in range(_AT_ONCE))]
        self._tasks = [asyncio.create_task(loop, name="durableflow kubernetes") for loop in loops]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Let everything be as it is: Jobs go on, and whoever comes next finds them."""
        unregister(self.cluster, self)
        await self._sender.close()
        if self._leave is not None:
            self._leave()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for case in self.board.cases.values():
            if case.alarm is not None:
                case.alarm.cancel()
        await self.connection.close()

    async def wait_until_synced(self) -> None:
        """Return when what is in the cluster is known."""
        await self._jobs.synced.wait()
        await self._pods.synced.wait()

    @property
    def is_synced(self) -> bool:
        """Whether it is known."""
        return self._jobs.synced.is_set() and self._pods.synced.is_set()

    def statistics(self) -> JobStatistics:
        """What was counted since it was opened."""
        tally = self._tally
        jobs, pods = self._jobs.statistics(), self._pods.statistics()
        waiting = Counter(case.phase for case in self.board.cases.values() if not case.is_closed and case.identity)
        return JobStatistics(
            submitted=tally.submitted,
            adopted=tally.adopted,
            outcomes=dict(tally.outcomes),
            reasons=dict(tally.reasons),
            deleted=tally.deleted,
            waiting=dict(waiting),
            queue_wait_s=tally.queue_wait_us / _US,
            run_s=tally.run_us / _US,
            gpu_seconds=tally.gpu_seconds(),
            workflow_gpu_seconds=tally.workflow_gpu_seconds(),
            jobs_silent_s=jobs.silent_s,
            pods_silent_s=pods.silent_s,
            lists=jobs.lists + pods.lists,
            relists=jobs.relists + pods.relists,
            api_errors=self.connection.errors,
        )

    # -- submitting -----------------------------------------------------------------------------------------

    async def submit(self, definition: GpuJob[Any], context: ActivityContext, input: bytes) -> None:
        """See to it that the Job of an attempt is there; when this returns, the attempt may be handed over."""
        self._definitions[definition.name] = definition
        await self._sender.send(definition, context, input)

    # -- what is told ---------------------------------------------------------------------------------------

    def _hear(self, fact: facts.Fact) -> None:
        """Facts of the engine, on its loop."""
        match fact:
            case facts.ActivityDropped(instance_id=instance_id, task=task):
                for each in self.board.of_task(instance_id, task):
                    each.is_dropped = each.is_dropped or not (each.is_closed or each.is_unwanted)
                    each.is_unwanted = True
                    self._touch(each)
            case facts.InstanceEnded(instance_id=instance_id):
                for each in self.board.of_instance(instance_id):
                    self._touch(each)
            case _:
                pass

    def _touch(self, case: Case) -> None:
        """There is news of it, or its moment has come."""
        if case.alarm is not None:
            case.alarm.cancel()
            case.alarm = None
        if case not in self._queued:
            self._queued.add(case)
            self._ready.put_nowait(case)

    def _touch_in(self, case: Case, seconds: float) -> None:
        if case.alarm is not None:
            case.alarm.cancel()
        case.alarm = asyncio.get_running_loop().call_later(max(0.0, seconds), self._touch, case)

    def _try_again(self, case: Case, asked_s: float = 0.0) -> None:
        case.tries += 1
        pause_s = min(_RETRY_S * 2 ** min(case.tries - 1, 10), _RETRY_S_MAX)
        self._touch_in(case, max(asked_s, pause_s * random.uniform(0.5, 1.5)))  # noqa: S311  # no secret

    async def _work(self) -> None:
        while True:
            case = await self._ready.get()
            self._queued.discard(case)
            if self.board.cases.get(case.name) is not case:
                continue
            try:
                await self._look_at(case)
            except (StorageError, ApiRefused, ApiSilent) as error:
                _LOGGER.debug("Job %s is looked at again: %s", case.name, error)
                self._try_again(case)
            except ObjectsFailed as error:
                _LOGGER.warning("the result of Job %s is fetched again: %s", case.name, error)
                self._try_again(case)
            except Exception:
                _LOGGER.exception("Job %s cannot be looked at; it is tried again", case.name)
                self._try_again(case)

    async def _look_at(self, case: Case) -> None:
        if case.identity is None:
            return
        if case.is_over:
            self.board.forget(case)
            if self._objects is not None and case.is_ours_to_clean:
                await self._objects.forget(case.name)
            if case.is_dropped:
                workflow = await self.ledger.workflow_of(case.identity)
                self._tally.dropped(case.identity, workflow, spent_by(case, self._now_us()))
            return
        if case.is_unwanted or case.is_closed:
            await self._delete(case)
            return
        answer = decide(case.seen, case.rules, self._now_us())
        if isinstance(answer, Outcome):
            await self._end(case, case.identity, answer)
            return
        case.phase = answer.phase
        are_events_due = answer.phase in _WITH_EVENTS and self._are_events_due(case)
        self._wait(case, answer)
        if are_events_due:
            await self._read_events(case)

    def _wait(self, case: Case, answer: Pending) -> None:
        moments = [] if answer.next_us is None else [answer.next_us]
        if answer.phase in _WITH_EVENTS:
            moments.append(case.events_us + _EVENTS_EVERY_US)
        if moments:
            self._touch_in(case, (min(moments) - self._now_us()) / _US + 0.001)

    # -- events ---------------------------------------------------------------------------------------------

    def _are_events_due(self, case: Case) -> bool:
        """Whether to ask for them now; if so, that is taken for done."""
        now_us = self._now_us()
        if not case.events_us:
            case.events_us = now_us + _EVENTS_AFTER_US - _EVENTS_EVERY_US
        if now_us - case.events_us < _EVENTS_EVERY_US:
            return False
        case.events_us = now_us
        return True

    async def _read_events(self, case: Case) -> None:
        for uid in (case.uid, *(each.pod.metadata.uid for each in case.seen.live_pods)):
            for event in await self._archive.events(uid) if uid else ():
                case.seen.see_event(event, self._now_us())
        self._touch(case)  # they may decide it, or say when that is

    # -- ends -----------------------------------------------------------------------------------------------

    async def _end(self, case: Case, identity: Identity, outcome: Outcome) -> None:
        """Tell the store, if it still waits for that."""
        entry = await self.ledger.look_up(identity)
        if entry.standing is Standing.OVER:
            case.is_unwanted = True
            self._touch(case)
        elif entry.standing is Standing.LATER or entry.attempt is None or entry.progress is None:
            self._try_again(case)
        elif outcome.reason == "HeartbeatTimeout" and entry.progress.beat_us > case.seen.beat_us:
            case.seen.beat_us = entry.progress.beat_us  # another process has heard it
            self._touch(case)
        else:
            try:
                await self._tell(case, entry.attempt, entry.progress, outcome)
            except TokenRefused:  # somebody else was quicker, or another attempt is about to adopt
                self._try_again(case)
                return
            case.is_closed = True
            case.tries = 0
            self._touch(case)

    async def _tell_said(self, case: Case, entry: Entry, outcome: Outcome) -> None:
        """The pod itself has said it over HTTP."""
        assert entry.attempt is not None
        assert entry.progress is not None
        await self._tell(case, entry.attempt, entry.progress, outcome)
        case.is_closed = True
        self._touch(case)

    async def _tell(self, case: Case, attempt: OpenAttempt, progress: Progress, outcome: Outcome) -> None:
        if isinstance(outcome.value, Stored):
            outcome = await self._fetch(case, outcome, outcome.value)
        definition = self._definitions.get(attempt.activity)
        if definition is not None:
            outcome = check_result(outcome, definition.load_result)
        text = log = ""
        if outcome.kind is not Kind.SUCCESS:
            await self._read_last_events(case, outcome)
            if outcome.reason == "PodDeleted":
                again = decide(case.seen, case.rules, self._now_us())  # the events may know why
                outcome = again if isinstance(again, Outcome) else outcome
            if outcome.pod and outcome.reason not in _WITHOUT_LOG:
                log = await self._archive.log_tail(outcome.pod)
            text = describe(outcome, case.name, list(case.seen.events.values()))
        told = await self.ledger.end(attempt, progress, outcome, text, log, case.rules.infrastructure_retries)
        assert case.identity is not None
        workflow = await self.ledger.workflow_of(case.identity)
        self._tally.ended(case.identity, workflow, told, spent_by(case, self._now_us()))

    async def _fetch(self, case: Case, outcome: Outcome, stored: Stored) -> Outcome:
        if self._objects is None:
            raise ObjectsFailed("the result is in an object store; give these KubernetesJobs the one of its sender")
        return await self._objects.fetch(case.name, outcome, stored)

    async def _read_last_events(self, case: Case, outcome: Outcome) -> None:
        for uid in (case.uid, outcome.pod_uid):
            for event in await self._archive.events(uid) if uid else ():
                case.seen.see_event(event, self._now_us())

    async def _delete(self, case: Case) -> None:
        """Until it is gone; the informer says when."""
        if not case.uid:  # it was to be sent, and may be: if so, it is seen
            self._touch_in(case, _DELETE_AGAIN_S)
            return
        job = case.seen.job
        if job is not None and job.metadata.deletion_timestamp is not None:
            return
        now_s = asyncio.get_running_loop().time
        if (rest_s := case.rest_until_s - now_s()) > 0:  # news of it is no reason to ask sooner
            self._touch_in(case, rest_s)
            return
        case.rest_until_s = now_s() + _DELETE_AGAIN_S
        try:
            await delete_job(self.connection, self.namespace, case.name, case.uid)
        except (ApiRefused, ApiSilent) as error:
            asked_s = error.retry_after_s if isinstance(error, ApiRefused) else 0.0
            case.rest_until_s = now_s() + max(asked_s, _RETRY_S)
            self._try_again(case, asked_s)
        else:
            self._tally.deleted += not case.is_ours_to_clean  # asked again while it is going, it is the same one
            case.is_ours_to_clean = True
            case.tries = 0
            self._touch_in(case, _DELETE_AGAIN_S)

    # -- the sweep ------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await self.wait_until_synced()
            try:
                await self._compare()
            except (StorageError, ApiRefused, ApiSilent) as error:
                _LOGGER.debug("the sweep is tried again: %s", error)
            except Exception:
                _LOGGER.exception("the sweep failed; it is tried again")
            await asyncio.sleep(self._sweep_s * random.uniform(0.8, 1.2))  # noqa: S311  # no secret

    async def _compare(self) -> None:
        """Jobs that no attempt wants, and attempts whose Job is not there."""
        self.board.forget_old()
        for case in list(self.board.cases.values()):
            if case.identity is None or case.is_unwanted or case.is_closed:
                self._touch(case)
                continue
            entry = await self.ledger.look_up(case.identity)
            if entry.standing is Standing.OVER:
                case.is_unwanted = True
                self._touch(case)
        for attempt, progress in await self.ledger.open_attempts():
            if (progress.deployment, progress.namespace) == (self.deployment, self.namespace):
                await self._look_for(attempt, progress)

    async def _look_for(self, attempt: OpenAttempt, progress: Progress) -> None:
        """The Job of an open attempt was there; if it is not, somebody has deleted it."""
        identity = Identity(
            deployment=self.deployment,
            instance_id=attempt.instance_id,
            task=attempt.task,
            scheduled_at_us=attempt.scheduled_at_us,
            number=progress.number,
            activity=attempt.activity,
        )
        if identity.name in self.board.cases:
            return
        try:
            await self.connection.ask("GET", f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{identity.name}")
        except ApiRefused as refused:
            if refused.status != 404:
                raise
        else:
            return
        outcome = Outcome(Kind.RETRYABLE, "JobDeleted", "its Job is gone, and nobody saw how it ended")
        definition = self._definitions.get(attempt.activity)
        retries = 10 if definition is None else definition.spec.infrastructure_retries
        try:
            await self.ledger.end(attempt, progress, outcome, describe(outcome, identity.name, ()), "", retries)
        except TokenRefused:
            return
        self._tally.ended(identity, await self.ledger.workflow_of(identity), outcome)
