"""Several stores that are one answer as one store would: lists, pages, batches, tokens, queues, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow.backends.base import (
    Arrival,
    Backend,
    Commit,
    DeadLetter,
    DeadLetterQuery,
    HistoryRow,
    InstanceRecord,
    NewInstance,
    Outgoing,
    Query,
    Rewrite,
    ScheduleRow,
    ScheduleWrite,
)
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sharded import SLOTS, ShardedBackend, ShardMap, placed_by, slot_of
from durableflow.backends.sharded.refusals import OneStoreAtATime
from durableflow.backends.tasks import NewTask, QueueLimits, TaskBeat
from durableflow.errors import CommitOutcomeUnknown, EngineClosed, StorageError, UsageError
from durableflow.model.alert import AlertChanges, AlertKind, AlertRecord, Severity
from durableflow.model.circuit import Circuit
from durableflow.model.ids import fresh_id
from durableflow.model.schedule import slot_id, trigger_id
from durableflow.model.status import Status
from durableflow.runtime.relays import Relay

NAMES = ("north", "east", "south")
LEASE_US = 10**15

records = st.builds(
    InstanceRecord,
    st.sampled_from([f"i-{n}" for n in range(12)] + ["ü", "A", "a%"]),
    st.sampled_from(["order", "ship"]),
    st.just(1),
    st.sampled_from(Status),
    st.integers(0, 3),
    st.none() | st.integers(0, 3),
    tags=st.dictionaries(st.sampled_from("kl"), st.sampled_from("vw"), max_size=1),
    parent=st.none() | st.just("i-0"),
)
letters = st.builds(
    DeadLetter,
    st.sampled_from([f"i-{n}" for n in range(12)]),
    st.integers(0, 2),
    st.sampled_from(["activity", "failed"]),
    st.sampled_from(["pay", "ship"]),
    st.integers(0, 3),
    st.just(1),
    st.just("E"),
    st.just("no"),
)


def sharded(shards: Sequence[str] = NAMES) -> ShardedBackend:
    return ShardedBackend({name: MemoryBackend() for name in shards})


def id_in(backend: ShardedBackend, name: str, beginning: str = "i") -> str:
    return next(each for n in count() if backend.map.shard_of(each := f"{beginning}-{n}") == name)


def a_start(instance_id: str) -> Outgoing:
    return Outgoing(instance_id, b"start", NewInstance(instance_id, "w", 1, Status.PENDING, 0, 0, {}))


async def all_of(ask: Callable[[Any], Awaitable[list[Any]]], key: Callable[[Any], Any], size: int, first: Any) -> Any:
    """All pages, one after the other."""
    found: list[Any] = []
    after = first
    while page := await ask(after):
        assert len(page) <= size
        found += page
        after = key(page[-1])
    return found


# -- as one store would -------------------------------------------------------------------------------------


@given(st.lists(records, max_size=15, unique_by=lambda r: r.id), st.lists(letters, max_size=8), st.integers(1, 4))
def test_pages_of_several_stores_are_those_of_one(
    made: list[InstanceRecord], dead: list[DeadLetter], size: int
) -> None:
    """Nothing is missed or doubled between two pages, and the order is the same."""

    async def scenario() -> None:
        one, several = MemoryBackend(), sharded()
        arrivals = [Arrival(record, [HistoryRow(record.id, 1, 0, b"[]")], [], []) for record in made]
        for backend in (one, several):
            assert await backend.take_in(arrivals) == set()
            assert await backend.take_in(arrivals) == {record.id for record in made}
        for store in (one, *several.stores.values()):
            assert isinstance(store, MemoryBackend)
            lease = await store.acquire("worker", LEASE_US, 0)
            assert lease is not None
            await store.commit(lease, Commit(dead_letters=dead))
        wheres = [{}, {"workflow": "order"}, {"tags": {"k": "v"}}, {"id_prefix": "i-1"}, {"parent": "i-0"}]
        for where in wheres:

            def listed(store: Backend, where: Any = where) -> Any:
                return lambda after: store.list_records(Query(after=after, limit=size, **where))

            pages = [await all_of(listed(each), lambda r: (r.created_us, r.id), size, None) for each in (one, several)]
            assert pages[0] == pages[1]

        def finished(store: Backend) -> Any:
            return lambda after: store.finished(frozenset(Status), 3, after, size)

        ended = [await all_of(finished(each), lambda pair: pair, size, (-1, "")) for each in (one, several)]
        assert ended[0] == ended[1]

        def put_by(store: Backend) -> Any:
            return lambda after: store.dead_letters(DeadLetterQuery(after=after, limit=size))

        put = [
            await all_of(put_by(each), lambda d: (d.at_us, d.instance_id, d.task), size, None)
            for each in (one, several)
        ]
        assert put[0] == put[1]
        ids = [record.id for record in made] + ["nobody"]
        assert await one.load(ids) == await several.load(ids)
        assert {each.instance_id: each for each in await one.ends(ids)} == {
            each.instance_id: each for each in await several.ends(ids)
        }
        named = [(each.instance_id, each.task) for each in dead] + [("nobody", 0)]
        assert await one.discard(named[1:]) == await several.discard(named[1:])
        assert await one.purge(ids) == await several.purge(ids)
        for each in ids:
            assert await one.record(each) == await several.record(each)
            assert await one.last_row(each) == await several.last_row(each)

    asyncio.run(scenario())


async def test_messages_of_a_batch_are_answered_in_their_order_whichever_shards_they_are_for() -> None:
    backend = sharded()
    ids = [f"i-{n}" for n in range(20)]
    assert {backend.map.shard_of(each) for each in ids} == set(NAMES)
    results = await backend.send([a_start(each) for each in ids] + [a_start(ids[3])])
    assert [result.outcome for result in results] == ["delivered"] * 20 + ["exists"]
    results = await backend.send([Outgoing("nobody", b"x"), *(Outgoing(each, b"go") for each in ids)])
    assert [result.outcome for result in results] == ["missing"] + ["delivered"] * 20
    for name, store in backend.stores.items():
        waiting = [message.instance_id for message in await store.inbox(0, 100)]
        mine = [each for each in ids if backend.map.shard_of(each) == name]
        assert waiting == mine * 2, "in the order in which they were sent"


# -- a shard that cannot answer -----------------------------------------------------------------------------


class Away(MemoryBackend):
    """A store that answers nothing."""

    async def send(self, messages: Any) -> Any:
        raise StorageError("away")

    async def ends(self, instance_ids: Any) -> Any:
        raise StorageError("away")

    async def list_records(self, query: Any) -> Any:
        raise StorageError("away")

    async def wait_for_change(self, timeout_s: float, topic: Any = "anything") -> bool:
        raise StorageError("away")


async def test_a_batch_that_only_some_shards_have_written_has_an_unknown_outcome() -> None:
    backend = ShardedBackend({"north": MemoryBackend(), "south": Away()})
    near, far = id_in(backend, "north"), id_in(backend, "south")
    with pytest.raises(CommitOutcomeUnknown, match="shard south could not be written: away; what was for north is"):
        await backend.send([a_start(near), a_start(far)])
    assert await backend.record(near) is not None
    with pytest.raises(StorageError) as refused:
        await backend.send([a_start(far)])
    assert type(refused.value) is StorageError, "nothing was written"


async def test_a_shard_that_is_away_holds_up_nobody_who_waits_for_an_end_in_another() -> None:
    backend = ShardedBackend({"north": MemoryBackend(), "south": Away()})
    near, far = id_in(backend, "north"), id_in(backend, "south")
    assert [each.instance_id for each in await backend.ends([far, near])] == [near]
    with pytest.raises(StorageError, match="away"):
        await backend.ends([far])
    with pytest.raises(StorageError, match="away"):  # a list without its instances would be a wrong one
        await backend.list_records(Query())


async def test_a_change_in_any_shard_is_heard() -> None:
    backend = ShardedBackend({"north": MemoryBackend(), "south": Away(), "west": MemoryBackend()})
    hearing = asyncio.ensure_future(backend.wait_for_change(60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not hearing.done()
    await backend.send([a_start(id_in(backend, "west"))])
    assert await hearing
    assert not await backend.wait_for_change(0.001), "nothing has changed since"
    with pytest.raises(StorageError, match="away"):
        await ShardedBackend({"south": Away()}).wait_for_change(60)


async def test_a_closed_shard_is_told_to_whoever_waits() -> None:
    class Closed(MemoryBackend):
        async def wait_for_change(self, timeout_s: float, topic: Any = "anything") -> bool:
            raise EngineClosed("closed")

    with pytest.raises(EngineClosed):
        await ShardedBackend({"north": MemoryBackend(), "south": Closed()}).wait_for_change(60)


async def test_stores_are_opened_all_or_none_and_closed_all() -> None:
    class Watched(MemoryBackend):
        def __init__(self, *, opens: bool = True, closes: bool = True) -> None:
            super().__init__()
            self.said: list[str] = []
            self._opens, self._closes = opens, closes

        async def open(self) -> None:
            if not self._opens:
                raise StorageError("does not open")
            self.said.append("open")

        async def close(self) -> None:
            self.said.append("closed")
            if not self._closes:
                raise StorageError("does not close")

    first, second, third = Watched(), Watched(opens=False), Watched()
    with pytest.raises(StorageError, match="does not open"):
        await ShardedBackend({"a": first, "b": second, "c": third}).open()
    assert (first.said, second.said, third.said) == (["open", "closed"], [], [])
    first, second = Watched(), Watched(closes=False)
    backend = ShardedBackend({"a": first, "b": second})
    await backend.open()
    with pytest.raises(StorageError, match="does not close"):
        await backend.close()
    assert first.said == second.said == ["open", "closed"]


# -- families -----------------------------------------------------------------------------------------------


async def test_a_family_goes_on_from_the_parent_down_whatever_shards_it_is_in() -> None:
    """Nobody goes on before who waits for it: a grandchild in the shard of its grandparent waits for the way back."""
    backend = sharded(["north", "south"])
    north, south = backend.stores.values()
    shards = {"parent": "north", "child": "south", "near": "north", "grandchild": "north", "sibling": "south"}
    ids = {each: id_in(backend, shard, each) for each, shard in shards.items()}
    parents = {"child": "parent", "near": "parent", "grandchild": "child", "sibling": "child"}
    for instance_id in ids.values():
        store = backend.of(instance_id)
        assert isinstance(store, MemoryBackend)
        record = InstanceRecord(instance_id, "w", 1, Status.FAILED, 0, 1)
        await store.take_in([Arrival(record, [HistoryRow(instance_id, 1, 0, b"[]")], [], [])])
    rewrites = [
        Rewrite(
            NewInstance(ids[each], "w", 1, Status.RUNNING, 0, 0, {}, parent=ids.get(parents.get(each, ""))),
            [HistoryRow(ids[each], 5, 0, b"[]")],
            [Outgoing(ids[each], b"go"), a_start(id_in(backend, "south", f"new-{each}"))],
            1,
        )
        for each in ids
    ]

    async def going() -> set[str]:
        found = [(each, await backend.record(instance_id)) for each, instance_id in ids.items()]
        return {each for each, record in found if record is not None and record.status is Status.RUNNING}

    await backend.rewrite(rewrites)
    assert await going() == {"parent", "near"}
    relays = [Relay(name, store, backend.stores, backend.map.shard_of) for name, store in backend.stores.items()]
    assert await relays[0].carry() == 3
    assert await going() == {"parent", "near", "child", "sibling"}
    assert await relays[1].carry() == 1
    assert await going() == set(ids)
    assert await relays[0].carry() == 1, "what the grandchild sends"
    assert await backend.count_relayed() == 0
    assert len(await south.list_records(Query(id_prefix="new-"))) == len(ids)
    assert await north.list_records(Query(id_prefix="new-")) == []


# -- what is not of one instance ----------------------------------------------------------------------------


SCHEDULE_IDS = ["daily", "a/b", "ü", "x" * 400, "daily/2026-01-01T00:00:00Z", "trigger", "/trigger"]


@pytest.mark.parametrize("schedule_id", SCHEDULE_IDS)
def test_an_instance_of_a_schedule_is_where_its_schedule_is(schedule_id: str) -> None:
    placed = ShardMap.over(NAMES)
    for made in (
        slot_id(schedule_id, 0),
        slot_id(schedule_id, 1_767_225_600_123_456),
        trigger_id(schedule_id, "now"),
        trigger_id(schedule_id, "2026-01-01T00:00:00Z"),
        trigger_id(schedule_id, fresh_id(0, 0)),
    ):
        assert placed_by(made) == schedule_id
        assert placed.shard_of(made) == placed.shard_of_schedule(schedule_id)


def test_debounced_instances_of_a_key_are_in_one_slot_and_their_children_anywhere() -> None:
    ids = [f"page-1/debounced/{fresh_id(n, n)}" for n in range(50)]
    assert {placed_by(each) for each in ids} == {"page-1"}
    assert len({slot_of(f"{ids[0]}/{task}") for task in range(50)}) > 40
    assert len({slot_of(f"{slot_id('daily', 0)}/{task}") for task in range(50)}) > 40


@pytest.mark.parametrize("instance_id", ["order-1", "/trigger/x", "/debounced/x", "a/b", "2026-01-01T00:00:00Z", "a/"])
def test_any_other_id_is_placed_by_all_of_it(instance_id: str) -> None:
    assert placed_by(instance_id) == instance_id


def schedule_write(schedule_id: str, *messages: Outgoing, revision: int = 0) -> ScheduleWrite:
    return ScheduleWrite(schedule_id, revision, ScheduleRow(schedule_id, revision + 1, None, b"data"), messages)


async def test_schedules_are_spread_and_listed_in_order() -> None:
    backend = sharded()
    ids = sorted(f"s-{n}" for n in range(20))
    for each in ids:
        assert await backend.write_schedule(schedule_write(each, a_start(slot_id(each, 0))))
        assert not await backend.write_schedule(schedule_write(each))
        assert await backend.schedule(each) == ScheduleRow(each, 1, None, b"data")
    counts = [len(await store.list_schedules("", 100)) for store in backend.stores.values()]
    assert sum(counts) == 20
    assert min(counts) > 0
    assert [
        row.id for row in await all_of(lambda after: backend.list_schedules(after, 3), lambda r: r.id, 3, "")
    ] == ids
    assert all([await backend.record(slot_id(each, 0)) is not None for each in ids])


async def test_a_schedule_whose_instances_would_be_elsewhere_is_refused() -> None:
    backend = sharded()
    with pytest.raises(UsageError, match="must not end with '/trigger'"):
        await backend.write_schedule(schedule_write("daily/trigger"))
    stray = next(each for n in count() if backend.map.shard_of(each := trigger_id("daily", f"a/{n}")) != "north")
    home = next(each for n in count() if backend.map.shard_of_schedule(each := f"daily-{n}") == "north")
    with pytest.raises(UsageError, match=f"{home!r} makes {stray!r}"):
        await backend.write_schedule(schedule_write(home, a_start(stray)))
    assert await backend.schedule(home) is None


async def test_circuits_are_at_home_and_alerts_are_told_once() -> None:
    backend = sharded()
    assert await backend.swap_circuit(Circuit("pay", revision=1)) is None
    assert (
        [circuit.name for circuit in await backend.home.circuits()]
        == ["pay"]
        == [circuit.name for circuit in await backend.circuits()]
    )
    for since_us, (name, store) in enumerate(backend.stores.items()):
        lease = await store.acquire("worker", LEASE_US, 0)
        assert lease is not None
        kept = [
            AlertRecord(AlertKind.CIRCUIT_OPEN, "pay", Severity.WARNING, 10 - since_us, 10, name),
            AlertRecord(AlertKind.STALLED, name, Severity.ERROR, 1, 1, name),
        ]
        await store.change_alerts(lease, AlertChanges(kept=kept))
    assert [(each.kind, each.subject, each.details) for each in await backend.alerts()] == [
        (AlertKind.CIRCUIT_OPEN, "pay", "south"),
        *((AlertKind.STALLED, name, name) for name in sorted(NAMES)),
    ]


# -- queues -------------------------------------------------------------------------------------------------


@given(
    st.builds(
        QueueLimits,
        st.none() | st.integers(3, 100),
        st.integers(1, 1_000),
        st.integers(1, 10**9),
        st.integers(1, 1_000),
    )
)
def test_a_queue_is_bounded_by_what_was_set_over_all_shards_together(limits: QueueLimits) -> None:
    async def scenario() -> None:
        backend = sharded()
        await backend.limit_queue("mail", limits)
        (seen,) = await backend.queues("mail")
        parts = [(await store.queues("mail"))[0].limits for store in backend.stores.values()]
        assert seen.limits.concurrency == limits.concurrency
        assert (seen.limits.rate_count, seen.limits.rate_period_us) == (limits.rate_count, limits.rate_period_us)
        assert seen.limits.rate_burst == max(limits.rate_burst, len(parts)), "each shard needs one at a time"
        per_us = sum(part.rate_count / part.rate_period_us for part in parts)
        assert per_us == pytest.approx(limits.rate_count / limits.rate_period_us)
        for part in parts:
            assert part.concurrency is None or part.concurrency > 0

    asyncio.run(scenario())


async def test_a_queue_with_fewer_places_than_shards_is_refused() -> None:
    with pytest.raises(UsageError, match="concurrency is 2, but each of 3 shards needs at least one place"):
        await sharded().limit_queue("mail", QueueLimits(2))
    one = sharded(["only"])
    await one.limit_queue("mail", QueueLimits(1))
    assert (await one.queues())[0].limits == QueueLimits(1)


async def test_queues_are_paused_everywhere_and_listed_by_name() -> None:
    backend = sharded()
    await backend.stores["south"].limit_queue("b", QueueLimits(4))
    await backend.pause_queue("a", is_paused=True)
    assert [(each.name, each.is_paused, each.limits.concurrency) for each in await backend.queues()] == [
        ("a", True, None),
        ("b", False, 4),
    ]
    await backend.pause_queue("a", is_paused=False)
    assert [each.is_paused for each in await backend.queues("a")] == [False]


async def test_the_number_of_a_task_says_its_shard_too() -> None:
    backend = sharded()
    ids = [id_in(backend, name) for name in NAMES]
    for name, each in zip(NAMES, ids, strict=True):
        lease = await backend.stores[name].acquire("worker", LEASE_US, 0)
        assert lease is not None
        new = NewInstance(each, "w", 1, Status.RUNNING, 0, None, {})
        await backend.stores[name].commit(
            lease, Commit(new=[new], tasks=[NewTask(each, 1, "q", "mail", b"[]", b"", 0, "", 0, None, 0)])
        )
    tasks = [await backend.task(each, 1) for each in ids]
    numbers = [task.number for task in tasks if task is not None]
    assert len(set(numbers)) == 3
    assert [number % SLOTS for number in numbers] == [0, 1, 2]
    assert await backend.task(ids[0], 2) is None
    beats = [TaskBeat(number, 1, b"details") for number in numbers]
    assert len(await backend.beat_tasks(beats)) == 3
    with pytest.raises(UsageError, match="Shards"):
        await backend.finish_tasks([], 1)


# -- what a client does not do ------------------------------------------------------------------------------


def methods_of(protocol: type) -> Iterator[str]:
    for base in protocol.mro():
        yield from (name for name, member in vars(base).items() if not name.startswith("_") and callable(member))


def test_each_method_of_a_backend_is_answered_or_refused() -> None:
    names = set(methods_of(Backend))
    assert {"send", "alerts", "rewrite", "acquire"} <= names
    assert [name for name in names if not hasattr(ShardedBackend, name)] == []


@pytest.mark.parametrize("name", [name for name in vars(OneStoreAtATime) if not name.startswith("_")])
async def test_what_is_done_in_one_store_is_refused_with_a_word_on_what_to_do(name: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name}\(\) is done in one store at a time.*(Shards|each store by itself)"):
        await getattr(sharded(), name)("anything", at=1)


def test_a_map_of_other_shards_is_refused() -> None:
    with pytest.raises(UsageError, match="the map is of shards"):
        ShardedBackend({"north": "memory://"}, ShardMap.over(["south"]))


def test_stores_are_in_the_order_of_the_map_whatever_order_they_are_given_in() -> None:
    placed = ShardMap.over(["south", "north"])
    backend = ShardedBackend({"north": "memory://", "south": "memory://"}, placed)
    assert list(backend.stores) == ["south", "north"]
    assert backend.home is backend.stores["south"]
    assert backend.address == ", ".join(f"{name}: {store.address}" for name, store in backend.stores.items())
    assert msgspec.json.decode(msgspec.json.encode(placed), type=ShardMap) == placed
