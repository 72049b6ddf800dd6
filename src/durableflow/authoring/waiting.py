"""What a workflow can wait for by itself: time, events, and tasks together."""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Iterable
from datetime import datetime
from types import UnionType
from typing import Any, TypeVar, cast, overload

from durableflow.core.execution import Execution
from durableflow.core.task import Task
from durableflow.errors import UsageError
from durableflow.model import converter
from durableflow.model.duration import Duration, from_datetime, to_us
from durableflow.model.ids import check_name

R = TypeVar("R")
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")


class Waiting:
    """The part of a `Context` that is about time, events and tasks."""

    __slots__ = ("_execution",)

    _execution: Execution

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


def _parts(tasks: tuple[Any, ...]) -> list[Task[Any]]:
    if len(tasks) == 1 and not isinstance(tasks[0], Task) and isinstance(tasks[0], Iterable):
        return list(cast("Iterable[Task[Any]]", tasks[0]))
    return list(tasks)
