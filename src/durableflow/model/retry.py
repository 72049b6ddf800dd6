"""Retry arithmetic: which attempt comes next, and when. Pure: the caller owns clock and dice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import msgspec

from durableflow.errors import NonRetryableError, matches_type_name, qualified_name
from durableflow.model.duration import to_us


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often an activity is attempted, and how long to wait between attempts.

    Attributes:
        max_attempts: attempts in all, the first included; 1 means no retry.
        initial: wait before the second attempt (seconds or timedelta).
        backoff: each further wait is this times the one before, at least 1.
        max_delay: no wait is longer.
        jitter: each wait is shortened by a random part of up to this share, 0 to 1.
        no_retry_on: exception classes (or their names) after which no attempt follows.
        uncounted_losses: so many attempts, in a row, whose process died do not count; for activities that
            take up what the lost attempt began.
    """

    max_attempts: int = 3
    initial: timedelta | float = 1.0
    backoff: float = 2.0
    max_delay: timedelta | float = 3600.0
    jitter: float = 0.0
    no_retry_on: Sequence[type[BaseException] | str] = ()
    uncounted_losses: int = 0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts!r}, but at least 1 attempt must be made")
        if not 1 <= self.backoff < math.inf:
            raise ValueError(f"backoff is {self.backoff!r}, but waits must not shrink: at least 1, and finite")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter!r}, but it is a share from 0 to 1")
        if self.uncounted_losses < 0:
            raise ValueError(f"uncounted_losses is {self.uncounted_losses!r}, but a number of attempts is not negative")
        to_us(self.initial, "initial")
        to_us(self.max_delay, "max_delay")


class StoredRetry(msgspec.Struct, frozen=True, array_like=True):
    """A retry policy as histories hold it: whole microseconds and names."""

    max_attempts: int = 3
    initial_us: int = 1_000_000
    backoff: float = 2.0
    max_delay_us: int = 3_600_000_000
    jitter: float = 0.0
    no_retry_on: tuple[str, ...] = ()
    uncounted_losses: int = 0

    def gives_up_after(self, attempts_made: int, type_names: Sequence[str]) -> bool:
        """True when no attempt follows: all are used, or an exception of these types must not be retried.

        Args:
            attempts_made: those that count.
            type_names: qualified names of the exception's class and of its bases.
        """
        if attempts_made >= self.max_attempts:
            return True
        return any(name == _NON_RETRYABLE or matches_type_name(name, self.no_retry_on) for name in type_names)

    def delay_us(self, attempts_made: int, draw: float) -> int:
        """Microseconds to wait after `attempts_made` failed attempts.

        Args:
            attempts_made: at least 1.
            draw: uniform in [0, 1); the caller owns the dice.

        Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        if not self.initial_us:
            return 0
        exponent = min(attempts_made - 1, 1024)
        try:
            delay = self.initial_us * self.backoff**exponent
        except OverflowError:
            delay = float(self.max_delay_us)
        return round(min(delay, self.max_delay_us) * (1 - self.jitter * draw))


DEFAULT_RETRY: Final = StoredRetry()
_NON_RETRYABLE: Final = qualified_name(NonRetryableError)


def store_retry(policy: RetryPolicy | int) -> StoredRetry:
    """The form of `policy` that a history holds; a bare number means that many attempts."""
    if isinstance(policy, int):
        policy = RetryPolicy(max_attempts=policy)
    return StoredRetry(
        max_attempts=policy.max_attempts,
        initial_us=to_us(policy.initial, "initial"),
        backoff=policy.backoff,
        max_delay_us=to_us(policy.max_delay, "max_delay"),
        jitter=policy.jitter,
        no_retry_on=tuple(item if isinstance(item, str) else qualified_name(item) for item in policy.no_retry_on),
        uncounted_losses=policy.uncounted_losses,
    )
