"""The network between a worker and the server is cut, wholly or one way, and answers are lost on it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from check_tables import read_ledger
from fleetkit.audit import audit, user_of, writes_of_the_dead
from fleetkit.processes import ROUNDS, Fleet, Member, eventually
from fleetkit.proxy import Harm, Proxy
from fleetkit.storms import goes_on, load, storm

pytestmark = pytest.mark.slow  # real processes, real time

LEASE_S = 1.5
CUTS = 3
HARMS = 20
"""So many commits of each kind of harm."""
RESETS = 20


@asynccontextmanager
async def proxied(
    fleet: Fleet, *, lease_s: float = LEASE_S, audited: bool = False
) -> AsyncIterator[tuple[list[Member], list[Proxy]]]:
    """A fleet under load, each member behind a proxy of its own."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(fleet.server.port)) for _ in range(4)]
        users: list[str | None] = [None] * 4
        if audited:
            await audit(fleet)
            users = [*[await user_of(fleet, number) for number in (1, 2, 3)], None]
        urls = [fleet.url_of(port=proxy.port, user=user) for proxy, user in zip(proxies, users, strict=True)]
        async with load(fleet, urls=urls, lease_s=lease_s) as members:
            yield members, proxies
            for proxy in proxies:
                proxy.on_commit = lambda: ""
                proxy.heal()


@pytest.mark.parametrize("way", ["both ways", "answers held back", "requests held back", "answers swallowed"])
async def test_a_worker_that_is_cut_off_past_its_lease_stops_and_comes_back(fleet: Fleet, way: str) -> None:
    """Without its server it begins nothing more once its lease may be over, and later writes nothing that it knew."""
    dice = random.Random(way)
    silences: list[tuple[int, float, float]] = []
    async with proxied(fleet, audited=True) as (members, proxies):
        for _ in range((CUTS if way != "answers swallowed" else 2) * ROUNDS):  # it takes longest to come back
            number = dice.randrange(3)
            member, proxy = members[number], proxies[number]
            cut_s = time.monotonic()
            if way == "answers swallowed":
                proxy.swallow()
            else:
                proxy.cut(requests=way != "answers held back", answers=way != "requests held back")
            # It may have stopped by itself just before, where the machine is too busy for so short a lease.
            await member.says("lost", times=len(member.heard("leads")))
            await goes_on(fleet, 30)  # without it
            await asyncio.sleep(dice.uniform(0.5, 1.5))
            silences.append((member.popen.pid, cut_s + LEASE_S, time.monotonic()))
            proxy.heal()
            await member.says("leads", times=len(member.heard("lost")) + 1)
    assert await writes_of_the_dead(fleet) == []
    begun = [entry for entry in read_ledger(fleet.ledger) if entry["what"] == "begin"]
    for process, from_s, until_s in silences:
        assert [entry for entry in begun if entry["process"] == process and from_s < entry["at_s"] < until_s] == []


async def test_a_cut_that_is_shorter_than_the_lease_is_only_a_delay(fleet: Fleet) -> None:
    dice = random.Random(5)
    async with proxied(fleet, lease_s=6.0) as (members, proxies):

        async def cut() -> None:
            for proxy in proxies:
                proxy.cut()
            await asyncio.sleep(dice.uniform(0.2, 1.0))
            for proxy in proxies:
                proxy.heal()

        await storm(fleet, cut, 6, seed=6)
        assert [member.heard("lost") for member in members] == [[]] * 4


async def test_connections_that_break_at_any_moment_lose_nothing(fleet: Fleet) -> None:
    dice = random.Random(7)
    async with proxied(fleet) as (_, proxies):

        async def reset() -> None:
            proxy = dice.choice(proxies)

            async def is_connected() -> bool:
                return proxy.connections > 0

            await eventually(is_connected, "there is something to break")
            proxy.reset()

        await storm(fleet, reset, RESETS, seed=8, calm_s=(0.1, 0.4))


async def test_a_commit_whose_outcome_is_not_known_is_looked_up(fleet: Fleet) -> None:
    """The server never heard of it, or nobody heard of its answer, or the client was cut off while it was made."""
    dice = random.Random(9)
    harms: list[Harm] = ["lose request", "lose answer", "hang up"]
    async with proxied(fleet) as (_, proxies):
        # A commit takes a while, so that whoever is cut off looks while it is still being made.
        await fleet.run(
            "create function public.dawdle() returns trigger language plpgsql as "
            "$$ begin perform pg_sleep(random() * 0.02); return null; end $$;"
            "create trigger dawdles after insert on durableflow.history for each statement "
            "execute function public.dawdle()"
        )
        for proxy in proxies:
            proxy.on_commit = lambda: dice.choice(harms) if dice.random() < 0.15 else ""

        async def enough() -> bool:
            return all(sum(proxy.harmed[harm] for proxy in proxies) >= HARMS * ROUNDS for harm in harms)

        await eventually(enough, "every kind of harm was done often enough", timeout_s=40 * ROUNDS)
