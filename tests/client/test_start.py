"""Starting: who makes an instance, who gets the one that is there, who is refused (I19)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Client,
    Context,
    InstanceExists,
    InstanceNotFound,
    InstanceStalled,
    PayloadError,
    PayloadTooLarge,
    Status,
    UsageError,
    WorkflowFailed,
    activity,
    workflow,
)

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of the runtime's conftest.py

CALLS: list[int] = []


@activity
async def note(number: int) -> int:
    CALLS.append(number)
    return number


@workflow
async def notes(ctx: Context, number: int) -> int:
    return await ctx.call_activity(note, number)


@workflow
async def waits(ctx: Context, number: int = 0) -> Any:
    return [number, await ctx.wait_for_event("go")]


@pytest.fixture(autouse=True)
def nobody_called() -> None:
    CALLS.clear()


async def asking(world: World, engine: Any, who: str, stack: AsyncExitStack) -> Any:
    """The engine itself, or a client that reaches its store another way."""
    if who == "engine":
        return engine
    return await stack.enter_async_context(Client(world.backend(), clock=world.clock))


@pytest.mark.slow
@pytest.mark.parametrize("who", ["engine", "client"])
async def test_fifty_callers_who_race_make_one_instance(world: World, who: str) -> None:
    async with world.engine(workflows=[notes], activities=[note]) as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        handles = await asyncio.gather(*(asker.start(notes.options(instance_id="i"), n) for n in range(50)))
        results = await asyncio.gather(*(handle.result(timeout=5) for handle in handles))
        assert len(set(results)) == 1
        assert results[:1] == CALLS
        assert len((await engine.list()).instances) == 1


@pytest.mark.parametrize("who", ["engine", "client"])
async def test_of_fifty_who_insist_one_wins_and_the_others_are_refused(world: World, who: str) -> None:
    async with world.engine(workflows=[waits]) as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        made = waits.options(instance_id="i", on_conflict="fail")
        done = await asyncio.gather(*(asker.start(made, n) for n in range(50)), return_exceptions=True)
        refused = [each for each in done if isinstance(each, InstanceExists)]
        assert len(refused) == 49
        assert "on_conflict='fail'" in str(refused[0])
        assert refused[0].instance_id == "i"


async def test_engine_and_client_who_race_make_one_instance(world: World) -> None:
    async with world.engine(workflows=[waits]) as engine, Client(world.backend(), clock=world.clock) as client:
        for n in range(10):
            made = waits.options(instance_id=f"i{n}", on_conflict="fail")
            starts = [asker.start(made, k) for k in range(4) for asker in (engine, client)]
            done = await asyncio.gather(*starts, return_exceptions=True)
            assert sum(isinstance(each, InstanceExists) for each in done) == 7
            await engine.raise_event(f"i{n}", "go", n)
            winner, heard = await engine.result(f"i{n}", timeout=5)
            assert (winner in range(4), heard) == (True, n)


@pytest.mark.parametrize("who", ["engine", "client"])
async def test_only_what_is_over_is_replaced(world: World, who: str) -> None:
    async with world.engine(workflows=[waits]) as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        made = waits.options(instance_id="i", on_conflict="replace", tags={"k": "v"})
        first = await asker.start(made, 1)
        await engine.wait_for_status("i", Status.RUNNING, timeout=5)
        with pytest.raises(InstanceExists, match="it is RUNNING"):
            await asker.start(made, 2)
        await first.raise_event("go", "first")
        assert await engine.result("i", timeout=5) == [1, "first"]
        second = await asker.start(made, 2)
        await second.raise_event("go", "second")
        assert await engine.result("i", timeout=5) == [2, "second"]
        assert await second.result(timeout=5) == [2, "second"]
        assert len(await engine.history("i")) == 4
        assert len((await engine.list(tags={"k": "v"})).instances) == 1


@pytest.mark.parametrize("who", ["engine", "client"])
async def test_fifty_who_replace_at_once_replace_once_or_are_refused(world: World, who: str) -> None:
    async with world.engine(workflows=[waits]) as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        made = waits.options(instance_id="i", on_conflict="replace")
        await (await engine.start(made, -1)).terminate()
        done = await asyncio.gather(*(asker.start(made, n) for n in range(50)), return_exceptions=True)
        assert sum(isinstance(each, InstanceExists) for each in done) == 49
        await engine.raise_event("i", "go")
        assert (await engine.result("i", timeout=5))[0] in range(50)


@pytest.mark.parametrize("policy", ["return", "fail", "replace"])
async def test_an_id_of_another_workflow_is_never_shared(world: World, policy: Any) -> None:
    async with world.engine(workflows=[waits, notes], activities=[note]) as engine:
        await engine.start(waits.options(instance_id="i"), 1)
        with pytest.raises(InstanceExists):
            await engine.start(notes.options(instance_id="i", on_conflict=policy), 1)


async def test_what_is_over_is_returned_by_default_with_its_result(world: World) -> None:
    async with world.engine(workflows=[notes], activities=[note]) as engine:
        assert await (await engine.start(notes.options(instance_id="i"), 1)).result() == 1
        assert await (await engine.start(notes.options(instance_id="i"), 2)).result() == 1
    async with world.engine(workflows=[notes], activities=[note]) as engine:
        assert await (await engine.start(notes.options(instance_id="i"), 3)).result() == 1
    assert CALLS == [1]


async def test_a_start_and_a_message_to_the_same_new_id_do_not_wait_for_each_other_for_ever(world: World) -> None:
    """The message looks for an instance that is not there, while the start wants to make it."""
    async with world.engine(workflows=[waits]) as engine:
        for n in range(20):
            sending = asyncio.ensure_future(engine.raise_event(f"i{n}", "go", n))
            await asyncio.sleep(0)
            async with asyncio.timeout(5):
                handle = await engine.start(waits.options(instance_id=f"i{n}"), n)
                try:
                    await sending
                except InstanceNotFound:
                    await handle.raise_event("go", n)
                assert await handle.result() == [n, n]


async def test_a_message_to_a_start_that_is_refused_reaches_the_instance_that_is_there(world: World) -> None:
    """In the moment of the conflict the engine has another, tentative one in its hand."""
    async with world.engine(workflows=[waits]) as engine:
        await engine.start(waits.options(instance_id="i"), 1)
    async with world.engine(workflows=[waits]) as engine:
        starting = asyncio.ensure_future(engine.start(waits.options(instance_id="i"), 2))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(engine.result("i"))
        await engine.raise_event("i", "go", "heard")
        async with asyncio.timeout(5):
            await starting
            assert await waiting == [1, "heard"]


async def test_a_fresh_id_begins_with_the_time(world: World) -> None:
    async with world.engine(workflows=[waits]) as engine:
        ids = []
        for _ in range(5):
            ids.append((await engine.start(waits)).id)
            await world.advance(0.002)
        assert ids == sorted(ids)
        assert len(set(ids)) == 5


async def test_what_cannot_be_stored_is_refused_at_the_door(world: World) -> None:
    """I46: nothing is written."""
    async with world.engine(workflows=[waits], payload_limit_bytes=1_000) as engine:
        with pytest.raises(PayloadTooLarge):
            await engine.start(waits, "x" * 2_000)  # type: ignore[arg-type]
        with pytest.raises(PayloadError, match=r"NaN|nan"):
            await engine.start(waits, float("nan"))  # type: ignore[arg-type]
        for bad in ("", "\0", "x" * 501, "\ud800"):
            with pytest.raises(UsageError):
                await engine.start(waits.options(instance_id=bad))
        assert (await engine.list()).instances == []


async def test_arguments_that_do_not_fit_fail_the_instance_visibly(world: World) -> None:
    async with world.engine(workflows=[waits]) as engine:
        handle = await engine.start(waits, "not a number")  # type: ignore[arg-type]
        with pytest.raises(WorkflowFailed, match="PayloadError"):
            await handle.result()


@pytest.mark.parametrize("who", ["engine", "client"])
async def test_an_instance_begins_at_its_start_time(world: World, who: str) -> None:
    async with world.engine(workflows=[notes], activities=[note]) as engine, AsyncExitStack() as stack:
        asker = await asking(world, engine, who, stack)
        handle = await asker.start(notes.options(start_delay=timedelta(hours=2), instance_id="i"), 1)
        await world.until(lambda: "i" in world.worker(engine).instances.live)
        await world.settle()
        assert (await handle.status()).status is Status.PENDING
        await world.advance(7_199)
        assert CALLS == []
        await world.advance(1)
        assert CALLS == [1]
        assert await handle.result(timeout=5) == 1


async def test_a_client_starts_what_the_worker_does_not_know_and_it_waits_stalled(world: World) -> None:
    async with world.engine() as engine, Client(world.backend(), clock=world.clock) as client:
        handle = await client.start(notes, 4)
        await engine.wait_for_status(handle.id, Status.STALLED, timeout=5)
        with pytest.raises(InstanceStalled, match="not registered"):
            await handle.result()
        engine.register(notes, note)
        await engine.wait_for_status(handle.id, Status.COMPLETED, timeout=5)
        assert await handle.result(timeout=5) == 4


async def test_a_caller_who_gives_up_does_not_undo_the_start(world: World, faulty: FaultyBackend) -> None:
    async with world.engine(faulty, workflows=[waits]) as engine:
        faulty.gate.clear()
        starting = asyncio.ensure_future(engine.start(waits.options(instance_id="i"), 1))
        second = asyncio.ensure_future(engine.start(waits.options(instance_id="i"), 2))
        await world.until(lambda: faulty.commits)
        starting.cancel()
        await asyncio.wait([starting])
        faulty.gate.set()
        handle = await second
        await handle.raise_event("go")
        assert await handle.result() == [1, None]
