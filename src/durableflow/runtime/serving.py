"""Serving queues: take tasks from the store, make their attempts, write what became of them.

Every engine has a server, also one that stands by while another process leads: a queue is served by all
processes that know its activities. The server of the leading one admits instances, too.

Rules that this file keeps:

1. A task is claimed in the store before its attempt begins; its attempt number says how many were.
2. What became of attempts is written in groups, each together with the message to its instance, and only if
   the claim still holds. Until that is durable the attempt is made again after a crash, by whoever claims it.
3. A server that hears that it was declared dead gives up all that it has claimed, and begins anew.
4. A task that cannot be read is finished as such, and told of; it holds up no other.
5. A server that stops writes what became of every attempt that has begun, at the latest in the transaction in which
   it retires. Only what was not begun is given back under the same attempt number: code may still run for the others.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final, cast

from durableflow.authoring.registry import Registry
from durableflow.backends.base import Backend, Commit
from durableflow.backends.tasks import ALL_TASKS, ClaimRequest, StoredTask, TaskBeat, TaskEnd
from durableflow.core.turn import PendingActivity
from durableflow.errors import ActivityCancelled, EngineClosed, LeaseLost, StorageError, StoreSealed
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.model.tokens import SECRET_BITS, new_token
from durableflow.observe import facts
from durableflow.runtime.alarms import Alarms
from durableflow.runtime.attempt import Attempt, Owner, Request
from durableflow.runtime.attempts import Attempts
from durableflow.runtime.clock import Clock
from durableflow.runtime.settings import Settings
from durableflow.runtime.tasks import activity_of, damage_of, end_of, end_of_damaged, overdue_answer

_LONGEST_WAIT_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.1
_SEALED_S: Final = 1.0
"""So often a server looks whether the store is open again, of which nobody tells it."""
_LAST_WORDS_S: Final = 5.0
_OVERDUE_BATCH: Final = 500
_BEGIN: Final = ev.dump_event(ev.InstanceBegan())
_NOBODY: Final = 0


class _Claim:
    """A claimed task, and the owner of its attempt."""

    def __init__(self, server: QueueServer, task: StoredTask, activity: PendingActivity | None) -> None:
        self._server = server
        self.task = task
        self.id = task.instance_id
        self.attempts: dict[int, Attempt] = {}
        self.requests: dict[int, Request] = {}
        self.activity = activity
        """None when it cannot be read."""

    def tell(self, event: ev.Observation) -> None:
        """What comes of the attempt, or that there is a place for it."""
        if type(event) is ev.ActivityStarted:
            self._server.begin(self)
        else:
            self._server.note_end(self, event)


class QueueServer:
    """Serves the queues of one store.

    Args:
        queues: how many tasks of each are taken at once; a queue that is not named is not served. None serves
            all, as many of each as `Settings.queue_concurrency` says.
        tell: told the facts of `observe.facts`.

    Attributes:
        admits: whether instances are admitted here: true while this process leads.
        on_written: called when something was written to the inbox here.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        registry: Registry,
        settings: Settings,
        tell: facts.Listener,
        name: str,
        queues: Mapping[str, int] | None,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._registry = registry
        self._settings = settings
        self._tell = tell
        self._name = name
        self._queues = queues
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._alarms = Alarms(clock)
        self._attempts = Attempts(settings, clock, self._alarms, self._note_beat, self._note_failed, self._offer)
        self._server_id = _NOBODY
        self._claims: dict[int, _Claim] = {}
        self._running: Counter[str] = Counter()
        self._leaving: list[set[tuple[int, int]]] = []
        """What has left since the store was asked what is claimed, for each time that it has not answered yet."""
        self._ends: list[tuple[_Claim, TaskEnd]] = []
        self._beats: dict[int, TaskBeat] = {}
        self._unreadable: set[str] = set()
        self._changed = asyncio.Event()
        self._to_write = asyncio.Event()
        self._is_busy = False
        self._is_writing = False
        self._is_stopping = False
        self.admits = False
        self.on_written = _do_nothing

    # -- life cycle -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve for ever."""
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._serve(), name="durableflow queues")
                loops.create_task(self._write(), name="durableflow queue results")
                loops.create_task(self._keep(), name="durableflow queue lease")
                loops.create_task(self._alarms.run(), name="durableflow queue alarms")
                if self._backend.shared:
                    loops.create_task(self._watch(), name="durableflow queue watch")
        except* EngineClosed:
            pass  # the store was closed before this was stopped
        finally:
            self._attempts.abandon()
            self._alarms.clear()
            await self._attempts.join()

    async def stop(self) -> None:
        """Wait for running attempts for the grace time, write what became of all, give back what has not begun."""
        self._is_stopping = True
        await self._attempts.stop(self._settings.grace_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                while self._ends or self._is_writing or self._is_busy:  # noqa: ASYNC110  # the loops set no event
                    await asyncio.sleep(0.001)
        if self._server_id:
            with suppress(StorageError):  # then its claims are lost attempts, when its lease ends
                await self._backend.retire_server(self._server_id, [end for _, end in self._ends])
            self._server_id = _NOBODY
            self.on_written()

    @property
    def running_attempts(self) -> int:
        """How many attempts run here."""
        return len(self._attempts.running)

    @property
    def waits_for_attempts(self) -> bool:
        """True when nothing but attempts is under way, if anything at all."""
        return not (self._is_busy or self._is_writing or self._ends or self._beats or self._changed.is_set())

    def look(self) -> None:
        """There may be something to do."""
        self._changed.set()

    def note_commit(self, commit: Commit) -> None:
        """A commit of this process has written tasks, or dropped some."""
        for instance_id, task in commit.tasks_dropped:
            for claim in list(self._claims.values()):
                if claim.id == instance_id and task in (ALL_TASKS, claim.task.task):
                    self._give_up(claim, "the result is no longer wanted")
        self._changed.set()

    # -- claiming -------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            with suppress(StorageError):
                if await self._backend.wait_for_change(_LONGEST_WAIT_S, "tasks") or self._backend.is_fleet:
                    self._changed.set()
                    continue
            await asyncio.sleep(0)

    async def _serve(self) -> None:
        while True:
            self._changed.clear()
            next_us: int | None = None
            self._is_busy = True
            try:
                if not self._is_stopping:
                    next_us = await self._round()
            except StoreSealed:
                self._begin_anew()
                await asyncio.sleep(_SEALED_S)
                self._changed.set()
            except LeaseLost:
                self._begin_anew()
                self._changed.set()
            except EngineClosed:
                raise
            except StorageError as error:
                self._tell(facts.CommitRetried(str(error)))
                self.on_written()  # it may be there all the same
                await asyncio.sleep(_LOOK_AGAIN_S)
                self._changed.set()
            finally:
                self._is_busy = False
            await self._clock.wait(self._changed, next_us)

    async def _round(self) -> int | None:
        """Take back what is overdue, claim what there is room for; when to look again."""
        request = self._request()
        outlook = await self._backend.look_at_tasks(request, self._clock.now_us())
        next_us = outlook.next_us
        for queue in set(outlook.unreadable) - self._unreadable:
            self._unreadable.add(queue)
            self._tell(facts.QueueUnreadable(queue))
        if outlook.is_overdue:
            await self._take_back()
        if outlook.is_claimable:
            if not self._server_id:
                await self._enlist()
            request = self._request()
            try:
                claims = await self._backend.claim(request, self._clock.now_us())
            except LeaseLost:
                raise
            except StorageError:
                await self._adopt()  # whether they are claimed is not known: look
                raise
            for task in claims.tasks:
                self._take(task)
            if claims.admitted:
                self.on_written()
            if claims.tasks or claims.admitted:
                self._changed.set()  # there may be more
            if claims.next_us is not None:
                next_us = claims.next_us if next_us is None else min(next_us, claims.next_us)
        return next_us

    def _request(self) -> ClaimRequest:
        queues = self._queues
        names = self._registry.activities.keys() if queues is None or queues else ()
        if queues is None:
            most = self._settings.queue_concurrency
            rooms = {queue: max(0, most - running) for queue, running in self._running.items()}
            other_room = most
        else:
            rooms = {queue: max(0, most - self._running[queue]) for queue, most in queues.items()}
            other_room = 0
        has_suspect = any(claim.task.is_suspect for claim in self._claims.values())
        return ClaimRequest(self._server_id, names, rooms, other_room, not has_suspect, _BEGIN if self.admits else None)

    async def _enlist(self) -> None:
        self._server_id = await self._backend.enlist_server(self._name, self._ttl_us, self._clock.now_us())

    @property
    def _ttl_us(self) -> int:
        return round(self._settings.lease_s * 1_000_000)

    def _take(self, task: StoredTask) -> None:
        known = self._claims.get(task.number)
        if known is not None:
            if known.task.attempt == task.attempt:
                return
            self._give_up(known, "its token was used")  # or its end was written, and nobody here knew
        damage = damage_of(task)
        activity = None if damage else activity_of(task)
        claim = self._claims[task.number] = _Claim(self, task, activity)
        self._running[task.queue] += 1
        if activity is None:
            assert damage is not None
            self._tell_damaged(task, damage)
            self._ends.append((claim, end_of_damaged(task, damage)))
            self._to_write.set()
        else:
            self._attempts.request(claim, activity, self._registry.activities[task.name])

    def _tell_damaged(self, task: StoredTask, damage: str) -> None:
        self._tell(facts.TaskUnreadable(str(task.instance_id), damage))

    def begin(self, claim: _Claim) -> None:
        """There is a place for its attempt."""
        if self._claims.get(claim.task.number) is claim and claim.activity is not None:
            self._attempts.begin(claim, claim.activity, self._registry.activities[claim.task.name])

    async def _adopt(self) -> None:
        """Take what is claimed by this server and not known here, but for what was over before the store answered."""
        server_id = self._server_id
        left: set[tuple[int, int]] = set()
        self._leaving.append(left)
        try:
            with suppress(StorageError):
                tasks = await self._backend.claimed_tasks(server_id)
                for task in tasks if server_id == self._server_id else ():
                    if (task.number, task.attempt) not in left:
                        self._take(task)
        finally:
            self._leaving = [each for each in self._leaving if each is not left]

    async def _take_back(self) -> None:
        """Write what becomes of tasks whose time is over, and of the claims of the dead."""
        if self._server_id:
            await self._backend.renew_server(self._server_id, self._ttl_us, self._clock.now_us())
        now_us = self._clock.now_us()
        settled: set[tuple[int, int]] = set()
        while tasks := await self._backend.overdue_tasks(self._server_id, now_us, _OVERDUE_BATCH):
            known, settled = settled, settled.union((task.number, task.attempt) for task in tasks)
            if self._is_stopping or settled == known:
                return  # what was refused is looked at anew in the next round
            ends: list[TaskEnd] = []
            damages: dict[int, str] = {}
            for place, task in enumerate(tasks):
                if damage := damage_of(task):
                    damages[place] = damage
                    ends.append(end_of_damaged(task, damage))
                    continue
                event = overdue_answer(task, self._clock)
                ends.append(end_of(task, event, now_us))
                self._tell_failed(task, event.failure, final=isinstance(event, ev.ActivityFailed))
            counted = await self._backend.finish_tasks(ends, None)
            for place, damage in damages.items():
                if counted[place]:  # else another server was faster, and has told
                    self._tell_damaged(tasks[place], damage)
            self.on_written()
            self._changed.set()

    # -- keeping --------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Give signs of life, and learn which claims are no longer wanted."""
        while True:
            await asyncio.sleep(min(_LONGEST_WAIT_S, self._settings.lease_s / 3))
            if not self._server_id:
                continue
            known = self._claimed()
            try:
                held = set(await self._backend.renew_server(self._server_id, self._ttl_us, self._clock.now_us()))
            except LeaseLost:
                self._begin_anew()
                self._changed.set()
            except EngineClosed:
                raise
            except StorageError as error:
                self._tell(facts.CommitRetried(str(error)))
            else:
                for each in known - held:
                    claim = self._claims.get(each[0])
                    if claim is not None and claim.task.attempt == each[1]:
                        self._give_up(claim, "the result is no longer wanted")
                if held - known - self._claimed() and not self._is_busy and not self._is_stopping:
                    await self._adopt()

    def _claimed(self) -> set[tuple[int, int]]:
        """Number and attempt of each claim that is known here."""
        return {(claim.task.number, claim.task.attempt) for claim in self._claims.values()}

    def _give_up(self, claim: _Claim, reason: str) -> None:
        """Nobody wants the result any more."""
        self._forget(claim)
        for attempt in list(claim.attempts.values()):
            self._attempts.cancel(attempt, reason)
        self._attempts.withdraw(claim, claim.task.task)

    def _begin_anew(self) -> None:
        """This server was declared dead: whatever it had claimed is another's."""
        self._server_id = _NOBODY
        self._ends.clear()
        self._beats.clear()
        for claim in list(self._claims.values()):
            self._give_up(claim, "this process was declared dead")

    def _forget(self, claim: _Claim) -> None:
        if self._claims.get(claim.task.number) is claim:
            del self._claims[claim.task.number]
            for left in self._leaving:
                left.add((claim.task.number, claim.task.attempt))
            queue = claim.task.queue
            self._running[queue] -= 1
            if not self._running[queue]:
                del self._running[queue]
            self._changed.set()  # there is room for another

    # -- what became of them --------------------------------------------------------------------------------

    def note_end(self, claim: _Claim, event: ev.Observation) -> None:
        """The attempt of `claim` is over, or goes on elsewhere."""
        task = claim.task
        if self._claims.get(task.number) is not claim:
            return
        beat = self._beats.pop(task.number, None)
        details = None if beat is None else beat.details  # what was written before stays, or what a token said since
        self._ends.append((claim, end_of(task, event, self._clock.now_us(), details)))
        self._to_write.set()

    def _note_beat(self, owner: Owner, _: int, attempt: int, details: bytes) -> None:
        """Called on any thread."""
        assert isinstance(owner, _Claim)
        beat = TaskBeat(owner.task.number, attempt, details)
        if threading.get_ident() == self._thread_id:
            self._keep_beat(owner, beat)  # now: the attempt may end in the next line of its code
        else:
            self._loop.call_soon_threadsafe(self._keep_beat, owner, beat)

    def _keep_beat(self, claim: _Claim, beat: TaskBeat) -> None:
        if self._claims.get(beat.number) is claim:
            self._beats[beat.number] = beat
            self._to_write.set()

    def _note_failed(self, attempt: Attempt, failure: Failure, *, final: bool) -> None:
        owner = attempt.owner
        assert isinstance(owner, _Claim)
        self._tell_failed(owner.task, failure, final=final)

    def _tell_failed(self, task: StoredTask, failure: Failure, *, final: bool) -> None:
        self._tell(
            facts.AttemptEnded(task.instance_id, task.name, task.attempt, failure.type_name, failure.message, final)
        )

    async def _write(self) -> None:
        """Write ends and heartbeats, in groups: those that come while one is under way go into the next."""
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            await asyncio.sleep(0)  # others that end in the same moment
            self._is_writing = True
            try:
                await self._write_group()
            except LeaseLost:
                self._begin_anew()
            except EngineClosed:
                raise
            except StorageError as error:  # nothing was written, or all was and the next time nothing is
                self._tell(facts.CommitRetried(str(error)))
                await asyncio.sleep(_LOOK_AGAIN_S)
                self._to_write.set()
            finally:
                self._is_writing = False

    async def _write_group(self) -> None:
        beats = list(self._beats.values())
        if beats:
            await self._backend.beat_tasks(beats)
            for beat in beats:
                if self._beats.get(beat.number) is beat:
                    del self._beats[beat.number]
        ends = self._ends[:]
        if ends:
            await self._backend.finish_tasks([end for _, end in ends], self._server_id)
            written = {id(each) for each in ends}
            self._ends = [each for each in self._ends if id(each) not in written]
            for claim, _ in ends:
                self._forget(claim)
            self.on_written()
            self._changed.set()

    # -- tokens ---------------------------------------------------------------------------------------------

    async def _offer(self, attempt: Attempt) -> str:
        owner = attempt.owner
        assert isinstance(owner, _Claim)
        task = owner.task
        token, digest = new_token(task.instance_id, task.task, attempt.number, self._clock.random_bits(SECRET_BITS))
        if not await self._backend.offer_claimed(task.number, task.attempt, self._server_id, digest):
            raise ActivityCancelled(f"activity {task.name!r} is no longer wanted")
        attempt.is_offered = True
        return token


def _do_nothing() -> None:
    """What is told to nobody."""


def read_queues(queues: Collection[str] | Mapping[str, int] | None, default: int) -> Mapping[str, int] | None:
    """How many tasks of each queue are taken at once; None for all queues."""
    if queues is None:
        return None
    if isinstance(queues, Mapping):
        return cast("Mapping[str, int]", queues)
    return dict.fromkeys(queues, default)


__all__ = ["QueueServer", "read_queues"]
