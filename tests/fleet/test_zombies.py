"""Workers that sleep past their lease, and wake as if nothing had happened."""

import asyncio
import random

import pytest
from fleetkit.audit import audit, user_of, writes_of_the_dead
from fleetkit.processes import ROUNDS, Fleet, eventually
from fleetkit.storms import load

from flows import dozing  # isort: skip

pytestmark = pytest.mark.slow  # freezes processes

LEASE_S = 1.2
FREEZES = 6
DOZING = 24
DOZE_S = 0.8


async def test_a_worker_that_was_frozen_past_its_lease_writes_nothing_when_it_thaws(fleet: Fleet) -> None:
    """Two at a time, so that one is left to take over; each was at some other point when it froze."""
    dice = random.Random(3)
    await audit(fleet)
    users = [await user_of(fleet, number) for number in (1, 2, 3)]
    urls = [*(fleet.url_of(user=user) for user in users), fleet.url]
    async with load(fleet, urls=urls, lease_s=LEASE_S) as members:
        for _ in range(FREEZES * ROUNDS):
            async with fleet.client() as client:
                # What is under way when they freeze has ended when they thaw: each has something to write at once.
                await asyncio.gather(*[client.start(dozing, DOZE_S) for _ in range(DOZING)])
            frozen = dice.sample(range(3), 2)
            for number in frozen:
                await asyncio.sleep(dice.uniform(0, 0.2))
                members[number].freeze()
            for number in frozen:
                await eventually(lambda n=number: is_buried(fleet, users[n]), "all leases of the frozen are over")
            for member in (members[number] for number in frozen):
                before = len(member.heard("leads"))
                member.thaw()
                await member.says("leads", times=before + 1, timeout_s=10)
            await asyncio.sleep(dice.uniform(0.3, 0.8))
    assert await fleet.value("select count(*) from takeovers") > FREEZES * ROUNDS
    assert await fleet.value("select count(*) from public.audit where who like '%\\_w%'") > 1_000
    assert await writes_of_the_dead(fleet) == []


async def is_buried(fleet: Fleet, user: str) -> bool:
    return not await fleet.value("select count(*) from public.lives where who = $1 and ended is null", user)
