"""What is kept of an instance and what is on its way to it: the words that all parts of a backend share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from durableflow.backends.tasks import NewTask
from durableflow.model.status import Status


class Lease(NamedTuple):
    """Proof that a worker owns instances of the store; `worker_id` is the fence of its commits.

    `is_first`: of the workers of a fleet, the one that does what only one should: schedules, alerts. Two may believe so
    for a moment, so the store guards what must not happen twice.
    """

    worker_id: int
    expires_us: int
    is_first: bool = True


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


class Heartbeat(NamedTuple):
    """The latest details of an attempt; gone with the commit in which its instance is over."""

    instance_id: str
    task: int
    attempt: int
    details: bytes


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


class Message(NamedTuple):
    """Something for an instance which no turn has taken yet; `data` is an event as bytes."""

    number: int
    instance_id: str
    data: bytes


class Outgoing(NamedTuple):
    """A message from a client or an instance: to make an instance (`new` is set) or for an instance that exists.

    `event_id` makes a message of the same id to the same instance a duplicate while it waits. Of what an instance
    sends, `answers` says by outcome what is put into the inbox of the `sender` in the same transaction.

    `rewrites`, in an outbox, are histories of instances that were over and go on in the other store, as
    `transfers.dump_rewrites` makes them; then nothing else is sent.
    """

    instance_id: str
    data: bytes
    new: NewInstance | None = None
    event_id: str | None = None
    sender: str = ""
    answers: Mapping[str, bytes] = MappingProxyType({})
    rewrites: bytes = b""


Outcome: TypeAlias = Literal["delivered", "exists", "missing", "over"]
"""What becomes of a message."""


class SendResult(msgspec.Struct, frozen=True):
    """What became of a message: `delivered` says that it was written (or is a duplicate of one that was)."""

    outcome: Outcome
    record: InstanceRecord | None = None
