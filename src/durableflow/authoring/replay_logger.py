"""The logger of a workflow, which says each line once."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, Final

from durableflow.core.execution import Execution

_LOGGER: Final = logging.getLogger("durableflow.workflow")


class ReplaySilentLogger(logging.LoggerAdapter[logging.Logger]):
    """Says nothing in replay, so that each line is written once."""

    def __init__(self, execution: Execution) -> None:
        super().__init__(_LOGGER, {"instance_id": execution.instance_id, "workflow": execution.program.name})
        self._execution = execution

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # the name that logging calls
        """False in replay."""
        return not (self._execution.replaying or self._execution.inert) and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Put the instance id before the message and into the record."""
        message, kwargs = super().process(msg, kwargs)
        return f"[{self._execution.instance_id}] {message}", kwargs
