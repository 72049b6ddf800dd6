"""The contract of a backend: one method, one transaction.

What every backend promises:

1. A method that raises has changed nothing, unless it raises `CommitOutcomeUnknown`.
2. `commit` checks the worker's lease in the same transaction in which it writes.
3. (instance, first_seq) is a key of the history: a second writer of the same turn fails.
4. What `commit` or `send` has returned for survives a crash of any process (and, with the
   default durability, the loss of power).
5. Cancelling the caller of a method does not cancel the transaction half way.

`durableflow.testing.BackendContract` is this page as tests. What is here is the worker's side; what a backend keeps
besides has a page for each noun beside this one. The records of those pages can be had from here, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from durableflow.backends.alerts import AlertStore, QuietInstance
from durableflow.backends.circuits import CircuitStore
from durableflow.backends.dead_letters import DeadLetter, DeadLetterQuery, DeadLetterStore
from durableflow.backends.looking import Ending, InstanceReader, Query
from durableflow.backends.moving import MoveStore
from durableflow.backends.ownership import ClaimedInstance, MessagePage, OwnerStore, Share, Topic
from durableflow.backends.records import (
    Heartbeat,
    HistoryRow,
    InstanceRecord,
    Lease,
    Message,
    NewInstance,
    Outcome,
    Outgoing,
    SendResult,
)
from durableflow.backends.relaying import RelayStore
from durableflow.backends.schedules import ScheduleRow, ScheduleStore, ScheduleWrite
from durableflow.backends.tasks import NewTask, TaskStore
from durableflow.backends.transfers import Arrival, Rewrite, TransferStore
from durableflow.backends.windows import DebouncedStart, WindowStore
from durableflow.model.status import Status

__all__ = [
    "Arrival",
    "Backend",
    "ClaimedInstance",
    "Commit",
    "DeadLetter",
    "DeadLetterQuery",
    "DebouncedStart",
    "Ending",
    "Heartbeat",
    "HistoryRow",
    "InstanceChange",
    "InstanceRecord",
    "Lease",
    "LoadedInstance",
    "Message",
    "MessagePage",
    "NewInstance",
    "Outcome",
    "Outgoing",
    "Query",
    "QuietInstance",
    "Rewrite",
    "ScheduleRow",
    "ScheduleWrite",
    "SendResult",
    "Share",
    "Topic",
    "UserWork",
    "UserWorkForm",
]


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
    outbox: list[Outgoing] = []
    """Sent by instances to instances of other stores; see `relaying`."""
    tasks_dropped: list[tuple[str, int]] = []
    """Instance and number of what is no longer wanted; see `tasks.ALL_TASKS`."""
    has_answers: bool = False
    """Somebody outside may wait for what a row says, though no instance is over."""

    def finished_ids(self) -> list[str]:
        """Instances that are over with this commit."""
        changed = [change.id for change in self.changes if change.finished_us is not None]
        return changed + [new.id for new in self.new if new.finished_us is not None]


class LoadedInstance(NamedTuple):
    """All that is needed to go on with an instance: rows from its `base_seq` on, messages of its inbox in order."""

    record: InstanceRecord
    rows: list[HistoryRow]
    messages: list[Message]
    heartbeats: list[Heartbeat]
    is_ours: bool = True
    """False for one that another worker of a fleet owns, or nobody."""


UserWorkForm: TypeAlias = Literal["plain", "async"] | None
"""What functions a store can call inside a transaction of its own, if any."""

UserWork: TypeAlias = Callable[[Any, Sequence[Message]], bytes | Awaitable[bytes]]
"""`work(connection, waiting)` of `Backend.transact`: what it writes by the connection is committed with what it gives.

`waiting` are the messages of the instance that no turn has taken yet. What it gives is awaited where the store's
`user_work` says so.
"""


class Backend(
    OwnerStore,
    TaskStore,
    InstanceReader,
    DeadLetterStore,
    ScheduleStore,
    CircuitStore,
    AlertStore,
    WindowStore,
    TransferStore,
    MoveStore,
    RelayStore,
    Protocol,
):
    """Where histories live; each method is one transaction.

    Methods may raise `StorageError`; those that need more say so.
    """

    shared: bool
    """Whether other processes may write to the store, so that its inbox must be watched."""

    user_work: UserWorkForm
    """The form of the functions that can write to the store's database in one transaction with the engine; None where
    there is no such database. See `transact`."""

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

        To an instance that is missing or over `work` is not called. A plain one may be called on any thread, an async
        one is awaited on the event loop. It can neither end the transaction nor write to what is the store's own.

        Whoever declares this worker dead, or lets another own the instance, waits for a commit that is under way: what
        is read afterwards has the message, or it never will.

        Raises:
            LeaseLost: another worker took over; nothing was written. One that is known to be dead when it asks does not
                even have `work` called.
            TransactionMisused: `work` tried what it may not, or is not of the form that `user_work` names; nothing was
                written. So it is, with a word on what to do, where that is None; then `work` was not called.
            StorageError: nothing was written, and the same may succeed when it is made again.
            CommitOutcomeUnknown: look into the log.
            Exception: whatever `work` raised, or what is wrong with what it wrote; nothing was written.
        """
        ...

    async def load(self, instance_ids: Sequence[str], lease: Lease | None = None) -> list[LoadedInstance]:
        """These instances, whole; unknown ones are left out.

        Args:
            lease: of the worker that would go on with them: `is_ours` says which of them it owns.
        """
        ...

    async def due(
        self, after: tuple[int, str], until_us: int, limit: int, lease: Lease | None = None
    ) -> list[tuple[int, str]]:
        """`(wake_us, id)` of active instances behind `after` and before `until_us`, in that order.

        Args:
            lease: of a worker, whose own are meant; None for all of the store.
        """
        ...

    async def next_wake(self, from_us: int, lease: Lease | None = None) -> int | None:
        """The earliest wake time that is not before `from_us`; of whose instances, see `due`."""
        ...

    async def inbox(self, after: int, limit: int) -> list[Message]:
        """Messages numbered above `after`, in order, for whichever instance."""
        ...

    async def wait_for_change(self, timeout_s: float, topic: Topic = "anything") -> bool:
        """Return True as soon as another process may have written something; False after `timeout_s`.

        It may also return for what is not of the topic, and may miss a change: a hint, no more.
        """
        ...

    # -- the client's side ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Write messages (and the instances that they make), each or its refusal on its own."""
        ...

    async def purge(self, instance_ids: Sequence[str]) -> list[str]:
        """Remove all rows of those that are over; their ids."""
        ...
