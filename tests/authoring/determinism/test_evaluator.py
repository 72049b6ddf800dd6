"""What an expression stands for: sets and paths by how they are made, names by where they are looked up."""

from collections.abc import Callable
from typing import Any

import pytest

Look = Callable[..., Any]


def test_a_name_that_the_file_imports_further_down_is_followed(look: Look) -> None:
    source = """
        @workflow
        def wf(ctx):
            return clock.time()
        import time as clock
    """
    assert look(source).calls == ["clock.time()"]


def test_a_name_from_the_function_around_it_is_followed(look: Look) -> None:
    source = """
        def make():
            import time
            @workflow
            def wf(ctx):
                return time.time()
        make()
    """
    assert look(source).calls == ["time.time()"]


def test_a_function_of_the_file_with_the_name_of_a_builtin_is_not_a_finding(look: Look) -> None:
    source = """
        @workflow
        def wf(ctx):
            open("account"), input("key"), id(ctx)
        def open(name): return name
        input = id = open
    """
    assert look(source) == []


def test_a_variable_around_the_workflow_that_has_no_value_yet_is_left_alone(look: Look) -> None:
    source = """
        import time
        def make():
            @workflow
            def wf(ctx):
                return time.time()
            time = None
        make()
    """
    assert look(source) == []


def test_a_path_is_known_by_its_variable_its_annotation_and_its_global(in_body: Look) -> None:
    body = """
        here = Path("x")
        here.read_text()
        there: Path = order
        there.read_text()
        (ROOT / "x").read_text()
    """
    findings = in_body(body, "from pathlib import Path; ROOT = Path('/')")
    assert [finding.line for finding in findings] == [5, 7, 8]


@pytest.mark.parametrize(
    "body",
    [
        "for x in {'a', 'b'}: pass",
        "for x in set(items): pass",
        "for x in frozenset(items): pass",
        "for x in {i for i in items}: pass",
        "s = set(items)\nfor x in s: pass",
        "s: set[str] = items\nfor x in s: pass",
        "s = set()\ns |= order\nfor x in s: pass",
        "s = set()\nfor i in items: s = s | order\nfor x in s: pass",
        "for x in set(items) | set(order): pass",
        "for x in order - set(items): pass",
        "for x in set(items).union(order): pass",
        "for x in set(items).copy() & order: pass",
        "for x in order.keys() & items.keys(): pass",
        "for x in (set(items) if order else {'a'}): pass",
        "for x in order.seen or {'a'}: pass",
        "for x in (s := set(items)): pass",
        "for x in COLOURS: pass",
        "for x in COLOURS - {'red'}: pass",
        "[x for x in set(items)]",
        "[x for i in items for x in {i}]",
        "{x: 1 for x in set(items)}",
        "sum([x for x in items], *set(items))",
        "list(set(items))",
        "tuple({'a', 'b'})",
        "list(s := set(items))",
        "enumerate(set(items))",
        "next(iter(set(items)))",
        "dict.fromkeys(set(items))",
        "itertools.chain(items, set(items))",
        "', '.join(set(items))",
        "[*set(items)]",
        "first, *rest = set(items)",
        "yield from set(items)",
        "set(items).pop()",
        "s = set(items)\nwhile s: s.pop()",
        "ctx.when_all([ctx.call_activity(order, x) for x in set(items)])",
        "all(ctx.call_activity(order, x) for x in set(items))",
        "{ctx.call_activity(order, x) for x in set(items)}",
    ],
)
def test_the_order_of_a_set_is_found(in_body: Look, body: str) -> None:
    [finding] = in_body(body, "import itertools; COLOURS = frozenset({'red', 'green'})")
    assert "sorted(...)" in finding.advice


def test_a_parameter_declared_a_set_is_one(look: Look) -> None:
    source = """
        from collections.abc import Set
        from typing import AbstractSet
        @workflow
        def wf(ctx, a: set[str], b: frozenset[str] | None, c: Set[str], d: AbstractSet[str], e: list[str]):
            for x in a: pass
            for x in b: pass
            for x in c: pass
            for x in d: pass
            for x in e: pass
    """
    assert [finding.call[-1] for finding in look(source)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "body",
    [
        "for x in sorted({'a', 'b'}): pass",
        "for x in sorted(list(set(items))): pass",
        "for x in sorted(i.name for i in set(items)): pass",
        "s = set(items)\n'a' in s\nlen(s)\nmin(s)\nmax(s)\nany(s)\nall(s)\nsum(s)",
        "any(x > 1 for x in set(items))",
        "{x.name for x in set(items)}",
        "set(x.name for x in set(items))",
        "s = set(items)\ns.add(order)\ns.discard(order)\ns.update(set(order))",
        "s = set(items)\ns = sorted(s)\nfor x in s: pass",
        "s = set(items)\ndef inner(s):\n    for x in s: pass",
        "s = set(items)\n[s for s in items for x in s]",
        "for x in items or set(): pass",
        "for x in {'a': 1}: pass",
        "for x in order | items: pass",
        "for x in 5 - order: pass",
        "{}.pop('x')",
        "from lib import OrderedSet\nfor x in OrderedSet(items): pass",
    ],
)
def test_what_does_not_depend_on_the_order_of_a_set_is_left_alone(in_body: Look, body: str) -> None:
    assert in_body(body) == []
