"""Schedules in a store: rows with a revision, and what is sent in the transaction that writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from durableflow.backends.records import Lease, Outgoing


class ScheduleRow(NamedTuple):
    """A schedule.

    Attributes:
        revision: another one with each write, and none that a schedule of this id has had before.
        due_us: when the worker must look at it; None for not at all.
        data: what only `model.schedule_state` reads.
    """

    id: str
    revision: int
    due_us: int | None
    data: bytes


class ScheduleWrite(NamedTuple):
    """A schedule's row, and what is sent in the transaction that writes it.

    Attributes:
        revision: of the row that is there; 0 for none.
        row: what takes its place; None for nothing.
        messages: as `Backend.send` takes them; one that is refused hurts neither the row nor the others.
    """

    id: str
    revision: int
    row: ScheduleRow | None
    messages: Sequence[Outgoing] = ()


class ScheduleStore(Protocol):
    """The part of a backend that keeps schedules; each method is one transaction."""

    async def write_schedule(self, write: ScheduleWrite, lease: Lease | None = None) -> bool:
        """Make, change or remove a schedule; False when its revision is another: nothing was written.

        Args:
            lease: of the worker that does it; a client has none.

        Raises:
            LeaseLost: nothing was written.
        """
        ...

    async def schedule(self, schedule_id: str) -> ScheduleRow | None:
        """The row of a schedule."""
        ...

    async def list_schedules(self, after: str, limit: int) -> list[ScheduleRow]:
        """Schedules whose ids are behind `after`, in the order of code points."""
        ...

    async def due_schedules(self, after: tuple[int, str], limit: int) -> list[ScheduleRow]:
        """Schedules whose (due_us, id) is behind `after`, in that order; those without a moment are left out."""
        ...
