"""Which instance's code is running here now."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from durableflow.core.execution import Execution

current_execution: Final[ContextVar[Execution | None]] = ContextVar("durableflow_execution", default=None)
"""The instance whose code is running here now, if any."""
