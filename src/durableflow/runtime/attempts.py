"""Attempts of activities: running them, stopping them, and telling what came of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final, Protocol

from durableflow.authoring.activity import ActivityContext, current_activity
from durableflow.core.turn import PendingActivity
from durableflow.errors import HandedOver, PayloadTooLarge, UsageError, qualified_name
from durableflow.model import converter
from durableflow.model import events as ev
from durableflow.model.failure import Failure, record
from durableflow.runtime.alarms import Alarms
from durableflow.runtime.attempt import (
    TIMEOUT_NAMES,
    AnyActivity,
    Attempt,
    Owner,
    Request,
    failed_attempt,
    limits_of,
    timed_out,
)
from durableflow.runtime.circuits import Circuits
from durableflow.runtime.clock import Clock
from durableflow.runtime.places import Places
from durableflow.runtime.settings import Settings
from durableflow.runtime.threads import DaemonThreads

_STORE_RETRY_US: Final = 1_000_000
_STOPPED: Final = Failure("WorkerStopped", "the engine was closed while this attempt was running")


class EndListener(Protocol):
    """Told of each attempt that failed."""

    def __call__(self, attempt: Attempt, failure: Failure, *, final: bool) -> None:
        """`final`: no other attempt follows."""
        ...


class Attempts(Places):
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
        Places.__init__(self, settings, alarms, circuits)
        self._clock = clock
        self._record_beat = beat
        self._told_ended = ended
        self.offer = offer
        self._threads = DaemonThreads(settings.activity_threads)
        self._loop = asyncio.get_running_loop()
        self._quiet = asyncio.Event()
        self.running: dict[Attempt, None] = {}
        """In the order in which they began: a set would have them given up by their addresses."""
        self._committing: Counter[str] = Counter()
        self._after_commits: dict[str, list[Callable[[], None]]] = {}
        self.begin_in_store: Callable[[Attempt], None] | None = None
        """Has transactional ones run."""

    def _tell_unmade(self, request: Request, failure: Failure) -> None:
        self._told_ended(Attempt(request.owner, request.activity, request.definition), failure, final=True)

    # -- running --------------------------------------------------------------------------------------------

    def begin(self, owner: Owner, activity: PendingActivity, definition: AnyActivity) -> None:
        """Run the current attempt of `activity`, whose place is reserved and whose start is durable."""
        if owner.requests:
            owner.requests.pop(activity.task, None)  # its place is the attempt's now
        attempt = Attempt(owner, activity, definition)
        attempt.runner = self
        owner.attempts[activity.task] = attempt
        self.running[attempt] = None
        attempt.context = ActivityContext(
            owner.id,
            activity.task,
            activity.name,
            attempt.number,
            activity.details,
            attempt,
            None if definition.is_async else self._loop,
            activity.scheduled_at_us,
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
            # It is known as `attempt.task` from its first step on: one that is cancelled before that is never entered,
            # and would keep its place.
            asyncio.Task(self._run_async(attempt), loop=self._loop, name=definition.name)
        else:
            self._run_in_thread(attempt)

    async def _run_async(self, attempt: Attempt) -> None:
        if attempt.over:  # it was given up before its first step
            self._free(attempt)
            return
        attempt.task = asyncio.current_task(self._loop)
        current_activity.set(attempt.context)
        definition = attempt.definition
        try:
            args, kwargs = definition.arguments.load(attempt.activity.input)
            output = self.dump(definition, await definition.function(*args, **kwargs))
        except KeyboardInterrupt:
            self._free(attempt)
            raise
        except GeneratorExit as error:
            if asyncio.current_task(self._loop) is not attempt.task:  # it is being put away, with the loop
                self._free(attempt)
                raise
            self._ended(attempt, None, error)
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
        self.running.pop(attempt, None)
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
        for due_us, text in limits_of(attempt.activity, options, now_us):
            self._time_out_at(attempt, due_us, text)
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
        failure = timed_out(attempt.definition.name, attempt.number, text)
        self._fail(attempt, failure, TIMEOUT_NAMES)
        self._tell_to_stop(attempt, failure.message)

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
        if self.running:
            await asyncio.sleep(0)  # those that were given up before their first step take it now, and are over
        tasks = [attempt.task for attempt in self.running if attempt.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        self._threads.stop()
