"""The worker: instances in memory, and the loop that makes their turns durable in groups.

Rules that this file keeps:

1. Nothing leaves before its commit: attempts begin, acknowledgements are given and results
   are told only after the commit that holds what they depend on.
2. One commit is under way at a time; whatever comes in meanwhile is gathered for the next.
3. The log is the truth: when a commit's outcome is unknown, or it conflicts, the memory of
   every instance in it is dropped and read again.
4. A live instance is a suspended generator. It is replayed only after a crash, a take-over
   or an eviction; an instance that only waits may be evicted at any time.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeGuard, TypeVar, cast

import msgspec

from durableflow.authoring.registry import AnyActivity, AnyWorkflow, Registry
from durableflow.backends.base import (
    Backend,
    Commit,
    Heartbeat,
    HistoryRow,
    InstanceChange,
    Lease,
    LoadedInstance,
    Message,
    NewInstance,
    Outgoing,
)
from durableflow.core.execution import WORKER_LOST, Execution
from durableflow.core.turn import PendingActivity, Turn
from durableflow.errors import (
    AppendConflict,
    CommitOutcomeUnknown,
    CorruptHistory,
    EngineClosed,
    InstanceNotActive,
    InstanceNotFound,
    InstancesExist,
    InstanceStalled,
    LeaseLost,
    ReplayError,
    StorageError,
    TurnTooLong,
)
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.model.status import Status
from durableflow.observe import facts
from durableflow.runtime.alarms import Alarm, Alarms
from durableflow.runtime.attempts import Attempt, Attempts, Owner, Request, failed_attempt
from durableflow.runtime.clock import Clock
from durableflow.runtime.guard import TurnGuard
from durableflow.runtime.settings import Settings

_LOAD_BATCH: Final = 200
_HORIZON_US: Final = 60_000_000
_RECENT_ENDS: Final = 4_096
_RECENT_BYTES: Final = 4_096
_EVICT_LOOKS: Final = 16
_CHECK_ALWAYS_ROWS: Final = 64
_LOST: Final = Failure(WORKER_LOST, "the worker's process ended while this attempt was running")

_INTERRUPTED: Final = Failure("Interrupted", "the engine took this attempt away; it does not count")
_LOOK_AGAIN_S: Final = 0.1
_LOAD_AGAIN_US: Final = 1_000_000

Ack = asyncio.Future[None]
Answer = ev.ActivityCompleted | ev.ActivityFailed | ev.AttemptFailed
T = TypeVar("T")


class _PutAway(Exception):
    """The instance left memory before this was taken; tell it again."""


class End(NamedTuple):
    """How an instance ended."""

    status: Status
    event: ev.Event


class Live:
    """One instance in memory."""

    __slots__ = (
        "alarm",
        "alarm_us",
        "attempts",
        "checked_rows",
        "custom_status",
        "execution",
        "gone",
        "id",
        "log",
        "new",
        "pending",
        "queued",
        "requests",
        "seen_message",
        "started",
        "status",
        "wake_us",
        "worker",
    )

    def __init__(self, worker: Worker, execution: Execution) -> None:
        self.worker = worker
        self.id = execution.instance_id
        self.execution = execution
        self.pending: list[tuple[ev.Observation, Ack | None, int]] = []
        """Observations that no turn has taken: the event, who waits for it, its number in the inbox or 0."""
        self.queued = False
        self.gone = False
        self.new: NewInstance | None = None
        self.started: Ack | None = None
        """Done when a new one is durable."""
        self.attempts: dict[int, Attempt] = {}
        self.requests: dict[int, Request] = {}
        """Activities that wait for a place, or have one and wait for the commit that lets them begin."""
        self.seen_message = 0
        self.alarm: Alarm | None = None
        self.alarm_us: int | None = None
        self.status = Status.PENDING
        self.wake_us: int | None = None
        self.custom_status: bytes | None = None
        self.log: list[HistoryRow] | None = None
        """The rows so far; kept only in replay check mode."""
        self.checked_rows = 0
        """How many of them there were when they were last replayed."""

    def tell(self, event: ev.Observation, ack: Ack | None = None, number: int = 0) -> None:
        """Give an observation to the next turn."""
        if self.gone:
            return
        self.pending.append((event, ack, number))
        if not self.queued:
            self.queued = True
            self.worker.take_note(self)

    @property
    def is_idle(self) -> bool:
        """True when it only waits for the clock or for messages."""
        execution = self.execution
        return not (self.queued or self.attempts or self.requests) and len(execution.activities) == len(
            execution.unstarted
        )


class _Step(NamedTuple):
    """One turn in a commit, with what is to be done when it is durable."""

    live: Live
    turn: Turn
    told: list[tuple[ev.Observation, Ack | None, int]]
    starts: list[tuple[PendingActivity, AnyActivity]]
    missing: str | None


class _Batch:
    """What is gathered for one commit."""

    __slots__ = ("commit", "stalls", "steps")

    def __init__(self) -> None:
        self.commit = Commit(new=[], rows=[], changes=[], consumed=[], heartbeats=[])
        self.steps: list[_Step] = []
        self.stalls: list[tuple[Live, str]] = []


class WorkerStatistics(msgspec.Struct, frozen=True):
    """What a worker is doing now, and has done since it began."""

    live_instances: int
    running_attempts: int
    commits: int
    turns: int
    loads: int
    evictions: int


class Worker:
    """Runs instances of one store, as long as its lease lasts.

    Args:
        registry: what is known here; learns from what is passed to it.
        tell: told the facts of `observe.facts`.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        registry: Registry,
        settings: Settings,
        tell: facts.Listener,
        lease: Lease,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._registry = registry
        self._settings = settings
        self._tell = tell
        self.lease = lease
        self.live: OrderedDict[str, Live] = OrderedDict()
        self.alarms = Alarms(clock)
        self._attempts = Attempts(settings, clock, self.alarms, self._note_beat, self._note_attempt_ended)
        self._guard = TurnGuard(settings.turn_warn_s, settings.turn_limit_s, self._note_blocked)
        self._loop = asyncio.get_running_loop()
        self._work = asyncio.Event()
        self._dirty: list[Live] = []
        self._beats: dict[tuple[str, int], Heartbeat] = {}
        self._loading: dict[str, asyncio.Future[Live]] = {}
        self._to_load: list[str] = []
        self._load_wanted = asyncio.Event()
        self._ends: dict[str, list[asyncio.Future[End]]] = {}
        self._status_watchers: dict[str, list[asyncio.Future[None]]] = {}
        self._recent: OrderedDict[str, End] = OrderedDict()
        self._side_work: set[asyncio.Task[None]] = set()
        self._sleepers: dict[str, Alarm] = {}
        """Alarms of instances that are not in memory and fall due before the horizon."""
        self._retold: dict[str, list[Answer]] = {}
        """What attempts had to say when the memory of their instance was dropped."""
        self._held: set[str] = set()
        """Instances that are being stalled: they are not loaded before that is durable."""
        self._wanted_again: set[str] = set()
        self._unreadable: list[tuple[Live, str]] = []
        """Instances to be stalled because of a message in their inbox."""
        self._stuck: set[str] = set()
        """Instances whose turn did not come to its end here: only another process may bring them further."""
        self._leftovers: list[int] = []
        """Messages that came too late for their instance, to be removed with the next commit."""
        self.replay_errors: dict[str, ReplayError] = {}
        """What the replay check found, by instance; whoever asks for the end gets it."""
        self._recovering = True
        self._committing = False
        self._stopping = False
        self._inbox_seen = 0
        self._scanned_until_us = 0
        self._next_scan_us: int | None = None
        self._commits = self._turns = self._loads = self._evictions = 0

    # -- life cycle -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            LeaseLost: another worker took over; all memory has been dropped.
        """
        self._guard.start()
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._load_loop(), name="durableflow loader")
                loops.create_task(self.alarms.run(), name="durableflow alarms")
                loops.create_task(self._recover(), name="durableflow recovery")
                loops.create_task(self._renew_loop(), name="durableflow lease")
                if self._backend.shared:
                    loops.create_task(self._inbox_loop(), name="durableflow inbox")
                loops.create_task(self._commit_loop(), name="durableflow commits")
        except* LeaseLost as group:
            raise group.exceptions[0] from None
        finally:
            self._guard.stop()
            await self._drop_everything()

    async def stop(self) -> None:
        """Wait for running attempts for the grace time, then record what was interrupted."""
        self._stopping = True
        await self._attempts.stop(self._settings.grace_s)
        while self._dirty or self._committing or self._beats or self._side_work:
            self._work.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)

    async def _drop_everything(self) -> None:
        self._stopping = True
        self._attempts.abandon()
        error = EngineClosed("the engine closed, or lost its lease, before this was durable")
        for live in list(self.live.values()):
            self._forget(live, error)
        for loading in self._loading.values():
            _reject(loading, error)
        for end in [end for waiting in self._ends.values() for end in waiting]:
            _reject(end, error)
        for change in [change for waiting in self._status_watchers.values() for change in waiting]:
            _reject(change, error)
        self._loading.clear()
        self._ends.clear()
        self._status_watchers.clear()
        self.alarms.clear()
        self._dirty.clear()
        self._beats.clear()
        self._leftovers.clear()
        self._committing = False
        for task in list(self._side_work):
            task.cancel()
        await self._attempts.join()

    def statistics(self) -> WorkerStatistics:
        """Counts, as of now."""
        return WorkerStatistics(
            len(self.live), len(self._attempts.running), self._commits, self._turns, self._loads, self._evictions
        )

    @property
    def is_idle(self) -> bool:
        """True when nothing happens until the clock or somebody outside says something."""
        return not self._attempts.running and self.waits_for_attempts

    @property
    def waits_for_attempts(self) -> bool:
        """True when nothing but running attempts is under way, if anything at all."""
        return not (
            self._dirty
            or self._committing
            or self._beats
            or self._leftovers
            or self._unreadable
            or self._loading
            or self._side_work
            or self._recovering
        )

    async def _renew_loop(self) -> None:
        ttl_us = round(self._settings.lease_s * 1_000_000)
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            try:
                self.lease = await self._backend.renew(self.lease, ttl_us, self._clock.now_us())
            except LeaseLost:
                raise
            except StorageError as error:
                self._tell(facts.CommitRetried(str(error)))

    # -- what the engine asks for ---------------------------------------------------------------------------

    def start(self, program: AnyWorkflow, new: NewInstance, started: ev.InstanceStarted) -> Ack:
        """Make an instance; the future is done when it is durable, or fails with `InstancesExist`."""
        ack: Ack = self._loop.create_future()
        if self._stopping:
            ack.set_exception(EngineClosed("the engine is closing"))
            return ack
        if new.id in self.live or new.id in self._loading:
            ack.set_exception(InstancesExist({new.id}))
            return ack
        self._recent.pop(new.id, None)
        self.replay_errors.pop(new.id, None)
        live = Live(self, self._execution(new.id, program))
        live.new = new
        live.started = ack
        if self._settings.check_replay:
            live.log = []
        self.live[new.id] = live
        live.tell(started, ack)
        return ack

    async def message(self, instance_id: str, event: ev.Observation, asked: str) -> None:
        """Give an observation to an instance; returns when it is durable.

        Raises:
            InstanceNotFound, InstanceNotActive: nothing was written.
        """
        while True:
            if self._stopping:
                raise EngineClosed("the engine is closing")
            live = self.live.get(instance_id)
            if live is None:
                try:
                    live = await self.load(instance_id)
                except InstanceStalled:
                    await self._send_to_inbox(_outgoing(instance_id, event), asked)
                    if type(event) is ev.InstanceTerminated:
                        await self._terminate_stalled(instance_id)
                    else:
                        await self._read_inbox()  # the cause may be gone meanwhile
                    return
                except InstanceNotActive as error:
                    raise InstanceNotActive(instance_id, error.status, asked) from None
            if live.gone:
                continue
            ack: Ack = self._loop.create_future()
            live.tell(event, ack)
            try:
                await ack
            except (_PutAway, InstancesExist):  # nothing was written, and the caller need not know why
                continue
            except InstanceNotActive as error:
                raise InstanceNotActive(instance_id, error.status, asked) from None
            return

    async def load(self, instance_id: str) -> Live:
        """The instance, in memory.

        Raises:
            InstanceNotFound, InstanceNotActive, InstanceStalled: it cannot be.
        """
        live = self.live.get(instance_id)
        if live is not None:
            return live
        future = self._loading.get(instance_id)
        if future is None:
            future = self._want(instance_id)
        return await asyncio.shield(future)

    def end(self, instance_id: str) -> asyncio.Future[End]:
        """Done when the instance ends; fails with `InstanceStalled` when it stalls."""
        future: asyncio.Future[End] = self._loop.create_future()
        recent = self._recent.get(instance_id)
        if instance_id in self.replay_errors:
            _reject(future, self.replay_errors[instance_id])
        elif recent is not None:
            future.set_result(recent)
        else:
            self._ends.setdefault(instance_id, []).append(future)
        return future

    def stop_waiting(self, instance_id: str, future: asyncio.Future[End]) -> None:
        """Nobody waits for this answer of `end` any more."""
        waiting = self._ends.get(instance_id)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._ends[instance_id]

    def settling(self, instance_id: str) -> asyncio.Future[Any] | None:
        """What to wait for before asking again for an id that was refused: its start, its load, its stall."""
        live = self.live.get(instance_id)
        if live is not None and live.new is not None:
            return live.started
        return self._loading.get(instance_id)

    def knows_end_of(self, instance_id: str) -> bool:
        """True when `end` needs no look into the store."""
        return instance_id in self._recent or instance_id in self.live or instance_id in self.replay_errors

    def status_change(self, instance_id: str) -> asyncio.Future[None]:
        """Done when the status of the instance next changes."""
        future: asyncio.Future[None] = self._loop.create_future()
        watchers = self._status_watchers.setdefault(instance_id, [])
        watchers.append(future)

        def forget(_: object) -> None:
            if future in watchers:
                watchers.remove(future)
                if not watchers and self._status_watchers.get(instance_id) is watchers:
                    del self._status_watchers[instance_id]

        future.add_done_callback(forget)
        return future

    def forget_end(self, instance_ids: Iterable[str]) -> None:
        """These are purged."""
        for instance_id in instance_ids:
            self._recent.pop(instance_id, None)
            self.replay_errors.pop(instance_id, None)

    def learn(self, program: AnyWorkflow) -> None:
        """Know this workflow; instances that stalled for want of it go on."""
        if self._registry.add_workflow(program):
            self.retry_stalled()

    def retry_stalled(self) -> None:
        """Try those again that stalled: more is known now."""
        self._in_background(self._retry_stalled())

    def _execution(self, instance_id: str, program: AnyWorkflow) -> Execution:
        execution = Execution(instance_id, program, payload_limit_bytes=self._settings.payload_limit_bytes)
        execution.on_activity_object = self._registry.add_activity
        return execution

    def _in_background(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._side_work.add(task)
        task.add_done_callback(self._side_work.discard)

    # -- gathering ------------------------------------------------------------------------------------------

    def take_note(self, live: Live) -> None:
        """`live` has something for its next turn."""
        self._dirty.append(live)
        self._work.set()

    async def _commit_loop(self) -> None:
        work = self._work
        while True:
            await work.wait()
            self._committing = True
            batch = self._gather()
            if not (self._dirty or self._beats or self._leftovers or self._unreadable):
                work.clear()
            if batch.steps or not _is_empty(batch.commit):
                await self._commit(batch)
            for live, reason in batch.stalls:
                self._stuck.add(live.id)
                self._stall(live, reason)
            unreadable, self._unreadable = self._unreadable, []
            for live, reason in unreadable:
                self._stall(live, reason)
            self._committing = False
            await asyncio.sleep(0)

    def _gather(self) -> _Batch:
        limit = self._settings.turns_per_commit
        taken, self._dirty = self._dirty[:limit], self._dirty[limit:]
        batch = _Batch()
        commit = batch.commit
        now_us = self._clock.now_us()
        for live in taken:
            if not live.gone:
                self._take_turn(live, batch, now_us)
        if self._beats:
            commit.heartbeats = [beat for beat in self._beats.values() if self._is_running(beat)]
            self._beats.clear()
        if self._leftovers:
            commit.consumed += self._leftovers
            self._leftovers = []
        return batch

    def _is_running(self, beat: Heartbeat) -> bool:
        live = self.live.get(beat.instance_id)
        return live is not None and beat.task in live.execution.activities

    def _take_turn(self, live: Live, batch: _Batch, now_us: int) -> None:
        told, live.pending = live.pending, []
        live.queued = False
        execution = live.execution
        observed = [item[0] for item in told]
        try:
            turn = self._guard.run(live.id, execution.advance, observed, now_us=now_us)
        except Exception as error:
            live.pending = told
            batch.stalls.append((live, _reason(error)))
            return
        step = _Step(live, turn, told, [], None)
        batch.steps.append(step)
        if turn.events:
            batch.steps[-1] = self._write_step(step, batch.commit)
        elif live.status is Status.STALLED:
            self._write_change(live, turn, batch.commit)
        for _, _, number in told:
            if number:
                batch.commit.consumed.append(number)
        if execution.next_seq - 1 > self._settings.history_hard_limit and execution.ended is None:
            limit = self._settings.history_hard_limit
            batch.stalls.append(
                (live, f"its history has {execution.next_seq - 1:,} events, over the limit of {limit:,}")
            )

    def _write_step(self, step: _Step, commit: Commit) -> _Step:
        live, turn = step.live, step.turn
        execution = live.execution
        missing: str | None = None
        for activity in turn.scheduled:
            if activity.task not in execution.activities:
                continue
            definition = self._registry.activities.get(activity.name)
            if definition is None:
                missing = activity.name
                execution.note_queued(activity)
            elif self._attempts.reserve(live, activity, definition):
                step.starts.append((activity, definition))
            else:
                execution.note_queued(activity)
        for activity in turn.started:
            if activity.task in execution.activities:
                step.starts.append((activity, self._registry.activities[activity.name]))
        row = HistoryRow(live.id, turn.first_seq, turn.at_us, ev.dump_events(turn.events))
        commit.rows.append(row)
        if live.log is not None:
            live.log.append(row)
        self._write_change(live, turn, commit)
        return step if missing is None else step._replace(missing=missing)

    def _write_change(self, live: Live, turn: Turn, commit: Commit) -> None:
        execution = live.execution
        status, custom_status = execution.status, execution.custom_status
        wake_us = execution.wake_us()
        ended = execution.ended is not None
        if live.new is not None:
            new = live.new._replace(
                status=status,
                wake_us=wake_us,
                custom_status=custom_status,
                finished_us=turn.at_us if ended else None,
            )
            commit.new.append(new)
        elif (status, wake_us, custom_status) != (live.status, live.wake_us, live.custom_status):
            finished_us = turn.at_us if ended else None
            commit.changes.append(InstanceChange(live.id, status, wake_us, finished_us, custom_status))
        else:
            return
        live.wake_us, live.custom_status = wake_us, custom_status

    # -- committing -----------------------------------------------------------------------------------------

    async def _commit(self, batch: _Batch) -> None:
        waits_s = 0.02
        retries = 0
        while not _is_empty(batch.commit):
            try:
                await self._backend.commit(self.lease, batch.commit)
                break
            except InstancesExist as error:
                self._drop_new(batch, error.instance_ids)
            except LeaseLost as error:
                self._fail_batch(batch, error)
                raise
            except (AppendConflict, CommitOutcomeUnknown):
                await self._read_the_log(batch)
                return
            except StorageError as error:
                if retries == self._settings.commit_retries:
                    self._fail_batch(batch, error)
                    return
                self._tell(facts.CommitRetried(str(error)))
                retries += 1
                await asyncio.sleep(waits_s)
                waits_s *= 2
        self._commits += 1
        self._turns += len(batch.steps)
        for step in batch.steps:
            self._apply(step)
        if len(self.live) > self._settings.cached_instances:
            self._evict()  # not before all are applied: an idle one may have its step behind
        self._tell(facts.TurnsCommitted(len(batch.steps), len(batch.commit.rows)))

    def _drop_new(self, batch: _Batch, instance_ids: frozenset[str]) -> None:
        """Take instances that exist already out of the commit."""
        kept: list[_Step] = []
        not_taken: set[int] = set()
        for step in batch.steps:
            if step.live.new is not None and step.live.id in instance_ids:
                not_taken.update(number for _, _, number in step.told)
                self._give_back(step)
                self._forget(step.live, InstancesExist({step.live.id}), step.told)
                self._wake_real(step)
            else:
                kept.append(step)
        batch.steps = kept
        commit = batch.commit
        dropped = {new.id for new in commit.new if new.id in instance_ids}
        commit.new = [new for new in commit.new if new.id not in dropped]
        commit.rows = [row for row in commit.rows if row.instance_id not in dropped]
        commit.changes = [change for change in commit.changes if change.id not in dropped]
        commit.consumed = [number for number in commit.consumed if number not in not_taken]

    def _wake_real(self, step: _Step) -> None:
        """Load the instance that is there, when somebody wanted it while a start that was refused had its place."""
        instance_id = step.live.id
        messages = any(number for _, _, number in [*step.told, *step.live.pending])
        if messages or instance_id in self._wanted_again or instance_id in self._ends:
            self._wanted_again.discard(instance_id)
            self._reload_later([instance_id])

    def _give_back(self, step: _Step) -> None:
        for activity, definition in step.starts:
            if activity.task not in step.live.requests:  # else the request has the place, and is withdrawn
                self._attempts.release(step.live, activity, definition)

    def _fail_batch(self, batch: _Batch, error: StorageError) -> None:
        """Nothing of the batch was written: forget its instances, and tell whoever waits."""
        reload = [step.live.id for step in batch.steps if step.live.new is None]
        for step in batch.steps:
            self._keep_answers(step)
            self._give_back(step)
            self._forget(step.live, error, step.told)
            if step.live.new is not None:
                self._wake_real(step)
        self._reload_later(reload)

    async def _read_the_log(self, batch: _Batch) -> None:
        """Whether the batch was written is not known: forget its instances and look."""
        for step in batch.steps:
            self._keep_answers(step)
            self._give_back(step)
            self._forget(step.live, None)
        written = {(row.instance_id, row.first_seq): row.events for row in batch.commit.rows}
        ids = [step.live.id for step in batch.steps]
        loaded: list[LoadedInstance] = []
        try:
            for start in range(0, len(ids), _LOAD_BATCH):
                loaded += await self._backend.load(ids[start : start + _LOAD_BATCH])
        except StorageError as error:
            for step in batch.steps:
                _answer(step.told, error)
            self._reload_later(ids)
            return
        there = {(row.instance_id, row.first_seq) for item in loaded for row in item.rows if _holds(written, row)}
        absent = CommitOutcomeUnknown("the commit failed and this is not in the log; try again")
        for step in batch.steps:
            durable = not step.turn.events or (step.live.id, step.turn.first_seq) in there
            _answer(step.told, None if durable else absent)
        over = {item.record.id for item in loaded if item.record.status.is_terminal}
        known = {item.record.id for item in loaded}
        self._reload_later([each for each in ids if each not in over and (each in known or each in self._ends)])
        for item in loaded:
            if item.record.status.is_terminal and item.rows:
                self._tell_end(item.record.id, End(item.record.status, ev.load_events(item.rows[-1].events)[-1]))

    def _keep_answers(self, step: _Step) -> None:
        """Remember for the reload what attempts have said, and that those that go on were interrupted by us."""
        live = step.live
        now_us = self._clock.now_us()
        kept = [event for event, _, number in [*step.told, *live.pending] if _is_answer(event) and not number]
        kept += _interrupted([activity for activity, _ in step.starts], now_us)
        kept += _interrupted([attempt.activity for attempt in live.attempts.values()], now_us)
        if kept:
            self._retold[live.id] = kept

    def _reload_later(self, instance_ids: Sequence[str]) -> None:
        for instance_id in instance_ids:
            self._want(instance_id, nobody_waits=True)

    # -- effects, once durable ------------------------------------------------------------------------------

    def _apply(self, step: _Step) -> None:
        live, turn, told, starts, missing = step
        execution = live.execution
        self._acknowledge(step)
        if live.new is not None:
            live.new = live.started = None
            self._wanted_again.discard(live.id)
        if live.status is not execution.status:
            live.status = execution.status
            self._told_status(live.id)
        for number in turn.cancelled:
            attempt = live.attempts.get(number)
            if attempt is not None:
                over = f"the instance is {execution.status}" if execution.ended is not None else None
                self._attempts.cancel(attempt, over or "the workflow no longer wants the result")
            if number in live.requests:
                self._attempts.withdraw(live, number)
        if live.log is not None and turn.events and not self._replays_alike(live) and execution.ended is None:
            self._give_back(step)
            self._stall(live, f"replay check: {self.replay_errors[live.id]}")
            return
        if execution.ended is not None:
            self._finish(live, execution.ended)
            return
        for activity, definition in starts:
            self._attempts.begin(live, activity, definition)
        if live.requests:
            self._withdraw_late(live, told)
        if missing is not None:
            self._stall(live, _not_registered("activity", missing))
            return
        if execution.unstarted:
            self._request_due(live)
        self._arm(live)
        if (
            self._settings.history_soft_limit
            < execution.next_seq
            <= self._settings.history_soft_limit + len(turn.events)
        ):
            self._tell(facts.HistoryLong(live.id, execution.next_seq - 1))

    def _acknowledge(self, step: _Step) -> None:
        live, refused = step.live, step.turn.refused
        execution = live.execution
        for event, ack, _ in step.told:
            if ack is not None and not ack.done():
                if refused and execution.ended is not None and any(event is other for other in refused):
                    ack.set_exception(InstanceNotActive(live.id, execution.status, ev.tag_of(event).replace("_", " ")))
                else:
                    ack.set_result(None)

    def _withdraw_late(self, live: Live, told: Sequence[tuple[ev.Observation, Ack | None, int]]) -> None:
        """Starts that came too late for their activity: their places are free again."""
        for event, _, _ in told:
            if type(event) is ev.ActivityStarted and event.task in live.requests:
                self._attempts.withdraw(live, event.task)

    def _finish(self, live: Live, event: ev.Event) -> None:
        status = live.execution.status
        for attempt in list(live.attempts.values()):
            self._attempts.cancel(attempt, f"the instance is {status}")
        self._withdraw_all(live)
        live.gone = True
        if live.pending:
            _answer(live.pending, InstanceNotActive(live.id, status, "anything more"))
            self._drop_messages(number for _, _, number in live.pending)
        self.live.pop(live.id, None)
        self._tell(facts.InstanceEnded(live.id, live.execution.program.name, status))
        self._tell_end(live.id, End(status, event))

    def _withdraw_all(self, live: Live) -> None:
        for number in list(live.requests):
            self._attempts.withdraw(live, number)
        if live.alarm is not None:
            live.alarm.cancel()

    def _tell_end(self, instance_id: str, end: End) -> None:
        for future in self._ends.pop(instance_id, ()):
            if not future.done():
                future.set_result(end)
        if not isinstance(end.event, ev.InstanceCompleted) or len(end.event.output) <= _RECENT_BYTES:
            self._recent[instance_id] = end
            if len(self._recent) > _RECENT_ENDS:
                self._recent.popitem(last=False)

    def _drop_messages(self, numbers: Iterable[int]) -> None:
        """Remove messages for which their instance was over too early."""
        self._leftovers += [number for number in numbers if number]
        if self._leftovers:
            self._work.set()

    def _told_status(self, instance_id: str) -> None:
        for future in self._status_watchers.pop(instance_id, ()):
            if not future.done():
                future.set_result(None)

    def _request_due(self, live: Live) -> None:
        """Ask for a place for each activity whose next attempt is due."""
        for activity in live.execution.due_retries(self._clock.now_us()):
            if activity.task not in live.requests:
                self._attempts.request(live, activity, self._registry.activities[activity.name])

    # -- the clock ------------------------------------------------------------------------------------------

    def _arm(self, live: Live) -> None:
        """Have the instance woken when its next timer is due."""
        if not live.execution.may_be_due:
            return
        due_us = live.execution.next_due_us(self._clock.now_us())
        if due_us is not None and (live.alarm_us is None or due_us < live.alarm_us):
            if live.alarm is not None:
                live.alarm.cancel()
            live.alarm_us = due_us
            live.alarm = self.alarms.at(due_us, partial(self._on_alarm, live.id))

    def _on_alarm(self, instance_id: str) -> None:
        self._sleepers.pop(instance_id, None)
        live = self.live.get(instance_id)
        if live is None or live.new is not None:
            self._wake(instance_id)
            return
        if live.execution.ended is not None:  # its last commit is under way
            return
        live.alarm_us = None
        observed = live.execution.due_observations(self._clock.now_us())
        for event in observed:
            live.tell(event)
        if live.execution.unstarted:
            self._request_due(live)
        if not observed:
            self._arm(live)

    async def _recover(self) -> None:
        """Load what was going on when the worker before ended; then look for what falls due."""
        after = (-1, "")
        until_us = self._scanned_until_us = self._clock.now_us() + _HORIZON_US
        while True:
            found = await self._patiently(partial(self._backend.due, after, until_us, 1_000))
            for wake_us, instance_id in found:
                self._wake_at(wake_us, instance_id)
            if len(found) < 1_000:
                break
            after = found[-1]
            await asyncio.sleep(0)
        await self._plan_scan()
        self._recovering = False

    def _wake_at(self, wake_us: int, instance_id: str) -> None:
        if wake_us <= self._clock.now_us():
            self._wake(instance_id)
        else:
            before = self._sleepers.pop(instance_id, None)
            if before is not None:
                before.cancel()
            self._sleepers[instance_id] = self.alarms.at(wake_us, partial(self._on_alarm, instance_id))

    def _wake(self, instance_id: str) -> None:
        """Bring an instance in; if a start that may yet be refused has its place, when that is decided."""
        live = self.live.get(instance_id)
        if live is None:
            self._want(instance_id, nobody_waits=True)
        elif live.new is not None:
            self._wanted_again.add(instance_id)

    async def _plan_scan(self) -> None:
        next_us = await self._patiently(partial(self._backend.next_wake, self._scanned_until_us))
        if next_us is not None:
            self._scan_before(next_us)

    def _scan_before(self, wake_us: int) -> None:
        """Look into the store in time for something that is due at `wake_us`, behind the horizon."""
        scan_us = max(wake_us - _HORIZON_US // 2, self._clock.now_us())
        if self._next_scan_us is None or scan_us < self._next_scan_us:
            self._next_scan_us = scan_us
            self.alarms.at(scan_us, self._begin_scan)

    def _begin_scan(self) -> None:
        if self._next_scan_us is not None and self._next_scan_us <= self._clock.now_us():
            self._next_scan_us = None
            self._in_background(self._scan())

    async def _scan(self) -> None:
        after = (self._scanned_until_us - 1, "\U0010ffff" * 501)
        until_us = self._scanned_until_us = self._clock.now_us() + _HORIZON_US
        while found := await self._patiently(partial(self._backend.due, after, until_us, 1_000)):
            for wake_us, instance_id in found:
                self._wake_at(wake_us, instance_id)
            after = found[-1]
        await self._plan_scan()

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question, asked again for as long as the store cannot answer."""
        while True:
            try:
                return await ask()
            except EngineClosed:
                raise
            except StorageError as error:
                self._tell(facts.CommitRetried(str(error)))
                await asyncio.sleep(_LOOK_AGAIN_S)

    # -- loading and evicting -------------------------------------------------------------------------------

    def _want(self, instance_id: str, *, nobody_waits: bool = False) -> asyncio.Future[Live]:
        if instance_id in self._held:
            self._wanted_again.add(instance_id)
        future = self._loading.get(instance_id)
        if future is None:
            future = self._loading[instance_id] = self._loop.create_future()
            self._to_load.append(instance_id)
            self._load_wanted.set()
        if nobody_waits:
            future.add_done_callback(_look_away)
        return future

    async def _load_loop(self) -> None:
        while True:
            await self._load_wanted.wait()
            ids, self._to_load = self._to_load[:_LOAD_BATCH], self._to_load[_LOAD_BATCH:]
            if not self._to_load:
                self._load_wanted.clear()
            wanted = [instance_id for instance_id in ids if instance_id not in self.live]
            try:
                found = {item.record.id: item for item in await self._backend.load(wanted)} if wanted else {}
            except StorageError as error:
                self._tell(facts.CommitRetried(str(error)))
                for instance_id in ids:
                    _reject(self._loading.pop(instance_id, None), error)
                    again = partial(self._want, instance_id, nobody_waits=True)
                    self.alarms.at(self._clock.now_us() + _LOAD_AGAIN_US, again)
                continue
            for instance_id in ids:
                future = self._loading.pop(instance_id, None)
                try:
                    live = self.live.get(instance_id) or self._revive(instance_id, found.get(instance_id))
                except _Stalls as stall:
                    self._hold(instance_id, future)
                    self._in_background(self._stall_durably(instance_id, stall.reason, stall.custom_status, None, []))
                except Exception as error:
                    _reject(future, error)
                else:
                    if future is not None and not future.done():
                        future.set_result(live)
            await asyncio.sleep(0)

    def _revive(self, instance_id: str, loaded: LoadedInstance | None) -> Live:
        """Replay an instance into memory; a failure stalls it."""
        self._recent.pop(instance_id, None)  # another process may have replaced the one that ended
        if loaded is None:
            for future in self._ends.pop(instance_id, ()):
                _reject(future, InstanceNotFound(instance_id))
            raise InstanceNotFound(instance_id)
        record = loaded.record
        if record.status.is_terminal:
            self._drop_messages(message.number for message in loaded.messages)
            if loaded.rows and instance_id in self._ends:
                self._tell_end(instance_id, End(record.status, ev.load_events(loaded.rows[-1].events)[-1]))
            raise InstanceNotActive(instance_id, record.status, "anything more")
        try:
            if instance_id in self._stuck and record.status is Status.STALLED:
                raise CorruptHistory(record.stall_reason or "")
            # one that cannot be read stalls it before it is live
            messages = [(message.number, _event_in(message)) for message in loaded.messages]
            if not loaded.rows and ev.InstanceStarted not in {type(event) for _, event in messages}:
                raise CorruptHistory("it has neither a history nor a start in its inbox")
            live = self._replay(loaded)
        except Exception as error:
            reason = _reason(error)
            if any(_is_termination(message) for message in loaded.messages):
                self._in_background(self._terminate_stalled(instance_id))
                raise InstanceStalled(instance_id, reason) from error
            if record.stall_reason != reason or record.status is not Status.STALLED:
                if isinstance(error, TurnTooLong):
                    self._stuck.add(instance_id)
                raise _Stalls(reason, record.custom_status) from error
            self._told_stalled(instance_id, reason)
            raise InstanceStalled(instance_id, reason) from error
        self._loads += 1
        sleeper = self._sleepers.pop(instance_id, None)
        if sleeper is not None:
            sleeper.cancel()
        self.live[instance_id] = live
        live.status, live.wake_us, live.custom_status = record.status, record.wake_us, record.custom_status
        if record.status is Status.STALLED:
            live.queued = True  # its next turn, be it an empty one, writes the status that it has now
            self.take_note(live)
        self._tell(facts.InstanceRecovered(instance_id, live.execution.next_seq - 1))
        self._go_on(live, messages, loaded.heartbeats)
        return live

    def _replay(self, loaded: LoadedInstance) -> Live:
        record = loaded.record
        program = self._registry.workflows.get(record.workflow)
        if program is None:
            raise CorruptHistory(_not_registered("workflow", record.workflow))
        if program.version != record.version:
            raise CorruptHistory(
                f"it was started by version {record.version} of workflow {record.workflow!r}, "
                f"but version {program.version} is registered here"
            )
        execution = self._execution(record.id, program)
        live = Live(self, execution)
        try:
            for row in loaded.rows:
                self._guard.run(record.id, execution.replay, row.first_seq, row.at_us, _events_of(row))
        except BaseException:
            execution.put_away()
            raise
        missing = [a.name for a in execution.activities.values() if a.name not in self._registry.activities]
        if missing:
            execution.put_away()
            raise CorruptHistory(_not_registered("activity", missing[0]))
        if execution.next_seq - 1 > self._settings.history_hard_limit:
            execution.put_away()
            raise CorruptHistory(f"its history has {execution.next_seq - 1:,} events, over the limit")
        if self._settings.check_replay:
            live.log = list(loaded.rows)
        return live

    def _go_on(self, live: Live, messages: Sequence[tuple[int, ev.Event]], beats: Sequence[Heartbeat]) -> None:
        """Tell a revived instance what became of its attempts, what is due, and what is in its inbox."""
        execution = live.execution
        answers = {(event.task, event.attempt): (event, 0) for event in self._retold.pop(live.id, ())}
        for number, event in messages:
            if _is_answer(event):
                answers[event.task, event.attempt] = (event, number)
        details = {(beat.task, beat.attempt): beat.details for beat in beats}
        for activity in list(execution.activities.values()):
            if activity.started:
                activity.details = details.get((activity.task, activity.attempt), activity.details)
                answer, number = answers.pop((activity.task, activity.attempt), (None, 0))
                live.tell(answer or failed_attempt(activity, _LOST, (WORKER_LOST,), self._clock), None, number)
        for event in execution.due_observations(self._clock.now_us()):
            live.tell(event)
        for number, event in messages:
            live.seen_message = number
            if type(event) in _FROM_OUTSIDE:
                live.tell(cast("ev.Observation", event), None, number)
        self._drop_messages(number for _, number in answers.values())
        if execution.unstarted:
            self._request_due(live)
        self._arm(live)

    def _evict(self) -> None:
        """Put away the instances that have been idle longest."""
        looks = len(self.live) - self._settings.cached_instances + _EVICT_LOOKS
        while len(self.live) > self._settings.cached_instances and looks:
            looks -= 1
            live = next(iter(self.live.values()))
            if live.is_idle and live.new is None:
                self._evictions += 1
                self._forget(live, None)
                if live.wake_us is not None:
                    if live.wake_us < self._scanned_until_us:
                        self._wake_at(live.wake_us, live.id)
                    else:
                        self._scan_before(live.wake_us)
            else:
                self.live.move_to_end(live.id)

    def _forget(
        self,
        live: Live,
        error: Exception | None,
        told: Sequence[tuple[ev.Observation, Ack | None, int]] = (),
    ) -> None:
        """Drop an instance's memory; what it was being told fails with `error`."""
        live.gone = True
        for attempt in list(live.attempts.values()):
            self._attempts.cancel(attempt, "this worker no longer owns the instance")
        self._withdraw_all(live)
        if self.live.get(live.id) is live:
            del self.live[live.id]
        live.execution.put_away()
        if error is not None:
            _answer(told, error)
        _answer(live.pending, error if isinstance(error, EngineClosed) else _PutAway())

    # -- stalling -------------------------------------------------------------------------------------------

    def _stall(self, live: Live, reason: str) -> None:
        """Stop going on with an instance; what it was being told is kept in its inbox."""
        if live.gone:
            return
        told, live.pending = live.pending, []
        running = [attempt.activity for attempt in live.attempts.values()]
        told += [(event, None, 0) for event in _interrupted(running, self._clock.now_us())]
        new, custom_status = live.new, live.execution.custom_status
        self._forget(live, None)
        self._hold(live.id, self._loading.pop(live.id, None))
        self._in_background(self._stall_durably(live.id, reason, custom_status, new, told))

    def _hold(self, instance_id: str, future: asyncio.Future[Live] | None) -> None:
        """Whoever wants the instance waits until its stall is durable."""
        self._held.add(instance_id)
        if future is None or future.done():
            future = self._loop.create_future()
        future.add_done_callback(_look_away)
        self._loading[instance_id] = future

    async def _stall_durably(
        self,
        instance_id: str,
        reason: str,
        custom_status: bytes | None,
        new: NewInstance | None,
        told: list[tuple[ev.Observation, Ack | None, int]],
    ) -> None:
        stalled: StorageError | InstanceStalled = InstanceStalled(instance_id, reason)
        change = InstanceChange(instance_id, Status.STALLED, 0, None, custom_status, reason)
        try:
            if await self._keep_messages(instance_id, told, new):
                await self._backend.commit(self.lease, Commit(changes=[change]))
                _answer(told, None)
                self._told_stalled(instance_id, reason)
                self._tell(facts.InstanceStalled(instance_id, reason))
            else:
                _answer(told, InstancesExist({instance_id}))
        except StorageError as error:
            stalled = error
            _answer(told, error)
            self._wanted_again.add(instance_id)
        finally:
            self._held.discard(instance_id)
            future = self._loading.pop(instance_id, None)
            _reject(future, stalled)
        if instance_id in self._wanted_again:
            self._wanted_again.discard(instance_id)
            self.alarms.at(self._clock.now_us() + _LOAD_AGAIN_US, partial(self._want, instance_id, nobody_waits=True))

    async def _keep_messages(
        self, instance_id: str, told: list[tuple[ev.Observation, Ack | None, int]], new: NewInstance | None
    ) -> bool:
        """Put what a stalled instance was being told into its inbox; False when another has taken its id."""
        messages = [
            _outgoing(instance_id, event, new if isinstance(event, ev.InstanceStarted) else None)
            for event, _, number in told
            if not number and (type(event) in _FROM_OUTSIDE or _is_answer(event))
        ]
        if not messages:
            return True
        results = await self._backend.send(messages)
        return results[0].outcome != "exists"

    def _told_stalled(self, instance_id: str, reason: str) -> None:
        error = InstanceStalled(instance_id, reason)
        for future in self._ends.pop(instance_id, ()):
            _reject(future, error)
        self._told_status(instance_id)

    async def _terminate_stalled(self, instance_id: str) -> None:
        """Obey a termination in the inbox without the code: nothing of it needs to run for that.

        When the commit fails, the order stays in the inbox for the next load.
        """
        try:
            for record, rows, messages, _ in await self._backend.load([instance_id]):
                orders = [message for message in messages if _is_termination(message)]
                if record.status.is_terminal or not orders:
                    return
                event = cast("ev.InstanceTerminated", ev.load_event(orders[0].data))
                begun = [] if rows else [each for m in messages if type(each := _event_in(m)) is ev.InstanceStarted]
                at_us = max([self._clock.now_us(), *(row.at_us for row in rows[-1:])])
                change = InstanceChange(instance_id, Status.TERMINATED, None, at_us, record.custom_status)
                await self._backend.commit(
                    self.lease,
                    Commit(
                        rows=[HistoryRow(instance_id, _seq_after(rows), at_us, ev.dump_events([*begun, event]))],
                        changes=[change],
                        consumed=[message.number for message in messages],
                    ),
                )
                self._stuck.discard(instance_id)
                self._tell(facts.InstanceEnded(instance_id, record.workflow, Status.TERMINATED))
                self._tell_end(instance_id, End(Status.TERMINATED, event))
                self._told_status(instance_id)
        except StorageError:
            again = partial(self._want, instance_id, nobody_waits=True)
            self.alarms.at(self._clock.now_us() + _LOAD_AGAIN_US, again)

    async def _retry_stalled(self) -> None:
        """Try those again whose cause may be gone."""
        after = (-1, "")
        while found := await self._patiently(partial(self._backend.due, after, 1, 1_000)):
            for _, instance_id in found:
                if instance_id not in self.live:
                    self._want(instance_id, nobody_waits=True)
            after = found[-1]

    # -- messages from other processes ----------------------------------------------------------------------

    async def _inbox_loop(self) -> None:
        while True:
            await self._patiently(self._read_inbox)
            await self._patiently(partial(self._backend.wait_for_change, 1.0))  # a hint; the look is the truth

    async def _read_inbox(self) -> None:
        while messages := await self._backend.inbox(self._inbox_seen, 1_000):
            for message in messages:
                self._inbox_seen = max(self._inbox_seen, message.number)
                self._route(message)
            await asyncio.sleep(0)

    def _route(self, message: Message) -> None:
        live = self.live.get(message.instance_id)
        if live is not None:
            self._take_message(live, message)
        elif message.instance_id in self._loading:
            self._loading[message.instance_id].add_done_callback(partial(self._reroute, message))
        else:
            self._want(message.instance_id, nobody_waits=True)

    def _reroute(self, message: Message, loading: asyncio.Future[Live]) -> None:
        """Once the load that was under way is done; if it failed, the message stays in the inbox for the next."""
        if not loading.cancelled() and loading.exception() is None:
            self._route(message)

    def _take_message(self, live: Live, message: Message) -> None:
        if message.number <= live.seen_message:
            return
        live.seen_message = message.number
        try:
            event = _event_in(message)
        except CorruptHistory as error:
            self._unreadable.append((live, str(error)))  # not now: a commit may be under way
            self._work.set()
            return
        if type(event) in _FROM_OUTSIDE:
            live.tell(cast("ev.Observation", event), None, message.number)

    async def _send_to_inbox(self, outgoing: Outgoing, asked: str) -> None:
        (result,) = await self._backend.send([outgoing])
        if result.outcome == "missing":
            raise InstanceNotFound(outgoing.instance_id)
        if result.outcome == "over" and result.record is not None:
            raise InstanceNotActive(outgoing.instance_id, result.record.status, asked)

    # -- notes for the observers ----------------------------------------------------------------------------

    def _note_beat(self, owner: Owner, task: int, attempt: int, details: bytes) -> None:
        """Called on any thread."""
        beat = Heartbeat(owner.id, task, attempt, details)
        self._loop.call_soon_threadsafe(self._keep_beat, beat)

    def _keep_beat(self, beat: Heartbeat) -> None:
        self._beats[beat.instance_id, beat.task] = beat
        self._work.set()

    def _note_attempt_ended(self, attempt: Attempt, failure: Failure, *, final: bool) -> None:
        self._tell(
            facts.AttemptEnded(
                attempt.owner.id,
                attempt.activity.name,
                attempt.number,
                failure.type_name,
                failure.message,
                final,
            )
        )

    def _note_blocked(self, instance_id: str, seconds: float, location: str) -> None:
        """Called on the guard's thread, while the loop is blocked: it cannot be told there."""
        self._tell(facts.TurnBlocked(instance_id, seconds, location))

    def _replays_alike(self, live: Live) -> bool:
        """Replay the instance from its rows and compare; what differs is kept, and told to whoever waits for the end.

        Every turn of a short history is followed by a check. A long one is replayed each time it has
        grown by an eighth, and at its end: each row is compared, and the cost stays in proportion.
        """
        log = live.log
        assert log is not None
        if _CHECK_ALWAYS_ROWS < len(log) < live.checked_rows * 9 // 8 and live.execution.ended is None:
            return True
        live.checked_rows = len(log)
        twin = Execution(live.id, live.execution.program, payload_limit_bytes=self._settings.payload_limit_bytes)
        try:
            for row in log:
                twin.replay(row.first_seq, row.at_us, ev.load_events(row.events))
            if (twin.status, twin.next_seq) != (live.execution.status, live.execution.next_seq):
                raise CorruptHistory(f"replay of {live.id!r} ends {twin.status} at #{twin.next_seq - 1}")
        except ReplayError as error:
            self.replay_errors[live.id] = error
            for future in self._ends.pop(live.id, ()):
                _reject(future, error)
            if live.execution.ended is not None:
                self._tell(facts.InstanceStalled(live.id, f"replay check: {error}"))
            return False
        finally:
            twin.put_away()
        return True


_FROM_OUTSIDE: Final = frozenset(
    {
        ev.InstanceStarted,
        ev.EventReceived,
        ev.CancelRequested,
        ev.InstanceSuspended,
        ev.InstanceResumed,
        ev.InstanceTerminated,
    }
)
"""What may come by the inbox."""


def _reason(error: Exception) -> str:
    """Why an instance stalls; a defect of the engine, too, hurts one instance only, and visibly."""
    if isinstance(error, ReplayError):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"the engine itself failed at {where.filename}:{where.lineno}: {error!r}; please report it with this history"


class _Stalls(Exception):
    """The instance that is being loaded cannot go on."""

    def __init__(self, reason: str, custom_status: bytes | None) -> None:
        self.reason = reason
        self.custom_status = custom_status
        super().__init__(reason)


def _is_answer(event: ev.Event) -> TypeGuard[Answer]:
    return isinstance(event, (ev.ActivityCompleted, ev.ActivityFailed, ev.AttemptFailed))


def _interrupted(activities: Iterable[PendingActivity], now_us: int) -> list[Answer]:
    """What is recorded of current attempts that the engine itself took away: they are made again and do not count."""
    return [
        ev.AttemptFailed(a.task, a.attempt, _INTERRUPTED, now_us, counts=False, details=a.details) for a in activities
    ]


def _outgoing(instance_id: str, event: ev.Observation, new: NewInstance | None = None) -> Outgoing:
    event_id = event.event_id if isinstance(event, ev.EventReceived) else None
    return Outgoing(instance_id, ev.dump_event(event), new, event_id)


def _is_empty(commit: Commit) -> bool:
    return not (commit.rows or commit.changes or commit.new or commit.consumed or commit.heartbeats)


def _events_of(row: HistoryRow) -> list[ev.Event]:
    try:
        return ev.load_events(row.events)
    except msgspec.DecodeError as error:
        raise CorruptHistory(
            f"the history row at #{row.first_seq} of {row.instance_id!r} cannot be read: {error}"
        ) from error


def _event_in(message: Message) -> ev.Event:
    try:
        return ev.load_event(message.data)
    except msgspec.DecodeError as error:
        raise CorruptHistory(f"message {message.number} in its inbox cannot be read: {error}") from error


def _is_termination(message: Message) -> bool:
    try:
        return type(_event_in(message)) is ev.InstanceTerminated
    except CorruptHistory:
        return False


def _seq_after(rows: Sequence[HistoryRow]) -> int:
    """The number of the next event; behind a row that cannot be read, just one that is free."""
    if not rows:
        return 1
    try:
        return rows[-1].first_seq + len(_events_of(rows[-1]))
    except CorruptHistory:
        return rows[-1].first_seq + 1


def _holds(written: dict[tuple[str, int], bytes], row: HistoryRow) -> bool:
    return written.get((row.instance_id, row.first_seq)) == row.events


def _not_registered(kind: str, name: str) -> str:
    return (
        f"{kind} {name!r} is not registered here; import the module that defines it, "
        f"or pass it to Engine({'workflows' if kind == 'workflow' else 'activities'}=[...])"
    )


def _answer(told: Iterable[tuple[ev.Observation, Ack | None, int]], error: Exception | None) -> None:
    for _, ack, _ in told:
        if ack is not None and not ack.done():
            if error is None:
                ack.set_result(None)
            else:
                ack.set_exception(error)


def _reject(future: asyncio.Future[Any] | None, error: BaseException) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
        future.exception()  # whoever waits still gets it; nobody waiting is no warning


def _look_away(future: asyncio.Future[Live]) -> None:
    if not future.cancelled():
        future.exception()
