"""The activities that random programs call: of every sort that there is, each with a name for how it behaves.

What they do they enter into the ledger, which is the world's, and nothing else.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

from durableflow.authoring.activity import Activity, ActivityContext, activity_context
from durableflow.authoring.transactional import TransactionalActivity
from durableflow.errors import HandedOver, NonRetryableError
from durableflow.model.circuit import CircuitBreaker
from durableflow.model.retry import RetryPolicy
from durableflow.testing.simulation.ledger import LedgerAttempt, current_ledger

QUEUE: Final = "mail"
CIRCUIT: Final = "service"
BOOKINGS: Final = "bookings"
"""The table that transactional ones write to."""


class Flaky(Exception):
    """What an activity raises now and then."""


class Picky(Flaky):
    """What the retry policy of an activity does not put up with."""


class Hopeless(NonRetryableError):
    """What no activity is attempted again after."""


def _is_unlucky(number: int, context: ActivityContext) -> bool:
    return (number + context.attempt) % 3 == 0


# -- on the loop --------------------------------------------------------------------------------------------------


async def _work(kind: str, number: int) -> str:
    """Take a while, and return what no other attempt of any activity returns, or fail."""
    context = activity_context()
    with current_ledger().begin(context, kind, number) as attempt:
        await _take_time(kind, number, context, attempt)
        if kind == "doomed" or (kind in _FLAKY and _is_unlucky(number, context)):
            raise Flaky(f"{kind} {number}, attempt {context.attempt}")
        if kind == "picky" and number % 3 == 0:
            raise Picky(f"{number}")
        if kind == "hopeless" and number % 2 == 0:
            raise Hopeless(f"{number}")
        return attempt.end()


_FLAKY: Final = ("flaky", "queued", "lone", "hopeless", "picky")


async def _take_time(kind: str, number: int, context: ActivityContext, attempt: LedgerAttempt) -> None:
    if kind == "beating":
        _beat(context, attempt, number)
    if kind == "steady":
        await _beat_steadily(context, attempt)
    elif kind == "stubborn":
        await _ignore_all_words(attempt)
    else:
        await attempt.take_time()
    if kind == "beating":
        _beat(context, attempt, [number, context.attempt])


def _beat(context: ActivityContext, attempt: LedgerAttempt, details: object) -> None:
    attempt.note_beat(details)
    context.heartbeat(details)


async def _beat_steadily(context: ActivityContext, attempt: LedgerAttempt) -> None:
    """As long as it takes, which may be longer than the time after which a silent attempt is taken for dead."""
    left_s, done = attempt.takes_s, 0
    while left_s > 0:
        done += 1
        _beat(context, attempt, [context.attempt, done])
        await asyncio.sleep(min(1.0, left_s))
        left_s -= 1.0


async def _ignore_all_words(attempt: LedgerAttempt) -> None:
    """Go on when told to stop, once."""
    try:
        await attempt.take_time()
    except asyncio.CancelledError:
        await attempt.take_time()


async def _ask_service(kind: str, number: int) -> str:
    """Ask a service that is unwell more often than not."""
    context = activity_context()
    with current_ledger().begin(context, kind, number) as attempt:
        await attempt.take_time()
        if not _is_unlucky(number, context):
            raise Flaky(f"{kind} {number}, attempt {context.attempt}")
        return attempt.end()


async def _hand(kind: str, number: int) -> str:
    """Give a token away, and leave; some stay, and return something themselves."""
    context = activity_context()
    with current_ledger().begin(context, kind, number) as attempt:
        token = await context.hand_over()
        attempt.hand_over(token)
        if number % 2:
            await attempt.take_time()
        if number % 5 == 0:
            return attempt.end()
        raise HandedOver


# -- elsewhere ----------------------------------------------------------------------------------------------------


def _toil(kind: str, number: int) -> str:
    """Block a thread."""
    context = activity_context()
    with current_ledger().begin(context, kind, number) as attempt:
        _beat(context, attempt, [context.attempt, kind])
        if _is_unlucky(number, context):
            raise Flaky(f"{kind} {number}, attempt {context.attempt}")
        return attempt.end()


def _book(db: sqlite3.Connection, kind: str, number: int) -> str:
    """Write a row to the store's own database, and fail behind it now and then."""
    context = activity_context()
    with current_ledger().begin(context, kind, number) as attempt:
        db.execute(f"create table if not exists {BOOKINGS} (instance text, task integer, attempt integer)")
        row = (attempt.instance_id, attempt.task, attempt.number)
        db.execute(f"insert into {BOOKINGS} values (?, ?, ?)", row)  # noqa: S608  # a constant
        if _is_unlucky(number, context):
            raise Flaky(f"{kind} {number}, attempt {context.attempt}")
        return attempt.end()


# -- as they are called -------------------------------------------------------------------------------------------

FAILURES_TO_OPEN: Final = 2
_OPEN_S: Final = 2.0

WORK: Final[Activity[[str, int], str]] = Activity(_work, name="work")
LONE: Final[Activity[[str, int], str]] = Activity(_work, name="lone", max_concurrency=1)
HAND: Final[Activity[[str, int], str]] = Activity(_hand, name="hand")
TOIL: Final[Activity[[str, int], str]] = Activity(_toil, name="toil")
BOOK: Final[Activity[[str, int], str]] = TransactionalActivity(
    cast("Callable[[str, int], str]", _book), name="book", transactional=True
)
PATIENT: Final[Activity[[str, int], str]] = Activity(
    _ask_service, name="patient", circuit=CircuitBreaker(FAILURES_TO_OPEN, reset=_OPEN_S, name=CIRCUIT)
)
CURT: Final[Activity[[str, int], str]] = Activity(
    _ask_service,
    name="curt",
    circuit=CircuitBreaker(FAILURES_TO_OPEN, reset=_OPEN_S, name=CIRCUIT, when_open="fail"),
)
ACTIVITIES: Final = (WORK, LONE, HAND, TOIL, BOOK, PATIENT, CURT)
ON_THE_LOOP: Final = frozenset(each.name for each in (WORK, LONE, HAND, PATIENT, CURT))
"""Those that share the places of a process for coroutines."""


class Call(NamedTuple):
    """How an activity is called.

    Attributes:
        options: of the call, as both `Activity.options` and `call_activity_by_name` take them.
        made: the activity with these options.
    """

    activity: Activity[[str, int], str]
    options: dict[str, Any]
    made: Activity[[str, int], str]


def _call(activity: Activity[[str, int], str], **options: Any) -> Call:
    options.setdefault("retry", _RETRY)
    return Call(activity, options, activity.options(**options))


_RETRY: Final = RetryPolicy(max_attempts=30, initial=0.5, backoff=1)

CALLS: Final[dict[str, Call]] = {
    "plain": _call(WORK),
    "flaky": _call(WORK),
    "doomed": _call(WORK, retry=RetryPolicy(max_attempts=2, initial=0.2)),
    "hasty": _call(WORK, timeout=2),
    "beating": _call(WORK, heartbeat_timeout=5),
    "queued": _call(WORK, queue=QUEUE),
    "steady": _call(WORK, heartbeat_timeout=2),
    "stubborn": _call(WORK, timeout=2),
    "hopeless": _call(WORK),
    "picky": _call(WORK, retry=RetryPolicy(max_attempts=30, initial=0.5, jitter=0.5, no_retry_on=[Picky])),
    "bounded": _call(WORK, schedule_to_close=6),
    "impatient": _call(WORK, schedule_to_start=2),
    "important": _call(WORK, queue=QUEUE, priority=5, fairness_key="vip", schedule_to_start=20),
    "lone": _call(LONE),
    "threaded": _call(TOIL),
    "threaded_hasty": _call(TOIL, timeout=2),
    "booked": _call(BOOK),
    "patient": _call(PATIENT),
    "curt": _call(CURT),
    "handed": _call(HAND, timeout=8),
    "handed_beating": _call(HAND, heartbeat_timeout=3),
    "handed_queued": _call(HAND, timeout=8, queue=QUEUE),
}
"""By kind."""

KINDS: Final = (
    *("plain", "plain", "flaky", "flaky", "doomed", "hasty", "hasty", "beating", "beating"),
    *("queued", "queued", "queued", "queued"),
    *(kind for kind in CALLS if kind not in ("plain", "flaky", "doomed", "hasty", "beating", "queued")),
)
"""As often as they are drawn."""
