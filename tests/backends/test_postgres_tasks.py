"""Two backends on one database hand out tasks: no task twice, limits hold over both, nobody waits without need."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from durableflow import (
    Client,
    Context,
    Engine,
    HandedOver,
    RetryPolicy,
    TokenRefused,
    activity,
    activity_context,
    workflow,
)
from durableflow.backends.base import Commit, DebouncedStart, Rewrite, Topic
from durableflow.backends.postgres import PostgresBackend
from durableflow.backends.tasks import (
    ALL_TASKS,
    START,
    ClaimRequest,
    Claims,
    NewTask,
    Offer,
    QueueLimits,
    StoredTask,
    rate_full_us,
    rate_next_us,
)
from durableflow.model.status import Status
from durableflow.testing.contract.desk import TTL_US, Desk, a_desk, an_end, the_next_attempt
from durableflow.testing.contract.store import a_row, an_instance
from durableflow.testing.contract.tasks import a_start
from durableflow.testing.postgres import PostgresServer

pytestmark = pytest.mark.slow  # a server, and connections to it

LONGEST = "𝕏" * 500
"""As long as a name may be, in characters that take four bytes each."""


class Pair:
    """A desk in one backend, and another backend beside it."""

    def __init__(self, desk: Desk, one: PostgresBackend, other: PostgresBackend) -> None:
        self.desk = desk
        self.one = one
        self.other = other

    async def servers(self, count: int) -> list[tuple[PostgresBackend, int]]:
        """So many, half of them of each backend."""
        ways = [self.one, self.other] * count
        return [(way, await way.enlist_server(f"server {n}", TTL_US, 0)) for n, way in enumerate(ways[:count])]


@pytest.fixture
async def pair(store_url: Callable[[object], str], request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    url = store_url(request.node.nodeid)
    one, other = PostgresBackend(url), PostgresBackend(url)
    await one.open()
    await other.open()
    yield Pair(await a_desk(one), one, other)
    await other.close()
    await one.close()


async def work(
    backend: PostgresBackend, server: int, dice: random.Random, most: int, over: asyncio.Event, taken: list[StoredTask]
) -> None:
    """Claim and finish until all is over; now and then an attempt fails, and is made again."""
    while not over.is_set():
        claims = await backend.claim(ClaimRequest(server, ("mail",), {"q": most}, 0, True, None), 0)
        taken += claims.tasks
        again = the_next_attempt()
        ends = [
            an_end(task, following=again._replace(attempt=task.attempt + 1) if dice.random() < 0.1 else None)
            for task in claims.tasks
        ]
        dice.shuffle(ends)
        assert await backend.finish_tasks(ends, server) == [True] * len(ends)
        await asyncio.sleep(0 if ends else 0.002)


async def storm(pair: Pair, servers: int, most: int) -> list[StoredTask]:
    """Let servers of both backends work until nothing is left; what they took."""
    dice = random.Random(7)
    taken: list[StoredTask] = []
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for backend, server in await pair.servers(servers):
            group.create_task(work(backend, server, dice, most, over, taken))
        async with asyncio.timeout(60):
            while (record := (await pair.one.queues("q"))[0]).waiting + record.delayed + record.claimed:  # noqa: ASYNC110  # of a store there is no event
                await asyncio.sleep(0.01)
        over.set()
    return taken


async def test_servers_of_two_backends_take_each_attempt_once_and_leave_none(pair: Pair) -> None:
    for _ in range(4):
        await pair.desk.write(*["a", "b"] * 50)
    taken = await storm(pair, 6, 7)
    attempts = Counter((task.task, task.attempt) for task in taken)
    assert set(attempts.values()) == {1}
    last = {task: max(n for each, n in attempts if each == task) for task in range(1, 401)}
    assert sum(last.values()) == len(taken), "none was left out"
    assert len({task.claimed_by for task in taken}) == 6
    assert len(await pair.one.inbox(0, 1_000)) == len(taken)


async def test_a_limit_holds_at_every_moment(pair: Pair) -> None:
    for _ in range(2):
        await pair.desk.write(*["a"] * 60)
    await pair.one.limit_queue("q", QueueLimits(concurrency=5))
    seen: list[int] = []

    async def watch() -> None:
        watcher = pair.other
        while True:
            seen.append((await watcher.queues("q"))[0].claimed)

    watching = asyncio.ensure_future(watch())
    taken = await storm(pair, 6, 4)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert len({task.task for task in taken}) == 120
    assert 0 < max(seen) <= 5


async def test_a_rate_is_shared(pair: Pair) -> None:
    await pair.desk.write(*["a"] * 50)
    await pair.one.limit_queue("q", QueueLimits(rate_count=4, rate_period_us=100, rate_burst=4))
    servers = await pair.servers(6)
    for at_us, most in [(1_000, 4), (1_024, 0), (1_100, 4), (1_150, 2)]:
        claims = await asyncio.gather(
            *(way.claim(pair.desk.request(2, server_id=server), at_us) for way, server in servers)
        )
        assert sum(len(each.tasks) for each in claims) == most


class SlowClaim:
    """The claim of a server of one backend, which has not got to its commit yet."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def release(self) -> None:
        await self._connection.execute("commit")
        await self._connection.close()


async def hold_a_claim(pair: Pair, most: int) -> SlowClaim:
    server = await pair.one.enlist_server("slow", TTL_US, 0)
    claim = "{s}.claim_tasks($1, array['mail'], array['q'], array[$2::bigint], 0, true, null, 0)"
    connection = await pair.one._database.connect()
    await connection.execute("begin")
    claimed = await connection.fetch(pair.one._sql(f"select (c.taken).number from {claim} c"), server, most)
    assert len(claimed) == most + 1
    return SlowClaim(connection)


async def test_a_queue_without_limits_holds_nobody_up(pair: Pair) -> None:
    await pair.desk.write(*["a", "b"] * 5)
    claim = await hold_a_claim(pair, 4)
    async with asyncio.timeout(2):
        claims = await pair.other.claim(pair.desk.request(), 0)
    assert len(claims.tasks) == 6
    await claim.release()
    assert (await pair.desk.queue()).claimed == 10
    async with asyncio.timeout(2):
        await pair.desk.write("a")
    (task,) = await pair.desk.claim()
    assert task.fairness_key == "a"


async def test_whoever_writes_tasks_waits_for_no_claim(pair: Pair) -> None:
    await pair.desk.write("a")
    await pair.one.limit_queue("q", QueueLimits(concurrency=1))
    claim = await hold_a_claim(pair, 1)
    async with asyncio.timeout(2):
        await pair.desk.write("a", "b")
    await claim.release()
    assert (await pair.desk.queue()).waiting == 2


async def test_a_claim_on_a_queue_with_a_limit_counts_what_was_claimed_meanwhile(pair: Pair) -> None:
    await pair.desk.write(*["a"] * 10)
    await pair.one.limit_queue("q", QueueLimits(concurrency=5))
    claim = await hold_a_claim(pair, 3)
    claiming = asyncio.ensure_future(pair.other.claim(pair.desk.request(), 0))
    await asyncio.sleep(0.1)
    assert not claiming.done()
    await claim.release()
    assert len((await claiming).tasks) == 2


async def test_a_server_is_not_buried_while_a_claim_of_it_is_under_way(pair: Pair) -> None:
    """Each claim is either committed before, or finds that its server is none."""
    await pair.desk.write(*["a"] * 3)
    claim = await hold_a_claim(pair, 2)
    await pair.one._write(
        "update {s}.servers set expires = clock_timestamp() - interval '1 second' where name = 'slow'"
    )
    names = "select name from {s}.servers order by name"
    assert await pair.other.overdue_tasks(pair.desk.server, 0, 9) == []
    assert await pair.one._read(names) == [("server",), ("slow",)]
    await claim.release()
    assert len(await pair.other.overdue_tasks(pair.desk.server, 0, 9)) == 2
    assert await pair.one._read(names) == [("server",)]


async def test_who_drops_and_who_finishes_the_same_tasks_do_not_wait_in_a_circle(
    pair: Pair, postgres: PostgresServer
) -> None:
    deadlocks = "select sum(deadlocks) from pg_stat_database"
    before = postgres.execute(deadlocks)
    dice = random.Random(3)
    for _ in range(10):
        await pair.desk.write(*["a"] * 300)
        tasks = await pair.desk.claim(300)
        ends = [an_end(task, following=the_next_attempt()) for task in tasks]
        dropped = [("i", task.task) for task in reversed(tasks)]
        await asyncio.gather(
            pair.one.commit(pair.desk.lease, Commit(tasks_dropped=dropped)),
            pair.other.finish_tasks(dice.sample(ends, 300), pair.desk.server),
            pair.other.finish_tasks(dice.sample(ends, 300), None),
        )
        await pair.one.commit(pair.desk.lease, Commit(tasks_dropped=[("i", ALL_TASKS)]))
        assert (await pair.desk.queue()).waiting == 0
    assert postgres.execute(deadlocks) == before


async def test_what_is_finished_while_its_instance_is_purged_leaves_no_message(pair: Pair) -> None:
    for n in range(20):
        name = f"over {n}"
        await pair.one.commit(pair.desk.lease, Commit(new=[an_instance(name, Status.COMPLETED)]))
        await pair.desk.write("a", instance_id=name)
        (task,) = await pair.desk.claim()
        await asyncio.gather(pair.one.purge([name]), pair.other.finish_tasks([an_end(task)], pair.desk.server))
    assert await pair.one.inbox(0, 100) == []


async def test_names_may_be_as_long_as_they_may_be(pair: Pair) -> None:
    new = an_instance(LONGEST)
    task = NewTask(LONGEST, 1, LONGEST, LONGEST, b"", b"", 1_000, LONGEST, 0, None, 0)
    await pair.one.commit(pair.desk.lease, Commit(new=[new], tasks=[task]))
    request = pair.desk.request(names=(LONGEST,), rooms={LONGEST: 1})
    (claimed,) = (await pair.other.claim(request, 0)).tasks
    assert (claimed.instance_id, claimed.queue, claimed.fairness_key) == (LONGEST, LONGEST, LONGEST)


async def test_a_rate_with_large_numbers_is_exact(pair: Pair) -> None:
    """Where floating point would have given up, and a product does not fit into 64 bits."""
    await pair.desk.write(*["a"] * 3)
    now_us, count = 1_900_000_000_000_000, 999_999
    period_us = 1_000 * 86_400 * 1_000_000
    limits = QueueLimits(None, count, period_us, count)
    await pair.one.limit_queue("q", limits)
    assert len(await pair.desk.claim(2, now_us)) == 2
    assert await pair.one._read("select full_us from {s}.queues") == [(rate_full_us(limits, 0, now_us, 2),)]
    await pair.one._write("update {s}.queues set full_us = $1", now_us + period_us)  # all of them were taken
    claims = await pair.one.claim(pair.desk.request(), now_us)
    assert (claims.tasks, claims.next_us) == ([], rate_next_us(limits, now_us + period_us))
    assert claims.next_us is not None
    assert await pair.desk.claim(1, claims.next_us - 1) == []
    assert len(await pair.desk.claim(2, claims.next_us)) == 1


# -- hints ------------------------------------------------------------------------------------------------------------


async def test_the_other_backend_hears_of_what_can_be_claimed(pair: Pair) -> None:
    desk, one = pair.desk, pair.one
    await desk.write("a", "b", "c")
    await one.limit_queue("q", QueueLimits(concurrency=2))
    first, second = await desk.claim()
    late = an_instance(
        "late", Status.PENDING, admission=NewTask("late", START, "q", "order", b"", b"", 0, "", 0, None, 5)
    )
    debounced = late._replace(id="calm", admission=late.admission and late.admission._replace(instance_id="calm"))
    rewritten = late._replace(id="copy", admission=late.admission and late.admission._replace(instance_id="copy"))
    for what in [
        lambda: desk.write("d"),
        lambda: one.send([a_start("one")]),
        lambda: one.commit(desk.lease, Commit(new=[late])),
        lambda: one.commit(desk.lease, Commit(sends=[a_start("two")])),
        lambda: one.debounce(DebouncedStart("key", debounced, b"started", b"changed", 5, None)),
        lambda: one.rewrite([Rewrite(rewritten, [a_row("copy")], [])]),
        lambda: desk.finish(first),
        lambda: one.finish_tasks([an_end(second, following=the_next_attempt())], desk.server),
        lambda: one.pause_queue("q", is_paused=True),
        lambda: one.limit_queue("q", QueueLimits()),
        lambda: one.commit(desk.lease, Commit(tasks_dropped=[("i", ALL_TASKS)])),
        lambda: one.retire_server(desk.server, []),
    ]:
        await heard(pair.other, "tasks", what)
    assert (await desk.queue()).waiting == 5, "all five starts wait"


async def test_the_owner_hears_of_what_somebody_else_finishes_or_admits(pair: Pair) -> None:
    desk = pair.desk
    await desk.write("a", "b")
    task, retired = await desk.claim()
    await pair.one.send([a_start("one")])
    offer = Offer("i", 7, 1, "approve", b"", 0, 0, 0, None, b"digest")
    assert await pair.one.offer_task(desk.lease, offer)
    handed_over = await pair.one.task("i", 7)
    assert handed_over is not None
    for what in [
        lambda: pair.other.finish_tasks([an_end(task)], desk.server),
        lambda: pair.other.finish_tasks([an_end(handed_over)], None),
        lambda: pair.other.claim(desk.request(0, admission=b"begin"), 0),
        lambda: pair.other.retire_server(desk.server, [an_end(retired)]),
    ]:
        await heard(pair.one, "inbox", what)


async def heard(backend: PostgresBackend, topic: Topic, what: Callable[[], Any]) -> None:
    while await backend.wait_for_change(0.05, topic):
        pass  # of before
    waiting = asyncio.ensure_future(backend.wait_for_change(5, topic))
    await asyncio.sleep(0)
    await what()
    assert await waiting


# -- with engines -----------------------------------------------------------------------------------------------------


@activity(queue="q", retry=RetryPolicy(initial=0.0))
async def square(n: int) -> int:
    return n * n


@workflow
async def squares(ctx: Context, count: int) -> int:
    return sum(await ctx.when_all([ctx.call_activity(square, n) for n in range(count)]))


class Counting(PostgresBackend):
    """Knows how many tasks it has claimed."""

    claimed = 0

    async def claim(self, request: ClaimRequest, now_us: int) -> Claims:
        claims = await super().claim(request, now_us)
        self.claimed += len(claims.tasks)
        return claims


async def test_a_fan_out_spreads_over_engines(store_url: Callable[[object], str]) -> None:
    stores = [Counting(store_url("spreads")) for _ in range(3)]
    async with Engine(stores[0]) as first, Engine(stores[1]), Engine(stores[2]):
        assert await (await first.start(squares, 1_000)).result() == sum(n * n for n in range(1_000))
    assert sum(store.claimed for store in stores) == 1_000
    assert min(store.claimed for store in stores) >= 100


async def test_the_claims_of_a_server_that_died_come_back(store_url: Callable[[object], str]) -> None:
    """It took half of them with it; by its lease they are known to be lost, and are made again."""
    url = store_url("comes back")
    async with Engine(url, queues=()) as starter:
        handle = await starter.start(squares, 20)
        dying = PostgresBackend(url)
        await dying.open()
        server = await dying.enlist_server("dying", 300_000, 0)
        taken = 0
        while not taken:
            claims = await dying.claim(ClaimRequest(server, ("square",), {"q": 10}, 0, True, None), 0)
            taken = len(claims.tasks)
            await asyncio.sleep(0.01)
        await dying.close()
        store = Counting(url)
        async with Engine(store):
            async with asyncio.timeout(20):
                assert await handle.result() == sum(n * n for n in range(20))
    assert (taken, store.claimed) == (10, 20)


@workflow(name="place")
async def place(ctx: Context) -> str:
    return await ctx.wait_for_event("go", str)


async def test_a_queue_admits_so_many_instances_whoever_owns_them(store_url: Callable[[object], str]) -> None:
    url = store_url("admits")
    async with Engine(url) as one, Engine(url) as other:
        await one.set_queue("q", concurrency=2)
        handles = [await engine.start(place.options(queue="q")) for engine in (one, other, one, other, one)]
        for waiting in (3, 2, 1, 0, 0):
            async with asyncio.timeout(10):
                while len(running := await running_of(handles)) < min(2, len(handles)):  # noqa: ASYNC110  # likewise
                    await asyncio.sleep(0.01)
            assert len(running) == min(2, len(handles))
            assert (await one.queue("q")).waiting == waiting
            await other.raise_event(running[0].id, "go", "went")
            assert await running[0].result() == "went"
            handles.remove(running[0])


async def running_of(handles: list[Any]) -> list[Any]:
    return [handle for handle in handles if (await handle.status()).status is Status.RUNNING]


async def test_a_token_is_used_in_another_process_than_its_attempt(store_url: Callable[[object], str]) -> None:
    url = store_url("token")
    tokens: asyncio.Queue[str] = asyncio.Queue()

    @activity(name="approve", queue="q")
    async def approve() -> str:
        tokens.put_nowait(await activity_context().hand_over())
        raise HandedOver

    @workflow(name="asks")
    async def asks(ctx: Context) -> str:
        return await ctx.call_activity(approve)

    async with Engine(url) as engine, Client(url) as client:
        handle = await engine.start(asks)
        token = await tokens.get()
        await client.complete(token, "yes")
        async with asyncio.timeout(5):
            assert await handle.result() == "yes"


async def die(engine: Any) -> None:
    """Write nothing more; and be known to be dead."""
    lease = engine._worker.lease
    for task in (engine._task, engine._serving):
        task.cancel()
    await asyncio.wait([engine._task, engine._serving])
    engine._task = engine._serving = None
    await engine._backend.release(lease)
    await engine._backend.close()


async def test_a_token_that_a_dead_worker_gave_out_is_worth_nothing_when_its_heir_has_a_result(
    store_url: Callable[[object], str],
) -> None:
    url = store_url("dead token")
    tokens: asyncio.Queue[str] = asyncio.Queue()

    @activity(name="sign", retry=RetryPolicy(initial=0.0))
    async def sign() -> str:
        if activity_context().attempt == 1:
            tokens.put_nowait(await activity_context().hand_over())
            await asyncio.Event().wait()
        return "signed"

    @workflow(name="signs")
    async def signs(ctx: Context) -> str:
        signed = await ctx.call_activity(sign)
        await ctx.wait_for_event("end", bool)
        return signed

    def engine() -> Engine:
        return Engine(url, workflows=[signs], activities=[sign])

    async with engine() as heir:
        dying = await engine().__aenter__()
        handle = await dying.start(signs)
        token = await tokens.get()
        await die(dying)
        async with asyncio.timeout(10):
            while "activity_completed" not in str(await heir._backend.last_row(handle.id)):  # noqa: ASYNC110  # see above
                await asyncio.sleep(0.01)
            with pytest.raises(TokenRefused) as caught:
                await heir.complete(token, "forged")
            assert caught.value.reason == "over"
            await heir.raise_event(handle.id, "end", True)
            assert await heir.handle(handle.id).result() == "signed"
