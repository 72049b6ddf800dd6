"""The processes of a fleet do what they are told, and say so when they cannot."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.bench import QUICK, Bench
from benchmarks.child import made_contender
from benchmarks.contenders import SPECS
from benchmarks.contract import UnsupportedError
from benchmarks.fleet import (
    LEASE_S,
    Member,
    MemberError,
    events_elsewhere,
    members,
    starts_elsewhere,
    take_over,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    spec = SPECS["durableflow-sqlite"]
    return Bench(
        contender=made_contender(spec), spec=spec, scale=QUICK, dice=random.Random(0), directory=tmp_path, earlier={}
    )


@pytest.fixture
async def member(bench: Bench) -> AsyncIterator[Member]:
    member = await Member.start(bench)
    yield member
    await member.end()


async def test_a_member_works_as_it_is_told(member: Member) -> None:
    await member.tell("open")
    done = await member.tell("load", workflow="one", concurrency=4, start_for_s=0.05, deadline_s=10, seed=1)
    assert done["completed"] >= 4
    assert not done["cut"]
    assert (await member.tell("counters"))["calls"] == done["completed"]
    begun = (await member.tell("begin", workflow="long", count=3, concurrency=2, deadline_s=10))["begun"]
    assert sorted(argument for _, argument in begun) == [0, 1, 2]
    await member.tell("results", workflow="long", begun=begun)
    first, last = [(await member.tell("mark", number=number))["at_s"] for number in (0, 2)]
    assert first < last
    await member.tell("close")


async def test_a_member_that_cannot_says_why_and_goes_on(member: Member) -> None:
    await member.tell("open")
    with pytest.raises(MemberError, match="KeyError: 'no such workflow'"):
        await member.tell("begin", workflow="no such workflow", count=1, concurrency=1, deadline_s=1)
    assert await member.tell("counters") == {"calls": 0, "waits": 0, "gates": 0}


async def test_a_member_that_was_killed_is_noticed(member: Member) -> None:
    await member.tell("open")
    member.kill()
    with pytest.raises(MemberError, match="a member ended while it was told to counters"):
        await member.tell("counters")


async def test_a_killed_members_instances_are_ended_by_the_other(bench: Bench) -> None:
    figures = await take_over(bench, count=200)
    assert figures["instances"] == 20
    assert figures["repeated_activities"] == 0
    assert 0 < figures["all_ended_ms"] == figures["after_lease_ms"] + 1000 * LEASE_S


async def test_starts_from_here_are_counted_and_timed_in_the_other_process(bench: Bench) -> None:
    figures = await starts_elsewhere(bench)
    await bench.contender.close()
    assert 0 < figures["start_p50_ms"] < figures["called_p50_ms"] <= figures["called_p99_ms"]
    assert figures["starts_per_s"] >= figures["called_per_s"] > 0
    assert bench.notes == []


async def test_events_from_here_are_timed_in_the_other_process(bench: Bench) -> None:
    figures = await events_elsewhere(bench)
    await bench.contender.close()
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert 0 < figures["events"] <= QUICK.elsewhere
    assert bool(bench.notes) == (figures["events"] < QUICK.elsewhere), "who has not done all says so"


async def test_who_cannot_share_a_database_is_not_asked_to(bench: Bench) -> None:
    bench.contender = made_contender(SPECS["durableflow-memory"])
    with pytest.raises(UnsupportedError, match="nobody has written how several of its processes share a database"):
        async with members(bench, 2):
            pass
