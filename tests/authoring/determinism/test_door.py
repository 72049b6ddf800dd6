"""Findings are warned of where they are, and the look never gets in the way."""

import ast
import functools
import linecache
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from durableflow.authoring import determinism
from durableflow.authoring.determinism import inspect_workflow, warn_about
from durableflow.authoring.determinism.look import look_at
from durableflow.authoring.workflow import workflow
from durableflow.errors import DeterminismWarning

Write = Callable[[str], types.FunctionType]

TWO = """
    import time
    def stamp(ctx): return time.time_ns()
    def wf(ctx):
        stamp(ctx)
        return time.time()
"""


def test_what_has_no_source_has_no_findings() -> None:
    namespace: dict[str, Callable[..., object]] = {}
    exec("import time\ndef wf(ctx): return time.time()", namespace)
    assert inspect_workflow(namespace["wf"]) == []
    assert inspect_workflow(lambda ctx: [hash(ctx)]) == []
    assert inspect_workflow(len) == []
    assert inspect_workflow(functools.partial(print)) == []
    assert inspect_workflow(object()) == []  # type: ignore[arg-type]


def test_a_source_that_is_no_longer_that_of_the_function_has_no_findings(tmp_path: Path) -> None:
    path = tmp_path / "flows.py"
    for text in ("this is not Python", "x = 1\n" * 9, "\0", "def other(): pass", "def wf(ctx): \xff", "(" * 9999):
        path.write_text(text, encoding="latin-1")
        linecache.checkcache(str(path))
        namespace: dict[str, Callable[..., object]] = {}
        exec(compile("def wf(ctx): return hash(ctx)", str(path), "exec"), namespace)
        assert inspect_workflow(namespace["wf"]) == []


def test_a_source_too_deep_to_walk_has_no_findings(workflow_of: Write) -> None:
    deep = workflow_of(f"def wf(ctx): return {'-' * 900}hash(ctx)")
    with pytest.raises(RecursionError):
        look_at(deep)
    assert inspect_workflow(deep) == []


def test_a_warning_stands_where_the_finding_is_and_names_what_where_and_instead(workflow_of: Write) -> None:
    fn = workflow_of(TWO)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_about(fn)
    file = fn.__code__.co_filename
    assert [(each.category, each.filename, each.lineno, str(each.message)) for each in caught] == [
        (
            DeterminismWarning,
            file,
            2,
            "time.time_ns() in 'stamp', called by workflow 'wf', may differ in replay: use ctx.now()",
        ),
        (DeterminismWarning, file, 5, "time.time() in workflow 'wf' may differ in replay: use ctx.now()"),
    ]


def test_a_warning_is_shown_once_however_often_it_is_decorated(workflow_of: Write) -> None:
    fn = workflow_of(TWO)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warn_about(fn)
        warn_about(fn)
    assert len(caught) == 2


def test_where_warnings_are_errors_the_decorator_raises(workflow_of: Write) -> None:
    with pytest.raises(DeterminismWarning, match="time_ns"):
        workflow(workflow_of(TWO))


def test_a_warning_can_be_ignored_by_its_class_or_its_module(workflow_of: Write) -> None:
    fn = workflow_of(TWO)
    for ignored in ({"category": DeterminismWarning}, {"module": "flows"}):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", **ignored)
            warn_about(fn)


def test_a_workflow_without_findings_is_not_warned_about(workflow_of: Write) -> None:
    warn_about(workflow_of("def wf(ctx): return ctx.now()"))
    warn_about(len)


def test_each_module_imports_those_that_the_door_names_before_it() -> None:
    package = "durableflow.authoring.determinism"
    order = re.findall(r"`(\w+)`", str(determinism.__doc__).split("named before it")[1])
    folder = Path(str(determinism.__file__)).parent
    assert sorted(order) == sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    for module in order:
        nodes = ast.walk(ast.parse((folder / f"{module}.py").read_text(encoding="utf-8")))
        names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        ours = {name.removeprefix(f"{package}.") for name in names if name and name.startswith(package)}
        assert ours <= set(order[: order.index(module)]), module


@pytest.mark.slow  # starts an interpreter
def test_it_is_not_imported_before_there_is_a_workflow_to_look_at() -> None:
    program = "import sys, durableflow.engine, durableflow.authoring.workflow\nprint(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "durableflow.authoring.workflow" in child.stdout.split()
    assert "durableflow.authoring.determinism" not in child.stdout.split()
