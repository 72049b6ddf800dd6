"""Planted bugs: what a careless hand could do to the engine or its stores. The simulator must find each of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from planting import calling, crowded, frozen, mutant

from durableflow.backends.memory import MemoryBackend
from durableflow.core import execution as execution_module
from durableflow.core import observations, others
from durableflow.core.execution import Execution
from durableflow.core.mailbox import Mailbox
from durableflow.core.timers import Timers
from durableflow.errors import CommitOutcomeUnknown, StorageError
from durableflow.model import events as ev
from durableflow.runtime import loader
from durableflow.runtime.commits import Commits
from durableflow.runtime.effects import Effects
from durableflow.runtime.means import Means
from durableflow.runtime.turns import Turns
from durableflow.runtime.worker import Worker
from durableflow.testing.simulation.fleet import MemoryFleet

# -- the end ------------------------------------------------------------------------------------------------------


@mutant(by="all_that_was_begun_ends")
def waits_for_ever_when_it_closes(patch: pytest.MonkeyPatch) -> None:
    async def stop(self: Any) -> None:
        await asyncio.get_running_loop().create_future()

    patch.setattr(Worker, "stop", stop)


# -- commits ------------------------------------------------------------------------------------------------------


@mutant()
def acknowledges_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    real = Commits._commit

    async def commit(self: Any, batch: Any) -> bool:
        for taken in batch.taken:
            if taken.live.new is None:
                self._effects.acknowledge(taken)
        return await real(self, batch)

    patch.setattr(Commits, "_commit", commit)


@mutant()
def begins_attempts_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    real = Commits._commit

    async def commit(self: Any, batch: Any) -> bool:
        for taken in batch.taken:
            self._effects._begin(taken)
            taken.starts = []
        return await real(self, batch)

    patch.setattr(Commits, "_commit", commit)


@mutant()
def takes_an_unknown_outcome_for_done(patch: pytest.MonkeyPatch) -> None:
    real = Means.commit

    async def commit(self: Any, commit: Any) -> None:
        with suppress(CommitOutcomeUnknown):
            await real(self, commit)

    patch.setattr(Means, "commit", commit)


@mutant()
def takes_a_refusal_for_done(patch: pytest.MonkeyPatch) -> None:
    real = Means.commit

    async def commit(self: Any, commit: Any) -> None:
        try:
            await real(self, commit)
        except StorageError as error:
            if not str(error).startswith("planted: commit is refused"):
                raise

    patch.setattr(Means, "commit", commit)


@mutant(universes=300)
def tells_again_after_an_unknown_outcome(patch: pytest.MonkeyPatch) -> None:
    real = Commits._read_the_log

    async def read_the_log(self: Any, batch: Any) -> None:
        told = [(taken.live.id, event) for taken in batch.taken for event, _, number in taken.told if not number]
        await real(self, batch)

        async def again(instance_id: str, event: Any) -> None:
            (await self._instances.load(instance_id)).tell(event)

        for instance_id, event in told:
            if isinstance(event, ev.EventReceived):
                asyncio.ensure_future(again(instance_id, event)).add_done_callback(lambda task: task.exception())

    patch.setattr(Commits, "_read_the_log", read_the_log)


@mutant()
def writes_half_of_a_large_commit(patch: pytest.MonkeyPatch) -> None:
    real = MemoryBackend._write

    def write(self: Any, commit: Any) -> None:
        if len(commit.rows) > 2:
            commit.rows = commit.rows[: len(commit.rows) // 2]
        real(self, commit)

    patch.setattr(MemoryBackend, "_write", write)


# -- leases -------------------------------------------------------------------------------------------------------


@mutant()
def has_no_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryBackend, "_check", lambda self, lease: self._check_seal())


@mutant("fleet", where=frozen)
def has_no_fence_in_a_fleet(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryFleet, "_check", lambda self, lease: self._check_seal())


@mutant("fleet")
def claims_what_the_living_own(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryFleet, "_is_free", lambda self, instance_id: True)


# -- time ---------------------------------------------------------------------------------------------------------


@mutant()
def fires_timers_a_microsecond_early(patch: pytest.MonkeyPatch) -> None:
    fire, pop_due, next_due_us = Timers.fire, Timers.pop_due, Timers.next_due_us

    def earlier(self: Any) -> int | None:
        due_us = next_due_us(self)
        return None if due_us is None else due_us - 1

    patch.setattr(Timers, "next_due_us", earlier)
    patch.setattr(Timers, "fire", lambda self, number, now_us: fire(self, number, now_us + 1))
    patch.setattr(Timers, "pop_due", pop_due)


@mutant()
def fires_timers_again(patch: pytest.MonkeyPatch) -> None:
    def fire(self: Any, number: int, now_us: int) -> bool:
        due_us = self._due_us.get(number)
        return due_us is not None and due_us <= now_us

    patch.setattr(Timers, "fire", fire)


@mutant()
def forgets_when_to_wake(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Execution, "wake_us", lambda self: None)


@mutant()
def lets_time_run_back_between_rounds(patch: pytest.MonkeyPatch) -> None:
    """As it was before the simulator found it."""
    real = Turns._take_turn
    clock: dict[Any, int] = {}
    advance = Execution.advance

    def take_turn(self: Any, live: Any, batch: Any, now_us: int) -> None:
        clock[self] = now_us
        real(self, live, batch, now_us)

    def advanced(self: Any, observed: Any, *, now_us: int) -> Any:
        if observed and type(observed[0]) is ev.InstanceStarted and observed[0].round is not None:
            now_us = max(clock.values(), default=now_us) if len(clock) == 1 else min(clock.values())
        return advance(self, observed, now_us=now_us)

    patch.setattr(Turns, "_take_turn", take_turn)
    patch.setattr(Execution, "advance", advanced)


# -- events -------------------------------------------------------------------------------------------------------


@mutant()
def loses_events_between_rounds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Mailbox, "kept", lambda self: ())


@mutant()
def delivers_the_latest_event_first(patch: pytest.MonkeyPatch) -> None:
    def take(self: Any, name: str) -> bytes | None:
        kept = self._kept.get(name)
        return kept.pop() if kept else None

    patch.setattr(Mailbox, "take", take)


@mutant()
def ignores_event_ids(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Mailbox, "is_new", lambda self, event_id: True)


@mutant()
def leaves_messages_in_the_inbox(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryBackend, "_consume", lambda self, number: None)


@mutant(where=lambda plan: crowded(calling(["activity", "plain", 1], ["wait", 0], ["again", None])(plan)))
def loses_what_a_round_was_told_too_late(patch: pytest.MonkeyPatch) -> None:
    real = Turns._begin_rounds

    def begin_rounds(self: Any, taken: Any, batch: Any) -> bool:
        begun = real(self, taken, batch)
        taken.live.pending = [item for item in taken.live.pending if not isinstance(item[0], ev.EventReceived)]
        return begun

    patch.setattr(Turns, "_begin_rounds", begin_rounds)


# -- life ---------------------------------------------------------------------------------------------------------


def replace_handler(patch: pytest.MonkeyPatch, kind: type, **replaced: Any) -> None:
    note, deliver = observations.HANDLERS[kind]
    patch.setitem(observations.HANDLERS, kind, (replaced.get("note", note), replaced.get("deliver", deliver)))


@mutant()
def delivers_while_suspended(patch: pytest.MonkeyPatch) -> None:
    real = Execution._take

    def take(self: Any, event: Any) -> bool:
        if self.status != "SUSPENDED" or not isinstance(event, (ev.TimerFired, ev.EventReceived)):
            return real(self, event)
        self.status = execution_module._RUNNING
        try:
            return real(self, event)
        finally:
            if self.ended is None:
                self.status = execution_module._SUSPENDED

    patch.setattr(Execution, "_take", take)


@mutant(where=crowded)
def loses_what_came_while_suspended(patch: pytest.MonkeyPatch) -> None:
    real = Execution.resume

    def resume(self: Any) -> None:
        self._held = None
        real(self)

    patch.setattr(Execution, "resume", resume)


@mutant()
def does_not_end_what_is_terminated(patch: pytest.MonkeyPatch) -> None:
    replace_handler(patch, ev.InstanceTerminated, note=lambda execution, event: True)


@mutant()
def starts_one_id_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryBackend, "_may_insert", lambda self, new: True)


@mutant()
def tells_no_parent_of_a_failure(patch: pytest.MonkeyPatch) -> None:
    real = others.result_message

    def result_message(origin: Any, end: Any) -> Any:
        return None if isinstance(end, ev.InstanceFailed) else real(origin, end)

    patch.setattr(others, "result_message", result_message)
    patch.setattr(execution_module, "result_message", result_message)


# -- attempts -----------------------------------------------------------------------------------------------------


@mutant()
def retries_without_counting(patch: pytest.MonkeyPatch) -> None:
    def request_due(self: Any, live: Any, now_us: int) -> None:
        for activity in live.execution.due_retries(now_us):
            if activity.task not in live.attempts:
                self._attempts.begin(live, activity, self._registry.activities[activity.name])

    patch.setattr(Effects, "_request_due", request_due)


@mutant("fleet", 300, where=lambda plan: frozen(calling(["activity", "queued", 1], ["wait", 0])(plan)))
def hears_late_attempts(patch: pytest.MonkeyPatch) -> None:
    """Neither the store nor the instance asks whose word it is: one of the two is enough to be safe."""
    finish_one = MemoryBackend._finish_one

    def finish_any(self: Any, end: Any) -> bool:
        task = self._tasks.get(end.seen[0])
        if task is None:
            return False
        return finish_one(self, end._replace(seen=(task.number, task.attempt, task.state, task.claimed_by)))

    def note(execution: Any, event: Any) -> bool:
        if event.task not in execution.activities:
            return False
        execution.drop_activity(event.task)
        return True

    patch.setattr(MemoryBackend, "_finish_one", finish_any)
    patch.setattr(MemoryBackend, "_check_server", lambda self, server_id: None)
    replace_handler(patch, ev.ActivityCompleted, note=note)


@mutant()
def claims_without_counting(patch: pytest.MonkeyPatch) -> None:
    real = MemoryBackend._finish_one

    def finish_one(self: Any, end: Any) -> bool:
        following = end.following
        if following is not None and following.attempt > 1:
            end = end._replace(following=following._replace(attempt=following.attempt - 1))
        return real(self, end)

    patch.setattr(MemoryBackend, "_finish_one", finish_one)


@mutant(by="a_result_is_one_of_calm_weather", twin="calm")
def gives_up_what_a_crash_took_away(patch: pytest.MonkeyPatch) -> None:
    def failed(activity: Any, failure: Any, *_: Any) -> Any:
        return ev.ActivityFailed(activity.task, failure, activity.attempt, activity.attempt)

    patch.setattr(loader, "failed_attempt", failed)
