"""A fleet under load, to do harm to: two workers, one application with an engine of its own, one client."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from fleetkit.processes import LEASE_S, ROUNDS, Fleet, Member, eventually

WARM = 60
"""So many lines of acknowledgements, and the load is under way."""
Fault = Callable[[], Awaitable[object]]


@asynccontextmanager
async def load(
    fleet: Fleet, *, urls: Sequence[str] = (), lease_s: float = LEASE_S, at_once: int = 24
) -> AsyncIterator[list[Member]]:
    """All four under way; afterwards they see to the end of what they have begun, and all is judged.

    Args:
        urls: by which the two workers and the application reach the server, and the client, if not all by the usual.
    """
    a, b, c, d = urls or [fleet.url] * 4
    members = [
        fleet.begin("w1", url=a, lease_s=lease_s),
        fleet.begin("w2", url=b, lease_s=lease_s),
        fleet.begin("app", ask=True, url=c, lease_s=lease_s, at_once=at_once),
        fleet.begin("client", serve=False, ask=True, url=d, at_once=at_once),
    ]
    for member in members:
        await member.says("open")
    await goes_on(fleet, WARM)
    yield members
    verdict = await fleet.come_to_rest(fleet.members)
    print(verdict)  # shown when something fails later on, and by -s


async def goes_on(fleet: Fleet, lines: int) -> None:
    """Wait until so many more acknowledgements were given."""
    until = fleet.acknowledged() + lines

    async def look() -> bool:
        for member in fleet.members:
            assert member.popen.poll() is None, member.last_words()
        return fleet.acknowledged() >= until

    await eventually(look, f"{lines} acknowledgements; now there are {fleet.acknowledged()} of {until}")


async def storm(fleet: Fleet, fault: Fault, times: int, *, seed: int, calm_s: tuple[float, float] = (0.1, 0.5)) -> None:
    """Do `fault` so often, `ROUNDS` times that; the load goes on between, and after the last one."""
    dice = random.Random(seed)
    for _ in range(times * ROUNDS):
        before = fleet.acknowledged()
        await fault()
        await asyncio.sleep(dice.uniform(*calm_s))
        if fleet.acknowledged() == before:
            await goes_on(fleet, 1)
    await goes_on(fleet, WARM)
