"""Retry arithmetic."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow import NonRetryableError, RetryPolicy
from durableflow.errors import ActivityFailed, qualified_name
from durableflow.model.retry import DEFAULT_RETRY, StoredRetry, store_retry

SECOND = 1_000_000


def names(error: type[BaseException]) -> list[str]:
    return [qualified_name(kind) for kind in error.__mro__]


def test_by_default_three_attempts_a_second_apart_and_then_two() -> None:
    assert store_retry(RetryPolicy()) == DEFAULT_RETRY == StoredRetry()
    assert [DEFAULT_RETRY.gives_up_after(made, ["ValueError"]) for made in (1, 2, 3, 4)] == [False, False, True, True]
    assert [DEFAULT_RETRY.delay_us(made, 0.5) for made in (1, 2, 3, 4)] == [
        SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND,
    ]  # fmt: skip


def test_waits_grow_up_to_the_longest() -> None:
    policy = store_retry(RetryPolicy(max_attempts=99, initial=0.1, backoff=3, max_delay=timedelta(seconds=1)))
    assert [policy.delay_us(made, 0) for made in (1, 2, 3, 4, 98)] == [100_000, 300_000, 900_000, SECOND, SECOND]


@pytest.mark.parametrize("backoff", [1.0, 2, 2.0, 1e300])
@pytest.mark.parametrize("initial", [0, 1e-6, 3600.0])
def test_the_millionth_attempt_waits_as_long_as_any(backoff: float, initial: float) -> None:
    policy = store_retry(RetryPolicy(max_attempts=10**7, initial=initial, backoff=backoff, max_delay=7200))
    longest = 0 if not initial else 7200 * SECOND if backoff > 1 else round(initial * SECOND)
    assert policy.delay_us(10**6, 0) == longest


def test_one_attempt_means_no_retry_and_a_number_alone_means_so_many() -> None:
    assert store_retry(1).gives_up_after(1, ["ValueError"])
    assert store_retry(5) == StoredRetry(max_attempts=5)


def test_jitter_shortens_by_up_to_its_share() -> None:
    policy = store_retry(RetryPolicy(initial=10, jitter=0.5))
    assert [policy.delay_us(1, draw) for draw in (0.0, 0.5, 0.999999)] == [10 * SECOND, 7_500_000, 5_000_005]


class Declined(Exception):
    pass


class CardDeclined(Declined):
    pass


class Fatal(NonRetryableError):
    pass


@pytest.mark.parametrize(
    ("listed", "raised", "gives_up"),
    [
        ([Declined], Declined, True),
        ([Declined], CardDeclined, True),
        ([CardDeclined], Declined, False),
        (["Declined"], CardDeclined, True),
        ([f"{__name__}.Declined"], CardDeclined, True),
        (["other.Declined"], CardDeclined, False),
        (["OSError"], ConnectionError, True),
        ([LookupError], KeyError, True),
        ([], Declined, False),
        ([], NonRetryableError, True),
        ([], Fatal, True),
        ([ActivityFailed], ValueError, False),
    ],
)
def test_some_failures_are_not_retried(listed: list[Any], raised: type[BaseException], gives_up: bool) -> None:
    policy = store_retry(RetryPolicy(no_retry_on=listed))
    assert policy.gives_up_after(1, names(raised)) is gives_up


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"backoff": 0.5},
        {"backoff": math.nan},
        {"backoff": math.inf},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": math.nan},
        {"initial": -1},
        {"initial": math.nan},
        {"max_delay": math.inf},
        {"max_delay": timedelta(days=-1)},
        {"initial": "soon"},
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused_when_it_is_written(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        RetryPolicy(**wrong)


POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 1_000),
    initial=st.floats(0, 1e6),
    backoff=st.floats(1, 1e6),
    max_delay=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)


@given(POLICIES, st.integers(1, 5_000), st.floats(0, 1, exclude_max=True))
def test_every_wait_is_whole_positive_and_bounded(policy: RetryPolicy, made: int, draw: float) -> None:
    stored = store_retry(policy)
    delay_us = stored.delay_us(made, draw)
    assert isinstance(delay_us, int)
    assert 0 <= delay_us <= stored.max_delay_us
    assert stored.delay_us(made, 0) <= stored.delay_us(made + 1, 0), "without jitter waits never shrink"
    assert stored.gives_up_after(made, ["E"]) is (made >= policy.max_attempts)
