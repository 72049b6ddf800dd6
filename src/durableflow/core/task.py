"""What a context method returns: something that will have a result, or be cancelled."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

from durableflow.errors import TaskCancelled, UsageError

if TYPE_CHECKING:
    from durableflow.core.execution import Execution

R_co = TypeVar("R_co", covariant=True)

ErrorFactory = Callable[[], BaseException]


class TaskState(Enum):
    """Where a task stands."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


WAITING: Final = TaskState.WAITING


class Waiter(Protocol):
    """What can wait for a task: a branch of the workflow, or a task made of others."""

    def wake(self, settled: Task[Any]) -> Task[Any] | None:
        """Take note of `settled`; return the task that this settles in turn, if any."""
        ...


class Task(Generic[R_co]):
    """Something that the workflow asked for; `yield from` it, `await` it, combine or cancel it.

    A task is scheduled when it is made, not when it is waited for.
    """

    __slots__ = ("_error", "_execution", "_state", "_value", "_waiters", "label", "number")

    def __init__(self, execution: Execution, number: int, label: str) -> None:
        self._execution = execution
        self.number = number
        """Its number among what the workflow asked for; 0 for a combination of others."""
        self.label = label
        self._state = WAITING
        self._value: Any = None
        self._error: ErrorFactory | None = None
        self._waiters: list[Waiter] = []

    def __iter__(self) -> Generator[Task[Any], Any, R_co]:
        return cast("R_co", (yield self))

    __await__ = __iter__

    def __repr__(self) -> str:
        return f"<task {self.label} ({self._state.value})>"

    def __bool__(self) -> bool:
        raise UsageError(f"{self!r} has no truth of its own; wait for it first: (yield from task) or (await task)")

    @property
    def done(self) -> bool:
        """True when it has a result, has failed or was cancelled."""
        return self._state is not WAITING

    @property
    def cancelled(self) -> bool:
        """True when the workflow cancelled it before it was done."""
        return self._state is TaskState.CANCELLED

    def result(self) -> R_co:
        """The result of a task that is done.

        Raises:
            UsageError: it is not done.
            TaskError: it failed or was cancelled.
        """
        if self._state is WAITING:
            raise UsageError(f"{self!r} is not done; wait for it first")
        if self._error is not None:
            raise self._error()
        return cast("R_co", self._value)

    def cancel(self) -> bool:
        """Give the task up: its activity is told, its timer or wait is dropped.

        Waiting for it from now on raises `TaskCancelled`. A branch gets `Cancelled` raised
        at its wait instead, so that it can clean up.

        Returns:
            False when it was done already, and nothing changed.
        """
        return self._execution.cancel_task(self)

    # -- for the engine -------------------------------------------------------------------------------------

    @property
    def execution(self) -> Execution:
        """The replay that this task belongs to."""
        return self._execution

    @property
    def waiters(self) -> list[Waiter]:
        """Who is woken when it settles, in order."""
        return self._waiters

    def outcome(self) -> tuple[Any, ErrorFactory | None]:
        """Value and error factory of a task that is done."""
        return self._value, self._error

    def settle(self, value: Any, error: ErrorFactory | None, state: TaskState | None = None) -> None:
        """Make it done; its waiters are woken by the caller."""
        self._state = state or (TaskState.DONE if error is None else TaskState.FAILED)
        self._value = value
        self._error = error

    def settle_cancelled(self) -> None:
        """Make it cancelled; its waiters are woken by the caller."""
        label = self.label
        self.settle(None, lambda: TaskCancelled(f"{label} was cancelled by the workflow"), TaskState.CANCELLED)


class WhenAll(Task[Any]):
    """Done when all of `parts` are; fails with the first failure in order of completion."""

    __slots__ = ("_first_error", "_kind", "_missing", "parts")

    def __init__(
        self, execution: Execution, parts: Sequence[Task[Any]], kind: type[list[Any] | tuple[Any, ...]]
    ) -> None:
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
                part.waiters.append(self)
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
        if self._first_error is None:
            self._first_error = part.outcome()[1]

    def _close(self) -> None:
        if self._first_error is None:
            self.settle(self._kind(part.outcome()[0] for part in self.parts), None)
        else:
            self.settle(None, self._first_error)


class WhenAny(Task["Task[Any]"]):
    """Done when one of `parts` is; its result is that task. Losers stay usable and cancellable."""

    __slots__ = ("parts",)

    def __init__(self, execution: Execution, parts: Sequence[Task[Any]]) -> None:
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
            part.waiters.append(self)

    def wake(self, settled: Task[Any]) -> Task[Any] | None:
        """The first settled part settles the whole."""
        if self.done:
            return None
        self.settle(settled, None)
        for part in self.parts:
            if part is not settled and self in part.waiters:
                part.waiters.remove(self)
        return self
