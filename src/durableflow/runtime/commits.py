"""Making turns durable in groups.

Rules that this file keeps:

1. Nothing leaves before its commit: attempts begin, acknowledgements are given and results
   are told only after the commit that holds what they depend on.
2. One commit is under way at a time; what comes in meanwhile is gathered for the next. An
   instance whose turn is under way takes no other before that one is durable, so the two
   commits have no instance in common.
3. When the next one is gathered already, it is handed over before the effects of the last
   are made so: the store works while this thread does.
4. The log is the truth: when a commit's outcome is unknown, or it conflicts, the memory of
   every instance in it is dropped and read again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from typing import Final

from durableflow.backends.base import Commit, HistoryRow, LoadedInstance
from durableflow.errors import (
    AppendConflict,
    CommitOutcomeUnknown,
    EngineClosed,
    InstancesExist,
    LeaseLost,
    StorageError,
)
from durableflow.model import events as ev
from durableflow.observe import facts
from durableflow.runtime.agenda import Agenda
from durableflow.runtime.effects import Effects
from durableflow.runtime.ends import End, Ends
from durableflow.runtime.inbox import Inbox
from durableflow.runtime.instances import Instances
from durableflow.runtime.live import answer
from durableflow.runtime.means import Means
from durableflow.runtime.stalls import Stalls
from durableflow.runtime.turns import Batch, TakenTurn, Turns
from durableflow.runtime.wakes import Wakes

_LOAD_BATCH: Final = 200
_EVICT_LOOKS: Final = 16
_FIRST_PAUSE_S: Final = 0.02
_DROP_AGAIN_US: Final = 1_000_000
_AHEAD_MIN: Final = 16
"""So many instances must have news to be gathered while a commit is under way; fewer wait, and may get more news."""

_SPLIT_MIN: Final = 64
"""When nothing is under way, so many with news are committed in two halves: those who started together would wait for
each other's commits for ever, the store and this thread by turns. From then on the commit of one half is under way
while the other half takes its turns."""


class Commits:
    """Commits what the agenda holds, for ever.

    Attributes:
        commits, turns, evictions: how many there have been.
    """

    def __init__(
        self,
        means: Means,
        agenda: Agenda,
        instances: Instances,
        turns: Turns,
        effects: Effects,
        ends: Ends,
        stalls: Stalls,
        wakes: Wakes,
        inbox: Inbox,
    ) -> None:
        self._means = means
        self._agenda = agenda
        self._instances = instances
        self._turns = turns
        self._effects = effects
        self._ends = ends
        self._stalls = stalls
        self._wakes = wakes
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._next = Batch()
        """Gathered, and handed over when the commit under way is done."""
        self._under_way: Batch | None = None
        self._is_gathering_planned = False
        self.on_tasks: Callable[[Commit], object] | None = None
        """Told of each commit that wrote tasks, or dropped some, when it is durable."""
        self.commits = self.turns = self.evictions = 0
        agenda.on_news = self._plan_to_gather

    @property
    def is_busy(self) -> bool:
        """True while something is gathered or under way."""
        return self._under_way is not None or bool(self._next)

    async def run(self) -> None:
        """Commit what comes in.

        Raises:
            LeaseLost: another worker took over; nothing of the commit under way was written.
        """
        agenda = self._agenda
        while True:
            if agenda:
                await asyncio.sleep(0)  # attempts that begin now may have something to say at once
            while not agenda:
                agenda.work.clear()
                await agenda.work.wait()
            with_news = len(agenda.dirty)
            self._gather((with_news + 1) // 2 if with_news >= _SPLIT_MIN else with_news)
            await self._commit_all()

    async def _commit_all(self) -> None:
        """Commit what is gathered, and what is gathered meanwhile, until nothing is."""
        batch = self._take_next()
        is_durable = await self._commit(batch)
        while True:
            self._gather()
            if not self._next:
                self._land(batch, is_durable=is_durable)
                self._under_way = None
                return
            following = self._take_next()
            flight = self._loop.create_task(self._commit(following))
            try:
                await asyncio.sleep(0)  # it is on its way
            except asyncio.CancelledError:  # what is durable is acknowledged all the same
                flight.cancel()
                for taken in batch.taken if is_durable else ():
                    self._effects.acknowledge(taken)
                raise
            try:
                self._land(batch, is_durable=is_durable)
                batch, is_durable = following, await flight
            finally:
                flight.cancel()

    # -- gathering ------------------------------------------------------------------------------------------

    def _plan_to_gather(self) -> None:
        if self._under_way is not None and not self._is_gathering_planned and len(self._agenda.dirty) >= _AHEAD_MIN:
            self._is_gathering_planned = True
            self._loop.call_soon(self._gather_ahead)

    def _gather_ahead(self) -> None:
        self._is_gathering_planned = False
        if self._under_way is not None:
            self._gather()

    def _gather(self, most: int = sys.maxsize) -> None:
        room = self._means.settings.turns_per_commit - len(self._next.taken)
        if room > 0:
            self._turns.gather(self._next, min(most, room))

    def _take_next(self) -> Batch:
        batch, self._next = self._next, Batch()
        self._under_way = batch
        return batch

    # -- committing -----------------------------------------------------------------------------------------

    async def _commit(self, batch: Batch) -> bool:
        """Make a batch durable, as far as it can be; False when it was not, and everybody knows.

        Raises:
            LeaseLost: nothing was written.
        """
        pause_s = _FIRST_PAUSE_S
        retries = 0
        while not batch.is_empty:
            try:
                await self._means.commit(batch.commit)
                break
            except InstancesExist as error:
                self._drop_new(batch, error.instance_ids)
            except LeaseLost as error:
                self._fail(batch, error)
                raise
            except (AppendConflict, CommitOutcomeUnknown) as error:
                if isinstance(error, CommitOutcomeUnknown):
                    self._means.tell(facts.CommitUnanswered(str(error)))
                await self._read_the_log(batch, error)
                return False
            except StorageError as error:
                if retries == self._means.settings.commit_retries:
                    self._fail(batch, error)
                    return False
                self._means.tell(facts.CommitRetried(str(error)))
                retries += 1
                await asyncio.sleep(pause_s)
                pause_s *= 2
        return True

    def _drop_new(self, batch: Batch, instance_ids: frozenset[str]) -> None:
        """Take instances that exist already out of the commit."""
        kept: list[TakenTurn] = []
        not_consumed: set[int] = set()
        for taken in batch.taken:
            if taken.live.new is not None and taken.live.id in instance_ids:
                not_consumed.update(number for _, _, number in taken.told)
                self._effects.give_back(taken)
                self._instances.forget(taken.live, InstancesExist({taken.live.id}), taken.told)
                self._wake_real(taken)
            else:
                kept.append(taken)
        batch.taken = kept
        commit = batch.commit
        dropped = {new.id for new in commit.new if new.id in instance_ids}
        commit.new = [new for new in commit.new if new.id not in dropped]
        commit.rows = [row for row in commit.rows if row.instance_id not in dropped]
        commit.changes = [change for change in commit.changes if change.id not in dropped]
        commit.consumed = [number for number in commit.consumed if number not in not_consumed]
        commit.sends = [message for message in commit.sends if message.sender not in dropped]
        commit.dead_letters = [letter for letter in commit.dead_letters if letter.instance_id not in dropped]
        commit.tasks = [task for task in commit.tasks if task.instance_id not in dropped]
        commit.tasks_dropped = [each for each in commit.tasks_dropped if each[0] not in dropped]

    def _wake_real(self, taken: TakenTurn) -> None:
        """Load the instance that is there, when somebody wanted it while a start that was refused had its place."""
        live = taken.live
        has_messages = any(number for _, _, number in [*taken.told, *live.pending])
        if self._instances.was_wanted_again(live.id) or has_messages or self._ends.is_awaited(live.id):
            self._instances.want(live.id)

    def _fail(self, batch: Batch, error: StorageError) -> None:
        """Nothing of the batch was written: forget its instances, and tell whoever waits."""
        self._drop_again(batch)
        for taken in batch.taken:
            is_new = taken.live.new is not None
            self._drop_memory(taken)
            answer(taken.told, error)
            if is_new:
                self._wake_real(taken)
            else:
                self._instances.want(taken.live.id)

    def _drop_again(self, batch: Batch) -> None:
        """Remove messages after a while that may still be there: nobody comes across them again."""
        if batch.leftovers:
            again_us = self._means.clock.now_us() + _DROP_AGAIN_US
            self._means.alarms.at(again_us, partial(self._agenda.drop_messages, batch.leftovers))

    def _drop_memory(self, taken: TakenTurn) -> None:
        self._instances.keep_answers(taken.live, taken.told, [activity for activity, _ in taken.starts])
        self._effects.give_back(taken)
        self._instances.forget(taken.live, None)

    async def _read_the_log(self, batch: Batch, why: StorageError) -> None:
        """Whether the batch was written is not known: forget its instances and look."""
        self._drop_again(batch)
        if batch.commit.sends:
            self._inbox.look()
        for taken in batch.taken:
            self._drop_memory(taken)
        written = {(row.instance_id, row.first_seq): row.events for row in batch.commit.rows}
        ids = [taken.live.id for taken in batch.taken]
        loaded: list[LoadedInstance] = []
        try:
            for start in range(0, len(ids), _LOAD_BATCH):
                loaded += await self._means.backend.load(ids[start : start + _LOAD_BATCH])
        except StorageError as error:
            for taken in batch.taken:
                answer(taken.told, error)
                self._instances.want(taken.live.id)
            return
        there = {(row.instance_id, row.first_seq) for item in loaded for row in item.rows if _holds(written, row)}
        absent = CommitOutcomeUnknown(f"the commit failed, and this is not in the log; try again: {why}")
        absent.__cause__ = why
        for taken in batch.taken:
            if not taken.turn.events or (taken.live.id, taken.turn.first_seq) in there:
                self._effects.acknowledge(taken)  # which refuses what came behind an end
            else:
                answer(taken.told, absent)
        over = {item.record.id for item in loaded if item.record.status.is_terminal}
        known = {item.record.id for item in loaded}
        for instance_id in ids:
            if instance_id not in over and (instance_id in known or self._ends.is_awaited(instance_id)):
                self._instances.want(instance_id)
        for item in loaded:
            if not item.record.status.is_terminal:
                continue
            self._agenda.drop_messages(message.number for message in item.messages)  # read here before, and known
            end = ev.end_of(ev.load_events(item.rows[-1].events)) if item.rows else None
            if end is not None:
                self._ends.tell_end(item.record.id, End(item.record.status, end))

    # -- once durable ---------------------------------------------------------------------------------------

    def _land(self, batch: Batch, *, is_durable: bool) -> None:
        """The commit of `batch` is over: make its effects so, and let its instances take their next turns."""
        if is_durable:
            self.commits += not batch.is_empty
            if batch.commit.sends:
                self._inbox.look()
            self.turns += len(batch.taken)
            events = 0
            for taken in batch.taken:
                events += len(taken.turn.events)
                taken.live.may_go_on()
                self._effects.apply(taken)
            if len(self._instances.live) > self._means.settings.cached_instances:
                self._evict()  # not before all are applied: an idle one may have its turn behind
            if batch.commit.tasks_dropped:
                self._means.offered.difference_update(batch.commit.tasks_dropped)
            if self.on_tasks is not None and (batch.commit.tasks or batch.commit.tasks_dropped):
                self.on_tasks(batch.commit)
            self._means.tell(facts.TurnsCommitted(len(batch.taken), events))
        for live, reason in batch.stalls:
            self._stalls.stuck.add(live.id)
            self._stalls.stall(live, reason)

    def _evict(self) -> None:
        """Put away the instances that have been idle longest."""
        live_now = self._instances.live
        looks = len(live_now) - self._means.settings.cached_instances + _EVICT_LOOKS
        while len(live_now) > self._means.settings.cached_instances and looks:
            looks -= 1
            live = next(iter(live_now.values()))
            if live.is_idle and live.new is None:
                self.evictions += 1
                self._instances.forget(live, None)
                self._wakes.park(live)
            else:
                live_now.move_to_end(live.id)

    def drop_all(self, error: EngineClosed) -> None:
        """Nothing more is committed; whoever waits for a turn that was taken gets `error`, or that nobody knows."""
        for taken in self._next.taken:
            answer(taken.told, error)
        if self._under_way is not None:
            unknown = EngineClosed(
                "the engine closed, or lost its lease, while this was written: look whether it is there"
            )
            for taken in self._under_way.taken:
                answer(taken.told, unknown)
        self._under_way, self._next = None, Batch()


def _holds(written: dict[tuple[str, int], bytes], row: HistoryRow) -> bool:
    return written.get((row.instance_id, row.first_seq)) == row.events
