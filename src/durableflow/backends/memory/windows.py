"""Windows of debounced starts in memory."""

from __future__ import annotations

from bisect import insort
from typing import NamedTuple

import msgspec

from durableflow.backends.base import DebouncedStart
from durableflow.backends.memory.rows import Instance, Rows
from durableflow.errors import InstancesExist
from durableflow.model.status import Status


class Window(NamedTuple):
    """An open window of debounced starts."""

    instance: str
    changed: bytes
    start_at_us: int
    until_us: int | None


class MemoryWindows(Rows):
    """The part of `MemoryBackend` that keeps windows."""

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[tuple[str, int, str], Window] = {}

    async def debounce(self, start: DebouncedStart) -> str:
        """See `Backend.debounce`."""
        self._check_seal()
        key = (start.new.workflow, start.new.version, start.key)
        window = self._windows.get(key)
        known = None if window is None else self._instances.get(window.instance)
        if window is not None and known is not None and not known.record.status.is_terminal:
            until_us = window.until_us
            start_at_us = start.start_at_us if until_us is None else min(start.start_at_us, until_us)
            self._windows[key] = window._replace(changed=start.changed, start_at_us=start_at_us)
            if known.record.status is Status.PENDING and known.record.wake_us:
                self._wake_instead_at(known, start_at_us)
            return window.instance
        if not self._may_insert(start.new):
            raise InstancesExist({start.new.id})
        self._insert(start.new)
        self._windows[key] = Window(start.new.id, start.changed, start.start_at_us, start.until_us)
        self._put(start.new.id, start.started, None)
        self._notify()
        return start.new.id

    def _wake_instead_at(self, instance: Instance, wake_us: int) -> None:
        record = instance.record
        self._drop_wake(record)
        instance.record = msgspec.structs.replace(record, wake_us=wake_us)
        insort(self._wakes, (wake_us, record.id))

    async def close_window(self, instance_id: str, now_us: int) -> int | None:
        """See `Backend.close_window`."""
        self._check_seal()
        for key, window in self._windows.items():
            if window.instance == instance_id:
                if window.start_at_us > now_us:
                    return window.start_at_us
                del self._windows[key]
                if not self._instances[instance_id].record.status.is_terminal:
                    self._put(instance_id, window.changed, None)
                break
        return None

    def _remove(self, instance_id: str) -> None:
        super()._remove(instance_id)
        if self._windows:
            self._windows = {key: each for key, each in self._windows.items() if each.instance != instance_id}
