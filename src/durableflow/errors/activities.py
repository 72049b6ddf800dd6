"""What is raised inside an activity, or by whoever holds its token."""

from __future__ import annotations

from durableflow.errors.root import DurableflowError
from durableflow.errors.usage import UsageError


class NonRetryableError(DurableflowError):
    """Raise it (or a subclass) in an activity to fail at once, whatever the retry policy says."""

    code = "DF5001"


class TransactionMisused(UsageError, NonRetryableError):
    """A transactional activity did with its connection what would break its transaction, or has none here."""

    code = "DF1020"


class ActivityCancelled(DurableflowError):
    """Raised inside an activity whose result is no longer wanted."""

    code = "DF5002"


class TokenRefused(DurableflowError):
    """A token does not finish an activity (any more); nothing was written.

    Attributes:
        reason: `"malformed"` (no token at all), `"wrong"` (not the one that was given out), `"stale"` (of an
            attempt that is over), `"expired"` (its time is over) or `"over"` (it was used, the activity was
            cancelled, or its instance is over).
    """

    code = "DF5003"

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class HandedOver(BaseException):
    """Raise it in an activity after `hand_over()`: whoever holds the token says what comes of this attempt."""
