"""What instances send to others, rounds of one instance, and histories that clients write."""

from __future__ import annotations

from typing import Any

from durableflow.backends.base import Backend, Commit, HistoryRow, NewInstance, Outgoing, Query, Rewrite
from durableflow.errors import AppendConflict, InstancesExist, LeaseLost
from durableflow.model.status import Status
from durableflow.testing.contract.store import StoreContract, a_change, a_lease, a_row, an_instance, contract, refused

_ANSWERS = {outcome: outcome.encode() for outcome in ("delivered", "exists", "missing", "over")}


def a_birth(child_id: str, parent: str = "a", **differences: Any) -> Outgoing:
    """The start of a child, whose parent wants to know all that may become of it."""
    new = NewInstance(child_id, "child", 3, Status.PENDING, 1_500, 0, {"k": "v"}, parent=parent)
    return Outgoing(child_id, b"start of " + child_id.encode(), new, None, parent, _ANSWERS)._replace(**differences)


def a_message(target: str, sender: str = "a", event_id: str | None = None) -> Outgoing:
    """Something that an instance says to another."""
    return Outgoing(target, b"to " + target.encode(), None, event_id, sender, _ANSWERS)


class OthersContract(StoreContract):
    """See `BackendContract`."""

    async def _inbox(self, backend: Backend) -> list[tuple[str, bytes]]:
        return [(message.instance_id, message.data) for message in await backend.inbox(0, 1_000)]

    # -- what is sent with a commit -------------------------------------------------------------------------

    @contract
    async def test_a_child_is_made_with_the_commit_that_calls_it(self, backend: Backend) -> None:
        """With its parent, its tags, and its start in its inbox."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")], sends=[a_birth("a/1")]))
        (child,) = await backend.load(["a/1"])
        record = child.record
        assert (record.workflow, record.version, record.status, record.parent) == ("child", 3, Status.PENDING, "a")
        assert (record.created_us, record.wake_us, record.tags, record.base_seq) == (1_500, 0, {"k": "v"}, 1)
        assert child.rows == []
        assert [message.data for message in child.messages] == [b"start of a/1"]
        assert (0, "a/1") in await backend.due((-1, ""), 10, 10)
        assert ("a", b"delivered") in await self._inbox(backend)
        assert [found.id for found in await backend.list_records(Query(tags={"k": "v"}))] == ["a/1"]

    @contract
    async def test_children_are_found_by_their_parent(self, backend: Backend) -> None:
        """And by nothing that only looks like it."""
        lease = await a_lease(backend)
        sends = [a_birth("a/1"), a_birth("a/2"), a_birth("A/1", "A"), a_birth("x", "a")]
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("A")], sends=sends))
        assert {each.id for each in await backend.list_records(Query(parent="a"))} == {"a/1", "a/2", "x"}
        assert {each.id for each in await backend.list_records(Query(parent="A"))} == {"A/1"}
        assert await backend.list_records(Query(parent="")) == []

    @contract
    async def test_an_id_that_is_taken_is_said_to_the_parent_and_hurts_nobody(self, backend: Backend) -> None:
        """All else in the commit is written."""
        lease = await self._with_something(backend)
        before = await backend.load(["b"])
        await backend.commit(lease, Commit(rows=[a_row("a", 2)], sends=[a_birth("b"), a_birth("over"), a_birth("new")]))
        assert await backend.load(["b"]) == before
        assert (await self._inbox(backend))[-4:] == [
            ("a", b"exists"), ("a", b"exists"), ("new", b"start of new"), ("a", b"delivered"),
        ]  # fmt: skip
        assert await backend.last_row("a") == a_row("a", 2)

    @contract
    async def test_a_child_may_replace_what_is_over_and_nothing_else(self, backend: Backend) -> None:
        """What is replaced goes whole."""
        lease = await self._with_something(backend)
        births = [a_birth(each) for each in ("over", "b")]
        sends = [each._replace(new=each.new and each.new._replace(replace=True)) for each in births]
        await backend.commit(lease, Commit(sends=sends))
        (made,) = await backend.load(["over"])
        assert (made.record.parent, made.rows, made.heartbeats) == ("a", [], [])
        assert [message.data for message in made.messages] == [b"start of over"]
        assert await backend.list_records(Query(tags={"of": "over"})) == []
        (kept,) = await backend.load(["b"])
        assert (kept.record.parent, kept.rows) == (None, [a_row("b")])
        assert [data for to, data in await self._inbox(backend) if to == "a"][-2:] == [b"delivered", b"exists"]

    @contract
    async def test_what_became_of_a_message_is_said_to_its_sender(self, backend: Backend) -> None:
        """In the same transaction."""
        lease = await self._with_something(backend)
        sends = [a_message(each) for each in ("b", "nobody", "over", "a")]
        await backend.commit(lease, Commit(sends=sends))
        told = (await self._inbox(backend))[-6:]
        assert told == [
            ("b", b"to b"), ("a", b"delivered"), ("a", b"missing"), ("a", b"over"), ("a", b"to a"), ("a", b"delivered"),
        ]  # fmt: skip

    @contract
    async def test_who_does_not_want_to_know_is_not_told(self, backend: Backend) -> None:
        """Nor is a sender that is not there."""
        lease = await self._with_something(backend)
        before = len(await self._inbox(backend))
        silent = [a_message(each)._replace(answers={}) for each in ("b", "nobody", "over")]
        await backend.commit(lease, Commit(sends=[*silent, a_message("b", "nobody")]))
        assert (await self._inbox(backend))[before:] == [("b", b"to b"), ("b", b"to b")]

    @contract
    async def test_an_event_id_that_waits_is_not_written_again_and_counts_as_delivered(self, backend: Backend) -> None:
        """As for clients."""
        lease = await self._with_something(backend)
        before = len(await self._inbox(backend))
        sends = [a_message("b", event_id="e"), a_message("b", event_id="f"), a_message("b", event_id="f")]
        await backend.commit(lease, Commit(sends=sends))
        told = (await self._inbox(backend))[before:]
        assert told == [("a", b"delivered"), ("b", b"to b"), ("a", b"delivered"), ("a", b"delivered")]

    @contract
    async def test_sends_come_last_and_one_after_the_other(self, backend: Backend) -> None:
        """A later one sees what became of an earlier one, and of all else in the commit."""
        lease = await self._with_something(backend)
        before = len(await self._inbox(backend))
        commit = Commit(
            new=[an_instance("new")],
            changes=[a_change("b", Status.FAILED)],
            sends=[a_message("new"), a_message("b"), a_birth("c"), a_message("c"), a_birth("c")],
        )
        await backend.commit(lease, commit)
        told = (await self._inbox(backend))[before:]
        assert told == [
            ("new", b"to new"), ("a", b"delivered"), ("a", b"over"), ("c", b"start of c"), ("a", b"delivered"),
            ("c", b"to c"), ("a", b"delivered"), ("a", b"exists"),
        ]  # fmt: skip

    @contract
    async def test_a_commit_that_is_refused_sends_nothing(self, backend: Backend) -> None:
        """Whatever it was refused for."""
        lease = await self._with_something(backend)
        before = await self._everything(backend)
        sends = [a_birth("child"), a_message("b")]
        with refused(AppendConflict):
            await backend.commit(lease, Commit(rows=[a_row("a")], sends=sends))
        with refused(InstancesExist):
            await backend.commit(lease, Commit(new=[an_instance("a")], sends=sends))
        with refused(LeaseLost):
            await backend.commit(lease._replace(worker_id=lease.worker_id + 1), Commit(sends=sends))
        assert await self._everything(backend) == before

    @contract
    async def test_odd_bytes_and_names_arrive_as_they_were_sent(self, backend: Backend) -> None:
        """Empty ones, too."""
        lease = await a_lease(backend)
        odd = [b"", b"\x00", bytes(range(256)), "ü'\"$[0]".encode()]
        children = [f"c{n}'\"%_ü" for n in range(len(odd))]
        sends = [a_birth(child, data=data) for child, data in zip(children, odd, strict=True)]
        sends += [a_message("a")._replace(data=data, answers={}) for data in odd]
        await backend.commit(lease, Commit(new=[an_instance("a")], sends=sends))
        told = await self._inbox(backend)
        assert [data for to, data in told if to in children] == odd
        assert [data for to, data in told if to == "a" and data != b"delivered"] == odd

    @contract
    async def test_what_was_sent_survives_reopening(self, backend: Backend) -> None:
        """Birth, message and answers."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")], sends=[a_birth("c"), a_message("c")]))
        before = await self._everything(backend)
        await backend.close()
        async with self.opened() as again:
            assert await self._everything(again) == before
        await backend.open()

    # -- rounds ---------------------------------------------------------------------------------------------

    @contract
    async def test_an_instance_is_loaded_from_its_latest_round_on(self, backend: Backend) -> None:
        """The history keeps all."""
        lease = await a_lease(backend)
        rows = [a_row("a", seq) for seq in (1, 4, 6)]
        await backend.commit(lease, Commit(new=[an_instance("a")], rows=rows))
        await backend.commit(lease, Commit(rows=[a_row("a", 9)], changes=[a_change("a", base_seq=6, version=2)]))
        (loaded,) = await backend.load(["a"])
        assert loaded.rows == [a_row("a", 6), a_row("a", 9)]
        assert (loaded.record.base_seq, loaded.record.version) == (6, 2)
        assert await backend.history("a", 1, 10) == [*rows, a_row("a", 9)]
        await backend.commit(lease, Commit(changes=[a_change("a", wake_us=3)]))
        record = await backend.record("a")
        assert record is not None
        assert (record.base_seq, record.version, record.wake_us) == (6, 2, 3), "what is None stays as it is"

    @contract
    async def test_an_instance_can_be_made_in_a_later_round(self, backend: Backend) -> None:
        """When its first turn begins one."""
        lease = await a_lease(backend)
        new = an_instance("a")._replace(base_seq=4, parent="p")
        await backend.commit(lease, Commit(new=[new], rows=[a_row("a", 1), a_row("a", 4)]))
        (loaded,) = await backend.load(["a"])
        assert loaded.rows == [a_row("a", 4)]
        assert (loaded.record.base_seq, loaded.record.parent) == (4, "p")

    # -- histories that clients write -----------------------------------------------------------------------

    async def _over(self, backend: Backend, *ids: str) -> None:
        lease = await a_lease(backend)
        new = [an_instance(each, Status.FAILED, tags={"of": each})._replace(parent="p") for each in ids]
        rows = [row for each in ids for row in (a_row(each, 1), a_row(each, 3))]
        await backend.commit(lease, Commit(new=new, rows=rows))

    @contract
    async def test_what_is_over_goes_on_with_rows_behind_its_own(self, backend: Backend) -> None:
        """And is told what it is told."""
        await self._over(backend, "a")
        written = [a_row("a", 5), a_row("a", 6)]
        row = an_instance("a", wake_us=0)._replace(base_seq=6, version=4, custom_status=b"1")
        await backend.rewrite([Rewrite(row, written, [Outgoing("a", b"go"), Outgoing("b", b"lost")], 3)])
        (loaded,) = await backend.load(["a"])
        record = loaded.record
        assert (record.status, record.finished_us, record.wake_us) == (Status.RUNNING, None, 0)
        assert (record.base_seq, record.version, record.custom_status) == (6, 4, b"1")
        assert (record.parent, record.tags) == ("p", {"of": "a"})
        assert loaded.rows == [a_row("a", 6)]
        assert [message.data for message in loaded.messages] == [b"go"]
        assert len(await backend.history("a", 1, 10)) == 4
        assert (0, "a") in await backend.due((-1, ""), 10, 10)

    @contract
    async def test_a_copy_is_made_with_its_history(self, backend: Backend) -> None:
        """It need not be told anything."""
        new = an_instance("copy", wake_us=0, tags={"k": "v"})
        rows = [HistoryRow("copy", 1, 5, b"one"), HistoryRow("copy", 3, 6, b"two")]
        await backend.rewrite([Rewrite(new, rows, [])])
        (loaded,) = await backend.load(["copy"])
        assert (loaded.rows, loaded.messages, loaded.record.tags) == (rows, [], {"k": "v"})

    @contract
    async def test_of_several_rewrites_all_are_written_or_none(self, backend: Backend) -> None:
        """One that is not there, not over or has gone on meanwhile spoils them all, and is named."""
        await self._over(backend, "a", "b")
        await backend.rewrite([Rewrite(an_instance("living"), [a_row("living")], [])])
        before = await self._everything(backend)
        good = Rewrite(an_instance("a"), [a_row("a", 5)], [Outgoing("a", b"go")], 3)
        for bad in (
            Rewrite(an_instance("b"), [a_row("b", 5)], [], 1),
            Rewrite(an_instance("living"), [a_row("living", 5)], [], 1),
            Rewrite(an_instance("nobody"), [a_row("nobody", 5)], [], 1),
        ):
            with refused(AppendConflict) as conflict:
                await backend.rewrite([good, bad])
            assert conflict.error.instance_ids == {bad.instance.id}
        with refused(InstancesExist) as taken:
            await backend.rewrite([good, Rewrite(an_instance("b"), [a_row("b")], [])])
        assert taken.error.instance_ids == {"b"}
        assert await self._everything(backend) == before
        await backend.rewrite([good, Rewrite(an_instance("b"), [a_row("b", 5)], [], 3)])
        assert {each.id for each in await backend.list_records(Query(statuses=frozenset({Status.RUNNING})))} == {
            "a", "b", "living",
        }  # fmt: skip

    @contract
    async def test_messages_of_a_rewrite_may_start_children_and_want_answers(self, backend: Backend) -> None:
        """They are written when all instances are there."""
        await self._over(backend, "a")
        messages = [a_birth("a/1"), a_message("copy"), a_message("nobody")]
        copy = Rewrite(an_instance("copy"), [a_row("copy")], [])
        await backend.rewrite([Rewrite(an_instance("a"), [a_row("a", 5)], messages, 3), copy])
        assert await self._inbox(backend) == [
            ("a/1", b"start of a/1"), ("a", b"delivered"), ("copy", b"to copy"), ("a", b"delivered"), ("a", b"missing"),
        ]  # fmt: skip

    @contract
    async def test_the_last_row_is_the_latest_one(self, backend: Backend) -> None:
        """Of what is over, of what goes on, of nobody."""
        await self._over(backend, "a", "b")
        await backend.rewrite([Rewrite(an_instance("a"), [a_row("a", 5)], [], 3)])
        assert await backend.last_row("a") == a_row("a", 5)
        assert await backend.last_row("b") == a_row("b", 3)
        assert await backend.last_row("nobody") is None

    @contract
    async def test_another_connection_hears_of_a_rewrite(self, backend: Backend) -> None:
        """The worker may be elsewhere."""
        await self._over(backend, "a")
        seen = max([0, *(message.number for message in await backend.inbox(0, 100))])
        async with self.opened() as other:
            await other.rewrite([Rewrite(an_instance("a"), [a_row("a", 5)], [Outgoing("a", b"go")], 3)])
            assert [message.data for message in await backend.inbox(seen, 10)] == [b"go"]
