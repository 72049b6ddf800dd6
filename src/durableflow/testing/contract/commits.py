"""What a commit makes durable, and what it refuses."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Final

from durableflow.backends.base import (
    Backend,
    Commit,
    Heartbeat,
    HistoryRow,
    InstanceChange,
    InstanceRecord,
    LoadedInstance,
    Outgoing,
    Query,
)
from durableflow.errors import AppendConflict, InstancesExist
from durableflow.model.status import Status
from durableflow.testing.contract.store import StoreContract, a_change, a_lease, a_row, an_instance, contract, refused

_CANCELLED: Final = 200


class CommitContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_a_commit_is_there_as_it_was_written(self, backend: Backend) -> None:
        """Each part of it."""
        lease = await a_lease(backend)
        new = an_instance("a", wake_us=5, tags={"k": "v", "ü": "日"}, custom_status=b'"s"')
        rows = [a_row("a", 1, bytes(range(256))), a_row("a", 4, b"")]
        beat = Heartbeat("a", 3, 2, b"[1]")
        await backend.commit(lease, Commit(new=[new], rows=rows, heartbeats=[beat]))
        record = InstanceRecord("a", "order", 1, Status.RUNNING, 1_000, None, 5, {"k": "v", "ü": "日"}, b'"s"')
        assert await backend.load(["a"]) == [LoadedInstance(record, rows, [], [beat])]
        assert await backend.record("a") == record

    @contract
    async def test_an_empty_commit_is_no_error(self, backend: Backend) -> None:
        """There is nothing to refuse."""
        await backend.commit(await a_lease(backend), Commit())

    @contract
    async def test_an_instance_can_be_made_and_be_over_in_one_commit(self, backend: Backend) -> None:
        """A workflow that never waits."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a", Status.COMPLETED)], rows=[a_row("a")]))
        record = await backend.record("a")
        assert record is not None
        assert (record.status, record.finished_us) == (Status.COMPLETED, 2_000)

    @contract
    async def test_a_change_replaces_what_it_names_and_nothing_else(self, backend: Backend) -> None:
        """Also by nothing: None is a value."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a", wake_us=5, tags={"k": "v"}, custom_status=b"1")]))
        change = InstanceChange("a", Status.STALLED, 0, None, b"2", "no such workflow")
        await backend.commit(lease, Commit(changes=[change]))
        stalled = InstanceRecord("a", "order", 1, Status.STALLED, 1_000, None, 0, {"k": "v"}, b"2", "no such workflow")
        assert await backend.record("a") == stalled
        await backend.commit(lease, Commit(changes=[InstanceChange("a", Status.COMPLETED, None, 9, None)]))
        over = InstanceRecord("a", "order", 1, Status.COMPLETED, 1_000, 9, None, {"k": "v"})
        assert await backend.record("a") == over

    @contract
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

    @contract
    async def test_an_id_cannot_be_made_twice_in_one_commit(self, backend: Backend) -> None:
        """Two beginnings would share one history."""
        lease = await a_lease(backend)
        with refused(InstancesExist) as refusal:
            await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b"), an_instance("a")]))
        assert refusal.error.instance_ids == {"a"}
        assert await backend.load(["a", "b"]) == []

    @contract
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

    @contract
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

    @contract
    async def test_replacing_what_is_not_there_makes_it(self, backend: Backend) -> None:
        """The policy allows; it does not demand."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a", replace=True)]))
        assert await backend.record("a") is not None

    @contract
    async def test_consumed_messages_are_gone_and_the_others_are_not(self, backend: Backend) -> None:
        """A number that is not there is no error: a turn may have been committed before."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        await backend.send([Outgoing("a", b"1"), Outgoing("a", b"2"), Outgoing("a", b"3")])
        first, second, third = await backend.inbox(0, 10)
        await backend.commit(lease, Commit(consumed=[first.number, third.number, 999_999]))
        assert await backend.inbox(0, 10) == [second]
        (loaded,) = await backend.load(["a"])
        assert loaded.messages == [second]

    @contract
    async def test_the_latest_heartbeat_of_each_task_is_kept(self, backend: Backend) -> None:
        """One row for a task, whichever attempt it was."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")], heartbeats=[Heartbeat("a", 1, 1, b"1")]))
        late = [Heartbeat("a", 1, 2, b"2"), Heartbeat("a", 2, 1, b"3")]
        await backend.commit(lease, Commit(heartbeats=late))
        (loaded,) = await backend.load(["a"])
        assert sorted(loaded.heartbeats) == late

    @contract
    async def test_the_heartbeats_of_an_instance_go_when_it_is_over(self, backend: Backend) -> None:
        """In the commit that ends it, whatever else that brings, with its own; others keep theirs."""
        lease = await a_lease(backend)
        ids = ("a", "b", "c")
        beats = [Heartbeat(each, task, 1, b"1") for each in ids for task in (1, 2)]
        await backend.commit(lease, Commit(new=[an_instance(each) for each in ids], heartbeats=beats))
        await backend.commit(
            lease,
            Commit(
                new=[an_instance("d", Status.COMPLETED)],
                changes=[a_change("a", Status.FAILED), a_change("b", Status.SUSPENDED)],
                heartbeats=[Heartbeat("a", 3, 1, b"2"), Heartbeat("d", 1, 1, b"2")],
            ),
        )
        loaded = {item.record.id: sorted(item.heartbeats) for item in await backend.load([*ids, "d"])}
        assert loaded == {"a": [], "b": beats[2:4], "c": beats[4:], "d": []}
        await backend.commit(lease, Commit(changes=[a_change("b", Status.COMPLETED)]))
        loaded = {item.record.id: sorted(item.heartbeats) for item in await backend.load(ids)}
        assert loaded == {"a": [], "b": [], "c": beats[4:]}

    @contract
    async def test_values_that_look_like_something_else_are_kept_as_they_are(self, backend: Backend) -> None:
        """No text is taken for a list or a number, nothing empty for nothing, no number for a float."""
        lease = await a_lease(backend)
        large = 2**62 + 1  # as a float it would be another number
        odd = ["[1, 2]", '{"a": 1}', "null", "007", "1e5", "\\u0041\\", "\x01\x1f\x7f"]
        new = [
            an_instance(
                f"i{number}",
                workflow=text,
                wake_us=large,
                tags={text: text, "k": text},
                custom_status=b"",
            )
            for number, text in enumerate(odd)
        ]
        rows = [HistoryRow(each.id, 1, large, b"") for each in new]
        await backend.commit(lease, Commit(new=new, rows=rows))
        loaded = sorted(await backend.load([each.id for each in new]), key=_id)
        assert [item.record for item in loaded] == [
            InstanceRecord(n.id, n.workflow, 1, n.status, n.created_us, None, large, n.tags, b"") for n in new
        ]
        assert [item.rows for item in loaded] == [[row] for row in rows]
        for number, text in enumerate(odd):
            assert [record.id for record in await backend.list_records(Query(tags={"k": text}))] == [f"i{number}"]
        changes = [a_change(n.id, wake_us=large, stall_reason=text) for n, text in zip(new, odd, strict=True)]
        await backend.commit(lease, Commit(changes=changes, heartbeats=[Heartbeat("i0", 1, 1, b"")]))
        loaded = sorted(await backend.load([each.id for each in new]), key=_id)
        assert [item.record.stall_reason for item in loaded] == odd
        assert {item.record.custom_status for item in loaded} == {None}
        assert loaded[0].heartbeats == [Heartbeat("i0", 1, 1, b"")]

    @contract
    async def test_of_two_changes_of_an_instance_the_later_one_stays(self, backend: Backend) -> None:
        """And of two heartbeats of a task: a commit is a sequence."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")]))
        await backend.commit(
            lease,
            Commit(
                changes=[a_change("a", wake_us=each, custom_status=b"%d" % each) for each in (3, 1, 2)],
                heartbeats=[Heartbeat("a", 1, each, b"%d" % each) for each in (3, 1, 2)],
            ),
        )
        (loaded,) = await backend.load(["a"])
        assert (loaded.record.wake_us, loaded.record.custom_status) == (2, b"2")
        assert loaded.heartbeats == [Heartbeat("a", 1, 2, b"2")]

    @contract
    async def test_a_row_that_comes_twice_is_a_conflict(self, backend: Backend) -> None:
        """Also the first rows of a new instance; what replaces an instance conflicts with nothing of the old one."""
        lease = await self._with_something(backend)
        before = await self._everything(backend)
        for new in (an_instance("x"), an_instance("over", replace=True)):
            with refused(AppendConflict) as conflict:
                await backend.commit(lease, Commit(new=[new], rows=[a_row(new.id), a_row("a", 2), a_row(new.id)]))
            assert conflict.error.instance_ids == {new.id}
        with refused(InstancesExist) as refusal:  # of both kinds, the instances are told first
            await backend.commit(lease, Commit(new=[an_instance("a")], rows=[a_row("b")]))
        assert refusal.error.instance_ids == {"a"}
        with refused(InstancesExist) as refusal:
            twice = [an_instance("over", replace=True), an_instance("x"), an_instance("over", replace=True)]
            await backend.commit(lease, Commit(new=twice))
        assert refusal.error.instance_ids == {"over"}
        assert await self._everything(backend) == before

    @contract
    async def test_many_callers_at_once_do_not_disturb_each_other(self, backend: Backend) -> None:
        """Commits, messages and questions, all under way together."""
        lease = await a_lease(backend)
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

    @contract
    async def test_a_cancelled_caller_does_not_cut_a_transaction_in_half(self, backend: Backend) -> None:
        """Each of many commits that were cancelled at any moment is whole or absent, and the next one works."""
        lease = await a_lease(backend)
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


def _id(item: LoadedInstance) -> str:
    return item.record.id
