"""Where notices of alerts go."""

from __future__ import annotations

from typing import Protocol

from durableflow.model.retry import RetryPolicy


class AlertSink(Protocol):
    """Takes notices of alerts, each at least once and in order.

    Attributes:
        name: stored with each notice; the same after a restart, and no secret.
        retry: how often a delivery is attempted before the notice is given up.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def retry(self) -> RetryPolicy:
        """See above."""
        ...

    def send(self, number: int, body: bytes) -> None:
        """Deliver one notice by the time this returns; raise when it was not. Called in a thread, and may block."""
        ...
