"""Workflows as files: the look reads sources, so each test writes one."""

import itertools
import textwrap
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from durableflow.authoring.determinism import Finding
from durableflow.authoring.determinism.look import look_at

numbers = itertools.count()


class Findings(list[Finding]):
    @property
    def calls(self) -> list[str]:
        return [finding.call for finding in self]


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., Findings]:
    """Import a file, and look at its workflows where a decorator would: at decoration, half way through the file."""

    def look_through(source: str, **names: object) -> Findings:
        found = Findings()

        def workflow(fn: Callable[..., object]) -> Callable[..., object]:
            found.extend(look_at(fn))  # not through the door that swallows our own mistakes
            return fn

        path = tmp_path / f"flows_{next(numbers)}.py"
        path.write_text(textwrap.dedent(source).lstrip("\n"), encoding="utf-8")
        namespace = {"__name__": "flows", "__package__": "", "workflow": workflow, **names}
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
        return found

    return look_through


@pytest.fixture
def in_body(look: Callable[..., Findings]) -> Callable[..., Findings]:
    """Look at a workflow with this body, below these imports."""

    def look_through(body: str, imports: str = "", **names: object) -> Findings:
        body = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
        return look(f"{imports or 'pass'}\n@workflow\ndef wf(ctx, order, items):\n{body}\n", **names)

    return look_through


@pytest.fixture
def workflow_of(tmp_path: Path) -> Callable[[str], types.FunctionType]:
    """The function `wf` of a file `flows.py` with this source."""

    def write(source: str) -> types.FunctionType:
        path = tmp_path / "flows.py"
        path.write_text(textwrap.dedent(source).lstrip("\n"), encoding="utf-8")
        namespace: dict[str, types.FunctionType] = {"__name__": "flows"}  # type: ignore[dict-item]
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
        return namespace["wf"]

    return write
