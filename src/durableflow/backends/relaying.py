"""Messages between stores: an outbox in the sender's, and what has been delivered in the receiver's.

What every backend promises of them, beside what `backends/base.py` says:

1. What `Commit.outbox` holds is written in the transaction of the commit. Numbers rise; those of one sender in the
   order in which it sent, and none is ever used again.
2. `deliver` writes each row once, however often it is brought, and says each time what became of it the first time. It
   remembers that until it is told to forget it.
3. A row leaves the outbox together with the answer that its sender gets, in one transaction, once.
4. One relay delivers from a source. Whoever takes a relay up makes those before it stale: they deliver and forget
   nothing more. It reads the outbox after that, so that what it does not find there has been settled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from durableflow.backends.records import Outgoing

Outcome: TypeAlias = Literal["delivered", "exists", "missing", "over"]


class OutboxRow(NamedTuple):
    """A message for an instance of another store."""

    number: int
    message: Outgoing


class Settled(NamedTuple):
    """What became of a row of the outbox."""

    number: int
    outcome: Outcome


class RelayHold(NamedTuple):
    """The right to deliver from a source; `delivered` are the numbers that the receiver still remembers."""

    source: str
    epoch: int
    delivered: Sequence[int] = ()


class KeptMap(NamedTuple):
    """Which shard a store is, and the map that it is in, as bytes."""

    shard: str
    map: bytes


class RelayStore(Protocol):
    """The part of a backend that talks to other stores; each method is one transaction."""

    # -- the sender's side ----------------------------------------------------------------------------------

    async def read_outbox(self, after: int, limit: int) -> list[OutboxRow]:
        """Rows numbered above `after`, in order."""
        ...

    async def settle(self, settled: Sequence[Settled]) -> None:
        """Remove rows, each with the answer that its sender gets; of one that is gone, nothing is written."""
        ...

    async def count_relayed(self) -> int:
        """How many rows are in the outbox, or were delivered and are remembered."""
        ...

    async def read_map(self) -> KeptMap | None:
        """What `keep_map` keeps."""
        ...

    async def keep_map(self, kept: KeptMap, before: KeptMap | None) -> KeptMap | None:
        """Keep `kept`, if `before` is what is kept; None for nothing. None: that is what is kept now.

        Returns:
            What is kept instead.
        """
        ...

    # -- the receiver's side --------------------------------------------------------------------------------

    async def take_up_relay(self, source: str) -> RelayHold:
        """Become the one relay from a source."""
        ...

    async def deliver(self, hold: RelayHold, rows: Sequence[OutboxRow]) -> list[Outcome]:
        """Write messages as `send` does, one after the other; what became of each, now or when it first came.

        Of a row that brings histories, those are written whose instance is still as their client has seen it.

        Raises:
            LeaseLost: another relay was taken up for the source; nothing was written.
        """
        ...

    async def forget_delivered(self, hold: RelayHold, numbers: Sequence[int]) -> None:
        """Forget rows that are in the outbox no more.

        Raises:
            LeaseLost: as `deliver` does.
        """
        ...


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Outgoing)


def dump_message(message: Outgoing) -> bytes:
    """A message as bytes."""
    return _encoder.encode(message._replace(answers=dict(message.answers)))


def load_message(data: bytes) -> Outgoing:
    """The message again."""
    return _decoder.decode(data)


def answer_of(message: Outgoing, outcome: Outcome) -> bytes | None:
    """What its sender is told, if it wants to know."""
    answers: Mapping[str, bytes] = message.answers
    return answers.get(outcome)


__all__ = [
    "KeptMap",
    "OutboxRow",
    "Outcome",
    "RelayHold",
    "RelayStore",
    "Settled",
    "answer_of",
    "dump_message",
    "load_message",
]
