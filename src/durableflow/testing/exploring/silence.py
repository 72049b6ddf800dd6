"""What workflows log while thousands of stories are told is heard by nobody; that of the story which is shown is."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_LOGGER: Final = logging.getLogger("durableflow.workflow")
_is_silent: Final[ContextVar[bool]] = ContextVar("durableflow_exploring", default=False)


def _may_be_heard(_: logging.LogRecord) -> bool:
    return not _is_silent.get()  # others may explore in other threads, or run workflows


@contextmanager
def silence() -> Generator[None]:
    """Nobody hears what workflows log here meanwhile."""
    token = _is_silent.set(True)
    _LOGGER.addFilter(_may_be_heard)
    try:
        yield
    finally:
        _is_silent.reset(token)
        if not _is_silent.get():
            _LOGGER.removeFilter(_may_be_heard)
