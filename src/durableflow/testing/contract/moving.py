"""Moving house: a sealed store refuses to write, what is read of it is all, and a copy of it is the same."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from durableflow.backends.base import (
    Arrival,
    Backend,
    Commit,
    DeadLetter,
    DebouncedStart,
    Heartbeat,
    InstanceRecord,
    Lease,
    Outgoing,
    Rewrite,
    ScheduleRow,
    ScheduleWrite,
)
from durableflow.backends.moving import KeptMessage, KeptTask, MovedRow, Part, Seal, key_of
from durableflow.backends.tasks import ClaimRequest, NewTask, QueueLimits, TaskEnd
from durableflow.errors import LeaseLost, MoveRefused, StoreSealed
from durableflow.model.alert import AlertChanges
from durableflow.model.circuit import Circuit
from durableflow.model.status import Status
from durableflow.testing.contract.store import (
    LEASE_US,
    ODD_IDS,
    StoreContract,
    a_change,
    a_lease,
    a_row,
    an_instance,
    contract,
    refused,
)

_SOURCE: Final = Seal("move", "source", "sqlite:////elsewhere.db", "mover")
_TARGET: Final = Seal("move", "target", "sqlite:////from.db", "mover")
_LATER_US: Final = 10_000_000_000_000_000
"""When every lease is over; but where the store's own clock counts, they are given back."""


def _a_task(instance_id: str, task: int, key: str = "") -> NewTask:
    return NewTask(instance_id, task, "mail", "post", b"input", b"options", task, key, 0, None, 1_000)


def _request(server_id: int, room: int) -> ClaimRequest:
    return ClaimRequest(server_id, ["post"], {}, room, takes_suspect=True, admission=None)


def _an_arrival(instance_id: str) -> Arrival:
    return Arrival(InstanceRecord(instance_id, "order", 1, Status.RUNNING, 1_000), [a_row(instance_id)], [], [])


def _with_event_id(row: MovedRow) -> MovedRow:
    """As a mover does, who can read the messages: here, the first to each instance had one."""
    return row._replace(event_id="e" if row.data == b"message" else None) if isinstance(row, KeptMessage) else row


def _without_event_id(row: MovedRow) -> MovedRow:
    return row._replace(event_id=None) if isinstance(row, KeptMessage) else row


class MovingContract(StoreContract):
    """See `BackendContract`."""

    async def _fill(self, backend: Backend) -> tuple[Lease, int]:
        """A store with some of everything; nobody works on it when this returns, but a server has claims."""
        lease = await self._with_something(backend)
        await backend.commit(
            lease,
            Commit(
                new=[an_instance(each, custom_status=b"\x00odd") for each in ODD_IDS],
                rows=[a_row("a", 2, b""), a_row("a", 17), a_row("b", 1_000), *(a_row(each) for each in ODD_IDS)],
                dead_letters=[DeadLetter("a", task, "activity", "pay", 5, 3, "E", "no") for task in (0, 11, 2)],
                tasks=[_a_task("a", 12), _a_task("a", 3, "k"), _a_task("b", 5, "k"), _a_task("b", 6)],
            ),
        )
        await backend.send([Outgoing("b", b"second"), Outgoing("a", b"second"), Outgoing("b", b"third")])
        await backend.limit_queue("mail", QueueLimits(concurrency=7, rate_count=9, rate_period_us=1_000, rate_burst=9))
        await backend.pause_queue("paused", is_paused=True)
        server_id = await backend.enlist_server("server", LEASE_US, 0)
        assert len((await backend.claim(_request(server_id, 1), 1_000)).tasks) == 1
        await backend.write_schedule(ScheduleWrite("s", 0, ScheduleRow("s", 4, 9, b"\x00data")))
        await backend.write_schedule(ScheduleWrite("off", 0, ScheduleRow("off", 1, None, b"")))
        await backend.swap_circuit(Circuit("pay", revision=1, failures=2))
        window = DebouncedStart("key", an_instance("w", Status.PENDING, wake_us=3), b"start", b"changed", 3, 9)
        await backend.debounce(window)
        await backend.release(lease)
        return lease, server_id

    @asynccontextmanager
    async def _elsewhere(self) -> AsyncGenerator[Backend]:
        """Another store, which is empty."""
        folder = self.folder / "elsewhere"
        folder.mkdir()
        backend = self.backend(folder)
        await backend.open()
        try:
            yield backend
        finally:
            await backend.close()

    async def _rows(self, backend: Backend, part: Part, limit_bytes: int = 1) -> list[MovedRow]:
        found: list[MovedRow] = []
        while page := await backend.read_part(part, key_of(part, found[-1]) if found else None, limit_bytes):
            found += page
        return found

    @contract
    async def test_the_parts_are_all_of_the_store_in_the_order_of_their_keys(self, backend: Backend) -> None:
        """However small the pages are; and the counts say so."""
        await self._fill(backend)
        counts = await backend.count_parts()
        for part in Part:
            rows = await self._rows(backend, part)
            keys = [key_of(part, row) for row in rows]
            assert keys == sorted(set(keys)), part
            assert counts[part] == len(rows) > 0, part
            assert await backend.last_key(part) == keys[-1]
            assert await self._rows(backend, part, 10_000_000) == rows

    @contract
    async def test_a_copy_is_the_same_and_goes_on_as_the_original_would(self, backend: Backend) -> None:
        """The claims of the source's servers are those of dead ones; what is written later comes behind."""
        await self._fill(backend)
        rows = {part: await self._rows(backend, part) for part in Part}
        loaded = sorted(await backend.load(["a", "b", "over", *ODD_IDS]), key=lambda each: each.record.id)
        queues = await backend.queues()
        tasks = [row.task for row in rows[Part.TASKS] if isinstance(row, KeptTask)]
        async with self._elsewhere() as copy:
            await copy.seal(_TARGET, 0)
            for part in Part:
                half = len(rows[part]) // 2
                for page in (rows[part][:half], rows[part][half:]):
                    await copy.write_part(_TARGET, part, [_with_event_id(row) for row in page])
            for part in Part:
                mine, theirs = await self._rows(copy, part), rows[part]
                assert [_without_event_id(row) for row in mine] == [_without_event_id(row) for row in theirs], part
            await copy.unseal(_TARGET, clear=False)
            again = sorted(await copy.load(["a", "b", "over", *ODD_IDS]), key=lambda each: each.record.id)
            assert again == loaded
            assert await copy.queues() == queues
            there = await copy.inbox(0, 100)
            await copy.send([Outgoing("a", b"message", event_id="e"), Outgoing("a", b"new")])
            assert [message.data for message in (await copy.inbox(0, 100))[len(there) :]] == [b"new"]
            server_id = await copy.enlist_server("another", LEASE_US, 0)
            (lost,) = await copy.overdue_tasks(server_id, 1_000, 10)
            assert lost in tasks
            end = TaskEnd((lost.number, lost.attempt, lost.state, lost.claimed_by), b"lost", None)
            assert await copy.finish_tasks([end], None) == [True]
            claims = await copy.claim(_request(server_id, 10), 1_000)
            assert {task.number for task in claims.tasks} == {task.number for task in tasks if task != lost}
            lease = await a_lease(copy)
            await copy.commit(lease, Commit(tasks=[_a_task("a", 99)]))
            fresh = await copy.task("a", 99)
            assert fresh is not None
            assert fresh.number > max(task.number for task in tasks)

    @contract
    async def test_a_sealed_store_refuses_every_write_and_still_answers(self, backend: Backend) -> None:
        """Also of a worker, a server and a client that had it open before; and it is as it was when it is unsealed."""
        lease, server_id = await self._fill(backend)
        before = {part: await self._rows(backend, part) for part in Part}
        await backend.retire_server(server_id, [])
        before[Part.TASKS] = await self._rows(backend, Part.TASKS)
        task = next(row.task for row in before[Part.TASKS] if isinstance(row, KeptTask))
        end = TaskEnd((task.number, task.attempt, task.state, task.claimed_by), b"", None)
        writes: list[Callable[[], Awaitable[object]]] = [
            lambda: backend.acquire("worker", LEASE_US, _LATER_US),
            lambda: backend.send([Outgoing("a", b"late")]),
            lambda: backend.send([Outgoing("new", b"start", an_instance("new"))]),
            lambda: backend.purge(["over"]),
            lambda: backend.rewrite([Rewrite(an_instance("n"), [a_row("n")], [])]),
            lambda: backend.take_in([_an_arrival("n")]),
            lambda: backend.debounce(DebouncedStart("o", an_instance("x", Status.PENDING), b"", b"", 3, 9)),
            lambda: backend.close_window("w", _LATER_US),
            lambda: backend.write_schedule(ScheduleWrite("s", 4, None)),
            lambda: backend.swap_circuit(Circuit("pay", revision=2)),
            lambda: backend.discard([("a", 0)]),
            lambda: backend.limit_queue("mail", QueueLimits()),
            lambda: backend.enlist_server("server", LEASE_US, 0),
            lambda: backend.finish_tasks([end], None),
        ]
        await backend.seal(_SOURCE, _LATER_US)
        async with self.opened() as other:
            assert await other.read_seal() == _SOURCE
            for number, write in enumerate(writes):
                with refused(StoreSealed) as refusal:
                    await write()
                assert refusal.error.other == _SOURCE.other, number
            with refused(StoreSealed):
                await other.send([Outgoing("a", b"late")])
        for change in (Commit(rows=[a_row("a", 3)]), Commit(changes=[a_change("a")]), Commit(new=[an_instance("n")])):
            with refused(LeaseLost):
                await backend.commit(lease, change)
        with refused(LeaseLost):
            await backend.change_alerts(lease, AlertChanges([], [], [], [1], []))
        with refused(LeaseLost):
            await backend.renew(lease, LEASE_US, 0)
        assert {part: await self._rows(backend, part) for part in Part} == before
        await backend.unseal(_SOURCE, clear=False)
        assert await backend.read_seal() is None
        assert {part: await self._rows(backend, part) for part in Part} == before
        await a_lease(backend)
        await backend.send([Outgoing("a", b"late")])

    @contract
    async def test_a_worker_that_had_the_store_before_it_was_sealed_is_told_where_it_has_gone(
        self, backend: Backend
    ) -> None:
        """Its lease was over, but nobody had taken over."""
        lease = await self._with_something(backend)
        if backend.is_fleet:
            return  # whose lease is over is another's clock to say
        await backend.seal(_SOURCE, _LATER_US)
        for write in (
            lambda: backend.renew(lease, LEASE_US, _LATER_US),
            lambda: backend.commit(lease, Commit(rows=[a_row("a", 2)])),
            lambda: backend.commit(lease, Commit(heartbeats=[Heartbeat("a", 1, 1, b"")])),
        ):
            with refused(StoreSealed) as refusal:
                await write()
            assert refusal.error.is_source
            assert not refusal.error.is_gone

    @contract
    async def test_a_store_is_not_sealed_while_somebody_works_on_it(self, backend: Backend) -> None:
        """A worker, or a server of its queues; who they are is told."""
        lease = await a_lease(backend)
        assert [(each.kind, each.name) for each in await backend.living(0)] == [("worker", "worker")]
        with refused(MoveRefused) as refusal:
            await backend.seal(_SOURCE, 0)
        assert "'worker'" in str(refusal.error)
        await backend.release(lease)
        server_id = await backend.enlist_server("mails", LEASE_US, 0)
        assert [(each.kind, each.name) for each in await backend.living(0)] == [("server", "mails")]
        with refused(MoveRefused):
            await backend.seal(_SOURCE, 0)
        assert await backend.read_seal() is None
        await backend.retire_server(server_id, [])
        assert await backend.living(0) == []
        await backend.seal(_SOURCE, 0)

    @contract
    async def test_only_an_empty_store_is_filled(self, backend: Backend) -> None:
        """One queue is enough to refuse it."""
        await backend.limit_queue("mail", QueueLimits())
        with refused(MoveRefused) as refusal:
            await backend.seal(_TARGET, 0)
        assert "1 queues" in str(refusal.error)
        await backend.seal(_SOURCE, 0)

    @contract
    async def test_of_two_movers_the_earlier_one_writes_nothing_more(self, backend: Backend) -> None:
        """A seal is changed by compare-and-swap, and written once."""
        await backend.seal(_TARGET, 0)
        await backend.seal(_TARGET, 0)  # it is not known whether it was written: it is written again
        later = _TARGET._replace(mover="later", holder=2)
        await backend.seal(later, 0)
        record = InstanceRecord("a", "order", 1, Status.RUNNING, 1_000)
        for stale in (_TARGET, _TARGET._replace(holder=2), _TARGET._replace(move_id="other", holder=3)):
            with refused(LeaseLost):
                await backend.seal(stale, 0)
            with refused(LeaseLost):
                await backend.write_part(stale, Part.INSTANCES, [record])
            with refused(LeaseLost):
                await backend.unseal(stale, clear=True)
        await backend.write_part(later, Part.INSTANCES, [record])
        assert await backend.read_seal() == later
        assert (await backend.count_parts())[Part.INSTANCES] == 1
        gone = later._replace(holder=3, is_gone=True)
        await backend.seal(gone, 0)
        assert await backend.read_seal() == gone

    @contract
    async def test_what_was_copied_can_be_cleared(self, backend: Backend) -> None:
        """All of it, and the store is as good as new."""
        await self._fill(backend)
        rows = {part: await self._rows(backend, part) for part in Part}
        async with self._elsewhere() as copy:
            await copy.seal(_TARGET, 0)
            for part in Part:
                await copy.write_part(_TARGET, part, rows[part])
            await copy.unseal(_TARGET, clear=True)
            assert set((await copy.count_parts()).values()) == {0}
            await copy.seal(_TARGET._replace(move_id="again"), 0)
        assert await backend.foreign_tables() == []
        assert "://" in backend.address
