"""What a workflow gets: everything that it may ask of the world.

Each method that asks for something schedules it when it is called, and gives a `Task`
to wait for, now or later. The core does the work; this module is the face of it. What is only about
time, events and tasks is in `waiting.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from types import UnionType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, cast, overload
from weakref import WeakKeyDictionary

from durableflow.authoring.activity import Activity, store_options
from durableflow.authoring.calls import child_call, is_workflow, not_a_workflow, not_an_activity
from durableflow.authoring.handle import OtherInstance
from durableflow.authoring.handlers import handler_of
from durableflow.authoring.replay_logger import ReplaySilentLogger
from durableflow.authoring.saga import OnFailure, Saga
from durableflow.authoring.waiting import Waiting
from durableflow.core.execution import Execution
from durableflow.core.others import ChildCall
from durableflow.core.task import ChildTask, Task
from durableflow.errors import UsageError
from durableflow.model import converter
from durableflow.model.duration import Duration, to_datetime
from durableflow.model.events import ChildOptions
from durableflow.model.ids import check_name
from durableflow.model.retry import RetryPolicy

if TYPE_CHECKING:
    import uuid

    from durableflow.authoring.workflow import ParentClose, Workflow

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., object])
R = TypeVar("R")
T = TypeVar("T")


class Context(Waiting):
    """The one door between a workflow and the world; its methods work only in the workflow's own code."""

    __slots__ = ("_logger", "_sagas", "_workflow")

    def __init__(self, execution: Execution, workflow: Workflow[..., Any] | None = None) -> None:
        self._execution = execution
        self._workflow = workflow
        self._logger: ReplaySilentLogger | None = None
        self._sagas: WeakKeyDictionary[Saga, None] | None = None

    # -- asking for things ----------------------------------------------------------------------------------

    def call_activity(self, activity: Activity[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Task[R]:
        """Have an activity run; the task's result is what it returned, read back from the record.

        Raises (at the wait):
            ActivityFailed: all attempts failed.

        Raises (at once):
            PayloadError: an argument cannot be stored.
        """
        if not isinstance(activity, Activity):  # pyright: ignore[reportUnnecessaryIsInstance]  # users pass anything
            raise not_an_activity(activity)
        data = activity.arguments.dump(args, kwargs, activity.arguments_text)
        execution = self._execution
        if execution.on_activity_object is not None:
            execution.on_activity_object(activity)
        return execution.schedule_activity(activity.name, data, activity.stored_options, activity.result_loader())

    @overload
    def call_activity_by_name(
        self,
        name: str,
        /,
        *args: object,
        result_type: type[T],
        retry: RetryPolicy | int | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        schedule_to_close: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        queue: str | None = None,
        priority: int | None = None,
        fairness_key: str | None = None,
    ) -> Task[T]: ...
    @overload
    def call_activity_by_name(
        self,
        name: str,
        /,
        *args: object,
        result_type: UnionType | None = None,
        retry: RetryPolicy | int | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        schedule_to_close: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        queue: str | None = None,
        priority: int | None = None,
        fairness_key: str | None = None,
    ) -> Task[Any]: ...
    def call_activity_by_name(
        self,
        name: str,
        /,
        *args: object,
        result_type: Any = None,
        retry: RetryPolicy | int | None = None,
        timeout: Duration | None = None,
        schedule_to_start: Duration | None = None,
        schedule_to_close: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        queue: str | None = None,
        priority: int | None = None,
        fairness_key: str | None = None,
    ) -> Task[Any]:
        """Have the activity registered as `name` run; its function need not be imported here.

        Args:
            result_type: what the result is read back as; plain JSON values when left out.
            retry, timeout, schedule_to_start, schedule_to_close, heartbeat_timeout, queue, priority, fairness_key:
                as for `@activity`.
        """
        check_name(name, "the name of an activity")
        data = converter.dump(args, f"the arguments of activity {name!r}") if args else converter.EMPTY_ARGUMENTS
        options = store_options(
            retry, timeout, schedule_to_start, schedule_to_close, heartbeat_timeout, queue, priority, fairness_key
        )
        return self._execution.schedule_activity(name, data, options, converter.loader(result_type or Any))

    # -- others ---------------------------------------------------------------------------------------------

    def call_workflow(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> ChildTask[R]:
        """Start a child; the task's result is what it returned.

        Its id, tags, start, timeout, retry and what becomes of it when this instance is over are options of the
        workflow: `ctx.call_workflow(ship.options(parent_close="abandon"), order)`. With no id of its own the child is
        `{id of this instance}/{number of the call}`. There is exactly one child, across any crash. Cancelling the task
        cancels the child.

        Raises (at the wait):
            ChildFailed: it failed, was terminated or cancelled, or its id was taken.

        Raises (at once):
            PayloadError: an argument cannot be stored.
        """
        if not is_workflow(workflow):
            raise not_a_workflow(workflow)
        execution = self._execution
        data = workflow.arguments.dump(args, kwargs, f"the input of workflow {workflow.name!r}")
        if execution.on_workflow_object is not None:
            execution.on_workflow_object(workflow)
        return execution.call_child(child_call(workflow, data, execution.now_us), workflow.start_options.retry)

    @overload
    def call_workflow_by_name(
        self,
        name: str,
        /,
        *args: object,
        result_type: type[T],
        version: int = 1,
        instance_id: str | None = None,
        parent_close: ParentClose = "terminate",
    ) -> ChildTask[T]: ...
    @overload
    def call_workflow_by_name(
        self,
        name: str,
        /,
        *args: object,
        result_type: UnionType | None = None,
        version: int = 1,
        instance_id: str | None = None,
        parent_close: ParentClose = "terminate",
    ) -> ChildTask[Any]: ...
    def call_workflow_by_name(
        self,
        name: str,
        /,
        *args: object,
        result_type: Any = None,
        version: int = 1,
        instance_id: str | None = None,
        parent_close: ParentClose = "terminate",
    ) -> ChildTask[Any]:
        """Start a child of the workflow registered as `name`; its function need not be imported here.

        Args:
            result_type: what the result is read back as; plain JSON values when left out.
            version, instance_id, parent_close: as in `Workflow.options`.
        """
        check_name(name, "the name of a workflow")
        if instance_id is not None:
            check_name(instance_id, "the instance id")
        data = converter.dump(args, f"the input of workflow {name!r}") if args else converter.EMPTY_ARGUMENTS
        options = None if parent_close == "terminate" else ChildOptions(parent_close)
        call = ChildCall(name, version, data, converter.loader(result_type or Any), instance_id or "", options)
        return self._execution.call_child(call, None)

    def handle(self, instance_id: str, /) -> OtherInstance:
        """Another instance, to be told something. Making a handle asks nothing: the instance need not exist."""
        return OtherInstance(self._execution, check_name(instance_id, "the instance id"))

    def raise_event(
        self, instance_id: str, name: str, payload: object = None, /, *, event_id: str | None = None
    ) -> Task[None]:
        """Send an external event to another instance, exactly once; the task is done when its inbox holds it.

        Raises (at the wait):
            MessageFailed: there is no such instance, or it is over.
        """
        return self.handle(instance_id).raise_event(name, payload, event_id=event_id)

    def on_request(self, name: str, /, *, validate: Callable[..., object] | None = None) -> Callable[[F], F]:
        """Have the decorated function answer requests called `name`, from here on; those that came before are kept.

        It is a plain function, a generator or a coroutine function; it may ask the context for things, and wait.
        What it returns, or raises, is the recorded answer; an error fails the request, not the instance.

        Args:
            validate: called with the same arguments first; what it raises is the answer, and the handler is not called.
        """
        check_name(name, "the name of a request")

        def register(function: F) -> F:
            self._execution.on_request(name, handler_of(function, f"request {name!r}", validate))
            return function

        return register

    def on_query(self, name: str, /) -> Callable[[F], F]:
        """Have the decorated function answer queries called `name`: it looks at variables of the workflow, no more.

        It is called on what is in memory, adds nothing to the history, and may neither change anything nor ask the
        context for anything.
        """
        check_name(name, "the name of a query")

        def register(function: F) -> F:
            self._execution.on_query(name, handler_of(function, f"query {name!r}"))
            return function

        return register

    # -- beginning again ------------------------------------------------------------------------------------

    def continue_as_new(self, /, *args: object, **kwargs: object) -> NoReturn:
        """End this round of the instance, and begin another with these arguments: `return ctx.continue_as_new(cursor)`.

        The id, tags, parent, timeout and whoever waits for the result stay, and so do external events and requests that
        nobody has taken. What is still open is given up: activities and timers are dropped, children go by their
        `parent_close`. Replay needs only the latest round. It raises, so that nothing behind it runs but `finally`.

        Args:
            args, kwargs: of this workflow. To go on with another version of it, pass that first:
                `ctx.continue_as_new(poll_v2, cursor)`.

        Raises:
            UsageError: this round has waited for nothing, and the next one would do the same for ever.
            PayloadError: an argument cannot be stored.
        """
        workflow = self._workflow
        if workflow is None:
            raise UsageError("this context belongs to no registered workflow, which could begin again")
        version = 0
        if args and is_workflow(args[0]):
            following, args = args[0], args[1:]
            if following.name != workflow.name:
                raise UsageError(
                    f"continue_as_new stays with workflow {workflow.name!r}, in any version; "
                    f"to go over to {following.name!r}, call it as a child"
                )
            workflow, version = following, following.version
            if self._execution.on_workflow_object is not None:
                self._execution.on_workflow_object(workflow)
        data = workflow.arguments.dump(args, kwargs, f"the input of workflow {workflow.name!r}")
        raise self._execution.begin_anew(data, version)

    def checkpoint(self, state: object, /) -> None:
        """Declare that the workflow, were it begun again, would go on from here by itself when `restore` gives `state`.

        A later replay does so: it needs nothing of the history before, which stays readable. For workflows that go
        round in a loop:

            state = ctx.restore(State) or State()
            while not state.is_done:
                ...
                ctx.checkpoint(state)

        Whether it is true is looked at each time, before anything is written: if the code, begun again, asks for
        something else, the instance stalls and says where.

        Raises:
            UsageError: a task, branch or request is still open, or a saga has something to undo; or nothing has
                happened since the last one.
            PayloadError: the state cannot be stored.
        """
        for saga in self._sagas or ():
            saga.refuse_checkpoint()
        self._execution.checkpoint(converter.dump(state, "the state of a checkpoint"))

    def restore(self, type_: type[T], /) -> T | None:
        """The state of the latest checkpoint, read as `type_`; None when there is none.

        Raises:
            PayloadError: it is no `type_`.
        """
        data = self._execution.restored
        return None if data is None else cast("T", converter.loader(type_)(data))

    # -- undoing, and telling -------------------------------------------------------------------------------

    def saga(self, *, parallel: bool = False, on_failure: OnFailure = "go_on", part_of: Saga | None = None) -> Saga:
        """Undo what was done when the rest fails: `async with ctx.saga() as saga:`, then `saga.compensate_with(...)`.

        In a generator: `yield from saga.guard(book(ctx, saga))`.

        Args:
            parallel: let all compensations begin at once, instead of one after the other, the last one first.
            on_failure: what follows on a compensation that failed: `"go_on"` with the others, or `"stop"`.
            part_of: a saga that takes the compensations of this one over when this one ends well.

        Raises:
            ValueError: another word in `on_failure`, or `"stop"` where compensations have no order.
        """
        saga = Saga(self._execution, parallel=parallel, on_failure=on_failure, part_of=part_of)
        if self._sagas is None:
            self._sagas = WeakKeyDictionary()  # in order, which a set of them has only by their addresses
        self._sagas[saga] = None
        return saga

    def side_effect(self, make: Callable[[], R], /) -> R:
        """`make()`, called once and recorded; for small local facts. What can fail belongs in an activity.

        The value is the stored one: plain JSON values, or the annotated return type of `make`.

        Raises:
            SideEffectFailed: `make()` raised; recorded too, so that replay raises the same.
        """
        kind = converter.hints_of(make).get("return", Any)
        data = self._execution.side_effect(lambda: converter.dump(make(), "the side effect"))
        return cast("R", converter.loader(kind)(data))

    def set_custom_status(self, value: object, /) -> None:
        """Show `value` (stored as JSON) to whoever looks at this instance."""
        self._execution.set_custom_status(converter.dump(value, "the custom status"))

    def patched(self, name: str, /) -> bool:
        """Whether this instance takes the new way: False only for one that had passed here before the patch was made.

        Guards a change of code while instances are open: `if ctx.patched("charge-first"): ... else: ...`. The first
        answer is recorded and given ever after, in loops too. When no instance is open any more that took the old way,
        take out the old way and the question.

        Args:
            name: of the patch; one name for one change.

        Raises:
            UsageError: the name is empty, too long or cannot be stored.
        """
        return self._execution.patched(check_name(name, "the name of a patch"))

    # -- knowing things -------------------------------------------------------------------------------------

    @property
    def instance_id(self) -> str:
        """The id of this instance."""
        return self._execution.instance_id

    @property
    def parent_instance_id(self) -> str | None:
        """The id of the instance whose child this is."""
        started = self._execution.started
        origin = None if started is None else started.origin
        return None if origin is None else origin.parent_id or None

    @property
    def is_replaying(self) -> bool:
        """True while recorded history is being followed; do not let decisions depend on it."""
        return self._execution.replaying or self._execution.inert

    @property
    def is_cancelled(self) -> bool:
        """True once somebody asked for this instance to be cancelled."""
        return self._execution.cancel_requested

    def now(self) -> datetime:
        """Workflow time, in UTC: that of the turn, the same in replay; never runs backwards."""
        return to_datetime(self._execution.now_us)

    def random(self) -> random.Random:
        """Dice of this instance, which fall the same in replay."""
        return self._execution.random()

    def uuid4(self) -> uuid.UUID:
        """A random UUID, the same in replay."""
        import uuid  # with all that it brings it takes 2 ms, and few ask for one

        return uuid.UUID(int=self._execution.random_bits(128), version=4)

    @property
    def logger(self) -> ReplaySilentLogger:
        """A logger (`durableflow.workflow`) that is silent in replay and tells the instance id."""
        if self._logger is None:
            self._logger = ReplaySilentLogger(self._execution)
        return self._logger
