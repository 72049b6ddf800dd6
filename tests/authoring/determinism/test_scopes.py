"""A name belongs to the scope that binds it."""

import sys
import time
import types
from collections.abc import Callable
from typing import Any

import pytest

Look = Callable[..., Any]


@pytest.mark.parametrize("body", ["from .clock import now\nnow()", "from . import clock\nclock.now()"])
def test_a_relative_import_within_the_body_is_followed(
    in_body: Look, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    for name in ("shop", "shop.clock"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["shop.clock"].now = time.time  # type: ignore[attr-defined]
    assert in_body(body, __package__="shop").calls == [body.splitlines()[1]]


def test_a_global_that_the_workflow_declares_is_looked_up_there(in_body: Look) -> None:
    assert in_body("global clock\nclock.time()\nclock = order", "import time as clock").calls == ["clock.time()"]


def test_a_parameter_named_time_is_not_a_finding(look: Look) -> None:
    source = """
        import time
        @workflow
        def wf(ctx, time, *random, **uuid):
            time.time(), random.random(), uuid.uuid4()
    """
    assert look(source) == []


@pytest.mark.parametrize(
    "bound",
    [
        "time = order",
        "time: object = order",
        "time, x = order",
        "for time in items: pass",
        "with order as time: pass",
        "(time := order)",
        "def time(): pass",
        "class time: pass",
        "import order as time",
        "from order import time",
        "try:\n    pass\nexcept ValueError as time:\n    pass",
        "match order:\n    case [time]:\n        pass",
        "match order:\n    case [*time]:\n        pass",
        "match order:\n    case {**time}:\n        pass",
        "[time := item for item in items]",
        "time += 1",
    ],
)
def test_a_local_variable_named_time_is_not_a_finding(in_body: Look, bound: str) -> None:
    assert in_body(f"{bound}\ntime.time()", "import time") == []


def test_a_variable_of_a_comprehension_hides_a_module_inside_it_only(in_body: Look) -> None:
    findings = in_body("[time.time() for time in items]\ntime.time()", "import time")
    assert [finding.line for finding in findings] == [5]


def test_a_name_with_more_than_one_meaning_is_left_alone(in_body: Look) -> None:
    assert in_body("if order:\n    import time\nelse:\n    time = order\ntime.time()") == []
