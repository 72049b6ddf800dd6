"""Sagas: what was done is undone, last first, when what follows fails.

A saga is a list of compensations in the workflow's own memory. It needs no event of its own: what it does
when the work fails are ordinary activities and branches, so replay brings it back to where it was.

Rules that this file keeps:

1. Only a failure or a cancellation of the work compensates. Code that is put away, stopped or begins anew has
   not failed, and what unwinds it passes by.
2. A compensation that has begun is finished: it goes on in a branch of its own, which no cancellation reaches.
   One that comes meanwhile is raised when the compensations are over.
3. Nothing is registered where nobody would compensate: not before the saga is entered, not while it is
   undoing, not after its end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, Self, TypeVar, cast, get_args, overload

import msgspec

from durableflow.authoring.activity import Activity
from durableflow.core.execution import Execution
from durableflow.core.task import Task
from durableflow.core.turn import BeginAnew
from durableflow.errors import Cancelled, CompensationFailed, FailedCompensation, PayloadTooLarge, UsageError
from durableflow.model.events import COMPENSATION, ActivityOptions

P = ParamSpec("P")
R = TypeVar("R")

OnFailure = Literal["go_on", "stop"]

FAILURES: Final = (Exception, Cancelled, SystemExit)
"""What ends work as failed or cancelled (rule 1). Whatever else is no `Exception` unwinds code that has not failed."""


class _State(Enum):
    """Where a saga stands; the values complete the sentence `the saga ...`."""

    NEW = "was not entered"
    OPEN = "is open"
    UNDOING = "is being undone"
    OVER = "is over"


class Compensation:
    """One registered way to undo something, made by `Saga.compensate_with`.

    Attributes:
        name: of the activity, or of the function.
    """

    __slots__ = ("_after", "_begin", "_saga", "name")

    def __init__(self, saga: Saga, name: str, begin: Callable[[], Generator[Any, Any, Any]]) -> None:
        self.name = name
        self._saga = saga
        self._begin = begin
        self._after: Task[Any] | None = None

    def __repr__(self) -> str:
        return f"<compensation {self.name}>"

    def after(self, task: Task[R], /) -> Task[R]:
        """Say that this undoes what `task` does: it does not begin while `task` is still going. Gives `task` back.

        A cancelled workflow leaves its wait while the activity that it waited for goes on; without this, the
        compensation could overtake it.
        """
        if not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance]  # users pass anything
            raise UsageError(f"after takes a task, as ctx.call_activity gives it, not {task!r:.60}")
        self._after = task
        return task

    def discard(self) -> bool:
        """Forget it, because what it would undo shall stay; False when it was forgotten or begun already."""
        return self._saga.forget(self)

    # -- for the saga ---------------------------------------------------------------------------------------

    def move_to(self, saga: Saga) -> None:
        """It is registered with another saga now."""
        self._saga = saga

    def undo(self) -> Generator[Task[Any], Any, None]:
        """Do it, as soon as what it undoes is over."""
        if self._after is not None:
            with suppress(*FAILURES):  # whatever came of it, it is over
                yield from self._after
        try:
            yield from self._begin()
        except BeginAnew:
            raise UsageError("continue_as_new works only in the workflow's own code, not in a compensation") from None


class Undoing:
    """What `Saga.compensate` gives, to be waited for: `await` it or `yield from` it."""

    __slots__ = ("failure", "task")

    def __init__(self) -> None:
        self.task: Task[None] | None = None
        """The branch that undoes; None when it was waited for."""
        self.failure: BaseException | None = None
        """What is raised when all is over. Kept here and not in the task: who raises it has the task in its trace."""

    def __iter__(self) -> Generator[Task[Any], Any, None]:
        interrupted: BaseException | None = None
        try:
            while self.task is not None:
                try:
                    yield from self.task
                    break
                except Cancelled as cancelled:  # of whoever waits here: the branch that undoes has none (rule 2)
                    interrupted = cancelled
            raised = self.failure or interrupted
            if raised is not None:
                raise raised
        finally:
            raised = interrupted = self.task = self.failure = None  # whose traces have this frame: a cycle

    __await__ = __iter__


class Saga:
    """Compensations of what was done so far; made by `Context.saga`.

    In a coroutine it is entered with `async with`, in a generator around a part of its own::

        async with ctx.saga() as saga:
            saga.compensate_with(release, seat)
            await ctx.call_activity(reserve, seat)

        saga = ctx.saga()
        result = yield from saga.guard(book(ctx, saga, seat))

    Args:
        parallel: let all compensations begin at once, instead of one after the other.
        on_failure: what follows on a compensation that failed: `"go_on"` with the others, or `"stop"`.
        part_of: takes the compensations over when this saga ends well.
    """

    __slots__ = (
        "__weakref__",
        "_compensations",
        "_execution",
        "_on_failure",
        "_outer",
        "_parallel",
        "_state",
        "_undoing",
    )

    def __init__(self, execution: Execution, *, parallel: bool, on_failure: OnFailure, part_of: Saga | None) -> None:
        if on_failure not in get_args(OnFailure):
            raise ValueError(f"on_failure is {on_failure!r}, but must be 'go_on' or 'stop'")
        if parallel and on_failure == "stop":
            raise ValueError("on_failure='stop' needs an order, but with parallel=True all compensations begin at once")
        if part_of is not None and not isinstance(part_of, Saga):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"part_of takes the saga that this one is a part of, not {part_of!r:.60}")
        self._execution = execution
        self._parallel = parallel
        self._on_failure = on_failure
        self._outer = part_of
        self._state = _State.NEW
        self._compensations: list[Compensation] = []
        self._undoing: Undoing | None = None

    def __repr__(self) -> str:
        return f"<saga with {len(self._compensations)} compensations, which {self._state.value}>"

    # -- what is to be undone -------------------------------------------------------------------------------

    @overload
    def compensate_with(self, undo: Activity[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Compensation: ...
    @overload
    def compensate_with(
        self,
        undo: Callable[P, Generator[Any, Any, Any] | Coroutine[Any, Any, Any]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Compensation: ...
    def compensate_with(self, undo: Any, /, *args: Any, **kwargs: Any) -> Compensation:
        """Register how to undo what comes next; call it *before* what it undoes.

        An activity that failed, or that nobody heard of any more, may have done its work all the same. So `undo`
        must also be right when there is nothing to undo.

        Args:
            undo: an activity (with options of its own: `release.options(retry=20)`), or a generator or coroutine
                function for what takes several activities.
            args, kwargs: what it is called with; of an activity, they are stored as they are now.

        Raises:
            UsageError: nobody would compensate: the saga was not entered, is being undone or is over; or `undo` is
                neither an activity nor such a function, or does not take these arguments.
            PayloadError: an argument of an activity cannot be stored.
        """
        if self._state is not _State.OPEN:
            raise self._not_open(f"compensate_with({_name_of(undo)}, ...) would register for nothing")
        compensation = Compensation(self, *self._beginning(undo, args, kwargs))
        self._compensations.append(compensation)
        return compensation

    def keep(self) -> None:
        """Forget what is registered so far: it is done for good. The saga stays open for what follows."""
        self._compensations.clear()

    def compensate(self) -> Undoing:
        """Undo now what is registered so far, without a failure; the saga stays open for what follows.

        It begins at once. Wait for what this gives, to go on when all is undone.

        Raises (at the wait):
            CompensationFailed: something could not be undone.
            Cancelled: the workflow was cancelled meanwhile; all is undone all the same.
        """
        if self._state is not _State.OPEN:
            raise self._not_open("compensate() has nothing to undo")
        return self._undo(None, then=_State.OPEN)

    # -- around the work ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        undoing = self._leave(error)
        if undoing is not None:
            await undoing

    def guard(self, work: Generator[Any, Any, R] | Coroutine[Any, Any, R], /) -> Generator[Task[Any], Any, R]:
        """Do `work`, a part of the workflow that registers with this saga, and compensate when it fails.

        For generators, in which `async with` is not to be had: `result = yield from saga.guard(book(ctx, saga))`.

        Raises:
            UsageError: `work` is a function that was not called, or the saga is in use.
        """
        if not (hasattr(work, "send") and hasattr(work, "throw")):
            raise UsageError(
                f"guard takes a generator or coroutine, not {work!r:.60}; "
                "call the function: saga.guard(book(ctx, saga))"
            )
        return self._guarded(work)

    def _guarded(self, work: Generator[Any, Any, R] | Coroutine[Any, Any, R]) -> Generator[Task[Any], Any, R]:
        self._enter()
        try:
            result = yield from _driven(work)
        except BaseException as error:
            undoing = self._leave(error)
            if undoing is not None:
                yield from undoing
            raise
        undoing = self._leave(None)
        if undoing is not None:
            yield from undoing
        return result

    # -- how it goes ----------------------------------------------------------------------------------------

    def _enter(self) -> None:
        if self._state is not _State.NEW:
            raise UsageError(f"{self!r} cannot be entered a second time; make another with ctx.saga()")
        self._state = _State.OPEN

    def _leave(self, error: BaseException | None) -> Undoing | None:
        """The work is over; what is to be waited for before its end goes on to the outside."""
        under_way, self._undoing = self._undoing, None
        late: UsageError | None = None
        if error is None and self._compensations and self._outer is not None:
            late = error = self._hand_over(self._outer)
        self._state = _State.OVER
        if error is not None and not isinstance(error, FAILURES):
            self._compensations.clear()
        elif under_way is not None:  # by hand, and not waited for: nothing can have been registered after it
            return under_way
        elif error is not None and self._compensations:
            undoing = self._undo(error, then=_State.OVER)
            undoing.failure = late
            return undoing
        self._compensations.clear()
        return None

    def _hand_over(self, outer: Saga) -> UsageError | None:
        if outer._state is not _State.OPEN:
            return outer._not_open("a part of it ended, and is undone")
        for compensation in self._compensations:
            compensation.move_to(outer)
        outer._compensations += self._compensations
        self._compensations = []
        return None

    def _undo(self, error: BaseException | None, *, then: _State) -> Undoing:
        taken, self._compensations = self._compensations, []
        self._state = _State.UNDOING
        undoing = self._undoing = Undoing()
        undoing.task = self._execution.spawn(self._undo_all(undoing, taken[::-1], error, then), "compensations")
        return undoing

    def _undo_all(
        self, undoing: Undoing, compensations: list[Compensation], error: BaseException | None, then: _State
    ) -> Generator[Task[Any], Any, None]:
        failures: list[FailedCompensation] = []
        begun = 0
        works: list[Iterable[Any]] = [
            self._execution.spawn(each.undo(), each.name) if self._parallel else each.undo() for each in compensations
        ]
        for compensation, work in zip(compensations, works, strict=True):
            begun += 1
            try:
                yield from work
            except FAILURES as failure:
                failures.append(FailedCompensation(compensation.name, failure))
                if self._on_failure == "stop":
                    break
        if failures:
            skipped = tuple(each.name for each in compensations[begun:])
            undoing.failure = CompensationFailed(failures, len(compensations), skipped)
            undoing.failure.__cause__ = error or failures[0].error
            del failures  # their traces have this frame: a cycle
        self._undoing = None
        if self._state is _State.UNDOING:  # else the work ended meanwhile
            self._state = then

    def forget(self, compensation: Compensation) -> bool:
        """See `Compensation.discard`."""
        if compensation not in self._compensations:
            return False
        self._compensations.remove(compensation)
        return True

    def refuse_checkpoint(self) -> None:
        """A replay that begins at a checkpoint would not know of what is registered."""
        if self._compensations or self._state is _State.UNDOING:
            raise UsageError(
                f"checkpoint was called inside {self!r}, of which a replay that begins there would not know; "
                "end the saga first, or saga.keep() what was done"
            )

    def _not_open(self, what: str) -> UsageError:
        hint = (
            "; enter it with `async with ctx.saga() as saga:`, or in a generator with `yield from saga.guard(...)`"
            if self._state is _State.NEW
            else ""
        )
        return UsageError(f"{what}: the saga {self._state.value}{hint}")

    def _beginning(
        self, undo: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, Callable[[], Generator[Any, Any, Any]]]:
        if isinstance(undo, Activity):
            activity = cast("Activity[..., Any]", undo)
            data = activity.arguments.dump(args, kwargs, activity.arguments_text)
            if len(data) > self._execution.payload_limit_bytes:
                raise PayloadTooLarge(activity.arguments_text, len(data), self._execution.payload_limit_bytes)
            return activity.name, lambda: iter(self._schedule(activity, data))
        name = _name_of(undo)
        target = undo if inspect.isroutine(undo) else getattr(undo, "__call__", undo)  # noqa: B004  # what it is, not whether
        if not any(is_one(each) for each in (undo, target) for is_one in _WAITS):
            raise UsageError(_not_an_undo(undo, name))
        try:
            inspect.signature(undo).bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError(f"compensate_with({name}, ...) has other arguments than it takes: {error}") from error
        return name, lambda: _driven(undo(*args, **kwargs))

    def _schedule(self, activity: Activity[..., Any], data: bytes) -> Task[Any]:
        execution = self._execution
        if execution.on_activity_object is not None:
            execution.on_activity_object(activity)
        options = msgspec.structs.replace(activity.stored_options or ActivityOptions(), role=COMPENSATION)
        return execution.schedule_activity(activity.name, data, options, activity.result_loader())


def _name_of(undo: object) -> str:
    return undo.name if isinstance(undo, Activity) else getattr(undo, "__name__", None) or type(undo).__name__


_WAITS: Final = (inspect.isgeneratorfunction, inspect.iscoroutinefunction)


def _driven(work: Generator[Any, Any, R] | Coroutine[Any, Any, R]) -> Generator[Any, Any, R]:
    """`work` for a `yield from`, which does not take coroutines."""
    return work if isinstance(work, Generator) else work.__await__()


def _not_an_undo(undo: object, name: str) -> str:
    if hasattr(undo, "send") or isinstance(undo, Task):
        return f"compensate_with takes the function and its arguments, not its call: compensate_with({name}, ...)"
    hint = f"; decorate it: @activity def {name}(...)" if inspect.isroutine(undo) else ""
    return f"compensate_with takes an activity, or a generator or coroutine function, not {undo!r:.60}{hint}"
