"""Planted bugs in what activities can do and be: tokens, circuits, limits, rows of the user's own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from mutants import replace_handler
from planting import calling, frozen, mutant

from durableflow.backends.memory import MemoryBackend
from durableflow.backends.sqlite.transact import UserTransactions
from durableflow.backends.tasks import HANDED_OVER
from durableflow.core.execution import Execution
from durableflow.errors import TokenRefused
from durableflow.model import circuit as circuit_module
from durableflow.model import events as ev
from durableflow.model.retry import StoredRetry
from durableflow.runtime import attempts as attempts_module
from durableflow.runtime import circuits as circuits_module
from durableflow.runtime import transactions as transactions_module
from durableflow.runtime.attempts import Attempts
from durableflow.runtime.circuits import Circuits
from durableflow.runtime.tokens import Tokens
from durableflow.runtime.transactions import Transactions
from durableflow.runtime.worker import Worker
from durableflow.testing.simulation.activities import LONE

# -- tokens -------------------------------------------------------------------------------------------------------


@mutant(where=calling(["activity", "handed", 2], ["wait", 0]))
def honours_a_token_again(patch: pytest.MonkeyPatch) -> None:
    real = MemoryBackend._finish_one

    def finish_one(self: Any, end: Any) -> bool:
        task = self._tasks.get(end.seen[0])
        is_done = real(self, end)
        if is_done and end.following is None and task is not None and task.state == HANDED_OVER:
            self._keep(task)
        return is_done

    patch.setattr(MemoryBackend, "_finish_one", finish_one)


@mutant(where=calling(["activity", "handed_beating", 2], ["wait", 0]))
def honours_the_token_of_an_attempt_before(patch: pytest.MonkeyPatch) -> None:
    async def find(self: Any, parts: Any) -> Any:
        task = await self._backend.task(parts.instance_id, parts.task)
        if task is None:
            raise TokenRefused("over", "it was used")
        return task

    patch.setattr(Tokens, "_task", find)


@mutant()
def loses_what_a_token_brought(patch: pytest.MonkeyPatch) -> None:
    async def finish(self: Any, task: Any, event: Any, details: Any = None) -> bool:
        return True

    patch.setattr(Tokens, "_finish", finish)


# -- circuits -----------------------------------------------------------------------------------------------------


@mutant()
def lets_attempts_through_open_circuits(patch: pytest.MonkeyPatch) -> None:
    real = Circuits.admits

    def admits(self: Any, *asked: Any) -> bool:
        return real(self, *asked) or self._is_read

    patch.setattr(Circuits, "admits", admits)


@mutant()
def lets_probes_through_at_once(patch: pytest.MonkeyPatch) -> None:
    for module in (circuit_module, circuits_module):
        patch.setattr(module, "may_probe", lambda circuit, rule, now_us: True)


@mutant()
def counts_each_failure_of_a_circuit_twice(patch: pytest.MonkeyPatch) -> None:
    real = Circuits.failed

    def failed(self: Any, *said: Any) -> None:
        real(self, *said)
        real(self, *said)

    patch.setattr(Circuits, "failed", failed)


@mutant("fleet", where=calling(["activity", "patient", 0], ["wait", 0]))
def writes_circuits_over_those_of_others(patch: pytest.MonkeyPatch) -> None:
    async def swap_circuit(self: Any, circuit: Any) -> None:
        self._circuits[circuit.name] = circuit

    patch.setattr(MemoryBackend, "swap_circuit", swap_circuit)


# -- limits -------------------------------------------------------------------------------------------------------


@mutant()
def times_out_after_half_the_time(patch: pytest.MonkeyPatch) -> None:
    real = attempts_module.limits_of

    def limits_of(activity: Any, options: Any, now_us: int) -> list[tuple[int, str]]:
        return [(now_us + (due_us - now_us) // 2, text) for due_us, text in real(activity, options, now_us)]

    patch.setattr(attempts_module, "limits_of", limits_of)


@mutant(where=calling(["activity", "steady", 1], ["wait", 0]))
def hears_no_heartbeat(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempts, "note_beat", lambda self, attempt, details: None)


@mutant(where=lambda plan: frozen(calling(["activity", "steady", 1], ["wait", 0])(plan)))
def tells_attempts_what_nobody_has_said(patch: pytest.MonkeyPatch) -> None:
    real = Worker._note_beat

    def note_beat(self: Any, owner: Any, task: int, attempt: int, details: bytes) -> None:
        real(self, owner, task, attempt, b'"something"')

    patch.setattr(Worker, "_note_beat", note_beat)


@mutant()
def ends_instances_before_their_deadline(patch: pytest.MonkeyPatch) -> None:
    real = Execution.due_observations

    def due_observations(self: Any, now_us: int) -> Any:
        if self.started is not None and self.started.deadline_us:
            self.started = msgspec.structs.replace(self.started, deadline_us=self.started.deadline_us - 1)
        return real(self, now_us)

    patch.setattr(Execution, "due_observations", due_observations)


@mutant()
def begins_instances_at_once(patch: pytest.MonkeyPatch) -> None:
    def deliver(execution: Any, event: Any) -> None:
        if not event.queue and not event.debounced:
            execution.begin_noted = True
            execution.begin()

    replace_handler(patch, ev.InstanceStarted, deliver=deliver)


@mutant(where=calling(["activity", "lone", 1], ["activity", "lone", 2], ["wait", 0], ["wait", 1]))
def runs_more_at_once_than_an_activity_allows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LONE, "max_concurrency", None)


@mutant()
def retries_what_says_that_it_is_not_to_be(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StoredRetry, "gives_up_after", lambda self, made, names: made >= self.max_attempts)


# -- rows of the user's own ---------------------------------------------------------------------------------------


@mutant("sqlite", where=calling(["activity", "booked", 2], ["wait", 0]))
def keeps_what_a_failed_transaction_wrote(patch: pytest.MonkeyPatch) -> None:
    real = UserTransactions._put_right

    def put_right(self: Any, connection: Any, *, roll_back: bool) -> None:
        if roll_back and connection.in_transaction:
            connection.execute("commit")
        real(self, connection, roll_back=roll_back)

    patch.setattr(UserTransactions, "_put_right", put_right)


@mutant("sqlite", where=calling(["activity", "booked", 1], ["wait", 0]))
def makes_a_committed_transaction_again(patch: pytest.MonkeyPatch) -> None:
    """Who does not know whether it was committed does not look, and takes no notice of the answer that is there."""

    async def is_in_the_log(self: Any, attempt: Any) -> bool:
        return False

    patch.setattr(Transactions, "_is_in_the_log", is_in_the_log)
    patch.setattr(transactions_module, "_is_answered", lambda attempt, messages: False)
