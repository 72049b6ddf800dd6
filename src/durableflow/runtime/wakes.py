"""When instances that are not in memory are to be brought in.

The moments are in the store. Those before a horizon have an alarm here; the store is looked
into again in time for those behind it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from durableflow.runtime.alarms import Alarm
from durableflow.runtime.instances import Instances
from durableflow.runtime.live import Live
from durableflow.runtime.means import Means

_HORIZON_US: Final = 60_000_000
_PAGE: Final = 1_000
_LAST_ID: Final = "\U0010ffff" * 501
_NO_WAKE: Final = (-1, "")


class Wakes:
    """Wakes instances at their moments.

    Attributes:
        recovering: the store has not been looked through yet.
    """

    def __init__(self, means: Means, instances: Instances) -> None:
        self._means = means
        self._instances = instances
        self._sleepers: dict[str, Alarm] = {}
        self._scanned_until_us = 0
        self._next_scan_us: int | None = None
        self.recovering = True
        self._under_way: set[str] = set()

    async def recover(self) -> None:
        """Load what was going on when the worker before ended; then look for what falls due."""
        self._scanned_until_us = self._means.clock.now_us() + _HORIZON_US
        await self._wake_found(_NO_WAKE, self._scanned_until_us)
        await self._plan_scan()
        self.recovering = False

    def was_under_way(self, instance_id: str) -> bool:
        """True, once, for one that was under way when the worker before ended."""
        if instance_id not in self._under_way:
            return False
        self._under_way.discard(instance_id)
        return True

    async def retry_stalled(self) -> None:
        """Try those again whose cause may be gone: a stalled instance's moment is 0."""
        await self._wake_found(_NO_WAKE, 1)

    async def _wake_found(self, after: tuple[int, str], until_us: int) -> None:
        while True:
            found = await self._means.patiently(
                partial(self._means.backend.due, after, until_us, _PAGE, self._means.lease)
            )
            for wake_us, instance_id in found:
                if self.recovering and wake_us == 0:
                    self._under_way.add(instance_id)
                self._wake_at(wake_us, instance_id)
            if len(found) < _PAGE:
                return
            after = found[-1]
            await asyncio.sleep(0)

    def park(self, live: Live) -> None:
        """It has been evicted: wake it when its next timer is due."""
        if live.wake_us is not None:
            if live.wake_us < self._scanned_until_us:
                self._wake_at(live.wake_us, live.id)
            else:
                self._scan_before(live.wake_us)

    def take_over(self, wake_us: int | None, instance_id: str) -> None:
        """It was another worker's: go on with it now, or at its moment."""
        if wake_us == 0:
            self._under_way.add(instance_id)
        if wake_us is not None:
            if wake_us < self._scanned_until_us:
                self._wake_at(wake_us, instance_id)
            else:
                self._scan_before(wake_us)

    def forget(self, instance_id: str) -> None:
        """It is in memory and has alarms of its own."""
        sleeper = self._sleepers.pop(instance_id, None)
        if sleeper is not None:
            sleeper.cancel()

    def _wake_at(self, wake_us: int, instance_id: str) -> None:
        if wake_us <= self._means.clock.now_us():
            self._instances.wake(instance_id)
        else:
            self.forget(instance_id)
            self._sleepers[instance_id] = self._means.alarms.at(wake_us, partial(self._ring, instance_id))

    def _ring(self, instance_id: str) -> None:
        self._sleepers.pop(instance_id, None)
        self._instances.wake(instance_id)

    # -- behind the horizon ---------------------------------------------------------------------------------

    async def _plan_scan(self) -> None:
        next_us = await self._means.patiently(
            partial(self._means.backend.next_wake, self._scanned_until_us, self._means.lease)
        )
        if next_us is not None:
            self._scan_before(next_us)

    def _scan_before(self, wake_us: int) -> None:
        """Look into the store in time for something that is due at `wake_us`, behind the horizon."""
        scan_us = max(wake_us - _HORIZON_US // 2, self._means.clock.now_us())
        if self._next_scan_us is None or scan_us < self._next_scan_us:
            self._next_scan_us = scan_us
            self._means.alarms.at(scan_us, self._begin_scan)

    def _begin_scan(self) -> None:
        if self._next_scan_us is not None and self._next_scan_us <= self._means.clock.now_us():
            self._next_scan_us = None
            self._means.in_background(self._scan())

    async def _scan(self) -> None:
        after = (self._scanned_until_us - 1, _LAST_ID)
        self._scanned_until_us = self._means.clock.now_us() + _HORIZON_US
        await self._wake_found(after, self._scanned_until_us)
        await self._plan_scan()
