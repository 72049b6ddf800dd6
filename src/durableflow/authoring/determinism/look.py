"""The look: a walk over a workflow, and over the helpers that it hands its context to.

In: a function. Out: findings. Never in: how a name is resolved, or what is watched; that stands below.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from types import FunctionType
from typing import Final, NamedTuple

from durableflow.authoring.determinism.evaluator import Evaluator
from durableflow.authoring.determinism.names import Object, Value, full_name, is_exception, is_the_real_one, refresh
from durableflow.authoring.determinism.nodes import (
    Comprehension,
    FunctionNode,
    arguments,
    children,
    defaults,
    first_parameter,
    is_name,
    iterated,
    mentions,
    method,
    names_only_recorded,
    parameter_for,
    text,
)
from durableflow.authoring.determinism.scopes import Scope
from durableflow.authoring.determinism.source import Source, plain_function, source_of
from durableflow.authoring.determinism.tables import ADVICE, ORDERING, ORDERLESS, REFERENCES, SORTED, advice_for

HELPER_DEPTH_MAX: Final = 8
"""How many calls deep helpers are followed."""


class Finding(NamedTuple):
    """One place in a workflow whose answer may differ in replay."""

    file: str
    line: int
    """From 1."""
    column: int
    """From 1, in characters."""
    call: str
    """What was written, shortened: `time.time()`."""
    advice: str
    """What to write instead: `use ctx.now()`."""
    function: str
    """The function that contains it: the workflow, or a helper that it hands its context to."""


class _Visit(NamedTuple):
    """A function to look at: the workflow, or a helper that gets the context."""

    node: FunctionNode
    context: str | None
    """The parameter that holds the context."""
    globals: dict[str, object]
    closure: Mapping[str, Value] = {}
    is_nested: bool = False
    """It is defined inside another function."""
    depth: int = 0


def look_at(fn: Callable[..., object]) -> list[Finding]:
    """The findings by file and line.

    Raises:
        Exception: whatever an odd source provokes; callers mind.
    """
    plain = plain_function(fn)
    source = source_of(plain) if plain else None
    node = source.find(plain.__code__) if plain and source else None
    if not plain or not source or not node:
        return []
    refresh()
    findings: dict[tuple[int, int], Finding] = {}
    looked_at: set[FunctionNode] = set()
    waiting = [_visit(plain, node, first_parameter(node))]
    while waiting:
        visit = waiting.pop()
        if visit.node not in looked_at and visit.depth <= HELPER_DEPTH_MAX:
            looked_at.add(visit.node)
            look = _Look(visit, source)
            look.start()
            for finding in look.findings:  # `os.environ.get()` is one, not two: the outermost is met first
                findings.setdefault((finding.line, finding.column), finding)
            waiting.extend(look.helpers)
    return sorted(findings.values())


def _visit(fn: FunctionType, node: FunctionNode, context: str | None, depth: int = 0) -> _Visit:
    return _Visit(node, context, fn.__globals__, _closure(fn), "<locals>" in fn.__qualname__, depth)


def _closure(fn: FunctionType) -> dict[str, Value]:
    """The variables of the functions around it; None for one that has no value yet."""
    found: dict[str, Value] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found[name] = Object(cell.cell_contents)
        except ValueError:
            found[name] = None
    return found


class _Look:
    """One walk over one function."""

    def __init__(self, visit: _Visit, source: Source) -> None:
        self.findings: list[Finding] = []
        self.helpers: list[_Visit] = []
        self._visit = visit
        self._source = source
        self._evaluator = Evaluator(source, visit.closure, visit.globals)
        self._orderless: set[ast.AST] = set()
        """Calls and comprehensions whose order nobody sees, because they stand in `sorted(...)`."""

    def start(self) -> None:
        """Look at the defaults, which are worked out anew by each process, and at the body."""
        node = self._visit.node
        scope = Scope(package=str(self._visit.globals.get("__package__") or ""))
        if not self._visit.is_nested:
            self._see_all(defaults(node), scope)
        self._see_all(node.body, scope.inside(node))

    @cached_property
    def _effects(self) -> set[str]:
        """Functions of the body that are only handed to `side_effect`."""
        return names_only_recorded(self._visit.node)

    def _see_all(self, nodes: Iterable[ast.AST], scope: Scope) -> None:
        for node in nodes:
            self._see(node, scope)

    def _see(self, node: ast.AST, scope: Scope) -> None:
        """Look at a node, and at what is inside it."""
        match node:
            case ast.Name():
                self._see_reference(node, scope)
            case ast.Attribute():
                if not self._see_reference(node, scope):
                    self._see(node.value, scope)
            case ast.Call():
                if method(node) != "side_effect":  # what that one makes is recorded
                    self._see_call(node, scope)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._see_all([*node.decorator_list, *defaults(node)], scope)
                if node.name not in self._effects:
                    self._see_all(node.body, scope.inside(node))
            case ast.Lambda():
                self._see_all(defaults(node), scope)
                self._see(node.body, scope.inside(node))
            case ast.ClassDef():
                self._see_all([*node.decorator_list, *node.bases, *node.keywords], scope)
                self._see_all(node.body, scope.inside(node))
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                self._see_comprehension(node, scope)
            case ast.AnnAssign():
                self._see_all([each for each in children(node) if each is not node.annotation], scope)
            case _:
                taken = iterated(node)
                if taken is not None:
                    self._see_iteration(taken, node, scope)
                self._see_all(children(node), scope)

    def _see_reference(self, node: ast.Name | ast.Attribute, scope: Scope) -> bool:
        """Whether it is a finding without being called."""
        name = full_name(self._evaluator.value(node, scope))
        if name not in REFERENCES or not is_the_real_one(name):
            return False
        self._report(node, ADVICE[name] or "")
        return True

    def _see_call(self, node: ast.Call, scope: Scope) -> None:
        callee = self._evaluator.value(node.func, scope)
        name = full_name(callee)
        if name is not None and not is_exception(callee):
            self._judge(name, node, scope)
        if method(node) == "join":
            self._see_order(node, scope)
        self._follow(callee, node)
        self._see_all(children(node), scope)

    def _judge(self, name: str, node: ast.Call, scope: Scope) -> None:
        advice = advice_for(name, node)
        if advice is not None and is_the_real_one(name):
            self._report(node, advice)
        elif name in ORDERLESS or (name in ORDERING and node in self._orderless):
            self._orderless.update(node.args)
        elif name in ORDERING:
            self._see_order(node, scope)

    def _see_order(self, node: ast.Call, scope: Scope) -> None:
        """What this call makes of its arguments has an order."""
        if any(self._evaluator.is_set(value, scope) for value in node.args):
            self._report(node, SORTED)

    def _see_comprehension(self, node: Comprehension, scope: Scope) -> None:
        orderless = node in self._orderless or isinstance(node, ast.SetComp)
        orderless = orderless and not mentions(node, self._visit.context)  # tasks are made in this order
        inner = scope.inside(node)
        for number, generator in enumerate(node.generators):
            outer = inner if number else scope
            if not orderless:
                self._see_iteration(generator.iter, generator, outer)
            self._see(generator.iter, outer)
            self._see_all([generator.target, *generator.ifs], inner)
        self._see_all([each for each in children(node) if not isinstance(each, ast.comprehension)], inner)

    def _see_iteration(self, node: ast.expr, by: ast.AST, scope: Scope) -> None:
        if self._evaluator.is_set(node, scope):
            self._report(node, SORTED, by)

    def _report(self, node: ast.expr, advice: str, whole: ast.AST | None = None) -> None:
        if not self._source.is_allowed(node):
            file, column, name = self._source.file, self._source.column(node), self._visit.node.name
            self.findings.append(Finding(file, node.lineno, column, text(whole or node), advice, name))

    def _follow(self, callee: Value, call: ast.Call) -> None:
        """Note a function of this file that is handed the context, to be looked at next."""
        here = self._visit
        if not any(is_name(argument, here.context) for argument in arguments(call)):
            return
        if isinstance(callee, FunctionNode):
            # One of the body is walked anyway; one of the file's top level does not exist yet, and is looked up here.
            if self._source.top.names.get(callee.name) == [callee] and not callee.decorator_list:
                context = parameter_for(here.context, call, callee)
                self.helpers.append(_Visit(callee, context, here.globals, depth=here.depth + 1))
        elif isinstance(callee, Object) and isinstance(callee.it, FunctionType):
            plain = plain_function(callee.it)
            helper = self._source.find(plain.__code__) if plain and plain.__globals__ is here.globals else None
            if plain and helper:
                context = parameter_for(here.context, call, helper)
                self.helpers.append(_visit(plain, helper, context, here.depth + 1))
