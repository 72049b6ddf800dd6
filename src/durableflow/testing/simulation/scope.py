"""Where a block of a random program runs: in a generator or in a coroutine, as the workflow itself is written."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, TypeAlias, TypeVar

from durableflow.authoring.context import Context
from durableflow.authoring.saga import Compensation, Saga
from durableflow.core.task import Task

Steps: TypeAlias = Generator[Any, Any, Any]
T = TypeVar("T")


class Scope:
    """Where a block runs.

    Attributes:
        tasks: what was asked for, and can be waited for.
        log: what the program saw.
        saga: the innermost that it is a part of.
        undo: what was registered last with that.
    """

    __slots__ = ("ctx", "is_async", "log", "saga", "tasks", "undo")

    def __init__(self, ctx: Context, log: list[Any], *, is_async: bool) -> None:
        self.ctx = ctx
        self.is_async = is_async
        self.log = log
        self.tasks: list[Task[Any]] = []
        self.saga: Saga | None = None
        self.undo: Compensation | None = None

    def copy(self) -> Scope:
        """One beside it, with the same log and the same tasks."""
        twin = Scope(self.ctx, self.log, is_async=self.is_async)
        twin.tasks, twin.saga, twin.undo = self.tasks, self.saga, self.undo
        return twin

    def task(self, number: int) -> Task[Any] | None:
        """One of those that there are."""
        return self.tasks[number % len(self.tasks)] if self.tasks else None

    def plain(self, value: Any) -> Any:
        """What a wait gives, as JSON: a task among results is told by its place."""
        if isinstance(value, Task):
            task: Task[Any] = value  # pyright: ignore[reportUnknownVariableType]  # of what, nobody knows
            return ["task", next((n for n, each in enumerate(self.tasks) if each is task), -1), task.done]
        if isinstance(value, (list, tuple)):
            parts: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]  # JSON, and tasks
            return [self.plain(each) for each in parts]
        return value

    # -- generators and coroutines ----------------------------------------------------------------------------

    def styled(self, steps: Steps) -> Steps | Coroutine[Any, Any, Any]:
        """These steps, as the workflow is written."""
        return as_coroutine(steps) if self.is_async else steps

    def inside(self, steps: Steps) -> Steps:
        """The same, for a `yield from`."""
        return as_coroutine(steps).__await__() if self.is_async else steps


class Awaiting:
    """Steps, to be awaited."""

    __slots__ = ("_steps",)

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __await__(self) -> Steps:
        return self._steps


async def as_coroutine(steps: Steps) -> Any:
    """These steps, in a coroutine."""
    return await Awaiting(steps)


async def wait_for(task: Task[T]) -> T:
    """Wait for a task in a coroutine."""
    return await task


async def in_saga(saga: Saga, steps: Steps) -> Any:
    """These steps, as the work of a saga, in a coroutine."""
    async with saga:
        return await Awaiting(steps)
