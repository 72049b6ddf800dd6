"""Workers whose clocks are an hour off, or jump: time is the server's."""

import asyncio
import signal

import pytest
from fleetkit.audit import audit
from fleetkit.processes import Fleet, eventually

from durableflow.model import events as ev

from flows import napping  # isort: skip

pytestmark = pytest.mark.slow  # real processes, real time

HOUR_S = 3_600
NAPS = 60
NAP_S = 3.0
EARLY_US = 25_000
"""So far a worker's idea of the server's clock may be off: it asks again when it seems to be off by more than 20 ms."""
LATE_US = 5_000_000
"""Those of a worker that is killed wait for the end of its lease."""


async def naps(fleet: Fleet, prefix: str, count: int) -> list[str]:
    async with fleet.client() as client:
        ids = [f"{prefix}-{number}" for number in range(count)]
        await asyncio.gather(*[client.start(napping.options(instance_id=each), NAP_S) for each in ids])
        return ids


async def check_timers(fleet: Fleet, count: int) -> None:
    """Each fired when it was due by the server's clock, which the audit has written down; and so says its history."""
    rows = await fleet.sql(
        "select i.id, h.at_us, h.events, (extract(epoch from a.at) * 1000000)::bigint "
        "from history h join instances i on i.number = h.instance_number join public.audit a "
        "on a.of = 'history' and (a.instance, a.first_seq) = (h.instance_number::text, h.first_seq)"
    )
    due_us: dict[str, int] = {}
    fired_us: dict[str, int] = {}
    for instance, at_us, data, server_us in rows:
        assert abs(at_us - server_us) < LATE_US, f"{instance} says {at_us}, but it was {server_us}"
        for event in ev.load_events(data):
            if isinstance(event, ev.TimerCreated):
                due_us[instance] = event.due_us
            elif isinstance(event, ev.TimerFired):
                fired_us[instance] = server_us
    assert len(due_us) == count
    late_us = {each: fired_us[each] - due_us[each] for each in due_us}
    assert min(late_us.values()) >= -EARLY_US, "one fired before it was due"
    assert max(late_us.values()) <= LATE_US, "one fired late"


async def test_a_clock_that_is_an_hour_off_moves_neither_timers_nor_leases(fleet: Fleet) -> None:
    await audit(fleet)
    for number, clock_s in enumerate([HOUR_S, -HOUR_S, 0]):
        worker = fleet.begin(f"w{number}", clock_s=clock_s)
        await worker.says("leads")
    ahead, behind, right = fleet.members
    await naps(fleet, "a", NAPS)
    await asyncio.sleep(NAP_S / 3)
    assert await fleet.value("select count(*) from takeovers") == 0, "nobody took another for dead"
    ahead.kill()  # what it owned goes to others, in the middle of its naps
    await naps(fleet, "b", NAPS)
    await eventually(fleet.is_quiet, "all have slept")
    assert await fleet.value("select count(*) from takeovers") == 1
    fleet.members.remove(ahead)
    await fleet.come_to_rest([behind, right])
    await check_timers(fleet, 2 * NAPS)


async def test_a_clock_that_jumps_moves_no_timer(fleet: Fleet) -> None:
    await audit(fleet)
    workers = await fleet.workers(2, lease_s=9.0)  # so that the jump is not noticed at once
    await naps(fleet, "a", NAPS)
    await asyncio.sleep(NAP_S / 3)
    for worker in workers:
        worker.signal(signal.SIGUSR1)
    for worker in workers:
        await worker.says("jumped")
    await naps(fleet, "b", NAPS)
    await eventually(fleet.is_quiet, "all have slept")
    await fleet.come_to_rest(workers)
    await check_timers(fleet, 2 * NAPS)
