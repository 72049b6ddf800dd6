"""Moving house: nothing is lost, nothing is run in two stores, and a move that was cut off anywhere goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from durableflow import (
    CircuitBreaker,
    Client,
    Context,
    HandedOver,
    Interval,
    RetryPolicy,
    Schedule,
    Status,
    activity,
    activity_context,
    workflow,
)
from durableflow.backends.base import Commit, Outgoing
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.moving import Part, Seal
from durableflow.backends.postgres import PostgresBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.errors import EngineClosed, LeaseLost, MoveRefused, StorageError, StoreSealed
from durableflow.observe import facts
from durableflow.runtime import awaited
from durableflow.runtime.moves import Move

if TYPE_CHECKING:
    World = Any  # of conftest.py

PAGE_BYTES = 300
tokens: list[str] = []
mends: list[bool] = []


@activity
async def double(n: int) -> int:
    return 2 * n


@activity(queue="mail")
async def post(letter: str) -> str:
    return f"posted {letter}"


@activity(timeout=timedelta(days=9))
async def approve() -> bool:
    tokens.append(await activity_context().hand_over())
    raise HandedOver


@activity(retry=RetryPolicy(max_attempts=3, initial=timedelta(hours=1)))
async def stumble() -> str:
    activity_context().heartbeat({"so": "far"})
    if not mends:
        raise ValueError("not yet")
    return "at last"


@activity(retry=RetryPolicy(max_attempts=1), circuit=CircuitBreaker(failures=1))
async def break_down() -> None:
    raise ValueError("for good")


@workflow
async def sell(ctx: Context, item: str) -> list[Any]:
    ctx.set_custom_status({"item": item})
    twice = await ctx.call_activity(double, 21)
    return [item, twice, await ctx.wait_for_event("paid", float)]


@workflow
async def sleepy(ctx: Context) -> str:
    await ctx.sleep(timedelta(days=1))
    return "awake"


@workflow
async def mailing(ctx: Context, count: int) -> list[str]:
    return list(await ctx.when_all([ctx.call_activity(post, str(n)) for n in range(count)]))


@workflow
async def approving(ctx: Context) -> bool:
    return await ctx.call_activity(approve)


@workflow
async def stumbling(ctx: Context) -> str:
    return await ctx.call_activity(stumble)


@workflow
async def parent(ctx: Context) -> str:
    return f"my child is {await ctx.call_workflow(sleepy)}"


@workflow
async def broken(ctx: Context) -> None:
    await ctx.call_activity(break_down)


@workflow
async def rounds(ctx: Context, n: int) -> int:
    await ctx.wait_for_event("go")
    if n < 3:
        ctx.continue_as_new(n + 1)
    return n


FLOWS = [sell, sleepy, mailing, approving, stumbling, parent, broken, rounds]
ACTIVITIES = [double, post, approve, stumble, break_down]
KNOWN = {"workflows": FLOWS, "activities": ACTIVITIES}


async def fill(world: World) -> None:
    """Some of everything that can wait in a store."""
    tokens.clear()
    mends.clear()
    async with world.engine(**KNOWN, queues=[]) as engine:
        await engine.pause_queue("doors")
        for n in range(4):
            await engine.start(sell.options(instance_id=f"sold-{n}", tags={"n": str(n)}), "lämp\u2028")
        for flow in (sleepy, approving, stumbling, parent, broken):
            await engine.start(flow.options(instance_id=flow.name))
        await engine.start(mailing.options(instance_id="mailing"), 4)
        await engine.start(rounds.options(instance_id="rounds"), 0)
        await engine.start(sell.options(instance_id="held"), "vase")
        await engine.start(sell.options(instance_id="queued", queue="doors"), "door")
        for item in ("first", "last"):
            await engine.start(
                sell.options(instance_id="key", tags={"debounced": "yes"}, debounce=timedelta(hours=2)), item
            )
        await engine.set_queue("mail", concurrency=2)
        every = Schedule(Interval(timedelta(hours=6)))
        await engine.schedules.create("every", every, mailing, 0)
        await world.settle()
        await world.until(lambda: tokens)
        await engine.raise_event("sold-0", "paid", 1.5)
        for _ in range(2):
            await engine.raise_event("rounds", "go")
            await world.settle()
        await engine.suspend("held")
        await world.settle()
    async with Client(world.backend(), clock=world.clock) as client:  # nobody takes these
        await client.raise_event("sold-1", "paid", 2.5, event_id="e")
        await client.raise_event("held", "paid", 3.5)


class Pair:
    """Two open stores, and what a mover said."""

    def __init__(self, world: World, source: Any, target: Any) -> None:
        self.world = world
        self.source = source
        self.target = target
        self.told: list[tuple[str, int, int]] = []

    def move(self) -> Move:
        return Move(self.source, self.target, self.world.clock, lambda *each: self.told.append(each), PAGE_BYTES)

    async def rows(self, store: Any) -> dict[Part, list[Any]]:
        found: dict[Part, list[Any]] = {}
        for part in Part:
            found[part] = await store.read_part(part, None, 100_000_000)
        return found


@pytest.fixture
async def pair(world: World, tmp_path: Path) -> Any:
    await fill(world)
    source = world.backend()
    target = SqliteBackend(tmp_path / "target.db") if world.kind == "memory" else MemoryBackend()
    async with AsyncExitStack() as stack:
        for store in (source, target):
            await store.open()
            stack.push_async_callback(store.close)
        yield Pair(world, source, target)


async def go_on(world: World, target: Any) -> None:
    """All instances come to the ends that they would have come to."""
    copy = target.path if isinstance(target, SqliteBackend) else None
    store = SqliteBackend(copy) if copy is not None else target
    async with world.engine(store, **KNOWN) as engine:
        await world.settle()
        assert await engine.result("sold-0") == ["lämp\u2028", 42, 1.5]
        assert await engine.result("sold-1") == ["lämp\u2028", 42, 2.5]
        with pytest.raises(TimeoutError):
            await engine.result("sold-2", timeout=0.01)
        await engine.raise_event("sold-2", "paid", 9.5)
        assert await engine.result("sold-2") == ["lämp\u2028", 42, 9.5]
        assert await engine.result("mailing") == [f"posted {n}" for n in range(4)]
        await engine.complete(tokens[0], True)
        assert await engine.result("approving")
        assert (await engine.status("held")).status is Status.SUSPENDED
        await engine.resume("held")
        assert await engine.result("held") == ["vase", 42, 3.5]
        for _ in range(2):
            await engine.raise_event("rounds", "go")
            await world.settle()
        assert await engine.result("rounds") == 3
        letters = (await engine.dead_letters.list()).letters
        assert {letter.instance_id for letter in letters} == {"broken"}
        assert (await engine.status("queued")).status is Status.PENDING
        await engine.resume_queue("doors")
        await world.settle()
        await engine.raise_event("queued", "paid", 4.5)
        assert await engine.result("queued") == ["door", 42, 4.5]
        mends.append(True)
        await world.advance(3 * 3_600.0)
        assert await engine.result("stumbling") == "at last"
        (debounced,) = (await engine.list(tags={"debounced": "yes"})).instances
        await engine.raise_event(debounced.instance_id, "paid", 5.5)
        assert await engine.result(debounced.instance_id) == ["last", 42, 5.5]
        await world.advance(25 * 3_600.0)
        assert await engine.result("sleepy") == "awake"
        assert await engine.result("parent") == "my child is awake"
        scheduled = [each for each in (await engine.list()).instances if each.instance_id.startswith("every")]
        assert [each.status for each in scheduled] == [Status.COMPLETED] * 5
        assert (await engine.queue("mail")).concurrency == 2


async def test_what_was_moved_is_the_same_and_goes_on_as_if_nothing_had_been(world: World, pair: Pair) -> None:
    before = await pair.rows(pair.source)
    assert [part for part, rows in before.items() if not rows] == []
    report = await pair.move().run()
    assert await pair.rows(pair.target) == before
    assert report.counts == {part: len(rows) for part, rows in before.items()}
    assert (report.source, report.target) == (pair.source.address, pair.target.address)
    assert await pair.rows(pair.source) == before, "the source stays as it was"
    assert not report.unreadable
    assert {what for what, _, _ in pair.told} >= {"copying instances", "copying history rows", "comparing instances"}
    assert all(0 < done <= total for _, done, total in pair.told)
    await go_on(world, pair.target)


@pytest.mark.slow
async def test_a_store_that_goes_through_postgres_comes_back_the_same(
    world: World, pair: Pair, store_url: Callable[[object], str], tmp_path: Path
) -> None:
    before = await pair.rows(pair.source)
    between = PostgresBackend(store_url(tmp_path))
    await between.open()
    await Move(pair.source, between, world.clock, page_bytes=PAGE_BYTES).run()
    there = await pair.rows(between)
    assert there | {Part.INBOX: []} == before | {Part.INBOX: []}
    assert [row[:3] for row in there[Part.INBOX]] == [row[:3] for row in before[Part.INBOX]]
    await Move(between, pair.target, world.clock, page_bytes=PAGE_BYTES).run()
    with pytest.raises(StoreSealed, match="has been moved"):
        await between.send([Outgoing("sold-3", b"late")])
    await between.close()
    assert await pair.rows(pair.target) == before
    await go_on(world, pair.target)


async def test_whoever_opens_the_source_is_told_where_it_has_gone(world: World, pair: Pair) -> None:
    await pair.move().run()
    for made in (world.new_engine(world.backend(), **KNOWN), Client(world.backend())):
        with pytest.raises(StoreSealed, match="has been moved to") as refused:
            async with made:
                raise AssertionError
        assert refused.value.other == pair.target.address
        assert refused.value.is_gone


async def test_a_move_that_is_done_is_done_and_says_so(pair: Pair) -> None:
    assert not (await pair.move().run()).was_done
    report = await pair.move().run()
    assert report.was_done
    assert report.counts[Part.INSTANCES] == len((await pair.rows(pair.source))[Part.INSTANCES])


async def test_a_look_changes_nothing_and_reads_all(pair: Pair) -> None:
    before = await pair.rows(pair.source)
    report = await pair.move().look()
    assert report.counts == {part: len(rows) for part, rows in before.items()}
    assert (await pair.source.read_seal(), await pair.target.read_seal()) == (None, None)
    assert not any((await pair.rows(pair.target)).values())


# -- cut off ----------------------------------------------------------------------------------------------------------


class Crash(Exception):
    """The mover is gone."""


class Fragile:
    """A store whose mover goes at the nth write, before it or after it."""

    def __init__(self, real: Any, fuse: list[int]) -> None:
        self._real = real
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def _write(self, name: str, *arguments: Any, **named: Any) -> None:
        for is_after in (False, True):
            self._fuse[0] -= 1
            if self._fuse[0] == 0:
                raise Crash
            if not is_after:
                await getattr(self._real, name)(*arguments, **named)

    async def seal(self, *arguments: Any) -> None:
        await self._write("seal", *arguments)

    async def unseal(self, seal: Seal, *, clear: bool) -> None:
        await self._write("unseal", seal, clear=clear)

    async def write_part(self, *arguments: Any) -> None:
        await self._write("write_part", *arguments)


async def who_may_work(pair: Pair) -> list[str]:
    stores = {"source": pair.source, "target": pair.target}
    return [name for name, store in stores.items() if await store.read_seal() is None]


def fragile(pair: Pair, writes: int) -> Move:
    fuse = [writes]
    return Move(Fragile(pair.source, fuse), Fragile(pair.target, fuse), pair.world.clock, page_bytes=PAGE_BYTES)  # type: ignore[arg-type]


@pytest.mark.slow
async def test_a_move_that_is_cut_off_at_any_write_goes_on_and_ends_the_same(pair: Pair) -> None:
    before = await pair.rows(pair.source)
    crashes = 0
    while True:
        crashes += 1
        try:
            await fragile(pair, crashes).run()
        except Crash:
            free = await who_may_work(pair)
            assert free != ["source", "target"] or not any((await pair.rows(pair.target)).values())
            if (seal := await pair.source.read_seal()) is not None and seal.is_gone:
                assert await pair.rows(pair.target) == before, "the target has all before the source says so"
        else:
            break
    assert crashes > 10
    assert await who_may_work(pair) == ["target"]
    assert await pair.rows(pair.target) == before


@pytest.mark.slow
async def test_a_move_is_aborted_wherever_it_was_cut_off_and_wherever_the_abort_is(pair: Pair) -> None:
    before = await pair.rows(pair.source)
    writes = 0
    while True:
        writes += 1
        with pytest.raises(Crash):
            await fragile(pair, writes).run()
        if (seal := await pair.source.read_seal()) is not None and seal.is_gone:
            break
        for cut in range(1, 20):
            try:
                await fragile(pair, cut).abort()
            except Crash:
                continue
            except MoveRefused:
                pass  # it was aborted, but for the answer
            break
        assert await who_may_work(pair) == ["source", "target"]
        assert not any((await pair.rows(pair.target)).values())
        assert await pair.rows(pair.source) == before
    assert writes > 40
    await pair.move().run()
    assert await pair.rows(pair.target) == before


async def test_an_aborted_source_goes_on(world: World, pair: Pair) -> None:
    with pytest.raises(Crash):
        await fragile(pair, 30).run()
    with pytest.raises(StoreSealed, match="is being moved"):
        async with Client(world.backend()):
            raise AssertionError
    await pair.move().abort()
    async with world.engine(**KNOWN) as engine:
        await engine.raise_event("sold-3", "paid", 4.0)
        assert await engine.result("sold-3") == ["lämp\u2028", 42, 4.0]


async def test_past_the_point_of_no_return_a_move_cannot_be_aborted(pair: Pair) -> None:
    class Hesitant(Fragile):
        async def unseal(self, seal: Seal, *, clear: bool) -> None:
            raise Crash

    move = Move(pair.source, Hesitant(pair.target, [0]), pair.world.clock)  # type: ignore[arg-type]
    with pytest.raises(Crash):
        await move.run()
    assert await who_may_work(pair) == []
    with pytest.raises(MoveRefused, match="run the move again"):
        await pair.move().abort()
    await pair.move().run()
    assert await who_may_work(pair) == ["target"]


async def test_of_two_movers_the_one_that_came_later_ends_the_move(pair: Pair) -> None:
    begun, may_go_on = asyncio.Event(), asyncio.Event()

    class Slow(Fragile):
        async def write_part(self, *arguments: Any) -> None:
            if arguments[1] is Part.HISTORY:
                begun.set()
                await may_go_on.wait()
            await self._real.write_part(*arguments)

    slow = Move(pair.source, Slow(pair.target, [0]), pair.world.clock, page_bytes=PAGE_BYTES)  # type: ignore[arg-type]
    slowly = asyncio.create_task(slow.run())
    await begun.wait()
    await pair.move().run()
    may_go_on.set()
    with pytest.raises(LeaseLost):
        await slowly
    assert await pair.rows(pair.target) == await pair.rows(pair.source)
    assert await who_may_work(pair) == ["target"]


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_store_that_somebody_works_on_is_not_moved_until_they_stop(world: World, pair: Pair) -> None:
    async with world.engine(**KNOWN) as engine:
        with pytest.raises(MoveRefused, match=engine.name):
            await pair.move().run()
        with pytest.raises(MoveRefused, match="stop them"):
            await pair.move().look()
        assert await who_may_work(pair) == ["source", "target"]
        moving = asyncio.create_task(pair.move().run(wait_s=10))
        await asyncio.sleep(0)
        assert not moving.done()
    await moving
    assert await who_may_work(pair) == ["target"]


async def test_a_store_is_moved_into_an_empty_one_only(world: World, pair: Pair) -> None:
    async with Client(SqliteBackend(pair.target.path) if world.kind == "memory" else pair.target) as client:
        await client.set_queue("mine", concurrency=1)
    with pytest.raises(MoveRefused, match="holds 1 queues"):
        await pair.move().run()
    assert await who_may_work(pair) == ["source", "target"]


async def test_a_store_that_is_moved_is_no_source_and_no_target_of_another_move(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        await fragile(pair, 20).run()
    third = SqliteBackend(tmp_path / "third.db")
    await third.open()
    for source, target in ((pair.source, third), (third, pair.target), (pair.target, third), (third, pair.source)):
        with pytest.raises(MoveRefused, match="cannot be the"):
            await Move(source, target, pair.world.clock).run()
        with pytest.raises(MoveRefused, match="cannot be the"):
            await Move(source, target, pair.world.clock).abort()
    await third.close()
    await pair.move().run()


async def test_a_shard_with_messages_on_their_way_is_not_moved(pair: Pair) -> None:
    lease = await pair.source.acquire("worker", 10, 0)
    await pair.source.commit(lease, Commit(outbox=[Outgoing("far", b"data", sender="sold-0")]))
    await pair.source.release(lease)
    with pytest.raises(MoveRefused, match="1 messages"):
        await pair.move().run()
    assert await who_may_work(pair) == ["source", "target"]


async def test_there_is_nothing_to_abort_where_nothing_was_begun(pair: Pair) -> None:
    with pytest.raises(MoveRefused, match="no move"):
        await pair.move().abort()


async def test_a_store_is_not_moved_into_itself(sqlite_world: World) -> None:
    store, again = sqlite_world.backend(), sqlite_world.backend()
    await store.open()
    await again.open()
    with pytest.raises(MoveRefused, match="both source and target"):
        await Move(store, again, sqlite_world.clock).run()
    await store.close()
    await again.close()


@pytest.mark.parametrize("part", [Part.HISTORY, Part.INBOX, Part.TASKS, Part.SCHEDULES, Part.INSTANCES])
async def test_a_copy_that_is_not_the_same_is_not_opened(pair: Pair, part: Part) -> None:
    class Careless(Fragile):
        async def write_part(self, seal: Seal, of: Part, rows: Any) -> None:
            spoilt = {
                Part.HISTORY: lambda row: row._replace(at_us=row.at_us + 1),
                Part.INBOX: lambda row: row._replace(data=row.data + b" "),
                Part.TASKS: lambda row: row._replace(vtime=row.vtime + 1),
                Part.SCHEDULES: lambda row: row._replace(due_us=row.due_us + 1),
                Part.INSTANCES: lambda row: type(row)(row.id, row.workflow, 9, row.status, row.created_us),
            }[part]
            await self._real.write_part(seal, of, [spoilt(row) for row in rows] if of is part else rows)

    move = Move(pair.source, Careless(pair.target, [0]), pair.world.clock)  # type: ignore[arg-type]
    with pytest.raises(MoveRefused, match="not the same"):
        await move.run()
    assert await who_may_work(pair) == []
    await pair.move().abort()
    await pair.move().run()


# -- those who had it open --------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_an_engine_that_stands_by_ends_when_the_store_has_gone(sqlite_world: World, tmp_path: Path) -> None:
    world = sqlite_world
    await fill(world)
    leader = await world.open(**KNOWN, queues=[])
    standby = await world.open(**KNOWN, queues=[])
    waiting = asyncio.create_task(standby.result("sleepy"))
    async with Client(world.backend(), clock=world.clock) as client:
        asking = asyncio.create_task(client.result("sleepy"))
        await asyncio.sleep(0)
        world._open.remove(leader)
        standby._task.cancel()  # it does not lead now: else the move would be refused
        await asyncio.wait([standby._task])
        await leader.__aexit__()
        standby._task = asyncio.create_task(standby._work(None))
        store, target = world.backend(), SqliteBackend(tmp_path / "target.db")
        await store.open()
        await target.open()
        await Move(store, target, world.clock).run()
        with pytest.raises(StoreSealed, match="has been moved"):
            await asking
        with pytest.raises(StorageError, match="has been moved"):
            await client.raise_event("sold-3", "paid", 1.0)
        with pytest.raises(EngineClosed, match="has been moved"):
            await waiting
        with pytest.raises(StoreSealed):
            await standby.__aexit__()
        world._open.remove(standby)
        await store.close()
        await target.close()


@pytest.mark.slow  # a client looks now and then, in real time
@pytest.mark.parametrize("asked", ["result", "wait_for_status", "request"])
async def test_whoever_waits_at_a_store_that_has_gone_is_told(
    sqlite_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(awaited, "_SEAL_S", 0.0)
    await fill(sqlite_world)
    async with Client(sqlite_world.backend()) as client:
        handle = client.handle("sold-3")
        waits = {
            "result": handle.result,
            "wait_for_status": lambda: handle.wait_for_status(Status.SUSPENDED),
            "request": lambda: handle.request("price"),
        }
        waiting = asyncio.create_task(waits[asked]())
        while asked == "request" and len(await client._backend.inbox(0, 100)) < 3:  # noqa: ASYNC110  # it is the store
            await asyncio.sleep(0.01)
        store, target = sqlite_world.backend(), SqliteBackend(tmp_path / "target.db")
        await store.open()
        await target.open()
        await Move(store, target, sqlite_world.clock).run()
        with pytest.raises(StoreSealed, match="has been moved to") as told:
            async with asyncio.timeout(10):
                await waiting
        assert told.value.other == target.address
        await store.close()
        await target.close()


@pytest.mark.slow
async def test_a_worker_that_was_paused_while_its_store_was_moved_drops_all_and_writes_nothing(
    sqlite_world: World, tmp_path: Path
) -> None:
    world = sqlite_world
    await fill(world)
    engine = await world.open(**KNOWN, queues=[])
    await world.settle()
    store, target = world.backend(), SqliteBackend(tmp_path / "target.db")
    await store.open()
    await target.open()
    later = type(world.clock)()
    later.now = world.clock.now + 3_600_000_000  # for the mover, its lease is over
    for path in list(tmp_path.glob("store.db-worker-*")):  # noqa: ASYNC240  # a test has the time
        path.unlink()
    await Move(store, target, later).run()
    world.clock.now = later.now
    before = await store.read_part(Part.HISTORY, None, 10_000_000)
    with pytest.raises(StorageError):
        await engine.raise_event("sold-3", "paid", 1.0)
    await world.until(lambda: world.told(facts.WorkerLost))
    await world.until(engine._task.done)
    assert await store.read_part(Part.HISTORY, None, 10_000_000) == before
    with pytest.raises(StoreSealed):
        await engine.__aexit__()
    world._open.remove(engine)
    await store.close()
    await target.close()


async def test_what_cannot_be_read_is_named_and_moved_as_it_is(sqlite_world: World, tmp_path: Path) -> None:
    await fill(sqlite_world)
    store, target = sqlite_world.backend(), SqliteBackend(tmp_path / "target.db")
    await store.open()
    await target.open()
    await store._write(
        lambda connection: connection.execute("update history set events = x'c1' where instance = 'held'")
    )
    report = await Move(store, target, sqlite_world.clock).run()
    assert report.unreadable == ["held"]
    assert {row.events for row in await target.history("held", 1, 100)} == {b"\xc1"}
    await store.close()
    await target.close()
