"""A file is parsed once, a comment in it is heard, and a function without one has no findings."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durableflow.authoring.determinism import source
from durableflow.authoring.determinism.look import look_at

Look = Callable[..., Any]


def test_a_place_is_named_by_file_line_and_column_in_characters(look: Look) -> None:
    source = """
        import time
        @workflow
        @workflow
        def wf(ctx):
            x = "äöü", time.time()
    """
    first, second = look(source)
    assert first == second, "both decorators saw the same function"
    assert (first.line, first.column) == (5, 16)
    assert Path(first.file).name.startswith("flows_")


def test_a_workflow_below_functools_wraps_is_looked_at(look: Look) -> None:
    source = """
        import functools, time
        def logged(fn):
            @functools.wraps(fn)
            def wrapper(*args):
                return fn(*args)
            return wrapper
        @workflow
        @logged
        def wf(ctx):
            return time.time()
    """
    assert look(source).calls == ["time.time()"]


def test_a_method_is_looked_at(look: Look) -> None:
    source = """
        import time
        def stamp(c): time.time_ns()
        class Flows:
            @workflow
            def wf(self, ctx):
                stamp(ctx)
                return time.time()
    """
    assert look(source).calls == ["time.time_ns()", "time.time()"]


def test_a_bound_method_is_looked_at() -> None:
    class Flows:
        def wf(self, ctx: object) -> int:
            return hash(ctx)

    assert [each.call for each in look_at(Flows().wf)] == ["hash(...)"]


@pytest.mark.parametrize(
    "comment",
    [
        "# durableflow: allow",
        "# durableflow: allow - only for the log",
        "#durableflow:allow",
        "# noqa: DTZ005  # durableflow: allow, tested in test_flows.py",
    ],
)
def test_a_comment_on_the_line_silences_it(in_body: Look, comment: str) -> None:
    findings = in_body(f"time.time()  {comment}\ntime.time_ns()", "import time")
    assert findings.calls == ["time.time_ns()"]


@pytest.mark.parametrize("comment", ["# durableflow: allowed", "# durableflow", "# allow", "# dapr: allow"])
def test_another_comment_silences_nothing(in_body: Look, comment: str) -> None:
    assert len(in_body(f"time.time()  {comment}", "import time")) == 1


def test_a_comment_at_the_end_of_a_call_over_several_lines_silences_it(in_body: Look) -> None:
    assert in_body("time.sleep(\n    order\n)  # durableflow: allow", "import time") == []


def test_a_wrapper_that_wraps_itself_is_survived() -> None:
    def wf(ctx: object) -> None: ...

    wf.__wrapped__ = wf  # type: ignore[attr-defined]
    assert look_at(wf) == []


def test_a_file_is_parsed_once_for_all_its_workflows(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    import ast

    parsed = list[str]()
    parse = ast.parse
    monkeypatch.setattr(ast, "parse", lambda source: parsed.append(source) or parse(source))
    look("\n".join(f"@workflow\ndef wf{n}(ctx): hash(ctx)" for n in range(20)))
    assert len(parsed) == 1


def test_a_file_that_has_changed_is_parsed_again(tmp_path: Path) -> None:
    path = tmp_path / "flows.py"
    found = list[str]()
    for body in ("hash(ctx)", "id(ctx) or None"):
        path.write_text(f"def wf(ctx): {body}")
        namespace: dict[str, Callable[..., object]] = {}
        exec(compile(path.read_text(), str(path), "exec"), namespace)
        found += [each.call for each in look_at(namespace["wf"])]
    assert found == ["hash(...)", "id(...)"]


def test_few_parsed_files_are_kept(look: Look) -> None:
    for _ in range(source.FILES_KEPT_MAX + 2):
        look("@workflow\ndef wf(ctx): pass")
    assert source._parsed.cache_info().currsize == source.FILES_KEPT_MAX


def test_odd_escapes_in_the_source_are_not_warned_of_twice(in_body: Look) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=SyntaxWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # compile() is told to be silent here; what the look does itself must be silent without that
        warnings.filterwarnings("error", category=DeprecationWarning, module="ast")
        assert in_body(r"hash('\d')").calls == ["hash(...)"]
