"""Moving house: a store is sealed, read in order, and written into another one.

What every backend promises of it, beside what `backends/base.py` says:

1. A sealed store refuses whatever a worker, a server or a client would write with `StoreSealed`, in the transaction
   of the write itself, also when they had it open before. Only whoever holds the seal writes, with `write_part`.
2. A seal is made when nobody works on the store. It is changed by compare-and-swap: each mover that takes the move up
   holds it under the next number, and one that held it before writes nothing more.
3. `read_part` gives rows in the order of their keys, and no two stores differ in that order. So what has been copied
   of a part is all up to its `last_key`.

A row is as the store has it; numbers of messages and tasks are kept. Not among the parts is what an engine makes anew:
leases, alerts and their notices, the list of takeovers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from durableflow.backends.dead_letters import DeadLetter
from durableflow.backends.records import Heartbeat, HistoryRow, InstanceRecord
from durableflow.backends.schedules import ScheduleRow
from durableflow.backends.tasks import QueueLimits, StoredTask
from durableflow.errors import LeaseLost, MoveRefused, StoreSealed
from durableflow.model.circuit import Circuit

PAGE_ROWS: Final = 1_000
"""`read_part` gives no more at a time."""


class Seal(NamedTuple):
    """The mark of a store that is moved, or that is being filled.

    Attributes:
        move_id: the same in both stores of a move.
        other: the address of the other one.
        mover: a random name of whoever goes on with the move, or did last.
        holder: how often the seal was changed; the first is 1.
        is_gone: of a source: the other store has it all, and may be opened.
    """

    move_id: str
    side: Literal["source", "target"]
    other: str
    mover: str
    holder: int = 1
    is_gone: bool = False

    def refusal(self) -> StoreSealed:
        """What is told to whoever would write, or open the store."""
        return StoreSealed(self.other, is_source=self.side == "source", is_gone=self.is_gone)

    def succeeds(self, there: Seal | None) -> bool:
        """Whether it may take the place of the one that is there, or of none.

        Raises:
            LeaseLost: that one is of another move, or somebody else holds it.
        """
        if there == self:
            return False  # it is written already: its writer did not hear of it
        before = 0 if there is None else there.holder
        if before != self.holder - 1 or (there is not None and there.move_id != self.move_id):
            raise not_held(self, there)
        return True


def not_held(seal: Seal, there: Seal | None) -> LeaseLost:
    """What a mover is told that holds the seal no more."""
    found = "no move is under way in it" if there is None else f"mover {there.mover} of move {there.move_id} does"
    return LeaseLost(f"mover {seal.mover} of move {seal.move_id} does not hold the store: {found}; nothing was written")


class Living(NamedTuple):
    """A worker or a server whose lease lasts, and whose process is not known to be dead."""

    kind: Literal["worker", "server"]
    name: str
    expires_us: int


def check_idle(living: Sequence[Living], now_us: int) -> None:
    """Raises `MoveRefused` when somebody works on a store that is to be sealed."""
    if living:
        named = ", ".join(f"{each.kind} {each.name!r}" for each in living)
        last_s = max(1, -(-max(each.expires_us - now_us for each in living) // 1_000_000))
        raise MoveRefused(
            f"somebody works on this store: {named}; stop them. One that was killed is given up in {last_s} s"
        )


def check_empty(counts: Mapping[Part, int]) -> None:
    """Raises `MoveRefused` when a store that is to be filled holds anything."""
    held = {part: count for part, count in counts.items() if count}
    if held:
        told = ", ".join(f"{count} {part}" for part, count in held.items())
        raise MoveRefused(
            f"a store is moved into an empty one, but this one holds {told}; name another file, schema or database, "
            "or bring instances into it by export and import"
        )


class Part(StrEnum):
    """What a store is made of, in the order in which it is copied."""

    INSTANCES = "instances"
    HISTORY = "history rows"
    INBOX = "messages"
    HEARTBEATS = "heartbeats"
    DEAD_LETTERS = "dead letters"
    WINDOWS = "windows"
    QUEUES = "queues"
    TASKS = "tasks"
    SCHEDULES = "schedules"
    CIRCUITS = "circuits"


OF_INSTANCES: Final = (
    Part.HISTORY,
    Part.INBOX,
    Part.HEARTBEATS,
    Part.DEAD_LETTERS,
    Part.WINDOWS,
    Part.TASKS,
)
"""Parts whose rows hang on an instance, whose id is the first part of their keys."""


class KeptMessage(NamedTuple):
    """A message in an inbox; `event_id` is None when it has none, or when the store keeps only a digest of it."""

    number: int
    instance_id: str
    data: bytes
    event_id: str | None


class KeptWindow(NamedTuple):
    """An open window of debounced starts; see `backends/windows.py`."""

    instance_id: str
    workflow: str
    version: int
    key: str
    changed: bytes
    start_at_us: int
    until_us: int | None


class KeptTask(NamedTuple):
    """A task, and its place among those of its queue; in another store, whoever has claimed it is a dead server."""

    task: StoredTask
    vtime: int


class KeptQueue(NamedTuple):
    """A queue: its limits, when the bucket of its rate is full, and how far its lanes (by priority) have come."""

    name: str
    limits: QueueLimits
    is_paused: bool
    full_us: int
    lanes: tuple[tuple[int, int], ...]


MovedRow: TypeAlias = (
    InstanceRecord
    | HistoryRow
    | KeptMessage
    | Heartbeat
    | DeadLetter
    | KeptWindow
    | KeptTask
    | KeptQueue
    | ScheduleRow
    | Circuit
)
Key: TypeAlias = tuple[str] | tuple[str, int]


_KEYS: Final[Mapping[Part, Callable[[Any], Any]]] = {
    Part.INSTANCES: lambda row: (row.id,),
    Part.HISTORY: lambda row: (row.instance_id, row.first_seq),
    Part.INBOX: lambda row: (row.instance_id, row.number),
    Part.HEARTBEATS: lambda row: (row.instance_id, row.task),
    Part.DEAD_LETTERS: lambda row: (row.instance_id, row.task),
    Part.WINDOWS: lambda row: (row.instance_id,),
    Part.QUEUES: lambda row: (row.name,),
    Part.TASKS: lambda row: (row.task.instance_id, row.task.task),
    Part.SCHEDULES: lambda row: (row.id,),
    Part.CIRCUITS: lambda row: (row.name,),
}


def key_of(part: Part, row: MovedRow) -> Key:
    """By what the rows of a part are in order: text by code points, then numbers."""
    key: Key = _KEYS[part](row)
    return key


class MoveStore(Protocol):
    """The part of a backend that can be moved, and moved into; each method is one transaction."""

    @property
    def address(self) -> str:
        """The URL by which the store is opened, without a password."""
        ...

    async def read_seal(self) -> Seal | None:
        """The seal of the store, if it has one."""
        ...

    async def living(self, now_us: int) -> list[Living]:
        """Who works on the store."""
        ...

    async def foreign_tables(self) -> list[str]:
        """Tables among the store's own that are somebody else's, by name: they are not moved."""
        ...

    async def seal(self, seal: Seal, now_us: int) -> None:
        """Seal the store, or put `seal` in the place of the one before it; if it is there already, nothing changes.

        Raises:
            MoveRefused: a store that is sealed first has somebody who works on it, or is to be filled and not empty.
            LeaseLost: the seal that is there is of another move, or somebody else's.
        """
        ...

    async def unseal(self, seal: Seal, *, clear: bool) -> None:
        """Open the store to everybody; `clear` says that all its parts are emptied first.

        Raises:
            LeaseLost: the seal that is there is another, or none.
        """
        ...

    async def count_parts(self) -> dict[Part, int]:
        """How many rows each part has."""
        ...

    async def read_part(self, part: Part, after: Key | None, limit_bytes: int) -> list[MovedRow]:
        """Rows behind `after`, in order, at least one if there is any; few enough to be some `limit_bytes` together."""
        ...

    async def last_key(self, part: Part) -> Key | None:
        """The key of the last row of a part."""
        ...

    async def write_part(self, seal: Seal, part: Part, rows: Sequence[MovedRow]) -> None:
        """Write rows that are not there yet, behind those that are; the parts in their order.

        Raises:
            LeaseLost: the seal that is there is another, or none; nothing was written.
        """
        ...
