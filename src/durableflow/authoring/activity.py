"""`@activity`: a function that may touch the world."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, ParamSpec, Protocol, Self, TypeVar, cast, overload

from durableflow.core.current import current_execution
from durableflow.errors import ActivityCancelled, DirectCallError, RegistrationError, UsageError
from durableflow.model import converter
from durableflow.model.circuit import CircuitBreaker
from durableflow.model.duration import Duration, to_us
from durableflow.model.events import ActivityOptions
from durableflow.model.ids import check_name
from durableflow.model.queues import check_priority
from durableflow.model.retry import RetryPolicy, store_retry

if TYPE_CHECKING:
    from durableflow.authoring.transactional import TransactionalDecorator

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


def store_options(
    retry: RetryPolicy | int | None,
    timeout: Duration | None,
    schedule_to_start: Duration | None,
    schedule_to_close: Duration | None,
    heartbeat_timeout: Duration | None,
    queue: str | None = None,
    priority: int | None = None,
    fairness_key: str | None = None,
) -> ActivityOptions | None:
    """The options as histories hold them; None when all are defaults.

    Raises:
        ValueError: a time is negative or not a time, a priority is out of range; the message names the option.
        UsageError: the name of a queue or a key that not every store can hold.
    """

    def microseconds(value: Duration | None, what: str) -> int:
        return 0 if value is None else max(1, to_us(value, what))

    made = ActivityOptions(
        None if retry is None else store_retry(retry),
        microseconds(schedule_to_start, "schedule_to_start"),
        microseconds(timeout, "timeout"),
        microseconds(schedule_to_close, "schedule_to_close"),
        microseconds(heartbeat_timeout, "heartbeat_timeout"),
        "" if queue is None else check_name(queue, "the name of a queue"),
        0 if priority is None else check_priority(priority),
        "" if fairness_key is None else check_name(fairness_key, "the fairness key"),
    )
    return None if made == ActivityOptions() else made


_QUEUE_AND_CIRCUIT: Final = (
    "an activity in a queue ({!r}) cannot have a circuit breaker: a task that waits for its circuit would keep its "
    "place in the queue; leave out one of the two, or pause the queue while the service is unwell"
)


class Activity(Generic[P, R_co]):
    """A registered activity: calls like the function it wraps, outside of workflows.

    Attributes:
        name: what histories and other processes know it by.
        function: the user's function.
        is_async: whether it is awaited; others run in a thread.
        is_transactional: whether it runs inside the store's transaction; its function is given the connection first.
        stored_options: what a call of it is asked to obey.
        max_concurrency: how many attempts run at once in one worker; None for no limit of its own.
        circuit: when its attempts are held back; None for never.
        arguments: reads and writes its arguments.
        arguments_text: what errors call them, made once.
    """

    if TYPE_CHECKING:
        exact_result: R_co
        """Never there: by a mutable attribute a protocol can ask for just this type and no wider one; `mock` does."""

    def __init__(
        self,
        function: Callable[P, R_co] | Callable[P, Awaitable[R_co]],
        *,
        name: str | None = None,
        stored_options: ActivityOptions | None = None,
        max_concurrency: int | None = None,
        transactional: bool = False,
        circuit: CircuitBreaker | None = None,
    ) -> None:
        target = function if inspect.isroutine(function) else _call_method(type(function))
        if target is None:
            raise RegistrationError(f"@activity wraps functions and callables, not {function!r:.80}")
        if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
            raise RegistrationError(f"activity {function!r:.80} is a generator; an activity returns one value")
        own_name = getattr(function, "__name__", None) or type(function).__name__
        self.name = check_name(own_name if name is None else name, "the name of an activity")
        self.function = function
        self.is_async = inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(function)
        self.stored_options = stored_options
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(f"max_concurrency is {max_concurrency!r}, but must be at least 1")
        self.max_concurrency = max_concurrency
        self.is_transactional = transactional
        self.circuit = circuit
        self.place: Literal["loop", "thread", "store"] = (
            "store" if transactional else "loop" if self.is_async else "thread"
        )
        """Where its attempts run; there is only so much room in each."""
        self.arguments = converter.Arguments(function, skip=1 if transactional else 0)
        self.arguments_text = f"the arguments of activity {self.name!r}"
        self._load_result: converter.Loader | None = None
        # Without the attributes of the callable, which could have the names of ours.
        update_wrapper(self, cast("Callable[P, R_co]", function), updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The plain function; refused inside a workflow, where its result would not be recorded.

        Raises:
            DirectCallError: a workflow runs here; the message has the line to write instead.
        """
        execution = current_execution.get()
        if execution is not None:
            written = ", ".join([*(repr(arg)[:30] for arg in args), *(f"{k}={v!r:.30}" for k, v in kwargs.items())])
            comma = ", " if written else ""
            raise DirectCallError(
                f"activity {self.name!r} was called directly inside workflow {execution.program.name!r}, so its result "
                f"would not be recorded; write: yield from ctx.call_activity({self.name}{comma}{written})  "
                "(or await instead of yield from)"
            )
        return cast("R_co", self.function(*args, **kwargs))

    def __repr__(self) -> str:
        return f"<activity {self.name}>"

    def options(
        self,
        *,
        retry: RetryPolicy | int | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        schedule_to_close: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        queue: str | None = None,
        priority: int | None = None,
        fairness_key: str | None = None,
    ) -> Self:
        """This activity with other options for one call; those left out stay as they are."""
        if queue is not None and self.circuit is not None:
            raise ValueError(_QUEUE_AND_CIRCUIT.format(queue))
        changed = store_options(
            retry,
            timeout,
            schedule_to_start,
            schedule_to_close,
            heartbeat_timeout,
            queue,
            priority,
            fairness_key,
        )
        if changed is None and (priority is None or self.stored_options is None):
            return self
        changed = changed or ActivityOptions()
        old = self.stored_options or ActivityOptions()
        merged = ActivityOptions(
            changed.retry or old.retry,
            changed.schedule_to_start_us or old.schedule_to_start_us,
            changed.start_to_close_us or old.start_to_close_us,
            changed.schedule_to_close_us or old.schedule_to_close_us,
            changed.heartbeat_us or old.heartbeat_us,
            changed.queue or old.queue,
            old.priority if priority is None else priority,
            changed.fairness_key or old.fairness_key,
        )
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.stored_options = merged
        return twin

    def result_loader(self) -> converter.Loader:
        """What reads a recorded result back as the annotated type.

        Raises:
            PayloadError: the annotation is no type that can be read from JSON, or cannot be resolved.
        """
        if self._load_result is None:
            self._load_result = converter.loader(self.arguments.result_type())
        return self._load_result

    def load_result(self, data: bytes) -> Any:
        """A recorded result, of the annotated type; raises `PayloadError`."""
        return self.result_loader()(data)


def _call_method(kind: type) -> Any:
    """`__call__` as its instances have it, None when they cannot be called; `kind.__call__` may be its metaclass's."""
    return next((vars(each)["__call__"] for each in kind.__mro__ if "__call__" in vars(each)), None)


@overload
def activity(function: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
@overload
def activity(function: Callable[P, R], /) -> Activity[P, R]: ...
@overload
def activity(
    *,
    name: str | None = None,
    retry: RetryPolicy | int | None = None,
    timeout: Duration | None = None,
    schedule_to_start: Duration | None = None,
    schedule_to_close: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    max_concurrency: int | None = None,
    queue: str | None = None,
    priority: int | None = None,
    fairness_key: str | None = None,
    transactional: Literal[False] = False,
    circuit: CircuitBreaker | None = None,
) -> ActivityDecorator: ...
@overload
def activity(
    *,
    name: str | None = None,
    retry: RetryPolicy | int | None = None,
    timeout: Duration | None = None,
    schedule_to_start: Duration | None = None,
    schedule_to_close: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    max_concurrency: int | None = None,
    transactional: Literal[True],
) -> TransactionalDecorator: ...
def activity(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retry: RetryPolicy | int | None = None,
    timeout: Duration | None = None,
    schedule_to_start: Duration | None = None,
    schedule_to_close: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    max_concurrency: int | None = None,
    queue: str | None = None,
    priority: int | None = None,
    fairness_key: str | None = None,
    transactional: bool = False,
    circuit: CircuitBreaker | None = None,
) -> Any:
    """Make a function an activity: it runs at least once, and its recorded result is used for ever.

    `async def` functions run on the engine's event loop, others in its bounded threads.

    Args:
        function: given when the decorator is written bare.
        name: what histories know it by; by default the function's name.
        retry: how often it is attempted; a number alone means that many attempts.
            By default 3 attempts, 1 s apart, backoff 2.
        timeout: limit of one attempt, start to close.
        schedule_to_start: limit of the wait for a free place in a worker.
        schedule_to_close: limit of everything, all attempts and waits included.
        heartbeat_timeout: an attempt that does not call `heartbeat` for so long has failed.
        max_concurrency: how many attempts of it run at once in one worker.
        queue: its attempts are made by whichever process serves this queue; by default by the one that owns
            the instance.
        priority: among the tasks of the queue that wait, those of the highest go first; from -1,000 to 1,000.
        fairness_key: tasks of different keys take turns, however many of one there are: a customer's name, say.
        transactional: it is given a connection of the store as its first argument, and what it writes there is
            committed together with its result, or not at all. A plain `def`, and short: nobody else writes meanwhile.
        circuit: when so many attempts have failed, none is made for a while; see `CircuitBreaker`.

    Raises:
        RegistrationError: another function of this name is registered; pass `name=`.
        ValueError: an option is out of its range.
    """
    stored = store_options(
        retry, timeout, schedule_to_start, schedule_to_close, heartbeat_timeout, queue, priority, fairness_key
    )
    if transactional:
        if queue is not None:
            raise ValueError(f"a transactional activity runs where its store is written, not in a queue: {queue!r}")
        if circuit is not None:
            raise ValueError("a transactional activity has no circuit: it calls no service but its own store")
        from durableflow.authoring.transactional import TransactionalDecorator  # which knows activities

        made = TransactionalDecorator(name, stored, max_concurrency)
        return made if function is None else made(function)
    if circuit is not None and queue is not None:
        raise ValueError(_QUEUE_AND_CIRCUIT.format(queue))
    decorator = ActivityDecorator(name, stored, max_concurrency, circuit)
    return decorator if function is None else decorator(function)


class ActivityDecorator:
    """What `@activity(...)` with options is before it meets its function."""

    def __init__(
        self,
        name: str | None,
        stored: ActivityOptions | None,
        max_concurrency: int | None,
        circuit: CircuitBreaker | None,
    ) -> None:
        self._name = name
        self._stored = stored
        self._max_concurrency = max_concurrency
        self._circuit = circuit

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Activity[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """The activity made of `function`, registered by its name."""
        from durableflow.authoring.registry import DEFAULT  # registry knows activities

        made: Activity[..., Any] = Activity(
            function,
            name=self._name,
            stored_options=self._stored,
            max_concurrency=self._max_concurrency,
            circuit=self._circuit,
        )
        DEFAULT.offer_activity(made)
        return made


class Voice(Protocol):
    """By which an activity's context reaches the attempt that it is of."""

    def beat(self, details: bytes) -> None:
        """Keep the details of a heartbeat; called on any thread."""
        ...

    def offer(self) -> Coroutine[Any, Any, str]:
        """Make a token that can finish the attempt."""
        ...


class ActivityContext:
    """What a running activity may know and say; got by `activity_context()`.

    Attributes:
        instance_id: the instance that asked for it.
        activity: its name.
        attempt: which one this is, counted from 1.
        is_transactional: whether it runs inside a transaction of the store, for which all others wait.
        scheduled_at_us: when the workflow asked for it, in microseconds since 1970; the same for all attempts.
        task: its number among what the workflow asked for.
    """

    __slots__ = (
        "_cancelled",
        "_details",
        "_is_cancelled",
        "_loop",
        "_voice",
        "activity",
        "attempt",
        "cancel_reason",
        "instance_id",
        "is_transactional",
        "scheduled_at_us",
        "task",
    )

    def __init__(
        self,
        instance_id: str,
        task: int,
        activity_name: str,
        attempt: int,
        details: bytes | None,
        voice: Voice,
        loop: asyncio.AbstractEventLoop | None = None,
        scheduled_at_us: int = 0,
    ) -> None:
        self.instance_id = instance_id
        self.task = task
        self.activity = activity_name
        self.attempt = attempt
        self._details = details
        self._voice = voice
        self._is_cancelled = False
        self._cancelled: threading.Event | None = None
        self.cancel_reason = ""
        self._loop = loop
        self.is_transactional = False
        self.scheduled_at_us = scheduled_at_us

    @property
    def idempotency_key(self) -> str:
        """The same for all attempts of this call; pass it to the services you call."""
        return f"{self.instance_id}/{self.task}"

    @property
    def heartbeat_details(self) -> Any:
        """Plain JSON values, as passed to `heartbeat` by an earlier attempt; None when there are none."""
        return None if self._details is None else converter.loader(Any)(self._details)

    @property
    def is_cancelled(self) -> bool:
        """True once the result is no longer wanted: cancelled, timed out, or the worker is stopping."""
        return self._is_cancelled

    def wait_cancelled(self, timeout: Duration | None = None) -> bool:
        """Block a thread until cancelled, at most `timeout`; True when cancelled."""
        if self._cancelled is None:
            self._cancelled = threading.Event()
        if self._is_cancelled:
            return True
        return self._cancelled.wait(None if timeout is None else to_us(timeout, "timeout") / 1_000_000)

    def heartbeat(self, details: object = None) -> None:
        """Say that this attempt is alive, and how far it is; the next attempt can read the latest details.

        Raises:
            ActivityCancelled: the result is no longer wanted.
            PayloadError: `details` cannot be stored.
        """
        if self._is_cancelled:
            raise ActivityCancelled(f"activity {self.activity!r} is no longer wanted: {self.cancel_reason}")
        self._voice.beat(converter.dump(details, "the heartbeat details"))

    async def hand_over(self) -> str:
        """A token with which any process may finish this activity: `client.complete(token, value)`.

        It is good from the moment at which this returns. Give it away, then `raise HandedOver`: the attempt has
        left this worker, survives restarts, and is bounded by the activity's `timeout`, `heartbeat_timeout` and
        `schedule_to_close` alone. If the activity ends in any other way, or its process dies before, the token
        is worth nothing; the next attempt asks for its own.

        Raises:
            ActivityCancelled: the result is no longer wanted.
        """
        if self._is_cancelled:
            raise ActivityCancelled(f"activity {self.activity!r} is no longer wanted: {self.cancel_reason}")
        return await self._voice.offer()

    def hand_over_blocking(self) -> str:
        """`hand_over` for activities that are plain functions, and so run in a thread."""
        if self._loop is None:
            raise UsageError("hand_over_blocking() is for activities that run in a thread; write await hand_over()")
        return asyncio.run_coroutine_threadsafe(self.hand_over(), self._loop).result()

    def mark_cancelled(self, reason: str) -> None:
        """For the engine: tell the attempt to stop."""
        self.cancel_reason = reason
        self._is_cancelled = True
        if self._cancelled is not None:
            self._cancelled.set()


current_activity: Final[ContextVar[ActivityContext | None]] = ContextVar("durableflow_activity", default=None)


def activity_context() -> ActivityContext:
    """The context of the attempt that runs here.

    Raises:
        UsageError: this code does not run inside an activity.
    """
    context = current_activity.get()
    if context is None:
        raise UsageError("activity_context() works only inside an activity that an engine runs")
    return context
