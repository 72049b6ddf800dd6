"""Fires what schedules say, while this worker leads.

Rules that this file keeps:

1. A slot's instance, its start and the schedule's row that says so are one transaction, which the worker's lease and
   the row's revision fence. After a crash at any moment the slot is fired or it is not, and the row knows.
2. Nothing is kept in memory but when to look next. Others write the rows too; whoever finds a row changed reads it
   again.
3. A row that cannot be read is told of, and holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from durableflow.backends.base import Outgoing, ScheduleRow
from durableflow.errors import CommitOutcomeUnknown, CorruptSchedule, EngineClosed, LeaseLost, StorageError, UsageError
from durableflow.model import events as ev
from durableflow.model.schedule import OVERLAPS
from durableflow.model.schedule_state import ScheduleState, Step, step
from durableflow.observe import facts
from durableflow.runtime.alarms import Alarm
from durableflow.runtime.firings import load_state, taken_ids, write_of
from durableflow.runtime.means import Means
from durableflow.runtime.messages import outgoing

T = TypeVar("T")

_PAGE: Final = 100
_LOOK_AGAIN_S: Final = 0.1
_BEFORE_ALL: Final = (-1, "")


class Schedules:
    """The worker's part of schedules.

    Args:
        wrote: called when something was put into the inbox.
    """

    def __init__(self, means: Means, wrote: Callable[[], None]) -> None:
        self._means = means
        self._wrote = wrote
        self._alarm: Alarm | None = None
        self._is_looking = self._is_wanted = False
        self._awaited: set[str] = set()
        self._ended: set[str] = set()
        """What has ended since this look began: it may have found them open, and not say yet that it awaits them."""
        self._unreadable: dict[str, int] = {}
        self.stopping = False

    def look(self) -> None:
        """Fire what is due; then know when to look again."""
        if not self._means.lease.is_first:
            return
        self._is_wanted = True
        if not self._is_looking and not self.stopping:
            self._is_looking = True
            self._means.in_background(self._look())

    def note_end(self, instance_id: str) -> None:
        """An instance is over: perhaps a slot waits for that."""
        if self._is_looking:
            self._ended.add(instance_id)
        if instance_id in self._awaited:
            self.look()

    async def _look(self) -> None:
        try:
            while self._is_wanted and not self.stopping:
                self._is_wanted = False
                await self._fire_due()
        except (EngineClosed, LeaseLost):
            pass  # the worker hears of it by its own ways
        finally:
            self._is_looking = False

    async def _fire_due(self) -> None:
        next_us: int | None = None
        after = _BEFORE_ALL
        self._awaited.clear()
        self._ended.clear()
        while True:
            rows = await self._ask(partial(self._means.backend.due_schedules, after, _PAGE))
            for row in rows:
                assert row.due_us is not None
                after = (row.due_us, row.id)
                is_due = row.due_us <= self._means.clock.now_us()
                due_us = await self._ask(partial(self._settle, row.id)) if is_due else row.due_us
                if due_us is not None:
                    next_us = due_us if next_us is None else min(next_us, due_us)
                if not is_due:
                    return self._wake_at(next_us)
            if len(rows) < _PAGE:
                return self._wake_at(next_us)

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        """As `Means.patiently`, until the worker is stopped: it waits for this."""
        while not self.stopping:
            try:
                return await ask()
            except (EngineClosed, LeaseLost):
                raise
            except StorageError as error:
                self._means.tell(facts.CommitRetried(str(error)))
                await asyncio.sleep(_LOOK_AGAIN_S)
        raise EngineClosed("the engine is closing")

    def _wake_at(self, due_us: int | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if due_us is None else self._means.alarms.at(due_us, self.look)

    async def _settle(self, schedule_id: str) -> int | None:
        """Settle all slots of a schedule that are due; when to look at it next by the clock."""
        backend, clock = self._means.backend, self._means.clock
        while not self.stopping:
            row = await backend.schedule(schedule_id)
            state = None if row is None else self._read(row)
            if row is None or state is None:
                return None
            now_us = clock.now_us()
            running = await self._running(state)
            try:
                made = step(schedule_id, state, now_us, running)
                if made.firings:
                    made = step(schedule_id, state, now_us, running, await taken_ids(backend, made.firings))
            except (ValueError, OverflowError, UsageError) as error:  # a clock that has moved out of the calendar
                self._tell_unreadable(row, repr(error))
                return None
            if made.state != state and not await self._write(row, made, now_us):
                continue  # somebody else wrote it meanwhile
            due_us = self._next_look(schedule_id, made.state)
            if due_us is None or due_us > now_us:
                return due_us
        return None

    def _next_look(self, schedule_id: str, state: ScheduleState) -> int | None:
        """By the clock: for those that are open, an end is waited for."""
        if state.waiting:
            self._awaited.update(state.open)
            self._is_wanted = self._is_wanted or not self._ended.isdisjoint(state.open)
        if state.is_paused or state.slot_us is None:
            return None
        return state.schedule.due_us(schedule_id, state.slot_us)

    def _read(self, row: ScheduleRow) -> ScheduleState | None:
        try:
            return load_state(row)
        except CorruptSchedule as error:
            self._tell_unreadable(row, error.reason)
            return None

    def _tell_unreadable(self, row: ScheduleRow, reason: str) -> None:
        """Once for each revision."""
        if self._unreadable.get(row.id) != row.revision:
            self._unreadable[row.id] = row.revision
            self._means.tell(facts.ScheduleUnreadable(row.id, reason))

    async def _running(self, state: ScheduleState) -> list[str]:
        """Those of its instances that are not over, as far as its policy asks."""
        rule = OVERLAPS[state.schedule.overlap]
        if rule.then == "fire" and not rule.ask and not state.waiting:
            return list(state.open)
        running: list[str] = []
        for instance_id in state.open:
            record = await self._means.backend.record(instance_id)
            if record is not None and not record.status.is_terminal:
                running.append(instance_id)
        return running

    async def _write(self, row: ScheduleRow, made: Step, now_us: int) -> bool:
        messages = [_asking(instance_id, made, row.id) for instance_id in made.asked]
        write = write_of(row, made.state, made.firings, now_us, messages)
        try:
            if not await self._means.backend.write_schedule(write, self._means.lease):
                return False
        except CommitOutcomeUnknown:
            self._wrote()  # what it has sent may be there
            raise
        if write.messages:
            self._wrote()
        for firing in made.firings:
            self._means.tell(facts.ScheduleFired(row.id, firing.instance_id, firing.slot_us, now_us - firing.slot_us))
        if made.missed:
            self._means.tell(facts.SlotsMissed(row.id, made.missed))
        if made.skipped:
            self._means.tell(facts.SlotsSkipped(row.id, made.skipped))
        return True


def _asking(instance_id: str, made: Step, schedule_id: str) -> Outgoing:
    """What an instance is asked that is not over when the next slot comes."""
    reason = f"the next slot of schedule {schedule_id!r} has come"
    event = ev.InstanceTerminated(reason) if made.ask == "terminate" else ev.CancelRequested(reason)
    return outgoing(instance_id, event)
