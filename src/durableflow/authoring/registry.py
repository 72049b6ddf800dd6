"""Which workflows and activities are known: by name, workflows by version too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from durableflow.authoring.activity import Activity
from durableflow.authoring.workflow import Workflow
from durableflow.errors import RegistrationError

AnyWorkflow: TypeAlias = Workflow[..., Any]
AnyActivity: TypeAlias = Activity[..., Any]


class Registry:
    """Names to definitions: one name, one function; of a workflow, one for each version."""

    def __init__(self, workflows: Iterable[AnyWorkflow] = (), activities: Iterable[AnyActivity] = ()) -> None:
        self.workflows: dict[tuple[str, int], AnyWorkflow] = {}
        """By name and version."""
        self.activities: dict[str, AnyActivity] = {}
        for workflow in workflows:
            self.add_workflow(workflow)
        for activity in activities:
            self.add_activity(activity)

    def include(self, other: Registry, *, workflows: bool, activities: bool) -> None:
        """Know what `other` knows, too; where both have a name, nothing changes."""
        for key, workflow in other.workflows.items() if workflows else ():
            if key not in self.workflows:
                self.add_workflow(workflow)
        for name, activity in other.activities.items() if activities else ():
            if name not in self.activities:
                self.add_activity(activity)

    def add_workflow(self, workflow: AnyWorkflow) -> bool:
        """Know `workflow`; True when it was new.

        Raises:
            RegistrationError: another function has its name and version.
        """
        key = (workflow.name, workflow.version)
        known = self.workflows.get(key)
        if known is None:
            self.workflows[key] = workflow
            return True
        if known.function is not workflow.function:
            raise _clash("workflow", workflow.name, known.function, workflow.function)
        return False

    def versions(self, name: str) -> list[int]:
        """Of the workflow called `name`: which are known, in order; none when it is unknown."""
        return sorted(version for known, version in self.workflows if known == name)

    def add_activity(self, activity: AnyActivity) -> None:
        """Know `activity`; raises `RegistrationError` when another function has its name."""
        known = self.activities.get(activity.name)
        if known is None:
            self.activities[activity.name] = activity
        elif known.function is not activity.function:
            raise _clash("activity", activity.name, known.function, activity.function)

    def offer_workflow(self, workflow: AnyWorkflow) -> None:
        """Know it unless it was defined inside another function: such a one is known by whoever is given it."""
        if not _is_local(workflow.function):
            key = (workflow.name, workflow.version)
            known = self.workflows.get(key)
            if known is not None and _is_same_place(known.function, workflow.function):
                del self.workflows[key]
            self.add_workflow(workflow)

    def offer_activity(self, activity: AnyActivity) -> None:
        """The same for an activity."""
        if not _is_local(activity.function):
            known = self.activities.get(activity.name)
            if known is not None and _is_same_place(known.function, activity.function):
                del self.activities[activity.name]
            self.add_activity(activity)


def _is_local(function: Callable[..., Any]) -> bool:
    return "<locals>" in getattr(function, "__qualname__", "")


def _is_same_place(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """True when `new` is `old` defined again: a module reloaded, a notebook cell evaluated twice."""

    def place(function: Callable[..., Any]) -> tuple[object, object]:
        return getattr(function, "__module__", None), getattr(function, "__qualname__", None)

    return place(old) == place(new) != (None, None)


def _clash(kind: str, name: str, old: Callable[..., Any], new: Callable[..., Any]) -> RegistrationError:
    return RegistrationError(
        f"{kind} {name!r} is defined twice: {_where(old)} and {_where(new)}; "
        f"give one of them another name: @{kind}(name=...)"
        + (", or another version: @workflow(version=...)" if kind == "workflow" else "")
    )


def _where(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    if code is None:
        return f"{type(function).__module__}.{type(function).__qualname__}"
    return f"{code.co_filename}:{code.co_firstlineno}"


DEFAULT: Final = Registry()
"""Where the decorators register what is defined at the top of a module."""
