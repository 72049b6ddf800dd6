"""What a test says of activities and workflows to its environment, and asks of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, ParamSpec, Protocol, TypeVar, overload

from durableflow.authoring.context import Context
from durableflow.authoring.registry import AnyActivity
from durableflow.authoring.workflow import Workflow
from durableflow.errors import UsageError
from durableflow.model.duration import Duration, to_us
from durableflow.testing.stand_ins import MISSING, ActivityCall, Plan, Raises, StandIn, StandIns

P = ParamSpec("P")
R = TypeVar("R")

_TOLD_CALLS: Final = 20


class ExactActivity(Protocol[P, R]):
    """An activity whose result is of just this type: for a covariant one, any wider type would do as well."""

    exact_result: R

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What it is called like."""
        ...


class Stage:
    """What an environment lets a test say of activities, with or without an event loop."""

    _stand_ins: StandIns

    @overload
    def mock(
        self,
        activity: ExactActivity[P, R],
        /,
        *,
        returns: R = ...,
        raises: Raises | None = ...,
        calls: Callable[P, R] | Callable[P, Awaitable[R]] | None = ...,
        fail_on: Collection[int] = ...,
        takes: Duration = ...,
    ) -> StandIn: ...
    @overload
    def mock(
        self,
        activity: str,
        /,
        *,
        returns: object = ...,
        raises: Raises | None = ...,
        calls: Callable[..., object] | None = ...,
        fail_on: Collection[int] = ...,
        takes: Duration = ...,
    ) -> StandIn: ...
    def mock(
        self,
        activity: Any,
        /,
        *,
        returns: Any = MISSING,
        raises: Raises | None = None,
        calls: Callable[..., Any] | None = None,
        fail_on: Collection[int] = (),
        takes: Duration = 0,
    ) -> StandIn:
        """Have something else happen when an activity is called, from now on and in place of an earlier stand-in.

        What is not said stays real: with `fail_on=[1]` alone, the first attempt fails and the next one calls the
        real function. Attempts, retries and time-outs are the engine's own in any case.

        Args:
            activity: itself, or the name of one whose code is not here.
            returns: the result.
            raises: the exception (or class) of every call; a list is for the first calls, one after the other,
                in which None lets one pass.
            calls: a function that is called instead, plain or `async`; it runs on the engine's event loop.
            fail_on: the attempts of each call that fail, with `raises` or else with `InjectedFailure`.
            takes: how long each call takes, on the virtual clock.

        Raises:
            UsageError: it says nothing, or contradicts itself.
        """
        plan = Plan(returns, raises, calls, fail_on, takes)
        if plan.says_nothing:
            raise UsageError("a stand-in must do something; a call without effect is written returns=None")
        if isinstance(activity, str):
            return self._stand_ins.mock(activity, plan)
        definition: AnyActivity = activity
        self._stand_ins.add_activity(definition)
        return self._stand_ins.mock(definition.name, plan)

    def mock_workflow(
        self,
        workflow: Workflow[P, R],
        /,
        *,
        returns: R = MISSING,
        raises: BaseException | type[BaseException] | None = None,
        takes: Duration = 0,
    ) -> None:
        """Have instances of a workflow do nothing but end as said, so that a parent can be tested without its children.

        They are instances all the same, with an id, a history and an end. Say it before the first one is started.

        Args:
            returns: the result.
            raises: what it fails with.
            takes: how long it sleeps before that, on the virtual clock.

        Raises:
            UsageError: it says nothing, or both how it returns and how it fails.
        """
        if (returns is MISSING) == (raises is None):
            raise UsageError("a stand-in for a workflow either returns a value or raises; say which")
        to_us(takes, "takes")

        async def replaced(ctx: Context, *_: Any, **__: Any) -> Any:
            if takes:
                await ctx.sleep(takes)
            if raises is not None:
                raise raises() if isinstance(raises, type) else raises.with_traceback(None)
            return returns

        self._stand_ins.replace_workflow(workflow, replaced)

    def calls(self, activity: AnyActivity | str | None = None) -> list[ActivityCall]:
        """The calls of an activity so far (or of all), one for each attempt, in the order in which they began."""
        return self._stand_ins.calls(None if activity is None else self._stand_ins.name_of(activity))

    def assert_called(
        self,
        activity: AnyActivity | str,
        *,
        times: int | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        attempt: int | None = None,
    ) -> list[ActivityCall]:
        """Assert that an activity was called, and give the calls that fit.

        Args:
            times: exactly so often; at least once when left out.
            args: count only calls with these arguments, however they were passed.
            kwargs: the same, for arguments that are given by name.
            attempt: count only calls of this attempt.

        Raises:
            AssertionError: with all calls that there were.
        """
        name = self._stand_ins.name_of(activity)
        found = self.calls(activity)
        if args is not None or kwargs is not None:
            wanted = self._stand_ins.bound(name, args or (), kwargs or {})
            found = [call for call in found if self._stand_ins.bound(name, call.args, call.kwargs) == wanted]
        if attempt is not None:
            found = [call for call in found if call.attempt == attempt]
        if len(found) == times or (times is None and found):
            return found
        given = [repr(arg) for arg in args or ()] + [f"{key}={value!r}" for key, value in (kwargs or {}).items()]
        what = name if args is None and kwargs is None else f"{name}({', '.join(given)})"
        what += "" if attempt is None else f", attempt {attempt},"
        expected = "at least one call" if times is None else _times(times)
        raise AssertionError(f"{what} was to get {expected}, but got {_times(len(found))}{self._told()}")

    def assert_not_called(self, activity: AnyActivity | str) -> None:
        """Assert that an activity was never called; raises `AssertionError` with all calls that there were."""
        self.assert_called(activity, times=0)

    def _told(self) -> str:
        calls = self.calls()
        if not calls:
            return "; no activity was called at all"
        shown = "".join(f"\n  {call}" for call in calls[:_TOLD_CALLS])
        rest = len(calls) - _TOLD_CALLS
        return f"; all calls were:{shown}" + (f"\n  ... and {rest} more" if rest > 0 else "")


def _times(count: int) -> str:
    return {0: "none", 1: "one call"}.get(count, f"{count} calls")
