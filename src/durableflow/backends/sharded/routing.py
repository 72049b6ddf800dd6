"""Which shard an instance is in: its id has a slot for ever, and a map says whose the slots are.

With a map between, a shard that is added takes whole slots, as few as its share asks for, and the slots of all other
instances stay where they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

import msgspec

from durableflow.backends.base import Commit, Outgoing
from durableflow.errors import UsageError

SLOTS: Final = 4_096
"""Never another number: it is in the place of every instance."""
_MARKS: Final = ("/trigger", "/debounced")
_SLOT_IN_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


def placed_by(instance_id: str) -> str:
    """The part of an id that says where its instance is: all of it, but for one that something else made.

    An instance of a schedule is where the schedule is, which makes it in a transaction of its own; so is a debounced
    one, where all starts of its key meet.
    """
    made_by, _, last = instance_id.rpartition("/")
    for mark in _MARKS:
        if made_by.endswith(mark) and made_by != mark:
            return made_by[: -len(mark)]
    return made_by if made_by and _SLOT_IN_TIME.fullmatch(last) else instance_id


def slot_of(instance_id: str) -> int:
    """The slot of an id, the same for ever, on every machine."""
    return slot_of_place(placed_by(instance_id))


def slot_of_place(place: str) -> int:
    """The slot of what `placed_by` gives, and of the id of a schedule."""
    return int.from_bytes(blake2b(place.encode(), digest_size=8).digest()) % SLOTS


class ShardMap(msgspec.Struct, frozen=True):
    """Whose each slot is.

    Attributes:
        shards: names, in the order in which they were added. The first is the home of what belongs to no instance, and
            to no schedule: circuits.
        owners: for each slot, the place of its shard in `shards`.
        version: one more with each change.
    """

    shards: tuple[str, ...]
    owners: tuple[int, ...]
    version: int = 1

    def __post_init__(self) -> None:
        if not self.shards or len(set(self.shards)) != len(self.shards):
            raise UsageError(f"shards must have names, each another one, not {self.shards!r}")
        if len(self.owners) != SLOTS or not all(0 <= owner < len(self.shards) for owner in self.owners):
            raise UsageError(f"a map has {SLOTS} slots, each of one of its shards")

    @classmethod
    def over(cls, shards: Sequence[str]) -> ShardMap:
        """The map of shards that are all new."""
        return cls(tuple(shards), tuple(slot % len(shards) for slot in range(SLOTS)) if shards else ())

    @property
    def home(self) -> str:
        """The shard of what belongs to no instance."""
        return self.shards[0]

    def shard_of(self, instance_id: str) -> str:
        """The shard of an instance, whether it is there or not."""
        return self.shards[self.owners[slot_of(instance_id)]]

    def shard_of_schedule(self, schedule_id: str) -> str:
        """The shard of a schedule, and of the instances that it starts."""
        return self.shards[self.owners[slot_of_place(schedule_id)]]

    def with_shard(self, name: str) -> ShardMap:
        """The map with one more shard, which takes its share of slots from those that have most."""
        counts = Counter(self.owners)
        owners = list(self.owners)
        new = len(self.shards)
        for _ in range(SLOTS // (new + 1)):
            giver = max(range(new), key=lambda shard: (counts[shard], -shard))
            owners[owners.index(giver)] = new
            counts[giver] -= 1
        return ShardMap((*self.shards, name), tuple(owners), self.version + 1)

    def moved_slots(self, later: ShardMap) -> Mapping[int, tuple[str, str]]:
        """The slots that another shard has in a later map: from which, to which."""
        return {
            slot: (self.shards[before], later.shards[after])
            for slot, (before, after) in enumerate(zip(self.owners, later.owners, strict=True))
            if self.shards[before] != later.shards[after]
        }


def parted(
    messages: Iterable[Outgoing], is_here: Callable[[str], bool]
) -> tuple[Sequence[Outgoing], Sequence[Outgoing]]:
    """Messages to instances of a shard, and to those of others, each in their order."""
    here: list[Outgoing] = []
    elsewhere: list[Outgoing] = []
    for message in messages:
        (here if is_here(message.instance_id) else elsewhere).append(message)
    return here, elsewhere


def with_outbox(commit: Commit, is_here: Callable[[str], bool]) -> Commit:
    """A commit whose messages to instances of other shards go into the outbox."""
    sends, remote = parted(commit.sends, is_here)
    if not remote:
        return commit
    return msgspec.structs.replace(commit, sends=list(sends), outbox=[*commit.outbox, *remote])
