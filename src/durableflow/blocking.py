"""The blocking twin: client, engine and handles for code that has no event loop, in scripts and threaded web servers.

Comes in: plain calls, from any thread. Goes out: the same call of the asynchronous object, made on an event
loop in a thread of its own. Nothing is written twice: a method here is the name of one there.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import wraps
from types import MethodType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, Self, TypeAlias, TypeVar, Unpack, overload

from anyio.from_thread import BlockingPortal, start_blocking_portal

from durableflow.authoring.activity import current_activity
from durableflow.authoring.registry import AnyActivity, AnyWorkflow
from durableflow.authoring.workflow import Workflow
from durableflow.client import Client
from durableflow.dead_letters import DeadLetters
from durableflow.engine import Engine
from durableflow.errors import EngineClosed, UsageError
from durableflow.handle import Handle
from durableflow.model.duration import Duration
from durableflow.model.schedule import Schedule, Spec
from durableflow.observe.facts import Fact
from durableflow.runtime.filters import InstanceFilter
from durableflow.runtime.worker import WorkerStatistics
from durableflow.schedules import Schedules, ScheduleView
from durableflow.sharding import Shards

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
_AnyHandle: TypeAlias = Handle[Any]


class LoopThread:
    """An event loop in a daemon thread, which holds something asynchronous open and serves other threads."""

    def __init__(self) -> None:
        self._stack: ExitStack | None = None
        self._portal: BlockingPortal | None = None
        self._thread_id = 0

    def open(self, held: AbstractAsyncContextManager[object]) -> None:
        """Start the loop and enter `held` there; when that raises, all is closed again.

        Raises:
            UsageError: it is open already.
        """
        if self._stack is not None:
            raise UsageError(f"the blocking twin of {held!r} is open already; make another one to open it twice")
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            # What still waits when `held` is closed is not waited for.
            stack.callback(lambda: portal.call(portal.stop, True))
            self._thread_id = portal.call(threading.get_ident)
            stack.enter_context(portal.wrap_async_context_manager(held))
            self._stack, self._portal = stack.pop_all(), portal

    def close(self, *exc_info: Any) -> None:
        """Leave what is held open, then end the thread; does nothing when it is closed already."""
        stack, self._stack = self._stack, None
        if stack is not None:
            try:
                stack.__exit__(*(exc_info or (None, None, None)))
            finally:
                self._portal = None

    def call(self, function: Callable[Q, Coroutine[Any, Any, T]], /, *args: Q.args, **kwargs: Q.kwargs) -> T:
        """Have `function` called on the loop and wait for its result.

        Raises:
            EngineClosed: the loop does not run, or was closed before there was a result.
            UsageError: called on the loop itself, which would wait for itself for ever.
        """
        portal = self._portal
        if portal is None:
            raise EngineClosed("this blocking twin is not open; use it inside: with BlockingEngine(...) as engine")
        if threading.get_ident() == self._thread_id:
            raise UsageError(
                "a blocking call on the event loop of its own engine would never return; "
                "make the activity that calls it a plain def: those run in threads"
            )
        activity = current_activity.get()
        if activity is not None and activity.is_transactional:
            raise UsageError(
                "a blocking call inside a transactional activity would wait for the transaction that it is in; "
                "to start instances and raise events there use durableflow.Outbox(connection)"
            )
        try:
            future: Future[T] = portal.start_task_soon(lambda: function(*args, **kwargs))
        except RuntimeError as error:
            raise EngineClosed("this blocking twin is closing") from error
        try:
            return future.result()
        except CancelledError:
            raise EngineClosed("this blocking twin was closed while the call was waiting") from None
        except BaseException:
            future.cancel()  # the caller was interrupted: nobody waits any more
            raise


class _Twin(Protocol):
    """What has blocking methods."""

    @property
    def asynchronous(self) -> Any: ...

    @property
    def loop_thread(self) -> LoopThread: ...


class BlockingMethod(Generic[P, R]):
    """An asynchronous method as its blocking twin has it: the same name, arguments and result."""

    def __init__(self, method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> None:
        name = method.__name__

        @wraps(method)
        def call(twin: _Twin, /, *args: P.args, **kwargs: P.kwargs) -> R:
            made: Callable[P, Coroutine[Any, Any, R]] = getattr(twin.asynchronous, name)
            return twin.loop_thread.call(made, *args, **kwargs)

        self._call: Final = call

    @overload
    def __get__(self, twin: None, owner: type[object]) -> Callable[Concatenate[Any, P], R]: ...
    @overload
    def __get__(self, twin: _Twin, owner: type[object]) -> Callable[P, R]: ...
    def __get__(self, twin: _Twin | None, owner: type[object]) -> Callable[..., R]:
        return self._call if twin is None else MethodType(self._call, twin)


def arguments_of(
    model: Callable[Concatenate[Any, P], object],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give the decorated `__init__` the parameters of `model`, which it hands on."""

    def decorate(init: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        return wraps(model)(init)

    return decorate


class BlockingHandle(Generic[R]):
    """One instance, to talk to from code without an event loop. See `Handle`.

    Attributes:
        asynchronous: the handle that this is the twin of.
    """

    def __init__(self, loop_thread: LoopThread, asynchronous: Handle[R]) -> None:
        self.loop_thread: Final = loop_thread
        self.asynchronous: Final = asynchronous

    def __repr__(self) -> str:
        return f"<blocking handle of instance {self.id!r}>"

    @property
    def id(self) -> str:
        """Its instance id."""
        return self.asynchronous.id

    def result(self, *, timeout: Duration | None = None) -> R:
        """Wait for the end; what the workflow returned, of its annotated type. See `Client.result`."""
        return self.loop_thread.call(self.asynchronous.result, timeout=timeout)

    def fork(
        self, *, at: int | None = None, new_id: str | None = None, version: int | None = None
    ) -> BlockingHandle[R]:
        """Make a copy of it up to an event, which goes on by itself. See `Client.fork`."""
        made = self.loop_thread.call(self.asynchronous.fork, at=at, new_id=new_id, version=version)
        return BlockingHandle(self.loop_thread, made)

    def restart(self, *, new_id: str | None = None) -> BlockingHandle[R]:
        """Start another one with its input. See `Client.restart`."""
        return BlockingHandle(self.loop_thread, self.loop_thread.call(self.asynchronous.restart, new_id=new_id))

    status = BlockingMethod(_AnyHandle.status)
    wait_for_status = BlockingMethod(_AnyHandle.wait_for_status)
    history = BlockingMethod(_AnyHandle.history)
    view = BlockingMethod(_AnyHandle.view)
    raise_event = BlockingMethod(_AnyHandle.raise_event)
    request = BlockingMethod(_AnyHandle.request)
    query = BlockingMethod(_AnyHandle.query)
    rewind = BlockingMethod(_AnyHandle.rewind)
    suspend = BlockingMethod(_AnyHandle.suspend)
    resume = BlockingMethod(_AnyHandle.resume)
    terminate = BlockingMethod(_AnyHandle.terminate)
    cancel = BlockingMethod(_AnyHandle.cancel)
    purge = BlockingMethod(_AnyHandle.purge)


class BlockingDeadLetters:
    """The dead letters of a store, for code without an event loop. See `DeadLetters`.

    Attributes:
        asynchronous: what this is the twin of.
    """

    def __init__(self, loop_thread: LoopThread, asynchronous: DeadLetters) -> None:
        self.loop_thread: Final = loop_thread
        self.asynchronous: Final = asynchronous

    list = BlockingMethod(DeadLetters.list)
    get = BlockingMethod(DeadLetters.get)
    redrive = BlockingMethod(DeadLetters.redrive)
    redrive_all = BlockingMethod(DeadLetters.redrive_all)
    discard = BlockingMethod(DeadLetters.discard)
    discard_all = BlockingMethod(DeadLetters.discard_all)


class BlockingSchedules:
    """The schedules of a store, for code without an event loop. See `Schedules`.

    Attributes:
        asynchronous: what this is the twin of.
    """

    def __init__(self, loop_thread: LoopThread, asynchronous: Schedules) -> None:
        self.loop_thread: Final = loop_thread
        self.asynchronous: Final = asynchronous

    def create(
        self,
        schedule_id: str,
        schedule: Schedule | Spec,
        workflow: Workflow[P, Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ScheduleView:
        """Make a schedule. See `Schedules.create`."""
        return self.loop_thread.call(self.asynchronous.create, schedule_id, schedule, workflow, *args, **kwargs)

    def put(
        self,
        schedule_id: str,
        schedule: Schedule | Spec,
        workflow: Workflow[P, Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ScheduleView:
        """Have a schedule be as it is said here. See `Schedules.put`."""
        return self.loop_thread.call(self.asynchronous.put, schedule_id, schedule, workflow, *args, **kwargs)

    update = BlockingMethod(Schedules.update)
    pause = BlockingMethod(Schedules.pause)
    resume = BlockingMethod(Schedules.resume)
    delete = BlockingMethod(Schedules.delete)
    trigger = BlockingMethod(Schedules.trigger)
    backfill = BlockingMethod(Schedules.backfill)
    get = BlockingMethod(Schedules.get)
    list = BlockingMethod(Schedules.list)


class BlockingClient:
    """Talks to the instances of a store from code without an event loop, and from any number of threads.

    Use it as `with BlockingClient("sqlite:///orders.db") as client: ...`. The arguments are those of `Client`.
    """

    @arguments_of(Client.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = Client(*args, **kwargs)
        self.loop_thread = LoopThread()

    @property
    def asynchronous(self) -> Client:
        """The client that this is the twin of."""
        return self._client

    def __repr__(self) -> str:
        return f"<blocking twin of {self.asynchronous!r}>"

    def __enter__(self) -> Self:
        self.loop_thread.open(self.asynchronous)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.loop_thread.close(*exc_info)

    def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> BlockingHandle[R]:
        """Start an instance; returns when it is durable. See `Client.start`."""
        handle = self.loop_thread.call(self.asynchronous.start, workflow, *args, **kwargs)
        return BlockingHandle(self.loop_thread, handle)

    @overload
    def handle(self, instance_id: str, workflow: Workflow[..., R]) -> BlockingHandle[R]: ...
    @overload
    def handle(self, instance_id: str, workflow: None = None) -> BlockingHandle[Any]: ...
    def handle(self, instance_id: str, workflow: Workflow[..., Any] | None = None) -> BlockingHandle[Any]:
        """A handle of an instance; with its workflow, results are of the annotated type."""
        return BlockingHandle(self.loop_thread, self.asynchronous.handle(instance_id, workflow))

    def fork(
        self, instance_id: str, *, at: int | None = None, new_id: str | None = None, version: int | None = None
    ) -> BlockingHandle[Any]:
        """Make a copy of an instance up to an event, which goes on by itself. See `Client.fork`."""
        made = self.loop_thread.call(self.asynchronous.fork, instance_id, at=at, new_id=new_id, version=version)
        return BlockingHandle(self.loop_thread, made)

    def restart(self, instance_id: str, *, new_id: str | None = None) -> BlockingHandle[Any]:
        """Start another instance with the input of this one. See `Client.restart`."""
        made = self.loop_thread.call(self.asynchronous.restart, instance_id, new_id=new_id)
        return BlockingHandle(self.loop_thread, made)

    @property
    def dead_letters(self) -> BlockingDeadLetters:
        """What failed for good in this store. See `Client.dead_letters`."""
        return BlockingDeadLetters(self.loop_thread, self.asynchronous.dead_letters)

    @property
    def schedules(self) -> BlockingSchedules:
        """Workflows that are started at moments. See `Client.schedules`."""
        return BlockingSchedules(self.loop_thread, self.asynchronous.schedules)

    result = BlockingMethod(Client.result)
    status = BlockingMethod(Client.status)
    wait_for_status = BlockingMethod(Client.wait_for_status)
    history = BlockingMethod(Client.history)
    view = BlockingMethod(Client.view)
    raise_event = BlockingMethod(Client.raise_event)
    request = BlockingMethod(Client.request)
    query = BlockingMethod(Client.query)
    rewind = BlockingMethod(Client.rewind)
    suspend = BlockingMethod(Client.suspend)
    resume = BlockingMethod(Client.resume)
    terminate = BlockingMethod(Client.terminate)
    cancel = BlockingMethod(Client.cancel)
    purge = BlockingMethod(Client.purge)
    purge_many = BlockingMethod(Client.purge_many)
    purge_finished = BlockingMethod(Client.purge_finished)
    bulk = BlockingMethod(Client.bulk)
    export_instances = BlockingMethod(Client.export_instances)
    import_instances = BlockingMethod(Client.import_instances)

    def export_lines(
        self, instance_ids: Iterable[str] | None = None, **where: Unpack[InstanceFilter]
    ) -> Generator[str]:
        """See `Client.export_lines`."""
        lines = self.asynchronous.export_lines(instance_ids, **where)
        while (line := self.loop_thread.call(_next_of, lines)) is not None:
            yield line

    alerts = BlockingMethod(Client.alerts)
    circuits = BlockingMethod(Client.circuits)
    reset_circuit = BlockingMethod(Client.reset_circuit)
    list = BlockingMethod(Client.list)
    open_attempt = BlockingMethod(Client.open_attempt)
    open_attempts = BlockingMethod(Client.open_attempts)
    complete = BlockingMethod(Client.complete)
    fail = BlockingMethod(Client.fail)
    heartbeat = BlockingMethod(Client.heartbeat)
    queues = BlockingMethod(Client.queues)
    queue = BlockingMethod(Client.queue)
    set_queue = BlockingMethod(Client.set_queue)
    pause_queue = BlockingMethod(Client.pause_queue)
    resume_queue = BlockingMethod(Client.resume_queue)


async def _next_of(lines: AsyncGenerator[str]) -> str | None:
    return await anext(lines, None)


class BlockingEngine(BlockingClient):
    """Runs workflows in a thread of this process, for code without an event loop.

    Use it as `with BlockingEngine("sqlite:///orders.db") as engine: ...`. The arguments are those of `Engine`.
    """

    @arguments_of(Engine.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = self._engine = Engine(*args, **kwargs)
        self.loop_thread = LoopThread()

    @classmethod
    def of(cls, asynchronous: Engine, loop_thread: LoopThread) -> Self:
        """The twin of an engine that is held open on `loop_thread` by somebody else."""
        twin = cls.__new__(cls)
        twin._client = twin._engine = asynchronous
        twin.loop_thread = loop_thread
        return twin

    @property
    def asynchronous(self) -> Engine:
        """The engine that this is the twin of."""
        return self._engine

    def run(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Start an instance, wait for its end and give its result."""
        return self.start(workflow, *args, **kwargs).result()

    def register(self, *definitions: AnyWorkflow | AnyActivity) -> None:
        """Know more workflows and activities; instances that stalled for want of them go on."""

        async def register() -> None:
            self.asynchronous.register(*definitions)

        self.loop_thread.call(register)

    def listen(self, listener: Callable[[Fact], None]) -> Callable[[], None]:
        """See `Engine.listen`; facts are told on the thread of the event loop."""

        async def listen() -> Callable[[], None]:
            return self.asynchronous.listen(listener)

        return self.loop_thread.call(listen)

    def tell(self, fact: Fact) -> None:
        """See `Engine.tell`."""

        async def tell() -> None:
            self.asynchronous.tell(fact)

        self.loop_thread.call(tell)

    def statistics(self) -> WorkerStatistics:
        """What the worker is doing; raises `EngineClosed` when this engine is not leading."""

        async def statistics() -> WorkerStatistics:
            return self.asynchronous.statistics()

        return self.loop_thread.call(statistics)

    @property
    def is_leading(self) -> bool:
        """True while this engine runs the store's instances; False while another process does."""
        return self.asynchronous.is_leading

    wait_until_leading = BlockingMethod(Engine.wait_until_leading)


class BlockingShards(BlockingClient):
    """Runs an engine on each of several stores that are one, in a thread of this process. See `Shards`.

    Use it as `with BlockingShards({"north": ..., "south": ...}) as shards: ...`. The arguments are those of `Shards`.
    """

    @arguments_of(Shards.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = self._shards = Shards(*args, **kwargs)
        self.loop_thread = LoopThread()

    @property
    def asynchronous(self) -> Shards:
        """The shards that this is the twin of."""
        return self._shards

    def register(self, *definitions: AnyWorkflow | AnyActivity) -> None:
        """Know more workflows and activities, in all engines; instances that stalled for want of them go on."""

        async def register() -> None:
            self.asynchronous.register(*definitions)

        self.loop_thread.call(register)

    @property
    def is_leading(self) -> bool:
        """True while the instances of all stores are run by these engines, or they have their shares of them."""
        return self.asynchronous.is_leading

    wait_until_leading = BlockingMethod(Shards.wait_until_leading)
