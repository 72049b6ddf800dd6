"""What a worker owns goes on, whatever befalls the calls by which it got it or gave it away."""

import asyncio
from collections.abc import Sequence

import pytest
from fleetkit.processes import Fleet

from durableflow import Context, Engine, Settings, workflow
from durableflow.backends.base import ClaimedInstance, Lease, LoadedInstance
from durableflow.backends.postgres import PostgresBackend
from durableflow.errors import CommitOutcomeUnknown, StorageError
from durableflow.observe import facts

pytestmark = pytest.mark.slow  # asks a server

MANY = 60


@workflow
async def brief(ctx: Context, number: int) -> int:
    await ctx.sleep(0.01)
    return number


@workflow
async def patient(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return "done"


class Faulty(PostgresBackend):
    """Fails as planned."""

    unheard_claims = refused_gifts = unheard_gifts = 0

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.may_claim, self.may_answer, self.has_looked = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_claim.set()
        self.may_answer.set()

    async def claim_instances(self, lease: Lease, limit: int) -> list[ClaimedInstance]:
        await self.may_claim.wait()
        claimed = await super().claim_instances(lease, limit)
        if claimed and self.unheard_claims:
            self.unheard_claims -= 1
            raise CommitOutcomeUnknown("planted")
        return claimed

    async def hand_over(self, lease: Lease, instance_ids: Sequence[str]) -> None:
        if self.refused_gifts:
            self.refused_gifts -= 1
            raise StorageError("planted")
        await super().hand_over(lease, instance_ids)
        if self.unheard_gifts:
            self.unheard_gifts -= 1
            raise CommitOutcomeUnknown("planted")

    async def load(self, instance_ids: Sequence[str], lease: Lease | None = None) -> list[LoadedInstance]:
        loaded = await super().load(instance_ids, lease)
        self.has_looked.set()
        await self.may_answer.wait()
        return loaded


async def test_what_was_claimed_by_a_call_whose_answer_was_lost_goes_on(fleet: Fleet) -> None:
    async with fleet.client() as client:
        handles = [await client.start(brief.options(instance_id=f"b-{n}"), n) for n in range(5)]
        backend = Faulty(fleet.url)
        backend.unheard_claims = 2
        async with Engine(backend, queues=[]):
            assert [await handle.result(timeout=10) for handle in handles] == list(range(5))
        assert backend.unheard_claims < 2


async def test_what_is_claimed_while_a_load_says_that_it_is_another_s_goes_on(fleet: Fleet) -> None:
    async with fleet.client() as client:
        handle = await client.start(brief.options(instance_id="b"), 7)
        backend = Faulty(fleet.url)
        backend.may_claim.clear()
        backend.may_answer.clear()
        claimed = asyncio.Event()

        def listen(fact: facts.Fact) -> None:
            if isinstance(fact, facts.InstancesClaimed):
                claimed.set()

        async with Engine(backend, queues=[], listeners=[listen]) as engine:
            assert engine._worker is not None
            engine._worker.instances.want("b")  # as when somebody here waits for its end
            await backend.has_looked.wait()
            backend.may_claim.set()
            await claimed.wait()
            backend.may_answer.set()
            assert await handle.result(timeout=10) == 7


@pytest.mark.parametrize(("how", "count"), [("refused_gifts", 10_000), ("unheard_gifts", 2)])
async def test_what_could_not_be_given_away_goes_on(fleet: Fleet, how: str, count: int) -> None:
    backend = Faulty(fleet.url)
    setattr(backend, how, count)
    settings = Settings(lease_s=30)
    async with Engine(backend, queues=[], settings=settings) as engine:
        handles = [await engine.start(patient.options(instance_id=f"p-{n}"), 6.0) for n in range(MANY)]
        async with Engine(fleet.url, queues=[], settings=settings):
            for handle in handles:
                assert await handle.result(timeout=20) == "done"
        assert getattr(backend, how) < count, "some were to be given away"
