"""The contract of a backend: one method, one transaction.

What every backend promises:

1. A method that raises has changed nothing, unless it raises `CommitOutcomeUnknown`.
2. `commit` checks the worker's lease in the same transaction in which it writes.
3. (instance, first_seq) is a key of the history: a second writer of the same turn fails.
4. What `commit` or `send` has returned for survives a crash of any process (and, with the
   default durability, the loss of power).
5. Cancelling the caller of a method does not cancel the transaction half way.

`durableflow.testing.BackendContract` is this page as tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from durableflow.backends.tasks import NewTask, TaskStore
from durableflow.model.alert import AlertChanges, AlertRecord, Notice, Takeover
from durableflow.model.circuit import Circuit
from durableflow.model.status import Status


class Lease(NamedTuple):
    """Proof that a worker owns the store's instances; `worker_id` is the fence of its commits."""

    worker_id: int
    expires_us: int


class NewInstance(NamedTuple):
    """An instance to be made. `replace` says that a finished one of the same id goes first.

    `parent` is the id of the instance whose child it is; `base_seq` is the number of the first event that replay needs.
    `admission` is the task by which a queue lets it begin, or None.
    """

    id: str
    workflow: str
    version: int
    status: Status
    created_us: int
    wake_us: int | None
    tags: Mapping[str, str]
    custom_status: bytes | None = None
    finished_us: int | None = None
    replace: bool = False
    parent: str | None = None
    base_seq: int = 1
    admission: NewTask | None = None


class HistoryRow(NamedTuple):
    """One turn: its events as `events.dump_events` makes them, the first of which is `first_seq`."""

    instance_id: str
    first_seq: int
    at_us: int
    events: bytes


class InstanceChange(NamedTuple):
    """The new values of an instance's row; written only when one of them changed.

    `wake_us` is 0 while activities run (the instance must be loaded after a crash), the
    earliest due time when it only waits, None when only a message can wake it. `base_seq` and `version` are None
    when they stay as they are.
    """

    id: str
    status: Status
    wake_us: int | None
    finished_us: int | None
    custom_status: bytes | None
    stall_reason: str | None = None
    base_seq: int | None = None
    version: int | None = None


class Heartbeat(NamedTuple):
    """The latest details of an attempt; gone with the commit in which its instance is over."""

    instance_id: str
    task: int
    attempt: int
    details: bytes


class DeadLetter(NamedTuple):
    """Something that failed for good, and waits for somebody to look at it.

    Attributes:
        task: the number of an activity that is exhausted; 0 for the instance itself, which failed or is stalled.
        kind: `"activity"`, `"failed"` or `"stalled"`.
        name: of the activity or the workflow.
        attempts: how many were made; 0 for an instance.
        type_name: of the failure; for a stall, empty.
    """

    instance_id: str
    task: int
    kind: str
    name: str
    at_us: int
    attempts: int
    type_name: str
    message: str


class DeadLetterQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters to list, the latest first; `after` is the (at_us, instance, task) of the last one before."""

    kind: str | None = None
    name: str | None = None
    type_name: str | None = None
    instance_id: str | None = None
    after: tuple[int, str, int] | None = None
    limit: int = 100


class Message(NamedTuple):
    """Something for an instance which no turn has taken yet; `data` is an event as bytes."""

    number: int
    instance_id: str
    data: bytes


class Outgoing(NamedTuple):
    """A message from a client or an instance: to make an instance (`new` is set) or for an instance that exists.

    `event_id` makes a message of the same id to the same instance a duplicate while it waits. Of what an instance
    sends, `answers` says by outcome what is put into the inbox of the `sender` in the same transaction.
    """

    instance_id: str
    data: bytes
    new: NewInstance | None = None
    event_id: str | None = None
    sender: str = ""
    answers: Mapping[str, bytes] = MappingProxyType({})


class Commit(msgspec.Struct):
    """What one transaction makes durable, for many instances together; `sends` are written last, in order.

    `redeemed` names instances that are stalled no more: their own dead letters go.
    """

    new: list[NewInstance] = []
    rows: list[HistoryRow] = []
    changes: list[InstanceChange] = []
    consumed: list[int] = []
    heartbeats: list[Heartbeat] = []
    sends: list[Outgoing] = []
    dead_letters: list[DeadLetter] = []
    redeemed: list[str] = []
    tasks: list[NewTask] = []
    tasks_dropped: list[tuple[str, int]] = []
    """Instance and number of what is no longer wanted; see `tasks.ALL_TASKS`."""

    def finished_ids(self) -> list[str]:
        """Instances that are over with this commit."""
        changed = [change.id for change in self.changes if change.finished_us is not None]
        return changed + [new.id for new in self.new if new.finished_us is not None]


class InstanceRecord(msgspec.Struct, frozen=True):
    """The row of an instance."""

    id: str
    workflow: str
    version: int
    status: Status
    created_us: int
    finished_us: int | None = None
    wake_us: int | None = None
    tags: Mapping[str, str] = {}
    custom_status: bytes | None = None
    stall_reason: str | None = None
    base_seq: int = 1
    parent: str | None = None


class LoadedInstance(NamedTuple):
    """All that is needed to go on with an instance: rows from its `base_seq` on, messages of its inbox in order."""

    record: InstanceRecord
    rows: list[HistoryRow]
    messages: list[Message]
    heartbeats: list[Heartbeat]


class DebouncedStart(NamedTuple):
    """A start that waits for others of the same key, of which the latest counts.

    Attributes:
        key: within the workflow and version of `new`.
        new: the instance that is made when no window of the key is open.
        started: its first message.
        changed: the message that it gets when the window closes, if no later start replaces it.
        start_at_us: the window stays open until then, but not beyond `until_us` of the start that opened it.
        until_us: None for as long as starts come.
    """

    key: str
    new: NewInstance
    started: bytes
    changed: bytes
    start_at_us: int
    until_us: int | None


class SendResult(msgspec.Struct, frozen=True):
    """What became of a message: `delivered` says that it was written (or is a duplicate of one that was)."""

    outcome: Literal["delivered", "exists", "missing", "over"]
    record: InstanceRecord | None = None


class Rewrite(NamedTuple):
    """A history that a client writes, not a worker: of an instance that is made, or of one that is over and goes on.

    Attributes:
        instance: its row; of one that is over, what the row becomes.
        rows: added to its history.
        messages: written after that; they make the worker look at it.
        after_seq: `first_seq` of the last row that the client knows of; 0 when the instance is to be made.
    """

    instance: NewInstance
    rows: Sequence[HistoryRow]
    messages: Sequence[Outgoing]
    after_seq: int = 0


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


class Arrival(NamedTuple):
    """An instance from another store: its row as it was there, and what hangs on it."""

    record: InstanceRecord
    rows: Sequence[HistoryRow]
    messages: Sequence[Outgoing]
    heartbeats: Sequence[Heartbeat]


UserWork: TypeAlias = Callable[[Any, Sequence[Message]], bytes]
"""`work(connection, waiting)` of `Backend.transact`: what it writes by the connection is committed with what it gives.

`waiting` are the messages of the instance that no turn has taken yet.
"""


class QuietInstance(NamedTuple):
    """An instance of which nothing was recorded since `recorded_us`, or which is STALLED."""

    id: str
    workflow: str
    status: Status
    wake_us: int
    recorded_us: int
    stall_reason: str | None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which instances to list, newest first.

    `after` is the (created_us, id) of the last instance of the page before.
    """

    statuses: frozenset[Status] = frozenset()
    workflow: str | None = None
    tags: Mapping[str, str] = {}
    id_prefix: str | None = None
    created_from_us: int | None = None
    created_before_us: int | None = None
    parent: str | None = None
    after: tuple[int, str] | None = None
    limit: int = 100


class Backend(TaskStore, Protocol):
    """Where histories live; each method is one transaction.

    Methods may raise `StorageError`; those that need more say so.
    """

    shared: bool
    """Whether other processes may write to the store, so that its inbox must be watched."""

    supports_transactions: bool
    """Whether user code can write to the store's database in one transaction with the engine: see `transact`."""

    async def open(self) -> None:
        """Connect, and bring the schema up to this version.

        Raises:
            SchemaMismatch: the store was written by a newer version.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; may be called twice."""
        ...

    # -- the worker's side ----------------------------------------------------------------------------------

    async def acquire(self, name: str, ttl_us: int, now_us: int) -> Lease | None:
        """Become the worker of this store, or None while another's lease lasts.

        A worker whose process is known to be dead is buried at once, whatever its lease says.
        """
        ...

    async def renew(self, lease: Lease, ttl_us: int, now_us: int) -> Lease:
        """Push the expiry on.

        Raises:
            LeaseLost: another worker took over.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Give the lease back; the next worker need not wait."""
        ...

    async def commit(self, lease: Lease, commit: Commit) -> None:
        """Make all of `commit` durable.

        The heartbeats of its `finished_ids` go, also those that it brings: nobody asks for them any more.

        Raises:
            LeaseLost: nothing was written, ever again.
            InstancesExist: ids of `commit.new` are taken; nothing was written.
            AppendConflict: rows are there already; nothing was written.
            CommitOutcomeUnknown: look into the log.
        """
        ...

    async def transact(self, lease: Lease, instance_id: str, work: UserWork) -> SendResult:
        """Call `work` inside a transaction, and write what it gives as a message for the instance, all or nothing.

        To an instance that is missing or over `work` is not called. It may be called on any thread. It can neither end
        the transaction nor write to what is the store's own.

        Raises:
            LeaseLost: another worker took over; `work` was not called.
            TransactionMisused: `work` tried what it may not; nothing was written. So it is, with a word on what to do,
                where `supports_transactions` is False; then `work` was not called.
            CommitOutcomeUnknown: look into the log.
            Exception: whatever `work` raised, or what is wrong with what it wrote; nothing was written.
        """
        ...

    async def load(self, instance_ids: Sequence[str]) -> list[LoadedInstance]:
        """These instances, whole; unknown ones are left out."""
        ...

    async def due(self, after: tuple[int, str], until_us: int, limit: int) -> list[tuple[int, str]]:
        """`(wake_us, id)` of active instances behind `after` and before `until_us`, in that order."""
        ...

    async def next_wake(self, from_us: int) -> int | None:
        """The earliest wake time that is not before `from_us`."""
        ...

    async def inbox(self, after: int, limit: int) -> list[Message]:
        """Messages numbered above `after`, in order."""
        ...

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Return True as soon as another process may have written something; False after `timeout_s`."""
        ...

    # -- circuits, which all workers share -------------------------------------------------------------------

    async def circuits(self) -> list[Circuit]:
        """All circuits that were ever written, by name."""
        ...

    async def swap_circuit(self, circuit: Circuit) -> Circuit | None:
        """Write `circuit` if the one that is there has the revision before it; none has 0. None: it is written.

        Returns:
            The circuit that is there, of another revision: look at it and decide again.
        """
        ...

    # -- alerts, for people who look after the store --------------------------------------------------------

    async def alerts(self) -> list[AlertRecord]:
        """Those that are not resolved, by kind and subject."""
        ...

    async def change_alerts(self, lease: Lease, changes: AlertChanges) -> None:
        """Make all of `changes`; of the notices that wait, the latest `NOTICES_MAX` stay.

        Raises:
            LeaseLost: nothing was written.
        """
        ...

    async def notices(self, sink: str, limit: int) -> list[Notice]:
        """The oldest that wait to be delivered to `sink`, in order; their numbers are never used again."""
        ...

    async def takeovers(self, since_us: int) -> list[Takeover]:
        """Each `acquire` that succeeded since then, in order; older ones than the latest 1,000 may be forgotten."""
        ...

    async def quiet(self, before_us: int, limit: int) -> list[QuietInstance]:
        """Active instances that were due before `before_us` and of which nothing was recorded since, and STALLED ones.

        Those of which nothing was recorded for longest come first; of those without a history, their making counts.
        """
        ...

    # -- the client's side ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Write messages (and the instances that they make), each or its refusal on its own."""
        ...

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

    async def rewrite(self, rewrites: Sequence[Rewrite]) -> None:
        """Write all of these, or none; the dead letters of instances that go on are gone.

        Raises:
            InstancesExist: ids of those that are to be made are taken; nothing was written.
            AppendConflict: one is not there, not over, or its last row is another; nothing was written.
        """
        ...

    async def debounce(self, start: DebouncedStart) -> str:
        """Change the open window of the key, or open one, with its instance; the id of the instance.

        A window whose instance is over, or gone, is not open. `wake_us` of an instance that waits for its
        moment follows the window.

        Raises:
            InstancesExist: a window would have to be opened, but the id of `new` is taken; nothing was written.
        """
        ...

    async def close_window(self, instance_id: str, now_us: int) -> int | None:
        """Close the window of an instance if its time has come, and put its latest `changed` into the inbox.

        Returns:
            The moment before which it stays open; None when it is closed, or was before.
        """
        ...

    async def record(self, instance_id: str) -> InstanceRecord | None:
        """The row of an instance."""
        ...

    async def history(self, instance_id: str, from_seq: int, limit: int) -> list[HistoryRow]:
        """History rows from the one that holds `from_seq` on, at most `limit` rows."""
        ...

    async def last_row(self, instance_id: str) -> HistoryRow | None:
        """The latest history row of an instance."""
        ...

    async def list_records(self, query: Query) -> list[InstanceRecord]:
        """The instances that match, newest first."""
        ...

    async def finished(
        self, statuses: Collection[Status], before_us: int, after: tuple[int, str], limit: int
    ) -> list[tuple[int, str]]:
        """`(created_us, id)` of those behind `after`, in order, that ended as one of `statuses` before `before_us`."""
        ...

    async def dead_letters(self, query: DeadLetterQuery) -> list[DeadLetter]:
        """Those that match, the latest first."""
        ...

    async def discard(self, letters: Sequence[tuple[str, int]]) -> int:
        """Remove dead letters, named by instance and task; how many there were."""
        ...

    async def purge(self, instance_ids: Sequence[str]) -> list[str]:
        """Remove all rows of those that are over; their ids."""
        ...

    async def take_in(self, arrivals: Sequence[Arrival]) -> set[str]:
        """Write instances from elsewhere, each whole; the ids that are taken, of which nothing was written."""
        ...
