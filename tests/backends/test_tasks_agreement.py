"""All stores hand out the same tasks to the same servers, whatever is asked of them in whatever order (I45)."""

from __future__ import annotations

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

from durableflow.backends.base import Backend, Commit, InstanceChange, Lease, NewInstance, Outgoing
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.backends.tasks import (
    ALL_TASKS,
    CLAIMED,
    DELAYED,
    HANDED_OVER,
    START,
    ClaimRequest,
    NewTask,
    NextAttempt,
    Offer,
    Outlook,
    QueueLimits,
    StoredTask,
    TaskBeat,
    TaskEnd,
)
from durableflow.errors import StorageError
from durableflow.model.status import Status

IDS = ["a", "b", "ü"]
QUEUES = ["p", "q"]

small = st.integers(0, 6)
moments = st.none() | st.integers(1, 40)
queues = st.sampled_from(QUEUES)
details = st.none() | st.sampled_from([b"", b"half"])
limits = st.builds(
    QueueLimits, st.none() | st.integers(1, 3), st.integers(1, 2), st.sampled_from([3, 10]), st.integers(1, 3)
) | st.builds(QueueLimits, st.none() | st.integers(1, 3))
requests = st.builds(
    ClaimRequest,
    st.just(0),
    st.sampled_from([(), ("mail",), ("mail", "fax")]),
    st.dictionaries(queues, st.integers(0, 2), max_size=2),
    st.integers(0, 2),
    st.booleans(),
    st.none() | st.just(b"begin"),
)
nexts = st.builds(
    NextAttempt,
    st.just(DELAYED),
    st.integers(2, 3),
    st.integers(0, 40),
    moments,
    details,
    st.integers(0, 1),
    st.integers(0, 2),
    st.booleans(),
)


class TwoStores(RuleBasedStateMachine):
    """Does everything twice: in memory, and in SQLite."""

    def __init__(self) -> None:
        super().__init__()
        self.loops = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.memory = MemoryBackend()
        self.other = self.another()
        self.now_us = 1
        self.made = 0
        self.keys: list[tuple[str, int]] = []
        self.servers: list[int] = []
        self.loops.run(self.other.open())
        self.loops.run(self.memory.open())
        self.leases: dict[Backend, Lease] = {}
        for backend in (self.memory, self.other):
            lease = self.loops.run(backend.acquire("worker", 10**12, 0))
            assert lease is not None
            self.leases[backend] = lease
        new = [NewInstance(each, "order", 1, Status.RUNNING, 0, None, {}) for each in IDS]
        self.commit(Commit(new=new))

    def another(self) -> Backend:
        """The store with which memory must agree."""
        return SqliteBackend(self.folder / "store.db", power_loss_safe=False)

    def leases_end(self, ttl_us: int) -> int:
        """How long the lease of a server is to last."""
        return ttl_us

    def comparable(self, found: Any) -> Any:
        """What must be the same in both."""
        return found

    def teardown(self) -> None:
        self.loops.run(self.other.close())
        self.loops.run(self.memory.close())
        self.loops.close()
        shutil.rmtree(self.folder)

    def both(self, ask: Callable[[Backend], Awaitable[Any]]) -> Any:
        """Ask both; the answer, on which they must agree."""

        async def answer(backend: Backend) -> Any:
            try:
                return self.comparable(await ask(backend))
            except StorageError as error:
                return type(error)

        of_memory, of_other = self.loops.run(answer(self.memory)), self.loops.run(answer(self.other))
        assert of_memory == of_other
        return of_memory

    def commit(self, commit: Commit) -> None:
        self.both(lambda backend: backend.commit(self.leases[backend], commit))

    def known(self) -> list[StoredTask]:
        found = [self.both(lambda backend, key=key: backend.task(*key)) for key in self.keys]
        self.keys = [key for key, task in zip(self.keys, found, strict=True) if task is not None]
        return [task for task in found if task is not None]

    # -- writing --------------------------------------------------------------------------------------------

    @rule(later=small)
    def wait(self, later: int) -> None:
        self.now_us += later

    @rule(
        instance_id=st.sampled_from(IDS),
        keys=st.lists(st.sampled_from("kl"), min_size=1, max_size=3),
        queue=queues,
        name=st.sampled_from(["mail", "fax"]),
        priority=st.integers(-1, 1),
        not_before_us=st.sampled_from([0, 0, 10, 30]),
        expires_us=moments,
    )
    def write(
        self,
        instance_id: str,
        keys: list[str],
        queue: str,
        name: str,
        priority: int,
        not_before_us: int,
        expires_us: int | None,
    ) -> None:
        made = [
            NewTask(
                instance_id, self.made + n, queue, name, b"input", b"options", priority, key, not_before_us,
                expires_us, self.now_us,
            )
            for n, key in enumerate(keys, 1)
        ]  # fmt: skip
        self.made += len(keys)
        self.keys += [(task.instance_id, task.task) for task in made]
        self.commit(Commit(tasks=made))

    @rule(queue=queues, priority=st.integers(-1, 1), not_before_us=st.sampled_from([0, 0, 20]))
    def start(self, queue: str, priority: int, not_before_us: int) -> None:
        self.made += 1
        instance_id = f"start {self.made}"
        self.keys.append((instance_id, START))
        admission = NewTask(
            instance_id, START, queue, "order", b"", b"", priority, "k", not_before_us, None, self.now_us
        )
        new = NewInstance(instance_id, "order", 1, Status.PENDING, 0, None, {}, admission=admission)
        self.both(lambda backend: backend.send([Outgoing(instance_id, b"start", new)]))

    @rule(data=st.data(), everything=st.booleans())
    def drop(self, data: st.DataObject, everything: bool) -> None:
        known = self.known()
        if known:
            task = data.draw(st.sampled_from(known))
            dropped = [(task.instance_id, ALL_TASKS if everything else task.task)]
            changes = (
                [InstanceChange(task.instance_id, Status.COMPLETED, None, self.now_us, None)]
                if task.task == START and everything
                else []
            )
            self.commit(Commit(changes=changes, tasks_dropped=dropped))

    @rule(queue=queues, bounds=limits)
    def limit(self, queue: str, bounds: QueueLimits) -> None:
        self.both(lambda backend: backend.limit_queue(queue, bounds))

    @rule(queue=queues, paused=st.booleans())
    def pause(self, queue: str, paused: bool) -> None:
        self.both(lambda backend: backend.pause_queue(queue, is_paused=paused))

    # -- serving --------------------------------------------------------------------------------------------

    @rule(ttl_us=st.sampled_from([5, 20, 10**9]))
    def enlist(self, ttl_us: int) -> None:
        self.servers.append(
            self.both(lambda backend: backend.enlist_server("server", self.leases_end(ttl_us), self.now_us))
        )

    @precondition(lambda self: self.servers)
    @rule(data=st.data(), ttl_us=st.sampled_from([5, 20]))
    def renew(self, data: st.DataObject, ttl_us: int) -> None:
        server = data.draw(st.sampled_from(self.servers))
        self.both(lambda backend: backend.renew_server(server, self.leases_end(ttl_us), self.now_us))

    @precondition(lambda self: self.servers)
    @rule(data=st.data(), request=requests)
    def claim(self, data: st.DataObject, request: ClaimRequest) -> None:
        request = request._replace(server_id=data.draw(st.sampled_from(self.servers[-3:])))
        is_due = any(task.state == DELAYED and task.not_before_us <= self.now_us for task in self.known())
        look = self.both(lambda backend: backend.look_at_tasks(request, self.now_us))
        claims = self.both(lambda backend: backend.claim(request, self.now_us))
        if not isinstance(claims, type):
            assert look.is_claimable == (is_due or bool(claims.tasks or claims.admitted)), "a look tells the truth"
            self.both(lambda backend: backend.claimed_tasks(request.server_id))

    def ends(self, data: st.DataObject) -> list[TaskEnd]:
        """Of some that are claimed or handed over, now and then not quite as they are."""
        open_ = [task for task in self.known() if task.state in (CLAIMED, HANDED_OVER) and task.task != START]
        ends: list[TaskEnd] = []
        for task in data.draw(st.lists(st.sampled_from(open_), max_size=3, unique=True)) if open_ else []:
            attempt = task.attempt + data.draw(st.sampled_from([0, 0, 0, 1]))
            following = data.draw(st.none() | nexts)
            if following is not None and not task.queue:
                following = None
            elif following is not None and task.state == CLAIMED and data.draw(st.booleans()):
                following = following._replace(state=HANDED_OVER, attempt=task.attempt)
            ends.append(TaskEnd((task.number, attempt, task.state, task.claimed_by), b"end", following))
        return ends

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        ends = self.ends(data)
        server = data.draw(st.none() | st.sampled_from(self.servers)) if self.servers else None
        self.both(lambda backend: backend.finish_tasks(ends, server))

    @precondition(lambda self: self.servers)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        server, ends = data.draw(st.sampled_from(self.servers)), self.ends(data)
        self.both(lambda backend: backend.retire_server(server, ends))

    @rule(data=st.data(), limit=st.integers(1, 3))
    def take_back(self, data: st.DataObject, limit: int) -> None:
        server = data.draw(st.sampled_from([0, *self.servers]))
        self.both(lambda backend: backend.overdue_tasks(server, self.now_us, limit))

    @rule(data=st.data(), said=st.sampled_from([b"", b"1"]), expires_us=moments, step=st.sampled_from([0, 0, 1]))
    def beat(self, data: st.DataObject, said: bytes, expires_us: int | None, step: int) -> None:
        known = self.known()
        if known:
            task = data.draw(st.sampled_from(known))
            beats = [TaskBeat(task.number, task.attempt + step, said, expires_us)]
            self.both(lambda backend: backend.beat_tasks(beats))

    # -- tokens ---------------------------------------------------------------------------------------------

    @rule(instance_id=st.sampled_from([*IDS, "nobody"]), expires_us=moments, digest=st.sampled_from([b"1", b"2"]))
    def offer(self, instance_id: str, expires_us: int | None, digest: bytes) -> None:
        self.made += 1
        self.keys.append((instance_id, self.made))
        given = Offer(instance_id, self.made, 1, "mail", b"options", self.now_us, 0, self.now_us, expires_us, digest)
        self.both(lambda backend: backend.offer_task(self.leases[backend], given))
        self.both(lambda backend: backend.offered_tasks())

    @rule(data=st.data(), attempt=st.integers(1, 3))
    def offer_again(self, data: st.DataObject, attempt: int) -> None:
        known = [task for task in self.known() if not task.queue]
        if known:
            task = data.draw(st.sampled_from(known))
            given = Offer(task.instance_id, task.task, attempt, "mail", b"", self.now_us, 0, self.now_us, None, b"3")
            self.both(lambda backend: backend.offer_task(self.leases[backend], given))
            self.both(lambda backend: backend.task(task.instance_id, task.task))

    @rule(data=st.data(), step=st.sampled_from([0, 0, 1]))
    def offer_claimed(self, data: st.DataObject, step: int) -> None:
        known = self.known()
        if known:
            task = data.draw(st.sampled_from(known))
            given = (task.number, task.attempt + step, task.claimed_by, b"digest")
            self.both(lambda backend: backend.offer_claimed(*given))

    # -- always ---------------------------------------------------------------------------------------------

    @rule()
    def reopen(self) -> None:
        self.loops.run(self.other.close())
        self.loops.run(self.other.open())

    @invariant()
    def they_hold_alike(self) -> None:
        self.both(lambda backend: backend.queues())
        self.both(lambda backend: backend.inbox(0, 1_000))

    @invariant()
    def limits_hold(self) -> None:
        for record in self.both(lambda backend: backend.queues()):
            counted = [task.state for task in self.known() if task.queue == record.name]
            assert counted.count(CLAIMED) == record.claimed


TwoStores.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestTwoStores = pytest.mark.slow(TwoStores.TestCase)


async def test_who_looks_while_a_server_is_dead_is_told_of_that_and_not_when_the_next_one_may_be(
    tmp_path: Path,
) -> None:
    looks: list[Outlook] = []
    for backend in (MemoryBackend(), SqliteBackend(tmp_path / "store.db")):
        await backend.open()
        lease = await backend.acquire("worker", 1_000, 0)
        assert lease is not None
        new = [NewInstance("i", "order", 1, Status.RUNNING, 0, None, {})]
        tasks = [NewTask("i", 1, "q", "mail", b"[]", b"", 0, "", 0, None, 0)]
        await backend.commit(lease, Commit(new=new, tasks=tasks))
        server = await backend.enlist_server("looks", 1_000, 0)
        await backend.enlist_server("dead", 10, 0)
        await backend.enlist_server("living", 100, 0)
        looks.append(await backend.look_at_tasks(ClaimRequest(server, (), {}, 0, True, None), 20))
        await backend.close()
    assert looks == [Outlook(False, True, None)] * 2
