"""What the backend makes of connections that are lost, without any engine: each case one at a time."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fleetkit.processes import Fleet
from fleetkit.proxy import Harm, Proxy

from durableflow.backends.base import Commit, Lease, Outgoing
from durableflow.backends.postgres import PostgresBackend
from durableflow.errors import CommitOutcomeUnknown, StorageError
from durableflow.model.status import Status
from durableflow.testing.contract.store import a_change, a_row, an_instance

pytestmark = pytest.mark.slow  # asks a server

LEASE_US = 2_000_000
COMMITS = 40


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresBackend]:
    backend = PostgresBackend(url)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


async def a_worker(backend: PostgresBackend, ttl_us: int = 60_000_000) -> Lease:
    lease = await backend.acquire("worker", ttl_us, 0)
    assert lease is not None
    return lease


@pytest.mark.parametrize("harm", ["lose request", "lose answer", "hang up"])
async def test_when_it_is_told_that_the_outcome_is_unknown_nothing_more_comes_of_the_commit(
    fleet: Fleet, harm: Harm
) -> None:
    """Whoever looks then sees what has come of it, though the server was at work on it for a while."""
    await fleet.run(
        "create function public.dawdle() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(random() * 0.06); return null; end $$;"
        "create trigger dawdles after insert on durableflow.history for each statement execute function public.dawdle()"
    )
    dice = random.Random(harm)
    made = 0
    async with Proxy(fleet.server.port) as proxy, opened(fleet.url_of(port=proxy.port)) as backend:
        lease = await a_worker(backend)
        for number in range(COMMITS):
            proxy.on_commit = lambda: harm
            with pytest.raises(CommitOutcomeUnknown):
                await backend.commit(lease, Commit(new=[an_instance(str(number))], rows=[a_row(str(number))]))
            seen = bool(await backend.load([str(number)]))
            made += seen
            await asyncio.sleep(dice.uniform(0, 0.1))
            assert bool(await backend.load([str(number)])) is seen, "it came after all"
        assert proxy.harmed[harm] == COMMITS
    if harm == "lose request":
        assert made == 0
    if harm == "lose answer":
        assert made == COMMITS


async def test_a_worker_that_comes_back_does_not_wait_for_answers_that_were_lost(fleet: Fleet) -> None:
    async with Proxy(fleet.server.port) as proxy, opened(fleet.url_of(port=proxy.port)) as backend:
        lease = await a_worker(backend, LEASE_US)
        many = range(12)  # more than can be asked at once
        await asyncio.gather(*[backend.renew(lease, LEASE_US, 0) for _ in many])
        proxy.swallow()
        asked = [asyncio.ensure_future(backend.renew(lease, LEASE_US, 0)) for _ in many]
        with pytest.raises(StorageError):
            await backend.acquire("worker", LEASE_US, 0)
        proxy.heal()
        begin_s = time.monotonic()
        while True:
            try:
                await a_worker(backend, LEASE_US)
            except StorageError:
                continue
            break
        assert time.monotonic() - begin_s < 8
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, (StorageError, Lease)) for answer in answers)


async def test_messages_for_what_is_over_go_when_their_worker_has_gone(fleet: Fleet) -> None:
    """They had come while the turn that ended it was being committed; nobody is left to find and drop them."""
    async with opened(fleet.url) as backend:
        for leaves in (True, False):
            name = f"leaves: {leaves}"
            lease = await a_worker(backend, 60_000_000 if leaves else 1)
            await backend.commit(lease, Commit(new=[an_instance(name), an_instance(f"{name}, on")], rows=[a_row(name)]))
            await backend.send([Outgoing(name, b"late"), Outgoing(f"{name}, on", b"kept")])
            await backend.commit(lease, Commit(changes=[a_change(name, Status.COMPLETED, finished_us=1)]))
            if leaves:
                await backend.release(lease)
            else:
                await asyncio.sleep(0.01)
                assert await backend.bury()
            left = await fleet.sql("select instance from inbox where instance like $1 || '%'", name)
            assert left == [(f"{name}, on",)]


async def test_a_caller_that_leaves_is_no_warning(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """Its call goes on to the end, and what the server says of it then is nobody's."""
    async with opened(fleet.url) as backend:
        lease = await a_worker(backend)
        await backend.release(lease)
        for _ in range(20):
            left = asyncio.ensure_future(backend.commit(lease, Commit(rows=[a_row("a")])))
            await asyncio.sleep(0)
            left.cancel()
            await asyncio.wait([left])
    assert caplog.records == []
