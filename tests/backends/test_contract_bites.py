"""The contract finds what is wrong: each backend here has one bug, and the test that is named must fail for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durableflow.backends.base import (
    Arrival,
    Commit,
    InstanceRecord,
    Lease,
    LoadedInstance,
    Message,
    Outgoing,
    Query,
    QuietInstance,
    Rewrite,
    ScheduleRow,
    ScheduleWrite,
    SendResult,
    UserWork,
)
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.moving import KeptTask, Key, Living, MovedRow, Part, Seal
from durableflow.backends.relaying import OutboxRow, Outcome, RelayHold, Settled
from durableflow.backends.sqlite import SqliteBackend
from durableflow.errors import AppendConflict, InstancesExist
from durableflow.model.alert import AlertChanges
from durableflow.model.circuit import Circuit
from durableflow.testing import BackendContract


class NoFence(MemoryBackend):
    def _check(self, lease: Lease) -> None:
        """I28."""


class ZombieRenews(MemoryBackend):
    async def renew(self, lease: Lease, ttl_us: int, now_us: int) -> Lease:
        return Lease(lease.worker_id, now_us + ttl_us)


class HalfACommit(MemoryBackend):
    async def commit(self, lease: Lease, commit: Commit) -> None:
        for number in commit.consumed:
            self._consume(number)
        await super().commit(lease, commit)


class CutInHalf(MemoryBackend):
    async def commit(self, lease: Lease, commit: Commit) -> None:
        await super().commit(lease, Commit(new=commit.new, rows=commit.rows))
        await asyncio.sleep(0)
        rest = Commit(changes=commit.changes, consumed=commit.consumed, heartbeats=commit.heartbeats)
        await super().commit(lease, rest)


class LastWriterWins(MemoryBackend):
    async def commit(self, lease: Lease, commit: Commit) -> None:
        try:
            await super().commit(lease, commit)
        except AppendConflict:
            await super().commit(lease, Commit(new=commit.new, changes=commit.changes))


class NamesTooMany(MemoryBackend):
    async def commit(self, lease: Lease, commit: Commit) -> None:
        try:
            await super().commit(lease, commit)
        except InstancesExist:
            raise InstancesExist({new.id for new in commit.new}) from None


class ReplacesTheLiving(MemoryBackend):
    def _may_insert(self, new: Any) -> bool:
        return new.replace or super()._may_insert(new)


class PurgesTheLiving(MemoryBackend):
    async def purge(self, instance_ids: Sequence[str]) -> list[str]:
        found = [each for each in dict.fromkeys(instance_ids) if each in self._instances]
        for each in found:
            self._remove(each)
        return found


class ForgetsToPurgeTheInbox(MemoryBackend):
    def _remove(self, instance_id: str) -> None:
        self._drop_wake(self._instances.pop(instance_id).record)


class DeliversTwice(MemoryBackend):
    async def send(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        return await super().send([message._replace(event_id=None) for message in messages])


class KeepsHeartbeats(MemoryBackend):
    async def commit(self, lease: Lease, commit: Commit) -> None:
        class Endless(Commit):
            def finished_ids(self) -> list[str]:
                return []

        whole = Endless(commit.new, commit.rows, commit.changes, commit.consumed, commit.heartbeats)
        await super().commit(lease, whole)


class FirstChangeWins(MemoryBackend):
    async def commit(self, lease: Lease, commit: Commit) -> None:
        await super().commit(lease, msgspec.structs.replace(commit, changes=commit.changes[::-1]))


class TakesEmptyForNothing(MemoryBackend):
    def _insert(self, new: Any) -> None:
        super()._insert(new._replace(custom_status=new.custom_status or None))


class FoldsIds(MemoryBackend):
    async def load(self, instance_ids: Sequence[str], lease: Lease | None = None) -> list[LoadedInstance]:
        return await super().load([each.strip() for each in instance_ids])


class PagesByTimeAlone(MemoryBackend):
    async def due(
        self, after: tuple[int, str], until_us: int, limit: int, lease: Lease | None = None
    ) -> list[tuple[int, str]]:
        return [each for each in self._wakes if after[0] < each[0] < until_us][:limit]


class ListsByTimeAlone(MemoryBackend):
    async def list_records(self, query: Query) -> list[InstanceRecord]:
        found = await super().list_records(Query(limit=1_000))
        after = query.after
        return [record for record in found if after is None or record.created_us < after[0]][: query.limit]


class SendsTheMessageApart(SqliteBackend):
    async def transact(self, lease: Lease, instance_id: str, work: UserWork) -> SendResult:
        data = await self._write(lambda connection: work(connection, []))
        (result,) = await self.send([Outgoing(instance_id, data)])
        return result


class KeepsWhatFailed(SqliteBackend):
    async def transact(self, lease: Lease, instance_id: str, work: UserWork) -> SendResult:
        raised: list[Exception] = []

        def keep(connection: Any, waiting: Sequence[Message]) -> bytes:
            try:
                return work(connection, waiting)
            except Exception as error:
                raised.append(error)
                return b""

        result = await super().transact(lease, instance_id, keep)
        if raised:
            raise raised[0]
        return result


class CallsForTheDead(SqliteBackend):
    async def transact(self, lease: Lease, instance_id: str, work: UserWork) -> SendResult:
        def change(connection: Any) -> bytes:
            return work(connection, [])

        await self._write(change)
        return await super().transact(lease, instance_id, work)


class TakesInOverOthers(MemoryBackend):
    async def take_in(self, arrivals: Sequence[Arrival]) -> set[str]:
        for arrival in arrivals:
            self._instances.pop(arrival.record.id, None)
        return await super().take_in(arrivals)


class TakesInWithoutTheInbox(MemoryBackend):
    async def take_in(self, arrivals: Sequence[Arrival]) -> set[str]:
        return await super().take_in([arrival._replace(messages=()) for arrival in arrivals])


class HearsNothing(MemoryBackend):
    def _notify(self) -> None:
        """Nobody is told."""


class CancellableWriter(SqliteBackend):
    """A transaction of several hops, each of which a cancelled caller can be the last to make."""

    async def commit(self, lease: Lease, commit: Commit) -> None:
        await super().commit(lease, Commit(new=commit.new, rows=commit.rows))
        rest = Commit(changes=commit.changes, consumed=commit.consumed, heartbeats=commit.heartbeats)
        await super().commit(lease, rest)


class KeepsLettersOfWhatGoesOn(MemoryBackend):
    async def rewrite(self, rewrites: Sequence[Rewrite]) -> None:
        kept = {each.instance.id: dict(self._instances[each.instance.id].letters) for each in rewrites}
        await super().rewrite(rewrites)
        for instance_id, letters in kept.items():
            self._instances[instance_id].letters.update(letters)


class RedeemsEverything(MemoryBackend):
    async def commit(self, lease: Lease, commit: Commit) -> None:
        await super().commit(lease, commit)
        for instance_id in commit.redeemed:
            if instance_id in self._instances:
                self._instances[instance_id].letters.clear()


class LastScheduleWins(MemoryBackend):
    async def write_schedule(self, write: ScheduleWrite, lease: Lease | None = None) -> bool:
        known = self._schedules.get(write.id)
        return await super().write_schedule(write._replace(revision=known.revision if known else 0), lease)


class FiresBeforeItLooks(MemoryBackend):
    async def write_schedule(self, write: ScheduleWrite, lease: Lease | None = None) -> bool:
        await self.send(write.messages)
        return await super().write_schedule(write._replace(messages=()), lease)


class SchedulesWithoutAFence(MemoryBackend):
    async def write_schedule(self, write: ScheduleWrite, lease: Lease | None = None) -> bool:
        return await super().write_schedule(write)


class StopsAtARefusal(MemoryBackend):
    async def write_schedule(self, write: ScheduleWrite, lease: Lease | None = None) -> bool:
        if any(each.new and not self._may_insert(each.new) for each in write.messages):
            write = write._replace(messages=())
        return await super().write_schedule(write, lease)


class PagesSchedulesByTimeAlone(MemoryBackend):
    async def due_schedules(self, after: tuple[int, str], limit: int) -> list[ScheduleRow]:
        return await super().due_schedules((after[0], "\U0010ffff"), limit)


class ListsSchedulesByCase(MemoryBackend):
    async def list_schedules(self, after: str, limit: int) -> list[ScheduleRow]:
        return sorted(await super().list_schedules(after, limit), key=lambda row: row.id.lower())


class SendsFirst(MemoryBackend):
    async def commit(self, lease: Lease, commit: Commit) -> None:
        for message in commit.sends:
            self._send_for(message)
        await super().commit(lease, msgspec.structs.replace(commit, sends=[]))


class SendsInASecondTransaction(MemoryBackend):
    async def commit(self, lease: Lease, commit: Commit) -> None:
        try:
            await super().commit(lease, msgspec.structs.replace(commit, sends=[]))
        finally:
            for message in commit.sends:
                self._send_for(message)


class AnswersNobody(MemoryBackend):
    def _send_for(self, message: Outgoing) -> None:
        self._send_one(message)


class AnswersTheDead(MemoryBackend):
    def _send_for(self, message: Outgoing) -> None:
        outcome = self._send_one(message).outcome
        answer = message.answers.get("delivered" if outcome == "over" else outcome)
        if answer is not None and message.sender in self._instances:
            self._put(message.sender, answer, None)


class ForgetsParents(MemoryBackend):
    def _insert(self, new: Any) -> None:
        super()._insert(new._replace(parent=None))


class BearsTwice(MemoryBackend):
    def _send_one(self, message: Outgoing) -> SendResult:
        if message.new is not None and message.instance_id in self._instances:
            return super()._send_one(message._replace(new=None))
        return super()._send_one(message)


class TellsTwice(MemoryBackend):
    def _send_one(self, message: Outgoing) -> SendResult:
        return super()._send_one(message._replace(event_id=None))


class LoadsEveryRound(MemoryBackend):
    async def load(self, instance_ids: Sequence[str], lease: Lease | None = None) -> list[LoadedInstance]:
        return [each._replace(rows=self._instances[each.record.id].rows) for each in await super().load(instance_ids)]


class MakesFirstRoundsOnly(MemoryBackend):
    def _insert(self, new: Any) -> None:
        super()._insert(new._replace(base_seq=1))


class RewritesTheLiving(MemoryBackend):
    def _may_go_on(self, rewrite: Rewrite) -> bool:
        known = self._instances.get(rewrite.instance.id)
        return known is not None and known.rows[-1].first_seq == rewrite.after_seq


class RewritesBehindBacks(MemoryBackend):
    def _may_go_on(self, rewrite: Rewrite) -> bool:
        known = self._instances.get(rewrite.instance.id)
        return known is not None and known.record.status.is_terminal


class RewritesOneByOne(MemoryBackend):
    async def rewrite(self, rewrites: Sequence[Rewrite]) -> None:
        for each in rewrites:
            await super().rewrite([each])


class RewritesInSilence(MemoryBackend):
    async def rewrite(self, rewrites: Sequence[Rewrite]) -> None:
        await super().rewrite([each._replace(messages=[]) for each in rewrites])


class LooksAtTheFirstRow(MemoryBackend):
    async def last_row(self, instance_id: str) -> Any:
        return next(iter(await self.history(instance_id, 1, 1)), None)


class ForgetsOnClose(MemoryBackend):
    async def close(self) -> None:
        self._instances.clear()
        await super().close()


class NumbersAgain(MemoryBackend):
    async def change_alerts(self, lease: Lease, changes: AlertChanges) -> None:
        await super().change_alerts(lease, changes)
        self._last_notice = max(self._notices, default=0)


class CountsTheWaiting(MemoryBackend):
    async def quiet(self, before_us: int, limit: int) -> list[QuietInstance]:
        return await super().quiet(10_000, limit)


class LastCircuitWins(MemoryBackend):
    async def swap_circuit(self, circuit: Circuit) -> Circuit | None:
        self._circuits[circuit.name] = circuit
        return None


class LooksThenSwaps(MemoryBackend):
    async def swap_circuit(self, circuit: Circuit) -> Circuit | None:
        there = self._circuits.get(circuit.name) or Circuit(circuit.name)
        await asyncio.sleep(0)
        if there.revision != circuit.revision - 1:
            return there
        self._circuits[circuit.name] = circuit
        return None


class SealsForShow(MemoryBackend):
    def _check_seal(self) -> None:
        """A mover has moved the store, and it goes on all the same."""


class SealsTheLiving(MemoryBackend):
    def _living(self, now_us: int) -> list[Living]:
        return []


class FillsTheFull(MemoryBackend):
    async def seal(self, seal: Seal, now_us: int) -> None:
        if self._seal is None:
            self._seal = seal
        else:
            await super().seal(seal, now_us)


class EarlierMoverWrites(MemoryBackend):
    def _check_held(self, seal: Seal) -> None:
        """It believes that it holds the move."""


class ForgetsOneSort(MemoryBackend):
    def _unsorted(self, part: Part) -> Any:
        return () if part is Part.DEAD_LETTERS else super()._unsorted(part)


class SkipsAtTheEndOfAPage(MemoryBackend):
    async def read_part(self, part: Part, after: Key | None, limit_bytes: int) -> list[MovedRow]:
        page = await super().read_part(part, after, limit_bytes)
        return page[1:] if after is not None and len(page) > 1 else page[:1] if after is None else page[1:]


class KeepsTheClaimsOfNobody(MemoryBackend):
    def _keep_moved_task(self, kept: KeptTask) -> None:
        super()._keep_moved_task(kept)
        self._servers.pop(kept.task.claimed_by, None)


class CountsAnew(MemoryBackend):
    async def unseal(self, seal: Seal, *, clear: bool) -> None:
        await super().unseal(seal, clear=clear)
        self._last_task_number = 0


class ClearsHalf(MemoryBackend):
    async def unseal(self, seal: Seal, *, clear: bool) -> None:
        schedules = dict(self._schedules)
        await super().unseal(seal, clear=clear)
        self._schedules = schedules


class DeliversAgain(MemoryBackend):
    async def deliver(self, hold: RelayHold, rows: Sequence[OutboxRow]) -> list[Outcome]:
        self._delivered[hold.source] = {}
        return await super().deliver(hold, rows)


class HearsEveryRelay(MemoryBackend):
    def _check_relay(self, hold: RelayHold) -> None:
        """Whoever took it up since."""


class PutsOutWhatWasRefused(MemoryBackend):
    async def commit(self, lease: Lease, commit: Commit) -> None:
        self._put_out(commit.outbox)
        await super().commit(lease, msgspec.structs.replace(commit, outbox=[]))


class SettlesTwice(MemoryBackend):
    async def settle(self, settled: Sequence[Settled]) -> None:
        kept = dict(self._outbox)
        await super().settle(settled)
        if len(settled) == 2:
            self._outbox = kept


MUTANTS = [
    (NoFence, "a_stale_lease_writes_nothing"),
    (ZombieRenews, "a_worker_that_was_taken_over_can_neither_renew_nor_release"),
    (HalfACommit, "a_row_that_is_there_is_a_conflict_and_nothing_is_written"),
    (HalfACommit, "ids_that_are_taken_are_named_and_nothing_is_written"),
    (CutInHalf, "a_cancelled_caller_does_not_cut_a_transaction_in_half"),
    (CancellableWriter, "a_cancelled_caller_does_not_cut_a_transaction_in_half"),
    (LastWriterWins, "a_row_that_is_there_is_a_conflict_and_nothing_is_written"),
    (NamesTooMany, "ids_that_are_taken_are_named_and_nothing_is_written"),
    (ReplacesTheLiving, "only_what_is_over_can_be_replaced"),
    (ReplacesTheLiving, "a_start_by_message_can_replace_what_is_over"),
    (PurgesTheLiving, "only_what_is_over_is_purged"),
    (ForgetsToPurgeTheInbox, "purging_leaves_nothing_behind"),
    (DeliversTwice, "a_message_with_an_event_id_waits_once"),
    (KeepsHeartbeats, "the_heartbeats_of_an_instance_go_when_it_is_over"),
    (FirstChangeWins, "of_two_changes_of_an_instance_the_later_one_stays"),
    (TakesEmptyForNothing, "values_that_look_like_something_else_are_kept_as_they_are"),
    (FoldsIds, "ids_are_taken_as_they_are"),
    (PagesByTimeAlone, "what_is_due_comes_in_pages_in_the_order_of_its_time"),
    (ListsByTimeAlone, "instances_are_listed_newest_first"),
    (SendsTheMessageApart, "a_cancelled_caller_does_not_cut_user_code_in_half"),
    (KeepsWhatFailed, "user_code_that_raises_writes_nothing"),
    (CallsForTheDead, "user_code_is_not_called_for_who_may_not_write"),
    (TakesInOverOthers, "an_id_that_is_taken_is_left_as_it_is"),
    (TakesInWithoutTheInbox, "an_instance_from_elsewhere_is_as_it_was_there"),
    (HearsNothing, "what_one_connection_writes_another_hears_of"),
    (KeepsLettersOfWhatGoesOn, "dead_letters_go_with_their_instance"),
    (RedeemsEverything, "an_instance_that_is_redeemed_keeps_the_letters_of_its_activities"),
    (LastScheduleWins, "a_write_on_another_revision_changes_nothing"),
    (FiresBeforeItLooks, "a_write_on_another_revision_changes_nothing"),
    (FiresBeforeItLooks, "a_worker_without_its_lease_fires_nothing"),
    (SchedulesWithoutAFence, "a_worker_without_its_lease_fires_nothing"),
    (StopsAtARefusal, "what_is_sent_with_a_schedule_is_written_with_it"),
    (PagesSchedulesByTimeAlone, "schedules_that_are_due_come_in_the_order_of_their_time"),
    (ListsSchedulesByCase, "schedules_are_listed_by_their_ids_as_they_are"),
    (SendsFirst, "sends_come_last_and_one_after_the_other"),
    (SendsFirst, "a_commit_that_is_refused_sends_nothing"),
    (SendsInASecondTransaction, "a_commit_that_is_refused_sends_nothing"),
    (AnswersNobody, "what_became_of_a_message_is_said_to_its_sender"),
    (AnswersNobody, "a_child_is_made_with_the_commit_that_calls_it"),
    (AnswersTheDead, "what_became_of_a_message_is_said_to_its_sender"),
    (ForgetsParents, "children_are_found_by_their_parent"),
    (BearsTwice, "an_id_that_is_taken_is_said_to_the_parent_and_hurts_nobody"),
    (ReplacesTheLiving, "a_child_may_replace_what_is_over_and_nothing_else"),
    (TellsTwice, "an_event_id_that_waits_is_not_written_again_and_counts_as_delivered"),
    (LoadsEveryRound, "an_instance_is_loaded_from_its_latest_round_on"),
    (MakesFirstRoundsOnly, "an_instance_can_be_made_in_a_later_round"),
    (RewritesTheLiving, "of_several_rewrites_all_are_written_or_none"),
    (RewritesBehindBacks, "of_several_rewrites_all_are_written_or_none"),
    (RewritesOneByOne, "of_several_rewrites_all_are_written_or_none"),
    (RewritesInSilence, "what_is_over_goes_on_with_rows_behind_its_own"),
    (LooksAtTheFirstRow, "the_last_row_is_the_latest_one"),
    (NoFence, "a_stale_lease_changes_no_alerts"),
    (NumbersAgain, "notices_wait_in_order_until_they_are_settled"),
    (CountsTheWaiting, "instances_of_which_nothing_is_heard_are_found"),
    (LastCircuitWins, "a_change_of_a_circuit_that_changed_meanwhile_is_not_written"),
    (LooksThenSwaps, "of_many_who_change_a_circuit_at_once_one_does"),
    (SealsForShow, "a_sealed_store_refuses_every_write_and_still_answers"),
    (SealsTheLiving, "a_store_is_not_sealed_while_somebody_works_on_it"),
    (FillsTheFull, "only_an_empty_store_is_filled"),
    (EarlierMoverWrites, "of_two_movers_the_earlier_one_writes_nothing_more"),
    (ForgetsOneSort, "the_parts_are_all_of_the_store_in_the_order_of_their_keys"),
    (SkipsAtTheEndOfAPage, "the_parts_are_all_of_the_store_in_the_order_of_their_keys"),
    (KeepsTheClaimsOfNobody, "a_copy_is_the_same_and_goes_on_as_the_original_would"),
    (CountsAnew, "a_copy_is_the_same_and_goes_on_as_the_original_would"),
    (ClearsHalf, "what_was_copied_can_be_cleared"),
    (DeliversAgain, "a_row_is_delivered_once_however_often_it_is_brought"),
    (HearsEveryRelay, "a_relay_that_was_followed_by_another_delivers_and_forgets_nothing"),
    (PutsOutWhatWasRefused, "what_is_put_out_waits_in_order_until_it_is_settled"),
    (SettlesTwice, "what_is_put_out_waits_in_order_until_it_is_settled"),
    (ForgetsOnClose, "what_was_acknowledged_is_there_after_reopening"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "claim"), MUTANTS)
def test_a_backend_with_a_bug_does_not_keep_the_contract(kind: type[Any], claim: str, bites: Any) -> None:
    bites(kind, claim)


def test_a_class_that_does_not_say_which_backend_is_told_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="backend"):
        BackendContract().test_an_empty_commit_is_no_error(tmp_path)  # type: ignore[call-arg, arg-type]


def test_the_contract_is_loaded_without_pytest() -> None:
    import subprocess
    import sys

    code = "import sys, durableflow.testing.contract; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
