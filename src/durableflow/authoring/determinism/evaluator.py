"""What an expression stands for, where it stands.

In: an expression and its scope. Out: the object, or as much as can be known of what it will be. Never in: a judgement.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Mapping, Sequence

from durableflow.authoring.determinism.names import (
    Asking,
    Made,
    Object,
    Value,
    attribute,
    full_name,
    imported,
    kind,
    same,
)
from durableflow.authoring.determinism.nodes import arguments, method
from durableflow.authoring.determinism.scopes import Annotated, Binding, Import, Scope
from durableflow.authoring.determinism.source import Source
from durableflow.authoring.determinism.tables import ANNOTATIONS, MAKES, PATH, SET


class Evaluator:
    """Resolves names as Python does: the scopes from inside out, the closure, the globals, the builtins."""

    def __init__(self, source: Source, closure: Mapping[str, Value], globals_: Mapping[str, object]) -> None:
        self._source = source
        self._closure = closure
        self._globals = globals_
        self._asking: set[tuple[Scope, str]] = set()

    def is_set(self, node: ast.expr, scope: Scope) -> bool:
        """Whether it is a set, as far as can be known."""
        return kind(self.value(node, scope)) == SET

    def value(self, node: ast.expr, scope: Scope) -> Value:
        """What an expression stands for; None if that cannot be known."""
        match node:
            case ast.Name():
                return self._lookup(node.id, scope)
            case ast.Attribute():
                return attribute(self.value(node.value, scope), node.attr)
            case ast.Call():
                name = full_name(self.value(node.func, scope))
                return Made(MAKES[name]) if name in MAKES else None
            case ast.Set() | ast.SetComp():
                return Made(SET)
            case ast.NamedExpr():
                return self.value(node.value, scope)
            case ast.IfExp():
                return self._either([node.body, node.orelse], scope)
            case ast.BoolOp():
                return self._either(node.values, scope)
            case ast.BinOp():
                return self._operation(node, scope)
            case _:
                return None

    def _either(self, branches: Sequence[ast.expr], scope: Scope) -> Value:
        """A set if any branch is one; an empty `set()` as a fallback has no order that could differ."""
        filled = [branch for branch in branches if not isinstance(branch, ast.Call) or arguments(branch)]
        return Made(SET) if any(self.is_set(branch, scope) for branch in filled) else None

    def _operation(self, node: ast.BinOp, scope: Scope) -> Value:
        """What sets, dictionary views and paths give with their operators."""
        sides = [self.value(node.left, scope), self.value(node.right, scope)]
        kinds = [kind(side) for side in sides]
        if isinstance(node.op, ast.Div) and kinds[0] == PATH:
            return Made(PATH)
        if not isinstance(node.op, ast.BitAnd | ast.BitOr | ast.BitXor | ast.Sub):
            return None
        if SET in kinds or "keys" in {method(node.left), method(node.right)}:
            return Made(SET)
        return next((side for side in sides if isinstance(side, Asking)), None)

    def _lookup(self, name: str, scope: Scope | None) -> Value:
        while scope is not None:
            if name in scope.names and name not in scope.elsewhere:
                return self._agreed(name, scope)
            scope = scope.outer
        if name in self._closure:
            return self._closure[name]
        if name in self._globals:
            return Object(self._globals[name])
        if name in self._source.top.names:
            return self._agreed(name, self._source.top)
        return Object(vars(builtins)[name]) if name in vars(builtins) else None

    def _agreed(self, name: str, scope: Scope) -> Value:
        """What all bindings of a name agree on; None if they differ."""
        if scope.names[name] == [None]:  # as most parameters
            return None
        if (scope, name) in self._asking:
            return Asking()
        self._asking.add((scope, name))
        values = [self._bound(binding, scope) for binding in scope.names[name]]
        self._asking.remove((scope, name))
        first, *others = [value for value in values if not isinstance(value, Asking)] or [None]
        of = kind(first)
        if of is not None and others and all(kind(other) == of for other in others):
            return Made(of)
        return first if all(same(first, other) for other in others) else None

    def _bound(self, binding: Binding, scope: Scope) -> Value:
        match binding:
            case Import():
                return imported(binding.dotted)
            case Annotated():
                return self._annotated(binding.annotation, scope)
            case ast.expr():
                return self.value(binding, scope)
            case _:
                return binding

    def _annotated(self, node: ast.expr, scope: Scope) -> Value:
        """What a declared type promises; `set[str] | None` is a set where it is iterated."""
        match node:
            case ast.Subscript():
                return self._annotated(node.value, scope)
            case ast.BinOp():
                return self._annotated(node.left, scope) or self._annotated(node.right, scope)
            case _:
                name = full_name(self.value(node, scope))
                return Made(ANNOTATIONS[name]) if name in ANNOTATIONS else None
