"""Which names a function, class, comprehension or module binds, and how each got its value.

In: nodes. Out: scopes, one inside the other. Never in: what a value is; only where it comes from.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from durableflow.authoring.determinism.nodes import Comprehension, FunctionNode, children


class Import(NamedTuple):
    """A name bound by an import."""

    dotted: str


class Annotated(NamedTuple):
    """A name with a declared type."""

    annotation: ast.expr


Binding: TypeAlias = ast.expr | FunctionNode | Import | Annotated | None
"""How a name got its value; None: in a way that we do not follow."""


class Scope:
    """The names bound in one place, each with every binding it has."""

    def __init__(self, package: str, outer: Scope | None = None) -> None:
        self.outer = outer
        self.names: dict[str, list[Binding]] = {}
        self.elsewhere: set[str] = set()
        """Names that are declared `global` or `nonlocal`."""
        self._package = package

    def inside(self, node: FunctionNode | ast.Lambda | ast.ClassDef | Comprehension) -> Scope:
        """The scope that this node opens in this one."""
        inner = Scope(self._package, self)
        match node:
            case ast.ClassDef():
                inner.take_in(node.body)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                inner._bind_parameters(node.args)
                inner.take_in(node.body if isinstance(node.body, list) else [node.body])
            case _:
                inner.take_in([generator.target for generator in node.generators])
        return inner

    def take_in(self, nodes: Sequence[ast.AST]) -> None:
        """Bind all that these nodes bind in this scope."""
        waiting = [*nodes]
        while waiting:  # a loop, never recursion: a body may be deep
            waiting.extend(self._take_in(waiting.pop()))

    def _bind(self, name: str, binding: Binding = None) -> None:
        self.names.setdefault(name, []).append(binding)

    def _bind_parameters(self, arguments: ast.arguments) -> None:
        for parameter in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            self._bind(parameter.arg, None if parameter.annotation is None else Annotated(parameter.annotation))
        for rest in (arguments.vararg, arguments.kwarg):
            if rest is not None:
                self._bind(rest.arg)

    def _take_in(self, node: ast.AST) -> Sequence[ast.AST]:
        """Bind what one node binds, and return what is still to be looked at in this scope."""
        match node:
            case ast.Name():
                if not isinstance(node.ctx, ast.Load):
                    self._bind(node.id)
                return []
            case ast.Assign():
                named = [target for target in node.targets if isinstance(target, ast.Name)]
                for target in named:
                    self._bind(target.id, node.value)
                return [node.value, *(target for target in node.targets if target not in named)]
            case ast.AnnAssign(target=ast.Name(id=name), value=value):
                self._bind(name, Annotated(node.annotation))
                return [value] if value else []
            case ast.AugAssign(target=ast.Name(id=name)):  # makes it a local, and leaves a set a set
                self.names.setdefault(name, [])
                return [node.value]
            case ast.NamedExpr():
                self._bind(node.target.id, node.value)
                return [node.value]
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._bind(node.name, None if isinstance(node, ast.ClassDef) else node)
                return node.decorator_list
            case ast.Lambda():
                return []
            case ast.Import() | ast.ImportFrom():
                self._bind_imports(node)
            case ast.comprehension():  # its targets are its own; a walrus inside binds here
                return [node.iter, *node.ifs]
            case (
                ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
                | ast.MatchMapping(rest=str(name))
            ):
                self._bind(name)
            case ast.Global() | ast.Nonlocal():
                self.elsewhere.update(node.names)
            case _:
                pass
        return children(node)

    def _bind_imports(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                self._bind(alias.asname or alias.name, Import(f"{self._module(node)}.{alias.name}"))
            elif alias.asname:
                self._bind(alias.asname, Import(alias.name))
            else:
                top = alias.name.partition(".")[0]
                self._bind(top, Import(top))

    def _module(self, node: ast.ImportFrom) -> str:
        """The full name of the module that `from ... import` names."""
        if not node.level:
            return node.module or ""
        above = self._package.split(".")
        base = above[: len(above) - node.level + 1]
        return ".".join([*base, node.module] if node.module else base)
