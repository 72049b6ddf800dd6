"""Bringing instances into memory: load in batches, replay, tell them what they missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, cast

from durableflow.authoring.registry import AnyWorkflow, Registry
from durableflow.backends.base import Heartbeat, HistoryRow, LoadedInstance
from durableflow.core.execution import WORKER_LOST, Execution
from durableflow.errors import (
    CorruptHistory,
    EngineClosed,
    InstanceNotActive,
    InstanceNotFound,
    InstanceStalled,
    LeaseLost,
    NotRegistered,
    StorageError,
    TurnTooLong,
)
from durableflow.model import events as ev
from durableflow.model.failure import Failure
from durableflow.model.status import Status
from durableflow.observe import facts
from durableflow.runtime.agenda import Agenda
from durableflow.runtime.attempt import failed_attempt
from durableflow.runtime.attempts import Attempts
from durableflow.runtime.effects import Effects
from durableflow.runtime.ends import End, Ends
from durableflow.runtime.guard import TurnGuard
from durableflow.runtime.instances import InstanceElsewhere, Instances
from durableflow.runtime.live import Live, reject
from durableflow.runtime.means import Means
from durableflow.runtime.messages import FROM_OUTSIDE, Word, event_in, events_of, is_termination, is_word
from durableflow.runtime.stalls import Stalls, history_too_long, not_registered, reason_of
from durableflow.runtime.tasks import damage_of
from durableflow.runtime.wakes import Wakes

_LOAD_BATCH: Final = 200
_EVENTS_A_BREATH: Final = 1_000
_LOST: Final = Failure(WORKER_LOST, "the worker's process ended while this attempt was running")


class _Stalled(Exception):
    """The instance that is being loaded cannot go on; `is_known` says that its row says so already."""

    def __init__(self, reason: str, *, is_known: bool) -> None:
        self.reason = reason
        self.is_known = is_known
        super().__init__(reason)


class Loader:
    """Loads what `Instances.to_load` names, for ever."""

    def __init__(
        self,
        means: Means,
        registry: Registry,
        instances: Instances,
        agenda: Agenda,
        ends: Ends,
        stalls: Stalls,
        wakes: Wakes,
        effects: Effects,
        attempts: Attempts,
        guard: TurnGuard,
    ) -> None:
        self._means = means
        self._registry = registry
        self._instances = instances
        self._agenda = agenda
        self._ends = ends
        self._stalls = stalls
        self._wakes = wakes
        self._effects = effects
        self._attempts = attempts
        self._guard = guard
        self._alone: set[str] = set()
        """Instances that could not be loaded together with others."""
        self.on_messages: Callable[[str, Sequence[int]], None] = _ignore
        """Told of each instance that is brought in the numbers of the messages that came with it."""
        self.loads = 0
        """How many instances have been brought in."""

    def new_execution(self, instance_id: str, program: AnyWorkflow) -> Execution:
        """An instance that knows nothing yet."""
        limit = self._means.settings.payload_limit_bytes
        execution = Execution(instance_id, program, payload_limit_bytes=limit)
        execution.on_activity_object = self._registry.add_activity
        execution.on_workflow_object = self._registry.add_workflow
        return execution

    async def run(self) -> None:
        """Load; the store reads the next batch while this one is replayed."""
        table = self._instances
        reading: tuple[list[str], frozenset[str], asyncio.Task[list[LoadedInstance]]] | None = None
        try:
            while True:
                if reading is None:
                    await table.load_wanted.wait()
                    reading = self._begin_to_read()
                ids, asked, task = reading
                reading = None
                try:
                    loaded = {item.record.id: item for item in await task}
                except Exception as error:
                    self._fail(ids, error)
                    continue
                self._alone.difference_update(ids)
                if table.to_load:
                    reading = self._begin_to_read()
                for instance_id in ids:
                    if instance_id in asked or instance_id in table.live:
                        await self._bring_in(instance_id, loaded.get(instance_id))
                    else:  # it was in memory then, and has left it meanwhile
                        table.line_up_again(instance_id)
                await asyncio.sleep(0)
        finally:
            if reading is not None:
                reading[2].cancel()

    def _begin_to_read(self) -> tuple[list[str], frozenset[str], asyncio.Task[list[LoadedInstance]]]:
        """Those whose turn it is, and those of them that are read, for they are not in memory."""
        table = self._instances
        most = 1 if table.to_load[0] in self._alone else _LOAD_BATCH
        ids, table.to_load = table.to_load[:most], table.to_load[most:]
        if not table.to_load:
            table.load_wanted.clear()
        asked = [each for each in ids if each not in table.live]
        return ids, frozenset(asked), asyncio.ensure_future(self._read(asked))

    async def _read(self, instance_ids: list[str]) -> list[LoadedInstance]:
        return await self._means.backend.load(instance_ids, self._means.lease) if instance_ids else []

    def _fail(self, instance_ids: Sequence[str], error: Exception) -> None:
        """They are tried again later, each alone: one of them may be what the store cannot answer for."""
        self._alone.update(instance_ids)
        self._means.tell(facts.CommitRetried(str(error)))
        if not isinstance(error, StorageError):
            error = StorageError(f"{instance_ids[0]!r} and {len(instance_ids) - 1} more cannot be loaded: {error!r}")
        for instance_id in instance_ids:
            reject(self._instances.loading.pop(instance_id, None), error)
            self._instances.want_later(instance_id)

    async def _bring_in(self, instance_id: str, loaded: LoadedInstance | None) -> None:
        """Answer whoever waits for it: with the instance, or with why it cannot be had."""
        table = self._instances
        try:
            live = table.live.get(instance_id) or await self._revive(instance_id, loaded)
        except _Stalled as stalled:
            future = table.loading.pop(instance_id, None)
            if stalled.is_known:
                self._ends.tell_stalled(instance_id, stalled.reason)
                reject(future, InstanceStalled(instance_id, stalled.reason))
            else:
                assert loaded is not None  # what is not there does not stall
                record = loaded.record
                self._stalls.stall_unloaded(
                    instance_id, record.workflow, stalled.reason, record.custom_status, loading=future
                )
        except Exception as error:
            reject(table.loading.pop(instance_id, None), error)
        else:
            future = table.loading.pop(instance_id, None)
            if future is not None and not future.done():
                future.set_result(live)

    async def _revive(self, instance_id: str, loaded: LoadedInstance | None) -> Live:
        """Replay an instance into memory.

        Raises:
            InstanceNotFound, InstanceNotActive: there is nothing to replay.
            InstanceElsewhere: another worker of the fleet owns it, or nobody.
            _Stalled: it cannot be followed.
        """
        self._ends.forget_recent(instance_id)  # another process may have replaced the one that ended
        if loaded is None:
            self._ends.fail(instance_id, InstanceNotFound(instance_id))
            raise InstanceNotFound(instance_id)
        record = loaded.record
        if not loaded.is_ours and not record.status.is_terminal:
            raise InstanceElsewhere(instance_id)
        if record.status.is_terminal:
            self._agenda.drop_messages(message.number for message in loaded.messages)
            end = ev.end_of(ev.load_events(loaded.rows[-1].events)) if loaded.rows else None
            if end is not None and self._ends.is_awaited(instance_id):
                self._ends.tell_end(instance_id, End(record.status, end))
            raise InstanceNotActive(instance_id, record.status, "anything more")
        try:
            if instance_id in self._stalls.stuck and record.status is Status.STALLED:
                raise _Stalled(record.stall_reason or "", is_known=True)
            # one that cannot be read stalls it before it is live
            messages = [(message.number, event_in(message)) for message in loaded.messages]
            if not loaded.rows and ev.InstanceStarted not in {type(event) for _, event in messages}:
                raise CorruptHistory("it has neither a history nor a start in its inbox")
            live, beats = await self._replay(loaded)
        except (EngineClosed, LeaseLost):
            raise
        except Exception as error:
            reason = error.reason if isinstance(error, _Stalled) else reason_of(error)
            if any(is_termination(message) for message in loaded.messages):
                self._stalls.terminate(instance_id)
                raise InstanceStalled(instance_id, reason) from error
            is_known = record.stall_reason == reason and record.status is Status.STALLED
            if isinstance(error, TurnTooLong):
                self._stalls.stuck.add(instance_id)
            raise _Stalled(reason, is_known=is_known) from error
        self.loads += 1
        self.on_messages(instance_id, [number for number, _ in messages])
        self._wakes.forget(instance_id)
        self._instances.live[instance_id] = live
        live.status, live.wake_us, live.custom_status = record.status, record.wake_us, record.custom_status
        if record.status is Status.STALLED:
            self._means.recovered.stalls += 1
            self._means.tell(facts.StallHealed(instance_id))
            live.call_up()  # its next turn, be it an empty one, writes the status that it has now
        if loaded.rows:  # else it has only been started, by another instance or process
            self._means.tell(facts.InstanceRecovered(instance_id, live.execution.next_seq - live.base_seq))
        if self._wakes.was_under_way(instance_id) and loaded.rows and record.status is not Status.STALLED:
            self._means.recovered.instances += 1
        self._go_on(live, messages, beats)
        return live

    async def _beats(self, execution: Execution, loaded: LoadedInstance) -> Sequence[Heartbeat]:
        """The last words of attempts that may be lost; what was said with a token is with the token's task."""
        instance_id, offered, elsewhere = loaded.record.id, self._means.offered, execution.elsewhere or ()
        said: list[Heartbeat] = []
        for activity in execution.activities.values() if offered else ():
            if activity.started and activity.task not in elsewhere and (instance_id, activity.task) in offered:
                ask = partial(self._means.backend.task, instance_id, activity.task)
                task = await self._means.patiently(ask)
                if task is not None and task.details is not None and not damage_of(task):
                    said.append(Heartbeat(instance_id, activity.task, task.attempt, task.details))
        return [*loaded.heartbeats, *said]

    async def _replay(self, loaded: LoadedInstance) -> tuple[Live, Sequence[Heartbeat]]:
        """In memory, and what its attempts said last; nobody knows it yet, so nothing is told to it meanwhile."""
        record = loaded.record
        execution = self.new_execution(record.id, self._program_of(loaded))
        execution.next_seq = record.base_seq
        try:
            replayed = 0
            while True:
                replayed = self._guard.run(record.id, _replay_some, execution, loaded.rows, replayed)
                if replayed == len(loaded.rows):
                    break
                await asyncio.sleep(0)  # a breath: the others have their turn
            elsewhere = execution.elsewhere or ()
            for activity in execution.activities.values():
                if activity.name not in self._registry.activities and activity.task not in elsewhere:
                    raise not_registered("activity", activity.name)
            events = execution.next_seq - record.base_seq
            if events > self._means.settings.history_hard_limit:
                raise history_too_long(events, self._means.settings.history_hard_limit)
            beats = await self._beats(execution, loaded)
        except BaseException:
            execution.put_away()
            raise
        live = Live(execution, self._agenda.take_note)
        live.base_seq = record.base_seq
        if self._means.settings.check_replay:
            live.log = list(loaded.rows)
        return live, beats

    def _program_of(self, loaded: LoadedInstance) -> AnyWorkflow:
        name, version = loaded.record.workflow, loaded.record.version
        program = self._registry.workflows.get((name, version))
        if program is not None:
            return program
        known = self._registry.versions(name)
        if not known:
            raise not_registered("workflow", name)
        raise NotRegistered(
            f"it was started by version {version} of workflow {name!r}, but here are registered only: "
            f"{', '.join(map(str, known))}; keep the old code registered as @workflow(name={name!r}, version={version})"
        )

    def _go_on(self, live: Live, messages: Sequence[tuple[int, ev.Event]], beats: Sequence[Heartbeat]) -> None:
        """Tell a revived instance what became of its attempts, what is due, and what is in its inbox."""
        execution = live.execution
        elsewhere = execution.elsewhere
        self._tell_answers(live, messages, beats)
        for due in self._effects.gate(live, execution.due_observations(self._means.clock.now_us())):
            live.tell(due)
        for number, event in messages:
            if type(event) in FROM_OUTSIDE or (elsewhere and is_word(event) and event.task in elsewhere):
                live.tell(cast("ev.Observation", event), None, number)
        self._effects.arm(live)

    def _tell_answers(self, live: Live, messages: Sequence[tuple[int, ev.Event]], beats: Sequence[Heartbeat]) -> None:
        """What became of each attempt that the history allows to run: what it said, or that it is lost."""
        answers: dict[tuple[int, int], tuple[Word, int]]
        answers = {(event.task, event.attempt): (event, 0) for event in self._instances.take_answers(live.id)}
        elsewhere = live.execution.elsewhere or ()
        superseded: list[int] = []
        for number, event in messages:
            if is_word(event) and event.task not in elsewhere:
                key = (event.task, event.attempt)
                if answers.get(key, (None, 0))[1]:
                    superseded.append(number)  # the first that was written is the truth, and the user's data knows it
                else:
                    answers[key] = (event, number)
        details = {(beat.task, beat.attempt): beat.details for beat in beats}
        for activity in list(live.execution.activities.values()):
            key = (activity.task, activity.attempt)
            if activity.task in elsewhere:
                activity.details = details.get(key, activity.details)  # said before it was handed over
                continue
            if not activity.started:
                if key in answers and type(answers[key][0]) is ev.ActivityCompleted:
                    live.tell(ev.ActivityStarted(*key))  # of a history that was rewound to before it was
                    result, of_message = answers.pop(key)
                    live.tell(result, None, of_message)
                continue
            activity.details = details.get(key, activity.details)
            said, number = answers.pop(key, (None, 0))
            if said is not None:
                live.tell(said, None, number)
            else:
                self._means.recovered.attempts += 1
                self._means.tell(facts.AttemptLost(live.id, activity.name, activity.attempt))
                lost = failed_attempt(activity, _LOST, (WORKER_LOST,), self._means.clock)
                live.tell(lost)
                if type(lost) is ev.AttemptFailed:
                    self._attempts.request_after_loss(live, activity, self._registry.activities[activity.name])
        if answers or superseded:
            self._agenda.drop_messages([*superseded, *(number for _, number in answers.values())])


def _ignore(_: str, __: Sequence[int]) -> None:
    """Until somebody wants to know."""


def _replay_some(execution: Execution, rows: Sequence[HistoryRow], begin: int) -> int:
    """Replay from row `begin` on, about a thousand events; the row to go on with."""
    until_seq = execution.next_seq + _EVENTS_A_BREATH
    index = begin
    while index < len(rows) and execution.next_seq < until_seq:
        row = rows[index]
        execution.replay(row.first_seq, row.at_us, events_of(row))
        index += 1
    return index
