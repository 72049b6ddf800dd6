"""The part of a client that looks at what is wrong: alerts, and circuits that hold attempts back."""

from __future__ import annotations

from collections.abc import Sequence

from durableflow.backends.base import Backend
from durableflow.model.alert import Alert
from durableflow.model.ids import check_name
from durableflow.runtime.circuit_reports import CircuitStatus, circuit_status, reset_circuit
from durableflow.runtime.clock import Clock


class Trouble:
    """What a `Client` can say of trouble in its store."""

    _backend: Backend
    _clock: Clock

    async def alerts(self) -> Sequence[Alert]:
        """What needs a person now, says the engine that leads; by kind and subject."""
        return [Alert.of(record, "raised", record.told_us) for record in await self._backend.alerts()]

    async def circuits(self) -> Sequence[CircuitStatus]:
        """All circuits that ever counted a failure, by name."""
        return [circuit_status(circuit) for circuit in await self._backend.circuits()]

    async def reset_circuit(self, name: str) -> CircuitStatus:
        """Close a circuit at once: the service is known to be well. What waits for it is attempted.

        Raises:
            UsageError: no circuit of this name ever counted a failure.
        """
        return await reset_circuit(self._backend, check_name(name, "the name of a circuit"), self._clock.now_us())
