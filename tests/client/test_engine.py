"""The engine as an object: opening, closing, using it too early, too late, twice, and without a loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Client,
    Context,
    Engine,
    EngineClosed,
    RetryPolicy,
    Settings,
    Status,
    StorageError,
    UsageError,
    activity,
    workflow,
)
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.engine import STORE_VARIABLE
from durableflow.errors import RegistrationError

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of the runtime's conftest.py


@activity
async def double(number: int) -> int:
    return 2 * number


@workflow
async def doubles(ctx: Context, number: int) -> int:
    return await ctx.call_activity(double, number)


@workflow
async def waits(ctx: Context) -> Any:
    return await ctx.wait_for_event("word")


async def test_an_engine_that_is_not_open_says_so(world: World) -> None:
    engine = world.new_engine()
    asked = [
        lambda: engine.start(doubles, 1),
        lambda: engine.raise_event("i", "word"),
        lambda: engine.terminate("i"),
        lambda: engine.result("i"),
    ]
    for ask in asked:
        with pytest.raises(EngineClosed, match="is not open"):
            await ask()
    with pytest.raises(EngineClosed):
        engine.statistics()
    async with engine:
        await (await engine.start(doubles, 1)).result()
    for ask in asked:
        with pytest.raises(EngineClosed, match="is not open"):
            await ask()


async def test_an_engine_is_opened_once_at_a_time_and_again_after_closing(world: World) -> None:
    engine = world.new_engine()
    async with engine:
        with pytest.raises(UsageError, match="open already"):
            await engine.__aenter__()
        assert await (await engine.start(doubles, 2)).result() == 4
    async with engine:
        assert await (await engine.start(doubles, 3)).result() == 6
        assert engine.is_leading


def test_an_engine_is_used_without_a_loop(tmp_path: Path) -> None:
    engine = Engine(f"sqlite:///{tmp_path / 'store.db'}", workflows=[], activities=[])
    assert [engine.run(doubles, n) for n in (1, 2)] == [2, 4]
    memory = Engine(MemoryBackend(), workflows=[], activities=[])
    assert [memory.run(doubles, n) for n in (1, 2)] == [2, 4]


async def test_run_inside_a_loop_says_what_to_write(memory_world: World) -> None:
    with pytest.raises(UsageError, match=r"await engine\.start"):
        memory_world.new_engine().run(doubles, 1)


async def test_lifespan_opens_and_closes(world: World) -> None:
    engine = world.new_engine()
    async with engine.lifespan(object()):
        assert await (await engine.start(doubles, 5)).result() == 10
    with pytest.raises(EngineClosed):
        await engine.start(doubles, 5)


def test_the_store_is_named_by_the_environment_or_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    assert "durableflow.db" in repr(Engine())
    monkeypatch.setenv(STORE_VARIABLE, "sqlite:///elsewhere.db")
    assert "elsewhere.db" in repr(Engine())
    assert "MemoryBackend" in repr(Engine("memory://"))


@pytest.mark.parametrize("url", ["orders.db", "mysql://x", "memory://name", "sqlite://", "sqlite:///", ""])
def test_a_url_that_names_no_store_is_refused_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    with pytest.raises(UsageError):
        Client(url)


async def test_a_store_that_cannot_be_opened_leaves_the_engine_closed(tmp_path: Path) -> None:
    before = threading.active_count()
    engine = Engine(f"sqlite:///{tmp_path / 'missing' / 'store.db'}")
    for _ in range(2):
        with pytest.raises(StorageError, match="does not exist"):
            await engine.__aenter__()
    assert threading.active_count() == before


async def test_closing_leaves_no_thread_and_no_file_beside_the_store(sqlite_world: World) -> None:
    before = {thread.name for thread in threading.enumerate()}

    @activity
    def in_a_thread() -> str:
        return threading.current_thread().name

    @workflow
    async def calls(ctx: Context) -> str:
        return await ctx.call_activity(in_a_thread)

    async with sqlite_world.engine() as engine:
        assert (await (await engine.start(calls)).result()).startswith("durableflow activity")
        await engine.list()
    await sqlite_world.until(lambda: {thread.name for thread in threading.enumerate()} <= before)
    assert [each.name for each in sqlite_world.path.parent.iterdir()] == ["store.db"]


async def test_starts_that_are_under_way_when_the_engine_closes_are_durable_or_told(
    world: World, faulty: FaultyBackend
) -> None:
    engine = world.new_engine(faulty)
    await engine.__aenter__()
    faulty.gate.clear()
    starting = [asyncio.ensure_future(engine.start(waits.options(instance_id=f"i{n}"))) for n in range(20)]
    await world.until(lambda: faulty.commits)
    more = [asyncio.ensure_future(engine.start(waits.options(instance_id=f"j{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(engine.__aexit__(None, None, None))
    await asyncio.sleep(0.01)
    late = asyncio.ensure_future(engine.start(waits.options(instance_id="late")))
    await asyncio.sleep(0.01)
    faulty.gate.set()
    async with asyncio.timeout(5):
        await closing
        done = await asyncio.gather(*starting, *more, late, return_exceptions=True)
    async with world.engine(workflows=[waits]) as again:
        there = {each.instance_id for each in (await again.list()).instances}
    names = [f"i{n}" for n in range(20)] + [f"j{n}" for n in range(20)] + ["late"]
    for name, outcome in zip(names, done, strict=True):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, EngineClosed)
        else:
            assert name in there
    assert {f"i{n}" for n in range(20)} <= there
    assert isinstance(done[-1], EngineClosed)


async def test_who_waits_when_the_engine_closes_is_told(world: World) -> None:
    engine = world.new_engine()
    await engine.__aenter__()
    handle = await engine.start(waits)
    waiting = [asyncio.ensure_future(handle.result()), asyncio.ensure_future(handle.wait_for_status(timeout=5))]
    await asyncio.sleep(0.01)
    await engine.__aexit__(None, None, None)
    async with asyncio.timeout(5):
        for task in waiting:
            with pytest.raises(EngineClosed):
                await task


async def test_closing_while_the_store_is_broken_ends(world: World, faulty: FaultyBackend) -> None:
    engine = world.new_engine(faulty, commit_retries=1)
    await engine.__aenter__()
    handle = await engine.start(waits)
    faulty.faults = ["refuse"] * 100
    raising = asyncio.ensure_future(handle.raise_event("word"))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await engine.__aexit__(None, None, None)
        with pytest.raises(StorageError):
            await raising


async def test_closing_in_the_moment_in_which_the_lease_is_lost_ends(world: World) -> None:
    engine = world.new_engine()
    await engine.__aenter__()
    handle = await engine.start(waits)
    usurper = world.backend()
    await usurper.open()
    assert await usurper.acquire("usurper", 1_000_000, world.clock.now + 60_000_000) is not None
    raising = asyncio.ensure_future(handle.raise_event("word"))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await engine.__aexit__(None, None, None)
        with pytest.raises(StorageError):
            await raising
    await usurper.close()


async def test_an_engine_whose_loop_died_says_why(memory_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_world.engine() as engine:
        worker = memory_world.worker(engine)

        def broken(*_: Any) -> Any:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(worker._commits, "_gather", broken)
        with pytest.raises(EngineClosed):
            await engine.start(waits)
        await memory_world.until(engine._task.done)
        with pytest.raises(EngineClosed, match=r"has stopped.*ZeroDivisionError"):
            await engine.start(waits)
        engine._task = None  # closing would raise the defect: the next test asks for that


async def test_closing_an_engine_that_died_raises_what_killed_it_and_lets_the_store_go(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sqlite_world.new_engine()
    await engine.__aenter__()

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(sqlite_world.worker(engine)._commits, "_gather", broken)
    with pytest.raises(EngineClosed):
        await engine.start(waits)
    await sqlite_world.until(engine._task.done)
    with pytest.raises(ExceptionGroup) as told:
        await engine.__aexit__(None, None, None)
    assert told.group_contains(ZeroDivisionError)
    assert [each.name for each in sqlite_world.path.parent.iterdir()] == ["store.db"]


async def test_two_functions_of_one_name_are_refused(memory_world: World) -> None:
    @workflow(name="doubles")
    async def other(ctx: Context) -> None: ...

    async with memory_world.engine(workflows=[doubles]) as engine:
        with pytest.raises(RegistrationError, match="is defined twice"):
            await engine.start(other)
        with pytest.raises(RegistrationError):
            engine.register(other)
        assert await (await engine.start(doubles, 2)).result() == 4


@pytest.mark.parametrize(
    "wrong", [{"lease_s": 0}, {"activity_threads": 0}, {"turns_per_commit": -1}, {"payload_limit_bytes": 0}]
)
def test_a_setting_out_of_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


async def test_engines_on_different_stores_do_not_meet(tmp_path: Path) -> None:
    async with (
        Engine(SqliteBackend(tmp_path / "a.db"), workflows=[], activities=[]) as a,
        Engine(SqliteBackend(tmp_path / "b.db"), workflows=[], activities=[]) as b,
    ):
        await a.start(waits.options(instance_id="i"))
        assert a.is_leading
        assert b.is_leading
        assert (await b.list()).instances == []


@pytest.mark.slow
async def test_the_real_clock_and_the_real_waits_work_together(tmp_path: Path) -> None:
    @activity(retry=RetryPolicy(max_attempts=100, initial=0.02, backoff=1), timeout=0.05)
    async def slow_once() -> str:
        tried.append(1)
        if len(tried) == 1:
            await asyncio.Event().wait()
        return "second"  # or a later one: a busy machine may not begin an attempt in time

    @workflow
    async def real(ctx: Context) -> str:
        await ctx.sleep(0.05)
        return await ctx.call_activity(slow_once)

    tried: list[int] = []
    async with Engine(f"sqlite:///{tmp_path / 'store.db'}") as engine:
        handle = await engine.start(real.options(start_delay=0.05))
        assert (await handle.status()).status is Status.PENDING
        assert await handle.result(timeout=10) == "second"
