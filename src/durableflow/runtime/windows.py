"""Windows of debounced instances: while one is open, a further start replaces the input of the one before.

The window is in the store, where starts of all processes meet: a start either finds it open and changes it, or opens
the next one, in one transaction. So the moment at which an instance begins is decided there too. When its time
has come the worker closes the window; only what comes of that, and the input that counted last, is told to the
instance. A crash in between finds the window closed, and the input in the inbox.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from durableflow.errors import StorageError
from durableflow.model import events as ev
from durableflow.runtime.inbox import Inbox
from durableflow.runtime.live import Live
from durableflow.runtime.means import Means

_AGAIN_US: Final = 1_000_000


class Windows:
    """Lets debounced instances begin.

    Args:
        arm: has an instance woken when it is next due.
    """

    def __init__(self, means: Means, inbox: Inbox, arm: Callable[[Live], None]) -> None:
        self._means = means
        self._inbox = inbox
        self._arm = arm

    def gate(self, live: Live, due: list[ev.Observation]) -> list[ev.Observation]:
        """What is due, without the beginning of a debounced instance: it is told that when its window is closed."""
        started = live.execution.started
        if not due or type(due[0]) is not ev.InstanceBegan or started is None or not started.debounced:
            return due
        live.execution.postpone(self._means.clock.now_us() + _AGAIN_US)  # by then, when the store cannot answer
        self._means.in_background(self._close(live))
        return due[1:]

    async def _close(self, live: Live) -> None:
        try:
            open_until_us = await self._means.backend.close_window(live.id, self._means.clock.now_us())
            if open_until_us is None:
                await self._inbox.read()  # there is the input that counts
        except StorageError:
            return
        execution = live.execution
        if live.gone or execution.begin_noted or execution.started is None or execution.ended is not None:
            return
        if open_until_us is None:
            execution.postpone(0)
            live.tell(ev.InstanceBegan())
        else:
            execution.postpone(open_until_us)
            self._arm(live)
