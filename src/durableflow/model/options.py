"""What a call was asked to obey, as histories hold it; the rules of `events.py` hold here, too."""

from __future__ import annotations

from typing import Final

import msgspec

from durableflow.model.retry import StoredRetry

COMPENSATION: Final = "compensation"
"""Role of an activity that a saga called to undo something."""


class ActivityOptions(msgspec.Struct, frozen=True, array_like=True):
    """What an activity call was asked to obey; times in microseconds, 0 for none.

    With a `queue`, any worker that serves it takes the attempts; `priority` and `fairness_key` say when.
    `role` is for those who look: what the call is for, when that is something particular.
    """

    retry: StoredRetry | None = None
    schedule_to_start_us: int = 0
    start_to_close_us: int = 0
    schedule_to_close_us: int = 0
    heartbeat_us: int = 0
    queue: str = ""
    priority: int = 0
    fairness_key: str = ""
    role: str = ""


class ChildOptions(msgspec.Struct, frozen=True, array_like=True):
    """How a child is started, and what becomes of it when its parent ends; times in microseconds, 0 for none.

    Attributes:
        parent_close: `"terminate"`, `"cancel"` or `"abandon"`.
        replace: whether one of the same id that is over goes first.
    """

    parent_close: str = "terminate"
    timeout_us: int = 0
    start_delay_us: int = 0
    tags: dict[str, str] = {}
    replace: bool = False
