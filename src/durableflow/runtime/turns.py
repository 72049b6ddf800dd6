"""Taking turns: what instances were told goes in, one commit for all of them comes out."""

from __future__ import annotations

from durableflow.authoring.registry import AnyActivity, Registry
from durableflow.backends.base import Commit, Heartbeat, HistoryRow, InstanceChange, NewInstance
from durableflow.backends.tasks import ALL_TASKS
from durableflow.core.turn import PendingActivity, Turn
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.runtime.agenda import Agenda
from durableflow.runtime.attempts import Attempts
from durableflow.runtime.guard import TurnGuard
from durableflow.runtime.instances import Instances
from durableflow.runtime.live import Live, Told
from durableflow.runtime.means import Means
from durableflow.runtime.messages import is_answer
from durableflow.runtime.stalls import history_too_long, reason_of
from durableflow.runtime.tasks import new_task


class TakenTurn:
    """One turn in a commit, with what is to be done when it is durable.

    Attributes:
        told: what the instance was told in this turn.
        starts: attempts that begin; their places are reserved.
        missing: name of an activity that is not registered here.
    """

    __slots__ = ("live", "missing", "starts", "told", "turn")

    def __init__(self, live: Live, turn: Turn, told: list[Told]) -> None:
        self.live = live
        self.turn = turn
        self.told = told
        self.starts: list[tuple[PendingActivity, AnyActivity]] = []
        self.missing: str | None = None


class Batch:
    """What is gathered for one commit; `stalls` says which instances could not take their turn, and why."""

    __slots__ = ("commit", "stalls", "taken")

    def __init__(self) -> None:
        self.commit = Commit(new=[], rows=[], changes=[], consumed=[], heartbeats=[], tasks=[], tasks_dropped=[])
        self.taken: list[TakenTurn] = []
        self.stalls: list[tuple[Live, str]] = []

    def __bool__(self) -> bool:
        return bool(self.taken or self.stalls or not self.is_empty)

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to be written."""
        commit = self.commit
        return not (commit.rows or commit.changes or commit.new or commit.consumed or commit.heartbeats)


class Turns:
    """Lets instances take their turns."""

    def __init__(
        self,
        means: Means,
        registry: Registry,
        agenda: Agenda,
        instances: Instances,
        attempts: Attempts,
        guard: TurnGuard,
    ) -> None:
        self._means = means
        self._registry = registry
        self._agenda = agenda
        self._instances = instances
        self._attempts = attempts
        self._guard = guard

    def gather(self, batch: Batch, most: int) -> None:
        """Add the turns of `most` instances that have news, and all else that waits to be written."""
        agenda = self._agenda
        if agenda.dirty:
            chosen, agenda.dirty = agenda.dirty[:most], agenda.dirty[most:]
            now_us = self._means.clock.now_us()
            for live in chosen:
                if not live.gone:
                    self._take_turn(live, batch, now_us)
        beats, leftovers = agenda.take_beats(), agenda.take_leftovers()
        if beats:
            batch.commit.heartbeats += [beat for beat in beats if self._is_current(beat)]
        if leftovers:
            batch.commit.consumed += leftovers

    def _is_current(self, beat: Heartbeat) -> bool:
        live = self._instances.live.get(beat.instance_id)
        return live is not None and beat.task in live.execution.activities

    def _take_turn(self, live: Live, batch: Batch, now_us: int) -> None:
        assert not live.in_commit, f"{live.id} would take a turn before its last one is durable"
        live.queued = False
        live.in_commit = True
        if live.unreadable is not None:
            batch.stalls.append((live, live.unreadable))
            return
        told, live.pending = live.pending, []
        execution = live.execution
        try:
            turn = self._guard.run(live.id, execution.advance, [item[0] for item in told], now_us=now_us)
        except Exception as error:
            live.pending = told + live.pending
            batch.stalls.append((live, reason_of(error)))
            return
        taken = TakenTurn(live, turn, told)
        batch.taken.append(taken)
        if turn.events:
            self._write_turn(taken, batch.commit)
        elif live.status is Status.STALLED:
            self._write_change(live, turn, batch.commit)
        for _, _, number in told:
            if number:
                batch.commit.consumed.append(number)
        limit = self._means.settings.history_hard_limit
        if execution.next_seq - 1 > limit and execution.ended is None:
            batch.stalls.append((live, reason_of(history_too_long(execution.next_seq - 1, limit))))

    def _write_turn(self, taken: TakenTurn, commit: Commit) -> None:
        live, turn = taken.live, taken.turn
        execution = live.execution
        for activity in turn.scheduled:
            if activity.task not in execution.activities:
                continue
            if activity.options is not None and activity.options.queue:
                commit.tasks.append(new_task(live.id, activity, activity.options))
                continue
            definition = self._registry.activities.get(activity.name)
            if definition is None:
                taken.missing = activity.name
                execution.note_queued(activity)
            elif self._attempts.reserve(live, activity, definition):
                taken.starts.append((activity, definition))
            else:
                execution.note_queued(activity)
        for activity in turn.started:
            if activity.task in execution.activities:
                taken.starts.append((activity, self._registry.activities[activity.name]))
        if execution.elsewhere is not None or self._means.offered:
            self._drop_tasks(taken, commit)
        row = HistoryRow(live.id, turn.first_seq, turn.at_us, ev.dump_events(turn.events))
        commit.rows.append(row)
        if live.log is not None:
            live.log.append(row)
        self._write_change(live, turn, commit)

    def _drop_tasks(self, taken: TakenTurn, commit: Commit) -> None:
        """Have the store forget what is no longer wanted of queues and tokens."""
        live, turn, offered = taken.live, taken.turn, self._means.offered
        if live.execution.ended is not None:
            if live.execution.elsewhere is not None or any((live.id, each) in offered for each in turn.cancelled):
                commit.tasks_dropped.append((live.id, ALL_TASKS))
            return
        if live.execution.elsewhere is not None:
            commit.tasks_dropped += [(live.id, each) for each in turn.cancelled]
        if offered:
            over = {event.task for event, _, _ in taken.told if is_answer(event)}.union(turn.cancelled)
            commit.tasks_dropped += [(live.id, each) for each in over if (live.id, each) in offered]

    def _write_change(self, live: Live, turn: Turn, commit: Commit) -> None:
        execution = live.execution
        status, custom_status = execution.status, execution.custom_status
        wake_us = execution.wake_us()
        finished_us = None if execution.ended is None else turn.at_us
        new = live.new
        if new is not None:
            commit.new.append(
                NewInstance(
                    new.id,
                    new.workflow,
                    new.version,
                    status,
                    new.created_us,
                    wake_us,
                    new.tags,
                    custom_status,
                    finished_us,
                    new.replace,
                )
            )
        elif status is not live.status or wake_us != live.wake_us or custom_status != live.custom_status:
            commit.changes.append(InstanceChange(live.id, status, wake_us, finished_us, custom_status))
        else:
            return
        live.wake_us, live.custom_status = wake_us, custom_status
