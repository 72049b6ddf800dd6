"""What a workflow gets: everything that it may ask of the world.

Each method that asks for something schedules it when it is called, and gives a `Task`
to wait for, now or later. The core does the work; this module is the face of it.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable, Coroutine, Generator, Iterable, MutableMapping
from datetime import datetime
from types import UnionType
from typing import Any, Final, ParamSpec, TypeVar, TypeVarTuple, cast, overload

from durableflow.authoring.activity import Activity, store_options
from durableflow.core.execution import Execution
from durableflow.core.task import Task
from durableflow.errors import UsageError
from durableflow.model import converter
from durableflow.model.duration import Duration, from_datetime, to_datetime, to_us
from durableflow.model.ids import check_name
from durableflow.model.retry import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
Ts = TypeVarTuple("Ts")

_LOGGER: Final = logging.getLogger("durableflow.workflow")


class Context:
    """The one door between a workflow and the world; its methods work only in the workflow's own code."""

    __slots__ = ("_execution", "_logger")

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._logger: ReplaySilentLogger | None = None

    # -- asking for things ----------------------------------------------------------------------------------

    def call_activity(self, activity: Activity[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Task[R]:
        """Have an activity run; the task's result is what it returned, read back from the record.

        Raises (at the wait):
            ActivityFailed: all attempts failed.

        Raises (at once):
            PayloadError: an argument cannot be stored.
        """
        if not isinstance(activity, Activity):  # pyright: ignore[reportUnnecessaryIsInstance]  # users pass anything
            raise _not_an_activity(activity)
        data = activity.arguments.dump(args, kwargs, activity.arguments_text)
        execution = self._execution
        if execution.on_activity_object is not None:
            execution.on_activity_object(activity)
        return execution.schedule_activity(activity.name, data, activity.stored_options, activity.result_loader())

    @overload
    def call_activity_by_name(
        self,
        name: str,
        /,
        *args: object,
        result_type: type[T],
        retry: RetryPolicy | int | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        schedule_to_close: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        queue: str | None = None,
        priority: int | None = None,
        fairness_key: str | None = None,
    ) -> Task[T]: ...
    @overload
    def call_activity_by_name(
        self,
        name: str,
        /,
        *args: object,
        result_type: UnionType | None = None,
        retry: RetryPolicy | int | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        schedule_to_close: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        queue: str | None = None,
        priority: int | None = None,
        fairness_key: str | None = None,
    ) -> Task[Any]: ...
    def call_activity_by_name(
        self,
        name: str,
        /,
        *args: object,
        result_type: Any = None,
        retry: RetryPolicy | int | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        schedule_to_close: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        queue: str | None = None,
        priority: int | None = None,
        fairness_key: str | None = None,
    ) -> Task[Any]:
        """Have the activity registered as `name` run; its function need not be imported here.

        Args:
            result_type: what the result is read back as; plain JSON values when left out.
            retry, timeout, schedule_to_start, schedule_to_close, heartbeat_timeout, queue, priority, fairness_key:
                as for `@activity`.
        """
        check_name(name, "the name of an activity")
        data = converter.dump(args, f"the arguments of activity {name!r}") if args else converter.EMPTY_ARGUMENTS
        options = store_options(
            retry, timeout, schedule_to_start, schedule_to_close, heartbeat_timeout, queue, priority, fairness_key
        )
        return self._execution.schedule_activity(name, data, options, converter.loader(result_type or Any))

    def sleep(self, duration: Duration) -> Task[None]:
        """Be woken after `duration` (seconds or timedelta) of workflow time; durable, never early."""
        return self._execution.create_timer(to_us(duration, "the duration of sleep"))

    def create_timer(self, due: Duration | datetime) -> Task[None]:
        """Be woken at a moment (with a time zone) or after a duration; a past moment is due at once."""
        if isinstance(due, datetime):
            delay_us = max(0, from_datetime(due, "due") - self._execution.now_us)
            return self._execution.create_timer(delay_us)
        return self._execution.create_timer(to_us(due, "due"))

    @overload
    def wait_for_event(self, name: str, type_: type[T], /, *, timeout: Duration | None = None) -> Task[T]: ...
    @overload
    def wait_for_event(self, name: str, type_: UnionType, /, *, timeout: Duration | None = None) -> Task[Any]: ...
    @overload
    def wait_for_event(self, name: str, /, *, timeout: Duration | None = None) -> Task[Any]: ...
    def wait_for_event(self, name: str, type_: Any = Any, /, *, timeout: Duration | None = None) -> Task[Any]:
        """The payload of the next external event called `name` (any case), read as `type_`.

        Events that came before are kept and answer first, in the order in which they came.

        Raises (at the wait):
            EventTimeout: none came within `timeout`.
            PayloadError: one came whose payload is no `type_`.
        """
        check_name(name, "the name of an event")
        timeout_us = None if timeout is None else to_us(timeout, "timeout")
        return self._execution.await_event(name, converter.loader(type_), timeout_us)

    @overload
    def when_all(self, a: Task[T1], /) -> Task[tuple[T1]]: ...  # first: a task can be iterated over, too
    @overload
    def when_all(self, tasks: Iterable[Task[T]], /) -> Task[list[T]]: ...
    @overload
    def when_all(self, a: Task[T1], b: Task[T2], /) -> Task[tuple[T1, T2]]: ...
    @overload
    def when_all(self, a: Task[T1], b: Task[T2], c: Task[T3], /) -> Task[tuple[T1, T2, T3]]: ...
    @overload
    def when_all(self, a: Task[T1], b: Task[T2], c: Task[T3], d: Task[T4], /) -> Task[tuple[T1, T2, T3, T4]]: ...
    @overload
    def when_all(
        self, a: Task[T1], b: Task[T2], c: Task[T3], d: Task[T4], e: Task[T5], /
    ) -> Task[tuple[T1, T2, T3, T4, T5]]: ...
    @overload
    def when_all(self, /, *tasks: Task[T]) -> Task[tuple[T, ...]]: ...
    def when_all(self, /, *tasks: Any) -> Task[Any]:
        """Wait for all tasks, then give their results in the order of the arguments.

        An iterable of tasks gives a list, tasks as arguments give a tuple. When some failed,
        the failure that came first is raised, after all are done.
        """
        parts = _parts(tasks)
        return self._execution.when_all(parts, tuple if not tasks or isinstance(tasks[0], Task) else list)

    @overload
    def when_any(self, /, *tasks: Task[T]) -> Task[Task[T]]: ...  # first: a task can be iterated over, too
    @overload
    def when_any(self, tasks: Iterable[Task[T]], /) -> Task[Task[T]]: ...
    def when_any(self, /, *tasks: Any) -> Task[Any]:
        """Wait for the first task to be done, in whatever way, and give that task.

        The others go on: wait for them later, or `cancel()` them. Of no tasks at all: None, at once.
        """
        return self._execution.when_any(_parts(tasks))

    def spawn(self, branch: Generator[Any, Any, R] | Coroutine[Any, Any, R], /) -> Task[R]:
        """Drive a branch of several steps beside the others: `ctx.spawn(ship(ctx, order))`.

        It begins when the code here next waits. Branches that are still going when the workflow
        ends are dropped.
        """
        if not (hasattr(branch, "send") and hasattr(branch, "throw")):
            raise UsageError(
                f"spawn takes a generator or coroutine, not {branch!r:.60}; call the function: ctx.spawn(branch(ctx))"
            )
        label = getattr(branch, "__qualname__", "branch")
        return self._execution.spawn(branch, label)

    def side_effect(self, make: Callable[[], R], /) -> R:
        """`make()`, called once and recorded; for small local facts. What can fail belongs in an activity.

        The value is the stored one: plain JSON values, or the annotated return type of `make`.

        Raises:
            SideEffectFailed: `make()` raised; recorded too, so that replay raises the same.
        """
        kind = converter.hints_of(make).get("return", Any)
        data = self._execution.side_effect(lambda: converter.dump(make(), "the side effect"))
        return cast("R", converter.loader(kind)(data))

    def set_custom_status(self, value: object, /) -> None:
        """Show `value` (stored as JSON) to whoever looks at this instance."""
        self._execution.set_custom_status(converter.dump(value, "the custom status"))

    def patched(self, name: str, /) -> bool:
        """Whether this instance takes the new way: False only for one that had passed here before the patch was made.

        Guards a change of code while instances are open: `if ctx.patched("charge-first"): ... else: ...`. The first
        answer is recorded and given ever after, in loops too. When no instance is open any more that took the old way,
        take out the old way and the question.

        Args:
            name: of the patch; one name for one change.

        Raises:
            UsageError: the name is empty, too long or cannot be stored.
        """
        return self._execution.patched(check_name(name, "the name of a patch"))

    # -- knowing things -------------------------------------------------------------------------------------

    @property
    def instance_id(self) -> str:
        """The id of this instance."""
        return self._execution.instance_id

    @property
    def is_replaying(self) -> bool:
        """True while recorded history is being followed; do not let decisions depend on it."""
        return self._execution.replaying or self._execution.inert

    @property
    def is_cancelled(self) -> bool:
        """True once somebody asked for this instance to be cancelled."""
        return self._execution.cancel_requested

    def now(self) -> datetime:
        """Workflow time, in UTC: that of the turn, the same in replay; never runs backwards."""
        return to_datetime(self._execution.now_us)

    def random(self) -> random.Random:
        """Dice of this instance, which fall the same in replay."""
        return self._execution.random()

    def uuid4(self) -> uuid.UUID:
        """A random UUID, the same in replay."""
        return uuid.UUID(int=self._execution.random_bits(128), version=4)

    @property
    def logger(self) -> ReplaySilentLogger:
        """A logger (`durableflow.workflow`) that is silent in replay and tells the instance id."""
        if self._logger is None:
            self._logger = ReplaySilentLogger(_LOGGER, self._execution)
        return self._logger


class ReplaySilentLogger(logging.LoggerAdapter[logging.Logger]):
    """Says nothing in replay, so that each line is written once."""

    def __init__(self, logger: logging.Logger, execution: Execution) -> None:
        super().__init__(logger, {"instance_id": execution.instance_id, "workflow": execution.program.name})
        self._execution = execution

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # the name that logging calls
        """False in replay."""
        return not (self._execution.replaying or self._execution.inert) and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Put the instance id before the message and into the record."""
        message, kwargs = super().process(msg, kwargs)
        return f"[{self._execution.instance_id}] {message}", kwargs


def _not_an_activity(value: object) -> UsageError:
    if isinstance(value, str):
        return UsageError(
            f"call_activity takes an activity, not its name; write ctx.call_activity_by_name({value!r}, ...)"
        )
    name = getattr(value, "__name__", None)
    hint = f"; decorate it: @activity def {name}(...)" if callable(value) and name else ""
    return UsageError(f"call_activity takes an activity, not {value!r:.60}{hint}")


def _parts(tasks: tuple[Any, ...]) -> list[Task[Any]]:
    if len(tasks) == 1 and not isinstance(tasks[0], Task) and isinstance(tasks[0], Iterable):
        return list(cast("Iterable[Task[Any]]", tasks[0]))
    return list(tasks)
