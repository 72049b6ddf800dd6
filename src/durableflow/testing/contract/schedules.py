"""Schedules: a row and what is sent with it are one transaction, and a revision fences it."""

from __future__ import annotations

from durableflow.backends.base import Backend, Outgoing, ScheduleRow, ScheduleWrite
from durableflow.errors import LeaseLost
from durableflow.model.status import Status
from durableflow.testing.contract.store import ODD_IDS, StoreContract, a_lease, an_instance, contract, refused


def a_schedule(schedule_id: str, revision: int = 1, due_us: int | None = 5, data: bytes = b"data") -> ScheduleRow:
    """A row; a backend does not look into its data."""
    return ScheduleRow(schedule_id, revision, due_us, data)


def making(row: ScheduleRow, *messages: Outgoing, after: int = 0) -> ScheduleWrite:
    """The write of a row, where `after` is the revision of the one that is there."""
    return ScheduleWrite(row.id, after, row, messages)


def a_birth(instance_id: str) -> Outgoing:
    """The message that makes an instance."""
    return Outgoing(instance_id, b"start", an_instance(instance_id, Status.PENDING))


class ScheduleContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_a_schedule_is_written_changed_and_removed(self, backend: Backend) -> None:
        """Each by who knows its revision."""
        first, second = a_schedule("s"), a_schedule("s", 9, None, b"\x00other")
        assert await backend.write_schedule(making(first))
        assert await backend.schedule("s") == first
        assert await backend.write_schedule(making(second, after=1))
        assert await backend.schedule("s") == second
        assert await backend.write_schedule(ScheduleWrite("s", 9, None))
        assert await backend.schedule("s") is None

    @contract
    async def test_a_write_on_another_revision_changes_nothing(self, backend: Backend) -> None:
        """Not the row, and no instance is made."""
        row = a_schedule("s", 3)
        await backend.write_schedule(making(row))
        for stale in (0, 2, 4):
            birth = a_birth("i")
            assert not await backend.write_schedule(making(a_schedule("s", 5), birth, after=stale))
            assert not await backend.write_schedule(ScheduleWrite("s", stale, None, [birth]))
        assert not await backend.write_schedule(making(a_schedule("t"), a_birth("i"), after=1)), "there is none"
        assert await backend.schedule("s") == row
        assert await backend.schedule("t") is None
        assert await backend.record("i") is None
        assert await backend.inbox(0, 10) == []

    @contract
    async def test_what_is_sent_with_a_schedule_is_written_with_it(self, backend: Backend) -> None:
        """Each message or its refusal on its own."""
        await backend.send([a_birth("there"), a_birth("open")])
        messages = [a_birth("there"), a_birth("new"), Outgoing("open", b"stop"), Outgoing("nobody", b"stop")]
        assert await backend.write_schedule(making(a_schedule("s"), *messages))
        assert [(each.instance_id, each.data) for each in await backend.inbox(0, 10)] == [
            ("there", b"start"),
            ("open", b"start"),
            ("new", b"start"),
            ("open", b"stop"),
        ]
        assert await backend.record("nobody") is None
        assert await backend.schedule("s") is not None

    @contract
    async def test_a_worker_without_its_lease_fires_nothing(self, backend: Backend) -> None:
        """A client needs none."""
        lease = await a_lease(backend)
        assert await backend.write_schedule(making(a_schedule("s")), lease)
        await backend.release(lease)
        with refused(LeaseLost):
            await backend.write_schedule(making(a_schedule("s", 2), a_birth("i"), after=1), lease)
        assert await backend.schedule("s") == a_schedule("s")
        assert await backend.record("i") is None
        assert await backend.write_schedule(making(a_schedule("s", 2), a_birth("i"), after=1))

    @contract
    async def test_schedules_that_are_due_come_in_the_order_of_their_time(self, backend: Backend) -> None:
        """In pages, without those that have no moment."""
        rows = [
            a_schedule("b", due_us=5),
            a_schedule("c", due_us=5),
            a_schedule("a", due_us=7),
            a_schedule("z", due_us=0),
        ]
        for row in [*rows, a_schedule("never", due_us=None)]:
            await backend.write_schedule(making(row))
        assert [each.id for each in await backend.due_schedules((-1, ""), 10)] == ["z", "b", "c", "a"]
        assert [each.id for each in await backend.due_schedules((-1, ""), 2)] == ["z", "b"]
        assert [each.id for each in await backend.due_schedules((5, "b"), 10)] == ["c", "a"]
        assert await backend.due_schedules((7, "a"), 10) == []

    @contract
    async def test_schedules_are_listed_by_their_ids_as_they_are(self, backend: Backend) -> None:
        """In the order of code points, in pages."""
        for each in ODD_IDS:
            assert await backend.write_schedule(making(a_schedule(each, data=each.encode())))
        ordered = sorted(ODD_IDS)
        listed = await backend.list_schedules("", 100)
        assert [(each.id, each.data.decode()) for each in listed] == [(each, each) for each in ordered]
        assert [each.id for each in await backend.list_schedules(ordered[3], 2)] == ordered[4:6]
        assert await backend.list_schedules(ordered[-1], 2) == []

    @contract
    async def test_another_connection_hears_of_a_schedule(self, backend: Backend) -> None:
        """It is there after reopening, too."""
        async with self.opened() as other:
            await other.wait_for_change(0)
            await backend.write_schedule(making(a_schedule("s")))
            assert await other.schedule("s") == a_schedule("s")
        await backend.close()
        async with self.opened() as again:
            assert await again.list_schedules("", 10) == [a_schedule("s")]
        await backend.open()
