"""What a store keeps of a schedule, and how it goes on: the slots that are due, by the schedule's policy.

`step` is the whole of the decision: it is handed the time and who is not over, and returns what is to be written in one
transaction. A slot becomes an instance whose id follows from it, and the state that says so is written with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from durableflow.model.duration import to_us
from durableflow.model.schedule import OVERLAPS, Schedule, slot_id

FiringKind: TypeAlias = Literal["slot", "trigger", "backfill"]

SLOTS_PER_STEP: Final = 100
"""After a long time without an engine, more are settled in several transactions."""

_RECENT: Final = 10
_OPEN_MAX: Final = 100
WAITING_MAX: Final = 1_000


class StoredFiring(msgspec.Struct, frozen=True):
    """One instance that was started; `slot_us` is the moment that it stands for."""

    instance_id: str
    kind: FiringKind
    slot_us: int
    at_us: int


class ScheduleState(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept of a schedule, but for its id.

    Attributes:
        cursor_us: slots up to this moment are settled.
        slot_us: the first slot that is not settled; None when none follows.
        waiting: slots that fire one by one, each when no instance of the schedule is open.
        open: instances that were not over when last looked at, the oldest first.
        recent: the latest firings, the oldest first.
    """

    schedule: Schedule
    workflow: str
    version: int
    input: bytes
    tags: Mapping[str, str] = {}
    timeout_us: int = 0
    created_us: int
    changed_us: int
    is_paused: bool = False
    note: str = ""
    cursor_us: int
    slot_us: int | None
    waiting: tuple[int, ...] = ()
    open: tuple[str, ...] = ()
    fired: int = 0
    missed: int = 0
    skipped: int = 0
    recent: tuple[StoredFiring, ...] = ()

    def due_us(self, schedule_id: str) -> int | None:
        """When somebody must look at it next: 0 for again and again, None for never."""
        if self.is_paused:
            return None
        if self.waiting:
            return 0
        return None if self.slot_us is None else self.schedule.due_us(schedule_id, self.slot_us)

    def moved_to(self, now_us: int) -> ScheduleState:
        """As it is when all slots up to now are let go."""
        cursor_us = max(self.cursor_us, now_us)
        return msgspec.structs.replace(self, cursor_us=cursor_us, slot_us=self.schedule.after(cursor_us))

    def with_firings(self, firings: Sequence[StoredFiring]) -> ScheduleState:
        """As it is when these have started."""
        return msgspec.structs.replace(
            self,
            fired=self.fired + len(firings),
            recent=(*self.recent, *firings)[-_RECENT:],
            open=(*self.open, *(each.instance_id for each in firings))[-_OPEN_MAX:],
        )


class Step(NamedTuple):
    """What is to be written in one transaction.

    Attributes:
        firings: instances to be started.
        ask: what is asked of `asked`, instances that are not over.
        missed, skipped: slots that were so, by this step.
    """

    state: ScheduleState
    firings: Sequence[StoredFiring]
    ask: Literal["cancel", "terminate"] | None
    asked: Sequence[str]
    missed: int
    skipped: int


def step(
    schedule_id: str, state: ScheduleState, now_us: int, running: Collection[str], taken: Collection[str] = ()
) -> Step:
    """Settle what is due, at most `SLOTS_PER_STEP` slots.

    Args:
        running: those of `state.open` that are not over.
        taken: ids that exist: their slots have been fired, by a backfill or an earlier schedule of this id.
    """
    if state.is_paused:
        return Step(state, (), None, (), 0, 0)
    return _Stepping(schedule_id, state, now_us, running, taken).run()


class _Stepping:
    """One step under way."""

    def __init__(
        self, schedule_id: str, state: ScheduleState, now_us: int, running: Collection[str], taken: Collection[str]
    ) -> None:
        self.schedule_id = schedule_id
        self.state = state
        self.now_us = now_us
        self.taken = taken
        self.rule = OVERLAPS[state.schedule.overlap]
        self.open = [each for each in state.open if each in running]
        self.waiting = list(state.waiting)
        self.firings: list[StoredFiring] = []
        self.asked: list[str] = []
        self.missed = self.skipped = 0

    def run(self) -> Step:
        state = self.state
        while self.waiting and not self.open and not self.firings:
            self._fire(self.waiting.pop(0))
        cursor_us, slot_us, settled = state.cursor_us, state.slot_us, 0
        catch_up_us = to_us(state.schedule.catch_up, "catch_up")
        while slot_us is not None and settled < SLOTS_PER_STEP:
            late_us = self.now_us - state.schedule.due_us(self.schedule_id, slot_us)
            if late_us < 0:
                break
            if slot_id(self.schedule_id, slot_us) not in self.taken:
                if late_us > catch_up_us:
                    self.missed += 1
                else:
                    self._take(slot_us)
            settled += 1
            cursor_us, slot_us = slot_us, state.schedule.after(slot_us)
        state = msgspec.structs.replace(
            state,
            cursor_us=cursor_us,
            slot_us=slot_us,
            waiting=tuple(self.waiting),
            open=tuple(self.open),
            missed=state.missed + self.missed,
            skipped=state.skipped + self.skipped,
        ).with_firings(self.firings)
        ask = self.rule.ask if self.asked else None
        return Step(state, self.firings, ask, self.asked, self.missed, self.skipped)

    def _take(self, slot_us: int) -> None:
        """A slot that is due, and not too late."""
        rule = self.rule
        if rule.ask and self.firings:  # to start one and stop it at once would be of no use
            self.firings.pop()
            self.skipped += 1
        if rule.then == "fire" or not (self.open or self.waiting or self.firings):
            self._ask_open()
            self._fire(slot_us)
        elif rule.then == "skip":
            self.skipped += 1
        else:
            self._ask_open()
            self.waiting, dropped = _KEEP[rule.keep](self.waiting, slot_us)
            self.skipped += dropped

    def _ask_open(self) -> None:
        if self.rule.ask:
            self.asked += [each for each in self.open if each not in self.asked]
            if self.rule.ask == "terminate":
                self.open.clear()

    def _fire(self, slot_us: int) -> None:
        instance_id = slot_id(self.schedule_id, slot_us)
        if instance_id not in self.taken:
            self.firings.append(StoredFiring(instance_id, "slot", slot_us, self.now_us))


def _keep_first(waiting: list[int], slot_us: int) -> tuple[list[int], int]:
    return (waiting, 1) if waiting else ([slot_us], 0)


def _keep_last(waiting: list[int], slot_us: int) -> tuple[list[int], int]:
    return [slot_us], len(waiting)


def _keep_all(waiting: list[int], slot_us: int) -> tuple[list[int], int]:
    return (waiting, 1) if len(waiting) >= WAITING_MAX else ([*waiting, slot_us], 0)


_KEEP: Final[dict[str, Callable[[list[int], int], tuple[list[int], int]]]] = {
    "first": _keep_first,
    "last": _keep_last,
    "all": _keep_all,
}
