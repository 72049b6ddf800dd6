"""`@activity`: what it takes, what it makes of it."""

import functools
import threading
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from durableflow import (
    ActivityCancelled,
    ActivityContext,
    CircuitBreaker,
    PayloadError,
    RetryPolicy,
    UsageError,
    activity,
    activity_context,
)
from durableflow.authoring.activity import Activity, current_activity
from durableflow.errors import RegistrationError
from durableflow.model.events import ActivityOptions
from durableflow.model.retry import StoredRetry

SECOND = 1_000_000


def test_a_bare_and_a_called_decorator_make_the_same() -> None:
    @activity
    def bare(x: int) -> str:
        """Says it."""
        return str(x)

    @activity()
    def called(x: int) -> str:
        return str(x)

    assert (bare(5), called(5)) == ("5", "5")
    assert (bare.name, bare.is_async, bare.stored_options, bare.max_concurrency) == ("bare", False, None, None)
    assert (bare.__name__, bare.__doc__, repr(bare)) == ("bare", "Says it.", "<activity bare>")
    assert called.name == "called"


async def test_coroutine_functions_stay_coroutine_functions() -> None:
    @activity
    async def work(x: int) -> int:
        return x + 1

    assert work.is_async
    assert await work(1) == 2


class Charge:
    """A callable with attributes that an activity has too."""

    name = "the class's"

    def __init__(self) -> None:
        self.name = "the object's"
        self.arguments = "not the activity's"
        self.function = None

    def __call__(self, amount: Decimal) -> Decimal:
        return amount * 2


class ChargeMore(Charge):
    pass


class ChargeLater:
    async def __call__(self, amount: Decimal) -> Decimal:
        return amount


async def _twice(x: int, y: int) -> int:
    return x * y


def test_callables_are_activities_with_all_that_belongs_to_one() -> None:
    for made in (Activity(Charge()), Activity(ChargeMore())):
        assert made.name == type(made.function).__name__
        assert not made.is_async
        assert made(Decimal(2)) == Decimal(4)
        assert made.arguments.load(b'["1.5"]')[0] == (Decimal("1.5"),)
        assert made.load_result(b'"1.5"') == Decimal("1.5")
    assert Activity(ChargeLater()).is_async
    partial = Activity(functools.partial(_twice, 2), name="twice")
    assert partial.is_async
    assert Activity(Charge().__call__).load_result(b'"1.5"') == Decimal("1.5")


def _generates() -> Any:
    yield 1


async def _generates_too() -> Any:
    yield 1


class Generates:
    def __call__(self) -> Any:
        yield 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (5, "wraps functions and callables, not 5"),
        (None, "wraps functions and callables, not None"),
        (object(), "wraps functions and callables"),
        (_generates, "is a generator; an activity returns one value"),
        (_generates_too, "is a generator"),
        (Generates(), "is a generator"),
    ],
)
def test_what_cannot_run_is_refused_at_decoration(wrong: Any, text: str) -> None:
    with pytest.raises(RegistrationError, match=text):
        Activity(wrong)


def test_options_are_stored_as_histories_hold_them() -> None:
    @activity(
        name="x",
        retry=RetryPolicy(max_attempts=2, no_retry_on=[KeyError]),
        timeout=1.5,
        schedule_to_start=timedelta(minutes=1),
        schedule_to_close=60,
        heartbeat_timeout=1e-9,
        max_concurrency=3,
    )
    def work() -> None: ...

    assert work.name == "x"
    assert work.max_concurrency == 3
    assert work.stored_options == ActivityOptions(
        StoredRetry(2, no_retry_on=("KeyError",)), 60 * SECOND, 1_500_000, 60 * SECOND, 1
    )


def test_options_of_a_call_change_what_they_name_and_leave_the_activity_as_it_is() -> None:
    @activity(retry=5, timeout=1)
    def work(x: int) -> int:
        return x

    other = work.options(timeout=2)
    assert other.stored_options == ActivityOptions(StoredRetry(5), 0, 2 * SECOND)
    assert work.stored_options == ActivityOptions(StoredRetry(5), 0, 1 * SECOND)
    assert work.options() is work
    assert (other.name, other.function, other(4)) == (work.name, work.function, 4)
    assert other.options(retry=RetryPolicy(max_attempts=1)).stored_options == ActivityOptions(
        StoredRetry(1), 0, 2 * SECOND
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"timeout": -1}, "timeout is -1"),
        ({"schedule_to_start": float("nan")}, "schedule_to_start is nan"),
        ({"schedule_to_close": "1 s"}, "schedule_to_close is '1 s'"),
        ({"heartbeat_timeout": timedelta(-1)}, "heartbeat_timeout is"),
        ({"retry": 0}, "max_attempts is 0"),
        ({"max_concurrency": 0}, "max_concurrency is 0"),
        ({"name": ""}, "the name of an activity is empty"),
        ({"name": "a\0"}, "the name of an activity .* contains NUL"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, UsageError), match=text):

        @activity(**options)
        def work() -> None: ...


def test_a_result_type_that_cannot_be_read_is_told_when_the_activity_is_first_asked_for() -> None:
    @activity
    def unclear() -> list[int] | set[str]:
        return []

    with pytest.raises(PayloadError, match="is not a type that can be read from JSON"):
        unclear.result_loader()


def test_outside_of_an_activity_there_is_no_context_of_one() -> None:
    with pytest.raises(UsageError, match="works only inside an activity that an engine runs"):
        activity_context()


class Voice:
    """Keeps what is said."""

    def __init__(self, beats: list[bytes]) -> None:
        self.beat = beats.append

    async def offer(self) -> str:
        return "a token"


def context(beats: list[bytes], details: bytes | None = None) -> ActivityContext:
    return ActivityContext("order-1", 7, "charge", 2, details, Voice(beats))


def test_an_attempt_knows_itself_and_what_the_one_before_it_said() -> None:
    beats: list[bytes] = []
    first, second = context(beats), context(beats, b'{"page":3}')
    assert (first.instance_id, first.activity, first.attempt) == ("order-1", "charge", 2)
    assert first.idempotency_key == second.idempotency_key == "order-1/7"
    assert (first.heartbeat_details, second.heartbeat_details) == (None, {"page": 3})
    token = current_activity.set(first)
    assert activity_context() is first
    current_activity.reset(token)


def test_a_heartbeat_says_how_far_it_is_until_nobody_wants_to_know() -> None:
    beats: list[bytes] = []
    attempt = context(beats)
    attempt.heartbeat({"page": 4})
    attempt.heartbeat()
    assert beats == [b'{"page":4}', b"null"]
    with pytest.raises(PayloadError, match="the heartbeat details is nan"):
        attempt.heartbeat(float("nan"))
    assert not attempt.is_cancelled
    attempt.mark_cancelled("the instance is TERMINATED")
    assert attempt.is_cancelled
    with pytest.raises(ActivityCancelled, match="'charge' is no longer wanted: the instance is TERMINATED"):
        attempt.heartbeat()
    assert len(beats) == 2


def test_a_thread_can_wait_for_its_cancellation() -> None:
    attempt = context([])
    assert not attempt.wait_cancelled(0)
    waiting = threading.Thread(target=attempt.wait_cancelled)
    waiting.start()
    attempt.mark_cancelled("enough")
    waiting.join(timeout=10)
    assert not waiting.is_alive()
    assert attempt.wait_cancelled()
    late = context([])
    late.mark_cancelled("before anybody waited")
    assert late.wait_cancelled()


def test_what_does_not_go_together_is_refused_where_it_is_written() -> None:
    breaker = CircuitBreaker(3)
    with pytest.raises(ValueError, match="cannot have a circuit breaker"):
        activity(queue="mail", circuit=breaker)
    with pytest.raises(ValueError, match="cannot have a circuit breaker"):
        Activity(len, name="size", circuit=breaker).options(queue="mail")
    with pytest.raises(ValueError, match="not in a queue: 'mail'"):
        activity(transactional=True, queue="mail")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(ValueError, match="has no circuit"):
        activity(transactional=True, circuit=breaker)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
