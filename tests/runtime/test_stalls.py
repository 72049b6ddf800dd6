"""Poison hurts its own instance only, visibly; nothing is lost, and it goes on once the cause is gone (I42)."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    Client,
    Context,
    InstanceExists,
    InstanceStalled,
    Status,
    StorageError,
    WorkflowFailed,
    WorkflowTerminated,
    activity,
    activity_context,
    workflow,
)
from durableflow.backends.base import Commit, HistoryRow, Outgoing
from durableflow.backends.sqlite import SqliteBackend
from durableflow.model import events as ev
from durableflow.observe import facts

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of conftest.py


@workflow
async def waits(ctx: Context) -> list[Any]:
    heard = []
    while (word := await ctx.wait_for_event("word")) != "end":
        heard.append(word)
    return heard


def changed() -> Any:
    @workflow(name="waits")
    async def waits_otherwise(ctx: Context) -> list[Any]:
        await ctx.sleep(1)
        return await ctx.wait_for_event("word")

    return waits_otherwise


waits_otherwise = changed()


@activity
async def known(number: int) -> int:
    return number


async def assert_others_go_on(engine: Any) -> None:
    handle = await engine.start(waits.options(instance_id=f"healthy {time.monotonic_ns()}"))
    await handle.raise_event("word", 1)
    await handle.raise_event("word", "end")
    async with asyncio.timeout(5):
        assert await handle.result() == [1]


# -- code that changed, or is not there ------------------------------------------------------------------------


async def test_changed_code_stalls_an_instance_and_the_old_code_lets_it_go_on(world: World) -> None:
    async with world.engine() as engine:
        handle = await engine.start(waits.options(instance_id="i"))
        await handle.raise_event("word", 1)
    async with world.engine(workflows=[waits_otherwise]) as engine:
        with pytest.raises(InstanceStalled, match=r"history #2 .* recorded wait for event 'word'.*timer.*test_stalls"):
            await _load(world, engine, "i")
        await engine.raise_event("i", "word", 2)  # kept
        await world.settle()
        status = await engine.status("i")
        assert (status.status, status.stall_reason is not None) == (Status.STALLED, True)
        with pytest.raises(InstanceStalled):
            await engine.result("i")
        assert len(world.told(facts.InstanceStalled)) == 1
        assert len(await engine.history("i")) == 4
    async with world.engine(workflows=[waits]) as engine:
        await world.settle()
        status = await engine.status("i")
        assert (status.status, status.stall_reason) == (Status.RUNNING, None)
        await engine.raise_event("i", "word", "end")
        assert await engine.result("i") == [1, 2]


async def _load(world: World, engine: Any, instance_id: str) -> None:
    await world.worker(engine).instances.load(instance_id)


async def test_a_workflow_that_is_not_known_stalls_until_it_is(world: World) -> None:
    async with world.engine() as engine:
        await engine.start(waits.options(instance_id="i"))
    async with world.engine() as engine:
        await engine.raise_event("i", "word", 1)
        assert "workflow 'waits' is not registered here" in (await engine.status("i")).stall_reason
        engine.register(waits)
        await engine.wait_for_status("i", Status.RUNNING, timeout=5)
        await engine.raise_event("i", "word", "end")
        assert await engine.result("i") == [1]


async def test_another_version_stalls(world: World) -> None:
    @workflow(name="versioned", version=1)
    async def first(ctx: Context) -> str:
        await ctx.wait_for_event("go")
        return "first"

    @workflow(name="versioned", version=2)
    async def second(ctx: Context) -> str:
        return "second"

    async with world.engine() as engine:
        await engine.start(first.options(instance_id="i"))
    async with world.engine(workflows=[second]) as engine:
        await engine.raise_event("i", "go")
        reason = (await engine.status("i")).stall_reason
        assert "started by version 1 of workflow 'versioned', but here are registered only: 2; keep the old" in reason
    async with world.engine(workflows=[first]) as engine:
        assert await engine.result("i") == "first"


async def test_several_versions_work_beside_each_other(world: World) -> None:
    @workflow(name="versioned", version=1)
    async def first(ctx: Context) -> str:
        await ctx.wait_for_event("go")
        return "first"

    @workflow(name="versioned", version=2)
    async def second(ctx: Context) -> str:
        await ctx.wait_for_event("go")
        return "second"

    async with world.engine() as engine:
        await engine.start(first.options(instance_id="i"))
    async with world.engine(workflows=[second, first]) as engine:
        await engine.start(second.options(instance_id="j"))
        for instance_id in ("i", "j"):
            await engine.raise_event(instance_id, "go")
        assert [await engine.result("i"), await engine.result("j")] == ["first", "second"]
    async with world.engine(workflows=[second]) as engine:
        await engine.start(first.options(instance_id="k"))
        await engine.raise_event("k", "go")
        assert await engine.result("k") == "first"  # what is started here is known here


async def test_an_activity_that_is_not_known_stalls_and_harms_nothing_that_runs_beside_it(world: World) -> None:
    calls: list[tuple[str, int]] = []
    gate = asyncio.Event()

    @activity(retry=1)
    async def beside() -> str:
        calls.append(("beside", activity_context().attempt))
        await gate.wait()
        return "beside"

    @activity
    async def unknown() -> str:
        calls.append(("unknown", activity_context().attempt))
        return "known now"

    @workflow
    async def both(ctx: Context) -> list[str]:
        task = ctx.call_activity(beside)
        await ctx.wait_for_event("go")
        return await ctx.when_all([task, ctx.call_activity_by_name("unknown")])

    async with world.engine() as engine:
        handle = await engine.start(both)
        await world.settle()
        await handle.raise_event("go")
        with pytest.raises(InstanceStalled, match="activity 'unknown' is not registered here"):
            await handle.result()
        assert (await handle.status()).status is Status.STALLED
        await assert_others_go_on(engine)
        gate.set()
        engine.register(unknown)
        await engine.wait_for_status(handle.id, Status.RUNNING, Status.COMPLETED, timeout=5)
        assert await handle.result() == ["beside", "known now"]
    assert calls[0] == ("beside", 1)
    assert sorted(calls[1:]) == [("beside", 2), ("unknown", 1)]  # taken away by us: it did not count


async def test_a_stall_of_an_activity_that_is_not_known_outlives_a_crash(world: World) -> None:
    attempts: list[int] = []

    @activity(retry=1)
    async def beside() -> str:
        attempts.append(activity_context().attempt)
        if activity_context().attempt == 1:
            await asyncio.get_running_loop().create_future()
        return "beside"

    @activity
    async def unknown() -> str:
        return "known now"

    @workflow
    async def both(ctx: Context) -> list[str]:
        task = ctx.call_activity(beside)
        await ctx.wait_for_event("go")
        return await ctx.when_all([task, ctx.call_activity_by_name("unknown")])

    engine = await world.open()
    handle = await engine.start(both)
    await world.settle()
    await handle.raise_event("go")
    with pytest.raises(InstanceStalled):
        await handle.result()
    await world.crash(engine)
    async with world.engine(workflows=[both], activities=[beside, unknown]) as engine:
        assert await engine.result(handle.id) == ["beside", "known now"]
    assert attempts == [1, 2]


# -- rows and messages that cannot be read ---------------------------------------------------------------------


def spoil(world: World, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(world.path)) as connection:
        changed = connection.execute(sql, values).rowcount
        connection.commit()
        assert changed == 1


@pytest.mark.parametrize("events", [b"", b"garbage", b"\x91\x91\xa7unknown", b"\x91\x92\xaetimer_from_2031\x01"])
async def test_a_corrupt_row_stalls_and_the_right_one_lets_it_go_on(sqlite_world: World, events: bytes) -> None:
    """I10: what is not known is never skipped."""
    world = sqlite_world
    async with world.engine() as engine:
        for instance_id in ("i", "j"):
            await engine.start(waits.options(instance_id=instance_id))
            await engine.raise_event(instance_id, "word", 1)
        (right,) = [row.events for row in await engine._backend.history("i", 3, 1)]
    spoil(world, "update history set events = ? where instance = 'i' and first_seq = 3", events)
    async with world.engine(workflows=[waits]) as engine:
        await engine.raise_event("i", "word", 2)
        reason = (await engine.status("i")).stall_reason
        assert "#3" in reason
        await engine.raise_event("j", "word", "end")
        assert await engine.result("j") == [1]
    spoil(world, "update history set events = ? where instance = 'i' and first_seq = 3", right)
    async with world.engine(workflows=[waits]) as engine:
        await engine.raise_event("i", "word", "end")
        assert await engine.result("i") == [1, 2]


@pytest.mark.parametrize("spoilt", ["status = 'ASLEEP'", "tags = '{'", "version = 'one'"])
async def test_a_row_that_cannot_be_read_is_written_again_from_the_history_or_stalls(
    sqlite_world: World, spoilt: str
) -> None:
    world = sqlite_world
    async with world.engine() as engine:
        for instance_id in ("i", "j"):
            await engine.start(waits.options(instance_id=instance_id))
    spoil(world, f"update instances set {spoilt} where id = 'i'")
    async with world.engine(workflows=[waits]) as engine:
        assert (await engine.status("i")).status is (Status.RUNNING if "tags" in spoilt else Status.STALLED)
        assert {each.instance_id for each in (await engine.list()).instances} == {"i", "j"}
        await engine.raise_event("j", "word", "end")
        assert await engine.result("j") == []
        await engine.raise_event("i", "word", "end")
        if "version" in spoilt:
            with pytest.raises(InstanceStalled, match="version 0 of workflow 'waits'"):
                await engine.result("i")
        else:
            assert await engine.result("i") == []
            assert (await engine.status("i")).status is Status.COMPLETED


async def test_what_cannot_be_loaded_with_others_is_tried_alone(world: World, faulty: FaultyBackend) -> None:
    async with world.engine(faulty) as engine:
        for n in range(5):
            await engine.start(waits.options(instance_id=f"i{n}"))
    load = faulty.load

    async def load_all_but_one(instance_ids: Any, lease: Any = None) -> Any:
        if "i3" in instance_ids:
            raise TypeError("planted")
        return await load(instance_ids, lease)

    faulty.load = load_all_but_one
    async with world.engine(faulty, workflows=[waits]) as engine:
        asked = [asyncio.ensure_future(engine.raise_event(f"i{n}", "word", "end")) for n in range(5)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(type(answer) is StorageError for answer in answers)
        await world.advance(2)
        for n in (0, 1, 2, 4):
            await engine.raise_event(f"i{n}", "word", "end")
            assert await engine.result(f"i{n}") == []
        with pytest.raises(StorageError, match="'i3' and 0 more cannot be loaded: TypeError"):
            await engine.raise_event("i3", "word", "end")
        del faulty.load
        await world.advance(2)
        await engine.raise_event("i3", "word", "end")
        assert await engine.result("i3") == []


async def test_a_hole_in_the_history_stalls(sqlite_world: World) -> None:
    world = sqlite_world
    async with world.engine() as engine:
        await engine.start(waits.options(instance_id="i"))
        for n in range(3):
            await engine.raise_event("i", "word", n)
    spoil(world, "delete from history where instance = 'i' and first_seq = 5")
    async with world.engine(workflows=[waits]) as engine:
        await engine.raise_event("i", "word", "end")
        assert "must follow" in (await engine.status("i")).stall_reason
        await assert_others_go_on(engine)


async def test_a_message_that_cannot_be_read_stalls_its_instance_only(world: World) -> None:
    backend = world.backend()
    async with world.engine(workflows=[waits]) as engine:
        await engine.start(waits.options(instance_id="i"))
        async with Client(backend, clock=world.clock):
            await backend.send([Outgoing("i", b"garbage")])
            await engine.wait_for_status("i", Status.STALLED, timeout=5)
            assert "message 1 in its inbox cannot be read" in (await engine.status("i")).stall_reason
            await assert_others_go_on(engine)
            await engine.raise_event("i", "word", "kept")
            (loaded,) = await backend.load(["i"])
            assert len(loaded.messages) == 2


async def test_a_start_that_cannot_be_read_stalls(world: World) -> None:
    backend = world.backend()
    async with world.engine(workflows=[waits]) as engine, Client(backend, clock=world.clock) as client:
        await client.start(waits.options(instance_id="first"))
        await engine.raise_event("first", "word", "end")
        await engine.result("first")
        record = await backend.record("first")
        from durableflow.backends.base import NewInstance

        new = NewInstance("second", "waits", 1, Status.PENDING, record.created_us, 0, {})
        await backend.send([Outgoing("second", b"\xc1", new)])
        await engine.wait_for_status("second", Status.STALLED, timeout=5)
        await assert_others_go_on(engine)


# -- turns that do not come to a wait --------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_turn_that_blocks_the_loop_is_reported_with_its_line(world: World) -> None:
    @workflow
    async def blocks(ctx: Context) -> str:
        block()
        return "done"

    async with world.engine(turn_warn_s=0.05) as engine:
        assert await (await engine.start(blocks)).result() == "done"
    blocked = world.told(facts.TurnBlocked)
    assert len(blocked) == 1
    assert "test_stalls.py" in blocked[0].location
    assert " in block" in blocked[0].location


def block() -> None:
    time.sleep(0.25)


def spin() -> None:
    while True:
        pass


def spin_and_swallow() -> None:
    while True:
        try:
            spin()
        except Exception:
            continue


@pytest.mark.slow
@pytest.mark.parametrize("how", [spin, spin_and_swallow])
async def test_a_turn_that_never_ends_is_stopped_and_the_others_go_on(world: World, how: Any) -> None:
    tame: list[bool] = []

    @workflow
    async def spins(ctx: Context) -> str:
        await ctx.wait_for_event("go")
        if not tame:
            how()
        return "tame"

    async with world.engine(turn_warn_s=0.05, turn_limit_s=0.15) as engine:
        handle = await engine.start(spins)
        await handle.raise_event("go")
        with pytest.raises(
            InstanceStalled, match=r"did not come to a wait and was stopped at .*test_stalls\.py:\d+ in spin"
        ):
            await handle.result()
        status = await handle.status()
        assert status.status is Status.STALLED
        await assert_others_go_on(engine)
    tame.append(True)
    async with world.engine(workflows=[spins]) as engine:
        assert await engine.result(handle.id) == "tame"  # the event was kept


@pytest.mark.slow
@pytest.mark.parametrize("how", [spin, spin_and_swallow])
async def test_a_finally_block_that_never_ends_is_stopped_when_its_instance_is_put_away(world: World, how: Any) -> None:
    tame: list[bool] = []

    @workflow
    def spins(ctx: Context) -> Any:
        try:
            yield from ctx.wait_for_event("go")
        finally:
            if not tame:
                how()
        return "tame"

    async with world.engine(turn_warn_s=0.05, turn_limit_s=0.15, cached_instances=0) as engine:
        handle = await engine.start(spins)
        await world.until(lambda: engine.statistics().evictions)
        await assert_others_go_on(engine)
        tame.append(True)
        await handle.raise_event("go")
        assert await handle.result() == "tame"
    assert world.told(facts.TurnBlocked)


@pytest.mark.slow
async def test_a_start_that_spins_is_acknowledged_kept_and_stalled(world: World) -> None:
    tame: list[bool] = []

    @workflow
    async def spins(ctx: Context) -> str:
        if not tame:
            spin()
        return "tame"

    async with world.engine(turn_warn_s=0.05, turn_limit_s=0.15) as engine:
        handle = await engine.start(spins.options(instance_id="i", tags={"k": "v"}))
        await engine.wait_for_status("i", Status.STALLED, timeout=5)
        with pytest.raises(InstanceExists):
            await engine.start(spins.options(instance_id="i", on_conflict="fail"))
        assert [each.instance_id for each in (await engine.list(tags={"k": "v"})).instances] == ["i"]
        await handle.raise_event("word", 1)
    tame.append(True)
    async with world.engine(workflows=[spins]) as engine:
        assert await engine.result("i") == "tame"
        kinds = [each.kind for each in await engine.history("i")]
        assert kinds == ["instance_started", "instance_completed"]


@pytest.mark.slow
async def test_a_replay_that_spins_stalls(world: World) -> None:
    wild: list[bool] = []

    @workflow
    async def turns_wild(ctx: Context) -> None:
        if wild:
            spin()
        await ctx.wait_for_event("go")

    async with world.engine() as engine:
        await engine.start(turns_wild.options(instance_id="i"))
    wild.append(True)
    async with world.engine(workflows=[turns_wild], turn_warn_s=0.05, turn_limit_s=0.15) as engine:
        await engine.raise_event("i", "go")
        assert "was stopped at" in (await engine.status("i")).stall_reason
        await assert_others_go_on(engine)


# -- values and histories that are too much --------------------------------------------------------------------


async def test_what_a_workflow_returns_and_cannot_be_stored_fails_it(world: World) -> None:
    @workflow
    async def odd(ctx: Context) -> Any:
        return object()

    @workflow
    async def large(ctx: Context) -> str:
        return "x" * 2_000

    async with world.engine(payload_limit_bytes=1_000) as engine:
        with pytest.raises(WorkflowFailed, match=r"PayloadError: the result of workflow 'odd'"):
            await (await engine.start(odd)).result()
        with pytest.raises(WorkflowFailed, match=r"PayloadTooLarge: the result of workflow 'large'"):
            await (await engine.start(large)).result()
        await assert_others_go_on(engine)


async def test_recursion_and_other_ends_of_a_workflow_fail_it_alone(world: World) -> None:
    def down(depth: int) -> int:
        return down(depth + 1)

    @workflow
    async def recurses(ctx: Context) -> int:
        return down(0)

    @workflow
    async def exits(ctx: Context) -> None:
        raise SystemExit(3)

    async with world.engine() as engine:
        with pytest.raises(WorkflowFailed, match="RecursionError"):
            await (await engine.start(recurses)).result()
        with pytest.raises(WorkflowFailed, match="SystemExit"):
            await (await engine.start(exits)).result()
        await assert_others_go_on(engine)


async def test_a_history_over_the_hard_limit_stalls_and_a_higher_limit_lets_it_go_on(world: World) -> None:
    @workflow
    async def greedy(ctx: Context) -> int:
        number = 0
        while number < 30:
            number = await ctx.call_activity(known, number + 1)
        return number

    async with world.engine(history_hard_limit=20) as engine:
        handle = await engine.start(greedy)
        with pytest.raises(InstanceStalled, match="over the limit of 20"):
            await handle.result()
        assert (await handle.status()).status is Status.STALLED
        await assert_others_go_on(engine)
    async with world.engine(history_hard_limit=20, workflows=[greedy], activities=[known]) as engine:
        await world.settle()
        assert (await engine.status(handle.id)).status is Status.STALLED
    async with world.engine(workflows=[greedy], activities=[known]) as engine:
        assert await engine.result(handle.id) == 30


# -- what a stalled instance still takes -----------------------------------------------------------------------


async def stall(world: World, engine: Any, instance_id: str) -> Any:
    """An instance that waits for an event, and cannot be replayed."""
    handle = await engine.start(waits.options(instance_id=instance_id))
    await handle.raise_event("word", 1)
    await world.settle()
    worker = world.worker(engine)
    worker.instances.forget(worker.instances.live[instance_id], None)
    engine._registry.workflows["waits", 1] = waits_otherwise
    with pytest.raises(InstanceStalled):
        await worker.instances.load(instance_id)
    return handle


async def test_a_stalled_instance_can_be_terminated_and_purged(world: World) -> None:
    async with world.engine() as engine:
        handle = await stall(world, engine, "i")
        await handle.terminate("enough")
        with pytest.raises(WorkflowTerminated, match="enough"):
            await handle.result()
        status = await handle.status()
        assert (status.status, status.stall_reason) == (Status.TERMINATED, None)
        assert [each.kind for each in await handle.history()][-1] == "instance_terminated"
        await handle.purge()


async def test_a_stalled_instance_can_be_terminated_from_another_process(world: World) -> None:
    backend = world.backend()
    async with world.engine() as engine, Client(backend, clock=world.clock) as client:
        await stall(world, engine, "i")
        waiting = asyncio.ensure_future(engine.wait_for_status("i", Status.TERMINATED, timeout=5))
        await client.terminate("i", "from afar")
        await waiting
        with pytest.raises(WorkflowTerminated, match="from afar"):
            await client.result("i")


async def test_a_stalled_start_can_be_terminated_and_its_history_is_a_history(world: World) -> None:
    """I3: the first event is the start, also of one that never had a turn."""
    backend = world.backend()
    async with world.engine() as engine, Client(backend, clock=world.clock) as client:
        handle = await client.start(waits.options(instance_id="i"))
        await engine.wait_for_status("i", Status.STALLED, timeout=5)
        await handle.terminate()
        await engine.wait_for_status("i", Status.TERMINATED, timeout=5)
        kinds = [each.kind for each in await engine.history("i")]
        assert kinds == ["instance_started", "instance_terminated"]
        assert await backend.inbox(0, 10) == []


async def test_suspend_resume_and_cancel_of_a_stalled_instance_are_kept_for_when_it_goes_on(world: World) -> None:
    async with world.engine() as engine:
        handle = await stall(world, engine, "i")
        await handle.suspend()
        await handle.raise_event("word", 2)
        await handle.resume()
        await handle.raise_event("word", "end")
        assert (await handle.status()).status is Status.STALLED
    async with world.engine(workflows=[waits]) as engine:
        assert await engine.result("i") == [1, 2]


async def test_a_stall_is_told_when_it_is_durable(world: World, faulty: FaultyBackend) -> None:
    async with world.engine() as engine:
        await engine.start(waits.options(instance_id="i"))
    async with world.engine(faulty, workflows=[waits_otherwise]) as engine:
        faulty.gate.clear()
        raising = asyncio.ensure_future(engine.raise_event("i", "word"))
        waiting = asyncio.ensure_future(engine.result("i"))
        await world.until(lambda: faulty.commits)
        await asyncio.sleep(0.005)
        assert not raising.done()
        assert not waiting.done()
        assert world.told(facts.InstanceStalled) == []
        faulty.gate.set()
        with pytest.raises(InstanceStalled):
            await waiting
        await raising
        assert (await engine.status("i")).status is Status.STALLED


async def test_a_stall_that_cannot_be_written_is_tried_again(world: World, faulty: FaultyBackend) -> None:
    async with world.engine() as engine:
        await engine.start(waits.options(instance_id="i"))
    async with world.engine(faulty, workflows=[waits_otherwise]) as engine:
        faulty.faults = ["refuse"]
        await world.settle()
        with pytest.raises(Exception, match="planted"):
            await engine.raise_event("i", "word")
        await world.advance(2)
        assert (await engine.status("i")).status is Status.STALLED


async def test_a_stall_does_not_undo_an_end(world: World, faulty: FaultyBackend) -> None:
    """The instance that was revived while its stall was on its way ends, and stays over."""
    async with world.engine(faulty) as engine:
        handle = await stall(world, engine, "i")
        engine._registry.workflows["waits", 1] = waits
        world.worker(engine).retry_stalled()
        await handle.raise_event("word", "end")
        assert await handle.result() == [1]
        await world.settle()
        status = await handle.status()
        assert (status.status, status.wakes_at) == (Status.COMPLETED, None)


async def test_many_stalled_instances_go_on_together(world: World) -> None:
    async with world.engine() as engine:
        for n in range(40):
            await engine.start(waits.options(instance_id=f"i{n}"))
            await engine.raise_event(f"i{n}", "word", n)
    async with world.engine(cached_instances=3) as engine:
        for n in range(40):
            await engine.raise_event(f"i{n}", "word", "end")
        assert len((await engine.list(status=Status.STALLED)).instances) == 40
        engine.register(waits)
        results = await asyncio.gather(
            *(engine.wait_for_status(f"i{n}", Status.COMPLETED, timeout=5) for n in range(40))
        )
        assert [result.status for result in results] == [Status.COMPLETED] * 40


async def test_a_defect_of_the_engine_hurts_one_instance(world: World) -> None:
    class Broken:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def advance(self, *_: object, **__: object) -> Any:
            raise ZeroDivisionError("a defect")

    async with world.engine() as engine:
        handle = await engine.start(waits.options(instance_id="i"))
        await world.settle()
        live = world.worker(engine).instances.live["i"]
        live.execution = Broken(live.execution)
        await handle.raise_event("word", 1)
        await engine.wait_for_status("i", Status.STALLED, timeout=5)
        assert "please report it" in (await handle.status()).stall_reason
        await assert_others_go_on(engine)
    async with world.engine(workflows=[waits]) as engine:
        await engine.raise_event("i", "word", "end")
        assert await engine.result("i") == [1]


async def test_a_row_that_somebody_else_wrote_is_never_overwritten(world: World) -> None:
    """The log is the truth: what does not follow from it is forgotten."""
    backend = world.backend()
    async with world.engine(workflows=[waits]) as engine:
        handle = await engine.start(waits.options(instance_id="i"))
        await world.settle()
        event = ev.EventReceived("word", b'"from elsewhere"')
        row = HistoryRow("i", 3, world.clock.now, ev.dump_events([event, ev.EventAwaited(2, "word")]))
        if isinstance(backend, SqliteBackend):
            await backend.open()
        await backend.commit(world.worker(engine).lease, Commit(rows=[row]))
        with pytest.raises(Exception, match="not in the log"):
            await handle.raise_event("word", "mine")
        await handle.raise_event("word", "mine again")
        await handle.raise_event("word", "end")
        assert await handle.result() == ["from elsewhere", "mine again"]
        await backend.close()


async def test_an_instance_without_a_beginning_stalls(sqlite_world: World) -> None:
    """I3: an event is never the first of a history."""
    world = sqlite_world
    async with world.engine() as engine:
        await engine.start(waits.options(instance_id="i"))
    with closing(sqlite3.connect(world.path)) as connection:
        connection.execute("delete from history")
        connection.commit()
    async with world.engine(workflows=[waits]) as engine:
        await engine.raise_event("i", "word", 1)
        assert "neither a history nor a start" in (await engine.status("i")).stall_reason
        assert await engine.history("i") == []
