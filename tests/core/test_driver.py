"""The driver alone: branches of plain generators, tasks that a test settles, no history."""

from collections.abc import Generator
from typing import Any

import pytest

from durableflow.core.driver import Driver
from durableflow.core.task import Again, Task, WhenAll, WhenAny, is_awaited, leaves_of


class Driven(Driver):
    """Notes what it is told; numbers of `lines` stand in line for events."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []
        self.lines: set[int] = set()
        self.ends = False

    def start(self, steps: Generator[Any, Any, Any]) -> None:
        self._drive_main(steps)
        self._run()

    def spawn(self, steps: Generator[Any, Any, Any]) -> Task[Any]:
        task: Task[Any] = Task(self, 0, "branch")
        self._drive_branch(steps, task)
        return task

    def settle(self, task: Task[Any], value: Any = None, error: BaseException | None = None) -> None:
        task.settle(value, None if error is None else Again(error, None))
        self.wake_waiters(task)
        self._run()

    def interrupt(self, error: BaseException) -> None:
        assert self._main is not None
        self._main.interrupt(error)
        self._run()

    def _main_returned(self, value: object) -> None:
        self.log.append(("returned", value))
        if self.ends:
            self.inert = True
            self._close_branches()

    def _main_raised(self, error: BaseException) -> None:
        self.log.append(("raised", repr(error)))

    def _leave_line(self, task: Task[Any]) -> bool:
        found = task.number in self.lines
        self.lines.discard(task.number)
        return found

    def _line_up(self, task: Task[Any]) -> None:
        self.lines.add(task.number)


@pytest.fixture
def driver() -> Driven:
    return Driven()


def waits(task: Task[Any], log: list[Any] | None = None, name: Any = None) -> Generator[Any, Any, Any]:
    value = yield from task
    if log is not None:
        log.append(name)
    return value


def test_code_runs_until_it_waits_and_goes_on_with_the_value(driver: Driven) -> None:
    task: Task[Any] = Task(driver, 1, "t")
    driver.start(waits(task))
    assert driver.log == []
    driver.settle(task, 5)
    assert driver.log == [("returned", 5)]


def test_what_is_done_already_is_not_waited_for(driver: Driven) -> None:
    task: Task[Any] = Task(driver, 1, "t")
    task.settle(5, None)
    driver.start(waits(task))
    assert driver.log == [("returned", 5)]


def test_an_error_is_raised_at_the_wait(driver: Driven) -> None:
    task: Task[Any] = Task(driver, 1, "t")
    driver.start(waits(task))
    driver.settle(task, error=LookupError("x"))
    assert driver.log == [("raised", "LookupError('x')")]


def test_branches_go_on_in_the_order_in_which_they_came_to_wait(driver: Driven) -> None:
    task: Task[Any] = Task(driver, 1, "t")

    def main() -> Generator[Any, Any, Any]:
        branches = [driver.spawn(waits(task, driver.log, n)) for n in range(4)]
        yield from WhenAll(driver, branches, list)

    driver.start(main())
    assert len(task.waiters) == 4
    driver.settle(task)
    assert driver.log == [0, 1, 2, 3, ("returned", None)]
    assert task.waiters == ()


def test_nothing_runs_after_the_end_and_everything_is_closed(driver: Driven) -> None:
    task: Task[Any] = Task(driver, 1, "t")

    def tidy() -> Generator[Any, Any, Any]:
        try:
            yield from waits(task, driver.log, "never")
        finally:
            driver.log.append("closed")

    def main() -> Generator[Any, Any, Any]:
        driver.spawn(tidy())
        yield from task

    driver.ends = True
    driver.start(main())
    driver.settle(task)
    assert driver.log == [("returned", None), "closed"], "though the same task had woken the branch"


def test_a_chain_of_combinations_costs_no_stack(driver: Driven) -> None:
    task: Task[Any] = Task(driver, 1, "t")
    outer: Task[Any] = task
    for n in range(5_000):
        outer = WhenAny(driver, [outer]) if n % 2 else WhenAll(driver, [outer], list)
    driver.start(waits(outer))
    assert is_awaited(task)
    assert list(leaves_of(outer)) == [task]
    driver.settle(task, 5)
    assert driver.log[0][0] == "returned"


def test_a_wait_that_is_interrupted_leaves_its_line_and_returns_when_it_is_waited_for_again(driver: Driven) -> None:
    task: Task[Any] = Task(driver, 1, "t")
    driver.lines.add(1)
    seen: list[set[int]] = []

    def main() -> Generator[Any, Any, Any]:
        try:
            yield from task
        except LookupError:
            seen.append(set(driver.lines))
            yield from task

    driver.start(main())
    driver.interrupt(LookupError())
    assert (seen, driver.lines) == ([set()], {1})
    driver.settle(task, 5)
    assert driver.log == [("returned", None)]


def test_knots_of_combinations_are_looked_at_once_each(driver: Driven) -> None:
    task: Task[Any] = Task(driver, 1, "t")
    outer: Task[Any] = task
    for _ in range(60):
        outer = WhenAll(driver, [outer, outer], list)
    assert not is_awaited(task)
    assert list(leaves_of(outer)) == [task]
