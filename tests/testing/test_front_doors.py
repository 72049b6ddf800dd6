"""The doors that load a room when it is asked for have every promised name, for checkers and for programs alike."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

DOORS = pytest.mark.parametrize("name", ["durableflow", "durableflow.testing"])


@DOORS
def test_every_promised_name_is_there_and_no_other(name: str) -> None:
    door = import_module(name)
    for each in door.__all__:
        assert getattr(door, each).__module__.startswith("durableflow.") or each == "Flow"
    assert set(door.__all__) <= set(dir(door))
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'Enginee'"):
        _ = door.Enginee


@DOORS
def test_checkers_and_programs_are_told_the_same(name: str) -> None:
    door = import_module(name)
    tree = ast.parse(Path(str(door.__file__)).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    told = {
        alias.name: node.module for node in imports for alias in node.names if str(node.module)[:11] == "durableflow"
    }
    assert told == door._HOMES
    assert sorted(told) == sorted(door.__all__)
