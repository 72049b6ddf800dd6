"""The file that a function is written in, parsed: its nodes, its comments, its columns.

In: a function. Out: its source. Never in: what the source says.
"""

from __future__ import annotations

import ast
import linecache
import re
import warnings
from functools import cached_property, lru_cache
from types import CodeType, FunctionType, MethodType
from typing import Final

from durableflow.authoring.determinism.nodes import FunctionNode, functions_in
from durableflow.authoring.determinism.scopes import Scope

FILES_KEPT_MAX: Final = 4
"""How many parsed files are remembered; decorators come file by file."""

_ALLOW: Final = re.compile(r"#\s*durableflow:\s*allow\b")


class Source:
    """One parsed file, its functions by their first line, and what it binds at its top level."""

    def __init__(self, file: str, text: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python has already told the user of odd escapes
            self._tree = ast.parse(text)
        self.file = file
        self._lines = text.split("\n")
        self._functions = {(_first_line(node), node.name): node for node in functions_in(self._tree)}

    @cached_property
    def top(self) -> Scope:
        """What the file binds at its top level, for names that do not exist yet while it is imported."""
        scope = Scope(package="")
        scope.take_in(self._tree.body)
        return scope

    def find(self, code: CodeType) -> FunctionNode | None:
        """The function that this code was made from."""
        return self._functions.get((code.co_firstlineno, code.co_name))

    def is_allowed(self, node: ast.expr) -> bool:
        """Whether a comment on one of the node's lines silences it."""
        return any(_ALLOW.search(line) for line in self._lines[node.lineno - 1 : node.end_lineno])

    def column(self, node: ast.expr) -> int:
        """From 1, in characters; `ast` counts from 0, in bytes."""
        return len(self._lines[node.lineno - 1].encode()[: node.col_offset].decode()) + 1


def _first_line(node: FunctionNode) -> int:
    """As `co_firstlineno` counts: decorators belong to the function."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def source_of(fn: FunctionType) -> Source | None:
    """The parsed file of a function; parsed once, and again when it has changed."""
    file = fn.__code__.co_filename
    linecache.checkcache(file)
    lines = linecache.getlines(file, fn.__globals__)
    return _parsed(file, "".join(lines)) if lines else None


_parsed = lru_cache(FILES_KEPT_MAX)(Source)


def plain_function(fn: object) -> FunctionType | None:
    """The function that was written, below `functools.wraps` and binding."""
    for _ in range(32):  # a wrapper may wrap itself
        if isinstance(fn, MethodType):
            fn = fn.__func__
        elif isinstance(fn, FunctionType) and "__wrapped__" in vars(fn):
            fn = vars(fn)["__wrapped__"]
        else:
            break
    return fn if isinstance(fn, FunctionType) else None
