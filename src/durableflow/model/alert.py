"""Alerts: what an engine says when something needs a person, and what stores hold of it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from durableflow.model.duration import to_datetime

AlertState: TypeAlias = Literal["raised", "repeated", "resolved"]

NOTICES_MAX: Final = 10_000
"""So many notices wait to be delivered; the oldest go when there are more."""


class AlertKind(StrEnum):
    """What is wrong."""

    STALLED = "stalled"
    """An instance will not go on until its cause is gone."""
    OVERDUE = "overdue"
    """Something of an instance has been due for long, and nothing was recorded."""
    NO_PROGRESS = "no_progress"
    """Attempts of an instance run, or wait for a place, and nothing was recorded for long."""
    CIRCUIT_OPEN = "circuit_open"
    """A circuit holds attempts back."""
    LEASE_CHURN = "lease_churn"
    """The lease of the store changes hands too often: workers die, or starve."""
    COMMIT_RETRIES = "commit_retries"
    """The store refuses commits, or does not answer them, again and again."""
    LONG_TURN = "long_turn"
    """A turn blocked the event loop."""
    QUEUE_UNSERVED = "queue_unserved"
    """Something waits in a queue that no worker serves."""


class Severity(StrEnum):
    """How much it matters."""

    WARNING = "warning"
    ERROR = "error"
    """Something does not go on by itself."""


class AlertRecord(msgspec.Struct, frozen=True):
    """An alert that is not resolved, as stores hold it.

    Attributes:
        subject: the instance, circuit, worker or queue that it is about.
        told_us: when it was last raised or repeated.
    """

    kind: AlertKind
    subject: str
    severity: Severity
    since_us: int
    told_us: int
    details: str

    @property
    def key(self) -> tuple[AlertKind, str]:
        """There is one of a kind and a subject at a time."""
        return self.kind, self.subject


class Alert(msgspec.Struct, frozen=True):
    """Something that needs a person, or does not any more.

    Attributes:
        subject: the instance, circuit, worker or queue that it is about.
        since: when it began.
        details: in words.
        state: `"raised"` for the first time, `"repeated"` while it lasts, or `"resolved"`.
        at: when it was last raised or repeated, or was resolved.
    """

    kind: AlertKind
    subject: str
    severity: Severity
    since: datetime
    details: str
    state: AlertState
    at: datetime

    @classmethod
    def of(cls, record: AlertRecord, state: AlertState, at_us: int) -> Alert:
        """With moments instead of microseconds."""
        return cls(
            record.kind,
            record.subject,
            record.severity,
            to_datetime(record.since_us),
            record.details,
            state,
            to_datetime(at_us),
        )


class Notice(NamedTuple):
    """A message about an alert for one sink, kept until it is delivered; `body` is what is sent.

    `attempts` were made without success; the next is not made before `due_us`.
    """

    number: int
    sink: str
    body: bytes
    attempts: int
    due_us: int


class NewNotice(NamedTuple):
    """A notice to be made."""

    sink: str
    body: bytes
    due_us: int


class DelayedNotice(NamedTuple):
    """A notice that was attempted in vain, and when it is tried again."""

    number: int
    attempts: int
    due_us: int


class AlertChanges(msgspec.Struct):
    """What one transaction changes of alerts and their notices.

    Attributes:
        kept: new ones, and new values of those that are there.
        resolved: those that go, by kind and subject.
        settled: numbers of notices that go.
    """

    kept: list[AlertRecord] = []
    resolved: list[tuple[AlertKind, str]] = []
    notices: list[NewNotice] = []
    settled: list[int] = []
    delayed: list[DelayedNotice] = []


class Takeover(NamedTuple):
    """A worker became the one of the store."""

    worker_id: int
    name: str
    at_us: int
