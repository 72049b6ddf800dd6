"""What a workflow may ask for: each call becomes a decision, or is matched with the recorded one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, Protocol

from durableflow.core.branch import STUBBORN, Steps
from durableflow.core.current import current_execution
from durableflow.core.describe import describe
from durableflow.core.driver import Driver
from durableflow.core.locations import definition_location, suspended_location, user_location
from durableflow.core.mailbox import Mailbox
from durableflow.core.record import Record, same, same_activity
from durableflow.core.task import Again, ErrorFactory, Task, WhenAll, WhenAny
from durableflow.core.timers import Timers
from durableflow.core.turn import PendingActivity, Turn
from durableflow.errors import ForeignAwaitError, NondeterminismError, PayloadTooLarge, UsageError
from durableflow.model import events as ev
from durableflow.model.converter import NULL, Loader, digest
from durableflow.model.failure import record, side_effect_failed

NO_TURN: Final = Turn(1, 0)
"""What stands for the turn while there is none, live or in replay."""
_NO_DECISIONS: Final[list[ev.Event]] = []


class Program(Protocol):
    """A workflow as the core needs it."""

    @property
    def name(self) -> str:
        """Its registered name."""
        ...

    def begin(self, execution: Any, data: bytes) -> object:
        """Call the user's function with its arguments decoded from `data`."""
        ...

    def dump_result(self, value: object) -> bytes:
        """What it returned, as payload bytes."""
        ...


class _Halt(BaseException):
    """Unwinds user code after the replay has gone wrong; never seen outside."""


class Decider(Driver):
    """What one instance has asked for, and what of it is still open.

    Args:
        instance_id: whose.
        program: the code.
        payload_limit_bytes: no payload that the code makes may be larger.
    """

    __slots__ = (
        "_decisions",
        "_ending_at",
        "_inert_calls",
        "_kept_taken",
        "_last_number",
        "_patches",
        "_random",
        "_record",
        "_seed",
        "_turn",
        "_uuid_random",
        "activities",
        "custom_status",
        "elsewhere",
        "instance_id",
        "mailbox",
        "next_seq",
        "now_us",
        "payload_limit_bytes",
        "program",
        "replaying",
        "tasks",
        "timers",
        "unstarted",
    )

    def __init__(self, instance_id: str, program: Program, payload_limit_bytes: int) -> None:
        Driver.__init__(self)  # not by `super`, which would cost a tenth of it
        self.instance_id = instance_id
        self.program = program
        self.payload_limit_bytes = payload_limit_bytes
        self.now_us = 0
        """Workflow time: that of the observation being delivered. Never runs backwards."""
        self.next_seq = 1
        self.replaying = False
        self.custom_status: bytes | None = None
        self.tasks: dict[int, Task[Any]] = {}
        """What has no answer yet, by number."""
        self.activities: dict[int, PendingActivity] = {}
        """What was scheduled and has no recorded result, by task number."""
        self.unstarted: dict[int, PendingActivity] = {}
        """Those of `activities` whose current attempt may not run yet: queued, or between attempts."""
        self.elsewhere: dict[int, PendingActivity] | None = None
        """Those of `activities` whose attempts are none of the owning worker's: queued, or handed over. None until
        there was one, or the instance itself came through a queue."""
        self._last_number = 0
        self._turn = NO_TURN
        self._decisions = _NO_DECISIONS
        """Where decisions go while the code runs live."""
        self._ending_at = ""
        self._inert_calls = 0
        self._seed = instance_id
        """What its dice are seeded with."""
        self._kept_taken = False
        """An external event was taken that had been kept."""
        # What many instances never need is made when it is needed.
        self.timers: Timers | None = None
        self.mailbox: Mailbox | None = None
        self._record: Record | None = None
        self._patches: dict[str, bool] | None = None
        self._random: random.Random | None = None
        self._uuid_random: random.Random | None = None

    # -- what a context asks for ----------------------------------------------------------------------------

    def schedule_activity(self, name: str, data: bytes, options: ev.ActivityOptions | None, load: Loader) -> Task[Any]:
        """Ask for an activity; `load` reads its result back."""
        if len(data) > self.payload_limit_bytes:
            raise PayloadTooLarge(f"the input of activity {name!r}", len(data), self.payload_limit_bytes)
        task = self._new_task(name, load)
        number = task.number
        if self.replaying:
            options = self._expect_activity(number, name, data).options
            activity = self.activities[number] = PendingActivity(number, name, data, options, self.now_us)
        else:
            self._decisions.append(ev.ActivityScheduled(number, name, data, digest(data), options))
            activity = self.activities[number] = PendingActivity(number, name, data, options, self.now_us)
            self._turn.schedule(activity)
        if options is not None and options.queue:
            self.set_elsewhere(activity)
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
        self._decide(ev.EventAwaited(task.number, name.casefold(), due_us))
        self._line_up(task)
        if timeout_us is not None and not task.done:
            self._arm(task.number, due_us)
        return task

    def side_effect(self, make: Callable[[], bytes]) -> bytes:
        """`make()` the first time, the recorded bytes ever after; what it raises is recorded too."""
        self._check_usable()
        self._last_number += 1
        if self.replaying:
            recorded = self._expect(ev.SideEffectRecorded(self._last_number, b""))
            assert isinstance(recorded, ev.SideEffectRecorded)
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
            if len(value) > self.payload_limit_bytes:
                raise PayloadTooLarge("the value of a side effect", len(value), self.payload_limit_bytes)
        except Exception as error:
            return ev.SideEffectRecorded(number, NULL, record(error, skip_frames=2))
        finally:
            current_execution.reset(token)
        return ev.SideEffectRecorded(number, value)

    def set_custom_status(self, value: bytes) -> None:
        """Show `value` to whoever looks at the instance."""
        self._check_usable()
        if len(value) > self.payload_limit_bytes:
            raise PayloadTooLarge("the custom status", len(value), self.payload_limit_bytes)
        self._decide(ev.CustomStatusSet(value))
        self.custom_status = value

    def patched(self, name: str) -> bool:
        """Whether this instance takes the new way at `name`: it does unless it had passed there before the patch."""
        self._check_usable()
        if self._patches is None:
            self._patches = {}
        known = self._patches.get(name)
        if known is None:
            if self.replaying:
                assert self._record is not None
                known = self._record.has_patch(name)
            else:
                self._decisions.append(ev.PatchRecorded(name))
                known = True
            self._patches[name] = known
        return known

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
        try:
            self._check_usable()
        except BaseException:
            steps.close()  # nobody will: of a coroutine that is just dropped, Python warns
            raise
        task: Task[Any] = Task(self, 0, label)
        self._drive_branch(steps, task)
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
                    self.wake_waiters(part)
                    stack += reversed(part.parts)
                else:
                    self.cancel_task(part)
            return True
        if task.number == 0:
            return self._cancel_branch(task)
        self._decide(ev.TaskCancelled(task.number))
        self._give_up_other(task.number)
        if self.drop_activity(task.number) and not self.replaying:
            self._turn.cancel((task.number,))
        self.disarm(task.number)
        self.tasks.pop(task.number, None)
        task.settle_cancelled()
        self.wake_waiters(task)
        return True

    def _give_up_other(self, number: int) -> None:
        """The workflow no longer wants the answer to `number`, which may be another instance's."""
        raise NotImplementedError

    def random(self) -> random.Random:
        """Dice that fall the same in replay."""
        self._check_usable()
        if self._random is None:
            self._random = random.Random(f"random:{self._seed}")  # noqa: S311  # reproducible on purpose
        return self._random

    def random_bits(self, count: int) -> int:
        """Bits for ids, from dice of their own."""
        self._check_usable()
        if self._uuid_random is None:
            self._uuid_random = random.Random(f"uuid:{self._seed}")  # noqa: S311  # reproducible on purpose
        return self._uuid_random.getrandbits(count)

    # -- what becomes of it ---------------------------------------------------------------------------------

    def set_unstarted(self, activity: PendingActivity) -> None:
        """Its current attempt may not run yet."""
        activity.started = False
        self.unstarted[activity.task] = activity

    def reschedule(self, activity: PendingActivity) -> None:
        """It goes into its queue once more."""
        if not self.replaying:
            self._turn.schedule(activity)

    def set_elsewhere(self, activity: PendingActivity) -> None:
        """Its current attempt is none of the owning worker's."""
        if self.elsewhere is None:
            self.elsewhere = {}
        self.elsewhere[activity.task] = activity

    def drop_activity(self, number: int) -> bool:
        """Its result is known, or not wanted; False when it was not pending."""
        if self.elsewhere:
            self.elsewhere.pop(number, None)
        if self.unstarted:
            self.unstarted.pop(number, None)
        return self.activities.pop(number, None) is not None

    def disarm(self, number: int) -> None:
        """Task `number` is not due any more."""
        if self.timers is not None:
            self.timers.disarm(number)

    def resolve(self, number: int, data: bytes) -> None:
        """The answer to task `number` is `data`."""
        task = self.tasks.pop(number, None)
        if task is None:
            return
        assert task.load is not None
        try:
            value = task.load(data)
        except Exception as error:
            task.settle(None, Again(error, None))
        else:
            task.settle(value, None)
        self.wake_waiters(task)

    def fail(self, task: Task[Any], error: ErrorFactory) -> None:
        """The answer to `task` is an error."""
        del self.tasks[task.number]
        task.settle(None, error)
        self.wake_waiters(task)

    def _new_task(self, label: str, load: Loader | None) -> Task[Any]:
        if self.inert or not self._running_user_code or current_execution.get() is not self:
            self._check_usable()
        self._last_number = number = self._last_number + 1
        task = self.tasks[number] = Task(self, number, label, load)
        return task

    def _arm(self, number: int, due_us: int) -> None:
        if self.timers is None:
            self.timers = Timers()
        self.timers.arm(number, due_us)

    def mailbox_made(self) -> Mailbox:
        """The mailbox, which is made when it is needed."""
        if self.mailbox is None:
            self.mailbox = Mailbox()
        return self.mailbox

    def _line_up(self, task: Task[Any]) -> None:
        mailbox = self.mailbox_made()
        name = task.label.casefold()
        kept = mailbox.take(name)
        if kept is None:
            mailbox.wait(name, task.number, self.tasks)
        else:
            self._kept_taken = True
            self.disarm(task.number)
            self.resolve(task.number, kept)

    def _leave_line(self, task: Task[Any]) -> bool:
        return self.mailbox is not None and self.mailbox.leave(task.label.casefold(), task.number)

    # -- matching what is asked with what is recorded -------------------------------------------------------

    def _decide(self, decision: ev.Decision) -> None:
        if self.replaying:
            self._expect(decision)
        else:
            self._decisions.append(decision)

    def _expect(self, asked: ev.Decision) -> ev.Event:
        assert self._record is not None
        recorded = self._record.take()
        if recorded is None or not same(recorded, asked):
            self._mismatch(describe(asked), recorded, self._asking_location())
        return recorded

    def _expect_activity(self, number: int, name: str, data: bytes) -> ev.ActivityScheduled:
        assert self._record is not None
        recorded = self._record.take()
        if not isinstance(recorded, ev.ActivityScheduled) or not same_activity(recorded, number, name, data):
            asked = ev.ActivityScheduled(number, name, data, digest(data))
            self._mismatch(describe(asked), recorded, self._asking_location())
        return recorded

    def _mismatch(self, asked: str, recorded: ev.Event | None, location: str) -> NoReturn:
        if recorded is None:
            seq, what = self.next_seq, "nothing more"
        else:
            assert self._record is not None
            seq, what = self._record.taken_seq, describe(recorded)
        self._trouble = NondeterminismError(self.instance_id, self.program.name, seq, what, asked, location)
        self.inert = True
        raise _Halt if self._running_user_code else self._trouble

    def _asking_location(self) -> str:
        if self._running_user_code:
            return user_location()
        return self._ending_at or definition_location(self.program)

    def _waiting_location(self) -> str:
        return "" if self._main is None else suspended_location(self._main.steps)

    # -- who may ask ----------------------------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self.inert:
            self._refuse_inert()
        elif not self._running_user_code or current_execution.get() is not self:
            raise self._used_outside()

    def _used_outside(self) -> UsageError:
        return UsageError(
            f"the context of instance {self.instance_id!r} was used outside its workflow; ctx methods work "
            "only while the workflow's own code runs, not in activities, threads, asyncio tasks, side effects or "
            "queries"
        )

    def _refuse_inert(self) -> None:
        self._inert_calls += 1
        if self._inert_calls <= STUBBORN:
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
