"""Circuits in a store, which all workers share."""

from __future__ import annotations

from typing import Protocol

from durableflow.model.circuit import Circuit


class CircuitStore(Protocol):
    """The part of a backend that keeps circuits; each method is one transaction."""

    async def circuits(self) -> list[Circuit]:
        """All circuits that were ever written, by name."""
        ...

    async def swap_circuit(self, circuit: Circuit) -> Circuit | None:
        """Write `circuit` if the one that is there has the revision before it; none has 0. None: it is written.

        Returns:
            The circuit that is there, of another revision: look at it and decide again.
        """
        ...
