"""`@workflow`: a deterministic function that survives crashes."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from datetime import datetime
from functools import update_wrapper
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    Literal,
    ParamSpec,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

import msgspec

from durableflow.authoring.context import Context
from durableflow.errors import RegistrationError
from durableflow.model import converter
from durableflow.model.duration import Duration, from_datetime, to_us
from durableflow.model.ids import check_name
from durableflow.model.queues import check_priority
from durableflow.model.retry import RetryPolicy, StoredRetry, store_retry

if TYPE_CHECKING:
    from durableflow.core.execution import Execution

P = ParamSpec("P")
R = TypeVar("R")

OnConflict: TypeAlias = Literal["return", "fail", "replace"]
"""What `start` does when the id is taken: give the one that is there, refuse, or replace it if it is over."""

ParentClose: TypeAlias = Literal["terminate", "cancel", "abandon"]
"""What becomes of a child when its parent is over, in whatever way."""

Flow: TypeAlias = Generator[Any, Any, R]
"""What a generator workflow returns: `def fulfil(ctx: Context, order: Order) -> Flow[Receipt]`."""


class StartOptions(msgspec.Struct, frozen=True):
    """How an instance is started; times in microseconds, 0 for none."""

    instance_id: str | None = None
    tags: Mapping[str, str] = {}
    start_at_us: int = 0
    start_delay_us: int = 0
    timeout_us: int = 0
    on_conflict: OnConflict = "return"
    parent_close: ParentClose = "terminate"
    retry: StoredRetry | None = None
    queue: str = ""
    priority: int = 0
    fairness_key: str = ""
    debounce_us: int = 0
    debounce_limit_us: int = 0


VERSION_MAX: Final = 2**31 - 1
"""Every store can hold it."""


class Workflow(Generic[P, R]):
    """A registered workflow; start it with `engine.start(workflow, ...)`.

    Attributes:
        name: what histories and other processes know it by.
        version: recorded in the history of each instance.
        function: the user's function; its first parameter is the context.
        start_options: how instances of it are started.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *,
        name: str | None = None,
        version: int = 1,
        timeout: Duration | None = None,
    ) -> None:
        if inspect.isasyncgenfunction(function):
            raise RegistrationError(
                f"workflow {function.__qualname__} is an async generator; write async def with await, "
                "or def with yield from"
            )
        if not inspect.isroutine(function):
            raise RegistrationError(f"@workflow wraps functions, not {function!r:.80}")
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters or parameters[0].kind not in (*positional, inspect.Parameter.VAR_POSITIONAL):
            raise RegistrationError(
                f"workflow {function.__qualname__} has no parameter for its context; "
                f"write: def {function.__name__}(ctx: Context, ...)"
            )
        if not 1 <= version <= VERSION_MAX:
            raise ValueError(f"version is {version!r}, but versions count from 1 to {VERSION_MAX:,}")
        self.name = check_name(function.__name__ if name is None else name, "the name of a workflow")
        self.version = version
        self.function = function
        self.start_options = StartOptions(timeout_us=0 if timeout is None else to_us(timeout, "timeout"))
        self.arguments = converter.Arguments(function, skip=1)
        self._result_text = f"the result of workflow {self.name!r}"
        self._load_result: converter.Loader | None = None
        update_wrapper(self, function, updated=())

    def __call__(self, ctx: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """A plain call of the function, for unit tests: whatever it returns, with a `ctx` of your own."""
        return self.function(ctx, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.name} v{self.version}>"

    def options(
        self,
        *,
        instance_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        start_at: datetime | None = None,
        start_delay: Duration | None = None,
        timeout: Duration | None = None,
        on_conflict: OnConflict | None = None,
        parent_close: ParentClose | None = None,
        retry: RetryPolicy | int | None = None,
        queue: str | None = None,
        priority: int | None = None,
        fairness_key: str | None = None,
        debounce: Duration | None = None,
        debounce_limit: Duration | None = None,
    ) -> Workflow[P, R]:
        """This workflow with other options for the instances started from it.

        Args:
            instance_id: any text that is unique in the store; by default a fresh one that sorts by time.
            tags: texts to list instances by.
            start_at: the code does not begin before; needs a time zone.
            start_delay: the same, from now.
            timeout: the instance fails when it is not over so long after its start.
            on_conflict: when the id is taken: `"return"` the instance that is there (the
                default), `"fail"`, or `"replace"` it if it is over. A child of a taken id is refused
                unless it says `"replace"`.
            parent_close: of a child: when its parent is over, it is terminated (the default), cancelled, or left alone.
            retry: of a child: another one is started when it fails; by default none is. A number alone means that many
                children.
            queue: the instance is PENDING until this queue admits it, and has a place in it until it is over;
                see `Client.set_queue`.
            priority: among those that wait in the queue, those of the highest are admitted first; from -1,000
                to 1,000.
            fairness_key: instances of different keys take turns.

            debounce: the code begins when no further start with this `instance_id` came for so long; each replaces
                the input of the one before. The instance gets an id of its own, `instance_id/...`.
            debounce_limit: but not later than so long after the first of them.

        Raises:
            UsageError: an id, tag, queue or key that not every store can hold.
            ValueError: a time out of range or without a time zone, or options that do not go together.
        """
        if on_conflict not in (None, "return", "fail", "replace"):
            raise ValueError(f"on_conflict is {on_conflict!r}, but must be 'return', 'fail' or 'replace'")
        if parent_close not in (None, "terminate", "cancel", "abandon"):
            raise ValueError(f"parent_close is {parent_close!r}, but must be 'terminate', 'cancel' or 'abandon'")
        for key, value in (tags or {}).items():
            check_name(key, "a tag's name")
            check_name(value, f"the value of tag {key!r}")
        old = self.start_options
        twin = cast("Workflow[P, R]", object.__new__(Workflow))
        twin.__dict__.update(self.__dict__)
        twin.start_options = StartOptions(
            old.instance_id if instance_id is None else check_name(instance_id, "the instance id"),
            old.tags if tags is None else dict(tags),
            old.start_at_us if start_at is None else from_datetime(start_at, "start_at"),
            old.start_delay_us if start_delay is None else to_us(start_delay, "start_delay"),
            old.timeout_us if timeout is None else to_us(timeout, "timeout"),
            on_conflict or old.on_conflict,
            parent_close or old.parent_close,
            old.retry if retry is None else store_retry(retry),
            old.queue if queue is None else check_name(queue, "the name of a queue"),
            old.priority if priority is None else check_priority(priority),
            old.fairness_key if fairness_key is None else check_name(fairness_key, "the fairness key"),
            old.debounce_us if debounce is None else to_us(debounce, "debounce"),
            old.debounce_limit_us if debounce_limit is None else to_us(debounce_limit, "debounce_limit"),
        )
        _check_debounce(twin.start_options)
        return twin

    # -- for the engine -------------------------------------------------------------------------------------

    def begin(self, execution: Execution, data: bytes) -> object:
        """Call the function with a context of its own; see `core.execution.Program`."""
        args, kwargs = self.arguments.load(data)
        if not kwargs:
            return self.function(Context(execution, self), *args)
        return self.function(Context(execution, self), *args, **kwargs)

    def dump_result(self, value: object) -> bytes:
        """What it returned as payload bytes; raises `PayloadError`."""
        return converter.NULL if value is None else converter.dump(value, self._result_text)

    def result_loader(self) -> converter.Loader:
        """What reads a recorded result back as the annotated type; raises `PayloadError`."""
        if self._load_result is None:
            self._load_result = converter.loader(_result_type(self))
        return self._load_result

    def load_result(self, data: bytes) -> Any:
        """A recorded result, of the annotated type; raises `PayloadError`."""
        return self.result_loader()(data)


def _check_debounce(options: StartOptions) -> None:
    wait_us, limit_us = options.debounce_us, options.debounce_limit_us
    if limit_us and not wait_us:
        raise ValueError("debounce_limit is given without debounce, so there is nothing to limit")
    if limit_us and limit_us < wait_us:
        raise ValueError(f"debounce_limit is {limit_us / 1e6:g} s, but must not be shorter than debounce")
    if wait_us and (options.start_at_us or options.start_delay_us):
        raise ValueError("debounce says when an instance begins, so it goes with neither start_at nor start_delay")
    if wait_us and options.on_conflict != "return":
        raise ValueError(
            f"on_conflict={options.on_conflict!r} does not go with debounce: each window is a new instance"
        )


def _result_type(definition: Workflow[..., Any]) -> Any:
    """The type that a workflow returns; of a generator, its third parameter."""
    annotation = definition.arguments.result_type()
    arguments: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if arguments and getattr(annotation, "__origin__", None) in {Generator, Coroutine}:
        return arguments[-1]  # also of a plain function that hands on the generator of another
    return Any if inspect.isgeneratorfunction(definition.function) else annotation


@overload
def workflow(function: Callable[Concatenate[Context, P], Generator[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(function: Callable[Concatenate[Context, P], R], /) -> Workflow[P, R]: ...
@overload
def workflow(*, name: str | None = None, version: int = 1, timeout: Duration | None = None) -> WorkflowDecorator: ...
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    version: int = 1,
    timeout: Duration | None = None,
) -> Any:
    """Make a function a workflow: a generator, a coroutine function or a plain function.

    It must be deterministic: everything that it learns from the world comes through its
    context. Its source is looked at, and a `DeterminismWarning` names what would not replay.

    Args:
        function: given when the decorator is written bare.
        name: what histories know it by; by default the function's name.
        version: recorded with each instance.
        timeout: instances fail when they are not over so long after their start.

    Raises:
        RegistrationError: another function of this name is registered; pass `name=`.
    """
    decorator = WorkflowDecorator(name, version, timeout)
    return decorator if function is None else decorator(function)


class WorkflowDecorator:
    """What `@workflow(...)` with options is before it meets its function."""

    def __init__(self, name: str | None, version: int, timeout: Duration | None) -> None:
        self._name = name
        self._version = version
        self._timeout = timeout

    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], Generator[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], R], /) -> Workflow[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """The workflow made of `function`, registered by its name."""
        from durableflow.authoring.determinism import warn_about  # costs nothing where no workflow is defined
        from durableflow.authoring.registry import DEFAULT  # registry knows workflows

        made: Workflow[..., Any] = Workflow(function, name=self._name, version=self._version, timeout=self._timeout)
        warn_about(function)
        DEFAULT.offer_workflow(made)
        return made


__all__ = ["Awaitable", "Flow", "OnConflict", "StartOptions", "Workflow", "cast", "workflow"]
