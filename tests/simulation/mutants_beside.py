"""Planted bugs in what goes with a history: work, dead letters, purges, rewinds, starts that wait, other stores."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from planting import calling, crowded, hesitant, mutant

from durableflow.backends.base import SendResult
from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite import SqliteBackend
from durableflow.core import rewriting
from durableflow.core.execution import Execution
from durableflow.model import events as ev
from durableflow.model import schedule_state
from durableflow.runtime.commits import Commits
from durableflow.runtime.turns import Turns
from durableflow.testing.simulation.fleet import MemoryFleet

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


@mutant(by="what_failed_for_good_has_a_dead_letter", where=calling(["activity", "doomed", 1], ["wait", 0], ["raise"]))
def keeps_the_letters_of_what_goes_on(patch: pytest.MonkeyPatch) -> None:
    real = MemoryBackend._write_rewrites

    def write_rewrites(self: Any, rewrites: Any) -> None:
        kept = [dict(self._instances[each.instance.id].letters) for each in rewrites if each.after_seq]
        real(self, rewrites)
        for each, letters in zip((each for each in rewrites if each.after_seq), kept, strict=True):
            self._instances[each.instance.id].letters.update(letters)

    patch.setattr(MemoryBackend, "_write_rewrites", write_rewrites)


@mutant(
    by="a_rewind_keeps_what_was_received",
    universes=300,
    where=calling(["activity", "doomed", 1], ["event", "a", None], ["wait", 0], ["wait", 1], ["raise"]),
)
def loses_events_at_a_rewind(patch: pytest.MonkeyPatch) -> None:
    real = rewriting._told_again

    def told_again(kept: Any, dropped: Any) -> Any:
        messages, *children = real(kept, dropped)
        return [each for each in messages if not isinstance(each, ev.EventReceived)], *children

    patch.setattr(rewriting, "_told_again", told_again)


_ROUNDS = calling(["activity", "plain", 1], ["wait", 0], ["again", None])
_FAILING_ROUNDS = calling(["activity", "plain", 1], ["wait", 0], ["again", None], ["raise"])


def forget_what_rounds_left(rows: Any) -> Any:
    first_seq, at_us, events = rows[0]
    left = events[0].round
    if left is None:
        return rows
    started = msgspec.structs.replace(events[0], round=msgspec.structs.replace(left, kept=()))
    return [(first_seq, at_us, [started, *events[1:]]), *rows[1:]]


@mutant(by="a_copy_has_what_was_there", where=lambda plan: crowded(_ROUNDS(plan)))
def copies_no_events_of_earlier_rounds(patch: pytest.MonkeyPatch) -> None:
    real = rewriting.fork

    def fork(rows: Any, *args: Any) -> Any:
        plan = real(rows, *args)
        return plan._replace(rows=forget_what_rounds_left(plan.rows))

    patch.setattr(rewriting, "fork", fork)


@mutant(by="a_rewind_keeps_what_was_received", where=lambda plan: crowded(_FAILING_ROUNDS(plan)))
def rewinds_without_events_of_earlier_rounds(patch: pytest.MonkeyPatch) -> None:
    real = rewriting.rewind

    def rewind(instance_id: str, rows: Any, *args: Any) -> Any:
        plan = real(instance_id, rows, *args)
        return plan._replace(rows=forget_what_rounds_left(plan.rows))

    patch.setattr(rewriting, "rewind", rewind)


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


@mutant("fleet", where=hesitant)
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
