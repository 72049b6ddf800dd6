"""Rows of `circuits`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from durableflow.model.circuit import Circuit, CircuitState

CIRCUIT_COLUMNS: Final = ", ".join(Circuit.__struct_fields__)
CIRCUITS_SQL: Final = f"select {CIRCUIT_COLUMNS} from circuits order by name"


def as_circuit(row: Sequence[Any]) -> Circuit:
    """The circuit of a row; one that cannot be read is as new, so that it holds nobody back."""
    try:
        return msgspec.convert(dict(zip(Circuit.__struct_fields__, row, strict=True)), Circuit)
    except msgspec.ValidationError:
        revision = row[-1] if isinstance(row[-1], int) else 0
        return Circuit(str(row[0]), CircuitState.CLOSED, revision=revision)


def swap(connection: sqlite3.Connection, circuit: Circuit) -> Circuit | None:
    """See `Backend.swap_circuit`; in a transaction of the caller's."""
    row = connection.execute(f"select {CIRCUIT_COLUMNS} from circuits where name = ?", (circuit.name,)).fetchone()
    there = Circuit(circuit.name) if row is None else as_circuit(row)
    if there.revision != circuit.revision - 1:
        return there
    connection.execute(
        f"insert or replace into circuits ({CIRCUIT_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?)",
        values_of_circuit(circuit),
    )
    return None


def values_of_circuit(circuit: Circuit) -> tuple[str | int, ...]:
    """The values of the columns of which `as_circuit` makes it again."""
    return (
        circuit.name,
        circuit.state.value,
        circuit.failures,
        circuit.successes,
        circuit.probes_out,
        circuit.opened_us,
        circuit.probe_at_us,
        circuit.revision,
    )
