"""The blocking twin: the whole surface without an event loop, from any thread."""

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from durableflow import (
    BlockingClient,
    BlockingEngine,
    BlockingHandle,
    BlockingShards,
    Client,
    Context,
    Engine,
    EngineClosed,
    Handle,
    InstanceExists,
    InstanceNotFound,
    RequestFailed,
    Status,
    StorageError,
    UsageError,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
    activity,
    workflow,
)
from durableflow.backends.sharded import ShardedBackend


@activity
def double_blocking(number: int) -> int:
    return 2 * number


@workflow
async def doubled(ctx: Context, number: int) -> int:
    return await ctx.call_activity(double_blocking, number)


@workflow
async def until_told(ctx: Context) -> list[int]:
    return [await ctx.wait_for_event("one", int), await ctx.wait_for_event("two", int)]


@workflow
async def fails(ctx: Context) -> None:
    raise ValueError("no")


mended = threading.Event()


@activity(retry=1)
def only_when_mended(number: int) -> int:
    if not mended.is_set():
        raise ValueError("not yet")
    return number


@workflow
async def needs_mending(ctx: Context, number: int) -> int:
    return await ctx.call_activity(only_when_mended, number)


@workflow
async def counts(ctx: Context) -> int:
    total = 0

    @ctx.on_request("add")
    def add(number: int) -> int:
        nonlocal total
        if number < 0:
            raise ValueError("it only grows")
        total += number
        return total

    @ctx.on_query("total")
    def look() -> int:
        return total

    await ctx.wait_for_event("enough")
    return total


@pytest.fixture(params=["memory", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlockingEngine]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'test.db'}"
    with BlockingEngine(url, name="the worker") as engine:
        yield engine


# -- the surface ------------------------------------------------------------------------------------------------------


def test_an_instance_runs_to_its_end(engine: BlockingEngine) -> None:
    handle = engine.start(doubled.options(instance_id="d-1"), 21)
    assert (handle.id, handle.result(), handle.status().status) == ("d-1", 42, Status.COMPLETED)
    assert engine.result("d-1", workflow=doubled, timeout=timedelta(seconds=5)) == 42
    assert engine.run(doubled, 4) == 8
    assert [entry.kind for entry in handle.history()][-1] == "instance_completed"
    assert handle.view().tasks[0].name == "double_blocking"
    assert engine.statistics().turns >= 4
    assert engine.is_leading
    engine.wait_until_leading()


def test_an_instance_is_talked_to(engine: BlockingEngine) -> None:
    handle = engine.start(until_told.options(tags={"shop": "north"}))
    handle.raise_event("one", 1, event_id="a")
    handle.suspend("a pause")
    assert handle.wait_for_status(Status.SUSPENDED, timeout=5).status is Status.SUSPENDED
    engine.resume(handle.id)
    engine.raise_event(handle.id, "two", 2)
    assert engine.handle(handle.id, until_told).result() == [1, 2]
    assert [each.instance_id for each in engine.list(tags={"shop": "north"}, limit=5).instances] == [handle.id]
    handle.purge()
    with pytest.raises(InstanceNotFound):
        engine.status(handle.id)


def test_an_instance_answers_requests_and_queries(engine: BlockingEngine) -> None:
    handle = engine.start(counts)
    assert handle.request("add", 4, result_type=int, request_id="one") == 4
    assert engine.request(handle.id, "add", 4, result_type=int, request_id="one") == 4, "the same request"
    assert engine.request(handle.id, "add", 3, timeout=5) == 7
    assert (handle.query("total", result_type=int), engine.query(handle.id, "total")) == (7, 7)
    with pytest.raises(RequestFailed, match="it only grows"):
        handle.request("add", -1)
    handle.raise_event("enough")
    assert handle.result() == 7


@pytest.mark.parametrize("by", ["handle", "engine"])
def test_an_instance_goes_on_again_by_rewind_fork_and_restart(engine: BlockingEngine, by: str) -> None:
    mended.clear()
    first = engine.start(needs_mending.options(instance_id="first"), 5)
    with pytest.raises(WorkflowFailed):
        first.result()
    mended.set()
    fork: BlockingHandle[int]
    if by == "handle":
        fork = first.fork(at=2, new_id="copy")
        first.rewind(reason="mended")
        again = first.restart(new_id="again")
    else:
        fork = engine.fork("first", at=2, new_id="copy")
        engine.rewind("first", reason="mended")
        again = engine.restart("first", new_id="again")
    assert [isinstance(each, BlockingHandle) for each in (fork, again)] == [True, True]
    assert (first.result(), fork.result(), again.result()) == (5, 5, 5)
    assert (fork.id, again.id) == ("copy", "again")


def test_errors_are_the_same_as_those_of_the_engine(engine: BlockingEngine) -> None:
    with pytest.raises(WorkflowFailed, match="ValueError: no"):
        engine.run(fails)
    one, two = engine.start(until_told), engine.start(until_told)
    one.cancel("changed my mind")
    two.terminate("enough")
    with pytest.raises(WorkflowCancelled, match="changed my mind"):
        one.result()
    with pytest.raises(WorkflowTerminated, match="enough"):
        two.result()
    with pytest.raises(InstanceExists):
        engine.start(until_told.options(instance_id=two.id, on_conflict="fail"))
    with pytest.raises(TimeoutError, match=r"is not over after 0\.01"):
        engine.start(until_told).result(timeout=0.01)


def test_more_can_be_registered_while_it_runs(engine: BlockingEngine) -> None:
    @activity(name="double_late")
    def late(number: int) -> int:
        return number + 1

    @workflow
    async def by_name(ctx: Context) -> int:
        return await ctx.call_activity_by_name("double_late", 1, result_type=int)

    engine.register(by_name, late)
    assert engine.run(by_name) == 2


def test_a_client_sees_what_an_engine_does(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with BlockingEngine(url), BlockingClient(url) as client:
        handle = client.start(doubled, 3)
        assert handle.result(timeout=10) == 6
        assert client.status(handle.id).status is Status.COMPLETED


def test_a_listener_hears_facts_until_it_leaves(tmp_path: Path) -> None:
    heard: list[str] = []
    with BlockingEngine(f"sqlite:///{tmp_path / 'test.db'}") as engine:
        leave = engine.listen(lambda fact: heard.append(type(fact).__name__))
        assert engine.start(doubled, 3).result(timeout=10) == 6
        assert "InstanceEnded" in heard
        leave()
        heard.clear()
        assert engine.start(doubled, 4).result(timeout=10) == 8
        assert heard == []


def test_nothing_of_the_asynchronous_surface_is_missing() -> None:
    def surface(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert surface(Client) - surface(BlockingClient) == set()
    assert surface(Handle) - surface(BlockingHandle) == set()
    assert surface(Engine) - surface(BlockingEngine) == {"lifespan"}  # web frameworks that take it have a loop


def test_a_method_has_the_signature_and_the_words_of_the_one_it_stands_for() -> None:
    assert inspect.signature(BlockingClient) == inspect.signature(Client)
    assert inspect.signature(BlockingEngine) == inspect.signature(Engine)
    assert inspect.signature(BlockingEngine.raise_event) == inspect.signature(Engine.raise_event)
    assert BlockingClient.list.__doc__ == Client.list.__doc__
    assert not inspect.iscoroutinefunction(BlockingClient.result)


# -- threads ----------------------------------------------------------------------------------------------------------


def test_any_number_of_threads_may_call_at_once(engine: BlockingEngine) -> None:
    def work(worker: int) -> list[int]:
        return [engine.run(doubled, 100 * worker + number) for number in range(20)]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(work, range(8)))
    assert found == [[2 * (100 * worker + number) for number in range(20)] for worker in range(8)]


def test_an_activity_in_a_thread_may_talk_to_its_own_engine(engine: BlockingEngine) -> None:
    @activity
    def asks(number: int) -> int:
        return engine.run(doubled, number)

    @workflow
    async def outer(ctx: Context) -> int:
        return await ctx.call_activity(asks, 5)

    assert engine.run(outer) == 10


def test_a_call_that_would_wait_for_itself_for_ever_is_refused(engine: BlockingEngine) -> None:
    @activity(retry=1)
    async def asks(number: int) -> int:
        return engine.run(doubled, number)

    @workflow
    async def outer(ctx: Context) -> int:
        return await ctx.call_activity(asks, 5)

    with pytest.raises(WorkflowFailed, match="would never return; make the activity that calls it a plain def"):
        engine.run(outer)


async def test_it_may_be_used_where_another_loop_runs(engine: BlockingEngine) -> None:
    assert engine.run(doubled, 4) == 8


# -- opening and closing ----------------------------------------------------------------------------------------------


def test_before_and_after_it_is_open_calls_are_refused() -> None:
    engine = BlockingEngine("memory://")
    for _ in range(2):
        with pytest.raises(EngineClosed, match="use it inside: with BlockingEngine"):
            engine.run(doubled, 1)
        with engine:
            assert engine.run(doubled, 1) == 2
            with pytest.raises(UsageError, match="open already"):
                engine.__enter__()
    assert repr(engine).startswith("<blocking twin of <engine ")


@pytest.mark.parametrize("twin", [BlockingEngine, BlockingClient])
def test_a_call_that_still_waits_when_it_is_closed_gets_an_error(twin: type[BlockingClient], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    caught = list[BaseException]()
    waiting = threading.Event()

    def wait(client: BlockingClient, instance_id: str) -> None:
        waiting.set()
        try:
            client.result(instance_id)
        except BaseException as error:
            caught.append(error)

    with twin(url) as client:
        handle = client.start(until_told)
        thread = threading.Thread(target=wait, args=(client, handle.id))
        thread.start()
        waiting.wait()
    thread.join(10)
    assert not thread.is_alive()
    assert [isinstance(error, StorageError) for error in caught] == [True]


def test_closing_waits_for_no_call_whatever_it_does(engine: BlockingEngine) -> None:
    waiting = threading.Event()

    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(lambda: engine.loop_thread.call(wait))
        waiting.wait()
        engine.__exit__(None, None, None)
        with pytest.raises(EngineClosed, match="closed while the call was waiting"):
            call.result(10)


def test_a_store_that_cannot_be_opened_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = BlockingEngine(f"sqlite:///{tmp_path / 'nowhere' / 'deep' / 'test.db'}")
    before = threading.active_count()
    for _ in range(2):
        with pytest.raises(Exception, match="nowhere"), engine:
            pytest.fail("opened")
    assert threading.active_count() <= before  # a thread of an earlier test may have ended meanwhile


@pytest.mark.slow
@pytest.mark.parametrize("url", ["memory://", "sqlite:///test.db"])
def test_one_that_was_never_closed_does_not_hang_the_end_of_the_process(url: str, tmp_path: Path) -> None:
    program = f"""
from durableflow import BlockingEngine, Context, workflow

@workflow
async def seven(ctx: Context) -> int:
    return 7

engine = BlockingEngine({url!r}).__enter__()
print(engine.run(seven))
"""
    child = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    assert child.stdout == "7\n"


@pytest.mark.slow
@pytest.mark.usefixtures("heeds_sigint")
def test_an_interrupted_script_gives_its_call_up_and_closes_its_engine(tmp_path: Path) -> None:
    program = """
import asyncio, signal, threading
from durableflow import BlockingEngine, Context, workflow

@workflow
async def waits(ctx: Context) -> None:
    await ctx.wait_for_event("never")

async def wait_for_ever():
    try:
        await asyncio.Event().wait()
    finally:
        print("given up")

with BlockingEngine("sqlite:///test.db") as engine:
    handle = engine.start(waits.options(instance_id="w"))
    main = threading.main_thread().ident
    threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    try:
        engine.loop_thread.call(wait_for_ever)
    except KeyboardInterrupt:
        print("interrupted", handle.status().status)
print("closed")
"""
    child = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert (child.stdout, child.stderr) == ("given up\ninterrupted RUNNING\nclosed\n", "")


def test_dead_letters_are_the_same_without_an_event_loop(engine: BlockingEngine) -> None:
    handle = engine.start(fails.options(instance_id="dead"))
    handle.wait_for_status(Status.FAILED, timeout=5)
    (letter,) = engine.dead_letters.list(kind="failed").letters
    assert (letter.instance_id, letter.type_name) == ("dead", "ValueError")
    assert engine.dead_letters.get("dead").letter == letter
    assert engine.dead_letters.redrive_all(dry_run=True).matched == 1
    assert engine.dead_letters.discard_all() == 1
    assert engine.dead_letters.discard("dead") == 0


# -- several stores -----------------------------------------------------------------------------------------


@workflow
async def doubled_children(ctx: Context, count: int) -> int:
    return sum(await ctx.when_all([ctx.call_workflow(doubled, number) for number in range(count)]))


@pytest.mark.slow
def test_shards_have_a_blocking_twin_that_runs_them(tmp_path: Path) -> None:
    stores = {name: f"sqlite:///{tmp_path}/{name}.db?power_loss_safe=false" for name in ("north", "south")}
    with BlockingShards(stores, workflows=[doubled_children]) as shards:
        shards.register(doubled, double_blocking)
        shards.wait_until_leading()
        assert shards.is_leading
        handle = shards.start(doubled_children, 8)
        assert handle.result(timeout=20) == 56
        there = [shards.asynchronous.map.shard_of(each.instance_id) for each in shards.list().instances]
        assert len(there) == 9
        assert set(there) == {"north", "south"}
    with BlockingClient(ShardedBackend(stores)) as client:
        assert client.result(handle.id) == 56
    with pytest.raises(EngineClosed):
        shards.list()
