"""Who is told of facts."""

from __future__ import annotations

import logging
from typing import Final

from durableflow.observe.facts import Fact, Listener

_LOGGER: Final = logging.getLogger("durableflow.engine")


class Listeners:
    """Tells each of them, on the caller's thread; one that raises is logged and harms nothing."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = list(listeners)

    def add(self, listener: Listener) -> None:
        """Tell this one too, from the next fact on."""
        self._listeners.append(listener)

    def remove(self, listener: Listener) -> None:
        """Tell it no more."""
        self._listeners.remove(listener)

    def tell(self, fact: Fact) -> None:
        """Tell all."""
        for listener in tuple(self._listeners):
            try:
                listener(fact)
            except Exception:
                _LOGGER.exception("a listener failed on %r; the engine goes on", fact)
