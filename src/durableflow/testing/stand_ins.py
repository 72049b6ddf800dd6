"""Stand-ins for activities: what a test has called instead of the user's functions, and the record of all calls.

The seam is the engine's registry: the engine finds an activity by its name, and here it finds one
that records the call and then does as the test says. All else is real: the attempts, their retries and
time-outs, what is stored and how it is read back.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

from durableflow.authoring.activity import Activity, activity_context
from durableflow.authoring.registry import AnyActivity, AnyWorkflow, Registry
from durableflow.authoring.workflow import Workflow
from durableflow.errors import NonRetryableError, UsageError
from durableflow.model import converter
from durableflow.model.duration import Duration, to_us
from durableflow.model.ids import check_name
from durableflow.testing.clock import VirtualClock

Raises: TypeAlias = BaseException | type[BaseException] | Iterable[BaseException | type[BaseException] | None]
"""What a stand-in raises: the same on every call, or one after the other, where None lets a call pass."""


class _Missing:
    """Stands for an argument that was not given, where None could be."""

    def __repr__(self) -> str:
        return "..."


MISSING: Final[Any] = _Missing()


class InjectedFailure(Exception):
    """What an attempt raises that the test told to fail without saying with what."""


class UnmockedActivity(NonRetryableError):
    """An activity without a stand-in was called in a strict environment."""


class ActivityCall(msgspec.Struct, frozen=True):
    """One call of an activity's function, which is one attempt.

    Attributes:
        activity: its name.
        args: positional arguments, read back as the function would get them.
        kwargs: those given by name.
        attempt: which attempt it was, counted from 1.
        instance_id: who asked for it.
        idempotency_key: the same for all attempts of one call.
        at: the moment of the call, on the virtual clock.
    """

    activity: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    attempt: int
    instance_id: str
    idempotency_key: str
    at: datetime

    def __str__(self) -> str:
        given = [*(repr(arg) for arg in self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.activity}({', '.join(given)})  attempt {self.attempt} of {self.instance_id!r} at {self.at}"


class StandIn:
    """What is called instead of one activity; made by `mock`.

    Attributes:
        name: the activity's.
    """

    def __init__(self, stage: StandIns, name: str, plan: Plan) -> None:
        self._stage = stage
        self._plan = plan
        self.name: Final = name

    def __repr__(self) -> str:
        return f"<stand-in for activity {self.name!r}>"

    @property
    def calls(self) -> list[ActivityCall]:
        """The calls of the activity so far, those of the real function among them."""
        return self._stage.calls(self.name)

    def remove(self) -> None:
        """Have the real function called again."""
        self._stage.unmock(self.name)


class Plan:
    """What a stand-in does with its calls."""

    def __init__(
        self,
        returns: Any,
        raises: Raises | None,
        calls: Callable[..., Any] | None,
        fail_on: Collection[int],
        takes: Duration,
    ) -> None:
        to_us(takes, "takes")
        self.returns = returns
        self.calls = calls
        self.takes = takes
        self.fail_on = frozenset(fail_on)
        self._always: BaseException | type[BaseException] | None = None
        self._in_turn: list[BaseException | type[BaseException] | None] = []
        if isinstance(raises, (BaseException, type)):
            self._always = raises
        elif raises is not None and not self.fail_on:
            self._in_turn = list(raises)
        elif raises is not None:
            raise UsageError("fail_on says which attempts fail, so raises must be one exception, not a list")
        if returns is not MISSING and calls is not None:
            raise UsageError("a stand-in either returns a value or calls a function, not both")
        if self._always is not None and not self.fail_on and (returns is not MISSING or calls is not None):
            raise UsageError(
                "a single exception is raised by every call, so nothing can be returned; "
                "write raises=[...] for the first calls only, or fail_on=[...] for some attempts"
            )

    @property
    def says_nothing(self) -> bool:
        """True when the real function would be called as ever."""
        return self.ends_in_real and not (self.fail_on or self._always or self._in_turn or self.takes)

    @property
    def ends_in_real(self) -> bool:
        """True when the real function is called where no failure is due."""
        return self.returns is MISSING and self.calls is None

    def error(self, attempt: int) -> BaseException | None:
        """What this call is to raise."""
        if self.fail_on:
            chosen = self._always or InjectedFailure(f"the test lets attempt {attempt} fail")
            found = chosen if attempt in self.fail_on else None
        elif self._in_turn:
            found = self._in_turn.pop(0)
        else:
            found = self._always
        return found() if isinstance(found, type) else found and found.with_traceback(None)


class StandIns(Registry):
    """A registry in which every activity records its calls, and stand-ins come before the real ones.

    Args:
        registry: what is known at first.
        strict: whether an activity without a stand-in is refused.
    """

    def __init__(self, registry: Registry, clock: VirtualClock, *, strict: bool) -> None:
        self._clock = clock
        self._strict = strict
        self._real: dict[str, AnyActivity] = {}
        self._plans: dict[str, Plan] = {}
        self._calls: list[ActivityCall] = []
        self._replaced_workflows: set[tuple[str, int]] = set()
        self.refused: list[ActivityCall] = []
        """Calls without a stand-in, in a strict environment."""
        super().__init__(registry.workflows.values(), registry.activities.values())

    # -- what the engine asks -------------------------------------------------------------------------------

    def add_activity(self, activity: AnyActivity) -> None:
        """See `Registry.add_activity`."""
        known = self._real.get(activity.name)
        if known is None:
            self._real[activity.name] = activity
            self._cast(activity.name)
        elif known.function is not activity.function:
            Registry(activities=[known, activity])  # refuses it, and says where both are

    def add_workflow(self, workflow: AnyWorkflow) -> bool:
        """See `Registry.add_workflow`; one that has a stand-in is known already."""
        return (workflow.name, workflow.version) not in self._replaced_workflows and super().add_workflow(workflow)

    def include(self, other: Registry, *, workflows: bool, activities: bool) -> None:
        """See `Registry.include`; an activity that has a stand-in already is known all the same."""
        super().include(other, workflows=workflows, activities=False)
        for name, activity in other.activities.items() if activities else ():
            if name not in self._real:
                self.add_activity(activity)

    def workflow_named(self, name: str) -> AnyWorkflow:
        """The workflow that is known as `name`, in its latest version.

        Raises:
            UsageError: none is.
        """
        versions = self.versions(name)
        if not versions:
            raise UsageError(f"workflow {name!r} is not known here; import the module that defines it")
        return self.workflows[name, versions[-1]]

    # -- what a test asks -----------------------------------------------------------------------------------

    def mock(self, name: str, plan: Plan) -> StandIn:
        """Have `plan` followed by the calls of the activity from now on."""
        self._plans[check_name(name, "the name of an activity")] = plan
        self._cast(name)
        return StandIn(self, name, plan)

    def replace_workflow(self, real: AnyWorkflow, function: Callable[..., Any]) -> None:
        """Have `function` called when an instance of `real` begins from now on."""
        made: AnyWorkflow = Workflow(function, name=real.name, version=real.version)
        made.arguments = real.arguments
        key = (real.name, real.version)
        self._replaced_workflows.add(key)
        self.workflows[key] = made

    def unmock(self, name: str) -> None:
        """Have the real function called again."""
        self._plans.pop(name, None)
        if name in self._real:
            self._cast(name)
        else:
            self.activities.pop(name, None)

    def calls(self, name: str | None = None) -> list[ActivityCall]:
        """The calls so far, in order; those of one activity or of all."""
        return [call for call in self._calls if name in (None, call.activity)]

    # -- casting --------------------------------------------------------------------------------------------

    def _cast(self, name: str) -> None:
        """Put on stage what is to be called as `name` from now on."""
        real, plan = self._real.get(name), self._plans.get(name)
        if real is not None and (plan is None or (plan.ends_in_real and not plan.takes)):
            made: AnyActivity = Activity(self._recorded(real, plan), name=name)
            made.is_async, made.is_transactional, made.place = real.is_async, real.is_transactional, real.place
        else:
            assert plan is not None
            made = Activity(self._replaced(name, plan), name=name)
        if real is not None:
            made.arguments, made.max_concurrency = real.arguments, real.max_concurrency
        elif plan is not None and plan.calls is not None:
            made.arguments = converter.Arguments(plan.calls)
        self.activities[name] = made

    def _recorded(self, real: AnyActivity, plan: Plan | None) -> Callable[..., Any]:
        """The real function, run as always, with its calls recorded and failures injected."""

        def recorded(*args: Any, **kwargs: Any) -> Any:
            call = self._record(real.name, args[real.is_transactional :], kwargs)  # without the connection
            error = plan.error(call.attempt) if plan is not None else self._refusal(call)
            if error is not None:
                raise error
            return real.function(*args, **kwargs)

        return recorded

    def _replaced(self, name: str, plan: Plan) -> Callable[..., Any]:
        """What is called instead of the real function."""

        async def replaced(*args: Any, **kwargs: Any) -> Any:
            call = self._record(name, args, kwargs)
            if plan.takes:
                await self._clock.sleep(plan.takes)
            error = plan.error(call.attempt)
            if error is not None:
                raise error
            if plan.returns is not MISSING:
                return plan.returns
            if plan.calls is not None:
                answer = plan.calls(*args, **kwargs)
                return await answer if inspect.isawaitable(answer) else answer
            return await self._call_real(name, args, kwargs)

        return replaced

    async def _call_real(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        real = self._real.get(name)
        if real is None:
            raise NonRetryableError(
                f"the stand-in for {name!r} leaves this call to the real activity, which is not known"
            )
        if real.is_transactional:
            raise NonRetryableError(
                f"the stand-in for {name!r} leaves this call to the real activity, which is transactional and has no "
                "connection here; give it returns=... or calls=..., or leave out takes="
            )
        if real.is_async:
            return await real.function(*args, **kwargs)
        return await asyncio.to_thread(real.function, *args, **kwargs)

    def _refusal(self, call: ActivityCall) -> BaseException | None:
        if not self._strict:
            return None
        self.refused.append(call)
        return UnmockedActivity(
            f"activity {call.activity!r} was called but has no stand-in, and this environment is strict; "
            f"write: mock({call.activity}, returns=...)"
        )

    def _record(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ActivityCall:
        context = activity_context()
        call = ActivityCall(
            name,
            deepcopy(args),  # as they were, whatever the function does to them
            deepcopy(kwargs),
            context.attempt,
            context.instance_id,
            context.idempotency_key,
            self._clock.now(),
        )
        self._calls.append(call)
        return call

    def bound(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
        """The arguments by the names of the activity's parameters, so that it does not matter how they were passed."""
        real = self._real.get(name)
        if real is not None:
            with suppress(TypeError, ValueError):
                connection = (None,) if real.is_transactional else ()
                found = inspect.signature(real.function).bind(*connection, *args, **kwargs)
                found.apply_defaults()
                return found.arguments
        return tuple(args), dict(kwargs)

    def name_of(self, activity: AnyActivity | str) -> str:
        """The name of an activity that is given as itself or by name.

        Raises:
            UsageError: nothing is known by this name.
        """
        if isinstance(activity, Activity):
            return activity.name
        if activity not in self.activities:
            known = ", ".join(repr(name) for name in sorted(self.activities)) or "none"
            raise UsageError(f"no activity {activity!r} is known here (known: {known}); pass the activity itself")
        return activity
