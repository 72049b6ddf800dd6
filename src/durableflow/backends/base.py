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

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from durableflow.backends.tasks import NewTask, TaskStore
from durableflow.model.status import Status


class Lease(NamedTuple):
    """Proof that a worker owns the store's instances; `worker_id` is the fence of its commits."""

    worker_id: int
    expires_us: int


class NewInstance(NamedTuple):
    """An instance to be made. `replace` says that a finished one of the same id goes first.

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
    earliest due time when it only waits, None when only a message can wake it.
    """

    id: str
    status: Status
    wake_us: int | None
    finished_us: int | None
    custom_status: bytes | None
    stall_reason: str | None = None


class Heartbeat(NamedTuple):
    """The latest details of an attempt; gone with the commit in which its instance is over."""

    instance_id: str
    task: int
    attempt: int
    details: bytes


class Message(NamedTuple):
    """Something for an instance which no turn has taken yet; `data` is an event as bytes."""

    number: int
    instance_id: str
    data: bytes


class Commit(msgspec.Struct):
    """What one transaction makes durable, for many instances together."""

    new: list[NewInstance] = []
    rows: list[HistoryRow] = []
    changes: list[InstanceChange] = []
    consumed: list[int] = []
    heartbeats: list[Heartbeat] = []
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


class LoadedInstance(NamedTuple):
    """All that is needed to go on with an instance; `messages` are those in its inbox, in order."""

    record: InstanceRecord
    rows: list[HistoryRow]
    messages: list[Message]
    heartbeats: list[Heartbeat]


class Outgoing(NamedTuple):
    """A message from a client: to make an instance (`new` is set) or for an instance that exists.

    `event_id` makes a message of the same id to the same instance a duplicate while it waits.
    """

    instance_id: str
    data: bytes
    new: NewInstance | None = None
    event_id: str | None = None


class SendResult(msgspec.Struct, frozen=True):
    """What became of a message: `delivered` says that it was written (or is a duplicate of one that was)."""

    outcome: Literal["delivered", "exists", "missing", "over"]
    record: InstanceRecord | None = None


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
    after: tuple[int, str] | None = None
    limit: int = 100


class Backend(TaskStore, Protocol):
    """Where histories live; each method is one transaction.

    Methods may raise `StorageError`; those that need more say so.
    """

    shared: bool
    """Whether other processes may write to the store, so that its inbox must be watched."""

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

    # -- the client's side ----------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Write messages (and the instances that they make), each or its refusal on its own."""
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

    async def purge(self, instance_ids: Sequence[str]) -> list[str]:
        """Remove all rows of those that are over; their ids."""
        ...
