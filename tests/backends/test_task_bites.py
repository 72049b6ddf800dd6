"""The contract finds what is wrong with tasks: each store here has one bug, and the test that is named must fail."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest

from durableflow.backends.base import Commit, Lease
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend, tasks
from durableflow.backends.tasks import (
    ADMITTED,
    ALL_TASKS,
    CLAIMED,
    START,
    ClaimRequest,
    Claims,
    NewTask,
    Offer,
    Outlook,
    QueueLimits,
    StoredTask,
    TaskBeat,
    TaskEnd,
)


class WritesTasksApart(MemoryBackend):
    async def commit(self, lease: Lease, commit: Commit) -> None:
        self._write_tasks(commit.tasks)
        await super().commit(lease, msgspec.structs.replace(commit, tasks=[]))


class KeepsWhatIsClaimed(MemoryBackend):
    def _drop_task(self, number: int) -> None:
        if self._tasks[number].state != CLAIMED:
            super()._drop_task(number)


class NumbersTasksAgain(MemoryBackend):
    def _drop_task(self, number: int) -> None:
        super()._drop_task(number)
        self._last_task_number = max(self._tasks, default=0)


class KeepsTasksOfThePurged(MemoryBackend):
    def _drop_tasks(self, instance_id: str, task: int) -> None:
        if task != ALL_TASKS or instance_id in self._instances:
            super()._drop_tasks(instance_id, task)


class ForgetsTheGlobalLimit(MemoryBackend):
    async def claim(self, request: ClaimRequest, now_us: int) -> Claims:
        """Counts what the asking server holds, not what all do."""
        others = {n: t for n, t in self._tasks.items() if t.state == CLAIMED and t.claimed_by != request.server_id}
        for number in others:
            del self._tasks[number]
        try:
            return await super().claim(request, now_us)
        finally:
            self._tasks = dict(sorted((self._tasks | others).items()))


class LooksThenClaims(SqliteBackend):
    """Two transactions, with others in between."""

    async def claim(self, request: ClaimRequest, now_us: int) -> Claims:
        found: list[Claims] = []

        def look(connection: sqlite3.Connection) -> None:
            found.append(tasks.claim(connection, request, now_us))
            raise _Undone

        try:
            await self._write(look)
        except _Undone:
            await asyncio.sleep(0)

        def mark(connection: sqlite3.Connection) -> None:
            sql = "update tasks set state = 2, claimed_by = ? where number = ?"
            connection.executemany(sql, [(request.server_id, task.number) for task in found[0].tasks])

        await self._write(mark)
        return found[0]


class _Undone(Exception):
    pass


class CountsWhatWasHandedOver(MemoryBackend):
    def _most(self, name: str, now_us: int) -> int:
        away = sum(task.token_digest is not None or task.state == 3 for task in self._tasks.values())
        return max(0, super()._most(name, now_us) - away)


class FirstInFirstOut(MemoryBackend):
    def _place(self, task: StoredTask) -> tuple[int, int, int]:
        return (-task.priority, 0, task.number)


class ForgetsWhereTheLaneIs(MemoryBackend):
    async def claim(self, request: ClaimRequest, now_us: int) -> Claims:
        try:
            return await super().claim(request, now_us)
        finally:
            for queue in self._queues.values():
                queue.lanes.clear()


class PrioritiesAreForOneKey(MemoryBackend):
    def _place(self, task: StoredTask) -> tuple[int, int, int]:
        return (0, self._vtimes[task.number], task.number)


class ClaimsBeforeTheTime(MemoryBackend):
    def _write_tasks(self, new: Iterable[NewTask]) -> None:
        super()._write_tasks(task._replace(not_before_us=max(0, task.not_before_us - 1)) for task in new)


class TakesAllSuspects(MemoryBackend):
    def _may_take(self, request: ClaimRequest, task: StoredTask, room: int, *, takes_suspect: bool) -> bool:
        return super()._may_take(request, task, room, takes_suspect=True)


class FinishesUnseen(MemoryBackend):
    def _finish_one(self, end: TaskEnd) -> bool:
        task = self._tasks.get(end.seen[0])
        if task is None:
            return False
        return super()._finish_one(end._replace(seen=(task.number, task.attempt, task.state, task.claimed_by)))


class TellsBeforeItLooks(MemoryBackend):
    def _finish_one(self, end: TaskEnd) -> bool:
        written = super()._finish_one(end)
        if not written:
            self._put("i", end.message)
        return written


class ForgetsDetails(MemoryBackend):
    def _finish_one(self, end: TaskEnd) -> bool:
        if end.following is not None and end.following.details is None:
            end = end._replace(following=end.following._replace(details=b""))
        return super()._finish_one(end)


class TakesEmptyDetailsForNone(MemoryBackend):
    def _finish_one(self, end: TaskEnd) -> bool:
        if end.following is not None:
            end = end._replace(following=end.following._replace(details=end.following.details or None))
        return super()._finish_one(end)


class HearsOldAttempts(MemoryBackend):
    def _beat_one(self, beat: TaskBeat) -> bool:
        task = self._tasks.get(beat.number)
        return super()._beat_one(beat if task is None else beat._replace(attempt=task.attempt))


class TokensOutliveTheirAttempt(MemoryBackend):
    def _finish_one(self, end: TaskEnd) -> bool:
        before = self._tasks.get(end.seen[0])
        written = super()._finish_one(end)
        if written and end.following is not None:
            self._keep(self._tasks[end.seen[0]]._replace(token_digest=before.token_digest))
        return written


class TheDeadFinish(MemoryBackend):
    async def finish_tasks(self, ends: Sequence[TaskEnd], server_id: int | None) -> list[bool]:
        return await super().finish_tasks(ends, None)


class TheDeadClaim(MemoryBackend):
    async def claim(self, request: ClaimRequest, now_us: int) -> Claims:
        alive = self._servers.get(request.server_id)
        self._servers[request.server_id] = 10**12
        try:
            return await super().claim(request, now_us)
        finally:
            if alive is not None:
                self._servers[request.server_id] = alive


class NumbersServersAgain(MemoryBackend):
    async def enlist_server(self, name: str, ttl_us: int, now_us: int) -> int:
        self._last_server_id = max(self._servers, default=0)
        return await super().enlist_server(name, ttl_us, now_us)


class BuriesTheLiving(MemoryBackend):
    async def overdue_tasks(self, server_id: int, now_us: int, limit: int) -> list[StoredTask]:
        return await super().overdue_tasks(-1, now_us, limit)


class ClaimsExpire(MemoryBackend):
    async def overdue_tasks(self, server_id: int, now_us: int, limit: int) -> list[StoredTask]:
        found = await super().overdue_tasks(server_id, now_us, 10**6)
        late = [t for t in self._tasks.values() if t.state == CLAIMED and t.expires_us is not None]
        found += [task for task in late if task.expires_us <= now_us and task not in found]
        return sorted(found)[:limit]


class RetireLosesTasks(MemoryBackend):
    async def retire_server(self, server_id: int, ends: Sequence[TaskEnd]) -> None:
        await super().retire_server(server_id, ends)
        for task in [t for t in self._tasks.values() if t.claimed_by == 0 and t.started_us]:
            self._drop_task(task.number)


class RetireForgetsEnds(MemoryBackend):
    async def retire_server(self, server_id: int, ends: Sequence[TaskEnd]) -> None:
        await super().retire_server(server_id, [])


class RetireGivesBackFirst(MemoryBackend):
    async def retire_server(self, server_id: int, ends: Sequence[TaskEnd]) -> None:
        await super().retire_server(server_id, [])
        await self.finish_tasks(ends, None)


class RetireTakesThePlaceOfTheAdmitted(MemoryBackend):
    async def retire_server(self, server_id: int, ends: Sequence[TaskEnd]) -> None:
        await super().retire_server(server_id, ends)
        for task in [t for t in self._tasks.values() if t.claimed_by == ADMITTED]:
            self._keep(task._replace(state=0, claimed_by=0))


class AdmitsInSilence(MemoryBackend):
    async def claim(self, request: ClaimRequest, now_us: int) -> Claims:
        last = self._last_number
        claims = await super().claim(request, now_us)
        for number in range(last + 1, self._last_number + 1):
            self._consume(number)
        return claims


class AdmitsAlways(MemoryBackend):
    async def claim(self, request: ClaimRequest, now_us: int) -> Claims:
        return await super().claim(request._replace(admission=request.admission or b"begin"), now_us)


class AdmitsTheRefused(MemoryBackend):
    def _send_one(self, message: Any) -> Any:
        result = super()._send_one(message)
        if result.outcome == "exists" and message.new.admission is not None:
            self._write_tasks([message.new.admission._replace(task=START)])
        return result


class LimitsUnpause(MemoryBackend):
    async def limit_queue(self, name: str, limits: QueueLimits) -> None:
        await super().limit_queue(name, limits)
        self._queues[name].is_paused = False


class ReadsThenPauses(MemoryBackend):
    async def pause_queue(self, name: str, *, is_paused: bool) -> None:
        limits = next((record.limits for record in await self.queues(name)), QueueLimits())
        await asyncio.sleep(0)
        await self.limit_queue(name, limits)
        await super().pause_queue(name, is_paused=is_paused)


class FillsTheBucket(MemoryBackend):
    async def limit_queue(self, name: str, limits: QueueLimits) -> None:
        await super().limit_queue(name, limits)
        self._queues[name].full_us = 0


class LooksPastLimits(MemoryBackend):
    async def look_at_tasks(self, request: ClaimRequest, now_us: int) -> Outlook:
        look = await super().look_at_tasks(request, now_us)
        return look._replace(is_claimable=look.is_claimable or any(t.state == 0 for t in self._tasks.values()))


class LooksOnceForAll(MemoryBackend):
    async def look_at_tasks(self, request: ClaimRequest, now_us: int) -> Outlook:
        """Room in one queue is taken for room in all."""
        room = max([request.other_room, *request.rooms.values()])
        return await super().look_at_tasks(request._replace(rooms={}, other_room=room), now_us)


class OffersForTheDead(MemoryBackend):
    def _is_active(self, instance_id: str) -> bool:
        return instance_id in self._instances


class OffersWithoutAFence(MemoryBackend):
    async def offer_task(self, lease: Lease, offer: Offer) -> bool:
        (real,) = self._workers.values()
        return await super().offer_task(real, offer)


class OffersWhatComesLate(MemoryBackend):
    async def offer_task(self, lease: Lease, offer: Offer) -> bool:
        self._drop_tasks(offer.instance_id, offer.task)
        return await super().offer_task(lease, offer)


class OffersToOthers(MemoryBackend):
    async def offer_claimed(self, number: int, attempt: int, server_id: int, token_digest: bytes) -> bool:
        task = self._tasks.get(number)
        return await super().offer_claimed(number, attempt, task.claimed_by if task else server_id, token_digest)


MUTANTS = [
    (WritesTasksApart, "a_task_is_written_with_the_commit_that_asks_for_it"),
    (KeepsWhatIsClaimed, "a_task_goes_with_the_commit_that_no_longer_wants_it"),
    (NumbersTasksAgain, "the_number_of_a_task_is_never_used_again"),
    (KeepsTasksOfThePurged, "tasks_go_with_their_instance"),
    (ForgetsTheGlobalLimit, "a_limit_holds_over_all_servers"),
    (LooksThenClaims, "of_many_who_claim_at_once_each_task_goes_to_one"),
    (LooksThenClaims, "a_limit_holds_over_all_servers"),
    (CountsWhatWasHandedOver, "what_was_handed_over_needs_no_place"),
    (FirstInFirstOut, "keys_take_turns_however_many_tasks_of_one_there_are"),
    (ForgetsWhereTheLaneIs, "a_key_whose_tasks_are_done_at_once_does_not_go_before_the_others_for_ever"),
    (PrioritiesAreForOneKey, "the_highest_priority_goes_first_whatever_its_key"),
    (ClaimsBeforeTheTime, "what_may_not_begin_yet_is_not_claimed"),
    (TakesAllSuspects, "of_suspects_a_server_takes_one_at_a_time"),
    (FinishesUnseen, "the_end_of_a_task_that_is_another_by_now_writes_nothing"),
    (TellsBeforeItLooks, "the_end_of_a_task_that_is_another_by_now_writes_nothing"),
    (ForgetsDetails, "an_attempt_that_says_nothing_leaves_the_details_of_the_one_before"),
    (TakesEmptyDetailsForNone, "an_attempt_that_says_nothing_leaves_the_details_of_the_one_before"),
    (HearsOldAttempts, "a_heartbeat_is_kept_of_the_current_attempt_only"),
    (TokensOutliveTheirAttempt, "a_claim_that_is_handed_over_is_no_servers_any_more"),
    (TheDeadFinish, "a_server_that_was_declared_dead_can_do_nothing_more"),
    (TheDeadClaim, "a_server_that_was_declared_dead_can_do_nothing_more"),
    (NumbersServersAgain, "a_server_that_was_declared_dead_can_do_nothing_more"),
    (BuriesTheLiving, "the_claims_of_a_server_whose_lease_is_over_are_overdue"),
    (ClaimsExpire, "what_waits_too_long_is_overdue_and_what_is_claimed_is_not"),
    (RetireLosesTasks, "a_server_that_stops_gives_back_what_it_has_not_begun"),
    (RetireForgetsEnds, "a_server_that_stops_gives_back_what_it_has_not_begun"),
    (RetireGivesBackFirst, "a_server_that_stops_gives_back_what_it_has_not_begun"),
    (RetireTakesThePlaceOfTheAdmitted, "an_admitted_instance_keeps_its_place_until_it_is_over"),
    (AdmitsInSilence, "an_instance_that_waits_in_a_queue_is_admitted_by_a_message"),
    (AdmitsAlways, "an_instance_that_waits_in_a_queue_is_admitted_by_a_message"),
    (AdmitsTheRefused, "an_instance_that_is_refused_leaves_no_task"),
    (LimitsUnpause, "a_paused_queue_gives_nothing_and_keeps_its_limits"),
    (ReadsThenPauses, "of_those_who_limit_and_pause_a_queue_at_once_each_is_heard"),
    (FillsTheBucket, "setting_a_rate_anew_as_it_was_fills_no_bucket"),
    (LooksPastLimits, "a_look_says_whether_a_claim_would_take_something"),
    (LooksOnceForAll, "a_look_says_whether_a_claim_would_take_something"),
    (OffersForTheDead, "who_may_not_write_offers_nothing"),
    (OffersWithoutAFence, "who_may_not_write_offers_nothing"),
    (OffersWhatComesLate, "an_offer_that_comes_late_leaves_that_of_a_later_attempt_alone"),
    (OffersToOthers, "a_claim_is_offered_by_the_server_that_holds_it"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "claim"), MUTANTS)
def test_a_store_of_tasks_with_a_bug_does_not_keep_the_contract(kind: type[Any], claim: str, bites: Any) -> None:
    bites(kind, claim)
