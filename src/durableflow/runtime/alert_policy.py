"""When an engine raises an alert, and how often it says so."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from durableflow.model.duration import to_us


class AlertPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine that leads looks for, and says; durations are seconds or timedeltas.

    Attributes:
        interval: how often it looks.
        repeat: after so long an alert that lasts is told again.
        overdue: an instance is late when something of it was due so long ago and nothing was recorded.
        no_progress: an instance is stuck when its attempts have run, or waited for a place, for so long and nothing
            was recorded, not even a heartbeat.
        takeovers: so many changes of the worker within `window` are too many.
        commit_retries: so many commits that the store refused within `window` are too many.
        window: how far it looks back, for takeovers, refused commits and turns that blocked.
        queue_unserved: something waits in a queue without a worker for so long.
        most: so many alerts of one kind at a time; those that began first.
    """

    interval: timedelta | float = 30.0
    repeat: timedelta | float = 3600.0
    overdue: timedelta | float = 60.0
    no_progress: timedelta | float = 3600.0
    takeovers: int = 5
    commit_retries: int = 5
    window: timedelta | float = 600.0
    queue_unserved: timedelta | float = 60.0
    most: int = 100

    def __post_init__(self) -> None:
        for name in ("interval", "repeat", "overdue", "no_progress", "window", "queue_unserved"):
            if to_us(getattr(self, name), name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be above 0")
        for name in ("takeovers", "commit_retries", "most"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be at least 1")


def in_us(policy: AlertPolicy, name: str) -> int:
    """A duration of `policy`, in microseconds."""
    return to_us(getattr(policy, name), name)
