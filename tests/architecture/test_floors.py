"""The house rules of docs/design.md: imports go down, never sideways, and the pure rooms sense nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2] / "src" / "durableflow"
FLOORS = {
    "errors": 0, "model": 1, "core": 2,
    "authoring": 3, "backends": 3, "payloads": 3, "observe": 3,
    "runtime": 4, "repair": 4.5, "dead_letters": 4.5, "many": 4.5, "work": 4.5, "trouble": 4.5, "schedules": 4.5,
    "looking": 4.6, "asking": 4.7, "client": 5, "handle": 5, "outbox": 5, "async_outbox": 5,
    "engine": 5.5,  # an engine is a client that also works
    "sharding": 5.7,
    "blocking": 6,
    "__init__": 7,  # the front door: from here up, rooms may come in as guests do
    "testing": 8, "kubernetes": 8, "http": 8, "demo": 8,
    "cli": 9, "__main__": 10,
}  # fmt: skip
PURE = {"errors", "model", "core"}
ONE_ROOM = {"client", "handle"}  # a client makes handles, and a handle is nothing without its client
# What can tell neither the time nor the world. Add to it what is as blind.
BLIND = {
    "__future__", "abc", "ast", "base64", "binascii", "bisect", "builtins", "codecs", "collections", "contextlib",
    "contextvars", "copy", "dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools", "hashlib",
    "heapq", "inspect", "itertools", "json", "keyword", "linecache", "math", "msgspec", "numbers", "operator", "re",
    "reprlib", "string", "struct", "sys", "textwrap", "traceback", "types", "typing", "unicodedata", "uuid", "weakref",
    "zlib",
    "cronsim", "zoneinfo",  # they read tables of dates, not the clock
}  # fmt: skip
# Names through which a blind module could see after all, and blind names in modules that see.
SIGHTED = {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"),
           ("uuid", "uuid1"), ("uuid", "uuid4")}  # fmt: skip
EXCEPTED = {("os.path", "dirname")}  # works on text alone


def imported(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, module and name of every import, wherever it stands: in a function, or for type checkers only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative imports hide the floor"
            yield from ((node.lineno, node.module or "", alias.name) for alias in node.names)


def upward(room: str, tree: ast.AST) -> Iterator[str]:
    """Imports of rooms on the same floor or above."""
    for line, module, name in imported(tree):
        top, _, rest = module.partition(".")
        other = rest.partition(".")[0] or (name if name in FLOORS else "__init__")
        if top == "durableflow" and other != room and FLOORS[other] >= FLOORS[room] and not {other, room} <= ONE_ROOM:
            yield f"line {line}: {room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


def sensing(room: str, tree: ast.AST) -> Iterator[str]:
    """Ways in which a pure room could learn the time or the state of the world; core may have seeded dice."""
    blind = BLIND | {"durableflow"} | ({"random"} if room == "core" else set())
    for line, module, name in imported(tree):
        if (module.partition(".")[0] not in blind or (module, name) in SIGHTED) and (module, name) not in EXCEPTED:
            yield f"line {line}: {room} is pure and may not import {name or module}"
        if module == "random" and name not in {"", "Random"}:
            yield f"line {line}: {room} may have no dice but random.Random, not {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).rpartition(".")[2]
            if (owner, node.attr) in SIGHTED or (ast.unparse(node.value) == "random" and node.attr != "Random"):
                yield f"line {node.lineno}: {room} is pure and may not use {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and not node.args and ast.unparse(node.func) in {"Random", "random.Random"}:
            yield f"line {node.lineno}: {room} must seed its dice"


def complaints(room: str, source: str) -> list[str]:
    """What this source may not do, written in this room."""
    tree = ast.parse(source)
    return [*upward(room, tree), *(sensing(room, tree) if room in PURE else ())]


MODULES = sorted(HOUSE.rglob("*.py"))


def test_the_house_stands() -> None:
    assert MODULES, f"no modules under {HOUSE}"
    assert {module.relative_to(HOUSE).parts[0].removesuffix(".py") for module in MODULES} <= FLOORS.keys()


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.relative_to(HOUSE).as_posix())
def test_a_module_imports_downward_and_senses_only_what_its_room_may(module: Path) -> None:
    room = module.relative_to(HOUSE).parts[0].removesuffix(".py")
    assert complaints(room, module.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("model", "from durableflow.core import turn"),
        ("model", "from durableflow import core"),
        ("core", "def late():\n    import durableflow.runtime.writer"),
        ("core", "if TYPE_CHECKING:\n    from durableflow.authoring.context import Context"),
        ("backends", "from durableflow.observe import Observer"),
        ("client", "from durableflow.engine import Engine"),
        ("runtime", "from durableflow import Engine"),
        ("core", "import time"),
        ("errors", "import logging"),
        ("model", "import random"),
        ("core", "from random import choice"),
        ("core", "import random\nrandom.random()"),
        ("core", "import random\ndice = random.Random()"),
        ("core", "from random import Random\ndice = Random()"),
        ("core", "from os.path import exists"),
        ("model", "from datetime import datetime\ndatetime.now()"),
        ("model", "import datetime\ndatetime.datetime.now()"),
        ("core", "from uuid import uuid4"),
    ],
)
def test_a_breach_is_noticed(room: str, source: str) -> None:
    assert len(complaints(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("core", "from durableflow.core.task import Task\nfrom durableflow.model import events"),
        ("core", "from random import Random\ndice = Random(7)"),
        ("core", "import random\ndice: random.Random = random.Random(7)"),
        ("core", "from os.path import dirname"),
        ("core", "from datetime import datetime\nself.now()"),
        ("runtime", "import asyncio, time, random"),
        ("demo", "from durableflow import Engine"),
    ],
)
def test_what_is_allowed_is_left_alone(room: str, source: str) -> None:
    assert complaints(room, source) == []
