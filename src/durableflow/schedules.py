"""Schedules: workflows that are started at moments, by whichever engine leads then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

import msgspec

from durableflow.authoring.workflow import StartOptions, Workflow
from durableflow.backends.base import Backend, ScheduleRow, ScheduleWrite
from durableflow.errors import CorruptSchedule, PayloadTooLarge, ScheduleExists, ScheduleNotFound, UsageError
from durableflow.model.duration import from_datetime, to_datetime
from durableflow.model.ids import RANDOM_BITS, check_name, fresh_id
from durableflow.model.schedule import Schedule, Spec, as_schedule, check_schedule_id, slot_id, trigger_id
from durableflow.model.schedule_state import WAITING_MAX, FiringKind, ScheduleState, StoredFiring
from durableflow.runtime.clock import Clock
from durableflow.runtime.firings import load_state, row_after, taken_ids, write_of

P = ParamSpec("P")
T = TypeVar("T")

_NEXT: Final = 5
_BACKFILL_MAX: Final = 10_000
_PER_WRITE: Final = 100
_AHEAD_US: Final = 60_000_000
"""Who takes "until now" from another clock may be ahead of ours by as much."""


class Firing(msgspec.Struct, frozen=True):
    """One instance that a schedule has started.

    Attributes:
        kind: `"slot"`, `"trigger"` or `"backfill"`.
        slot: the moment that it stands for; of a trigger, when it was called.
        at: when it was started.
    """

    instance_id: str
    kind: FiringKind
    slot: datetime
    at: datetime


class ScheduleView(msgspec.Struct, frozen=True):
    """A schedule as it is now.

    Attributes:
        input: of the instances, as JSON.
        note: what was said last of why it is paused or not.
        next: its next slots, at most five, those included that are due and not yet fired; none while it is paused.
        waiting: slots that fire one by one when the instance before is over.
        fired, missed, skipped: how many slots have been so; triggers and backfills are fired, too.
        recent: the latest ten firings, the latest first.
    """

    id: str
    schedule: Schedule
    workflow: str
    version: int
    input: bytes
    tags: Mapping[str, str]
    created_at: datetime
    changed_at: datetime
    is_paused: bool
    note: str
    next: Sequence[datetime]
    waiting: Sequence[datetime]
    fired: int
    missed: int
    skipped: int
    recent: Sequence[Firing]


class SchedulePage(msgspec.Struct, frozen=True):
    """Some schedules in the order of their ids; pass `cursor` on for those that follow, None at the end.

    Attributes:
        unreadable: those that cannot be read, and why. They do not fire.
    """

    schedules: Sequence[ScheduleView]
    unreadable: Mapping[str, str]
    cursor: str | None


class Schedules:
    """The schedules of a store; got as `client.schedules`.

    Args:
        wrote: called when something was written that the worker must hear of.
        learn: called with each workflow that is to be started.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        payload_limit_bytes: int,
        wrote: Callable[[], None],
        learn: Callable[[Workflow[..., Any]], None],
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._payload_limit_bytes = payload_limit_bytes
        self._wrote = wrote
        self._learn = learn

    # -- making ---------------------------------------------------------------------------------------------

    async def create(
        self,
        schedule_id: str,
        schedule: Schedule | Spec,
        workflow: Workflow[P, Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ScheduleView:
        """Make a schedule; from the next of its slots on, each starts one instance with these arguments.

        The instances have the ids `"{schedule_id}/{slot in UTC}"`, the tags and the timeout of the workflow's options,
        and the tags `schedule` and `slot`.

        Raises:
            ScheduleExists: the id is taken; `put` takes it over.
            UsageError: an id, schedule or option that cannot be.
            PayloadError: an argument cannot be stored.
        """
        made = self._new_state(schedule_id, as_schedule(schedule), workflow, args, kwargs)
        if not await self._write(ScheduleWrite(schedule_id, 0, row_after(None, schedule_id, made, made.created_us))):
            raise ScheduleExists(schedule_id)
        return _view(schedule_id, made)

    async def put(
        self,
        schedule_id: str,
        schedule: Schedule | Spec,
        workflow: Workflow[P, Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ScheduleView:
        """Have a schedule be as it is said here, whether there is one or not; for the start of a program.

        One that is there keeps its counts, its latest firings, and whether it is paused. When its slots stay the same,
        those that nobody has fired yet are still caught up with; when they change, it begins anew from now.

        Raises:
            UsageError: an id, schedule or option that cannot be.
            PayloadError: an argument cannot be stored.
        """
        made = self._new_state(schedule_id, as_schedule(schedule), workflow, args, kwargs)
        while True:
            row = await self._backend.schedule(schedule_id)
            if row is None:
                first = row_after(None, schedule_id, made, made.created_us)
                if await self._write(ScheduleWrite(schedule_id, 0, first)):
                    return _view(schedule_id, made)
                continue
            old = load_state(row)
            asked = {name: getattr(made, name) for name in ("workflow", "version", "input", "tags", "timeout_us")}
            state = _rescheduled(msgspec.structs.replace(old, **asked), made.schedule, made.created_us)
            state = msgspec.structs.replace(state, changed_us=old.changed_us if state == old else made.changed_us)
            if state == old or await self._write(write_of(row, state, (), made.created_us)):
                return _view(schedule_id, state)

    def _new_state(
        self,
        schedule_id: str,
        schedule: Schedule,
        workflow: Workflow[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> ScheduleState:
        check_schedule_id(schedule_id)
        options = _usable_options(workflow)
        what = f"the input of workflow {workflow.name!r}"
        data = workflow.arguments.dump(args, kwargs, what)
        if len(data) > self._payload_limit_bytes:
            raise PayloadTooLarge(what, len(data), self._payload_limit_bytes)
        self._learn(workflow)
        now_us = self._clock.now_us()
        return ScheduleState(
            schedule=schedule,
            workflow=workflow.name,
            version=workflow.version,
            input=data,
            tags=options.tags,
            timeout_us=options.timeout_us,
            created_us=now_us,
            changed_us=now_us,
            cursor_us=now_us,
            slot_us=schedule.after(now_us),
        )

    # -- changing -------------------------------------------------------------------------------------------

    async def update(self, schedule_id: str, schedule: Schedule | Spec) -> ScheduleView:
        """Change when and how it fires; what it starts stays. When its slots change, it begins anew from now.

        Raises:
            ScheduleNotFound: there is none.
            UsageError: it is no schedule.
        """
        wanted = as_schedule(schedule)
        return await self._change(schedule_id, lambda state, now_us: _rescheduled(state, wanted, now_us))

    async def pause(self, schedule_id: str, note: str = "") -> ScheduleView:
        """Let it start nothing until it is resumed; what it has started goes on. A paused one stays so.

        Args:
            note: for people: why.

        Raises:
            ScheduleNotFound: there is none.
        """
        return await self._change(
            schedule_id, lambda state, _: msgspec.structs.replace(state, is_paused=True, note=note or state.note)
        )

    async def resume(self, schedule_id: str, note: str = "") -> ScheduleView:
        """Let a paused one go on from now; slots of the pause are not fired, and not missed: backfill them if wanted.

        Raises:
            ScheduleNotFound: there is none.
        """

        def change(state: ScheduleState, now_us: int) -> ScheduleState:
            moved = state.moved_to(now_us) if state.is_paused else state
            return msgspec.structs.replace(moved, is_paused=False, note=note)

        return await self._change(schedule_id, change)

    async def delete(self, schedule_id: str) -> None:
        """Remove it; the instances that it has started stay, and go on.

        Raises:
            ScheduleNotFound: there is none.
        """
        while True:
            row = await self._row(schedule_id)
            if await self._write(ScheduleWrite(schedule_id, row.revision, None)):
                return

    # -- firing by hand -------------------------------------------------------------------------------------

    async def trigger(self, schedule_id: str, *, trigger_id: str | None = None) -> str:
        """Start an instance now, whether the schedule is paused or not, and whatever else runs.

        Args:
            trigger_id: the same id starts nothing a second time; by default a fresh one.

        Returns:
            The id of the instance, `"{schedule_id}/trigger/{trigger_id}"`.

        Raises:
            ScheduleNotFound: there is none.
        """
        if trigger_id is None:
            trigger_id = fresh_id(self._clock.now_us(), self._clock.random_bits(RANDOM_BITS))
        instance_id = _trigger_id(schedule_id, trigger_id)

        def firings(_: ScheduleState, now_us: int) -> Iterable[StoredFiring]:
            return [StoredFiring(instance_id, "trigger", now_us, now_us)]

        await self._fire(schedule_id, firings)
        return instance_id

    async def backfill(
        self, schedule_id: str, start: datetime, end: datetime, *, one_by_one: bool = False
    ) -> Sequence[str]:
        """Fire slots of the past that have not been fired: missed, skipped, of a pause, or from before the schedule.

        It may be called again, also after a crash: what was fired is not fired twice.

        Args:
            start: the first slot is at this moment or after.
            end: the last slot is before this moment, which is not in the future. What is less than a minute
                ahead counts as now, for clocks differ.
            one_by_one: each starts when no instance of the schedule is open; by default all at once.

        Returns:
            Ids of the instances that were started, or that will be one by one.

        Raises:
            ScheduleNotFound: there is none.
            UsageError: there is no time between the two, `end` is in the future, or there are more than 10,000 slots
                (1,000 one by one).
            ValueError: a datetime without a time zone.
        """
        start_us, end_us = from_datetime(start, "start"), from_datetime(end, "end")
        if start_us >= end_us:
            raise UsageError(f"nothing lies between {start} and {end}; write backfill(id, earlier, later)")
        now_us = self._clock.now_us()
        if end_us > now_us + _AHEAD_US:
            raise UsageError(f"end is {end}, which is in the future: slots from now on fire by themselves")
        end_us = min(end_us, now_us)
        most = WAITING_MAX if one_by_one else _BACKFILL_MAX
        spec = load_state(await self._row(schedule_id)).schedule.spec
        slots = list(islice(_slots_between(spec, start_us, end_us), most + 1))
        if len(slots) > most:
            raise UsageError(
                f"schedule {schedule_id!r} has more than {most:,} slots between {start} and {end}; backfill it in parts"
            )
        if one_by_one:
            return await self._put_in_line(schedule_id, slots)
        started: list[str] = []
        for first in range(0, len(slots), _PER_WRITE):
            part = slots[first : first + _PER_WRITE]

            def firings(_: ScheduleState, now_us: int, part: list[int] = part) -> Iterable[StoredFiring]:
                return [StoredFiring(slot_id(schedule_id, each), "backfill", each, now_us) for each in part]

            started += await self._fire(schedule_id, firings)
        return started

    async def _put_in_line(self, schedule_id: str, slots: Sequence[int]) -> list[str]:
        while True:
            row = await self._row(schedule_id)
            state, now_us = load_state(row), self._clock.now_us()
            wanted = [StoredFiring(slot_id(schedule_id, each), "backfill", each, now_us) for each in slots]
            taken = await taken_ids(self._backend, wanted)
            added = [each for each in wanted if each.instance_id not in taken and each.slot_us not in state.waiting]
            waiting = tuple(sorted([*state.waiting, *(each.slot_us for each in added)]))
            if len(waiting) > WAITING_MAX:
                raise UsageError(
                    f"schedule {schedule_id!r} would have {len(waiting):,} slots that wait, over the limit of "
                    f"{WAITING_MAX:,}; backfill it in parts"
                )
            made = msgspec.structs.replace(state, waiting=waiting)
            if not added or await self._write(write_of(row, made, (), now_us)):
                return [each.instance_id for each in added]

    # -- looking --------------------------------------------------------------------------------------------

    async def get(self, schedule_id: str) -> ScheduleView:
        """How it stands: its next slots, its latest firings, its counts.

        Raises:
            ScheduleNotFound: there is none.
            CorruptSchedule: it cannot be read.
        """
        return _view(schedule_id, load_state(await self._row(schedule_id)))

    async def list(self, *, limit: int = 100, cursor: str | None = None) -> SchedulePage:
        """Schedules in the order of their ids.

        Args:
            limit: at most so many, 1 to 1,000.
            cursor: of the page before.

        Raises:
            UsageError: a limit or cursor that is none.
        """
        if not 1 <= limit <= 1_000:
            raise UsageError(f"limit is {limit!r}, but must be from 1 to 1,000")
        rows = await self._backend.list_schedules(check_name(cursor, "cursor") if cursor else "", limit)
        views: list[ScheduleView] = []
        unreadable: dict[str, str] = {}
        for row in rows:
            try:
                views.append(_view(row.id, load_state(row)))
            except CorruptSchedule as error:
                unreadable[row.id] = error.reason
        return SchedulePage(views, unreadable, rows[-1].id if len(rows) == limit else None)

    # -- the store ------------------------------------------------------------------------------------------

    async def _row(self, schedule_id: str) -> ScheduleRow:
        row = await self._backend.schedule(check_schedule_id(schedule_id))
        if row is None:
            raise ScheduleNotFound(schedule_id)
        return row

    async def _write(self, write: ScheduleWrite) -> bool:
        is_written = await self._backend.write_schedule(write)
        if is_written:
            self._wrote()
        return is_written

    async def _change(self, schedule_id: str, change: Callable[[ScheduleState, int], ScheduleState]) -> ScheduleView:
        while True:
            row = await self._row(schedule_id)
            state, now_us = load_state(row), self._clock.now_us()
            made = change(state, now_us)
            if made == state:
                return _view(schedule_id, state)
            made = msgspec.structs.replace(made, changed_us=now_us)
            if await self._write(write_of(row, made, (), now_us)):
                return _view(schedule_id, made)

    async def _fire(
        self, schedule_id: str, firings: Callable[[ScheduleState, int], Iterable[StoredFiring]]
    ) -> Sequence[str]:
        """Start those that have not been started; their ids."""
        while True:
            row = await self._row(schedule_id)
            state, now_us = load_state(row), self._clock.now_us()
            wanted = list(firings(state, now_us))
            taken = await taken_ids(self._backend, wanted)
            made = [each for each in wanted if each.instance_id not in taken]
            if not made or await self._write(write_of(row, state.with_firings(made), made, now_us)):
                return [each.instance_id for each in made]


def _rescheduled(state: ScheduleState, schedule: Schedule, now_us: int) -> ScheduleState:
    old = state.schedule
    changed = msgspec.structs.replace(state, schedule=schedule)
    if (old.spec, old.start, old.end) == (schedule.spec, schedule.start, schedule.end):
        return changed
    return changed.moved_to(now_us)


def _usable_options(workflow: object) -> StartOptions:
    """The options of a workflow that a schedule can start."""
    if not isinstance(workflow, Workflow):
        _refuse(f"a schedule starts a workflow, not {workflow!r:.80}")
    options: StartOptions = workflow.start_options
    if options.instance_id is not None:
        _refuse("a schedule makes the ids of its instances itself; leave instance_id out of the workflow's options")
    if options.start_at_us or options.start_delay_us:
        _refuse(
            "a schedule says when its instances start; leave start_at and start_delay out of the workflow's options"
        )
    return options


def _refuse(message: str) -> NoReturn:
    raise UsageError(message)


def _trigger_id(schedule_id: str, name: str) -> str:
    instance_id = trigger_id(check_schedule_id(schedule_id), check_name(name, "the trigger id"))
    return check_name(instance_id, "the instance id that the trigger id makes")


def _slots_between(spec: Spec, start_us: int, end_us: int) -> Iterable[int]:
    slot_us = spec.after(start_us - 1)
    while slot_us is not None and slot_us < end_us:
        yield slot_us
        slot_us = spec.after(slot_us)


def _view(schedule_id: str, state: ScheduleState) -> ScheduleView:
    following = [] if state.is_paused else state.schedule.upcoming(after=to_datetime(state.cursor_us), count=_NEXT)
    return ScheduleView(
        schedule_id,
        state.schedule,
        state.workflow,
        state.version,
        state.input,
        state.tags,
        to_datetime(state.created_us),
        to_datetime(state.changed_us),
        state.is_paused,
        state.note,
        following,
        [to_datetime(each) for each in state.waiting],
        state.fired,
        state.missed,
        state.skipped,
        [_firing(each) for each in reversed(state.recent)],
    )


def _firing(stored: StoredFiring) -> Firing:
    return Firing(stored.instance_id, stored.kind, to_datetime(stored.slot_us), to_datetime(stored.at_us))
