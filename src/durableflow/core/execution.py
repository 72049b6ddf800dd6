"""One instance in memory: its workflow, suspended where it waits, and what it waits for.

Rules that this file keeps:

1. User code is driven by a loop, never by recursion: neither a long chain of finished
   tasks nor a wide fan-out deepens the stack.
2. Observations are taken one at a time, in the order of the history, and the code runs
   after each until it waits. So a batch gives the same as its parts, live and replayed.
3. Replay goes row by row: after the observations of a row, the code must have asked for
   exactly the decisions of that row.
4. While the instance is suspended, observations are recorded and held; resuming delivers
   them in order. Where an attempt of an activity stands is noted at once all the same.
5. Putting a suspended generator away makes Python run its `finally` blocks. By then the
   context is inert: whatever they ask of it raises `GeneratorExit`, so nothing can be
   recorded or started from there. Code that swallows this too, in a loop, gets tasks that
   lead nowhere instead, so that it comes to a wait and can be left there.
"""

from __future__ import annotations

import inspect
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from contextvars import ContextVar
from functools import partial
from types import FrameType, TracebackType
from typing import Any, ClassVar, Final, Protocol, TypeVar, cast

from durableflow.core.describe import describe
from durableflow.core.mailbox import Mailbox
from durableflow.core.task import ErrorFactory, Task, WhenAll, WhenAny
from durableflow.core.timers import Timers
from durableflow.core.turn import PendingActivity, Turn, TurnStopped
from durableflow.errors import (
    Cancelled,
    CorruptHistory,
    EventTimeout,
    ForeignAwaitError,
    NondeterminismError,
    PayloadTooLarge,
    UsageError,
)
from durableflow.model import events as ev
from durableflow.model.converter import NULL, PAYLOAD_LIMIT_BYTES, Loader, digest
from durableflow.model.failure import activity_failed, record, side_effect_failed
from durableflow.model.status import Status

T = TypeVar("T")

Steps = Generator[Any, Any, T] | Coroutine[Any, Any, T]
"""What a workflow or a branch runs as: `send` and `throw` exist on both."""

WORKER_LOST: Final = "WorkerLost"
"""Type name of the failure of an attempt whose worker died."""

_OURS: Final = ("durableflow.core.", "durableflow.authoring.")
"""Where the frames between a user's line and the core are."""
_STUBBORN: Final = 100
"""So often is `GeneratorExit` raised in code that is put away and swallows it."""

current_execution: Final[ContextVar[Execution | None]] = ContextVar("durableflow_execution", default=None)
"""The instance whose code is running here now, if any."""


class Program(Protocol):
    """A workflow as the core needs it."""

    @property
    def name(self) -> str:
        """Its registered name."""
        ...

    def begin(self, execution: Execution, data: bytes) -> object:
        """Call the user's function with its arguments decoded from `data`."""
        ...

    def dump_result(self, value: object) -> bytes:
        """What it returned, as payload bytes."""
        ...


_NOTHING_RECORDED: Final[deque[tuple[int, ev.Event]]] = deque()
_NO_DECISIONS: Final[list[ev.Decision]] = []
_NO_TURN: Final = Turn(1, 0)


class _Halt(BaseException):
    """Unwinds user code after the replay has gone wrong; never seen outside."""


class _Branch:
    """A generator or coroutine that is being driven."""

    __slots__ = ("cancelled", "error", "execution", "steps", "task", "waiting", "woken")

    def __init__(self, execution: Execution, steps: Steps[Any], task: Task[Any] | None) -> None:
        self.execution = execution
        self.steps = steps
        self.task = task
        self.waiting: Task[Any] | None = None
        self.error: BaseException | None = None
        self.woken = False
        """Among those that go on in this turn, though it still knows what it waited for."""
        self.cancelled = False
        """By the workflow, with `Task.cancel`."""

    def wake(self, settled: Task[Any]) -> None:
        """It may go on."""
        if self.waiting is settled:
            self.execution.make_ready(self)

    def interrupt(self, error: BaseException) -> None:
        """Raise `error` at its current wait, or at its next one when it is not waiting."""
        self.error = error
        if self.waiting is not None and not self.woken:
            self.waiting.waiters.remove(self)
            self.execution.make_ready(self)


class Execution:
    """Runs one instance's code over its history, and on from there.

    Args:
        instance_id: whose.
        program: the code.
        payload_limit_bytes: no payload that the code makes may be larger.
    """

    __slots__ = (
        "_begin_noted",
        "_begun",
        "_branches",
        "_decisions",
        "_ending_at",
        "_held",
        "_inert_calls",
        "_last_number",
        "_mailbox",
        "_main",
        "_payload_limit_bytes",
        "_random",
        "_recorded",
        "_running_user_code",
        "_tasks",
        "_timers",
        "_trouble",
        "_turn",
        "_uuid_random",
        "activities",
        "cancel_requested",
        "custom_status",
        "ended",
        "inert",
        "instance_id",
        "next_seq",
        "now_us",
        "on_activity_object",
        "program",
        "ready",
        "replaying",
        "started",
        "status",
        "unstarted",
    )

    def __init__(self, instance_id: str, program: Program, *, payload_limit_bytes: int = PAYLOAD_LIMIT_BYTES) -> None:
        self.instance_id = instance_id
        self.program = program
        self._payload_limit_bytes = payload_limit_bytes
        self.status = Status.PENDING
        self.now_us = 0
        """Workflow time: that of the observation being delivered. Never runs backwards."""
        self.next_seq = 1
        self.replaying = False
        self.inert = False
        self.cancel_requested = False
        self.custom_status: bytes | None = None
        self.started: ev.InstanceStarted | None = None
        self.ended: ev.Event | None = None
        self.on_activity_object: Callable[[Any], None] | None = None
        """Told of each activity object that the code calls, so that the caller can find its function."""
        self.activities: dict[int, PendingActivity] = {}
        """What was scheduled and has no recorded result, by task number."""
        self.ready: deque[_Branch] = deque()
        self.unstarted: dict[int, PendingActivity] = {}
        """Those of `activities` whose current attempt may not run yet: queued, or between attempts."""
        self._begun = False
        self._begin_noted = False
        self._turn = _NO_TURN
        self._decisions: list[ev.Decision] = _NO_DECISIONS
        self._recorded = _NOTHING_RECORDED
        self._trouble: NondeterminismError | None = None
        self._running_user_code = False
        self._ending_at = ""
        self._inert_calls = 0
        self._tasks: dict[int, tuple[Task[Any], Loader | None]] = {}
        self._last_number = 0
        self._main: _Branch | None = None
        self._branches: dict[Task[Any], _Branch] | None = None
        self._timers: Timers | None = None
        self._mailbox: Mailbox | None = None
        self._held: list[ev.Observation] | None = None
        self._random: random.Random | None = None
        self._uuid_random: random.Random | None = None

    # -- the two ways forward -------------------------------------------------------------------------------

    def advance(self, observed: Sequence[ev.Observation], *, now_us: int) -> Turn:
        """Take `observed` in order and run the code until it waits again.

        Args:
            now_us: the time; an earlier one than the last turn's is taken as that.

        Raises:
            ReplayError: the code cannot go on; this object must be put away, nothing is to be recorded.
        """
        at_us = self.now_us = max(now_us, self.now_us)
        turn = self._turn = Turn(self.next_seq, at_us)
        decisions = self._decisions = []
        token = current_execution.set(self)
        try:
            for event in observed:
                if self._take(event):
                    turn.events.append(event)
                else:
                    turn.refused.append(event)
        finally:
            current_execution.reset(token)
        if decisions:
            turn.events += decisions
        self.next_seq += len(turn.events)
        return turn

    def note_queued(self, activity: PendingActivity) -> None:
        """Record in the turn just made that `activity` was scheduled but there is no room for it yet."""
        self._set_unstarted(activity)
        self._turn.events.append(ev.ActivityQueued(activity.task))
        self.next_seq += 1

    def replay(self, first_seq: int, at_us: int, row: Sequence[ev.Event]) -> None:
        """Follow one recorded turn.

        Raises:
            NondeterminismError: the code does not ask for the recorded decisions.
            CorruptHistory: the row cannot follow what came before it.
        """
        if first_seq != self.next_seq or at_us < self.now_us:
            raise CorruptHistory(
                f"history of instance {self.instance_id!r} has a row that begins at #{first_seq} "
                f"({at_us} µs) where #{self.next_seq} (not before {self.now_us} µs) must follow"
            )
        self.now_us = at_us
        self.replaying = True
        self._turn = Turn(first_seq, at_us)
        self._decisions = []
        self._recorded = deque((seq, event) for seq, event in enumerate(row, first_seq) if type(event) in ev.DECISIONS)
        self.next_seq = first_seq + len(row)
        token = current_execution.set(self)
        try:
            for seq, event in enumerate(row, first_seq):
                kind = type(event)
                if kind in ev.DECISIONS:
                    continue
                if kind is ev.ActivityQueued:
                    self._note_queued(seq, cast("ev.ActivityQueued", event))
                elif not self._take(cast("ev.Observation", event)):
                    raise CorruptHistory(
                        f"history #{seq} of instance {self.instance_id!r} records {describe(event)}, "
                        "which cannot follow what came before it"
                    )
            if self._recorded:
                self._mismatch("no more in this turn", self._recorded.popleft(), self._waiting_location())
        finally:
            current_execution.reset(token)
            self.replaying = False

    def _note_queued(self, seq: int, event: ev.ActivityQueued) -> None:
        activity = self.activities.get(event.task)
        if activity is None:
            raise CorruptHistory(f"history #{seq} of instance {self.instance_id!r} queues an unknown activity")
        self._set_unstarted(activity)

    def _set_unstarted(self, activity: PendingActivity) -> None:
        activity.started = False
        self.unstarted[activity.task] = activity

    def _drop_activity(self, number: int) -> bool:
        self.unstarted.pop(number, None)
        return self.activities.pop(number, None) is not None

    # -- what the caller needs to know ----------------------------------------------------------------------

    def wake_us(self) -> int | None:
        """When it must be looked at: 0 while attempts run, else the earliest due time; None: only when told."""
        if self.ended is not None:
            return None
        if len(self.activities) > len(self.unstarted):
            return 0
        return self.next_due_us(-1)

    @property
    def may_be_due(self) -> bool:
        """False when `next_due_us` has nothing to say; cheap, for the hot path."""
        started = self.started
        return bool(
            self._timers is not None
            or self.unstarted
            or (started is not None and (started.deadline_us or not self._begin_noted))
        )

    def next_due_us(self, after_us: int) -> int | None:
        """When the next timer, wait, start or deadline is due, or a retry after `after_us`."""
        moments = [a.retry_at_us for a in self.unstarted.values() if a.retry_at_us > after_us]
        if self._timers is not None and (due_us := self._timers.next_due_us()) is not None:
            moments.append(due_us)
        if self.started is not None:
            if not self._begin_noted:
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
        if not self._begin_noted and self.started.start_at_us <= now_us:
            found.append(ev.InstanceBegan())
        if self._timers is not None:
            found += [ev.TimerFired(number) for number in self._timers.pop_due(now_us)]
        if 0 < self.started.deadline_us <= now_us:
            found.append(ev.InstanceTimedOut())
        return found

    def due_retries(self, now_us: int) -> list[PendingActivity]:
        """Activities whose next attempt may start at `now_us`."""
        return [activity for activity in self.unstarted.values() if activity.retry_at_us <= now_us]

    def put_away(self) -> None:
        """Forget the code's position. Its `finally` blocks run now, with an inert context (rule 5)."""
        self.inert = True
        self.ready.clear()
        branches = [] if self._branches is None else list(self._branches.values())
        if self._main is not None:
            branches.append(self._main)
        self._branches = self._main = None
        if not branches:
            return
        token = current_execution.set(self)
        try:
            for branch in branches:
                _close(branch.steps)
        finally:
            current_execution.reset(token)

    # -- observations ---------------------------------------------------------------------------------------

    def _take(self, event: ev.Observation) -> bool:
        """Note one observation, deliver it unless suspended, run the code. False: it changes nothing."""
        if self.ended is not None or (self.started is None and type(event) is not ev.InstanceStarted):
            return False
        note, deliver = self._HANDLERS[type(event)]
        if not note(self, event):
            return False
        if deliver is not None:
            if self.status is Status.SUSPENDED:
                if self._held is None:
                    self._held = []
                self._held.append(event)
            else:
                deliver(self, event)
                self._run()
        return True

    def _note_instance_started(self, event: ev.InstanceStarted) -> bool:
        if self.started is not None:
            return False
        if event.format > ev.FORMAT:
            raise CorruptHistory(
                f"instance {self.instance_id!r} was written in format {event.format}, "
                f"but this version of durableflow reads up to {ev.FORMAT}; upgrade it"
            )
        self.started = event
        return True

    def _deliver_instance_started(self, event: ev.InstanceStarted) -> None:
        if event.start_at_us <= self.now_us:
            self._begin_noted = True
            self._begin()

    def _note_instance_began(self, _: ev.InstanceBegan) -> bool:
        if self._begin_noted or self.started is None or self.started.start_at_us > self.now_us:
            return False
        self._begin_noted = True
        return True

    def _begin(self, _: ev.InstanceBegan | None = None) -> None:
        assert self.started is not None
        if self._begun:
            return
        self._begun = self._running_user_code = True
        self.status = Status.RUNNING
        try:
            result = self.program.begin(self, self.started.input)
        except BaseException as error:
            self._running_user_code = False
            self._end_with_error(error, skip_frames=2)
            return
        self._running_user_code = False
        self._check_trouble()
        if hasattr(result, "send") and hasattr(result, "throw"):
            self._main = _Branch(self, cast("Steps[Any]", result), None)
            self.make_ready(self._main)
        else:
            self._end_with_result(result)

    def _note_activity_started(self, event: ev.ActivityStarted) -> bool:
        activity = self.activities.get(event.task)
        if activity is None or activity.started or event.attempt != activity.attempt:
            return False
        activity.started = True
        del self.unstarted[event.task]
        activity.retry_at_us = 0
        self._turn.started.append(activity)
        return True

    def _note_attempt_failed(self, event: ev.AttemptFailed) -> bool:
        activity = self.activities.get(event.task)
        if activity is None or event.attempt != activity.attempt or not activity.started:
            return False
        activity.attempt += 1
        activity.uncounted += not event.counts
        self._set_unstarted(activity)
        activity.retry_at_us = event.retry_at_us
        activity.losses = activity.losses + 1 if event.failure.type_name == WORKER_LOST else 0
        if event.details is not None:
            activity.details = event.details
        return True

    def _note_activity_result(self, event: ev.ActivityCompleted | ev.ActivityFailed) -> bool:
        activity = self.activities.get(event.task)
        if activity is None or event.attempt != activity.attempt:
            return False
        if not activity.started and type(event) is ev.ActivityCompleted:
            return False  # no attempt was allowed to run; giving it up needs none
        self._drop_activity(event.task)
        return True

    def _deliver_activity_completed(self, event: ev.ActivityCompleted) -> None:
        self._resolve(event.task, event.output)

    def _deliver_activity_failed(self, event: ev.ActivityFailed) -> None:
        task, _ = self._tasks.get(event.task, (None, None))
        if task is not None:
            self._fail(event.task, partial(activity_failed, task.label, event.failure, event.attempts))

    def _note_timer_fired(self, event: ev.TimerFired) -> bool:
        return self._timers is not None and self._timers.fire(event.task, self.now_us)

    def _deliver_timer_fired(self, event: ev.TimerFired) -> None:
        task, load = self._tasks.get(event.task, (None, None))
        if task is None:
            return
        if load is None:
            self._settle(event.task, None, None)
        else:
            self._fail(event.task, partial(EventTimeout, task.label))

    def _note_event_received(self, event: ev.EventReceived) -> bool:
        return event.event_id is None or self._mail().is_new(event.event_id)

    def _mail(self) -> Mailbox:
        if self._mailbox is None:
            self._mailbox = Mailbox()
        return self._mailbox

    def _deliver_event_received(self, event: ev.EventReceived) -> None:
        name = event.name.casefold()
        number = self._oldest_waiter(name)
        if number is None:
            self._mail().keep(name, event.payload)
        else:
            self._disarm(number)
            self._resolve(number, event.payload)

    def _oldest_waiter(self, name: str) -> int | None:
        mailbox = self._mail()
        while (number := mailbox.next_waiter(name)) is not None:
            if number in self._tasks:
                return number
        return None

    def _note_cancel_requested(self, _: ev.CancelRequested) -> bool:
        if self.cancel_requested:
            return False
        self.cancel_requested = True
        return True

    def _deliver_cancel_requested(self, event: ev.CancelRequested) -> None:
        if not self._begun:
            self._end(Status.CANCELLED, ev.InstanceCancelled(event.reason))
        elif self._main is not None:
            self._main.interrupt(Cancelled(event.reason))

    def _note_instance_suspended(self, _: ev.InstanceSuspended) -> bool:
        if self.status is Status.SUSPENDED:
            return False
        self.status = Status.SUSPENDED
        return True

    def _note_instance_resumed(self, _: ev.InstanceResumed) -> bool:
        if self.status is not Status.SUSPENDED:
            return False
        self.status = Status.RUNNING if self._begun else Status.PENDING
        held, self._held = self._held or (), None
        for event in held:
            if self.ended is None:
                deliver = self._HANDLERS[type(event)][1]
                assert deliver is not None
                deliver(self, event)
                self._run()
        return True

    def _note_instance_terminated(self, event: ev.InstanceTerminated) -> bool:
        self._end(Status.TERMINATED, None, event)
        return True

    def _note_instance_timed_out(self, event: ev.InstanceTimedOut) -> bool:
        if self.started is None or not 0 < self.started.deadline_us <= self.now_us:
            return False
        self._end(Status.FAILED, None, event)
        return True

    _HANDLERS: ClassVar[
        dict[type, tuple[Callable[[Execution, Any], bool], Callable[[Execution, Any], None] | None]]
    ] = {
        ev.InstanceStarted: (_note_instance_started, _deliver_instance_started),
        ev.InstanceBegan: (_note_instance_began, _begin),
        ev.ActivityStarted: (_note_activity_started, None),
        ev.AttemptFailed: (_note_attempt_failed, None),
        ev.ActivityCompleted: (_note_activity_result, _deliver_activity_completed),
        ev.ActivityFailed: (_note_activity_result, _deliver_activity_failed),
        ev.TimerFired: (_note_timer_fired, _deliver_timer_fired),
        ev.EventReceived: (_note_event_received, _deliver_event_received),
        ev.CancelRequested: (_note_cancel_requested, _deliver_cancel_requested),
        ev.InstanceSuspended: (_note_instance_suspended, None),
        ev.InstanceResumed: (_note_instance_resumed, None),
        ev.InstanceTerminated: (_note_instance_terminated, None),
        ev.InstanceTimedOut: (_note_instance_timed_out, None),
    }
    """For each observation: what is noted at once (may refuse it), and how it is delivered (held while suspended)."""

    # -- decisions: what a context asks for -----------------------------------------------------------------

    def schedule_activity(self, name: str, data: bytes, options: ev.ActivityOptions | None, load: Loader) -> Task[Any]:
        """Ask for an activity; `load` reads its result back."""
        if len(data) > self._payload_limit_bytes:
            raise PayloadTooLarge(f"the input of activity {name!r}", len(data), self._payload_limit_bytes)
        task = self._new_task(name, load)
        scheduled = ev.ActivityScheduled(task.number, name, data, digest(data), options)
        if self.replaying:
            scheduled = cast("ev.ActivityScheduled", self._expect(scheduled))
        else:
            self._decisions.append(scheduled)
        activity = PendingActivity(task.number, name, data, scheduled.options, self.now_us)
        self.activities[task.number] = activity
        self._turn.scheduled.append(activity)
        return task

    def create_timer(self, delay_us: int) -> Task[None]:
        """Ask to be woken `delay_us` from now."""
        task = self._new_task("timer", None)
        due_us = self.now_us + delay_us
        self._decide(ev.TimerCreated(task.number, due_us))
        self._arm(task.number, due_us)
        return task

    def await_event(self, name: str, load: Loader, timeout_us: int | None) -> Task[Any]:
        """Wait for an external event; a kept one answers at once."""
        task = self._new_task(name, load)
        due_us = 0 if timeout_us is None else self.now_us + timeout_us
        folded = name.casefold()
        self._decide(ev.EventAwaited(task.number, folded, due_us))
        mailbox = self._mail()
        kept = mailbox.take(folded)
        if kept is not None:
            self._resolve(task.number, kept)
        else:
            mailbox.wait(folded, task.number, self._tasks)
            if timeout_us is not None:
                self._arm(task.number, due_us)
        return task

    def side_effect(self, make: Callable[[], bytes]) -> bytes:
        """`make()` the first time, the recorded bytes ever after; what it raises is recorded too."""
        self._check_usable()
        self._last_number += 1
        if self.replaying:
            recorded = cast("ev.SideEffectRecorded", self._expect(ev.SideEffectRecorded(self._last_number, b"")))
        else:
            recorded = self._make_side_effect(self._last_number, make)
            self._decisions.append(recorded)
        if recorded.failure is not None:
            raise side_effect_failed(recorded.failure)
        return recorded.value

    def _make_side_effect(self, number: int, make: Callable[[], bytes]) -> ev.SideEffectRecorded:
        token = current_execution.set(None)  # replay does not call `make`: what it asked of ctx would be missing
        try:
            value = make()
            if len(value) > self._payload_limit_bytes:
                raise PayloadTooLarge("the value of a side effect", len(value), self._payload_limit_bytes)
        except Exception as error:
            return ev.SideEffectRecorded(number, NULL, record(error, skip_frames=2))
        finally:
            current_execution.reset(token)
        return ev.SideEffectRecorded(number, value)

    def set_custom_status(self, value: bytes) -> None:
        """Show `value` to whoever looks at the instance."""
        self._check_usable()
        if len(value) > self._payload_limit_bytes:
            raise PayloadTooLarge("the custom status", len(value), self._payload_limit_bytes)
        self._decide(ev.CustomStatusSet(value))
        self.custom_status = value

    def when_all(self, parts: Sequence[Task[Any]], kind: type[list[Any] | tuple[Any, ...]]) -> Task[Any]:
        """A task that is done when all of `parts` are; its result is a `kind`."""
        self._check_parts(parts)
        return WhenAll(self, parts, kind)

    def when_any(self, parts: Sequence[Task[Any]]) -> Task[Task[Any]]:
        """A task that is done when one of `parts` is."""
        self._check_parts(parts)
        return WhenAny(self, parts)

    def spawn(self, steps: Steps[Any], label: str) -> Task[Any]:
        """Drive `steps` beside the others; it begins when the caller next waits."""
        self._check_usable()
        task: Task[Any] = Task(self, 0, label)
        if self._branches is None:
            self._branches = {}
        branch = self._branches[task] = _Branch(self, steps, task)
        self.make_ready(branch)
        return task

    def cancel_task(self, task: Task[Any]) -> bool:
        """Give `task` up; for a combination, all of its parts."""
        self._check_usable()
        if task.done:
            return False
        if isinstance(task, (WhenAll, WhenAny)):
            stack: list[Task[Any]] = [task]
            while stack:
                part = stack.pop()
                if part.done:
                    continue
                if isinstance(part, (WhenAll, WhenAny)):
                    part.settle_cancelled()  # before its parts are, which would settle it in their way
                    self._wake_waiters(part)
                    stack += reversed(part.parts)
                else:
                    self.cancel_task(part)
            return True
        if task.number == 0:
            return self._cancel_branch(task)
        self._decide(ev.TaskCancelled(task.number))
        if self._drop_activity(task.number):
            self._turn.cancelled.append(task.number)
        self._disarm(task.number)
        self._tasks.pop(task.number, None)
        task.settle_cancelled()
        self._wake_waiters(task)
        return True

    def random(self) -> random.Random:
        """Dice that fall the same in replay."""
        self._check_usable()
        if self._random is None:
            self._random = random.Random(f"random:{self.instance_id}")  # noqa: S311  # reproducible on purpose
        return self._random

    def random_bits(self, count: int) -> int:
        """Bits for ids, from dice of their own."""
        self._check_usable()
        if self._uuid_random is None:
            self._uuid_random = random.Random(f"uuid:{self.instance_id}")  # noqa: S311  # reproducible on purpose
        return self._uuid_random.getrandbits(count)

    # -- matching what is asked with what is recorded -------------------------------------------------------

    def _decide(self, decision: ev.Decision) -> None:
        if self.replaying:
            self._expect(decision)
        else:
            self._decisions.append(decision)

    def _expect(self, asked: ev.Decision) -> ev.Event:
        if not self._recorded:
            self._mismatch(describe(asked), None, self._asking_location())
        seq, recorded = self._recorded.popleft()
        if not _same(recorded, asked):
            self._mismatch(describe(asked), (seq, recorded), self._asking_location())
        return recorded

    def _mismatch(self, asked: str, recorded: tuple[int, ev.Event] | None, location: str) -> None:
        seq, what = (self.next_seq, "nothing more") if recorded is None else (recorded[0], describe(recorded[1]))
        self._trouble = NondeterminismError(self.instance_id, self.program.name, seq, what, asked, location)
        self.inert = True
        raise _Halt if self._running_user_code else self._trouble

    def _asking_location(self) -> str:
        return _user_location() if self._running_user_code else self._ending_at

    def _waiting_location(self) -> str:
        return "" if self._main is None else _suspended_location(self._main.steps)

    def _check_usable(self) -> None:
        if self.inert:
            self._refuse_inert()
        elif current_execution.get() is not self or not self._running_user_code:
            raise self._used_outside()

    def _used_outside(self) -> UsageError:
        return UsageError(
            f"the context of instance {self.instance_id!r} was used outside its workflow; ctx methods work "
            "only while the workflow's own code runs, not in activities, threads, asyncio tasks or side effects"
        )

    def _refuse_inert(self) -> None:
        self._inert_calls += 1
        if self._inert_calls <= _STUBBORN:
            raise GeneratorExit if current_execution.get() is self else self._used_outside()
        # From here on the calls go through, but what they note leads nowhere.
        self._turn, self._decisions, self.replaying = Turn(0, 0), [], False

    def _check_parts(self, parts: Sequence[Task[Any]]) -> None:
        self._check_usable()
        for part in parts:
            if not isinstance(part, Task):  # pyright: ignore[reportUnnecessaryIsInstance]  # users may pass anything
                raise ForeignAwaitError(f"{part!r:.80} is not a task; pass what ctx methods return")
            if part.execution is not self:
                raise ForeignAwaitError(f"{part!r} belongs to another instance")

    # -- tasks ----------------------------------------------------------------------------------------------

    def _new_task(self, label: str, load: Loader | None) -> Task[Any]:
        self._check_usable()
        self._last_number = number = self._last_number + 1
        task: Task[Any] = Task(self, number, label)
        self._tasks[number] = (task, load)
        return task

    def _arm(self, number: int, due_us: int) -> None:
        if self._timers is None:
            self._timers = Timers()
        self._timers.arm(number, due_us)

    def _disarm(self, number: int) -> None:
        if self._timers is not None:
            self._timers.disarm(number)

    def _resolve(self, number: int, data: bytes) -> None:
        load = self._tasks.get(number, (None, None))[1]
        if load is None:
            return
        try:
            value = load(data)
        except Exception as error:
            self._fail(number, _Again(error, None))
        else:
            self._settle(number, value, None)

    def _fail(self, number: int, error: ErrorFactory) -> None:
        self._settle(number, None, error)

    def _settle(self, number: int, value: Any, error: ErrorFactory | None) -> None:
        task, _ = self._tasks.pop(number, (None, None))
        if task is not None:
            task.settle(value, error)
            self._wake_waiters(task)

    def _wake_waiters(self, task: Task[Any]) -> None:
        settled = deque((task,))
        while settled:
            current = settled.popleft()
            for waiter in tuple(current.waiters):
                outer = waiter.wake(current)
                if outer is not None:
                    settled.append(outer)
            current.waiters.clear()

    # -- the driver -----------------------------------------------------------------------------------------

    def make_ready(self, branch: _Branch) -> None:
        """`branch` goes on in this turn."""
        branch.woken = True
        self.ready.append(branch)

    def _run(self) -> None:
        """Run every branch that may go on, until all of them wait."""
        ready = self.ready
        while ready:  # the end empties it
            self._step(ready.popleft())

    def _step(self, branch: _Branch) -> None:
        steps = branch.steps
        value: Any = None
        error: BaseException | None = None
        if branch.error is not None:
            error, branch.error = branch.error, None
        elif branch.waiting is not None:
            value, make_error = branch.waiting.outcome()
            error = None if make_error is None else make_error()
        branch.waiting = None
        branch.woken = False
        while True:
            self._running_user_code = True
            try:
                yielded = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as stop:
                self._running_user_code = False
                self._check_trouble()
                self._branch_returned(branch, stop.value)
                return
            except BaseException as raised:
                self._running_user_code = False
                self._check_trouble()
                self._branch_raised(branch, raised)
                return
            self._running_user_code = False
            self._check_trouble()
            value, error = None, None
            if not isinstance(yielded, Task):
                error = _foreign(yielded)
            elif yielded.execution is not self:
                error = ForeignAwaitError(f"the workflow waited for {yielded!r}, which belongs to another instance")
            elif branch.error is not None:
                error, branch.error = branch.error, None
            else:
                task = cast("Task[Any]", yielded)  # type: ignore[redundant-cast]  # pyright knows it as Task[Unknown]
                if not task.done:
                    task.waiters.append(branch)
                    branch.waiting = task
                    return
                value, make_error = task.outcome()
                error = None if make_error is None else make_error()

    def _check_trouble(self) -> None:
        if self._trouble is not None:
            raise self._trouble

    def _branch_returned(self, branch: _Branch, value: object) -> None:
        if branch.task is None:
            self._end_with_result(value)
        else:
            self._branch_settled(branch, value, None)

    def _branch_raised(self, branch: _Branch, error: BaseException) -> None:
        if isinstance(error, (KeyboardInterrupt, TurnStopped)):
            raise error
        if branch.task is None:
            self._end_with_error(error)
        else:
            frames = error.__traceback__
            self._branch_settled(branch, None, _Again(error, frames and frames.tb_next))

    def _branch_settled(self, branch: _Branch, value: object, error: _Again | None) -> None:
        task = branch.task
        assert task is not None
        assert self._branches is not None
        del self._branches[task]
        if error is not None and branch.cancelled and isinstance(error.error, Cancelled):
            task.settle_cancelled()
        else:
            task.settle(value, error)
        self._wake_waiters(task)

    def _cancel_branch(self, task: Task[Any]) -> bool:
        branch = None if self._branches is None else self._branches.get(task)
        if branch is None or branch.cancelled:
            return False
        branch.cancelled = True
        branch.interrupt(Cancelled("the workflow cancelled this branch"))
        return True

    # -- the end --------------------------------------------------------------------------------------------

    def _end_with_result(self, value: object) -> None:
        try:
            output = self.program.dump_result(value)
            if len(output) > self._payload_limit_bytes:
                what = f"the result of workflow {self.program.name!r}"
                raise PayloadTooLarge(what, len(output), self._payload_limit_bytes)
        except BaseException as error:
            self._end_with_error(error)
        else:
            self._ending_at = _definition_location(self.program)
            self._end(Status.COMPLETED, ev.InstanceCompleted(output))

    def _end_with_error(self, error: BaseException, *, skip_frames: int = 1) -> None:
        self._check_trouble()
        if isinstance(error, (KeyboardInterrupt, TurnStopped)):
            raise error
        self._ending_at = _raising_location(error) or _definition_location(self.program)
        if isinstance(error, Cancelled) and self.cancel_requested:
            self._end(Status.CANCELLED, ev.InstanceCancelled(error.reason))
        else:
            self._end(Status.FAILED, ev.InstanceFailed(record(error, skip_frames=skip_frames)))

    def _end(self, status: Status, decision: ev.Decision | None, event: ev.Event | None = None) -> None:
        if decision is not None:
            self._decide(decision)
        self.status = status
        self.ended = decision or event
        self._turn.cancelled += self.activities
        self.activities.clear()
        self.unstarted.clear()
        self._timers = None
        self._tasks.clear()
        self._held = None
        self.put_away()


class _Again:
    """One exception for each of several waiters, as it was when it was raised, without traces of the others."""

    __slots__ = ("_cause", "_context", "_frames", "_suppress", "error")

    def __init__(self, error: BaseException, frames: TracebackType | None) -> None:
        self.error = error
        self._frames = frames
        self._cause, self._context = error.__cause__, error.__context__
        self._suppress = error.__suppress_context__

    def __call__(self) -> BaseException:
        error = self.error
        error.__cause__, error.__context__ = self._cause, self._context
        error.__suppress_context__ = self._suppress
        return error.with_traceback(self._frames)


def _close(steps: Steps[Any]) -> None:
    for _ in range(_STUBBORN):
        try:
            steps.close()
        except KeyboardInterrupt:
            raise
        except RuntimeError:
            continue  # it yielded in a finally block and is still there; if it raised this itself, it is gone
        except BaseException:  # noqa: S110  # what a finally block does while it is put away concerns nobody
            pass
        return


def _foreign(yielded: object) -> ForeignAwaitError:
    kind = f"{type(yielded).__module__}.{type(yielded).__qualname__}"
    try:
        shown = f"{yielded!r:.80} ({kind})"
    except Exception:  # a user's __repr__ may do anything
        shown = f"something of {kind}"
    return ForeignAwaitError(
        f"the workflow yielded or awaited {shown}, which the engine cannot replay; "
        "wait only for tasks of ctx (ctx.sleep, ctx.call_activity, ctx.wait_for_event, ...), "
        "and do everything else in an activity"
    )


def _same(recorded: ev.Event, asked: ev.Decision) -> bool:
    if type(recorded) is not type(asked):
        return False
    if isinstance(recorded, ev.ActivityScheduled):
        assert isinstance(asked, ev.ActivityScheduled)
        return (recorded.name, recorded.digest, recorded.task) == (asked.name, asked.digest, asked.task)
    if isinstance(recorded, ev.SideEffectRecorded):
        assert isinstance(asked, ev.SideEffectRecorded)
        return recorded.task == asked.task
    if isinstance(recorded, ev.InstanceFailed):
        assert isinstance(asked, ev.InstanceFailed)
        # Not its message, which may hold the address of an object.
        return recorded.failure.type_name == asked.failure.type_name
    return recorded == asked


def _user_location() -> str:
    """`file:line` of the innermost frame that is not the engine's."""
    frame = inspect.currentframe()
    while frame is not None and not _is_users(frame):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _is_users(frame: FrameType) -> bool:
    return not str(frame.f_globals.get("__name__")).startswith(_OURS)


def _definition_location(program: Program) -> str:
    """`file:line` where the workflow's function begins."""
    code = getattr(getattr(program, "function", None), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _raising_location(error: BaseException) -> str:
    """`file:line` of the innermost frame of the user's that `error` came through."""
    location = ""
    frames = error.__traceback__
    while frames is not None:
        if _is_users(frames.tb_frame):
            location = f"{frames.tb_frame.f_code.co_filename}:{frames.tb_lineno}"
        frames = frames.tb_next
    return location


def _suspended_location(steps: object) -> str:
    """`file:line` where a suspended generator or coroutine waits, in the innermost frame of the user's."""
    location = ""
    while steps is not None:
        frame = getattr(steps, "gi_frame", None) or getattr(steps, "cr_frame", None)
        if frame is not None and _is_users(frame):
            location = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        steps = getattr(steps, "gi_yieldfrom", None) or getattr(steps, "cr_await", None)
    return location


def replay_rows(execution: Execution, rows: Iterable[tuple[int, int, Sequence[ev.Event]]]) -> None:
    """Follow recorded turns `(first_seq, at_us, events)` one after the other; raises as `replay` does."""
    for first_seq, at_us, row in rows:
        execution.replay(first_seq, at_us, row)
