"""Planted bugs: what a careless hand could do to the engine or its stores. The simulator must find each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from durableflow.backends.base import SendResult
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.core import execution as execution_module
from durableflow.core import observations, others, rewriting
from durableflow.core.execution import Execution
from durableflow.core.mailbox import Mailbox
from durableflow.core.timers import Timers
from durableflow.errors import CommitOutcomeUnknown, StorageError
from durableflow.model import events as ev
from durableflow.model import schedule_state
from durableflow.runtime import loader
from durableflow.runtime.commits import Commits
from durableflow.runtime.effects import Effects
from durableflow.runtime.means import Means
from durableflow.runtime.turns import Turns
from durableflow.testing.simulation.fleet import MemoryFleet
from durableflow.testing.simulation.plan import LEASE_S, Blow, Plan

Plant = Callable[[pytest.MonkeyPatch], None]
Where = Callable[[Plan], Plan]


UNIVERSES: Final = 100
"""In so many universes each of them is found, unless it says otherwise."""


class Mutant(NamedTuple):
    """A planted bug, and the kind of store on which it shows.

    Attributes:
        by: the invariant that must find it; any, when that is empty.
        twin: what its universes are judged beside.
        where: makes of a drawn plan one in which it shows soon.
    """

    name: str
    plant: Plant
    store: Any
    universes: int
    by: str
    twin: Any
    where: Where


MUTANTS: Final[list[Mutant]] = []


def mutant(
    store: str = "memory", universes: int = UNIVERSES, *, by: str = "", twin: str = "", where: Where = lambda plan: plan
) -> Callable[[Plant], Plant]:
    """Enter a bug."""

    def enter(plant: Plant) -> Plant:
        MUTANTS.append(Mutant(plant.__name__, plant, store, universes, by, twin, where))
        return plant

    return enter


def frozen(plan: Plan) -> Plan:
    """Each process is frozen past its lease, one after the other."""
    blows = [Blow(1.0 + 2 * number, "freeze", number, LEASE_S * 1.5) for number in range(len(plan.rates))]
    return msgspec.structs.replace(plan, blows=blows)


def crowded(plan: Plan) -> Plan:
    """All words are for a few instances."""
    births = plan.births[:3]
    said = [
        msgspec.structs.replace(each, instance_id=births[number % len(births)].instance_id)
        for number, each in enumerate(plan.spoken)
    ]
    return msgspec.structs.replace(plan, births=births, spoken=said)


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


@mutant()
def loses_what_a_round_was_told_too_late(patch: pytest.MonkeyPatch) -> None:
    real = Turns._begin_rounds

    def begin_rounds(self: Any, taken: Any, batch: Any) -> bool:
        begun = real(self, taken, batch)
        taken.live.pending = [item for item in taken.live.pending if not isinstance(item[0], ev.EventReceived)]
        return begun

    patch.setattr(Turns, "_begin_rounds", begin_rounds)


# -- life ---------------------------------------------------------------------------------------------------------


def _replace_handler(patch: pytest.MonkeyPatch, kind: type, **replaced: Any) -> None:
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
    _replace_handler(patch, ev.InstanceTerminated, note=lambda execution, event: True)


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
    def request_due(self: Any, live: Any) -> None:
        for activity in live.execution.due_retries(self._means.clock.now_us()):
            if activity.task not in live.attempts:
                self._attempts.begin(live, activity, self._registry.activities[activity.name])

    patch.setattr(Effects, "request_due", request_due)


@mutant("fleet", 300)
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
    _replace_handler(patch, ev.ActivityCompleted, note=note)


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


# -- what a turn leaves to be done --------------------------------------------------------------------------------


@mutant(by="what_is_asked_for_is_under_way")
def writes_one_task_of_a_turn(patch: pytest.MonkeyPatch) -> None:
    write_turn = Turns._write_turn

    def write_one(self: Any, taken: Any, commit: Any) -> None:
        before = len(commit.tasks)
        write_turn(self, taken, commit)
        del commit.tasks[before + 1 :]

    patch.setattr(Turns, "_write_turn", write_one)


@mutant(by="what_is_not_wanted_is_not_under_way")
def leaves_the_tasks_of_what_is_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryBackend, "_drop_many", lambda self, dropped: None)


@mutant(by="one_by_one_gives_the_same")
def runs_the_code_when_all_has_been_told(patch: pytest.MonkeyPatch) -> None:
    """What came in one turn has come at once, as far as the code can see: in replays too."""
    advance, replay, take, run = Execution.advance, Execution.replay, Execution._take, Execution._run
    left: dict[int, int] = {}

    def advance_all(self: Any, observed: Any, *, now_us: int) -> Any:
        left[id(self)] = len(observed)
        return advance(self, observed, now_us=now_us)

    def replay_all(self: Any, first_seq: int, at_us: int, row: Any) -> None:
        left[id(self)] = sum(type(event) not in ev.DECISIONS for event in row)
        replay(self, first_seq, at_us, row)

    def take_one(self: Any, event: Any) -> bool:
        left[id(self)] -= 1
        return take(self, event)

    def run_last(self: Any) -> None:
        if left[id(self)] == 0:
            run(self)

    for name, planted in (("advance", advance_all), ("replay", replay_all), ("_take", take_one), ("_run", run_last)):
        patch.setattr(Execution, name, planted)


# -- what failed, and what is done about it -----------------------------------------------------------------------


@mutant(by="what_failed_for_good_has_a_dead_letter")
def writes_no_letter_of_an_activity(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Execution, "note_exhausted", lambda self, activity, failed: None)


@mutant(by="what_failed_for_good_has_a_dead_letter")
def keeps_the_letters_of_what_goes_on(patch: pytest.MonkeyPatch) -> None:
    real = MemoryBackend._write_rewrites

    def write_rewrites(self: Any, rewrites: Any) -> None:
        kept = [dict(self._instances[each.instance.id].letters) for each in rewrites if each.after_seq]
        real(self, rewrites)
        for each, letters in zip((each for each in rewrites if each.after_seq), kept, strict=True):
            self._instances[each.instance.id].letters.update(letters)

    patch.setattr(MemoryBackend, "_write_rewrites", write_rewrites)


@mutant(by="a_rewind_keeps_what_was_received", universes=300)
def loses_events_at_a_rewind(patch: pytest.MonkeyPatch) -> None:
    real = rewriting._told_again

    def told_again(kept: Any, dropped: Any) -> Any:
        messages, *children = real(kept, dropped)
        return [each for each in messages if not isinstance(each, ev.EventReceived)], *children

    patch.setattr(rewriting, "_told_again", told_again)


@mutant(by="only_what_is_over_is_purged")
def purges_the_living(patch: pytest.MonkeyPatch) -> None:
    async def purge(self: Any, instance_ids: Any) -> list[str]:
        purged = [each for each in instance_ids if each in self._instances]
        for each in purged:
            self._remove(each)
        return purged

    patch.setattr(MemoryBackend, "purge", purge)


@mutant(by="of_what_is_purged_nothing_is_left")
def purges_the_row_alone(patch: pytest.MonkeyPatch) -> None:
    """What hangs on the instance is left: here its dead letters and its history, under an id that is free."""
    real, history = MemoryBackend._remove, MemoryBackend.history
    graves: dict[str, Any] = {}

    def remove(self: Any, instance_id: str) -> None:
        graves[instance_id] = self._instances[instance_id].rows
        real(self, instance_id)

    async def history_of_all(self: Any, instance_id: str, from_seq: int, limit: int) -> Any:
        there = await history(self, instance_id, from_seq, limit)
        return there or graves.get(instance_id, [])

    patch.setattr(MemoryBackend, "_remove", remove)
    patch.setattr(MemoryBackend, "history", history_of_all)


# -- starts that wait ---------------------------------------------------------------------------------------------


@mutant(by="debounced_starts_are_one_instance_and_the_latest_counts")
def begins_with_the_first_of_many_starts(patch: pytest.MonkeyPatch) -> None:
    real = MemoryBackend.debounce

    async def debounce(self: Any, start: Any) -> Any:
        key = (start.new.workflow, start.new.version, start.key)
        known = self._windows.get(key)
        return await real(self, start if known is None else start._replace(changed=known.changed))

    patch.setattr(MemoryBackend, "debounce", debounce)


@mutant(by="a_schedule_has_one_instance_a_slot")
def forgets_a_slot_that_comes_with_another(patch: pytest.MonkeyPatch) -> None:
    real = schedule_state._Stepping._take

    def take(self: Any, slot_us: int) -> None:
        if not self.firings:
            real(self, slot_us)

    patch.setattr(schedule_state._Stepping, "_take", take)


# -- many at once -------------------------------------------------------------------------------------------------


@mutant("fleet")
def reads_no_number_that_appears_late(patch: pytest.MonkeyPatch) -> None:
    """The last number that was read is taken for the last that there will be."""
    patch.setattr(MemoryFleet, "_settled", lambda self: self._last_number)


@mutant(by="poison_delays_nobody", twin="poison")
def waits_with_what_is_stalled(patch: pytest.MonkeyPatch) -> None:
    real = Commits._commit

    async def commit(self: Any, batch: Any) -> bool:
        if batch.stalls:
            await asyncio.sleep(3)
        return await real(self, batch)

    patch.setattr(Commits, "_commit", commit)


@mutant(by="stores_agree", twin="store")
def says_otherwise_on_one_store(patch: pytest.MonkeyPatch) -> None:
    """A message to an instance that is over is missing one, if it is SQLite that is asked."""
    real = SqliteBackend.send

    async def send(self: Any, messages: Any) -> list[SendResult]:
        results = await real(self, messages)
        return [SendResult("missing") if result.outcome == "over" else result for result in results]

    patch.setattr(SqliteBackend, "send", send)
