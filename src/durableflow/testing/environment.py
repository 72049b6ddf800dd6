"""An engine for one test: in memory, on a virtual clock, with stand-ins for its activities."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, overload

import msgspec

from durableflow.authoring.registry import AnyActivity, AnyWorkflow
from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import Backend, Ending, InstanceRecord
from durableflow.core.view import TaskView
from durableflow.engine import Engine
from durableflow.errors import ReplayError
from durableflow.handle import Handle
from durableflow.looking import InstanceStatus
from durableflow.model.duration import Duration, to_us
from durableflow.model.status import Status
from durableflow.observe import facts
from durableflow.runtime.ends import End
from durableflow.runtime.settings import Settings
from durableflow.testing.clock import START, VirtualClock
from durableflow.testing.histories import History, ReplayReport, replay
from durableflow.testing.stage import Stage
from durableflow.testing.stand_ins import StandIns

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_LEASE_S: Final = 200 * 366 * 86_400.0
"""A lease counts in the clock's time, which a test may move by years in an instant."""


class VirtualEngine(Engine):
    """An engine on a virtual clock: whoever waits for a result or a status lets time skip ahead.

    Args:
        store, workflows, activities, name, listeners: as of `Engine`.
        clock: shared with other engines, if there are any; all of them must be idle before time moves.
        settings: as of `Engine`; its lease is stretched, and it waits for no attempt when it is closed.
        strict: whether activities without a stand-in are refused.
    """

    def __init__(
        self,
        store: str | Backend = "memory://",
        *,
        clock: VirtualClock,
        workflows: Iterable[AnyWorkflow] | None = None,
        activities: Iterable[AnyActivity] | None = None,
        name: str | None = None,
        settings: Settings | None = None,
        listeners: Iterable[Callable[[facts.Fact], None]] = (),
        strict: bool = False,
    ) -> None:
        super().__init__(
            store,
            workflows=workflows,
            activities=activities,
            name=name,
            settings=msgspec.structs.replace(settings or Settings(check_replay=True), lease_s=_LEASE_S, grace_s=0.0),
            clock=clock,
            listeners=listeners,
        )
        self.virtual_clock: Final = clock
        self.stand_ins: Final = StandIns(self._registry, clock, strict=strict)
        self._registry = self.stand_ins
        self._shown: set[ReplayError] = set()
        self._looks = 0
        """How many questions of those who wait the store has not answered yet."""
        clock.watch(self)

    # -- what the clock asks --------------------------------------------------------------------------------

    @property
    def waits_for_attempts(self) -> bool:
        """See `Watched`."""
        is_served = self._server is None or self._server.waits_for_attempts
        is_calm = self._worker is None or self._worker.waits_for_attempts
        return is_served and is_calm and not self._looks

    @property
    def running_attempts(self) -> int:
        """See `Watched`."""
        queued = 0 if self._server is None else self._server.running_attempts
        return queued + (0 if self._worker is None else self._worker.statistics().running_attempts)

    # -- waiting, on the virtual clock ----------------------------------------------------------------------

    async def result(
        self, instance_id: str, *, workflow: Workflow[..., Any] | None = None, timeout: Duration | None = None
    ) -> Any:
        """See `Client.result`; the time-out is virtual time.

        Raises:
            NothingHappens: the instance waits for what neither time nor an activity will bring.
        """
        waited = super().result(instance_id, workflow=workflow)
        try:
            return await self._skip_until(waited, instance_id, timeout, "over")
        except ReplayError as error:
            self._shown.add(error)
            raise

    async def wait_for_status(
        self, instance_id: str, *statuses: Status, timeout: Duration | None = None
    ) -> InstanceStatus:
        """See `Client.wait_for_status`; the time-out is virtual time.

        Raises:
            NothingHappens: as `result` does.
        """
        waited = super().wait_for_status(instance_id, *statuses)
        asked = " or ".join(sorted(statuses)) if statuses else "over"
        return await self._skip_until(waited, instance_id, timeout, asked)

    @contextmanager
    def _looking(self) -> Generator[None]:
        self._looks += 1
        try:
            yield
        finally:
            self._looks -= 1

    async def _record(self, instance_id: str) -> InstanceRecord:
        with self._looking():
            return await super()._record(instance_id)

    async def _look_for_end(self, instance_id: str, ending: Ending | None = None) -> End | None:
        with self._looking():
            return await super()._look_for_end(instance_id, ending)

    async def _skip_until(
        self, waited: Coroutine[Any, Any, T], instance_id: str, timeout: Duration | None, asked: str
    ) -> T:
        limit_us = None if timeout is None else self._clock.now_us() + to_us(timeout, "timeout")
        try:
            return await self.virtual_clock.skip_until(
                waited, limit_us=limit_us, explain=lambda: self._explain(instance_id, asked)
            )
        except TimeoutError:
            raise TimeoutError(f"instance {instance_id!r} is not {asked} after {timeout}; it goes on") from None

    async def _explain(self, instance_id: str, asked: str) -> str:
        status = await self.status(instance_id)
        why = ""
        if status.status is Status.SUSPENDED:
            why = "; resume it first"
        elif status.stall_reason:
            why = f": {status.stall_reason}"
        else:
            waits = [_told(task) for task in (await self.view(instance_id)).tasks if task.state == "waiting"]
            why = f" and waits for {', '.join(waits)}; let it happen before you wait for the end" if waits else ""
        return (
            f"instance {instance_id!r} of workflow {status.workflow!r} will not be {asked} by itself: "
            f"at {self.virtual_clock.now().isoformat()} it is {status.status}{why}"
        )

    def unseen_errors(self) -> list[ReplayError]:
        """What the replay check found and no wait has raised."""
        errors = [] if self._worker is None else list(self._worker.ends.replay_errors.values())
        return [error for error in errors if error not in self._shown]


def _told(task: TaskView) -> str:
    return f"event {task.name!r}" if task.kind == "event" else f"{task.kind} {task.name!r}"


class EnvironmentHandle(Handle[R], Generic[R]):
    """A handle that can also judge the history of its instance."""

    def __init__(self, engine: VirtualEngine, instance_id: str, workflow: Workflow[..., R] | None) -> None:
        super().__init__(engine, instance_id, workflow)
        self._engine = engine

    async def saved_history(self) -> History:
        """The history so far, to look at, to save or to replay."""
        return History.of(self.id, await self.history())

    async def save_history(self, path: str | Path) -> None:
        """Write the history so far to a file; see `durableflow.testing.save_history`."""
        (await self.saved_history()).save(path)

    async def assert_replays(self) -> ReplayReport:
        """Replay the history so far, to the end of each of its turns, as crashes there would have it.

        Raises:
            NondeterminismError: the workflow asks for something else than it did.
        """
        history = await self.saved_history()
        program = self._workflow or self._engine.stand_ins.workflow_named(history.started.workflow)
        return replay(program, history, every_prefix=True)


class WorkflowEnvironment(Stage):
    """An engine in memory, whose time the test holds and whose activities it may replace.

    Use it as `async with WorkflowEnvironment() as env: ...`. Each turn is also replayed, so that a workflow
    which is not deterministic fails its test: the error is raised by whoever waits for the result, and at the
    latest when the environment is left.

    Args:
        store: `"memory://"`, `"sqlite:///file.db"` or a backend object.
        workflows, activities: as of `Engine`.
        strict: whether activities without a stand-in are refused; a call then fails the test, at the latest
            when the environment is left.
        start: the moment at which its time begins.
        seed: of its dice.
        settings: as of `Engine`; by default with `check_replay`.
        clock: one that is shared with other environments, instead of `start` and `seed`.

    Attributes:
        engine: the engine, with all that a client can ask.
        clock: its clock.
    """

    def __init__(
        self,
        store: str | Backend = "memory://",
        *,
        workflows: Iterable[AnyWorkflow] | None = None,
        activities: Iterable[AnyActivity] | None = None,
        strict: bool = False,
        start: datetime = START,
        seed: int = 0,
        settings: Settings | None = None,
        clock: VirtualClock | None = None,
    ) -> None:
        self.clock: Final = clock or VirtualClock(start, seed=seed)
        self.engine: Final = VirtualEngine(
            store, clock=self.clock, workflows=workflows, activities=activities, settings=settings, strict=strict
        )
        self._stand_ins = self.engine.stand_ins

    def __repr__(self) -> str:
        return f"<environment of {self.engine!r} at {self.now().isoformat()}>"

    async def __aenter__(self) -> Self:
        await self.engine.__aenter__()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        try:
            unseen = self.engine.unseen_errors()
        finally:
            await self.engine.__aexit__(None, None, None)
        if exc_type is None:
            self._judge(unseen)

    def _judge(self, unseen: list[ReplayError]) -> None:
        """Fail the test for what it has not noticed."""
        if unseen:
            raise unseen[0]
        refused = self._stand_ins.refused
        if refused:
            told = "".join(f"\n  {call}" for call in refused)
            raise AssertionError(f"activities were called that have no stand-in, in a strict environment:{told}")

    # -- instances ------------------------------------------------------------------------------------------

    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> EnvironmentHandle[R]:
        """Start an instance; see `Client.start`."""
        handle = await self.engine.start(workflow, *args, **kwargs)
        return EnvironmentHandle(self.engine, handle.id, workflow)

    async def run(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Start an instance, let time skip to its end, and give its result."""
        return await (await self.start(workflow, *args, **kwargs)).result()

    @overload
    def handle(self, instance_id: str, workflow: Workflow[..., R]) -> EnvironmentHandle[R]: ...
    @overload
    def handle(self, instance_id: str, workflow: None = None) -> EnvironmentHandle[Any]: ...
    def handle(self, instance_id: str, workflow: Workflow[..., Any] | None = None) -> EnvironmentHandle[Any]:
        """A handle of an instance."""
        return EnvironmentHandle(self.engine, self.engine.handle(instance_id, workflow).id, workflow)

    # -- time -----------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The moment that the clock shows, in UTC."""
        return self.clock.now()

    async def advance(
        self,
        duration: Duration = 0,
        /,
        *,
        weeks: float = 0,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Let time pass, a duration (seconds or timedelta) or so many days and hours; all that falls due happens.

        Raises:
            NothingHappens: an activity works for so long that it must be hanging.
        """
        more = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        await self.clock.advance((duration if isinstance(duration, timedelta) else timedelta(seconds=duration)) + more)

    async def settle(self) -> None:
        """Return when all has happened that can happen without time passing."""
        await self.clock.settle()

    async def restart(self) -> None:
        """Close the engine and open it again, as a deployment does: everything in memory is gone, nothing else is."""
        unseen = self.engine.unseen_errors()
        await self.engine.__aexit__(None, None, None)
        if unseen:
            raise unseen[0]
        await self.engine.__aenter__()


__all__ = ["EnvironmentHandle", "VirtualEngine", "WorkflowEnvironment"]
