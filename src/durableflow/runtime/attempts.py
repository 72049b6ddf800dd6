"""Attempts of activities: places for them, running them, and what follows a failure.

An attempt begins only when the commit that allows it is durable. Places are reserved when
the commit is made up, so that "scheduled" can mean "attempt 1 may be running".

A crash cannot tell which of the running attempts caused it. The first loss is put down to
bad luck and the attempt is made again beside the others; after a second loss in a row, or
when only one attempt is left, it runs in a lane for one, so that an activity which kills
its process uses up its own attempts and not those of its neighbours.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from itertools import count
from threading import Lock
from typing import Any, Final, Protocol

from durableflow.authoring.activity import Activity, ActivityContext, current_activity
from durableflow.core.execution import WORKER_LOST
from durableflow.core.turn import PendingActivity
from durableflow.errors import ActivityCancelled, HandedOver, PayloadTooLarge, UsageError, qualified_name
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.circuit import CIRCUIT_OPEN
from durableflow.model.failure import Failure, record
from durableflow.model.retry import DEFAULT_RETRY
from durableflow.runtime.alarms import Alarm, Alarms
from durableflow.runtime.circuits import Circuits
from durableflow.runtime.clock import Clock
from durableflow.runtime.settings import Settings
from durableflow.runtime.threads import DaemonThreads

AnyActivity = Activity[..., Any]
_TIMEOUT: Final = "TimeoutError"
TRANSACTIONS_AT_ONCE: Final = 32
"""So many transactional attempts have begun at a time. The store runs them one after the other, or a few at once; those
that have not begun when the process dies need not count as lost."""
_STORE_RETRY_US: Final = 1_000_000
_STOPPED: Final = Failure("WorkerStopped", "the engine was closed while this attempt was running")


class Owner(Protocol):
    """The instance an attempt works for, as this module needs it."""

    id: str
    attempts: dict[int, Attempt]
    requests: dict[int, Request]

    def tell(self, event: ev.Observation) -> None:
        """Deliver an observation to the instance."""
        ...


class Attempt:
    """One attempt of one activity."""

    __slots__ = (
        "activity",
        "alarms",
        "beat_us",
        "context",
        "definition",
        "is_committing",
        "is_offered",
        "number",
        "over",
        "owner",
        "runner",
        "seal",
        "task",
    )

    def __init__(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> None:
        self.owner = owner
        self.activity = activity
        self.definition = definition
        self.number = activity.attempt
        self.over = False
        self.task: asyncio.Task[Any] | None = None
        self.alarms: list[Alarm] | tuple[()] = ()
        self.beat_us = 0
        self.is_committing = False
        """The store has its seal, and others go on meanwhile."""
        self.is_offered = False
        """There is a token that can finish it."""
        self.context: ActivityContext | None = None
        self.runner: Attempts | None = None
        self.seal = Lock() if definition.is_transactional else None
        """Of a transactional one: taken once, by the store that is about to commit it or by who gives it up."""

    # How its context reaches it, which holds on to the attempt alone: methods would be an object more each.

    def beat(self, details: bytes) -> None:
        """Called by user code, on any thread."""
        assert self.runner is not None
        self.runner.note_beat(self, details)

    def offer(self) -> Coroutine[Any, Any, str]:
        """Make a token that can finish it."""
        assert self.runner is not None
        return self.runner.offer(self)

    def give_up(self) -> bool:
        """Settle that it comes to nothing; False when that is too late, because the store is committing it."""
        return self.seal is None or self.seal.acquire(blocking=False)


class Request:
    """Somebody waits for a place for the next attempt of an activity.

    It is `granted` once a place is reserved and its owner has been told `ActivityStarted`;
    the place is the request's until the attempt begins.
    """

    __slots__ = ("activity", "alarms", "definition", "granted", "order", "owner")

    def __init__(self, owner: Owner, activity: PendingActivity, definition: AnyActivity, order: int) -> None:
        self.owner = owner
        self.activity = activity
        self.definition = definition
        self.order = order
        self.granted = False
        self.alarms: list[Alarm] = []

    @property
    def is_waiting(self) -> bool:
        """False once it was granted or withdrawn."""
        return not self.granted and self.owner.requests.get(self.activity.task) is self


class EndListener(Protocol):
    """Told of each attempt that failed."""

    def __call__(self, attempt: Attempt, failure: Failure, *, final: bool) -> None:
        """`final`: no other attempt follows."""
        ...


class Attempts:
    """Runs attempts within the engine's bounds.

    Args:
        beat: told `(owner, task, attempt, details)` of each heartbeat that is to be recorded.
        ended: told of each failed attempt, for the observers.
        offer: makes a token durable that can finish an attempt, and gives it.
        circuits: say of activities that have a circuit breaker whether they may be attempted; without, all may.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        alarms: Alarms,
        beat: Callable[[Owner, int, int, bytes], None],
        ended: EndListener,
        offer: Callable[[Attempt], Coroutine[Any, Any, str]],
        circuits: Circuits | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._alarms = alarms
        self._record_beat = beat
        self._told_ended = ended
        self.offer = offer
        self._circuits = circuits
        if circuits is not None:
            circuits.admit, circuits.refuse = self._place, self._refuse
        self._threads = DaemonThreads(settings.activity_threads)
        self._free_places = {
            "loop": settings.activity_concurrency,
            "thread": settings.activity_threads,
            "store": TRANSACTIONS_AT_ONCE,
        }
        self._by_name: Counter[str] = Counter()
        self._isolated: tuple[str, int] | None = None
        self._queues: dict[tuple[str, bool], deque[Request]] = {}
        """Who waits, in order: one line for each activity, and one for those of it that are suspects."""
        self._orders = count()
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._quiet = asyncio.Event()
        self.running: set[Attempt] = set()
        self._committing: Counter[str] = Counter()
        self._after_commits: dict[str, list[Callable[[], None]]] = {}
        self.begin_in_store: Callable[[Attempt], None] | None = None
        """Has transactional ones run."""

    # -- places ---------------------------------------------------------------------------------------------

    def reserve(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> bool:
        """Take a place for the next attempt; False when there is none, or its circuit holds it back."""
        if (
            definition.circuit is not None
            and self._circuits is not None
            and not self._circuits.admits(owner.id, activity, definition)
        ):
            return False
        limit = definition.max_concurrency
        if limit is not None and self._by_name[definition.name] >= limit:
            return False
        if self._free_places[definition.place] <= 0 or self._stopping:
            return False
        if activity.losses and is_suspect(activity):
            if self._isolated is not None:
                return False
            self._isolated = (owner.id, activity.task)
        self._free_places[definition.place] -= 1
        if limit is not None:
            self._by_name[definition.name] += 1
        return True

    def release(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> None:
        """Give a place back, to the first in the queue that can use it."""
        self._free_places[definition.place] += 1
        if definition.max_concurrency is not None:
            self._by_name[definition.name] -= 1
        if self._isolated == (owner.id, activity.task):
            self._isolated = None
        if definition.circuit is not None and self._circuits is not None:
            self._circuits.give_back(owner.id, activity.task)
        if self._queues:
            self._serve_queue()

    def request(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> None:
        """Begin the next attempt as soon as there is a place: the owner is told `ActivityStarted`."""
        if activity.task in owner.requests:
            return
        request = owner.requests[activity.task] = Request(owner, activity, definition, next(self._orders))
        self._place(request)

    def _place(self, request: Request) -> None:
        owner, activity, definition = request.owner, request.activity, request.definition
        line = (definition.name, bool(activity.losses) and is_suspect(activity))
        if self._is_held_back(request):
            return
        if line not in self._queues and self.reserve(owner, activity, definition):
            self._grant(request, activity.attempt)
        else:
            self._queues.setdefault(line, deque()).append(request)
            self._watch_schedule(request)

    def _is_held_back(self, request: Request) -> bool:
        """Whether it waits for its circuit, or was refused by it, and is not to be in a queue for places."""
        owner, activity, definition = request.owner, request.activity, request.definition
        if (
            self._circuits is None
            or definition.circuit is None
            or self._circuits.admits(owner.id, activity, definition)
        ):
            return False
        self._watch_schedule(request)
        self._circuits.hold(request)
        return True

    def _refuse(self, request: Request, text: str) -> None:
        """No attempt follows: its circuit is open, and it is not to wait for that."""
        failure = Failure(CIRCUIT_OPEN, f"activity {request.activity.name!r} was not attempted: {text}")
        self._end_unmade(request, failure)

    def request_after_loss(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> None:
        """Begin the attempt behind the current one in the turn in which its owner is told that this one was lost.

        Only if there is a place now and it is no suspect; else it is requested when that turn is durable.
        """
        if activity.losses or _is_last(activity, activity.attempt + 1) or activity.task in owner.requests:
            return
        if (definition.name, False) not in self._queues and self.reserve(owner, activity, definition):
            request = owner.requests[activity.task] = Request(owner, activity, definition, next(self._orders))
            self._grant(request, activity.attempt + 1)

    def withdraw(self, owner: Owner, task: int) -> None:
        """Forget what `owner` asked for `task`; a place that was reserved for it is free again."""
        request = owner.requests.pop(task, None)
        if request is not None:
            for alarm in request.alarms:
                alarm.cancel()
            if request.granted:
                self.release(owner, request.activity, request.definition)
            elif self._circuits is not None and request.definition.circuit is not None:
                self._circuits.give_back(owner.id, task)

    def _grant(self, request: Request, attempt: int) -> None:
        request.granted = True
        for alarm in request.alarms:
            alarm.cancel()
        request.owner.tell(ev.ActivityStarted(request.activity.task, attempt))

    def _serve_queue(self) -> None:
        """Give free places out in the order of asking, passing by those that wait for a place of another kind."""
        while True:
            first: Request | None = None
            for line, queue in list(self._queues.items()):
                while queue and (not queue[0].is_waiting or self._is_held_back(queue[0])):
                    queue.popleft()
                if not queue:
                    del self._queues[line]
                elif (first is None or queue[0].order < first.order) and self._has_place(queue[0]):
                    first = queue[0]
            if first is None or not self.reserve(first.owner, first.activity, first.definition):
                return
            self._grant(first, first.activity.attempt)

    def _has_place(self, request: Request) -> bool:
        definition = request.definition
        limit = definition.max_concurrency
        return (
            not self._stopping
            and self._free_places[definition.place] > 0
            and (limit is None or self._by_name[definition.name] < limit)
            and not (self._isolated is not None and request.activity.losses and is_suspect(request.activity))
        )

    def _watch_schedule(self, request: Request) -> None:
        """Give up what finds no place in time."""
        options, activity = request.activity.options, request.activity
        if options is None or request.alarms:
            return
        wanted_at_us = max(activity.scheduled_at_us, activity.retry_at_us)
        limits = [
            (options.schedule_to_start_us, wanted_at_us, "found no place within"),
            (options.schedule_to_close_us, activity.scheduled_at_us, "was not done, from being scheduled, within"),
        ]
        for limit_us, since_us, text in limits:
            if limit_us:
                call = partial(self._give_up, request, f"{text} {limit_us / 1e6:g} s")
                request.alarms.append(self._alarms.at(since_us + limit_us, call))

    def _give_up(self, request: Request, text: str) -> None:
        if request.is_waiting:
            self._end_unmade(request, Failure(_TIMEOUT, f"activity {request.activity.name!r} {text}"))

    def _end_unmade(self, request: Request, failure: Failure) -> None:
        owner, activity = request.owner, request.activity
        self.withdraw(owner, activity.task)
        made = activity.attempt - activity.uncounted - 1
        self._told_ended(Attempt(owner, activity, request.definition), failure, final=True)
        owner.tell(ev.ActivityFailed(activity.task, failure, made, activity.attempt))

    # -- running --------------------------------------------------------------------------------------------

    def begin(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> None:
        """Run the current attempt of `activity`, whose place is reserved and whose start is durable."""
        if owner.requests:
            owner.requests.pop(activity.task, None)  # its place is the attempt's now
        attempt = Attempt(owner, activity, definition)
        attempt.runner = self
        owner.attempts[activity.task] = attempt
        self.running.add(attempt)
        attempt.context = ActivityContext(
            owner.id,
            activity.task,
            activity.name,
            attempt.number,
            activity.details,
            attempt,
            None if definition.is_async else self._loop,
        )
        options = activity.options
        if options is not None:
            self._watch(attempt, options)
        if definition.circuit is not None and self._circuits is not None:
            broken = self._circuits.broken_key(owner.id, activity.task)
            if broken is not None:
                self._loop.call_soon(self._ended, attempt, None, broken)
                return
        if definition.is_transactional:
            assert self.begin_in_store is not None
            self.begin_in_store(attempt)
        elif definition.is_async:
            attempt.task = asyncio.Task(self._run_async(attempt), loop=self._loop, name=definition.name)
        else:
            self._run_in_thread(attempt)

    async def _run_async(self, attempt: Attempt) -> None:
        current_activity.set(attempt.context)
        definition = attempt.definition
        try:
            args, kwargs = definition.arguments.load(attempt.activity.input)
            output = self.dump(definition, await definition.function(*args, **kwargs))
        except (KeyboardInterrupt, GeneratorExit):
            self._free(attempt)
            raise
        except BaseException as error:
            self._ended(attempt, None, error)
        else:
            self._ended(attempt, output, None)

    def _run_in_thread(self, attempt: Attempt) -> None:
        loop = self._loop
        context = copy_context()
        context.run(current_activity.set, attempt.context)
        definition = attempt.definition

        def work() -> None:
            output: bytes | None = None
            failure: BaseException | None = None
            try:
                args, kwargs = definition.arguments.load(attempt.activity.input)
                output = self.dump(definition, context.run(definition.function, *args, **kwargs))
            except BaseException as error:
                failure = error
            try:
                loop.call_soon_threadsafe(self._ended, attempt, output, failure)
            except RuntimeError:  # the loop is closed: the engine is gone, the attempt counts as lost
                return

        self._threads.submit(work)

    def dump(self, definition: AnyActivity, value: object) -> bytes:
        """The result of an activity as bytes; raises `PayloadError`."""
        if value is None:
            return converter.NULL
        what = f"the result of activity {definition.name!r}"
        output = converter.dump(value, what)
        if len(output) > self._settings.payload_limit_bytes:
            raise PayloadTooLarge(what, len(output), self._settings.payload_limit_bytes)
        return output

    def _ended(self, attempt: Attempt, output: bytes | None, error: BaseException | None) -> None:
        """The user's code has ended, in whatever way."""
        if not attempt.over:
            if output is not None:
                self._close(attempt)
                if self._circuits is not None and attempt.definition.circuit is not None:
                    self._circuits.succeeded(attempt.owner.id, attempt.activity, attempt.definition)
                attempt.owner.tell(ev.ActivityCompleted(attempt.activity.task, output, attempt.number))
            elif isinstance(error, HandedOver) and attempt.is_offered:
                self._close(attempt)
                attempt.owner.tell(ev.ActivityHandedOver(attempt.activity.task, attempt.number))
            else:
                assert error is not None
                if isinstance(error, HandedOver):
                    error = UsageError("an activity raised HandedOver without a token; call hand_over() first")
                names = tuple(qualified_name(kind) for kind in type(error).__mro__)
                self._fail(attempt, record(error, skip_frames=1), names)
        self._free(attempt)

    def end_in_store(self, attempt: Attempt, error: BaseException | None = None) -> None:
        """A transactional one has ended: with `error`, or with nothing to be told, because that is in the inbox."""
        if error is None and not attempt.over:
            self._close(attempt)
        self._ended(attempt, None, error)

    def take_back(self, attempt: Attempt, error: Exception) -> None:
        """The store could not commit a transactional one, for no fault of its own: it is made again and not counted."""
        if not attempt.over:
            self._close(attempt)
            retry_at_us = self._clock.now_us() + _STORE_RETRY_US
            attempt.owner.tell(
                ev.AttemptFailed(attempt.activity.task, attempt.number, record(error), retry_at_us, counts=False)
            )
        self._free(attempt)

    def note_commit(self, attempt: Attempt) -> None:
        """The store is about to commit a transactional one, beside whatever goes on here."""
        attempt.is_committing = True
        self._committing[attempt.owner.id] += 1

    def after_commits(self, instance_id: str, call: Callable[[], None]) -> None:
        """Call when no attempt of the instance is being committed: what is read of it then says how they ended."""
        if instance_id in self._committing:
            self._after_commits.setdefault(instance_id, []).append(call)
        else:
            call()

    def _note_commit_over(self, attempt: Attempt) -> None:
        instance_id = attempt.owner.id
        self._committing[instance_id] -= 1
        if not self._committing[instance_id]:
            del self._committing[instance_id]
            for call in self._after_commits.pop(instance_id, ()):
                call()

    def _free(self, attempt: Attempt) -> None:
        self.running.discard(attempt)
        if attempt.is_committing:
            self._note_commit_over(attempt)
        attempt.context = attempt.task = None  # they know the attempt: no cycle is left for the collector
        if not self.running:
            self._quiet.set()
        self.release(attempt.owner, attempt.activity, attempt.definition)

    def _close(self, attempt: Attempt) -> None:
        attempt.over = True
        attempt.owner.attempts.pop(attempt.activity.task, None)
        for alarm in attempt.alarms:
            alarm.cancel()

    # -- failures, time-outs, cancelling --------------------------------------------------------------------

    def _fail(self, attempt: Attempt, failure: Failure, type_names: tuple[str, ...]) -> None:
        self._close(attempt)
        if self._circuits is not None and attempt.definition.circuit is not None:
            self._circuits.failed(attempt.owner.id, attempt.activity, attempt.definition, type_names)
        event = failed_attempt(attempt.activity, failure, type_names, self._clock)
        self._told_ended(attempt, failure, final=isinstance(event, ev.ActivityFailed))
        attempt.owner.tell(event)

    def _watch(self, attempt: Attempt, options: ev.ActivityOptions) -> None:
        now_us = attempt.beat_us = self._clock.now_us()
        if options.start_to_close_us:
            self._time_out_at(
                attempt, now_us + options.start_to_close_us, f"did not end within {options.start_to_close_us / 1e6:g} s"
            )
        if options.schedule_to_close_us:
            text = f"was not done within {options.schedule_to_close_us / 1e6:g} s of being scheduled"
            self._time_out_at(attempt, attempt.activity.scheduled_at_us + options.schedule_to_close_us, text)
        if options.heartbeat_us:
            self._watch_beats(attempt, options.heartbeat_us)

    def _time_out_at(self, attempt: Attempt, due_us: int, text: str) -> None:
        attempt.alarms = [*attempt.alarms, self._alarms.at(due_us, lambda: self.time_out(attempt, text))]

    def _watch_beats(self, attempt: Attempt, heartbeat_us: int) -> None:
        def look() -> None:
            if attempt.beat_us + heartbeat_us <= self._clock.now_us():
                self.time_out(attempt, f"gave no heartbeat for {heartbeat_us / 1e6:g} s")
            elif not attempt.over:
                kept = [alarm for alarm in attempt.alarms if alarm.call is not None]
                attempt.alarms = [*kept, self._alarms.at(attempt.beat_us + heartbeat_us, look)]

        attempt.alarms = [*attempt.alarms, self._alarms.at(attempt.beat_us + heartbeat_us, look)]

    def time_out(self, attempt: Attempt, text: str) -> None:
        """The attempt has failed by the clock; its code is told to stop, and what it still says is ignored."""
        if attempt.over or not attempt.give_up():
            return
        message = f"attempt {attempt.number} of activity {attempt.definition.name!r} {text}"
        self._fail(attempt, Failure(_TIMEOUT, message), (_TIMEOUT, "OSError", "Exception"))
        self._tell_to_stop(attempt, message)

    def cancel(self, attempt: Attempt, reason: str) -> None:
        """Nobody wants the result any more: tell the code to stop, and ignore what it says."""
        attempt.give_up()  # or else its result is in the inbox soon, for whoever still wants it
        self._close(attempt)
        self._tell_to_stop(attempt, reason)

    def _tell_to_stop(self, attempt: Attempt, reason: str) -> None:
        if attempt.context is not None:
            attempt.context.mark_cancelled(reason)
        if attempt.task is not None:
            attempt.task.cancel(reason)

    def note_beat(self, attempt: Attempt, details: bytes) -> None:
        """Called by user code, on any thread."""
        if len(details) > self._settings.payload_limit_bytes:
            raise PayloadTooLarge("the heartbeat details", len(details), self._settings.payload_limit_bytes)
        attempt.beat_us = self._clock.now_us()
        if not attempt.over:
            attempt.activity.details = details
            self._record_beat(attempt.owner, attempt.activity.task, attempt.number, details)

    async def stop(self, grace_s: float) -> None:
        """Wait for what runs, then interrupt it: it runs again, as an attempt that does not count.

        No further attempt begins from here on: what asks for one is queued, and begins in the next engine.
        """
        self._stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self.running:
                    self._quiet.clear()
                    await self._quiet.wait()
        for attempt in [attempt for attempt in self.running if not attempt.over and attempt.give_up()]:
            self._close(attempt)
            event = ev.AttemptFailed(
                attempt.activity.task,
                attempt.number,
                _STOPPED,
                self._clock.now_us(),
                counts=False,
                details=attempt.activity.details,
            )
            attempt.owner.tell(event)
            self._tell_to_stop(attempt, "the engine is closing")
        while any(not attempt.over for attempt in self.running):  # noqa: ASYNC110  # being committed: that is a moment
            await asyncio.sleep(0.001)

    def abandon(self) -> None:
        """Interrupt everything at once; nothing that it says will be heard."""
        for attempt in list(self.running):
            if not attempt.over:
                self.cancel(attempt, "this worker has lost its lease")
        self._queues.clear()
        if self._circuits is not None:
            self._circuits.clear()

    async def join(self) -> None:
        """Wait for the interrupted coroutines to end, then let the idle threads end."""
        tasks = [attempt.task for attempt in self.running if attempt.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        self._threads.stop()


def is_suspect(activity: PendingActivity) -> bool:
    """Whether an attempt, of one that was lost before, may be what kills its process."""
    return activity.losses >= 2 or _is_last(activity, activity.attempt)


def _is_last(activity: PendingActivity, attempt: int) -> bool:
    """Whether the retry policy allows none after `attempt`."""
    retry = (activity.options and activity.options.retry) or DEFAULT_RETRY
    return attempt - activity.uncounted >= retry.max_attempts


def failed_attempt(
    activity: PendingActivity, failure: Failure, type_names: tuple[str, ...], clock: Clock
) -> ev.AttemptFailed | ev.ActivityFailed:
    """What follows the failure of the current attempt: another attempt, or the end.

    Judged once, by the time of the failure, and recorded; replay never judges again.
    """
    options = activity.options
    retry = (options and options.retry) or DEFAULT_RETRY
    made = activity.attempt - activity.uncounted
    now_us = clock.now_us()
    if not retry.gives_up_after(made, type_names):
        lost = failure.type_name == WORKER_LOST
        retry_at_us = now_us if lost else now_us + retry.delay_us(made, clock.draw())
        limit_us = options.schedule_to_close_us if options is not None else 0
        if not limit_us or retry_at_us < activity.scheduled_at_us + limit_us:
            return ev.AttemptFailed(activity.task, activity.attempt, failure, retry_at_us, details=activity.details)
    return ev.ActivityFailed(activity.task, failure, made, activity.attempt)


__all__ = ["ActivityCancelled", "Attempt", "Attempts", "Owner", "failed_attempt", "is_suspect"]
