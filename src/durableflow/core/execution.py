"""One instance in memory: its workflow, suspended where it waits, and what it waits for.

Rules that this file keeps:

1. Observations are taken one at a time, in the order of the history, and the code runs
   after each until it waits. So a batch gives the same as its parts, live and replayed.
2. Replay goes row by row: after the observations of a row, the code must have asked for
   exactly the decisions of that row.
3. While the instance is suspended, observations are recorded and held; resuming delivers
   them in order. Where an attempt of an activity stands is noted at once all the same.
4. Putting a suspended generator away makes Python run its `finally` blocks. By then the
   context is inert: whatever they ask of it raises `GeneratorExit`, so nothing can be
   recorded or started from there. Code that swallows this too, in a loop, gets tasks that
   lead nowhere instead, so that it comes to a wait and can be left there.

How branches are driven is said in `driver`, what a workflow may ask for in `decisions`, `others`, `requests`
and `rounds`, what observations mean in `observations`. The layers are one object, for speed: an instance is made
for every start, and its parts would each be visited by the garbage collector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import CoroutineType, GeneratorType
from typing import Any, Final, cast

import msgspec

from durableflow.core.branch import Steps
from durableflow.core.current import current_execution
from durableflow.core.decisions import NO_TURN, Program
from durableflow.core.describe import describe
from durableflow.core.locations import raising_location
from durableflow.core.observations import HANDLERS
from durableflow.core.others import result_message
from durableflow.core.record import Record
from durableflow.core.rounds import Rounds
from durableflow.core.task import Task
from durableflow.core.turn import WORKER_LOST, BeginAnew, PendingActivity, RoundOver, Turn, TurnStopped
from durableflow.errors import Cancelled, CorruptHistory, PayloadTooLarge
from durableflow.model import events as ev
from durableflow.model.converter import PAYLOAD_LIMIT_BYTES
from durableflow.model.failure import record
from durableflow.model.status import Status

__all__ = ["WORKER_LOST", "Execution", "Program", "current_execution", "replay_rows"]

_STEPS: Final = (GeneratorType, CoroutineType)
# Looked up once: until Python 3.12 a member of an enum costs as much as three calls.
_PENDING: Final = Status.PENDING
_RUNNING: Final = Status.RUNNING
_SUSPENDED: Final = Status.SUSPENDED
_COMPLETED: Final = Status.COMPLETED


class Execution(Rounds):
    """Runs one instance's code over its history, and on from there.

    Args:
        instance_id: whose.
        program: the code.
        payload_limit_bytes: no payload that the code makes may be larger.
    """

    __slots__ = (
        "_begun",
        "_held",
        "_told_again",
        "begin_noted",
        "continued",
        "ended",
        "left_over",
        "on_activity_object",
        "on_workflow_object",
        "status",
    )

    def __init__(self, instance_id: str, program: Program, *, payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES) -> None:
        # Not by `super`: see there. The layers between have nothing to make but what is made when it is needed.
        Rounds.__init__(self, instance_id, program, payload_limit_bytes)
        self.children = self.messages = self.desk = self.restored = None
        self.observed = 0
        self.status: Status = _PENDING
        self.cancel_requested = False
        self.started = None
        self.ended: ev.Event | None = None
        self.continued: ev.InstanceStarted | None = None
        """The code has ended to begin anew: with this, in a new object."""
        self.left_over: tuple[ev.Observation, ...] = ()
        """Told to this round, but for the next one."""
        self.on_activity_object: Callable[[Any], None] | None = None
        """Told of each activity object that the code calls, so that the caller can find its function."""
        self.on_workflow_object: Callable[[Any], object] | None = None
        """Told of each workflow object that the code calls."""
        self.begin_noted = False
        """Its time to begin has come; the code has begun too, unless it is suspended."""
        self._begun = False
        self._held: list[ev.Observation] | None = None
        self._told_again: int | None = None
        """How many of those held have been told in the round that began while they were being delivered, if one has."""

    # -- the two ways forward -------------------------------------------------------------------------------

    def advance(self, observed: Sequence[ev.Observation], *, now_us: int) -> Turn:
        """Take `observed` in order and run the code until it waits again.

        Args:
            now_us: the time; an earlier one than the last turn's is taken as that.

        Raises:
            ReplayError: the code cannot go on; this object must be put away, nothing is to be recorded.
        """
        if now_us > self.now_us:  # noqa: PLR1730  # a call of max() takes as long as a whole small method
            self.now_us = now_us
        token = current_execution.set(self)
        try:
            if len(observed) == 1:
                # Its decisions follow it, in one list from the start.
                event = observed[0]
                events: list[ev.Event] = [event]
                self._decisions = events
                turn = self._turn = Turn(self.next_seq, self.now_us, events)
                if not self._take(event):
                    events.clear()
                    turn.refuse(event)
            else:
                self._decisions = list[ev.Event]()
                turn = self._turn = Turn(self.next_seq, self.now_us)
                for event in observed:
                    turn.events.append(event)
                    if not self._take(event):
                        turn.events.pop()
                        turn.refuse(event)
                turn.events += self._decisions
                self._decisions = turn.events  # where `note_queued` goes on
        finally:
            current_execution.reset(token)
        self._turn = NO_TURN  # the caller's alone from here on: an instance may wait for long
        self.next_seq = turn.first_seq + len(turn.events)
        return turn

    def note_queued(self, activity: PendingActivity) -> None:
        """Record in the turn just made that `activity` was scheduled but there is no room for it yet."""
        self.set_unstarted(activity)
        self._decisions.append(ev.ActivityQueued(activity.task))
        self.next_seq += 1

    def replay(self, first_seq: int, at_us: int, row: Sequence[ev.Event]) -> None:
        """Follow one recorded turn.

        Raises:
            NondeterminismError: the code does not ask for the recorded decisions.
            CorruptHistory: the row cannot follow what came before it.
        """
        try:
            follows = first_seq == self.next_seq and at_us >= self.now_us
        except TypeError:  # a SQLite file holds whatever somebody has put there
            follows = False
        if not follows:
            raise CorruptHistory(
                f"history of instance {self.instance_id!r} has a row that begins at #{first_seq} "
                f"({at_us} µs) where #{self.next_seq} (not before {self.now_us} µs) must follow"
            )
        if self.inert and self.ended is None:
            raise CorruptHistory(
                f"history of instance {self.instance_id!r} goes on at #{first_seq} in a round that is over"
            )
        self.now_us = at_us
        self.replaying = True
        if self._record is None:
            self._record = Record()
        self._record.follow(first_seq, row)
        self.next_seq = first_seq + len(row)
        token = current_execution.set(self)
        try:
            seq = first_seq
            for event in row:
                if type(event) not in ev.DECISIONS:
                    self._retake(seq, event)
                seq += 1
            left = self._record.take()
            if left is not None:
                self._mismatch("no more in this turn", left, self._waiting_location())
        finally:
            current_execution.reset(token)
            self.replaying = False

    def _retake(self, seq: int, event: ev.Event) -> None:
        if self.inert and self.ended is None:
            return  # the rest of the last row of a round: the next one tells it again
        if type(event) is ev.ActivityQueued:
            activity = self.activities.get(event.task)
            if activity is None:
                raise CorruptHistory(f"history #{seq} of instance {self.instance_id!r} queues an unknown activity")
            self.set_unstarted(activity)
        elif not self._take(cast("ev.Observation", event)):
            raise CorruptHistory(
                f"history #{seq} of instance {self.instance_id!r} records {describe(event)}, "
                "which cannot follow what came before it"
            )

    def _take(self, event: ev.Observation) -> bool:
        """Note one observation, deliver it unless suspended, run the code. False: it changes nothing."""
        if self.ended is not None or (self.started is None and type(event) is not ev.InstanceStarted):
            return False
        note, deliver = HANDLERS[type(event)]
        self.observed += 1  # before a round may begin in it, to which it does not belong
        if not note(self, event):
            self.observed -= 1
            return False
        if deliver is not None:
            if self.status is _SUSPENDED:
                if self._held is None:
                    self._held = []
                self._held.append(event)
            else:
                deliver(self, event)
                self._run()
        return True

    # -- what the caller needs to know ----------------------------------------------------------------------

    def wake_us(self) -> int | None:
        """When it must be looked at: 0 while attempts run, else the earliest due time; None: only when told."""
        if self.ended is not None:
            return None
        if self.runs_attempts:
            return 0
        return self.next_due_us(-1)

    @property
    def runs_attempts(self) -> bool:
        """Whether the history allows attempts to run in the worker that owns the instance."""
        waiting = len(self.unstarted)
        if self.elsewhere:
            waiting += len(self.elsewhere)
        return len(self.activities) > waiting

    @property
    def may_be_due(self) -> bool:
        """False when `next_due_us` has nothing to say; cheap, for the hot path."""
        started = self.started
        return bool(
            self.timers is not None
            or self.unstarted
            or (started is not None and (started.deadline_us or not self.begin_noted))
        )

    def next_due_us(self, after_us: int) -> int | None:
        """When the next timer, wait, start or deadline is due, or a retry after `after_us`."""
        moments = [a.retry_at_us for a in self.unstarted.values() if a.retry_at_us > after_us]
        if self.timers is not None and (due_us := self.timers.next_due_us()) is not None:
            moments.append(due_us)
        if self.started is not None:
            if not (self.begin_noted or self.started.queue):
                moments.append(self.started.start_at_us)
            if self.started.deadline_us:
                moments.append(self.started.deadline_us)
        return min(moments, default=None)

    def due_observations(self, now_us: int) -> list[ev.Observation]:
        """What the clock has to say at `now_us`: begin, timers in order of their due times, deadline.

        Each timer is told once: the caller advances with what it gets here.
        """
        found: list[ev.Observation] = []
        if self.ended is not None or self.started is None:
            return found
        if not (self.begin_noted or self.started.queue) and self.started.start_at_us <= now_us:
            found.append(ev.InstanceBegan())
        if self.timers is not None:
            found += [ev.TimerFired(number) for number in self.timers.pop_due(now_us)]
        if 0 < self.started.deadline_us <= now_us:
            found.append(ev.InstanceTimedOut())
        return found

    def postpone(self, start_at_us: int) -> None:
        """Have the clock not say before this moment that it is to begin; forgotten when it is put away."""
        assert self.started is not None
        self.started = msgspec.structs.replace(self.started, start_at_us=start_at_us)

    def due_retries(self, now_us: int) -> list[PendingActivity]:
        """Activities whose next attempt may start at `now_us`."""
        return [activity for activity in self.unstarted.values() if activity.retry_at_us <= now_us]

    def put_away(self) -> None:
        """Forget the code's position. Its `finally` blocks run now, with an inert context (rule 4)."""
        self.inert = True
        if self._main is None and not self._branches:
            self._ready = None
            return
        token = current_execution.set(self)
        try:
            self._close_branches()
        finally:
            current_execution.reset(token)
        for task in self.tasks.values():
            task.take_waiters()  # tasks know those that they are parts of, which know them: a cycle
        self.tasks.clear()

    # -- what observations do -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Call the user's function, once."""
        assert self.started is not None
        if self._begun:
            return
        self._begun = self._running_user_code = True
        self.status = _RUNNING
        try:
            result = self.program.begin(self, self.started.input)
        except BaseException as error:
            self._running_user_code = False
            self._end_with_error(error, skip_frames=2)
            return
        self._running_user_code = False
        self._check_trouble()
        if isinstance(result, _STEPS) or (hasattr(result, "send") and hasattr(result, "throw")):
            self._drive_main(cast("Steps[Any]", result))
        else:
            self._main_returned(result)

    def start_attempt(self, activity: PendingActivity) -> None:
        """The history allows the current attempt of `activity` to run."""
        activity.started = True
        activity.retry_at_us = 0
        del self.unstarted[activity.task]
        if not self.replaying:
            self._turn.start(activity)

    def note_exhausted(self, activity: PendingActivity, failed: ev.ActivityFailed) -> None:
        """`activity` has failed for good."""
        if not self.replaying:
            self._turn.exhaust(activity, failed)

    def cancel(self, reason: str) -> None:
        """Raise `Cancelled` where the workflow waits; one that has not begun ends."""
        if not self._begun:
            self._end(Status.CANCELLED, ev.InstanceCancelled(reason))
        elif self._main is not None:
            self._main.interrupt(Cancelled(reason))

    def resume(self) -> None:
        """Deliver what was held while it was suspended."""
        self.status = _RUNNING if self._begun else _PENDING
        while self._held and self.ended is None:
            event = self._held.pop(0)
            note, deliver = HANDLERS[type(event)]
            assert deliver is not None
            if self._told_again is not None:  # in a round that has begun meanwhile
                self._told_again += 1
                self._turn.events.insert(self._told_again, event)
                note(self, event)
                self.observed += 1
            deliver(self, event)
            self._run()
        self._told_again = None
        if self.ended is None:
            self._held = None

    def stand_back(self, task: Task[Any]) -> None:
        """See `Driver.stand_back`; in histories of format 1 an interrupted wait kept its place in line."""
        assert self.started is not None
        if self.started.format > 1:
            super().stand_back(task)

    # -- the end --------------------------------------------------------------------------------------------

    def _main_returned(self, value: object) -> None:
        try:
            output = self.program.dump_result(value)
            if len(output) > self.payload_limit_bytes:
                what = f"the result of workflow {self.program.name!r}"
                raise PayloadTooLarge(what, len(output), self.payload_limit_bytes)
        except BaseException as error:
            self._end_with_error(error)
        else:
            self._end(_COMPLETED, ev.InstanceCompleted(output))

    def _main_raised(self, error: BaseException) -> None:
        if isinstance(error, BeginAnew):
            self._begin_anew(error)
        elif isinstance(error, RoundOver) and self.inert:
            self.put_away()
        else:
            self._end_with_error(error)

    def _begin_anew(self, asked: BeginAnew) -> None:
        """The code has ended to begin with other input; nothing is kept of what it waited for."""
        self._keep_held()
        decision = ev.ContinuedAsNew(asked.input, asked.version)
        self._decide(decision)
        self.continued = self.next_round(state=None, data=asked.input, version=asked.version)
        self._answer_open_requests()
        self._close(decision)

    def _keep_held(self) -> None:
        """What came while it was suspended, and was not delivered yet, is for the next round."""
        for event in self._held or ():
            if self._told_again is not None:
                HANDLERS[type(event)][0](self, event)
            match event:
                case ev.EventReceived(name=name, payload=payload):
                    self.mailbox_made().keep(name.casefold(), payload)
                case ev.RequestReceived(request_id=request_id, name=name, arguments=arguments):
                    self.keep_request(ev.KeptRequest(request_id, name, arguments))
                case ev.CancelRequested():
                    self.left_over = (event,)
                case _:
                    pass

    def tell_held_again(self) -> None:
        """See `Rounds.tell_held_again`. All but these answers something that is not open any more."""
        again: list[ev.Observation] = []
        for event in self._held or ():
            match event:
                case ev.EventReceived(event_id=event_id):
                    if event_id is not None:
                        self.mailbox_made().forget(event_id)
                case ev.RequestReceived(request_id=request_id):
                    self.forget_request(request_id)
                case ev.CancelRequested():
                    self.cancel_requested = False
                case _:
                    continue
            again.append(event)
        if self._held is not None:
            self._held, self._told_again = again, 0

    def leave_replay(self) -> None:
        """See `Rounds.leave_replay`."""
        self.inert = True
        raise RoundOver

    def _end_with_error(self, error: BaseException, *, skip_frames: int = 1) -> None:
        self._check_trouble()
        if isinstance(error, (KeyboardInterrupt, TurnStopped)):
            raise error
        self._ending_at = raising_location(error)
        if isinstance(error, Cancelled) and self.cancel_requested:
            self._end(Status.CANCELLED, ev.InstanceCancelled(error.reason))
        else:
            self._end(Status.FAILED, ev.InstanceFailed(record(error, skip_frames=skip_frames)))

    def _end(self, status: Status, decision: ev.Decision) -> None:
        self._decide(decision)
        self.end(status, decision)

    def end(self, status: Status, event: ev.Event) -> None:
        """It is over, by `event`; nothing is kept of what it waited for."""
        self.status = status
        if not self.replaying:
            started = self.started
            result = None if started is None or started.origin is None else result_message(started.origin, event)
            if result is not None:
                self._turn.send(result)
        self._close(event)

    def _close(self, event: ev.Event) -> None:
        self.ended = event
        if not self.replaying:
            if self.activities:
                self._turn.cancel(self.activities)
            if self.children:
                how = "began anew" if self.continued is not None else f"is {self.status}"
                self._part_with_children(f"its parent {how}")
            if self._branch_failures is not None:
                self._turn.unseen_failures = self._unseen_failures()
        self.activities.clear()
        self.unstarted.clear()
        if self.elsewhere:
            self.elsewhere.clear()
        self.tasks.clear()
        self.children = self.timers = self._held = self._stood_back = self._branch_failures = None
        self.put_away()


def replay_rows(execution: Execution, rows: Iterable[tuple[int, int, Sequence[ev.Event]]]) -> None:
    """Follow recorded turns `(first_seq, at_us, events)` one after the other; raises as `replay` does."""
    for first_seq, at_us, row in rows:
        execution.replay(first_seq, at_us, row)
