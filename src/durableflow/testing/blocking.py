"""The environment for test functions without an event loop: the same one, on a loop in a thread."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from durableflow.authoring.workflow import Workflow
from durableflow.blocking import BlockingEngine, BlockingHandle, BlockingMethod, LoopThread, arguments_of
from durableflow.testing.clock import VirtualClock
from durableflow.testing.environment import EnvironmentHandle, WorkflowEnvironment
from durableflow.testing.stage import Stage

P = ParamSpec("P")
R = TypeVar("R")


class BlockingEnvironmentHandle(BlockingHandle[R], Generic[R]):
    """See `EnvironmentHandle`."""

    def __init__(self, loop_thread: LoopThread, asynchronous: EnvironmentHandle[R]) -> None:
        super().__init__(loop_thread, asynchronous)

    saved_history = BlockingMethod(EnvironmentHandle[Any].saved_history)
    save_history = BlockingMethod(EnvironmentHandle[Any].save_history)
    assert_replays = BlockingMethod(EnvironmentHandle[Any].assert_replays)


class BlockingEnvironment(Stage):
    """A `WorkflowEnvironment` for plain test functions; the arguments are the same.

    Use it as `with BlockingEnvironment() as df: ...`, or as the fixture `df`.
    """

    @arguments_of(WorkflowEnvironment.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.asynchronous = WorkflowEnvironment(*args, **kwargs)
        self.loop_thread = LoopThread()
        self._stand_ins = self.asynchronous.engine.stand_ins
        self.engine: BlockingEngine = BlockingEngine.of(self.asynchronous.engine, self.loop_thread)

    def __repr__(self) -> str:
        return f"<blocking twin of {self.asynchronous!r}>"

    def __enter__(self) -> Self:
        self.loop_thread.open(self.asynchronous)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.loop_thread.close(*exc_info)

    def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> BlockingEnvironmentHandle[R]:
        """Start an instance; see `Client.start`."""
        handle = self.loop_thread.call(self.asynchronous.start, workflow, *args, **kwargs)
        return BlockingEnvironmentHandle(self.loop_thread, handle)

    def run(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Start an instance, let time skip to its end, and give its result."""
        return self.start(workflow, *args, **kwargs).result()

    @overload
    def handle(self, instance_id: str, workflow: Workflow[..., R]) -> BlockingEnvironmentHandle[R]: ...
    @overload
    def handle(self, instance_id: str, workflow: None = None) -> BlockingEnvironmentHandle[Any]: ...
    def handle(self, instance_id: str, workflow: Workflow[..., Any] | None = None) -> BlockingEnvironmentHandle[Any]:
        """A handle of an instance."""
        return BlockingEnvironmentHandle(self.loop_thread, self.asynchronous.handle(instance_id, workflow))

    def now(self) -> datetime:
        """The moment that the clock shows, in UTC."""
        return self.asynchronous.now()

    @property
    def clock(self) -> VirtualClock:
        """Its clock, for functions that stand in for slow activities: `await df.clock.sleep(60)`."""
        return self.asynchronous.clock

    advance = BlockingMethod(WorkflowEnvironment.advance)
    settle = BlockingMethod(WorkflowEnvironment.settle)
    restart = BlockingMethod(WorkflowEnvironment.restart)
