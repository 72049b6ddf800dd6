"""Errors of the call or the definition: fix the code that made it."""

from __future__ import annotations

from durableflow.errors.root import DurableflowError


class UsageError(DurableflowError):
    """The call or the definition is wrong; change the code."""

    code = "DF1000"


class RegistrationError(UsageError):
    """A workflow or activity name is taken by another function, or is not known here."""

    code = "DF1001"


class DirectCallError(UsageError):
    """An activity was called as a plain function inside a workflow."""

    code = "DF1002"


class ForeignAwaitError(UsageError, TypeError):
    """A workflow yielded or awaited something that its context did not give it."""

    code = "DF1003"


class PayloadError(UsageError, ValueError):
    """A value cannot be stored as JSON and read back the same, or does not fit its type."""

    code = "DF1004"


class PayloadTooLarge(PayloadError):
    """A stored value would be larger than the limit of the engine."""

    code = "DF1005"

    def __init__(self, what: str, payload_bytes: int, limit_bytes: int) -> None:
        self.what = what
        self.payload_bytes = payload_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"{what} takes {payload_bytes:,} bytes, over the limit of {limit_bytes:,}; "
            "store it elsewhere and pass a reference, or raise Engine(payload_limit_bytes=...)"
        )


class DeterminismWarning(UserWarning):
    """A workflow's source uses something whose answer may differ in replay."""
