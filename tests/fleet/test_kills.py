"""Members of a fleet are killed at any moment, again and again."""

import random

import pytest
from fleetkit.processes import Fleet
from fleetkit.storms import load, storm

pytestmark = pytest.mark.slow  # starts and kills processes

KILLS = 14


async def test_members_may_be_killed_at_any_moment(fleet: Fleet) -> None:
    """Workers, an application while it starts instances of its own, a client while it asks: whoever is drawn."""
    dice = random.Random(1)
    killed: set[str] = set()
    async with load(fleet) as members:

        async def kill() -> None:
            member = dice.choice(members)
            member.kill()
            members[members.index(member)] = fleet.again(member)
            killed.add(member.name)

        await storm(fleet, kill, KILLS, seed=2, calm_s=(0.2, 0.8))
    assert killed == {"w1", "w2", "app", "client"}
    lost = await fleet.value("select count(*) from takeovers")
    assert lost >= 3, "too few workers were declared dead to prove anything"
