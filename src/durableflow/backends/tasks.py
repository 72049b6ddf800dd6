"""Tasks: attempts of activities, and starts of instances, that wait in a store for whoever takes them.

What every backend promises of them, beside what `backends/base.py` says:

1. A task hangs on its instance. It is written in the commit of the turn that asks for it, and goes with the
   commit that ends the instance or no longer wants it.
2. Who has claimed a task says so in its row, before any code of the user's runs for it. A task is claimed by one
   server at a time; a server whose lease is over, or whose process is known to be dead, can finish nothing more.
3. What became of a claimed attempt, and the message that tells its instance, are written in one transaction.
4. Among the tasks of a queue that wait: the highest priority first; among those of one priority the keys of
   fairness take turns (start-time fair queuing: `vtime` of a task is one more than that of the last of its key, and
   never less than that of the task claimed last); then first in, first out.

Neither side looks into a payload, an option or a message: they are bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from durableflow.backends.base import Lease

WAITING: Final = 0
"""May be claimed."""
DELAYED: Final = 1
"""May be claimed from `not_before_us` on."""
CLAIMED: Final = 2
"""An attempt runs in the server that `claimed_by` names; or the instance, admitted, goes on."""
HANDED_OVER: Final = 3
"""Whoever holds its token says what comes of it."""

ADMITTED: Final = -1
"""`claimed_by` of the start of an instance that was admitted: it keeps its place until the instance is over."""
START: Final = 0
"""The task number of the start of an instance; activities count from 1."""
ALL_TASKS: Final = -1
"""Stands in `Commit.tasks_dropped` for all tasks of an instance."""


class NewTask(NamedTuple):
    """A task to be written: an activity's first attempt, or (task `START`) the start of an instance."""

    instance_id: str
    task: int
    queue: str
    name: str
    input: bytes
    options: bytes
    priority: int
    fairness_key: str
    not_before_us: int
    expires_us: int | None
    scheduled_at_us: int


class StoredTask(NamedTuple):
    """A task as it is in the store; `number` is its own for ever, and never used again.

    Attributes:
        queue: empty for an activity without one whose attempt was handed over.
        options: as bytes; see `events.ActivityOptions`.
        expires_us: the moment from which it is overdue, or None; of one that is claimed, from which it will be if it is
            given back.
        claimed_by: the server that has claimed it, `ADMITTED`, or 0.
        started_us: when it was last claimed, or handed over.
        token_digest: of the token that may finish it, or None.
        is_suspect: its attempts may be what kills their processes: one at a time in a server.
    """

    number: int
    instance_id: str
    task: int
    attempt: int
    queue: str
    name: str
    input: bytes
    options: bytes
    priority: int
    fairness_key: str
    state: int
    not_before_us: int
    expires_us: int | None
    claimed_by: int
    started_us: int
    token_digest: bytes | None
    details: bytes | None
    scheduled_at_us: int
    uncounted: int
    losses: int
    is_suspect: bool


class ClaimRequest(NamedTuple):
    """What a server has room for.

    Attributes:
        names: the activities that it knows.
        rooms: how many tasks it takes of each queue.
        other_room: how many of each queue that is not in `rooms`.
        takes_suspect: whether it has none yet.
        admission: the message that lets an admitted instance begin; None when this server admits none.
    """

    server_id: int
    names: Collection[str]
    rooms: Mapping[str, int]
    other_room: int
    takes_suspect: bool
    admission: bytes | None


class Claims(NamedTuple):
    """What was claimed, how many instances were admitted, and when a rate limit has room again for more."""

    tasks: list[StoredTask]
    admitted: int
    next_us: int | None


class Outlook(NamedTuple):
    """What there is to do.

    Attributes:
        is_claimable: `claim` would take something, or find that the time of a delayed task has come.
        is_overdue: `overdue_tasks` has something to find, or a dead server to bury.
        next_us: when either may next be so by itself.
        unreadable: queues whose limits cannot be read, from which nothing is claimed.
    """

    is_claimable: bool
    is_overdue: bool
    next_us: int | None
    unreadable: Sequence[str] = ()


class NextAttempt(NamedTuple):
    """The new values of a task that goes on: another attempt, or (state `HANDED_OVER`) the same one elsewhere.

    `details` None leaves those that are there, which a token's heartbeat may have brought.
    """

    state: int
    attempt: int
    not_before_us: int
    expires_us: int | None
    details: bytes | None
    uncounted: int
    losses: int
    is_suspect: bool


class TaskEnd(NamedTuple):
    """What became of an attempt; written only if the task is still as it was seen.

    Attributes:
        seen: its number, attempt, state and who had claimed it.
        message: for its instance.
        following: None when nothing follows, and the task goes.
    """

    seen: tuple[int, int, int, int]
    message: bytes
    following: NextAttempt | None


class TaskBeat(NamedTuple):
    """The latest details of an attempt; `expires_us` None leaves that as it is."""

    number: int
    attempt: int
    details: bytes
    expires_us: int | None = None


class Offer(NamedTuple):
    """An attempt whose result may be brought by whoever holds the token of this digest."""

    instance_id: str
    task: int
    attempt: int
    name: str
    options: bytes
    scheduled_at_us: int
    uncounted: int
    started_us: int
    expires_us: int | None
    token_digest: bytes


class QueueLimits(msgspec.Struct, frozen=True):
    """What bounds a queue over all servers.

    Attributes:
        concurrency: how many of its tasks are claimed at once; None for no limit.
        rate_count, rate_period_us: so many are claimed in a period, on average; 0 for no limit.
        rate_burst: so many at once at most.
    """

    concurrency: int | None = None
    rate_count: int = 0
    rate_period_us: int = 0
    rate_burst: int = 0


UNREADABLE: Final = QueueLimits(concurrency=0)
"""Of a queue whose limits cannot be read: nobody can set them so."""


class QueueRecord(NamedTuple):
    """A queue, and how many of its tasks are in which state.

    Attributes:
        is_paused: nothing is claimed.
        oldest_us: since when one is waiting.
    """

    name: str
    limits: QueueLimits
    is_paused: bool
    waiting: int
    delayed: int
    claimed: int
    handed_over: int
    oldest_us: int | None


# -- the rate limit: a bucket of tokens, kept as the moment at which it will be full again ----------------------------


def rate_room(limits: QueueLimits, full_us: int, now_us: int) -> int:
    """How many may be claimed now.

    Source: the "virtual scheduling" form of the generic cell rate algorithm, ITU-T I.371.
    """
    missing = -(-max(0, full_us - now_us) * limits.rate_count // limits.rate_period_us)
    return max(0, limits.rate_burst - missing)


def rate_full_us(limits: QueueLimits, full_us: int, now_us: int, claimed: int) -> int:
    """The moment at which the bucket is full again, after `claimed` were taken out."""
    return max(full_us, now_us) - (-claimed * limits.rate_period_us // limits.rate_count)


def rate_next_us(limits: QueueLimits, full_us: int) -> int:
    """The moment from which one more may be claimed."""
    return full_us - (limits.rate_burst - 1) * limits.rate_period_us // limits.rate_count


class TaskStore(Protocol):
    """The part of a backend that keeps tasks; each method is one transaction."""

    # -- the side of those who serve ------------------------------------------------------------------------

    async def enlist_server(self, name: str, ttl_us: int, now_us: int) -> int:
        """Become a server of this store; its number."""
        ...

    async def renew_server(self, server_id: int, ttl_us: int, now_us: int) -> list[tuple[int, int]]:
        """Push the expiry on; number and attempt of each task that the server has claimed.

        Raises:
            LeaseLost: the server was declared dead, and its claims with it.
        """
        ...

    async def retire_server(self, server_id: int, ends: Sequence[TaskEnd]) -> None:
        """Be one no more.

        Args:
            ends: what became of attempts that had begun, as `finish_tasks` takes it. What else the server has claimed
                was not begun, and waits again, as if it had never been claimed.

        Raises:
            LeaseLost: the server was declared dead; nothing was written.
        """
        ...

    async def look_at_tasks(self, request: ClaimRequest, now_us: int) -> Outlook:
        """What there is to do; it reads only."""
        ...

    async def claim(self, request: ClaimRequest, now_us: int) -> Claims:
        """Claim what there is room for, within the limits of the queues, and admit instances.

        Raises:
            LeaseLost: the server was declared dead; nothing was claimed.
        """
        ...

    async def claimed_tasks(self, server_id: int) -> list[StoredTask]:
        """All that a server has claimed."""
        ...

    async def overdue_tasks(self, server_id: int, now_us: int, limit: int) -> list[StoredTask]:
        """Tasks whose time is over, and the claims of dead servers, which can finish nothing from now on."""
        ...

    async def finish_tasks(self, ends: Sequence[TaskEnd], server_id: int | None) -> list[bool]:
        """Write what became of attempts; for each, whether it still counted.

        Raises:
            LeaseLost: the server that writes was declared dead; nothing was written.
        """
        ...

    async def beat_tasks(self, beats: Sequence[TaskBeat]) -> list[bool]:
        """Keep the latest details of attempts; for each, whether it is still wanted."""
        ...

    # -- tokens ---------------------------------------------------------------------------------------------

    async def offer_task(self, lease: Lease, offer: Offer) -> bool:
        """Let a token finish an attempt that runs in the owning worker.

        It takes the place of an earlier attempt's. False when its instance is over or gone, or a later attempt has been
        offered: calls of one worker may overtake each other.

        Raises:
            LeaseLost: the worker was declared dead; nothing was written.
        """
        ...

    async def offer_claimed(self, number: int, attempt: int, server_id: int, token_digest: bytes) -> bool:
        """The same for one that was claimed; False when it is so no more."""
        ...

    async def offered_tasks(self) -> list[tuple[str, int]]:
        """Instance and number of all tasks without a queue."""
        ...

    async def task(self, instance_id: str, task: int) -> StoredTask | None:
        """One task, if it is there."""
        ...

    # -- queues ---------------------------------------------------------------------------------------------

    async def queues(self, name: str | None = None) -> list[QueueRecord]:
        """All queues that were ever used or given limits, by name; or that one."""
        ...

    async def limit_queue(self, name: str, limits: QueueLimits) -> None:
        """Set what bounds a queue, paused or not; the bucket of a rate limit that changes is full."""
        ...

    async def pause_queue(self, name: str, *, is_paused: bool) -> None:
        """Have nothing claimed from a queue, or again, within its limits."""
        ...
