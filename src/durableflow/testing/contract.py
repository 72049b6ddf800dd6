"""What every backend must do, as tests: the page `backends/base.py` made executable.

Whoever writes a backend subclasses this in a test module, and pytest does the rest::

    class TestMine(BackendContract):
        def backend(self, folder: Path) -> Backend:
            return MyBackend(folder / "store")

The tests need nothing but pytest's `tmp_path`: each runs an event loop of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from durableflow.backends.base import (
    Backend,
    Commit,
    Heartbeat,
    HistoryRow,
    InstanceChange,
    InstanceRecord,
    Lease,
    LoadedInstance,
    NewInstance,
    Outgoing,
    Query,
)
from durableflow.errors import AppendConflict, InstancesExist, LeaseLost
from durableflow.model.status import Status

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

E = TypeVar("E", bound=Exception)

ODD_IDS: Final = (
    "plain",
    "Plain",
    "with space",
    " leading",
    "quote'\"`",
    "'; drop table instances; --",
    "100%_*?[a]",
    "a/b\\c",
    "line\nbreak\ttab",
    "ünïcödé",
    "é",
    "e\u0301",
    "日本語",
    "🚀",
    "\U0010ffff",
    "x" * 500,
)
"""Ids that are alike only to those who do not look closely: all are allowed, and all are different."""

_LEASE_US: Final = 60_000_000
_CANCELLED: Final = 200


def an_instance(instance_id: str, status: Status = Status.RUNNING, **changes: Any) -> NewInstance:
    """A new instance, with what a test does not care about filled in."""
    finished_us = 2_000 if status.is_terminal else None
    made = NewInstance(instance_id, "order", 1, status, 1_000, None, {}, finished_us=finished_us)
    return made._replace(**changes)


def a_row(instance_id: str, first_seq: int = 1, events: bytes = b"events") -> HistoryRow:
    """A history row; a backend does not look into its events."""
    return HistoryRow(instance_id, first_seq, 1_000 + first_seq, events)


def a_change(instance_id: str, status: Status = Status.RUNNING, **changes: Any) -> InstanceChange:
    """The new values of an instance's row."""
    change = InstanceChange(instance_id, status, None, 2_000 if status.is_terminal else None, None)
    return change._replace(**changes)


class Refusal(Generic[E]):
    """The error that a call was refused with."""

    error: E


@contextmanager
def refused(kind: type[E]) -> Generator[Refusal[E]]:
    """What is called inside must raise a `kind`."""
    refusal: Refusal[E] = Refusal()
    try:
        yield refusal
    except kind as error:
        refusal.error = error
    else:
        raise AssertionError(f"the call was not refused with {kind.__name__}")


_Body = Callable[["BackendContract", Backend], Awaitable[None]]


def _contract(body: _Body) -> Callable[[BackendContract, Path], None]:
    """Make a test of what is written as `async def test_...(self, backend)`: opened, in a loop of its own, closed."""

    def test(self: BackendContract, tmp_path: Path) -> None:
        async def run() -> None:
            self.folder = tmp_path
            async with self.opened() as backend:
                await body(self, backend)

        asyncio.run(run())

    named = cast("Any", body)
    test.__name__, test.__qualname__, test.__doc__ = named.__name__, named.__qualname__, named.__doc__
    return test


class BackendContract:
    """Subclass it and say how to make a backend; see the module's docstring."""

    folder: Path

    def backend(self, folder: Path) -> Backend:
        """A backend, not yet opened, whose store is in `folder`.

        It is called more than once in a test, to see what a restart or a second process would see:
        in the same folder it must reach the same store.
        """
        raise NotImplementedError("say in backend(self, folder) how to make the backend under test")

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Backend]:
        """A further connection to the store of this test."""
        backend = self.backend(self.folder)
        await backend.open()
        try:
            yield backend
        finally:
            await backend.close()

    # -- leases ---------------------------------------------------------------------------------------------

    @_contract
    async def test_a_store_has_one_worker_at_a_time(self, backend: Backend) -> None:
        """While a lease lasts, nobody else gets one."""
        lease = await backend.acquire("a", _LEASE_US, 0)
        assert lease is not None
        assert lease.expires_us == _LEASE_US
        assert await backend.acquire("b", _LEASE_US, _LEASE_US - 1) is None
        async with self.opened() as other:
            assert await other.acquire("c", _LEASE_US, _LEASE_US - 1) is None

    @_contract
    async def test_of_many_who_ask_at_once_one_gets_the_lease(self, backend: Backend) -> None:
        """Asking is one transaction."""
        leases = await asyncio.gather(*(backend.acquire(f"worker {n}", _LEASE_US, 0) for n in range(20)))
        assert sum(lease is not None for lease in leases) == 1

    @_contract
    async def test_a_lease_that_was_given_back_can_be_had_at_once(self, backend: Backend) -> None:
        """Releasing ends it, and its fence is never used again."""
        first = await _lease(backend)
        await backend.release(first)
        second = await _lease(backend)
        assert second.worker_id != first.worker_id
        with refused(LeaseLost):
            await backend.commit(first, Commit(new=[an_instance("a")]))

    @_contract
    async def test_a_lease_can_be_taken_over_when_it_has_ended_not_before(self, backend: Backend) -> None:
        """The moment of its expiry is the first at which another may have it."""
        first = await _lease(backend, 10)
        assert await backend.acquire("b", 10, 9) is None
        second = await backend.acquire("b", 10, 10)
        assert second is not None
        assert second.worker_id != first.worker_id

    @_contract
    async def test_renewing_pushes_the_end_of_a_lease_on(self, backend: Backend) -> None:
        """Also after it has ended, as long as nobody took over."""
        lease = await _lease(backend, 10)
        renewed = await backend.renew(lease, 10, 8)
        assert renewed == Lease(lease.worker_id, 18)
        assert await backend.acquire("b", 10, 17) is None
        late = await backend.renew(renewed, 10, 30)
        assert late == Lease(lease.worker_id, 40)
        assert await backend.acquire("b", 10, 39) is None

    @_contract
    async def test_a_worker_that_was_taken_over_can_neither_renew_nor_release(self, backend: Backend) -> None:
        """Whatever it still believes: the lease is another's."""
        old = await _lease(backend, 10)
        new = await backend.acquire("b", 10, 10)
        assert new is not None
        with refused(LeaseLost):
            await backend.renew(old, 10, 11)
        await backend.release(old)
        assert await backend.renew(new, 10, 12) == Lease(new.worker_id, 22)

    @_contract
    async def test_a_stale_lease_writes_nothing(self, backend: Backend) -> None:
        """No part of a commit gets through."""
        old = await _lease(backend, 10)
        await backend.commit(old, Commit(new=[an_instance("a")], rows=[a_row("a")]))
        await backend.send([Outgoing("a", b"message")])
        (message,) = await backend.inbox(0, 10)
        new = await backend.acquire("b", 10, 10)
        assert new is not None
        before = await backend.load(["a", "b"])
        for commit in (
            Commit(new=[an_instance("b")]),
            Commit(rows=[a_row("a", 2)]),
            Commit(changes=[a_change("a", Status.FAILED)]),
            Commit(consumed=[message.number]),
            Commit(heartbeats=[Heartbeat("a", 1, 1, b"1")]),
        ):
            with refused(LeaseLost):
                await backend.commit(old, commit)
        assert await backend.load(["a", "b"]) == before

    @_contract
    async def test_a_lease_that_has_ended_writes_until_somebody_takes_over(self, backend: Backend) -> None:
        """The fence is the worker's row, not the time: one clock less to trust."""
        lease = await _lease(backend, 10)
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        assert await backend.record("a") is not None

    @_contract
    async def test_a_lease_outlives_a_connection_that_was_dropped(self, backend: Backend) -> None:
        """Closing without releasing gives nothing back."""
        async with self.opened() as other:
            lease = await _lease(other, 10)
        assert await backend.acquire("b", 10, 9) is None
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        assert await backend.acquire("b", 10, 10) is not None

    # -- commits --------------------------------------------------------------------------------------------

    @_contract
    async def test_a_commit_is_there_as_it_was_written(self, backend: Backend) -> None:
        """Each part of it."""
        lease = await _lease(backend)
        new = an_instance("a", wake_us=5, tags={"k": "v", "ü": "日"}, custom_status=b'"s"')
        rows = [a_row("a", 1, bytes(range(256))), a_row("a", 4, b"")]
        beat = Heartbeat("a", 3, 2, b"[1]")
        await backend.commit(lease, Commit(new=[new], rows=rows, heartbeats=[beat]))
        record = InstanceRecord("a", "order", 1, Status.RUNNING, 1_000, None, 5, {"k": "v", "ü": "日"}, b'"s"')
        assert await backend.load(["a"]) == [LoadedInstance(record, rows, [], [beat])]
        assert await backend.record("a") == record

    @_contract
    async def test_an_empty_commit_is_no_error(self, backend: Backend) -> None:
        """There is nothing to refuse."""
        await backend.commit(await _lease(backend), Commit())

    @_contract
    async def test_an_instance_can_be_made_and_be_over_in_one_commit(self, backend: Backend) -> None:
        """A workflow that never waits."""
        lease = await _lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a", Status.COMPLETED)], rows=[a_row("a")]))
        record = await backend.record("a")
        assert record is not None
        assert (record.status, record.finished_us) == (Status.COMPLETED, 2_000)

    @_contract
    async def test_a_change_replaces_what_it_names_and_nothing_else(self, backend: Backend) -> None:
        """Also by nothing: None is a value."""
        lease = await _lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a", wake_us=5, tags={"k": "v"}, custom_status=b"1")]))
        change = InstanceChange("a", Status.STALLED, 0, None, b"2", "no such workflow")
        await backend.commit(lease, Commit(changes=[change]))
        stalled = InstanceRecord("a", "order", 1, Status.STALLED, 1_000, None, 0, {"k": "v"}, b"2", "no such workflow")
        assert await backend.record("a") == stalled
        await backend.commit(lease, Commit(changes=[InstanceChange("a", Status.COMPLETED, None, 9, None)]))
        over = InstanceRecord("a", "order", 1, Status.COMPLETED, 1_000, 9, None, {"k": "v"})
        assert await backend.record("a") == over

    @_contract
    async def test_ids_that_are_taken_are_named_and_nothing_is_written(self, backend: Backend) -> None:
        """Exactly those: the others may be tried again without them."""
        lease = await self._with_something(backend)
        before = await self._everything(backend)
        commit = Commit(
            new=[an_instance("x"), an_instance("a"), an_instance("b", replace=True), an_instance("over", replace=True)],
            **await self._parts(backend),
        )
        with refused(InstancesExist) as refusal:
            await backend.commit(lease, commit)
        assert refusal.error.instance_ids == {"a", "b"}
        assert await self._everything(backend) == before

    @_contract
    async def test_an_id_cannot_be_made_twice_in_one_commit(self, backend: Backend) -> None:
        """Two beginnings would share one history."""
        lease = await _lease(backend)
        with refused(InstancesExist) as refusal:
            await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b"), an_instance("a")]))
        assert refusal.error.instance_ids == {"a"}
        assert await backend.load(["a", "b"]) == []

    @_contract
    async def test_a_row_that_is_there_is_a_conflict_and_nothing_is_written(self, backend: Backend) -> None:
        """The second writer of the same turn fails, whatever else it brings."""
        lease = await self._with_something(backend)
        before = await self._everything(backend)
        parts = await self._parts(backend)
        parts["rows"] += [a_row("b", 1, b"other events")]
        with refused(AppendConflict) as refusal:
            await backend.commit(lease, Commit(new=[an_instance("x")], **parts))
        assert refusal.error.instance_ids == {"b"}
        assert await self._everything(backend) == before

    @_contract
    async def test_only_what_is_over_can_be_replaced(self, backend: Backend) -> None:
        """And it goes whole: history, inbox, heartbeats and tags."""
        lease = await self._with_something(backend)
        new = an_instance("over", created_us=7_000, tags={"new": "1"}, replace=True)
        await backend.commit(lease, Commit(new=[new], rows=[a_row("over", 1, b"anew")]))
        (loaded,) = await backend.load(["over"])
        assert loaded.record.tags == {"new": "1"}
        assert loaded.rows == [a_row("over", 1, b"anew")]
        assert (loaded.messages, loaded.heartbeats) == ([], [])
        assert await backend.list_records(Query(tags={"of": "over"})) == []
        with refused(InstancesExist):
            await backend.commit(lease, Commit(new=[an_instance("a", replace=True)]))

    @_contract
    async def test_replacing_what_is_not_there_makes_it(self, backend: Backend) -> None:
        """The policy allows; it does not demand."""
        lease = await _lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a", replace=True)]))
        assert await backend.record("a") is not None

    @_contract
    async def test_consumed_messages_are_gone_and_the_others_are_not(self, backend: Backend) -> None:
        """A number that is not there is no error: a turn may have been committed before."""
        lease = await _lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        await backend.send([Outgoing("a", b"1"), Outgoing("a", b"2"), Outgoing("a", b"3")])
        first, second, third = await backend.inbox(0, 10)
        await backend.commit(lease, Commit(consumed=[first.number, third.number, 999_999]))
        assert await backend.inbox(0, 10) == [second]
        (loaded,) = await backend.load(["a"])
        assert loaded.messages == [second]

    @_contract
    async def test_the_latest_heartbeat_of_each_task_is_kept(self, backend: Backend) -> None:
        """One row for a task, whichever attempt it was."""
        lease = await _lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")], heartbeats=[Heartbeat("a", 1, 1, b"1")]))
        late = [Heartbeat("a", 1, 2, b"2"), Heartbeat("a", 2, 1, b"3")]
        await backend.commit(lease, Commit(heartbeats=late))
        (loaded,) = await backend.load(["a"])
        assert sorted(loaded.heartbeats) == late

    @_contract
    async def test_many_callers_at_once_do_not_disturb_each_other(self, backend: Backend) -> None:
        """Commits, messages and questions, all under way together."""
        lease = await _lease(backend)
        ids = [f"i{n:02}" for n in range(40)]

        async def live(instance_id: str) -> None:
            await backend.commit(lease, Commit(new=[an_instance(instance_id)], rows=[a_row(instance_id)]))
            for seq in (2, 3):
                await asyncio.gather(
                    backend.commit(lease, Commit(rows=[a_row(instance_id, seq)])),
                    backend.send([Outgoing(instance_id, b"%d" % seq)]),
                    backend.record(instance_id),
                    backend.list_records(Query(limit=5)),
                )

        await asyncio.gather(*map(live, ids))
        loaded = await backend.load(ids)
        assert [[row.first_seq for row in item.rows] for item in loaded] == [[1, 2, 3]] * len(ids)
        assert [[message.data for message in item.messages] for item in loaded] == [[b"2", b"3"]] * len(ids)

    @_contract
    async def test_a_cancelled_caller_does_not_cut_a_transaction_in_half(self, backend: Backend) -> None:
        """Each of many commits that were cancelled at any moment is whole or absent, and the next one works."""
        lease = await _lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        dice = random.Random(1)  # noqa: S311  # moments, not secrets
        await backend.send([Outgoing("a", b"message")] * _CANCELLED)
        messages = await backend.inbox(0, _CANCELLED)
        for number, message in enumerate(messages):
            made = f"made {number}"
            commit = Commit(
                new=[an_instance(made, tags={"made": "1"})],
                rows=[a_row(made), a_row("a", number + 1)],
                changes=[a_change("a", custom_status=b"%d" % number)],
                consumed=[message.number],
                heartbeats=[Heartbeat(made, 1, 1, b"1")],
            )
            task = asyncio.ensure_future(backend.commit(lease, commit))
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            if dice.random() < 0.5:  # while the transaction may really be under way
                await asyncio.sleep(dice.random() * 0.0005)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await backend.commit(lease, Commit(new=[an_instance("last")]))
        (it,) = await backend.load(["a"])
        made_ids = {item.record.id for item in await backend.load([f"made {n}" for n in range(_CANCELLED)])}
        rows = {row.first_seq - 1 for row in it.rows}
        left = {message.number for message in it.messages}
        consumed = {number for number, message in enumerate(messages) if message.number not in left}
        assert made_ids == {f"made {number}" for number in rows}
        assert consumed == rows
        assert it.record.custom_status == (b"%d" % max(rows) if rows else None)
        assert len(await backend.list_records(Query(tags={"made": "1"}, limit=1_000))) == len(rows)

    # -- loading --------------------------------------------------------------------------------------------

    @_contract
    async def test_loading_leaves_out_what_is_not_there(self, backend: Backend) -> None:
        """And gives each instance what is its own, in order."""
        lease = await _lease(backend)
        rows = [a_row(each, seq, f"{each}{seq}".encode()) for seq in (1, 2, 10, 11) for each in ("b", "a")]
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")], rows=rows))
        await backend.send([Outgoing(each, f"to {each}".encode()) for each in ("a", "b", "a")])
        found = {item.record.id: item for item in await backend.load(["a", "nobody", "b"])}
        assert set(found) == {"a", "b"}
        assert [row.events for row in found["a"].rows] == [b"a1", b"a2", b"a10", b"a11"]
        assert [message.data for message in found["a"].messages] == [b"to a", b"to a"]
        assert [message.data for message in found["b"].messages] == [b"to b"]
        assert await backend.load([]) == []

    @_contract
    async def test_what_is_due_comes_in_pages_in_the_order_of_its_time(self, backend: Backend) -> None:
        """Equal times in the order of the ids; what never wakes is left out; the limit of time is not included."""
        lease = await _lease(backend)
        wakes = {"e": 0, "b": 20, "a": 20, "c": 20, "d": 30, "f": 40, "never": None}
        await backend.commit(lease, Commit(new=[an_instance(each, wake_us=wake) for each, wake in wakes.items()]))
        expected = [(0, "e"), (20, "a"), (20, "b"), (20, "c"), (30, "d")]
        assert await backend.due((-1, ""), 40, 100) == expected
        found: list[tuple[int, str]] = []
        while page := await backend.due(found[-1] if found else (-1, ""), 40, 2):
            assert len(page) <= 2
            found += page
        assert found == expected

    @_contract
    async def test_a_wake_time_moves_with_its_instance(self, backend: Backend) -> None:
        """Changed, dropped, purged: the order of the due follows."""
        lease = await _lease(backend)
        await backend.commit(lease, Commit(new=[an_instance(each, wake_us=10) for each in "abcd"]))
        await backend.commit(
            lease,
            Commit(changes=[a_change("a", wake_us=5), a_change("b"), a_change("c", Status.FAILED)]),
        )
        assert await backend.due((-1, ""), 100, 10) == [(5, "a"), (10, "d")]
        assert await backend.next_wake(0) == 5

    @_contract
    async def test_the_next_wake_time_is_the_earliest_that_is_not_before(self, backend: Backend) -> None:
        """None when nothing wakes by itself."""
        lease = await _lease(backend)
        assert await backend.next_wake(0) is None
        await backend.commit(lease, Commit(new=[an_instance(f"{wake}", wake_us=wake) for wake in (0, 10, 20)]))
        assert [await backend.next_wake(each) for each in (0, 1, 10, 11, 20, 21)] == [0, 10, 10, 20, 20, None]

    @_contract
    async def test_the_inbox_is_read_in_the_order_of_sending(self, backend: Backend) -> None:
        """Across instances, page by page; a number is never given twice."""
        lease = await _lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")]))
        for n in range(5):
            await backend.send([Outgoing("ab"[n % 2], b"%d" % n)])
        everything = await backend.inbox(0, 100)
        assert [(m.instance_id, m.data) for m in everything] == [("ab"[n % 2], b"%d" % n) for n in range(5)]
        assert await backend.inbox(everything[1].number, 2) == everything[2:4]
        await backend.commit(lease, Commit(consumed=[message.number for message in everything]))
        await backend.send([Outgoing("a", b"later")])
        (later,) = await backend.inbox(0, 10)
        assert later.number > everything[-1].number

    # -- sending --------------------------------------------------------------------------------------------

    @_contract
    async def test_each_message_gets_its_own_answer(self, backend: Backend) -> None:
        """One refusal does not hold up the others."""
        await self._with_something(backend)
        before = len(await backend.inbox(0, 100))
        results = await backend.send(
            [
                Outgoing("a", b"1"),
                Outgoing("nobody", b"2"),
                Outgoing("over", b"3"),
                Outgoing("a", b"4", an_instance("a")),
                Outgoing("fresh", b"5", an_instance("fresh", Status.PENDING, wake_us=0)),
                Outgoing("fresh", b"6"),
            ]
        )
        assert [result.outcome for result in results] == [
            "delivered", "missing", "over", "exists", "delivered", "delivered",
        ]  # fmt: skip
        assert results[1].record is None
        assert results[2].record == await backend.record("over")
        assert results[3].record == await backend.record("a")
        assert [message.data for message in (await backend.inbox(0, 100))[before:]] == [b"1", b"5", b"6"]
        (fresh,) = await backend.load(["fresh"])
        assert (fresh.record.status, fresh.record.wake_us, fresh.rows) == (Status.PENDING, 0, [])
        assert [message.data for message in fresh.messages] == [b"5", b"6"]
        assert (0, "fresh") in await backend.due((-1, ""), 1, 100)

    @_contract
    async def test_a_message_with_an_event_id_waits_once(self, backend: Backend) -> None:
        """Until it is taken, and for each instance on its own; sending it again is no error."""
        lease = await _lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")]))
        twice = [
            Outgoing("a", b"1", event_id="e"),
            Outgoing("a", b"2", event_id="e"),
            Outgoing("b", b"3", event_id="e"),
        ]
        assert [result.outcome for result in await backend.send(twice)] == ["delivered"] * 3
        await backend.send([Outgoing("a", b"4", event_id="f"), Outgoing("a", b"5"), Outgoing("a", b"5")])
        waiting = await backend.inbox(0, 100)
        assert [message.data for message in waiting] == [b"1", b"3", b"4", b"5", b"5"]
        await backend.commit(lease, Commit(consumed=[waiting[0].number]))
        await backend.send([Outgoing("a", b"6", event_id="e")])
        assert [message.data for message in await backend.inbox(waiting[-1].number, 100)] == [b"6"]

    @_contract
    async def test_a_start_by_message_can_replace_what_is_over(self, backend: Backend) -> None:
        """And only that."""
        await self._with_something(backend)
        new = an_instance("over", Status.PENDING, replace=True)
        (result,) = await backend.send([Outgoing("over", b"start", new)])
        assert result.outcome == "delivered"
        (loaded,) = await backend.load(["over"])
        assert (loaded.record.status, loaded.rows, loaded.heartbeats) == (Status.PENDING, [], [])
        assert [message.data for message in loaded.messages] == [b"start"]
        (result,) = await backend.send([Outgoing("a", b"start", an_instance("a", replace=True))])
        assert result.outcome == "exists"

    @_contract
    async def test_of_fifty_racing_starts_one_makes_the_instance(self, backend: Backend) -> None:
        """The others are told which it is."""
        outgoing = [Outgoing("a", b"%d" % n, an_instance("a", created_us=n)) for n in range(50)]
        results = await asyncio.gather(*(backend.send([each]) for each in outgoing))
        outcomes = [result.outcome for (result,) in results]
        assert sorted(outcomes) == ["delivered"] + ["exists"] * 49
        (message,) = await backend.inbox(0, 100)
        record = await backend.record("a")
        assert record is not None
        assert (message.data, record.created_us) == (b"%d" % record.created_us, outcomes.index("delivered"))

    @_contract
    async def test_what_one_connection_writes_another_hears_of(self, backend: Backend) -> None:
        """Waiting for a change ends early when there is one, and at its limit when there is none."""
        lease = await _lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        while await backend.wait_for_change(0.05):
            pass  # of before; a hint too many is no lie
        async with self.opened() as other:
            change = asyncio.ensure_future(backend.wait_for_change(10))
            await asyncio.sleep(0)
            await other.send([Outgoing("a", b"message")])
            async with asyncio.timeout(5):
                assert await change
            assert [message.data for message in await backend.inbox(0, 10)] == [b"message"]

    # -- looking --------------------------------------------------------------------------------------------

    @_contract
    async def test_history_is_read_from_the_row_that_holds_a_number(self, backend: Backend) -> None:
        """A page holds so many rows; behind the end is the last row."""
        lease = await _lease(backend)
        rows = [a_row("a", seq, b"%d" % seq) for seq in (1, 4, 5, 9)]
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")], rows=rows))
        assert await backend.history("a", 1, 100) == rows
        assert await backend.history("a", 0, 2) == rows[:2]
        assert await backend.history("a", 3, 2) == rows[:2]
        assert await backend.history("a", 4, 1) == rows[1:2]
        assert await backend.history("a", 8, 100) == rows[2:]
        assert await backend.history("a", 100, 100) == rows[3:]
        assert await backend.history("b", 1, 100) == await backend.history("nobody", 1, 100) == []

    @_contract
    async def test_the_last_row_is_the_latest(self, backend: Backend) -> None:
        """None before the first turn, and of nobody."""
        lease = await _lease(backend)
        rows = [a_row("a", seq) for seq in (1, 2, 10)]
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")], rows=rows))
        assert await backend.last_row("a") == rows[2]
        assert await backend.last_row("b") is None
        assert await backend.last_row("nobody") is None
        assert await backend.record("nobody") is None

    @_contract
    async def test_instances_are_listed_newest_first(self, backend: Backend) -> None:
        """Page by page, each once, also when many are of the same moment."""
        lease = await _lease(backend)
        made = [(created_us, f"{letter}{created_us}") for created_us in (1, 2, 3) for letter in "abc"]
        await backend.commit(lease, Commit(new=[an_instance(i, created_us=at) for at, i in made]))
        expected = [i for _, i in sorted(made, reverse=True)]
        assert [record.id for record in await backend.list_records(Query())] == expected
        found: list[InstanceRecord] = []
        while page := await backend.list_records(
            Query(limit=2, after=(found[-1].created_us, found[-1].id) if found else None)
        ):
            assert len(page) <= 2
            found += page
        assert [record.id for record in found] == expected

    @_contract
    async def test_a_list_is_narrowed_by_all_that_is_asked(self, backend: Backend) -> None:
        """Each condition alone, and several together."""
        lease = await _lease(backend)
        await backend.commit(
            lease,
            Commit(
                new=[
                    an_instance("a1", created_us=10, tags={"k": "v", "l": "w"}),
                    an_instance("a2", Status.COMPLETED, created_us=20, tags={"k": "v"}),
                    an_instance("b1", Status.FAILED, created_us=30, tags={"k": "other"}),
                    an_instance("b2", created_us=40, workflow="ship"),
                ]
            ),
        )

        async def ids(**wanted: Any) -> set[str]:
            return {record.id for record in await backend.list_records(Query(**wanted))}

        assert await ids(statuses=frozenset({Status.RUNNING})) == {"a1", "b2"}
        assert await ids(statuses=frozenset({Status.FAILED, Status.COMPLETED})) == {"a2", "b1"}
        assert await ids(workflow="ship") == {"b2"}
        assert await ids(tags={"k": "v"}) == {"a1", "a2"}
        assert await ids(tags={"k": "v", "l": "w"}) == {"a1"}
        assert await ids(tags={"k": "w"}) == set()
        assert await ids(id_prefix="a") == {"a1", "a2"}
        assert await ids(created_from_us=20) == {"a2", "b1", "b2"}
        assert await ids(created_before_us=20) == {"a1"}
        assert await ids(created_from_us=20, created_before_us=30) == {"a2"}
        assert await ids(tags={"k": "v"}, statuses=frozenset({Status.RUNNING}), id_prefix="a", workflow="order") == {
            "a1"
        }
        assert await ids(limit=3) == {"a2", "b1", "b2"}

    # -- purging --------------------------------------------------------------------------------------------

    @_contract
    async def test_only_what_is_over_is_purged(self, backend: Backend) -> None:
        """Each named once is told, and the others stay."""
        lease = await _lease(backend)
        new = [an_instance(status.value, status) for status in Status]
        await backend.commit(lease, Commit(new=new))
        asked = [*(status.value for status in Status), "nobody", Status.FAILED.value]
        assert await backend.purge(asked) == [status.value for status in Status if status.is_terminal]
        left = {record.id for record in await backend.list_records(Query())}
        assert left == {status.value for status in Status if not status.is_terminal}
        assert await backend.purge([]) == []

    @_contract
    async def test_purging_leaves_nothing_behind(self, backend: Backend) -> None:
        """An instance made anew under the same id inherits nothing; others lose nothing."""
        lease = await self._with_something(backend)
        before = await backend.load(["a", "b"])
        assert await backend.purge(["over"]) == ["over"]
        assert await backend.load(["over"]) == []
        assert await backend.history("over", 1, 10) == []
        assert await backend.last_row("over") is None
        assert await backend.list_records(Query(tags={"of": "over"})) == []
        assert {message.instance_id for message in await backend.inbox(0, 100)} == {"a", "b"}
        assert await backend.load(["a", "b"]) == before
        await backend.commit(lease, Commit(new=[an_instance("over")]))
        (again,) = await backend.load(["over"])
        assert (again.rows, again.messages, again.heartbeats) == ([], [], [])

    # -- opening and closing --------------------------------------------------------------------------------

    @_contract
    async def test_what_was_acknowledged_is_there_after_reopening(self, backend: Backend) -> None:
        """Everything, to the byte."""
        await self._with_something(backend)
        before = await self._everything(backend)
        await backend.close()
        async with self.opened() as again:
            assert await self._everything(again) == before
        await backend.open()

    @_contract
    async def test_closing_twice_is_no_error(self, backend: Backend) -> None:
        """A clean-up may come by more than once."""
        await backend.close()
        await backend.close()

    @_contract
    async def test_ids_are_taken_as_they_are(self, backend: Backend) -> None:
        """Nothing is folded, trimmed, normalized or taken for a pattern."""
        lease = await _lease(backend)
        new = [an_instance(each, wake_us=7, tags={each: each}) for each in ODD_IDS]
        await backend.commit(lease, Commit(new=new, rows=[a_row(each, 1, each.encode()) for each in ODD_IDS]))
        await backend.send([Outgoing(each, each.encode(), event_id=each) for each in ODD_IDS])
        assert [each for _, each in await backend.due((-1, ""), 10, 100)] == sorted(ODD_IDS)
        listed = await backend.list_records(Query())
        assert [record.id for record in listed] == sorted(ODD_IDS, reverse=True)
        for each in ODD_IDS:
            (loaded,) = await backend.load([each])
            assert loaded.rows == [a_row(each, 1, each.encode())]
            assert [message.data for message in loaded.messages] == [each.encode()]
            assert [record.id for record in await backend.list_records(Query(tags={each: each}))] == [each]
            prefixed = {record.id for record in await backend.list_records(Query(id_prefix=each))}
            assert prefixed == {other for other in ODD_IDS if other.startswith(each)}

    @_contract
    async def test_large_values_are_kept_whole(self, backend: Backend) -> None:
        """The limit of a payload is the engine's, not the store's."""
        lease = await _lease(backend)
        large = random.Random(2).randbytes(4 * 1024 * 1024)  # noqa: S311  # bytes that do not compress
        await backend.commit(
            lease,
            Commit(
                new=[an_instance("a", custom_status=large)],
                rows=[a_row("a", 1, large)],
                heartbeats=[Heartbeat("a", 1, 1, large)],
            ),
        )
        await backend.send([Outgoing("a", large)])
        (loaded,) = await backend.load(["a"])
        assert loaded.record.custom_status == large
        assert loaded.rows[0].events == large
        assert loaded.messages[0].data == large
        assert loaded.heartbeats[0].details == large

    # -- what the tests share -------------------------------------------------------------------------------

    async def _with_something(self, backend: Backend) -> Lease:
        """A store with two instances that go on and one that is over, each with some of everything."""
        lease = await _lease(backend)
        ids = ("a", "b", "over")
        await backend.commit(
            lease,
            Commit(
                new=[an_instance(each, wake_us=n, tags={"of": each}) for n, each in enumerate(ids)],
                rows=[a_row(each) for each in ids],
                heartbeats=[Heartbeat(each, 1, 1, b"1") for each in ids],
            ),
        )
        await backend.send([Outgoing(each, b"message", event_id="e") for each in ids])
        await backend.commit(lease, Commit(changes=[a_change("over", Status.COMPLETED)]))
        return lease

    async def _parts(self, backend: Backend) -> dict[str, Any]:
        """What a commit may hold beside new instances; all of it can be written."""
        messages = await backend.inbox(0, 100)
        return {
            "rows": [a_row("a", 2)],
            "changes": [a_change("a", Status.FAILED), a_change("b", wake_us=99)],
            "consumed": [message.number for message in messages],
            "heartbeats": [Heartbeat("a", 1, 2, b"2"), Heartbeat("b", 2, 1, b"2")],
        }

    async def _everything(self, backend: Backend) -> object:
        """All that can be asked of a store, to be compared."""
        records = await backend.list_records(Query(limit=1_000))
        ids = sorted(record.id for record in records)
        return (
            records,
            sorted(await backend.load(ids), key=lambda item: item.record.id),
            await backend.inbox(0, 1_000),
            await backend.due((-1, ""), 1_000_000, 1_000),
            [[r.id for r in await backend.list_records(Query(tags={"of": each}))] for each in ids],
            [await backend.last_row(each) for each in ids],
        )


async def _lease(backend: Backend, ttl_us: int = _LEASE_US) -> Lease:
    lease = await backend.acquire("worker", ttl_us, 0)
    assert lease is not None
    return lease
