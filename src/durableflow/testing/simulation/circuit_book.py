"""Circuits as the store holds them: a second book, kept from the changes that were applied, and what they promise."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from durableflow.model.circuit import Circuit, CircuitState
from durableflow.testing.simulation.activities import CURT, FAILURES_TO_OPEN, PATIENT
from durableflow.testing.simulation.checks import Checks
from durableflow.testing.simulation.invariants import INVARIANTS, invariant
from durableflow.testing.simulation.ledger import Ledger, LedgerAttempt
from durableflow.testing.simulation.loop import Process
from durableflow.testing.simulation.network import Applied
from durableflow.testing.simulation.shadow_instance import ShadowInstance

_WITH_CIRCUIT: Final = (PATIENT.name, CURT.name)


class Change(NamedTuple):
    """A circuit that is being written: how it was before, who writes it, and when by their clock."""

    before: Circuit
    after: Circuit
    process: Process
    now_us: int
    book: CircuitBook


@invariant("I-circuit", "circuit")
def a_change_of_a_circuit_follows_the_last(change: Change) -> str | None:
    """No two workers write over each other."""
    if change.after.revision != change.before.revision + 1:
        return f"revision {change.after.revision} follows {change.before.revision}"
    return None


@invariant("I-circuit", "circuit")
def a_circuit_opens_when_so_many_have_failed(change: Change) -> str | None:
    """As many attempts have failed as it takes for all its openings: one after a probe, more while it was closed."""
    book = change.book
    failed = book.failures()
    if failed < book.failures_used:
        return f"{failed} attempts have failed, but its openings take {book.failures_used}"
    return None


@invariant("I-circuit", "circuit")
def a_circuit_lets_nobody_through_before_its_time(change: Change) -> str | None:
    """By the clock of whoever lets a probe through."""
    before, after = change.before, change.after
    is_probe = before.state is CircuitState.OPEN and after.state is CircuitState.HALF_OPEN
    if is_probe and change.now_us < before.probe_at_us:
        return f"a probe at {change.now_us}, {(before.probe_at_us - change.now_us) / 1e6:g} s early"
    return None


@invariant("I-circuit", "attempt of a circuit")
def an_open_circuit_holds_attempts_back(
    instance: ShadowInstance, attempt: LedgerAttempt, stored: Collection[tuple[Circuit, Process]]
) -> str | None:
    """What asks when the process that runs it has opened the circuit itself waits until that lets it through.

    Others hear of the opening later, and what was let through before may begin behind it.
    """
    asked_us = instance.retry_at_us.get(attempt.task, 0)
    for circuit, opener in stored:
        if circuit.state is CircuitState.OPEN and opener is attempt.process and asked_us > circuit.opened_us:
            late_us = asked_us - circuit.opened_us
            return f"{attempt!r} begins, asked for {late_us / 1e6:g} s after {circuit!r} was opened there"
    return None


class CircuitBook:
    """The circuits of one store.

    Args:
        clock: says what time it is for a process.
    """

    def __init__(self, checks: Checks, ledger: Ledger, clock: Callable[[Process], int]) -> None:
        self._checks = checks
        self._ledger = ledger
        self._clock = clock
        self._of_changes = [each for each in INVARIANTS if each.place == "circuit"]
        self._of_attempts = [each for each in INVARIANTS if each.place == "attempt of a circuit"]
        self._stored: dict[str, tuple[Circuit, Process]] = {}
        self.failures_used = 0

    def failures(self) -> int:
        """How many attempts of activities with a circuit have failed."""
        return sum(each.raised is not None for each in self._ledger.made if each.activity in _WITH_CIRCUIT)

    def note(self, applied: Applied) -> None:
        """A call was applied."""
        if applied.method != "swap_circuit" or applied.answer is not None:
            return
        (after,) = applied.args
        before, _ = self._stored.get(after.name, (Circuit(after.name), None))
        self._stored[after.name] = (after, applied.process)
        if after.opened_us != before.opened_us:
            self.failures_used += FAILURES_TO_OPEN if before.state is CircuitState.CLOSED else 1
        change = Change(before, after, applied.process, self._clock(applied.process), self)
        for each in self._of_changes:
            self._checks.call(each, f"circuit {after.name!r}", change)

    def note_attempt(self, instance: ShadowInstance | None, attempt: LedgerAttempt) -> None:
        """User code of an attempt begins."""
        if attempt.activity in _WITH_CIRCUIT and instance is not None and attempt.number > 1:
            for each in self._of_attempts:
                self._checks.call(each, attempt.instance_id, instance, attempt, self._stored.values())
