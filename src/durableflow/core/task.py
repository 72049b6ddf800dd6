"""What a context method returns: something that will have a result, or be cancelled."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from enum import Enum
from types import TracebackType
from typing import Any, Final, Generic, Protocol, TypeVar

from durableflow.errors import TaskCancelled, UsageError
from durableflow.model.converter import Loader

R_co = TypeVar("R_co", covariant=True)

ErrorFactory = Callable[[], BaseException]


class TaskState(Enum):
    """Where a task stands."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


# Looked up once: until Python 3.12 a member of an enum costs as much as three calls.
WAITING: Final = TaskState.WAITING
_DONE: Final = TaskState.DONE
_FAILED: Final = TaskState.FAILED


class Again:
    """One exception for each of several waiters, as it was when it was raised, without traces of the others."""

    __slots__ = ("_cause", "_context", "_frames", "_suppress", "error", "seen")

    def __init__(self, error: BaseException, frames: TracebackType | None) -> None:
        self.error = error
        self._frames = frames
        self._cause, self._context = error.__cause__, error.__context__
        self._suppress = error.__suppress_context__
        self.seen = False
        """Whether somebody was told of it."""

    def __call__(self) -> BaseException:
        """The exception, for one waiter more."""
        error = self.error
        self.seen = True
        error.__cause__, error.__context__ = self._cause, self._context
        error.__suppress_context__ = self._suppress
        return error.with_traceback(self._frames)


class Waiter(Protocol):
    """What can wait for a task: a branch of the workflow, or a task made of others."""

    def wake(self, settled: Task[Any]) -> Task[Any] | None:
        """Take note of `settled`; return the task that this settles in turn, if any."""
        ...


class Owner(Protocol):
    """What made a task, and can give it up."""

    def cancel_task(self, task: Task[Any]) -> bool:
        """See `Task.cancel`."""
        ...


class Task(Generic[R_co]):
    """Something that the workflow asked for; `yield from` it, `await` it, combine or cancel it.

    A task is scheduled when it is made, not when it is waited for.
    """

    # Most have one waiter or none: only several make a list.
    __slots__ = ("_waiters", "error", "execution", "label", "load", "number", "state", "value")

    def __init__(self, execution: Owner, number: int, label: str, load: Loader | None = None) -> None:
        self.execution = execution
        """The replay that this task belongs to."""
        self.number = number
        """Its number among what the workflow asked for; 0 for a combination of others."""
        self.label = label
        self.load = load
        """Reads the answer that comes from outside; None when there is none to read."""
        self.state: TaskState = WAITING
        self.value: Any = None
        """Of one that is done; `result` is for workflows."""
        self.error: ErrorFactory | None = None
        """Makes the exception of one that has failed or was cancelled."""
        self._waiters: Waiter | list[Waiter] | None = None

    def __iter__(self) -> Generator[Task[Any], Any, R_co]:
        value: R_co = yield self
        return value

    __await__ = __iter__

    def __repr__(self) -> str:
        return f"<task {self.label} ({self.state.value})>"

    def __bool__(self) -> bool:
        raise UsageError(f"{self!r} has no truth of its own; wait for it first: (yield from task) or (await task)")

    @property
    def done(self) -> bool:
        """True when it has a result, has failed or was cancelled."""
        return self.state is not WAITING

    @property
    def cancelled(self) -> bool:
        """True when the workflow cancelled it before it was done."""
        return self.state is TaskState.CANCELLED

    def result(self) -> R_co:
        """The result of a task that is done.

        Raises:
            UsageError: it is not done.
            TaskError: it failed or was cancelled.
        """
        if self.state is WAITING:
            raise UsageError(f"{self!r} is not done; wait for it first")
        if self.error is not None:
            raise self.error()
        value: R_co = self.value
        return value

    def cancel(self) -> bool:
        """Give the task up: its activity is told, its timer or wait is dropped.

        Waiting for it from now on raises `TaskCancelled`. A branch gets `Cancelled` raised
        at its wait instead, so that it can clean up.

        Returns:
            False when it was done already, and nothing changed.
        """
        return self.execution.cancel_task(self)

    # -- for the engine -------------------------------------------------------------------------------------

    def add_waiter(self, waiter: Waiter) -> None:
        """`waiter` is woken when it settles, behind those that came before."""
        waiters = self._waiters
        if waiters is None:
            self._waiters = waiter
        elif isinstance(waiters, list):
            waiters.append(waiter)
        else:
            self._waiters = [waiters, waiter]

    def remove_waiter(self, waiter: Waiter) -> None:
        """`waiter` is not woken any more; nothing changes when it was not there."""
        waiters = self._waiters
        if waiters is waiter:
            self._waiters = None
        elif isinstance(waiters, list) and waiter in waiters:
            waiters.remove(waiter)

    def take_waiters(self) -> Sequence[Waiter]:
        """Who is to be woken, in order; from now on nobody is."""
        waiters, self._waiters = self._waiters, None
        return () if waiters is None else waiters if isinstance(waiters, list) else (waiters,)

    @property
    def waiters(self) -> Sequence[Waiter]:
        """Who is woken when it settles, in order."""
        waiters = self._waiters
        return () if waiters is None else waiters if isinstance(waiters, list) else (waiters,)

    def settle(self, value: Any, error: ErrorFactory | None) -> None:
        """Make it done; its waiters are woken by the caller."""
        self.state = _DONE if error is None else _FAILED
        self.value = value
        self.error = error

    def settle_cancelled(self) -> None:
        """Make it cancelled; its waiters are woken by the caller."""
        label = self.label
        self.state = TaskState.CANCELLED
        self.error = lambda: TaskCancelled(f"{label} was cancelled by the workflow")


class ChildTask(Task[R_co]):
    """What `call_workflow` returns: done when the child is over.

    Attributes:
        child_id: the instance id of the child; of a call that is retried, that of the first one.
    """

    __slots__ = ("child_id",)

    def __init__(self, execution: Owner, number: int, label: str, load: Loader | None, child_id: str) -> None:
        super().__init__(execution, number, label, load)
        self.child_id = child_id


class WhenAll(Task[Any]):
    """Done when all of `parts` are; fails with the first failure in order of completion."""

    __slots__ = ("_first_error", "_kind", "_missing", "parts")

    def __init__(self, execution: Owner, parts: Sequence[Task[Any]], kind: type[list[Any] | tuple[Any, ...]]) -> None:
        super().__init__(execution, 0, f"when_all of {len(parts)}")
        self.parts = parts
        self._kind = kind
        self._first_error: ErrorFactory | None = None
        self._missing = 0
        for part in parts:
            if part.done:
                self._note(part)
            else:
                self._missing += 1
                part.add_waiter(self)
        if not self._missing:
            self._close()

    def wake(self, settled: Task[Any]) -> Task[Any] | None:
        """Count `settled`; the last one settles the whole."""
        if self.done:
            return None
        self._note(settled)
        self._missing -= 1
        if self._missing:
            return None
        self._close()
        return self

    def _note(self, part: Task[Any]) -> None:
        error = part.error
        if self._first_error is None:
            self._first_error = error
        elif isinstance(error, Again):
            error.seen = True  # whoever waits for the whole is told of the first alone

    def _close(self) -> None:
        if self._first_error is None:
            self.settle(self._kind(part.value for part in self.parts), None)
        else:
            self.settle(None, self._first_error)


class WhenAny(Task["Task[Any]"]):
    """Done when one of `parts` is; its result is that task. Losers stay usable and cancellable."""

    __slots__ = ("parts",)

    def __init__(self, execution: Owner, parts: Sequence[Task[Any]]) -> None:
        super().__init__(execution, 0, f"when_any of {len(parts)}")
        self.parts = parts
        if not parts:
            self.settle(None, None)
            return
        for part in parts:
            if part.done:
                self.settle(part, None)
                return
        for part in parts:
            part.add_waiter(self)

    def wake(self, settled: Task[Any]) -> Task[Any] | None:
        """The first settled part settles the whole."""
        if self.done:
            return None
        self.settle(settled, None)
        for part in self.parts:
            if part is not settled:
                part.remove_waiter(self)
        return self


def is_awaited(task: Task[Any]) -> bool:
    """Whether a branch waits for `task`, for itself or as a part of others."""
    seen: set[Task[Any]] = {task}
    stack = [task]
    while stack:
        for waiter in stack.pop().waiters:
            if not isinstance(waiter, Task):
                return True
            if waiter not in seen:
                seen.add(waiter)
                stack.append(waiter)
    return False


def leaves_of(task: Task[Any]) -> Iterator[Task[Any]]:
    """`task` itself, or what a combination is made of in the end, in order; only those that are not done."""
    seen: set[Task[Any]] = set()
    stack = [task]
    while stack:
        part = stack.pop()
        if part.done or part in seen:
            continue
        seen.add(part)
        if isinstance(part, (WhenAll, WhenAny)):
            stack += reversed(part.parts)
        else:
            yield part
