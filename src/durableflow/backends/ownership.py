"""Who runs which instances: one worker all of a store's, or each of a fleet its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from durableflow.backends.records import Lease, Message

_BOOT_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)

Topic: TypeAlias = Literal["anything", "inbox", "orphans", "ends", "tasks"]
"""What somebody waits for: messages; instances without an owner; instances that are over or stalled; tasks."""


def counted_us() -> int:
    """Microseconds that this machine has counted since it began to: whoever sets its clock changes nothing.

    The time that it sleeps is counted too, where the system can do that.
    """
    if _BOOT_CLOCK is None:
        return time.monotonic_ns() // 1_000
    return time.clock_gettime_ns(_BOOT_CLOCK) // 1_000


class ClaimedInstance(NamedTuple):
    """An instance that a worker has taken over; `has_messages` says that something waits for it in the inbox."""

    id: str
    wake_us: int | None
    has_messages: bool


class MessagePage(NamedTuple):
    """Messages in order; what is numbered up to `settled` was read for good, and nothing below it will ever appear."""

    messages: list[Message]
    settled: int


class Share(NamedTuple):
    """How many active instances a worker owns, and how many it would if each worker of the fleet owned as many."""

    owned: int
    fair: int


class OwnerStore(Protocol):
    """The part of a backend that says whose an instance is; each method is one transaction."""

    is_fleet: bool
    """Whether many workers share the store; each then runs what it owns, and `acquire` always succeeds."""

    clock_skew_us: int | None
    """What to add to `counted_us()` to have the store's clock, by which leases count, as `renew` saw it last; None when
    the clock of the machine counts."""

    async def claim_instances(self, lease: Lease, limit: int) -> list[ClaimedInstance]:
        """Take over active instances that no living worker owns, first those that are due first.

        Workers whose lease is over are declared dead on the way.

        Raises:
            LeaseLost: so was this one; nothing was claimed.
        """
        ...

    async def hand_over(self, lease: Lease, instance_ids: Sequence[str]) -> None:
        """Own these no more: whoever claims them goes on. They must have left memory before."""
        ...

    async def share(self, lease: Lease, *, accepts: bool) -> Share:
        """How much this worker owns; the others learn it, and whether it `accepts` more."""
        ...

    async def owned(self, lease: Lease, limit: int) -> list[str]:
        """Active instances that this worker owns, first those that are due last."""
        ...

    async def owners(self, instance_ids: Sequence[str]) -> dict[str, int]:
        """The living workers that own these instances, or did when they ended; those that have none are left out."""
        ...

    async def read_inbox(self, lease: Lease, after: int, limit: int) -> MessagePage:
        """Messages numbered above `after` for the instances that this worker owns."""
        ...


class SoleOwner:
    """What a backend is whose lease is for all instances of its store: nothing there is anybody else's."""

    is_fleet = False
    clock_skew_us: int | None = None

    async def inbox(self, after: int, limit: int) -> list[Message]:
        """See `Backend.inbox`."""
        raise NotImplementedError

    async def claim_instances(self, lease: Lease, limit: int) -> list[ClaimedInstance]:  # noqa: ARG002  # a sole owner's
        """See `OwnerStore.claim_instances`."""
        return []

    async def hand_over(self, lease: Lease, instance_ids: Sequence[str]) -> None:
        """See `OwnerStore.hand_over`."""

    async def share(self, lease: Lease, *, accepts: bool) -> Share:  # noqa: ARG002  # a sole owner's
        """See `OwnerStore.share`."""
        return Share(0, 0)

    async def owned(self, lease: Lease, limit: int) -> list[str]:  # noqa: ARG002  # a sole owner's
        """See `OwnerStore.owned`; it is not kept, for nobody could take any."""
        return []

    async def owners(self, instance_ids: Sequence[str]) -> dict[str, int]:  # noqa: ARG002  # a sole owner's
        """See `OwnerStore.owners`; it is not kept, for there is nobody else."""
        return {}

    async def read_inbox(self, lease: Lease, after: int, limit: int) -> MessagePage:  # noqa: ARG002  # a sole owner's
        """See `OwnerStore.read_inbox`. Writers take turns, so messages appear in the order of their numbers."""
        messages = await self.inbox(after, limit)
        return MessagePage(messages, messages[-1].number if messages else after)
