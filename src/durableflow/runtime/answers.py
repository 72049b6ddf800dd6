"""Who waits for the answer to a request."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from durableflow.errors import InstanceNotActive
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.runtime.live import reject

UNANSWERED: Final = "a request any more: it ended before it had answered"

Answer = asyncio.Future[ev.RequestAnswered]


class Answers:
    """Gives answers that are durable to those who wait for them in this process."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, dict[str, list[Answer]]] = {}

    def answer(self, instance_id: str, request_id: str) -> Answer:
        """Done when the request has its answer; fails with `InstanceNotActive` when the instance ends without."""
        future: Answer = self._loop.create_future()
        self._waiting.setdefault(instance_id, {}).setdefault(request_id, []).append(future)
        return future

    def stop_waiting(self, instance_id: str, request_id: str, future: Answer) -> None:
        """Nobody waits for this answer any more."""
        waiting = self._waiting.get(instance_id, {})
        with suppress(KeyError, ValueError):
            waiting[request_id].remove(future)
            if not waiting[request_id]:
                del waiting[request_id]
            if not waiting:
                del self._waiting[instance_id]

    def tell(self, instance_id: str, event: ev.RequestAnswered) -> None:
        """An answer is durable."""
        waiting = self._waiting.get(instance_id)
        for future in waiting.pop(event.request_id, ()) if waiting else ():
            if not future.done():
                future.set_result(event)

    def tell_end(self, instance_id: str, status: Status) -> None:
        """No more answers come from this instance."""
        if instance_id not in self._waiting:
            return
        for futures in self._waiting.pop(instance_id).values():
            for future in futures:
                reject(future, InstanceNotActive(instance_id, status, UNANSWERED))

    def fail_all(self, error: Exception) -> None:
        """Whoever waits gets `error`."""
        for waiting in self._waiting.values():
            for futures in waiting.values():
                for future in futures:
                    reject(future, error)
        self._waiting.clear()
