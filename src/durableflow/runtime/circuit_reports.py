"""Circuits as people look at them, and their being reset by somebody who knows better."""

from __future__ import annotations

from datetime import datetime

import msgspec

from durableflow.backends.base import Backend
from durableflow.errors import UsageError
from durableflow.model.circuit import ANY_RULE, Circuit, CircuitMove, CircuitState, moved
from durableflow.model.duration import to_datetime


class CircuitStatus(msgspec.Struct, frozen=True):
    """Where a circuit stands.

    Attributes:
        failures: in a row; those that opened it, when it is not closed.
        opened_at: when it last opened, None for never.
        probe_at: when it lets the next probe through, or replaces one that gave no answer; None when it is closed.
        probes_out: how many probes have no answer yet.
    """

    name: str
    state: CircuitState
    failures: int
    opened_at: datetime | None
    probe_at: datetime | None
    probes_out: int


def circuit_status(circuit: Circuit) -> CircuitStatus:
    """With moments instead of microseconds."""
    return CircuitStatus(
        circuit.name,
        circuit.state,
        circuit.failures,
        to_datetime(circuit.opened_us) if circuit.opened_us else None,
        None if circuit.state is CircuitState.CLOSED else to_datetime(circuit.probe_at_us),
        circuit.probes_out,
    )


async def reset_circuit(backend: Backend, name: str, now_us: int) -> CircuitStatus:
    """Close a circuit, whatever it counted.

    Raises:
        UsageError: nothing of this circuit was ever written.
    """
    circuits = {circuit.name: circuit for circuit in await backend.circuits()}
    there = circuits.get(name)
    if there is None:
        known = ", ".join(map(repr, sorted(circuits)[:10])) or "none at all"
        raise UsageError(f"there is no circuit {name!r} in this store; those that ever counted a failure: {known}")
    while True:
        closed = moved(there, ANY_RULE, CircuitMove.RESET, now_us)
        if closed is there:
            return circuit_status(there)
        closed = msgspec.structs.replace(closed, revision=there.revision + 1)
        other = await backend.swap_circuit(closed)
        if other is None:
            return circuit_status(closed)
        there = other
