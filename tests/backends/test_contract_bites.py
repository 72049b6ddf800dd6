"""The contract finds what is wrong: each backend here has one bug, and the test that is named must fail for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durableflow.backends.base import (
    Commit,
    InstanceRecord,
    Lease,
    LoadedInstance,
    Outgoing,
    Query,
    QuietInstance,
    Rewrite,
    SendResult,
)
from durableflow.backends.memory import MemoryBackend
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
    async def load(self, instance_ids: Sequence[str]) -> list[LoadedInstance]:
        return await super().load([each.strip() for each in instance_ids])


class PagesByTimeAlone(MemoryBackend):
    async def due(self, after: tuple[int, str], until_us: int, limit: int) -> list[tuple[int, str]]:
        return [each for each in self._wakes if after[0] < each[0] < until_us][:limit]


class ListsByTimeAlone(MemoryBackend):
    async def list_records(self, query: Query) -> list[InstanceRecord]:
        found = await super().list_records(Query(limit=1_000))
        after = query.after
        return [record for record in found if after is None or record.created_us < after[0]][: query.limit]


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
    (HearsNothing, "what_one_connection_writes_another_hears_of"),
    (KeepsLettersOfWhatGoesOn, "dead_letters_go_with_their_instance"),
    (RedeemsEverything, "an_instance_that_is_redeemed_keeps_the_letters_of_its_activities"),
    (NoFence, "a_stale_lease_changes_no_alerts"),
    (NumbersAgain, "notices_wait_in_order_until_they_are_settled"),
    (CountsTheWaiting, "instances_of_which_nothing_is_heard_are_found"),
    (LastCircuitWins, "a_change_of_a_circuit_that_changed_meanwhile_is_not_written"),
    (LooksThenSwaps, "of_many_who_change_a_circuit_at_once_one_does"),
    (ForgetsOnClose, "what_was_acknowledged_is_there_after_reopening"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "claim"), MUTANTS)
def test_a_backend_with_a_bug_does_not_keep_the_contract(kind: Callable[..., Any], claim: str, tmp_path: Path) -> None:
    made: list[Any] = []

    class Mutant(BackendContract):
        def backend(self, folder: Path) -> Any:
            if kind is CancellableWriter:
                return kind(folder / "mutant.db")
            made[:] = made or [kind()]
            return made[0]

    with pytest.raises((AssertionError, TimeoutError, ValueError)):
        getattr(Mutant(), f"test_{claim}")(tmp_path)


def test_a_class_that_does_not_say_which_backend_is_told_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="backend"):
        BackendContract().test_an_empty_commit_is_no_error(tmp_path)  # type: ignore[call-arg, arg-type]


def test_the_contract_is_loaded_without_pytest() -> None:
    import subprocess
    import sys

    code = "import sys, durableflow.testing.contract; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
