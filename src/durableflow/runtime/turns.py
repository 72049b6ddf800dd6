"""Taking turns: what instances were told goes in, one commit for all of them comes out."""

from __future__ import annotations

from typing import Final

from durableflow.authoring.registry import AnyActivity, Registry
from durableflow.backends.base import Commit, Heartbeat, HistoryRow, InstanceChange, NewInstance
from durableflow.backends.tasks import ALL_TASKS
from durableflow.core.execution import Execution
from durableflow.core.turn import PendingActivity, Turn
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.runtime.agenda import Agenda
from durableflow.runtime.attempts import Attempts
from durableflow.runtime.guard import TurnGuard
from durableflow.runtime.instances import Instances
from durableflow.runtime.letters import letter_of_activity, letter_of_end
from durableflow.runtime.live import Live, Told
from durableflow.runtime.means import Means
from durableflow.runtime.messages import is_answer, sent_by
from durableflow.runtime.stalls import history_too_long, reason_of
from durableflow.runtime.tasks import new_task

# Looked up once: until Python 3.12 a member of an enum costs as much as three calls.
_FAILED: Final = Status.FAILED
_STALLED: Final = Status.STALLED


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
    """What is gathered for one commit.

    Attributes:
        stalls: which instances could not take their turn, and why.
        leftovers: messages that the commit removes though no turn has taken them.
    """

    __slots__ = ("commit", "leftovers", "stalls", "taken")

    def __init__(self) -> None:
        self.commit = Commit(new=[], rows=[], changes=[], consumed=[], heartbeats=[], tasks=[], tasks_dropped=[])
        self.taken: list[TakenTurn] = []
        self.stalls: list[tuple[Live, str]] = []
        self.leftovers: list[int] = []

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
            batch.leftovers += leftovers

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
        if turn.closed and (reason := self._checkpoint_error(live, turn)) is not None:
            live.pending = told + live.pending
            batch.stalls.append((live, reason))
            return
        batch.taken.append(taken)
        if execution.continued is not None:
            if not self._begin_rounds(taken, batch):
                return
        elif turn.events:
            self._write_turn(taken, batch.commit)
        elif live.status is _STALLED:
            self._write_change(live, turn, batch.commit)
        for _, _, number in taken.told:
            if number:
                batch.commit.consumed.append(number)
        limit = self._means.settings.history_hard_limit
        execution = live.execution
        events = execution.next_seq - live.base_seq
        if events > limit and execution.ended is None:
            batch.stalls.append((live, reason_of(history_too_long(events, limit))))

    def _begin_rounds(self, taken: TakenTurn, batch: Batch) -> bool:
        """The code has ended to begin anew: what it decided, and the first turn of the round that follows, as one.

        What the round that is over refused is for the next one, in another turn. False: the next round cannot begin,
        and nothing of this turn is written.
        """
        live, commit = taken.live, batch.commit
        before = [*taken.told, *live.pending]
        carried: list[ev.Observation] = []
        while (started := live.execution.continued) is not None:
            old, over = live.execution, taken.turn
            refused = {id(event) for event in over.refused}
            late = [item for item in taken.told if id(item[0]) in refused]
            live.pending = [*late, *live.pending]
            # In the same commit: the inbox does not have it any more.
            carried = [*old.left_over, *(event for event in carried if id(event) in refused)]
            taken.told = [item for item in taken.told if id(item[0]) not in refused]
            self._write_rows(live, over, commit)
            live.execution = following = self._following(old, started)
            following.next_seq = over.first_seq + len(over.events)
            live.begin_round(following.next_seq)
            try:
                turn = self._guard.run(live.id, following.advance, [started, *carried], now_us=over.at_us)
            except Exception as error:
                live.pending = before
                batch.taken.remove(taken)
                commit.rows = [row for row in commit.rows if row.instance_id != live.id]
                commit.sends = [message for message in commit.sends if message.sender != live.id]
                commit.dead_letters = [letter for letter in commit.dead_letters if letter.instance_id != live.id]
                batch.stalls.append((live, reason_of(error)))
                return False
            turn.cancel(over.cancelled)
            for answer in over.answered:
                turn.answer(answer)
            taken.turn = turn
        if live.pending:
            live.queued = True  # it is called up when this turn is durable
        self._write_turn(taken, commit)
        return True

    def _following(self, old: Execution, started: ev.InstanceStarted) -> Execution:
        """The next round of an instance, which knows nothing yet."""
        program = self._registry.workflows.get((started.workflow, started.version), old.program)
        following = Execution(old.instance_id, program, payload_limit_bytes=old.payload_limit_bytes)
        following.on_activity_object = old.on_activity_object
        following.on_workflow_object = old.on_workflow_object
        following.elsewhere = None if old.elsewhere is None else {}
        return following

    def _checkpoint_error(self, live: Live, turn: Turn) -> str | None:
        """Why a replay from the last checkpoint of this turn would not go the same way; None when it would."""
        twin = Execution(live.id, live.execution.program, payload_limit_bytes=live.execution.payload_limit_bytes)
        twin.next_seq = turn.first_seq
        try:
            self._guard.run(live.id, twin.replay, turn.first_seq, turn.at_us, turn.events)
        except Exception as error:
            return (
                "beginning again at its checkpoint would not go the same way; let the workflow begin with "
                f"ctx.restore(...) and go on there where the checkpoint left it: {reason_of(error)}"
            )
        finally:
            twin.put_away()
        return None

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
        self._write_rows(live, turn, commit)
        self._write_change(live, turn, commit)

    def _write_rows(self, live: Live, turn: Turn, commit: Commit) -> None:
        for first_seq, events in turn.closed:
            closed = HistoryRow(live.id, first_seq, turn.at_us, ev.dump_events(events))
            commit.rows.append(closed)
            if live.log is not None:
                live.log.append(closed)
            live.begin_round(first_seq + len(events))
        row = HistoryRow(live.id, turn.first_seq, turn.at_us, ev.dump_events(turn.events))
        commit.rows.append(row)
        if live.log is not None:
            live.log.append(row)
        for activity, failed in turn.exhausted:
            commit.dead_letters.append(letter_of_activity(live.id, activity, failed, turn.at_us))
        for send in turn.sends:
            commit.sends.append(sent_by(live.id, send, turn.at_us))
        if turn.answered:
            commit.has_answers = True

    def _drop_tasks(self, taken: TakenTurn, commit: Commit) -> None:
        """Have the store forget what is no longer wanted of queues and tokens."""
        live, turn, offered = taken.live, taken.turn, self._means.offered
        if live.execution.ended is not None:
            known = [(live.id, each) for each in turn.cancelled if (live.id, each) in offered]
            if live.execution.elsewhere is not None or known:
                commit.tasks_dropped += [(live.id, ALL_TASKS), *known]
            return
        if live.execution.elsewhere is not None:
            commit.tasks_dropped += [(live.id, each) for each in turn.cancelled]
        if offered:
            refused = {id(event) for event in turn.refused}  # of an attempt before: this one's token is good
            told = (event for event, _, _ in taken.told if id(event) not in refused)
            over = {event.task for event in told if is_answer(event)}.union(turn.cancelled)
            commit.tasks_dropped += [(live.id, each) for each in over if (live.id, each) in offered]

    def _write_change(self, live: Live, turn: Turn, commit: Commit) -> None:
        execution = live.execution
        status, custom_status = execution.status, execution.custom_status
        wake_us = execution.wake_us()
        finished_us = None if execution.ended is None else turn.at_us
        base_seq, live.round_begun = live.round_begun, None
        version = None if base_seq is None or execution.started is None else execution.started.version
        if status is _FAILED and execution.ended is not None:
            commit.dead_letters.append(letter_of_end(live.id, execution.program.name, execution.ended, turn.at_us))
        elif live.status is _STALLED:
            commit.redeemed.append(live.id)
        new = live.new
        if new is not None:
            commit.new.append(
                NewInstance(
                    new.id,
                    new.workflow,
                    new.version if version is None else version,
                    status,
                    new.created_us,
                    wake_us,
                    new.tags,
                    custom_status,
                    finished_us,
                    new.replace,
                    new.parent,
                    live.base_seq,
                )
            )
        elif (
            status is not live.status
            or wake_us != live.wake_us
            or custom_status != live.custom_status
            or base_seq is not None
        ):
            commit.changes.append(
                InstanceChange(live.id, status, wake_us, finished_us, custom_status, None, base_seq, version)
            )
        else:
            return
        live.wake_us, live.custom_status = wake_us, custom_status
