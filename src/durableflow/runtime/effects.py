"""What follows once a turn is durable: acknowledgements, attempts, alarms, ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from durableflow.authoring.registry import Registry
from durableflow.errors import InstanceNotActive
from durableflow.model import events as ev
from durableflow.model.failure import record
from durableflow.observe import facts
from durableflow.runtime.agenda import Agenda
from durableflow.runtime.answers import Answers
from durableflow.runtime.attempts import Attempts
from durableflow.runtime.ends import End, Ends
from durableflow.runtime.instances import Instances
from durableflow.runtime.live import Live, Told, answer
from durableflow.runtime.means import Means
from durableflow.runtime.messages import is_answer
from durableflow.runtime.replay_check import ReplayCheck
from durableflow.runtime.stalls import Stalls, not_registered, reason_of
from durableflow.runtime.turns import TakenTurn


class Effects:
    """Makes so what a durable turn asked for."""

    def __init__(
        self,
        means: Means,
        registry: Registry,
        agenda: Agenda,
        instances: Instances,
        attempts: Attempts,
        ends: Ends,
        stalls: Stalls,
        check: ReplayCheck,
        answers: Answers,
    ) -> None:
        self._means = means
        self._registry = registry
        self._agenda = agenda
        self._instances = instances
        self._attempts = attempts
        self._ends = ends
        self._stalls = stalls
        self._check = check
        self._answers = answers
        self.gate: Callable[[Live, list[ev.Observation]], list[ev.Observation]] = lambda _, due: due
        """Gives what is due without what has to wait for the store; see `windows`."""

    def apply(self, taken: TakenTurn) -> None:
        """The turn of `taken` is durable."""
        live, turn = taken.live, taken.turn
        execution = live.execution
        self.acknowledge(taken)
        if live.new is not None:
            self._instances.began(live)
        if live.status is not execution.status:
            live.status = execution.status
            self._ends.tell_status(live.id)
        for number in turn.cancelled:
            self._cancel(live, number)
            self._means.tell(facts.ActivityDropped(live.id, number))
        for event in turn.answered:
            self._answers.tell(live.id, event)
        if live.log is not None and turn.events:
            error = self._check.difference(live)
            if error is not None:
                self._ends.tell_replay_error(live.id, error)
                reason = f"replay check: {error}"
                if execution.ended is None:
                    self.give_back(taken)
                    self._stalls.stall(live, reason)
                    return
                self._means.tell(facts.InstanceStalled(live.id, reason))
        if execution.ended is not None:
            for branch, raised in turn.unseen_failures:
                failure = record(raised)
                self._means.tell(facts.BranchFailed(live.id, branch, failure.type_name, failure.message))
            self._finish(live, execution.ended)
            return
        self._begin(taken)
        if taken.missing is not None:
            self._stalls.stall(live, reason_of(not_registered("activity", taken.missing)))
            return
        self.arm(live)
        soft_limit = self._means.settings.history_soft_limit
        events = execution.next_seq - live.base_seq
        if soft_limit <= events < soft_limit + len(turn.events):
            self._means.tell(facts.HistoryLong(live.id, events))

    def give_back(self, taken: TakenTurn) -> None:
        """The attempts of `taken` do not begin: their places are free again."""
        for activity, definition in taken.starts:
            if activity.task not in taken.live.requests:  # else the request has the place, and is withdrawn
                self._attempts.release(taken.live, activity, definition)

    def acknowledge(self, taken: TakenTurn) -> None:
        """Tell whoever waits for the turn that it is durable, or that what they said came too late."""
        live, refused = taken.live, taken.turn.refused
        execution = live.execution
        for event, ack, _ in taken.told:
            if ack is not None and not ack.done():
                if refused and execution.ended is not None and any(event is other for other in refused):
                    ack.set_exception(InstanceNotActive(live.id, execution.status, ev.tag_of(event).replace("_", " ")))
                else:
                    ack.set_result(None)

    def _cancel(self, live: Live, number: int) -> None:
        attempt = live.attempts.get(number)
        if attempt is not None:
            is_over = live.execution.ended is not None
            reason = (
                f"the instance is {live.execution.status}" if is_over else "the workflow no longer wants the result"
            )
            self._attempts.cancel(attempt, reason)
        if number in live.requests:
            self._attempts.withdraw(live, number)

    def _begin(self, taken: TakenTurn) -> None:
        """Begin the attempts that the turn allows, and end those that it leaves no place to."""
        live = taken.live
        if live.attempts and self._means.offered:
            self._stop_answered(live, taken.told)
        for activity, definition in taken.starts:
            self._attempts.begin(live, activity, definition)
        if live.requests:
            self._withdraw_late(live, taken.told)

    def _stop_answered(self, live: Live, told: Sequence[Told]) -> None:
        """Attempts that a token has finished, while their code still runs here."""
        for event, _, number in told:
            if number and is_answer(event) and (live.id, event.task) in self._means.offered:
                attempt = live.attempts.get(event.task)
                if attempt is not None and attempt.number == event.attempt:
                    self._attempts.cancel(attempt, "its token was used")

    def _withdraw_late(self, live: Live, told: Sequence[Told]) -> None:
        """Starts that came too late for their activity: their places are free again."""
        for event, _, _ in told:
            if type(event) is ev.ActivityStarted and event.task in live.requests:
                self._attempts.withdraw(live, event.task)

    def _finish(self, live: Live, event: ev.Event) -> None:
        status = live.execution.status
        for attempt in list(live.attempts.values()):
            self._attempts.cancel(attempt, f"the instance is {status}")
        self._instances.withdraw_all(live)
        live.gone = True
        if live.pending:
            answer(live.pending, InstanceNotActive(live.id, status, "anything more"))
            self._agenda.drop_messages(number for _, _, number in live.pending)
        self._instances.live.pop(live.id, None)
        self._means.tell(facts.InstanceEnded(live.id, live.execution.program.name, status))
        self._answers.tell_end(live.id, status)
        self._ends.tell_end(live.id, End(status, event))

    # -- the clock ------------------------------------------------------------------------------------------

    def arm(self, live: Live) -> None:
        """Ask for a place for each activity whose next attempt is due, and have it woken for what is due next.

        By one reading of the clock: what came due between two would be asked for by neither.
        """
        if live.execution.may_be_due:
            self._arm(live, self._means.clock.now_us())

    def _arm(self, live: Live, now_us: int) -> None:
        if live.execution.unstarted:
            self._request_due(live, now_us)
        due_us = live.execution.next_due_us(now_us)
        if due_us is not None and (live.alarm_us is None or due_us < live.alarm_us):
            if live.alarm is not None:
                live.alarm.cancel()
            live.alarm_us = due_us
            live.alarm = self._means.alarms.at(due_us, partial(self._ring, live))

    def _request_due(self, live: Live, now_us: int) -> None:
        for activity in live.execution.due_retries(now_us):
            if activity.task not in live.requests:
                self._attempts.request(live, activity, self._registry.activities[activity.name])

    def _ring(self, live: Live) -> None:
        if live.gone or live.execution.ended is not None:  # its last commit is under way
            return
        live.alarm_us = None
        now_us = self._means.clock.now_us()
        observed = self.gate(live, live.execution.due_observations(now_us))
        for event in observed:
            live.tell(event)
        if observed:  # what is due next is for the turn that takes them
            self._request_due(live, now_us)
        else:
            self._arm(live, now_us)
