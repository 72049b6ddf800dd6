"""Schedules as the store holds them: rows, and the messages that a firing sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from durableflow.backends.base import Backend, NewInstance, Outgoing, ScheduleRow, ScheduleWrite
from durableflow.errors import CorruptSchedule, UsageError
from durableflow.model import events as ev
from durableflow.model.duration import to_datetime
from durableflow.model.schedule_state import ScheduleState, StoredFiring
from durableflow.model.status import Status

SCHEDULE_TAG: Final = "schedule"
SLOT_TAG: Final = "slot"
"""Tags of each instance that a schedule starts."""


def load_state(row: ScheduleRow) -> ScheduleState:
    """What the row says.

    Raises:
        CorruptSchedule: it cannot be read.
    """
    try:
        return msgspec.json.decode(row.data, type=ScheduleState)
    except (msgspec.DecodeError, UsageError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CorruptSchedule(row.id, str(error)) from error


def row_after(row: ScheduleRow | None, schedule_id: str, state: ScheduleState, now_us: int) -> ScheduleRow:
    """The row that takes the place of `row`. Its revision is one that no row of this id has had."""
    revision = now_us if row is None else max(row.revision + 1, now_us)
    return ScheduleRow(schedule_id, revision, state.due_us(schedule_id), msgspec.json.encode(state))


def birth(schedule_id: str, state: ScheduleState, firing: StoredFiring, now_us: int) -> Outgoing:
    """The message that makes the instance of a firing."""
    deadline_us = now_us + state.timeout_us if state.timeout_us else 0
    started = ev.InstanceStarted(state.workflow, state.version, state.input, deadline_us=deadline_us)
    tags = {**state.tags, SCHEDULE_TAG: schedule_id, SLOT_TAG: to_datetime(firing.slot_us).isoformat()}
    new = NewInstance(firing.instance_id, state.workflow, state.version, Status.PENDING, now_us, 0, tags)
    return Outgoing(firing.instance_id, ev.dump_event(started), new)


def write_of(
    row: ScheduleRow,
    state: ScheduleState,
    firings: Sequence[StoredFiring],
    now_us: int,
    messages: Sequence[Outgoing] = (),
) -> ScheduleWrite:
    """The transaction in which `row` becomes `state`, and these firings are started."""
    births = [birth(row.id, state, firing, now_us) for firing in firings]
    return ScheduleWrite(row.id, row.revision, row_after(row, row.id, state, now_us), [*messages, *births])


async def taken_ids(backend: Backend, firings: Sequence[StoredFiring]) -> frozenset[str]:
    """Ids of these that exist."""
    return frozenset([each.instance_id for each in firings if await backend.record(each.instance_id) is not None])
