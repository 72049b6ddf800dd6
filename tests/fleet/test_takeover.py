"""Who goes on with what a worker leaves behind, and how soon; and how work is shared when workers come and go."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from fleetkit.processes import ROUNDS, Fleet, Member, eventually

from durableflow import Client

from flows import waiting  # isort: skip

pytestmark = pytest.mark.slow  # real processes, real time

LEASE_S = 2.0
TAKEOVER_S = 2.0
"""What a take-over may take beyond the lease."""
MANY = 1_000
LONG_LEASE_S = 60.0


async def start_waiting(client: Client, ids: Sequence[str]) -> None:
    await asyncio.gather(*[client.start(waiting.options(instance_id=each), 1) for each in ids])


async def go(client: Client, ids: Sequence[str]) -> None:
    await asyncio.gather(*[client.raise_event(each, "go", 1, event_id="go") for each in ids])


async def owned_by(fleet: Fleet, member: Member) -> list[str]:
    rows = await fleet.sql(
        "select i.id from instances i join workers w on w.id = i.owner where w.name = $1 and finished_us is null",
        member.name,
    )
    return [instance for (instance,) in rows]


async def has_begun(fleet: Fleet, count: int) -> None:
    """All wait for their event: what they owe the store has been paid."""

    async def look() -> bool:
        return bool(await fleet.value("select count(*) from instances where status = 'RUNNING'") >= count)

    await eventually(look, f"{count} wait")


@pytest.mark.parametrize("turn", range(ROUNDS))
async def test_a_thousand_instances_of_a_killed_worker_go_on_within_its_lease_and_two_seconds(
    fleet: Fleet, turn: int
) -> None:
    first, second = await fleet.workers(2, lease_s=LEASE_S)
    ids = [f"{turn}-{number}" for number in range(2 * MANY + 200)]
    async with fleet.client() as client:
        await start_waiting(client, ids)
        await has_begun(fleet, len(ids))
        orphans = await owned_by(fleet, first)
        assert len(orphans) >= MANY, "each new instance goes to one of those that live"
        killed_s = time.monotonic()
        first.kill()
        await go(client, orphans)
        while (done := fleet.ran()) < len(orphans):
            assert time.monotonic() < killed_s + 3 * (LEASE_S + TAKEOVER_S), f"{done} of {len(orphans)} have gone on"
            await asyncio.sleep(0.05)
        took_s = time.monotonic() - killed_s
        print(f"{len(orphans)} went on within {took_s:.2f} s, the lease was {LEASE_S:g} s")
        assert took_s < LEASE_S + TAKEOVER_S
        await go(client, [each for each in ids if each not in set(orphans)])
    fleet.members.remove(first)
    await fleet.come_to_rest([second])


async def test_a_worker_that_joins_gets_its_share_while_the_work_goes_on(fleet: Fleet) -> None:
    (first,) = await fleet.workers(1, lease_s=LONG_LEASE_S)
    ids = [str(number) for number in range(MANY)]
    async with fleet.client() as client:
        await start_waiting(client, ids)
        await has_begun(fleet, MANY)
        (second,) = await fleet.workers(1, lease_s=LONG_LEASE_S)
        woken = ids[: MANY // 4]

        async def is_shared() -> bool:
            counts = [len(await owned_by(fleet, member)) for member in (first, second)]
            return min(counts) > 0.35 * sum(counts)

        for each in woken:  # they are told to go on while they may be on their way from one to the other
            await client.raise_event(each, "go", 1, event_id="go")
        await eventually(is_shared, "each owns about a half")
        assert first.heard("handed over")
        await go(client, ids[MANY // 4 :])
    await fleet.come_to_rest([first, second])


async def test_a_worker_that_is_told_to_end_hands_over_at_once(fleet: Fleet) -> None:
    first, second = await fleet.workers(2, lease_s=LONG_LEASE_S)
    ids = [str(number) for number in range(MANY)]
    async with fleet.client() as client:
        await start_waiting(client, ids)
        await has_begun(fleet, MANY)
        left = await owned_by(fleet, first)
        assert len(left) > MANY // 3
        told_s = time.monotonic()
        first.terminate()

        async def has_all() -> bool:
            return len(await owned_by(fleet, second)) == MANY

        await eventually(has_all, "the other owns all")
        took_s = time.monotonic() - told_s
        assert took_s < 3, f"it took {took_s:.2f} s, though the lease has a minute to go"
        await first.ends()
        fleet.members.remove(first)
        await go(client, ids)
    await fleet.come_to_rest([second])
