"""One generator or coroutine of the user's that is being driven."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from durableflow.core.task import Task
from durableflow.errors import ForeignAwaitError

if TYPE_CHECKING:
    from durableflow.core.driver import Driver

T = TypeVar("T")

Steps = Generator[Any, Any, T] | Coroutine[Any, Any, T]
"""What a workflow or a branch runs as: `send` and `throw` exist on both."""

STUBBORN: Final = 100
"""So often is `GeneratorExit` raised in code that is put away and swallows it."""


class Branch:
    """A generator or coroutine, and where it stands.

    Args:
        task: what its maker holds of it; None of the workflow's own code.
    """

    __slots__ = ("cancelled", "driver", "error", "steps", "task", "waiting", "woken")

    def __init__(self, driver: Driver, steps: Steps[Any], task: Task[Any] | None) -> None:
        self.driver = driver
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
            self.driver.make_ready(self)

    def interrupt(self, error: BaseException) -> None:
        """Raise `error` at its current wait, or at its next one when it is not waiting."""
        self.error = error
        waiting = self.waiting
        if waiting is not None and not self.woken:
            waiting.remove_waiter(self)
            self.driver.make_ready(self)
            self.driver.stand_back(waiting)

    def close(self) -> None:
        """Put it away; its `finally` blocks run, and nobody hears of what they raise."""
        for _ in range(STUBBORN):
            try:
                self.steps.close()
            except KeyboardInterrupt:
                raise
            except RuntimeError:
                continue  # it yielded in a finally block and is still there; if it raised this itself, it is gone
            except BaseException:  # noqa: S110  # what a finally block does while it is put away concerns nobody
                pass
            return


def foreign(yielded: object) -> ForeignAwaitError:
    """What is raised in code that waits for something which is no task."""
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
