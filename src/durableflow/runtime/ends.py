"""Who waits for the end of an instance, or for its status to change, and how the latest ones ended."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from durableflow.errors import InstanceStalled, ReplayError
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.runtime.live import reject

_RECENT_ENDS: Final = 4_096
_RECENT_BYTES: Final = 4_096


class End(NamedTuple):
    """How an instance ended."""

    status: Status
    event: ev.Event


class Ends:
    """Tells ends and changes of status to those who wait for them.

    Attributes:
        replay_errors: what the replay check found, by instance; whoever asks for the end gets it.
        on_end: called, if set, with each instance that is over, durably.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, list[asyncio.Future[End]]] = {}
        self._watchers: dict[str, list[asyncio.Future[None]]] = {}
        self._recent: OrderedDict[str, End] = OrderedDict()
        self.replay_errors: dict[str, ReplayError] = {}
        self.on_end: Callable[[str], object] | None = None

    # -- asking ---------------------------------------------------------------------------------------------

    def end(self, instance_id: str) -> asyncio.Future[End]:
        """Done when the instance ends; fails with `InstanceStalled` when it stalls."""
        future: asyncio.Future[End] = self._loop.create_future()
        recent = self._recent.get(instance_id)
        if self.replay_errors and instance_id in self.replay_errors:
            reject(future, self.replay_errors[instance_id])
        elif recent is not None:
            future.set_result(recent)
        else:
            waiting = self._waiting.get(instance_id)
            if waiting is None:
                self._waiting[instance_id] = [future]
            else:
                waiting.append(future)
        return future

    def stop_waiting(self, instance_id: str, future: asyncio.Future[End]) -> None:
        """Nobody waits for this answer of `end` any more."""
        waiting = self._waiting.get(instance_id)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[instance_id]

    def knows(self, instance_id: str) -> bool:
        """True when the answer of `end` is there already."""
        return instance_id in self._recent or instance_id in self.replay_errors

    def is_awaited(self, instance_id: str) -> bool:
        """True when somebody waits for its end."""
        return instance_id in self._waiting

    def status_change(self, instance_id: str) -> asyncio.Future[None]:
        """Done when the status of the instance next changes."""
        future: asyncio.Future[None] = self._loop.create_future()
        watchers = self._watchers.setdefault(instance_id, [])
        watchers.append(future)

        def forget(_: object) -> None:
            if future in watchers:
                watchers.remove(future)
                if not watchers and self._watchers.get(instance_id) is watchers:
                    del self._watchers[instance_id]

        future.add_done_callback(forget)
        return future

    # -- telling --------------------------------------------------------------------------------------------

    def tell_end(self, instance_id: str, end: End) -> None:
        """It is over, durably."""
        if self.on_end is not None:
            self.on_end(instance_id)
        for future in self._waiting.pop(instance_id, ()):
            if not future.done():
                future.set_result(end)
        if not isinstance(end.event, ev.InstanceCompleted) or len(end.event.output) <= _RECENT_BYTES:
            self._recent[instance_id] = end
            if len(self._recent) > _RECENT_ENDS:
                self._recent.popitem(last=False)

    def tell_status(self, instance_id: str) -> None:
        """Its status is another one, durably."""
        for future in self._watchers.pop(instance_id, ()):
            if not future.done():
                future.set_result(None)

    def tell_stalled(self, instance_id: str, reason: str) -> None:
        """It will not go on until somebody acts."""
        self.fail(instance_id, InstanceStalled(instance_id, reason))
        self.tell_status(instance_id)

    def tell_replay_error(self, instance_id: str, error: ReplayError) -> None:
        """The replay check found a difference."""
        self.replay_errors[instance_id] = error
        self.fail(instance_id, error)

    def fail(self, instance_id: str, error: Exception) -> None:
        """Whoever waits for its end gets `error`."""
        for future in self._waiting.pop(instance_id, ()):
            reject(future, error)

    def fail_all(self, error: Exception) -> None:
        """Whoever waits for anything gets `error`."""
        for future in [future for waiting in self._waiting.values() for future in waiting]:
            reject(future, error)
        for change in [change for watchers in self._watchers.values() for change in watchers]:
            reject(change, error)
        self._waiting.clear()
        self._watchers.clear()

    def forget_recent(self, instance_id: str) -> None:
        """Another process may have replaced the one that ended."""
        self._recent.pop(instance_id, None)

    def forget(self, instance_ids: Iterable[str]) -> None:
        """These are purged, or replaced."""
        for instance_id in instance_ids:
            self._recent.pop(instance_id, None)
            self.replay_errors.pop(instance_id, None)
