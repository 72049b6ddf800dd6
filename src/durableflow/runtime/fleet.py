"""A worker of a fleet: takes over what nobody owns, and gives away what is more than its share.

An instance is given away like this: it has left memory, nobody can load it here until the store has written that it has
no owner, and from then on a load finds that it is not ours. So no two workers run it, whatever happens in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from durableflow.backends.base import Share
from durableflow.errors import StorageError
from durableflow.observe import facts
from durableflow.runtime.ends import Ends
from durableflow.runtime.instances import InstanceElsewhere, Instances
from durableflow.runtime.means import Means
from durableflow.runtime.wakes import Wakes

_LOOK_S: Final = 1.0
"""So often somebody looks for what nobody owns, when no hint says so."""
_BALANCE_S: Final = 3.0
_CLAIM_MAX: Final = 500
"""So many instances are claimed at a time, so that the other workers get theirs."""
_GIVE_MAX: Final = 2_000
_OWNED_MAX: Final = 100_000
_MARGIN: Final = 1.1
"""A worker that owns so many times its share, and some more, gives away what is above it."""
_MARGIN_INSTANCES: Final = 16
_STAND_BACK_S: Final = 0.3
"""A worker that owns its share lets the others claim first."""


class Fleet:
    """The part of a worker that keeps its share of the instances."""

    def __init__(self, means: Means, instances: Instances, wakes: Wakes, ends: Ends) -> None:
        self._means = means
        self._instances = instances
        self._wakes = wakes
        self._ends = ends
        self._share = Share(0, 0)
        self._may_own_more = False
        """Whether a claim got through is not known."""

    async def run(self) -> None:
        """Claim and give away, for ever.

        Raises:
            LeaseLost: this worker was declared dead.
        """
        loop = asyncio.get_running_loop()
        balanced_s = -_BALANCE_S
        while True:
            if loop.time() - balanced_s >= _BALANCE_S:
                balanced_s = loop.time()
                await self._means.patiently(self._balance)
            await self._means.patiently(self._claim_all)
            await self._means.patiently(partial(self._means.backend.wait_for_change, _LOOK_S, "orphans"))

    async def _claim_all(self) -> None:
        means = self._means
        while not self._instances.stopping:
            if self._is_above():
                await asyncio.sleep(_STAND_BACK_S)
            if self._may_own_more:
                await self._give_back()
            try:
                claimed = await means.backend.claim_instances(means.lease, _CLAIM_MAX)
            except StorageError:
                self._may_own_more = True
                raise
            if claimed:  # their tokens were given out elsewhere
                means.offered.update(await means.patiently(means.backend.offered_tasks))
            for each in claimed:
                self._instances.note_ours(each.id)
                if each.has_messages:
                    self._instances.want(each.id)
                self._wakes.take_over(each.wake_us, each.id)
            if claimed:
                means.tell(facts.InstancesClaimed(len(claimed)))
                self._share = self._share._replace(owned=self._share.owned + len(claimed))
            if len(claimed) < _CLAIM_MAX:
                return
            await asyncio.sleep(0)

    def _is_above(self) -> bool:
        return self._share.owned > self._share.fair * _MARGIN + _MARGIN_INSTANCES

    async def _balance(self) -> None:
        means = self._means
        self._share = await means.backend.share(means.lease, accepts=not self._instances.stopping)
        if self._instances.stopping or not self._is_above():
            return
        spare = min(self._share.owned - self._share.fair, _GIVE_MAX)
        given = await self._give(await means.backend.owned(means.lease, spare))
        if given:
            means.tell(facts.InstancesHandedOver(given))

    async def _give_back(self) -> None:
        """What this worker owns and does not know of, because the answer to a claim was lost, can be claimed again."""
        table = self._instances
        owned = await self._means.backend.owned(self._means.lease, _OWNED_MAX)
        await self._give([each for each in owned if each not in table.live and each not in table.loading])
        self._may_own_more = False

    async def _give(self, instance_ids: Sequence[str]) -> int:
        """Hand over those of them that only wait; how many."""
        table = self._instances
        given: list[str] = []
        for instance_id in instance_ids:
            live = table.live.get(instance_id)
            if instance_id in table.loading or (live is not None and not table.let_go(live)):
                continue
            self._wakes.forget(instance_id)
            table.hold(instance_id, None)
            given.append(instance_id)
        if not given:
            return 0
        is_done = False
        try:
            await self._means.backend.hand_over(self._means.lease, given)
            is_done = True
        finally:  # if it may not be done, they are looked at again: here, unless they are somebody else's
            for instance_id in given:
                table.release(instance_id, InstanceElsewhere(instance_id), again=not is_done)
                self._ends.fail(instance_id, InstanceElsewhere(instance_id))
        return len(given)
