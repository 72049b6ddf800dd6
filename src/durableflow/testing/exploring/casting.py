"""Who plays the activities of a story: the user's own functions, or those that the test gives instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from durableflow.authoring.activity import Activity
from durableflow.authoring.registry import DEFAULT, AnyActivity, AnyWorkflow, Registry
from durableflow.errors import UsageError
from durableflow.model import converter


class CannotBeExplored(UsageError):
    """An activity does what no story can tell; it is not the activity that has failed."""


class Part:
    """What is called as one activity.

    Attributes:
        takes_world: whether the world goes before the arguments.
        is_transactional: what it does and its result are one.
    """

    __slots__ = ("arguments", "function", "is_transactional", "name", "takes_world")

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        arguments: converter.Arguments,
        *,
        takes_world: bool,
        is_transactional: bool,
    ) -> None:
        self.name = name
        self.function = function
        self.arguments = arguments
        self.takes_world = takes_world
        self.is_transactional = is_transactional


class Cast:
    """The parts, found by name; those that the test gives come first, then what the workflow calls, then what is known.

    Args:
        given: activities, or their names, and what is called instead of each.
        has_world: whether what is given is called with the world first.
    """

    def __init__(self, given: Mapping[AnyActivity | str, Callable[..., Any]], *, has_world: bool) -> None:
        self._given: dict[str, Callable[..., Any]] = {}
        self._has_world = has_world
        self._parts: dict[str, Part] = {}
        self.registry: Final = Registry()
        """What the workflow's own code has called."""
        self._loop: asyncio.AbstractEventLoop | None = None
        for activity, function in given.items():
            if isinstance(activity, Activity):
                self.registry.add_activity(activity)
            name = activity if isinstance(activity, str) else activity.name
            if not callable(function):
                raise UsageError(
                    f"what is called instead of activity {name!r} must be a function, not {function!r:.80}"
                )
            self._given[name] = function

    def part(self, name: str) -> Part:
        """What is called as activity `name`.

        Raises:
            UsageError: nobody knows it.
        """
        found = self._parts.get(name)
        if found is None:
            found = self._parts[name] = self._cast(name)
        return found

    def _cast(self, name: str) -> Part:
        real = self.registry.activities.get(name) or DEFAULT.activities.get(name)
        function = self._given.get(name)
        if function is not None:
            arguments = (
                converter.Arguments(function, skip=1 if self._has_world else 0) if real is None else real.arguments
            )
            transactional = real is not None and real.is_transactional
            return Part(name, function, arguments, takes_world=self._has_world, is_transactional=transactional)
        if real is None:
            raise UsageError(
                f"activity {name!r} is not known here; import the module that defines it, or say what is called "
                f"instead: explore(..., activities={{{name!r}: function}})"
            )
        if real.is_transactional:
            raise UsageError(
                f"activity {name!r} is transactional, and there is no store here whose connection it could be given; "
                f"say what is called instead: explore(..., activities={{{name}: function}})"
            )
        return Part(name, real.function, real.arguments, takes_world=False, is_transactional=False)

    def workflow(self, name: str, version: int) -> AnyWorkflow:
        """The workflow that a child is of; raises `UsageError` when nobody knows it."""
        found = self.registry.workflows.get((name, version)) or DEFAULT.workflows.get((name, version))
        if found is None:
            raise UsageError(f"workflow {name!r} in version {version} is not known here; import what defines it")
        return found

    def finish(self, awaitable: Any) -> Any:
        """What an async function returns, on an event loop of this cast's own."""
        if self._loop is None:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                self._loop = asyncio.new_event_loop()
            else:
                awaitable.close()
                raise CannotBeExplored(
                    "explore() runs async activities on a loop of its own, so it cannot be called where another runs: "
                    "call it in a plain test function, or by asyncio.to_thread(explore, ...)"
                )
        return self._loop.run_until_complete(awaitable)

    def close(self) -> None:
        """No story follows."""
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
