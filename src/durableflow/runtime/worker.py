"""The worker: runs the instances of one store, as long as its lease lasts.

This is where its parts are put together. A live instance is a suspended function; it is
replayed only after a crash, a take-over or an eviction, and one that only waits may be
evicted at any time. What each part does:

- `agenda`: collects what is to be written next; `turns` makes one commit of it, `commits`
  makes it durable, `effects` makes so what follows from it.
- `instances`: the table of what is in memory or wanted there; `loader` brings in, `wakes`
  knows when, `stalls` puts away what cannot go on.
- `attempts`: runs activities, those that are transactional by `transactions`.
- `inbox`: reads what other processes write; `ends` tells who waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec

from durableflow.authoring.registry import AnyWorkflow, Registry
from durableflow.backends.base import Backend, Commit, Heartbeat, Lease, NewInstance
from durableflow.backends.tasks import Offer
from durableflow.errors import ActivityCancelled, EngineClosed, InstanceNotActive, InstancesExist, LeaseLost
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.model.tokens import SECRET_BITS, new_token
from durableflow.observe import facts
from durableflow.runtime.agenda import Agenda
from durableflow.runtime.alerting import Alerting
from durableflow.runtime.answers import Answers
from durableflow.runtime.attempt import Attempt, Owner
from durableflow.runtime.attempts import Attempts
from durableflow.runtime.circuits import Circuits
from durableflow.runtime.clock import Clock
from durableflow.runtime.commits import Commits
from durableflow.runtime.conditions import NOTED, Conditions
from durableflow.runtime.deliveries import Deliveries
from durableflow.runtime.effects import Effects
from durableflow.runtime.ends import Ends
from durableflow.runtime.fleet import Fleet
from durableflow.runtime.guard import TurnGuard
from durableflow.runtime.health import Watch
from durableflow.runtime.inbox import Inbox
from durableflow.runtime.instances import InstanceElsewhere, Instances
from durableflow.runtime.live import Ack, Live
from durableflow.runtime.loader import Loader
from durableflow.runtime.means import Means
from durableflow.runtime.replay_check import ReplayCheck
from durableflow.runtime.schedules import Schedules
from durableflow.runtime.settings import Settings
from durableflow.runtime.stalls import Stalls
from durableflow.runtime.tasks import answered_until_us, dump_options
from durableflow.runtime.transactions import Transactions
from durableflow.runtime.turns import Turns
from durableflow.runtime.wakes import Wakes
from durableflow.runtime.windows import Windows


class Recovered(msgspec.Struct, frozen=True):
    """What went on by itself after something had broken, since the worker began.

    Attributes:
        instances: were under way when the worker before ended, and were taken up.
        attempts: were running then, and are lost; what follows is for their retry policies to say.
        stalls: healed, because their cause was gone.
    """

    instances: int = 0
    attempts: int = 0
    stalls: int = 0


class WorkerStatistics(msgspec.Struct, frozen=True):
    """What a worker is doing now, and has done since it began."""

    live_instances: int
    running_attempts: int
    commits: int
    turns: int
    loads: int
    evictions: int
    recovered: Recovered = Recovered()


class Worker:
    """Runs instances of one store.

    Args:
        registry: what is known here; learns from what is passed to it.
        tell: told the facts of `observe.facts`.
        alerting: says what is wrong, and to whom; None for nothing and nobody.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        registry: Registry,
        settings: Settings,
        tell: facts.Listener,
        lease: Lease,
        alerting: Alerting | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        self._registry = registry
        self._settings = settings
        self._tell = self._tell_and_note if alerting is not None else tell
        self._listener = tell
        self._means = means = Means(backend, clock, settings, self._tell, lease)
        self._agenda = agenda = Agenda()
        self.circuits = circuits = Circuits(means)
        self.attempts = Attempts(
            settings, clock, means.alarms, self._note_beat, self._note_attempt_ended, self._offer, circuits
        )
        self._guard = guard = TurnGuard(settings.turn_warn_s, settings.turn_limit_s, self._note_blocked)
        self.instances = instances = Instances(means, agenda, self.attempts, guard)
        self.ends = ends = Ends()
        self._wakes = wakes = Wakes(means, instances)
        self._stalls = stalls = Stalls(means, instances, ends)
        check = ReplayCheck(settings.payload_limit_bytes)
        self.answers = answers = Answers()
        effects = Effects(means, registry, agenda, instances, self.attempts, ends, stalls, check, answers)
        turns = Turns(means, registry, agenda, instances, self.attempts, guard)
        self._inbox = inbox = Inbox(means, instances, stalls)
        stalls.on_sent = inbox.look
        self._commits = Commits(means, agenda, instances, turns, effects, ends, stalls, wakes, inbox)
        self._loader = Loader(means, registry, instances, agenda, ends, stalls, wakes, effects, self.attempts, guard)
        self._fleet = Fleet(means, instances, wakes, ends)
        self.schedules = schedules = Schedules(means, inbox.look)
        self._loader.on_messages = inbox.note_loaded
        inbox.on_round = schedules.look
        ends.on_end = schedules.note_end
        self.message = inbox.deliver
        self.look_into_inbox, self.read_inbox = inbox.look, inbox.read
        self.attempts.begin_in_store = Transactions(means, self.attempts, inbox.look).begin
        effects.gate = Windows(means, inbox, effects.arm).gate
        self.on_offered: Callable[[], object] = lambda: None
        """Called when a token can finish an attempt that runs here, which may become overdue by that."""
        self._conditions: Conditions | None = None
        self._watch: Watch | None = None
        self._deliveries: Deliveries | None = None
        if alerting is not None:
            self._conditions = Conditions(means, instances, circuits, alerting.policy, alerting.worker)
            if alerting.sinks:
                self._deliveries = Deliveries(means, alerting.sinks)
            self._watch = Watch(
                means, self._conditions, alerting.policy, alerting.hooks, self._deliveries, alerting.worker
            )

    # -- life cycle -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            LeaseLost: another worker took over; all memory has been dropped.
        """
        self._guard.start()
        self.schedules.look()
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._means.renew_for_ever(), name="durableflow lease")
                self._means.offered.update(await self._means.patiently(self._means.backend.offered_tasks))
                loops.create_task(self._loader.run(), name="durableflow loader")
                loops.create_task(self._means.alarms.run(), name="durableflow alarms")
                loops.create_task(self._wakes.recover(), name="durableflow recovery")
                loops.create_task(self._inbox.run(), name="durableflow inbox")
                if self._means.backend.is_fleet:
                    loops.create_task(self._fleet.run(), name="durableflow fleet")
                if self._means.home.shared:
                    loops.create_task(self.circuits.run(), name="durableflow circuits")
                if self._watch is not None:
                    loops.create_task(self._watch.run(), name="durableflow watch")
                if self._deliveries is not None:
                    for sink in self._deliveries.sinks:
                        loops.create_task(self._deliveries.serve(sink), name=f"durableflow {sink.name}")
                loops.create_task(self._commits.run(), name="durableflow commits")
        except* LeaseLost as group:
            raise group.exceptions[0] from None
        finally:
            self._is_over = True
            await self._drop_everything()
            self._guard.stop()

    async def stop(self) -> None:
        """Wait for running attempts for the grace time, then record what was interrupted."""
        self.instances.stopping = self.schedules.stopping = True
        await self.attempts.stop(self._settings.grace_s)
        # One that has lost its lease meanwhile commits nothing more, whatever it is still told.
        while not self._is_over and (self._agenda or self._commits.is_busy or self._means.background):
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)

    async def _drop_everything(self) -> None:
        error = EngineClosed("the engine closed, or lost its lease, before this was durable")
        self.attempts.abandon()
        self.instances.drop_all(error)
        self._commits.drop_all(error)
        self.ends.fail_all(error)
        self.answers.fail_all(error)
        self._means.alarms.clear()
        self._agenda.clear()
        for task in list(self._means.background):
            task.cancel()
        await self.attempts.join()

    @property
    def lease(self) -> Lease:
        """The latest."""
        return self._means.lease

    def statistics(self) -> WorkerStatistics:
        """Counts, as of now."""
        commits, recovered = self._commits, self._means.recovered
        return WorkerStatistics(
            len(self.instances.live),
            len(self.attempts.running),
            commits.commits,
            commits.turns,
            self._loader.loads,
            commits.evictions,
            Recovered(recovered.instances, recovered.attempts, recovered.stalls),
        )

    @property
    def waits_for_attempts(self) -> bool:
        """True when nothing but running attempts is under way, if anything at all."""
        return not (
            self._agenda
            or self._commits.is_busy
            or self._inbox.is_behind
            or self.instances.loading
            or self._means.background
            or (self._watch is not None and self._watch.is_looking)
            or self._wakes.recovering
        )

    # -- what the engine asks for ---------------------------------------------------------------------------

    def start(self, program: AnyWorkflow, new: NewInstance, started: ev.InstanceStarted) -> Ack:
        """Make an instance; the future is done when it is durable, or fails with `InstancesExist`."""
        ack: Ack = self._loop.create_future()
        table = self.instances
        if table.stopping:
            ack.set_exception(EngineClosed("the engine is closing"))
            return ack
        if new.id in table.live or new.id in table.loading:
            ack.set_exception(InstancesExist({new.id}))
            return ack
        self.ends.forget((new.id,))
        program = self._registry.workflows.get((new.workflow, new.version), program)  # as whoever loads it will have it
        live = Live(self._loader.new_execution(new.id, program), self._agenda.take_note)
        live.new = new
        live.started = ack
        if self._settings.check_replay:
            live.log = []
        table.live[new.id] = live
        live.tell(started, ack)
        return ack

    async def query(self, instance_id: str, name: str, arguments: bytes) -> bytes:
        """What the handler of a query says of an instance, which is brought into memory for it.

        Raises:
            InstanceNotFound, InstanceNotActive, InstanceStalled: it cannot be.
            UsageError: it has no such query.
        """
        while True:
            future: asyncio.Future[bytes | None] = self._loop.create_future()
            (await self.instances.load(instance_id)).look(partial(self._query, future, name, arguments))
            answer = await future
            if answer is not None:
                return answer

    def _query(self, future: asyncio.Future[bytes | None], name: str, arguments: bytes, live: Live | None) -> None:
        if future.done():
            return
        try:
            future.set_result(None if live is None else self._guard.run(live.id, live.execution.query, name, arguments))
        except Exception as error:
            future.set_exception(error)

    def knows_end_of(self, instance_id: str) -> bool:
        """True when `ends.end` needs no look into the store."""
        return instance_id in self.instances.live or self.ends.knows(instance_id)

    def learn(self, program: AnyWorkflow) -> None:
        """Know this workflow; instances that stalled for want of it go on."""
        if self._registry.add_workflow(program):
            self.retry_stalled()

    def share(self, is_here: Callable[[str], bool], on_outbox: Callable[[], object], home: Backend) -> None:
        """Be the worker of one store among several: what is for instances of the others goes into the outbox.

        Args:
            home: the store of circuits, which count for all of them.
        """
        self._means.is_here, self._means.on_outbox, self._means.home = is_here, on_outbox, home

    def on_tasks(self, told: Callable[[Commit], object]) -> None:
        """Have `told` called with each commit that wrote tasks, or dropped some, once it is durable."""
        self._commits.on_tasks = told

    async def tries_again(self, instance_id: str) -> bool:
        """Have an instance that stalled go on, if it is of this worker and can; False if it is another's.

        Raises:
            InstanceStalled: the cause is still there.
        """
        try:
            await self.instances.load(instance_id)
        except InstanceNotActive:  # it ended meanwhile
            return True
        except (InstanceElsewhere, EngineClosed):
            return False
        return True

    def retry_stalled(self) -> None:
        """Try those again that stalled: more is known now."""
        self._means.in_background(self._wakes.retry_stalled())

    # -- tokens ---------------------------------------------------------------------------------------------

    async def _offer(self, attempt: Attempt) -> str:
        """Make a token durable that can finish an attempt which runs here."""
        activity, now_us = attempt.activity, self._means.clock.now_us()
        bits = self._means.clock.random_bits(SECRET_BITS)
        token, digest = new_token(attempt.owner.id, activity.task, attempt.number, bits)
        self._means.offered.add((attempt.owner.id, activity.task))
        offer = Offer(
            attempt.owner.id,
            activity.task,
            attempt.number,
            activity.name,
            dump_options(activity.options),
            activity.scheduled_at_us,
            activity.uncounted,
            now_us,
            answered_until_us(activity.options, activity.scheduled_at_us, now_us, now_us),
            digest,
        )
        if attempt.over or not await self._means.backend.offer_task(self._means.lease, offer):
            raise ActivityCancelled(f"activity {activity.name!r} is no longer wanted")
        attempt.is_offered = True
        self.on_offered()
        return token

    # -- notes of the attempts and the guard ----------------------------------------------------------------

    def _tell_and_note(self, fact: facts.Fact) -> None:
        if type(fact) in NOTED and self._conditions is not None:
            self._conditions.note(fact)
        self._listener(fact)

    def _note_beat(self, owner: Owner, task: int, attempt: int, details: bytes) -> None:
        """Called on any thread."""
        beat = Heartbeat(owner.id, task, attempt, details)
        self._loop.call_soon_threadsafe(self._agenda.keep_beat, beat)

    def _note_attempt_ended(self, attempt: Attempt, failure: Failure, *, final: bool) -> None:
        name, number = attempt.activity.name, attempt.number
        self._tell(facts.AttemptEnded(attempt.owner.id, name, number, failure.type_name, failure.message, final))

    def _note_blocked(self, instance_id: str, seconds: float, location: str) -> None:
        """Called on the guard's thread, while the loop is blocked: it cannot be told there."""
        self._tell(facts.TurnBlocked(instance_id, seconds, location))
