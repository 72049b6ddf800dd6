"""Children, messages, requests, checkpoints and rounds across crashes and faults at every single commit."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Client,
    Context,
    EngineClosed,
    InstanceNotActive,
    RequestFailed,
    Status,
    StorageError,
    activity,
    workflow,
)
from durableflow.backends.base import Commit, Lease

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of conftest.py

DAYS = 2


@activity
async def add(a: int, b: int) -> int:
    return a + b


@workflow
async def child(ctx: Context, n: int) -> int:
    return await ctx.call_activity(add, n, 1)


@workflow
async def listens(ctx: Context, count: int) -> list[int]:
    return [await ctx.wait_for_event("word", int) for _ in range(count)]


@workflow
async def parent(ctx: Context, day: int) -> list[int]:
    """Two children, a message, a checkpoint and an answer each day; then the next day."""
    total = ctx.restore(int)

    @ctx.on_request("which day")
    async def which_day() -> int:
        return await ctx.call_activity(add, day, 0)

    if total is None:
        total = sum(await ctx.when_all([ctx.call_workflow(child, day * 10 + n) for n in range(2)]))
        await ctx.raise_event("listener", "word", day)
        nap = ctx.sleep(1)
        await nap
        while True:
            try:
                ctx.checkpoint(total)
            except Exception:  # an answer is under way
                await ctx.sleep(1)
            else:
                break
    await ctx.wait_for_event("night")
    if day + 1 < DAYS:
        ctx.continue_as_new(day + 1)
    return [day, total]


KNOWN: dict[str, Any] = {"workflows": [child, listens, parent], "activities": [add], "check_replay": True}


class Breaking:
    """A backend whose commit number `at` fails as said; counted from 0, over all who commit through it."""

    def __init__(self, real: Any, at: int, how: str, counted: list[int]) -> None:
        self._real = real
        self.at = at
        self.how = how
        self.counted = counted
        self.broken = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def commit(self, lease: Lease, commit: Commit) -> None:
        self.counted[0] += 1
        if self.counted[0] - 1 != self.at:
            await self._real.commit(lease, commit)
            return
        if self.how == "killed behind it":
            await self._real.commit(lease, commit)
        self.broken.set()
        await asyncio.Event().wait()  # for ever: the process is dead


async def tell_all(client: Client) -> None:
    """All that comes from outside, durable before any engine is there."""
    await client.start(listens.options(instance_id="listener"), DAYS)
    await client.start(parent.options(instance_id="p"), 0)
    for day in range(DAYS):
        await client.raise_event("p", "night", event_id=f"night {day}")


async def assert_all_is_as_it_must_be(world: World, client: Client) -> None:
    for _ in range(200):
        await world.advance(2)
        records = (await client.list()).instances
        if all(record.status.is_terminal for record in records):
            break
        await asyncio.sleep(0.001)
    status = Counter(record.status for record in records)
    assert status == {Status.COMPLETED: 2 + 2 * DAYS}, "one instance a call, all of them over, no other"
    assert await client.result("p") == [DAYS - 1, 2 * (DAYS - 1) * 10 + 3]
    assert await client.result("listener") == list(range(DAYS)), "each message once, in order"
    for record in records:
        history = await client.history(record.instance_id)
        assert [each.seq for each in history] == list(range(1, len(history) + 1))
    kinds = Counter(each.kind for each in await client.history("p"))
    assert kinds["child_scheduled"] == kinds["child_completed"] == 2 * DAYS
    assert kinds["message_sent"] == kinds["message_answered"] == DAYS
    assert (kinds["checkpoint_taken"], kinds["continued_as_new"]) == (DAYS, DAYS - 1)
    assert kinds["event_received"] == DAYS
    assert kinds["request_answered"] == kinds["request_received"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("how", ["killed before it", "killed behind it"])
async def test_a_crash_at_any_commit_leaves_one_child_and_one_message_a_call(
    kind: str, how: str, tmp_path: Path, world_class: Any
) -> None:
    at = 0
    while True:
        (folder := tmp_path / str(at)).mkdir()
        world = world_class(kind, folder)
        async with Client(world.backend(), clock=world.clock) as client:
            await tell_all(client)
            asking = asyncio.ensure_future(client.request("p", "which day", request_id="r", result_type=int))
            breaking = Breaking(world.backend(), at, how, [0])
            engine = await world.open(breaking, **KNOWN)
            for _ in range(40):
                if breaking.broken.is_set():
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await world.advance(2)
            await world.crash(engine)
            if not breaking.broken.is_set():
                break  # it was over before
            engine = await world.open(**KNOWN)
            await assert_all_is_as_it_must_be(world, client)
            with suppress(RequestFailed, InstanceNotActive):
                assert await asking in range(DAYS)
            await world.crash(engine)
        at += 1
    asking.cancel()
    assert at > 10, "there were commits to crash at"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["refuse", "lose", "hide", "conflict"])
@pytest.mark.parametrize("cached", [0, 100])
async def test_a_fault_at_any_commit_leaves_one_child_and_one_message_a_call(
    world_class: Any, faulty_class: Any, tmp_path: Path, fault: str, cached: int
) -> None:
    at = 0
    while True:
        (folder := tmp_path / str(at)).mkdir()
        world = world_class("memory", folder)
        faulty = faulty_class(world.backend())
        faulty.faults = [None] * at + [fault]
        async with Client(world.backend(), clock=world.clock) as client:
            await tell_all(client)
            async with world.engine(faulty, cached_instances=cached, **KNOWN) as engine:
                with suppress(StorageError, EngineClosed, RequestFailed, InstanceNotActive):
                    assert await engine.request("p", "which day", request_id="r", result_type=int, timeout=5) in (0, 1)
                await assert_all_is_as_it_must_be(world, client)
        if faulty.faults:
            break
        at += 1
    assert at > 10
