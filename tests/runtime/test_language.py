"""What workflows have to do with others and with themselves, through real engines on real stores."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    ChildFailed,
    Client,
    Context,
    InstanceExists,
    InstanceNotActive,
    InstanceStalled,
    MessageFailed,
    NonRetryableError,
    RequestFailed,
    Status,
    UsageError,
    WorkflowFailed,
    activity,
    workflow,
)
from durableflow.model import events as ev
from durableflow.observe import facts

if TYPE_CHECKING:
    World = FaultyBackend = Any  # of conftest.py


called: list[Any] = []
broken: set[Any] = set()


@pytest.fixture(autouse=True)
def fresh() -> None:
    called.clear()
    broken.clear()


@activity
async def do(what: Any) -> Any:
    called.append(what)
    if what in broken:
        raise NonRetryableError(f"{what} is broken")
    return what


@workflow
async def leaf(ctx: Context, n: int) -> int:
    await ctx.wait_for_event("go")
    return int(await ctx.call_activity(do, n))


@workflow
async def tree(ctx: Context, depth: int, close: str) -> int:
    if depth == 0:
        return await ctx.call_workflow(leaf.options(parent_close=close), 1)
    options = tree.options(parent_close=close)
    return sum(await ctx.when_all([ctx.call_workflow(options, depth - 1, close) for _ in range(2)]))


async def statuses(client: Any) -> dict[str, str]:
    return {each.instance_id: str(each.status) for each in (await client.list(limit=500)).instances}


# -- families -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [0, 1_000])
async def test_a_tree_of_children_comes_to_its_sum_whether_parents_are_in_memory_or_not(
    world: World, cached: int
) -> None:
    async with world.engine(check_replay=True, cached_instances=cached) as engine:
        handle = await engine.start(tree.options(instance_id="t"), 2, "terminate")
        await world.settle()
        known = await statuses(engine)
        leaves = [each for each in known if each.count("/") == 3]
        assert (len(known), len(leaves)) == (11, 4)
        children = await engine.list(parent="t")
        assert sorted(each.instance_id for each in children.instances) == ["t/1", "t/2"]
        for each in leaves:
            await engine.raise_event(each, "go")
        assert await handle.result(timeout=10) == 4
        if cached == 0:
            assert engine.statistics().evictions > 0


@pytest.mark.parametrize(
    ("close", "end"), [("terminate", "TERMINATED"), ("cancel", "CANCELLED"), ("abandon", "RUNNING")]
)
async def test_terminating_the_root_reaches_every_leaf_as_the_calls_said(world: World, close: str, end: str) -> None:
    async with world.engine(check_replay=True) as engine:
        handle = await engine.start(tree.options(instance_id="t"), 2, close)
        await world.settle()
        await handle.terminate("enough")
        await world.settle()
        known = await statuses(engine)
        assert known.pop("t") == "TERMINATED"
        assert set(known.values()) == {end}


async def test_terminating_a_stalled_parent_reaches_its_children(world: World) -> None:
    @workflow(name="tree")
    async def changed(ctx: Context, depth: int, close: str) -> None:
        await ctx.sleep(1)

    async with world.engine(workflows=[tree, leaf]) as engine:
        await engine.start(tree.options(instance_id="t"), 1, "terminate")
        await world.settle()
    async with world.engine(workflows=[changed, leaf]) as engine:
        with pytest.raises(InstanceStalled):
            await world.worker(engine).instances.load("t")
        await engine.terminate("t", "enough")
        for _ in range(5):
            await world.advance(2)
        known = await statuses(engine)
        assert set(known.values()) == {"TERMINATED"}, known
        assert len(known) == 5


async def test_a_child_that_is_told_to_stop_by_a_parent_in_no_memory_is_told_by_the_store(world: World) -> None:
    async with world.engine() as engine:
        await engine.start(tree.options(instance_id="t"), 0, "terminate")
        await world.settle()
    async with Client(world.backend(), clock=world.clock) as client:
        await client.terminate("t")
        async with world.engine() as engine:
            await world.settle()
            assert await statuses(engine) == {"t": "TERMINATED", "t/1": "TERMINATED"}


async def test_the_failure_of_a_child_is_its_parents_with_its_cause(world: World) -> None:
    broken.add(1)
    async with world.engine(check_replay=True) as engine:
        handle = await engine.start(tree.options(instance_id="t"), 0, "terminate")
        await world.settle()
        await engine.raise_event("t/1", "go")
        with pytest.raises(WorkflowFailed, match=r"child 't/1' \(workflow 'leaf'\) is FAILED.*do.*1 is broken"):
            await handle.result(timeout=5)


async def test_an_id_that_is_taken_fails_the_call_and_hurts_nobody(world: World) -> None:
    @workflow
    async def calls(ctx: Context) -> str:
        try:
            await ctx.call_workflow(leaf.options(instance_id="taken"), 5)
        except ChildFailed as error:
            return f"{error.status} {error.type_name}"
        return "?"

    async with world.engine(check_replay=True) as engine:
        other = await engine.start(leaf.options(instance_id="taken"), 7)
        handle = await engine.start(calls)
        assert await handle.result(timeout=5) == "None InstanceExists"
        await other.raise_event("go")
        assert await other.result(timeout=5) == 7


async def test_a_child_may_replace_one_that_is_over_and_not_one_that_is_not(world: World) -> None:
    @workflow
    async def calls(ctx: Context) -> Any:
        try:
            return await ctx.call_workflow(leaf.options(instance_id="x", on_conflict="replace"), 5)
        except ChildFailed as error:
            return error.type_name

    async with world.engine(check_replay=True) as engine:
        old = await engine.start(leaf.options(instance_id="x"), 7)
        handle = await engine.start(calls)
        assert await handle.result(timeout=5) == "InstanceExists"
        await old.raise_event("go")
        await old.result(timeout=5)
        handle = await engine.start(calls)
        await world.settle()
        await engine.raise_event("x", "go")
        assert await handle.result(timeout=5) == 5
        assert (await engine.list(parent=handle.id)).instances[0].instance_id == "x"


async def test_a_child_that_outlives_its_parent_tells_nobody_and_is_over(world: World) -> None:
    async with world.engine(check_replay=True) as engine:
        await engine.start(tree.options(instance_id="t"), 0, "abandon")
        await world.settle()
        await engine.terminate("t")
        await engine.purge("t")
        await engine.raise_event("t/1", "go")
        assert await engine.result("t/1", timeout=5) == 1
        await world.settle()


# -- messages -------------------------------------------------------------------------------------------------


@workflow
async def tells(ctx: Context, whom: str) -> str:
    try:
        await ctx.raise_event(whom, "go")
    except MessageFailed as error:
        return error.outcome
    return "delivered"


async def test_a_message_is_delivered_missing_or_too_late(world: World) -> None:
    async with world.engine(check_replay=True) as engine:
        assert await (await engine.start(tells, "nobody")).result(timeout=5) == "missing"
        other = await engine.start(leaf.options(instance_id="x"), 7)
        assert await (await engine.start(tells, "x")).result(timeout=5) == "delivered"
        assert await other.result(timeout=5) == 7
        assert await (await engine.start(tells, "x")).result(timeout=5) == "over"


async def test_an_instance_may_write_to_itself(world: World) -> None:
    @workflow
    async def echo(ctx: Context) -> Any:
        ctx.raise_event(ctx.instance_id, "hi", 5)
        return await ctx.wait_for_event("hi")

    async with world.engine(check_replay=True) as engine:
        assert await (await engine.start(echo)).result(timeout=5) == 5


async def test_two_write_to_each_other_for_long(world: World) -> None:
    @workflow
    async def player(ctx: Context, other: str, serves: bool) -> int:
        hits = 0
        if serves:
            await ctx.raise_event(other, "ball", 0)
        while hits < 20:
            hits = await ctx.wait_for_event("ball", int) + 1
            if hits <= 20:
                await ctx.raise_event(other, "ball", hits)
        return hits

    async with world.engine(check_replay=True, cached_instances=1) as engine:
        a = await engine.start(player.options(instance_id="a"), "b", False)
        b = await engine.start(player.options(instance_id="b"), "a", True)
        assert {await a.result(timeout=10), await b.result(timeout=10)} <= {20, 21}


@pytest.mark.parametrize("parked", [False, True])
async def test_a_message_that_came_with_a_load_is_not_told_again_by_whoever_read_it_too(
    world: World, parked: bool
) -> None:
    """The reader has it in hand while the instance takes it, leaves memory and comes back."""
    backend = world.backend()
    gate, is_read = asyncio.Event(), asyncio.Event()
    gate.set()
    real = backend.inbox

    async def slow(after: int, limit: int) -> Any:
        messages = await real(after, limit)
        if messages:
            is_read.set()
            await gate.wait()
        return messages

    backend.inbox = slow
    async with world.engine(backend) as engine, Client(world.backend(), clock=world.clock) as client:
        await engine.start(counts.options(instance_id="c"), 10)
        await world.settle()
        instances = world.worker(engine).instances
        instances.forget(instances.live["c"], None)
        gate.clear()
        await client.raise_event("c", "one", 1)
        world.worker(engine).look_into_inbox()
        await is_read.wait()
        live = await instances.load("c")
        await world.until(lambda: live.execution.observed == 2)
        await world.until(lambda: live.is_idle)
        instances.forget(live, None)
        if parked:
            instances.want("c")
            gate.set()
            await asyncio.sleep(0)
        live = await instances.load("c")
        gate.set()
        await world.settle()
        await engine.raise_event("c", "one", 9)
        assert await engine.result("c", timeout=5) == 10
        received = [each for each in await engine.history("c") if each.kind == "event_received"]
        assert [each.event.payload for each in received] == [b"1", b"9"], "each once"
    del backend.inbox


async def test_messages_of_one_sender_keep_their_order_though_the_instance_is_being_loaded(world: World) -> None:
    """The first is read while the instance is loaded without it; the second is in the reader's hand by then."""
    backend = world.backend()
    load_gate, inbox_gate, is_read = asyncio.Event(), asyncio.Event(), asyncio.Event()
    inbox_gate.set()
    real_load, real_inbox = backend.load, backend.inbox

    async def slow_load(ids: Any, lease: Any = None) -> Any:
        loaded = await real_load(ids, lease)
        await load_gate.wait()
        return loaded

    async def slow_inbox(after: int, limit: int) -> Any:
        messages = await real_inbox(after, limit)
        if not inbox_gate.is_set():
            is_read.set()
            await inbox_gate.wait()
        return messages

    async with world.engine(backend) as engine, Client(world.backend(), clock=world.clock) as client:
        await engine.start(counts.options(instance_id="c"), 10)
        await world.settle()
        worker = world.worker(engine)
        worker.instances.forget(worker.instances.live["c"], None)
        backend.load, backend.inbox = slow_load, slow_inbox
        worker.instances.want("c")
        await asyncio.sleep(0.02)  # the snapshot is taken
        await client.raise_event("c", "one", 1)
        worker.look_into_inbox()
        await world.until(lambda: "c" in worker._inbox._parked)
        inbox_gate.clear()
        await client.raise_event("c", "one", 9)
        worker.look_into_inbox()
        await is_read.wait()
        load_gate.set()
        await world.until(lambda: "c" in worker.instances.live)
        inbox_gate.set()
        assert await engine.result("c", timeout=5) == 10
        received = [each for each in await engine.history("c") if each.kind == "event_received"]
        assert [each.event.payload for each in received] == [b"1", b"9"]
    del backend.load, backend.inbox


# -- rounds ---------------------------------------------------------------------------------------------------


@workflow
def rounds(ctx: Context, n: int, until: int) -> Any:
    yield from ctx.sleep(0)
    return n if n == until else ctx.continue_as_new(n + 1, until)


async def test_rounds_of_one_instance_are_one_history_and_one_result(world: World) -> None:
    async with world.engine(check_replay=True) as engine:
        handle = await engine.start(rounds.options(instance_id="r", tags={"a": "b"}), 0, 20)
        while not (await handle.status()).status.is_terminal:
            await world.advance(1)
        assert await handle.result() == 20
        view = await handle.view()
        assert (view.rounds, view.output) == (20, b"20")
        assert (await handle.status()).tags == {"a": "b"}


async def test_a_round_survives_a_crash_and_only_the_latest_is_loaded(world: World) -> None:
    @workflow
    async def steps(ctx: Context, n: int) -> int:
        await ctx.wait_for_event("go")
        if n < 3:
            ctx.continue_as_new(n + 1)
        return n

    engine = await world.open(workflows=[steps])
    await engine.start(steps.options(instance_id="s"), 0)
    for _ in range(4):
        await world.settle()
        await engine.raise_event("s", "go")
        await world.settle()
        await world.crash(engine)
        backend = world.backend()
        engine = await world.open(backend, workflows=[steps], check_replay=True)
    assert await engine.result("s", timeout=5) == 3
    await world.crash(engine)


async def test_another_version_takes_over_and_its_row_says_so(world: World) -> None:
    @workflow(name="poll", version=2)
    async def newer(ctx: Context, cursor: int) -> str:
        await ctx.wait_for_event("go")
        return f"newer at {cursor}"

    @workflow(name="poll")
    async def older(ctx: Context, cursor: int) -> str:
        await ctx.wait_for_event("go")
        ctx.continue_as_new(newer, cursor + 1)

    engine = await world.open(workflows=[older, newer])
    await engine.start(older.options(instance_id="p"), 1)
    await engine.raise_event("p", "go")
    await world.settle()
    await world.crash(engine)
    async with world.engine(workflows=[newer], check_replay=True) as engine:
        await engine.raise_event("p", "go")
        assert await engine.result("p", timeout=5) == "newer at 2"


@pytest.mark.parametrize("cached", [0, 1_000])
async def test_a_checkpoint_that_does_not_hold_what_it_says_stalls_before_it_is_written(
    world: World, cached: int
) -> None:
    @workflow
    async def forgets(ctx: Context) -> None:
        await ctx.wait_for_event("go")
        ctx.checkpoint(1)
        await ctx.call_activity(do, "x")

    async with world.engine(cached_instances=cached) as engine:
        handle = await engine.start(forgets)
        await handle.raise_event("go")
        story = r"beginning again at its checkpoint would not go the same way.*'do'.*now asks for wait for event 'go'"
        with pytest.raises(InstanceStalled, match=rf"{story}.*test_language"):
            await handle.result(timeout=5)
        kinds = [each.kind for each in await handle.history()]
        assert kinds == ["instance_started", "event_awaited"], "nothing of that turn was written"
        assert called == []


async def test_a_cancellation_that_was_held_is_not_lost_when_the_code_begins_anew(
    world: World, faulty: FaultyBackend
) -> None:
    """It goes with the commit that ends the round: there is no moment at which only memory knows it."""

    @workflow
    async def again(ctx: Context, n: int) -> int:
        await ctx.wait_for_event("go")
        ctx.continue_as_new(n + 1)

    async with world.engine(faulty, check_replay=True) as engine:
        handle = await engine.start(again, 0)
        await handle.suspend()
        await handle.raise_event("go")
        await handle.cancel("enough")
        before = len(faulty.commits)
        await handle.resume()
        assert (await handle.status()).status is Status.CANCELLED
        assert len(faulty.commits) == before + 1


@pytest.mark.slow
async def test_a_thousand_rounds_need_no_more_memory_than_one(sqlite_world: World) -> None:
    async with sqlite_world.engine() as engine:
        handle = await engine.start(rounds, 0, 1_500)
        live = sqlite_world.worker(engine).instances.live[handle.id]
        await sqlite_world.until(lambda: _round_of(live) > 300)
        gc.collect()
        tracemalloc.start()
        try:
            at_first = tracemalloc.get_traced_memory()[0]
            begun = _round_of(live)
            await sqlite_world.until(lambda: _round_of(live) > begun + 1_000)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - at_first
        finally:
            tracemalloc.stop()
        assert await handle.result(timeout=10) == 1_500
    assert grown < 100_000, f"{grown:,} bytes for a thousand rounds"


def _round_of(live: Any) -> int:
    started = live.execution.started
    return 0 if started is None or started.round is None else started.round.number


# -- requests and queries -------------------------------------------------------------------------------------


@workflow
async def cart(ctx: Context) -> list[str]:
    items: list[str] = []

    @ctx.on_request("add")
    async def add(item: str) -> int:
        await ctx.call_activity(do, item)
        items.append(item)
        return len(items)

    @ctx.on_query("items")
    def look() -> list[str]:
        return items

    await ctx.wait_for_event("pay")
    return items


@pytest.mark.slow  # a client of a store in memory looks twice a second
@pytest.mark.parametrize("cached", [0, 1_000])
async def test_requests_from_here_and_from_another_process_are_answered(world: World, cached: int) -> None:
    async with (
        world.engine(check_replay=True, cached_instances=cached) as engine,
        Client(world.backend(), clock=world.clock) as client,
    ):
        await engine.start(cart.options(instance_id="c"))
        assert await engine.request("c", "add", "lamp", result_type=int, timeout=5) == 1
        assert await client.request("c", "add", "chair", result_type=int, request_id="r", timeout=5) == 2
        assert await engine.request("c", "add", "chair", result_type=int, request_id="r", timeout=5) == 2, "once"
        broken.add("bomb")
        for asker in (engine, client):
            with pytest.raises(RequestFailed, match="bomb is broken"):
                await asker.request("c", "add", "bomb", timeout=5)
        for asker in (engine, client):
            assert await asker.query("c", "items", result_type=list[str], **_code(asker)) == ["lamp", "chair"]
            with pytest.raises(UsageError, match="has no query 'nope'"):
                await asker.query("c", "nope", **_code(asker))
        before = len(await engine.history("c"))
        await engine.query("c", "items")
        assert len(await engine.history("c")) == before
        await engine.raise_event("c", "pay")
        assert await engine.result("c", timeout=5) == ["lamp", "chair"]
        for asker in (engine, client):
            assert await asker.query("c", "items", **_code(asker)) == ["lamp", "chair"], "also when it is over"
            with pytest.raises(InstanceNotActive):
                await asker.request("c", "add", "late", timeout=5)


def _code(asker: Any) -> dict[str, Any]:
    return {"workflow": cart} if type(asker) is Client else {}


async def test_many_requests_at_once_get_each_their_own_answer(world: World) -> None:
    async with world.engine(check_replay=True) as engine:
        await engine.start(cart.options(instance_id="c"))
        answers = await asyncio.gather(
            *(engine.request("c", "add", f"item {n}", result_type=int, timeout=10) for n in range(30))
        )
        assert sorted(answers) == list(range(1, 31))


async def test_whoever_waits_for_an_answer_hears_when_the_instance_ends_without_one(world: World) -> None:
    @workflow
    async def deaf(ctx: Context) -> None:
        await ctx.wait_for_event("end")

    async with world.engine() as engine, Client(world.backend(), clock=world.clock) as client:
        handle = await engine.start(deaf)
        askers = [asyncio.ensure_future(each.request(handle.id, "anything")) for each in (engine, client)]
        await world.settle()
        with pytest.raises(TimeoutError, match="it stays there"):
            await engine.request(handle.id, "anything", timeout=0.01)
        await handle.raise_event("end")
        for asker in askers:
            with pytest.raises(InstanceNotActive):
                await asker


async def test_a_query_across_a_round_that_begins_meanwhile_sees_the_latest(world: World) -> None:
    @workflow
    async def days(ctx: Context, day: int) -> None:
        ctx.on_query("day")(lambda: day)
        await ctx.wait_for_event("night")
        ctx.continue_as_new(day + 1)

    async with world.engine(workflows=[days]) as engine:
        backend = world.backend()
        async with Client(backend, clock=world.clock) as client:
            await engine.start(days.options(instance_id="d"), 0)
            real = backend.record

            async def slow(instance_id: str) -> Any:
                record = await real(instance_id)
                await engine.raise_event("d", "night")
                return record

            backend.record = slow
            try:
                assert await client.query("d", "day", workflow=days) == 1
            finally:
                del backend.record


# -- starts that race -----------------------------------------------------------------------------------------


@workflow
async def counts(ctx: Context, until: int) -> int:
    total = 0
    while total < until:
        total += await ctx.wait_for_event("one", int)
    return total


async def test_fifty_who_start_it_if_need_be_and_send_an_event_are_one_instance_and_fifty_events(world: World) -> None:
    async with world.engine(check_replay=True) as engine, Client(world.backend(), clock=world.clock) as client:

        async def caller(n: int) -> None:
            asker = engine if n % 2 else client
            await asker.start(counts.options(instance_id="one"), 50)
            await asker.raise_event("one", "one", 1, event_id=f"caller {n}")

        await asyncio.gather(*(caller(n) for n in range(50)))
        assert await engine.result("one", timeout=10) == 50
        assert len(await statuses(engine)) == 1
        history = await engine.history("one")
        received = [each.event.event_id for each in history if isinstance(each.event, ev.EventReceived)]
        assert sorted(received) == sorted(f"caller {n}" for n in range(50))


# -- again ----------------------------------------------------------------------------------------------------


@workflow
async def order(ctx: Context, items: list[str]) -> list[Any]:
    parts = [ctx.call_activity(do, item) for item in items]
    got = [*await ctx.when_all(parts), await ctx.call_workflow(packing, "box")]
    return [*got, await ctx.wait_for_event("sign")]


@workflow
async def packing(ctx: Context, what: str) -> Any:
    return await ctx.call_activity(do, what)


@pytest.mark.parametrize("who", ["engine", "client"])
async def test_a_failed_instance_goes_on_from_its_failure_and_what_was_good_is_not_done_again(
    world: World, who: str
) -> None:
    async with world.engine(check_replay=True) as engine, Client(world.backend(), clock=world.clock) as client:
        asker = engine if who == "engine" else client
        broken.update({"b", "c"})
        handle = await engine.start(order.options(instance_id="o"), ["a", "b", "c"])
        await handle.raise_event("sign", "me", event_id="1")
        with pytest.raises(WorkflowFailed):
            await handle.result(timeout=5)
        with pytest.raises(WorkflowFailed):
            await asker.result("o", timeout=5)
        broken.clear()
        called.clear()
        await asker.rewind("o", reason="mended")
        assert await asker.result("o", timeout=5) == ["a", "b", "c", "box", "me"]
        assert sorted(called) == ["b", "box", "c"]
        view = await asker.view("o")
        assert (view.rewinds, view.failure) == (1, None)
        with pytest.raises(InstanceNotActive, match="rewind, which is for FAILED ones"):
            await asker.rewind("o")


async def test_children_whose_failure_it_was_are_rewound_too_and_again_when_they_fail_again(world: World) -> None:
    async with world.engine(check_replay=True) as engine:
        broken.add("box")
        handle = await engine.start(order.options(instance_id="o"), ["a"])
        for _ in range(2):
            with pytest.raises(WorkflowFailed):
                await handle.result(timeout=5)
            called.clear()
            await handle.rewind()
        with pytest.raises(WorkflowFailed):
            await handle.result(timeout=5)
        broken.clear()
        await handle.rewind()
        await handle.raise_event("sign", "me")
        assert await handle.result(timeout=5) == ["a", "box", "me"]
        assert called == ["box", "box"]
        child = (await engine.list(parent="o")).instances
        assert [each.status for each in child] == [Status.COMPLETED]
        assert (await handle.view()).rewinds == 3


async def test_a_rewound_instance_survives_a_crash_before_anybody_looks_at_it(world: World) -> None:
    broken.add("a")
    async with world.engine() as engine:
        handle = await engine.start(order.options(instance_id="o"), ["a", "b"])
        with pytest.raises(WorkflowFailed):
            await handle.result(timeout=5)
    broken.clear()
    called.clear()
    async with Client(world.backend(), clock=world.clock) as client:
        await client.rewind("o")
        await client.raise_event("o", "sign", 1)
        assert (await client.status("o")).status is Status.RUNNING
    async with world.engine(workflows=[order, packing], activities=[do], check_replay=True) as engine:
        assert await engine.result("o", timeout=5) == ["a", "b", "box", 1]
        assert called == ["a", "box"]


async def test_two_who_rewind_at_once_do_it_once(world: World) -> None:
    broken.add("a")
    async with world.engine(check_replay=True) as engine:
        handle = await engine.start(order.options(instance_id="o"), ["a"])
        with pytest.raises(WorkflowFailed):
            await handle.result(timeout=5)
        broken.clear()
        outcomes = await asyncio.gather(*(engine.rewind("o") for _ in range(5)), return_exceptions=True)
        assert outcomes.count(None) == 1, outcomes
        assert {type(each) for each in outcomes if each is not None} == {InstanceNotActive}, outcomes
        await handle.raise_event("sign", 1)
        assert await handle.result(timeout=5) == ["a", "box", 1]


@pytest.mark.parametrize("who", ["engine", "client"])
async def test_copies_go_on_by_themselves_and_the_original_is_as_it_was(world: World, who: str) -> None:
    async with world.engine(check_replay=True) as engine, Client(world.backend(), clock=world.clock) as client:
        asker = engine if who == "engine" else client
        handle = await engine.start(order.options(instance_id="o"), ["a", "b"])
        await handle.raise_event("sign", "me")
        assert await handle.result(timeout=5) == ["a", "b", "box", "me"]
        before = await handle.history()
        ends = [each.seq for each, later in pairwise(before) if later.first_seq != each.first_seq]
        for seq in ends:
            copy = await asker.fork("o", at=seq, new_id=f"copy {seq}")
            if not any(each.kind == "event_received" for each in before if each.seq <= seq):
                await copy.raise_event("sign", "me")
            assert await copy.result(timeout=5) == ["a", "b", "box", "me"]
        with pytest.raises(InstanceExists):
            await asker.fork("o", new_id=f"copy {ends[0]}")
        with pytest.raises(UsageError, match="has no event #999"):
            await asker.fork("o", at=999)
        assert await handle.history() == before


@pytest.mark.parametrize("who", ["engine", "client"])
async def test_a_restart_begins_with_the_first_input_under_a_fresh_id_or_its_own(world: World, who: str) -> None:
    async with world.engine(check_replay=True) as engine, Client(world.backend(), clock=world.clock) as client:
        asker = engine if who == "engine" else client
        handle = await engine.start(rounds.options(instance_id="r", tags={"a": "b"}), 0, 2)
        await engine.start(counts.options(instance_id="busy"), 1)
        with pytest.raises(InstanceExists):
            await asker.restart("busy", new_id="busy")
        await world.advance(5)
        assert await handle.result(timeout=5) == 2
        again = await asker.restart("r")
        assert again.id != "r"
        await world.settle()
        await world.advance(5)
        assert await again.result(timeout=5) == 2
        assert (await again.view()).rounds == 2
        same = await asker.restart("r", new_id="r")
        await world.settle()
        await world.advance(5)
        assert await same.result(timeout=5) == 2
        assert (await asker.status("r")).tags == {"a": "b"}
    assert not world.told(facts.InstanceStalled)
