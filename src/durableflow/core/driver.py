"""Drives the code of one instance, in branches, until all of it waits.

Rules that this file keeps:

1. User code is driven by a loop, never by recursion: neither a long chain of finished
   tasks nor a wide fan-out deepens the stack.
2. Branches go on in the order in which they were woken.
3. A wait that is interrupted stands back: the external events that it waited for, and that
   nobody else waits for, are for whoever waits next. Waiting for its task again puts it back
   in line, at the end.
4. A branch that is put away runs its `finally` blocks; by then the instance is inert.
"""

from __future__ import annotations

from typing import Any, Final

from durableflow.core.branch import Branch, Steps, foreign
from durableflow.core.task import WAITING, Again, Task, is_awaited, leaves_of
from durableflow.core.turn import NOT_IN_A_BRANCH, BeginAnew, TurnStopped
from durableflow.errors import Cancelled, ForeignAwaitError, NondeterminismError, UsageError

_UNSEEN_MAX: Final = 100
"""So many failures of branches are remembered until somebody takes notice of them."""


class Driver:
    """The branches of one instance. What their ends mean, and what tasks are for, is said by the layers above."""

    __slots__ = (
        "_branch_failures",
        "_branches",
        "_main",
        "_ready",
        "_running_user_code",
        "_stood_back",
        "_trouble",
        "inert",
    )

    def __init__(self) -> None:
        self.inert = False
        """Put away: nothing that the code does has any effect."""
        self._running_user_code = False
        self._main: Branch | None = None
        # What most instances never need, or not for long, is made when it is needed.
        self._ready: list[Branch] | None = None
        self._branches: dict[Task[Any], Branch] | None = None
        self._stood_back: set[Task[Any]] | None = None
        self._branch_failures: list[tuple[str, Again]] | None = None
        self._trouble: NondeterminismError | None = None

    # -- what the layers above say --------------------------------------------------------------------------

    def _main_returned(self, value: object) -> None:
        """The workflow's own code came to its end."""
        raise NotImplementedError

    def _main_raised(self, error: BaseException) -> None:
        """It raised; `error` has one frame of the driver's."""
        raise NotImplementedError

    def cancel_task(self, task: Task[Any]) -> bool:
        """See `Task.cancel`."""
        raise NotImplementedError

    def _leave_line(self, task: Task[Any]) -> bool:
        """Take `task` out of the line for an external event; False when it stands in none."""
        raise NotImplementedError

    def _line_up(self, task: Task[Any]) -> None:
        """Put it back, at the end; when an event has been kept meanwhile, it is done at once."""
        raise NotImplementedError

    # -- branches -------------------------------------------------------------------------------------------

    def _drive_main(self, steps: Steps[Any]) -> None:
        """`steps` are the workflow's own code."""
        self._main = Branch(self, steps, None)
        self.make_ready(self._main)

    def _drive_branch(self, steps: Steps[Any], task: Task[Any]) -> None:
        """`steps` run beside the others, and settle `task`."""
        if self._branches is None:
            self._branches = {}
        branch = self._branches[task] = Branch(self, steps, task)
        self.make_ready(branch)

    def make_ready(self, branch: Branch) -> None:
        """`branch` goes on in this turn."""
        branch.woken = True
        if self._ready is None:
            self._ready = [branch]
        else:
            self._ready.append(branch)

    def wake_waiters(self, task: Task[Any]) -> None:
        """`task` was settled: wake who waits for it, also through combinations."""
        settled = [task]
        for current in settled:  # grows while it is gone through
            for waiter in current.take_waiters():
                outer = waiter.wake(current)
                if outer is not None:
                    settled.append(outer)

    def stand_back(self, task: Task[Any]) -> None:
        """A wait for `task` was interrupted (rule 3)."""
        for leaf in leaves_of(task):
            if leaf.number and not is_awaited(leaf) and self._leave_line(leaf):
                if self._stood_back is None:
                    self._stood_back = set()
                self._stood_back.add(leaf)

    def _return_to_line(self, task: Task[Any]) -> None:
        assert self._stood_back is not None
        for leaf in leaves_of(task):
            if leaf in self._stood_back:
                self._stood_back.remove(leaf)
                self._line_up(leaf)

    def _cancel_branch(self, task: Task[Any]) -> bool:
        branch = None if self._branches is None else self._branches.get(task)
        if branch is None or branch.cancelled:
            return False
        branch.cancelled = True
        branch.interrupt(Cancelled("the workflow cancelled this branch"))
        return True

    def _close_branches(self) -> None:
        """Put them all away; the caller has made the instance inert."""
        self._ready = None
        branches = [] if self._branches is None else list(self._branches.values())
        if self._main is not None:
            branches.append(self._main)
        self._branches = self._main = None
        for branch in branches:
            branch.close()
            branch.waiting = None  # which may have the branch among its waiters: a cycle

    def _unseen_failures(self) -> list[tuple[str, BaseException]]:
        """Label and exception of each branch that failed without anybody being told."""
        return [(label, failure.error) for label, failure in self._branch_failures or () if not failure.seen]

    # -- driving --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Run every branch that may go on, until all of them wait."""
        while (ready := self._ready) is not None:
            self._ready = None
            for branch in ready:
                if self.inert:
                    return  # it was the end
                self._step(branch)

    def _step(self, branch: Branch) -> None:
        steps = branch.steps
        value: Any = None
        error = branch.error
        if error is not None:
            branch.error = None
        elif (settled := branch.waiting) is not None:
            if settled.error is None:
                value = settled.value
            else:
                error = settled.error()
        branch.waiting = None
        branch.woken = False
        while True:
            self._running_user_code = True
            try:
                yielded = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as stop:
                self._running_user_code = False
                self._check_trouble()
                self._branch_returned(branch, stop.value)
                return
            except BaseException as raised:
                self._running_user_code = False
                self._check_trouble()
                error = None  # this frame is in the trace of what was raised: else a cycle
                self._branch_raised(branch, raised)
                return
            self._running_user_code = False
            if self._trouble is not None:
                raise self._trouble
            value, error = None, None
            if not isinstance(yielded, Task):
                error = foreign(yielded)
                continue
            task: Task[Any] = yielded  # pyright: ignore[reportUnknownVariableType]  # a cast would cost at each step
            if task.execution is not self:
                error = ForeignAwaitError(f"the workflow waited for {task!r}, which belongs to another instance")
            elif branch.error is not None:
                error, branch.error = branch.error, None
                self.stand_back(task)
            else:
                if self._stood_back:
                    self._return_to_line(task)
                if task.state is WAITING:
                    task.add_waiter(branch)
                    branch.waiting = task
                    return
                if task.error is None:
                    value = task.value
                else:
                    error = task.error()

    def _check_trouble(self) -> None:
        if self._trouble is not None:
            raise self._trouble

    def _branch_returned(self, branch: Branch, value: object) -> None:
        task = branch.task
        if task is None:
            self._main = None
            self._main_returned(value)
        else:
            self._drop_branch(task)
            task.settle(value, None)
            self.wake_waiters(task)

    def _branch_raised(self, branch: Branch, error: BaseException) -> None:
        if isinstance(error, (KeyboardInterrupt, TurnStopped)):
            raise error
        task = branch.task
        if task is None:
            self._main = None
            self._main_raised(error)
            return
        if isinstance(error, BeginAnew):
            error = UsageError(NOT_IN_A_BRANCH)
        self._drop_branch(task)
        if branch.cancelled and isinstance(error, Cancelled):
            task.settle_cancelled()
        else:
            frames = error.__traceback__
            failure = Again(error, frames and frames.tb_next)
            self._remember(task.label, failure)
            task.settle(None, failure)
        self.wake_waiters(task)

    def _drop_branch(self, task: Task[Any]) -> None:
        assert self._branches is not None
        del self._branches[task]

    def _remember(self, label: str, failure: Again) -> None:
        unseen = [each for each in self._branch_failures or () if not each[1].seen]
        if len(unseen) < _UNSEEN_MAX:
            unseen.append((label, failure))
        self._branch_failures = unseen
