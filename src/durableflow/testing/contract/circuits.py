"""Circuits: shared by all who write to a store, each change decided on what is there."""

from __future__ import annotations

import asyncio

import msgspec

from durableflow.backends.base import Backend
from durableflow.model.circuit import Circuit, CircuitState
from durableflow.testing.contract.store import ODD_IDS, StoreContract, contract


class CircuitContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_a_circuit_is_kept_as_it_was_written(self, backend: Backend) -> None:
        """Each field, over a reopening, and listed by name."""
        assert await backend.circuits() == []
        pay = Circuit("pay", CircuitState.HALF_OPEN, 5, 1, 2, 1_900_000_000_000_000, 1_900_000_030_000_000, 1)
        assert await backend.swap_circuit(pay) is None
        assert await backend.swap_circuit(Circuit("bank/north", CircuitState.OPEN, 1, revision=1)) is None
        async with self.opened() as other:
            assert [circuit.name for circuit in await other.circuits()] == ["bank/north", "pay"]
            assert (await other.circuits())[1] == pay

    @contract
    async def test_a_change_of_a_circuit_that_changed_meanwhile_is_not_written(self, backend: Backend) -> None:
        """Who decided on an older revision is given the one that is there."""
        first = Circuit("pay", failures=1, revision=1)
        assert await backend.swap_circuit(Circuit("pay", failures=9, revision=2)) == Circuit("pay")
        assert await backend.circuits() == []
        assert await backend.swap_circuit(first) is None
        assert await backend.swap_circuit(Circuit("pay", failures=7, revision=1)) == first
        second = msgspec.structs.replace(first, failures=2, revision=2)
        assert await backend.swap_circuit(second) is None
        assert await backend.swap_circuit(msgspec.structs.replace(first, failures=3, revision=2)) == second
        assert await backend.circuits() == [second]

    @contract
    async def test_of_many_who_change_a_circuit_at_once_one_does(self, backend: Backend) -> None:
        """Reading and writing is one transaction."""
        circuits = [Circuit("pay", failures=n, revision=1) for n in range(1, 21)]
        answers = await asyncio.gather(*(backend.swap_circuit(circuit) for circuit in circuits))
        (written,) = await backend.circuits()
        assert [written] * 19 == [answer for answer in answers if answer is not None]

    @contract
    async def test_circuits_are_told_apart_by_every_character(self, backend: Backend) -> None:
        """Their names are texts like ids."""
        for name in ODD_IDS:
            assert await backend.swap_circuit(Circuit(name, revision=1)) is None
        assert {circuit.name for circuit in await backend.circuits()} == set(ODD_IDS)
