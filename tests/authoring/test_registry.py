"""Names and definitions: one name, one function."""

import re
from typing import Any

import pytest

from durableflow import Context, activity, workflow
from durableflow.authoring.activity import Activity
from durableflow.authoring.registry import DEFAULT, Registry
from durableflow.authoring.workflow import Workflow
from durableflow.errors import RegistrationError


def one(x: int = 0) -> int:
    return x


def two(ctx: Context) -> None: ...


def test_the_same_definition_may_be_added_twice_and_with_options() -> None:
    registry = Registry([Workflow(two)], [Activity(one)])
    assert registry.add_workflow(Workflow(two).options(instance_id="i")) is False
    registry.add_activity(Activity(one).options(retry=5))
    assert list(registry.workflows) == [("two", 1)]
    assert list(registry.activities) == ["one"]
    assert registry.add_workflow(Workflow(two, name="other")) is True


def test_two_functions_of_one_name_are_refused_with_both_places() -> None:
    def other(ctx: Context) -> None: ...

    registry = Registry([Workflow(two)], [Activity(one)])
    here = re.escape(__file__)
    with pytest.raises(
        RegistrationError,
        match=rf"workflow 'two' is defined twice: {here}:\d+ and {here}:\d+; give one .* name: @workflow.* version",
    ):
        registry.add_workflow(Workflow(other, name="two"))
    with pytest.raises(RegistrationError, match=r"activity 'one' is defined twice: .*@activity\(name="):
        registry.add_activity(Activity(print, name="one"))


def test_each_version_of_a_workflow_has_a_function_of_its_own() -> None:
    def first(ctx: Context) -> None: ...

    registry = Registry([Workflow(two, version=2), Workflow(first, name="two", version=1)])
    assert registry.versions("two") == [1, 2]
    assert registry.versions("unknown") == []
    assert registry.workflows["two", 1].function is first
    with pytest.raises(RegistrationError, match="workflow 'two' is defined twice"):
        registry.add_workflow(Workflow(first, name="two", version=2))


def test_what_is_included_does_not_replace_what_is_known() -> None:
    def other(ctx: Context) -> None: ...

    registry = Registry([Workflow(two)])
    registry.include(
        Registry([Workflow(other, name="two"), Workflow(other)], [Activity(one)]), workflows=True, activities=False
    )
    assert registry.workflows["two", 1].function is two
    assert registry.workflows["other", 1].function is other
    assert registry.activities == {}


def test_definitions_inside_functions_are_in_no_registry() -> None:
    @workflow
    def local_flow(ctx: Context) -> None: ...

    @activity
    def local_work() -> None: ...

    assert ("local_flow", 1) not in DEFAULT.workflows
    assert "local_work" not in DEFAULT.activities


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The default registry, with what the test adds taken out again."""
    monkeypatch.setattr(DEFAULT, "workflows", dict(DEFAULT.workflows))
    monkeypatch.setattr(DEFAULT, "activities", dict(DEFAULT.activities))
    return DEFAULT


MODULE = """
from durableflow import activity, workflow, Context

@activity
def registry_work(x: int) -> int:
    return x + {n}

@workflow
def registry_flow(ctx: Context) -> int:
    return {n}
"""


def run(module: str, n: int) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": module}
    exec(compile(MODULE.format(n=n), f"{module}.py", "exec"), names)
    return names


def test_definitions_at_the_top_of_a_module_are_registered_by_their_names(default: Registry) -> None:
    made = run("shop", 1)
    assert default.workflows["registry_flow", 1] is made["registry_flow"]
    assert default.activities["registry_work"] is made["registry_work"]


def test_a_module_that_is_loaded_again_replaces_its_own_definitions(default: Registry) -> None:
    run("shop", 1)
    run("shop", 2)
    assert default.activities["registry_work"](1) == 3


def test_another_module_may_not_take_the_name(default: Registry) -> None:
    run("shop", 1)
    with pytest.raises(RegistrationError, match=r"activity 'registry_work' is defined twice: shop.py:4 and store.py:4"):
        run("store", 2)
