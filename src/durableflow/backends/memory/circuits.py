"""Circuits in memory."""

from __future__ import annotations

from durableflow.backends.memory.rows import Rows
from durableflow.model.circuit import Circuit


class MemoryCircuits(Rows):
    """The part of `MemoryBackend` that keeps circuits."""

    def __init__(self) -> None:
        super().__init__()
        self._circuits: dict[str, Circuit] = {}

    async def circuits(self) -> list[Circuit]:
        """See `Backend.circuits`."""
        return [self._circuits[name] for name in sorted(self._circuits)]

    async def swap_circuit(self, circuit: Circuit) -> Circuit | None:
        """See `Backend.swap_circuit`."""
        self._check_seal()
        there = self._circuits.get(circuit.name) or Circuit(circuit.name)
        if there.revision != circuit.revision - 1:
            return there
        self._circuits[circuit.name] = circuit
        self._notify()
        return None
