"""The life cycle of an instance, as a table read by the code, the tests and the docs."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """Where an instance stands."""

    PENDING = "PENDING"
    """Accepted; its code has not begun (a start time in the future, or no worker yet)."""
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    """Nothing is delivered and nothing is lost until it is resumed."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TERMINATED = "TERMINATED"
    CANCELLED = "CANCELLED"
    STALLED = "STALLED"
    """The engine will not go on; nothing is lost, and it goes on by itself once the cause is gone."""

    @property
    def is_terminal(self) -> bool:
        """True when nothing can happen to the instance any more (but purge)."""
        return self in TERMINAL


class Move(StrEnum):
    """What moves an instance along its life cycle."""

    BEGIN = "begin"
    SUSPEND = "suspend"
    RESUME = "resume"
    COMPLETE = "complete"
    FAIL = "fail"
    TERMINATE = "terminate"
    CANCEL = "cancel"
    """The workflow let a cancellation through, or was cancelled before it began."""
    STALL = "stall"
    RECOVER = "recover"
    """The cause of a stall is gone; the history says which status the instance had."""
    REWIND = "rewind"
    """Somebody wants a failed instance to go on from before its failure."""


_P, _R, _S, _X = Status.PENDING, Status.RUNNING, Status.SUSPENDED, Status.STALLED
_ENDS: Final[dict[Move, tuple[Status, ...]]] = {
    Move.FAIL: (Status.FAILED,),
    Move.TERMINATE: (Status.TERMINATED,),
    Move.CANCEL: (Status.CANCELLED,),
}

TRANSITIONS: Final[dict[Status, dict[Move, tuple[Status, ...]]]] = {
    _P: {Move.BEGIN: (_R,), Move.SUSPEND: (_S,), Move.STALL: (_X,), **_ENDS},
    _R: {Move.SUSPEND: (_S,), Move.COMPLETE: (Status.COMPLETED,), Move.STALL: (_X,), **_ENDS},
    _S: {Move.RESUME: (_R, _P), Move.STALL: (_X,), **_ENDS},
    _X: {Move.RECOVER: (_P, _R, _S), **_ENDS},
    Status.COMPLETED: {},
    Status.FAILED: {Move.REWIND: (_R,)},
    Status.TERMINATED: {},
    Status.CANCELLED: {},
}

TERMINAL: Final[frozenset[Status]] = frozenset(
    status for status, row in TRANSITIONS.items() if row.keys() <= {Move.REWIND}
)
"""Nothing moves these by itself."""


def may_become(old: Status, new: Status) -> bool:
    """True when one move of the table leads from `old` to `new`, or they are the same."""
    return old is new or any(new in targets for targets in TRANSITIONS[old].values())
