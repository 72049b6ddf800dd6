"""Histories that no worker writes: of copies, of instances that go on, of instances from another store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from durableflow.backends.records import Heartbeat, HistoryRow, InstanceRecord, NewInstance, Outgoing


class Rewrite(NamedTuple):
    """A history that a client writes, not a worker: of an instance that is made, or of one that is over and goes on.

    Attributes:
        instance: its row; of one that is over, what the row becomes.
        rows: added to its history.
        messages: written after that; they make the worker look at it.
        after_seq: `first_seq` of the last row that the client knows of; 0 when the instance is to be made.
        outbox: what it sends to instances of other stores; see `relaying`.
    """

    instance: NewInstance
    rows: Sequence[HistoryRow]
    messages: Sequence[Outgoing]
    after_seq: int = 0
    outbox: Sequence[Outgoing] = ()


class Arrival(NamedTuple):
    """An instance from another store: its row as it was there, and what hangs on it."""

    record: InstanceRecord
    rows: Sequence[HistoryRow]
    messages: Sequence[Outgoing]
    heartbeats: Sequence[Heartbeat]


class TransferStore(Protocol):
    """The part of a backend that takes histories from clients; each method is one transaction."""

    async def rewrite(self, rewrites: Sequence[Rewrite]) -> None:
        """Write all of these, or none; the dead letters of instances that go on are gone.

        Raises:
            InstancesExist: ids of those that are to be made are taken; nothing was written.
            AppendConflict: one is not there, not over, or its last row is another; nothing was written.
        """
        ...

    async def take_in(self, arrivals: Sequence[Arrival]) -> set[str]:
        """Write instances from elsewhere, each whole; the ids that are taken, of which nothing was written."""
        ...


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=dict)  # answers of a message may be a view of a dictionary
_decoder: Final = msgspec.msgpack.Decoder(list[Rewrite])


def dump_rewrites(rewrites: Sequence[Rewrite]) -> bytes:
    """Histories on their way to another store, as bytes."""
    return _encoder.encode(list(rewrites))


def load_rewrites(data: bytes) -> list[Rewrite]:
    """The histories again."""
    return _decoder.decode(data)
