"""One instance of a story: its code, its history, and what tells its states apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from durableflow.authoring.registry import AnyWorkflow
from durableflow.core.execution import Execution
from durableflow.core.task import Task, WhenAll
from durableflow.core.turn import Turn
from durableflow.errors import CorruptHistory
from durableflow.model import events as ev
from durableflow.model.status import Status
from durableflow.testing.exploring.casting import Cast
from durableflow.testing.histories import Row

if TYPE_CHECKING:
    Apply = Callable[["Actor", Turn], None]


class Actor:
    """An instance.

    Two orders of the same observations lead to the same state when the code has not noticed the difference: results
    that only a `when_all` has counted, and what is noted of attempts. Such observations are a set; any other is
    written behind it, and begins a new one.

    Args:
        apply: told of each turn.
        prefix: goes before the names of its activities; empty for the instance that the story is about.
    """

    __slots__ = (
        "_apply",
        "_cast",
        "_place",
        "_quiet",
        "execution",
        "id",
        "prefix",
        "program",
        "round_begins",
        "rows",
        "told",
    )

    def __init__(self, instance_id: str, program: AnyWorkflow, cast: Cast, apply: Apply, prefix: str = "") -> None:
        self.id = instance_id
        self.program = program
        self.prefix = prefix
        self.rows: list[Row] = []
        self.round_begins: list[int] = [0]
        """Where in `rows` each round begins."""
        self.told = 0
        """A number that is the same for histories with the same observations in the same order."""
        self._cast = cast
        self._apply = apply
        self._place = 0
        self._quiet: set[int] = set()
        self.execution = self._new_execution(program)

    def _new_execution(self, program: AnyWorkflow) -> Execution:
        execution = Execution(self.id, program)
        registry = self._cast.registry
        execution.on_activity_object = registry.add_activity
        execution.on_workflow_object = registry.add_workflow
        return execution

    @property
    def is_over(self) -> bool:
        """Whether nothing can happen to it any more."""
        execution = self.execution
        return execution.ended is not None and execution.continued is None

    @property
    def is_born(self) -> bool:
        """Whether its history has begun."""
        return bool(self.rows)

    @property
    def mark(self) -> tuple[object, ...]:
        """All of it that matters for what can follow."""
        return (self.id, self._place, frozenset(self._quiet)) if self._quiet else (self.id, self._place)

    # -- going on ---------------------------------------------------------------------------------------------------

    def tell(self, event: ev.Observation, now_us: int) -> None:
        """Let it take one observation, in a turn of its own."""
        is_quiet, task = self._looks_quiet(event)
        self._take([event], now_us)
        key = hash((type(event), event))
        self.told = hash((self.told, key, now_us))
        if is_quiet and (task is None or task.error is None):
            self._quiet.add(key)
        else:
            self._place = hash((self._place, frozenset(self._quiet), key, now_us))
            self._quiet.clear()

    def tell_together(self, observed: Sequence[ev.Observation], now_us: int) -> None:
        """Let it take several, in one turn."""
        self._take(observed, now_us)
        self._place = hash(
            (self._place, frozenset(self._quiet), tuple((type(each), each) for each in observed), now_us)
        )
        self._quiet.clear()

    def _looks_quiet(self, event: ev.Observation) -> tuple[bool, Task[Any] | None]:
        """Whether the code will not notice `event`, and the task that it settles."""
        if isinstance(event, (ev.ActivityStarted, ev.AttemptFailed)):
            return True, None
        if not isinstance(event, (ev.ActivityCompleted, ev.ChildCompleted)):
            return False, None
        execution = self.execution
        task = execution.tasks.get(event.task)
        if execution.status is Status.SUSPENDED:
            return False, task
        for waiter in () if task is None else task.waiters:
            if not isinstance(waiter, WhenAll) or all(part.done or part is task for part in waiter.parts):
                return False, task
        return True, task

    def _take(self, observed: Sequence[ev.Observation], now_us: int) -> None:
        execution = self.execution
        turn = execution.advance(observed, now_us=now_us)
        if turn.events:
            self._write(turn)
        self._apply(self, turn)
        if execution.continued is not None:
            self._begin_round(execution, turn, now_us)

    def _write(self, turn: Turn) -> None:
        for first_seq, events in turn.closed:
            self.rows.append(Row(first_seq, turn.at_us, events))
            self.round_begins.append(len(self.rows))
        self.rows.append(Row(turn.first_seq, turn.at_us, turn.events))

    def _begin_round(self, old: Execution, turn: Turn, now_us: int) -> None:
        """The code has ended to begin anew. What the round that is over has refused is for the next one."""
        started = old.continued
        assert started is not None
        key = (started.workflow, started.version)
        self.program = self._cast.registry.workflows.get(key, self.program)
        following = self.execution = self._new_execution(self.program)
        following.next_seq = old.next_seq
        self.round_begins.append(len(self.rows))
        self._take([started, *old.left_over], now_us)
        for late in turn.refused:
            self._take([late], now_us)

    # -- crashes ----------------------------------------------------------------------------------------------------

    def replay(self) -> None:
        """Come back from the history; raises what `Execution.replay` does."""
        old = self.execution
        old.put_away()
        execution = self._replayed(self.rows[self.round_begins[-1] :], self.program)
        if (execution.status, execution.next_seq) != (old.status, old.next_seq):
            raise CorruptHistory(
                f"replay of {self.id!r} ends {execution.status} at #{execution.next_seq - 1}, "
                f"but it was {old.status} at #{old.next_seq - 1}"
            )
        self.execution = execution

    def check_replay(self) -> None:
        """Replay every round; raises what `Execution.replay` does."""
        for begin, end in pairwise([*self.round_begins, len(self.rows)]):
            program = self.program
            if end < len(self.rows):
                started = self.rows[begin].events[0]
                assert isinstance(started, ev.InstanceStarted)
                program = self._cast.workflow(started.workflow, started.version)
            self._replayed(self.rows[begin:end], program).put_away()

    def _replayed(self, rows: Sequence[Row], program: AnyWorkflow) -> Execution:
        execution = self._new_execution(program)
        execution.next_seq = rows[0].first_seq
        try:
            for row in rows:
                execution.replay(row.first_seq, row.at_us, row.events)
        except BaseException:
            execution.put_away()
            raise
        return execution
