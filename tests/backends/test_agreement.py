"""Memory and SQLite answer alike and hold alike, whatever is asked of them in whatever order (I45)."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from durableflow.backends.base import (
    Arrival,
    Backend,
    Commit,
    DeadLetter,
    DeadLetterQuery,
    DebouncedStart,
    Heartbeat,
    HistoryRow,
    InstanceChange,
    InstanceRecord,
    Lease,
    Message,
    NewInstance,
    Outgoing,
    Query,
    Rewrite,
    ScheduleRow,
    ScheduleWrite,
)
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.errors import AppendConflict, InstancesExist, StorageError
from durableflow.model.alert import AlertChanges, AlertKind, AlertRecord, DelayedNotice, NewNotice, Severity
from durableflow.model.circuit import Circuit, CircuitState
from durableflow.model.status import Status

IDS = ["a", "A", "b", "ü", "a%"]
TABLES = ("history", "inbox", "heartbeats", "tags", "dead_letters", "tasks", "windows")

ids = st.sampled_from(IDS)
statuses = st.sampled_from(Status)
wakes = st.none() | st.integers(0, 5)
small = st.integers(0, 5)
kinds = st.sampled_from(AlertKind)
blobs = st.sampled_from([b"", b"1", b"two"])
tag_sets = st.dictionaries(st.sampled_from("kl"), st.sampled_from("vw"), max_size=2)
news = st.builds(
    NewInstance,
    ids,
    st.sampled_from(["order", "ship"]),
    st.integers(1, 2),
    statuses,
    small,
    wakes,
    tag_sets,
    st.none() | blobs,
    st.none() | small,
    st.booleans(),
    st.none() | ids,
    st.integers(1, 3),
    st.none(),
)
letters = st.builds(
    DeadLetter,
    ids,
    st.integers(0, 2),
    st.sampled_from(["activity", "failed", "stalled"]),
    st.sampled_from(["pay", "ship"]),
    small,
    small,
    st.sampled_from(["", "E"]),
    st.sampled_from(["", "no"]),
)
letter_queries = st.builds(
    DeadLetterQuery,
    kind=st.none() | st.sampled_from(["activity", "failed", "stalled"]),
    name=st.none() | st.sampled_from(["pay", "ship"]),
    type_name=st.none() | st.sampled_from(["", "E"]),
    instance_id=st.none() | ids,
    after=st.none() | st.tuples(small, ids, st.integers(0, 2)),
    limit=st.integers(1, 3),
)
answers = st.dictionaries(st.sampled_from(["delivered", "exists", "missing", "over"]), blobs, max_size=4)
told_by_instances = st.builds(
    Outgoing, ids, blobs, st.none(), st.none() | st.sampled_from("ef"), ids, answers
) | st.builds(
    lambda child, data, sender, answers: Outgoing(child.id, data, child, None, sender, answers),
    st.builds(
        NewInstance,
        ids,
        st.just("child"),
        st.integers(1, 2),
        st.just(Status.PENDING),
        small,
        st.just(0),
        tag_sets,
        custom_status=st.none(),
        finished_us=st.none(),
        base_seq=st.just(1),
        replace=st.booleans(),
        parent=st.none() | ids,
        admission=st.none(),
    ),
    blobs,
    ids,
    answers,
)
changes = st.builds(
    InstanceChange,
    ids,
    statuses,
    wakes,
    st.none() | small,
    st.none() | blobs,
    st.none() | st.just("why"),
    st.none() | st.integers(1, 3),
    st.none() | st.integers(1, 3),
)
beats = st.builds(Heartbeat, ids, st.integers(1, 2), st.integers(1, 2), blobs)
arrivals = ids.flatmap(
    lambda each: st.builds(
        Arrival,
        st.builds(
            InstanceRecord,
            st.just(each),
            st.just("order"),
            st.just(1),
            statuses,
            small,
            st.none() | small,
            wakes,
            tag_sets,
            st.none() | blobs,
            st.none() | st.just("why"),
        ),
        st.lists(st.integers(1, 3).map(lambda seq: HistoryRow(each, seq, 0, b"row")), max_size=2, unique=True),
        st.lists(st.builds(Outgoing, st.just(each), blobs, st.none(), st.none() | st.sampled_from("ef")), max_size=2),
        st.lists(st.integers(1, 2).map(lambda task: Heartbeat(each, task, 1, b"beat")), max_size=2, unique=True),
    )
)
queries = st.builds(
    Query,
    statuses=st.frozensets(statuses, max_size=2),
    workflow=st.none() | st.sampled_from(["order", "ship"]),
    tags=tag_sets,
    id_prefix=st.none() | st.sampled_from(["", "a", "a%", "%"]),
    created_from_us=st.none() | small,
    created_before_us=st.none() | small,
    parent=st.none() | ids,
    after=st.none() | st.tuples(small, ids),
    limit=st.integers(1, 4),
)


def told(error: StorageError) -> tuple[object, ...]:
    """What a caller can learn from an error."""
    named = error.instance_ids if isinstance(error, (InstancesExist, AppendConflict)) else None
    return type(error).__name__, named


class TwoBackends(RuleBasedStateMachine):
    """Does everything twice."""

    def __init__(self) -> None:
        super().__init__()
        self.loops = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.sqlite = SqliteBackend(self.folder / "store.db", power_loss_safe=False)
        self.memory = MemoryBackend()
        self.leases: list[Lease] = []
        self.now_us = 0
        self.last_seq = dict.fromkeys(IDS, 0)
        self.loops.run(self.sqlite.open())
        self.loops.run(self.memory.open())

    def teardown(self) -> None:
        self.loops.run(self.sqlite.close())
        self.loops.run(self.memory.close())
        self.loops.close()
        shutil.rmtree(self.folder)

    def both(self, ask: Callable[[Backend], Awaitable[Any]]) -> Any:
        """Ask both; the answer, on which they must agree."""

        async def answer(backend: Backend) -> Any:
            try:
                return await ask(backend)
            except StorageError as error:
                return told(error)

        of_memory, of_sqlite = self.loops.run(answer(self.memory)), self.loops.run(answer(self.sqlite))
        assert of_memory == of_sqlite
        return of_memory

    # -- leases ---------------------------------------------------------------------------------------------

    @rule(later=small, ttl=st.integers(1, 4))
    def acquire(self, later: int, ttl: int) -> None:
        self.now_us += later
        lease = self.both(lambda backend: backend.acquire("worker", ttl, self.now_us))
        if lease is not None:
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), later=small, ttl=st.integers(1, 4))
    def renew(self, data: st.DataObject, later: int, ttl: int) -> None:
        self.now_us += later
        lease = data.draw(st.sampled_from(self.leases))
        self.both(lambda backend: backend.renew(lease, ttl, self.now_us))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        self.both(lambda backend: backend.release(lease))

    # -- writing --------------------------------------------------------------------------------------------

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        new=st.lists(news, max_size=2),
        changed=st.lists(changes, max_size=2),
        consumed=st.lists(st.integers(0, 12), max_size=3),
        beating=st.lists(beats, max_size=2),
        sends=st.lists(told_by_instances, max_size=3),
        dead=st.lists(letters, max_size=2),
        redeemed=st.lists(ids, max_size=2),
    )
    def commit(
        self,
        data: st.DataObject,
        new: list[NewInstance],
        changed: list[InstanceChange],
        consumed: list[int],
        beating: list[Heartbeat],
        sends: list[Outgoing],
        dead: list[DeadLetter],
        redeemed: list[str],
    ) -> None:
        lease = data.draw(st.sampled_from(self.leases[-2:]))
        there = {record.id for record in self.both(lambda backend: backend.list_records(Query()))}
        there |= {each.id for each in new}
        # An engine writes only to instances that are there, and the next number or, by mistake, one that is taken.
        rows = [
            HistoryRow(each, max(1, self.last_seq[each] + step), self.now_us, data.draw(blobs))
            for each, step in data.draw(st.lists(st.tuples(ids, st.sampled_from([1, 1, 1, 2, 0])), max_size=2))
            if each in there
        ]
        commit = Commit(new, rows, changed, consumed, [beat for beat in beating if beat.instance_id in there], sends)
        commit.dead_letters = [letter for letter in dead if letter.instance_id in there]
        commit.redeemed = redeemed
        if self.both(lambda backend: backend.commit(lease, commit)) is None:
            self.find_last_rows()

    def find_last_rows(self) -> None:
        for each in IDS:
            last = self.both(lambda backend, each=each: backend.last_row(each))
            self.last_seq[each] = 0 if last is None else last.first_seq

    @rule(sent=st.lists(st.builds(Outgoing, ids, blobs, st.none(), st.none() | st.sampled_from("ef")), max_size=3))
    def send(self, sent: list[Outgoing]) -> None:
        self.both(lambda backend: backend.send(sent))

    @rule(new=st.lists(news, max_size=2), data=blobs)
    def send_starts(self, new: list[NewInstance], data: bytes) -> None:
        results = self.both(lambda backend: backend.send([Outgoing(each.id, data, each) for each in new]))
        for made, result in zip(new, results, strict=True):
            if result.outcome == "delivered":
                self.last_seq[made.id] = 0

    @rule(
        data=st.data(),
        new=st.lists(news, max_size=2, unique_by=lambda new: new.id),
        sends=st.lists(told_by_instances, max_size=1),
    )
    def rewrite(self, data: st.DataObject, new: list[NewInstance], sends: list[Outgoing]) -> None:
        rewrites: list[Rewrite] = []
        for each in new:
            after_seq = data.draw(st.sampled_from([0, max(1, self.last_seq[each.id])]))
            row = HistoryRow(each.id, self.last_seq[each.id] + 1 if after_seq else 1, self.now_us, b"again")
            rewrites.append(Rewrite(each, [row], sends, after_seq))
        self.both(lambda backend: backend.rewrite(rewrites))
        self.find_last_rows()

    @rule(wanted=st.frozensets(statuses, max_size=3), before_us=small, after=st.tuples(small, ids), limit=small)
    def finished(self, wanted: frozenset[Status], before_us: int, after: tuple[int, str], limit: int) -> None:
        self.both(lambda backend: backend.finished(wanted, before_us, after, limit))

    @rule(purged=st.lists(ids, max_size=3))
    def purge(self, purged: list[str]) -> None:
        for gone in self.both(lambda backend: backend.purge(purged)):
            self.last_seq[gone] = 0

    @rule(made=st.lists(arrivals, max_size=2))
    def take_in(self, made: list[Arrival]) -> None:
        taken = self.both(lambda backend: backend.take_in(made))
        for arrival in made:
            if arrival.record.id not in taken:
                self.last_seq[arrival.record.id] = max((row.first_seq for row in arrival.rows), default=0)

    @rule(
        circuit=st.builds(
            Circuit, st.sampled_from("pq"), st.sampled_from(CircuitState), small, small, small, small, small, small
        )
    )
    def swap_circuit(self, circuit: Circuit) -> None:
        self.both(lambda backend: backend.swap_circuit(circuit))
        self.both(lambda backend: backend.circuits())

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        kept=st.lists(st.builds(AlertRecord, kinds, ids, st.sampled_from(Severity), small, small, st.just("x"))),
        resolved=st.lists(st.tuples(kinds, ids), max_size=2),
        noticed=st.lists(st.builds(NewNotice, st.sampled_from("st"), blobs, small), max_size=2),
        settled=st.lists(small, max_size=2),
        delayed=st.lists(st.builds(DelayedNotice, small, small, small), max_size=2),
    )
    def change_alerts(
        self,
        data: st.DataObject,
        kept: list[AlertRecord],
        resolved: list[tuple[AlertKind, str]],
        noticed: list[NewNotice],
        settled: list[int],
        delayed: list[DelayedNotice],
    ) -> None:
        lease = data.draw(st.sampled_from(self.leases[-2:]))
        changes = AlertChanges(kept, resolved, noticed, settled, delayed)
        self.both(lambda backend: backend.change_alerts(lease, changes))
        self.both(lambda backend: backend.alerts())
        self.both(lambda backend: backend.notices("s", 3))

    @rule(new=news, data=blobs, at_us=small, until_us=st.none() | small)
    def debounce(self, new: NewInstance, data: bytes, at_us: int, until_us: int | None) -> None:
        there = {record.id for record in self.both(lambda backend: backend.list_records(Query()))}
        start = DebouncedStart("k", new, data, data, at_us, until_us)
        made = self.both(lambda backend: backend.debounce(start))
        if made == new.id and (new.id not in there or new.replace):
            self.last_seq[new.id] = 0

    @rule(instance_id=ids, now_us=small)
    def close_window(self, instance_id: str, now_us: int) -> None:
        self.both(lambda backend: backend.close_window(instance_id, now_us))

    @rule(moment=small, limit=st.integers(1, 3))
    def look_for_trouble(self, moment: int, limit: int) -> None:
        self.both(lambda backend: backend.takeovers(moment))
        self.both(lambda backend: backend.quiet(moment, limit))

    @rule()
    def reopen(self) -> None:
        self.loops.run(self.sqlite.close())
        self.loops.run(self.sqlite.open())

    # -- asking ---------------------------------------------------------------------------------------------

    @rule(
        schedule_id=ids,
        known=st.integers(0, 3),
        row=st.none() | st.tuples(st.integers(1, 3), wakes, blobs),
        messages=st.lists(told_by_instances, max_size=2),
        fenced=st.booleans(),
    )
    def write_schedule(
        self,
        schedule_id: str,
        known: int,
        row: tuple[int, int | None, bytes] | None,
        messages: list[Outgoing],
        fenced: bool,
    ) -> None:
        made = None if row is None else ScheduleRow(schedule_id, *row)
        write = ScheduleWrite(schedule_id, known, made, messages)
        lease = self.leases[-1] if fenced and self.leases else None
        self.both(lambda backend: backend.write_schedule(write, lease))
        self.find_last_rows()

    @rule(after=st.tuples(st.integers(-1, 5), ids), limit=st.integers(1, 3), schedule_id=ids)
    def look_for_schedules(self, after: tuple[int, str], limit: int, schedule_id: str) -> None:
        self.both(lambda backend: backend.due_schedules(after, limit))
        self.both(lambda backend: backend.list_schedules(after[1], limit))
        self.both(lambda backend: backend.schedule(schedule_id))

    @rule(query=letter_queries)
    def look_for_letters(self, query: DeadLetterQuery) -> None:
        self.both(lambda backend: backend.dead_letters(query))

    @rule(discarded=st.lists(st.tuples(ids, st.integers(0, 2)), max_size=2))
    def discard(self, discarded: list[tuple[str, int]]) -> None:
        self.both(lambda backend: backend.discard(discarded))

    @rule(query=queries)
    def look_for(self, query: Query) -> None:
        self.both(lambda backend: backend.list_records(query))

    @rule(after=st.tuples(st.integers(-1, 5), ids), until=small, limit=st.integers(1, 3))
    def look_at_the_time(self, after: tuple[int, str], until: int, limit: int) -> None:
        self.both(lambda backend: backend.due(after, until, limit))
        self.both(lambda backend: backend.next_wake(until))

    @rule(instance_id=ids, seq=st.integers(0, 8), limit=st.integers(1, 3), after=st.integers(0, 12))
    def look_at_one(self, instance_id: str, seq: int, limit: int, after: int) -> None:
        self.both(lambda backend: backend.history(instance_id, seq, limit))
        self.both(lambda backend: backend.last_row(instance_id))
        self.both(lambda backend: backend.inbox(after, limit))

    @invariant()
    def they_hold_the_same(self) -> None:
        for item in self.both(load_sorted):
            numbers = [message.number for message in item.messages]
            assert numbers == sorted(set(numbers))
        messages: list[Message] = self.both(lambda backend: backend.inbox(0, 1_000))
        assert {message.instance_id for message in messages} <= set(IDS)
        self.both(lambda backend: backend.due((-1, ""), 100, 1_000))
        self.both(lambda backend: backend.dead_letters(DeadLetterQuery()))

    @invariant()
    def no_row_is_left_without_its_instance(self) -> None:
        """I40, and I43: nothing is left behind, not even a transaction."""
        thread = self.sqlite._thread
        assert thread is not None
        for table in TABLES:
            sql = f"select * from {table} where instance not in (select id from instances)"
            assert self.loops.run(thread.call(lambda connection, sql=sql: connection.execute(sql).fetchall())) == []
        assert not self.loops.run(thread.call(lambda connection: connection.in_transaction))


async def load_sorted(backend: Backend) -> list[Any]:
    loaded = await backend.load(IDS)
    return [
        item._replace(heartbeats=sorted(item.heartbeats)) for item in sorted(loaded, key=lambda each: each.record.id)
    ]


TwoBackends.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestAgreement = pytest.mark.slow(TwoBackends.TestCase)
