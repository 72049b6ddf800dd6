"""What a name stands for, and by which name our tables know it.

In: objects that exist, and dotted names. Out: the one for the other, as far as modules are loaded. Never in: an import,
a descriptor, a `__getattr__` or any other code of the user's.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import NamedTuple, TypeAlias

from durableflow.authoring.determinism.nodes import FunctionNode
from durableflow.authoring.determinism.tables import (
    ADVICE,
    ATTRIBUTES,
    KNOWN_NAMES,
    MAKES,
    ORDERING,
    PATH,
    SET,
    prefixes,
)


class Object(NamedTuple):
    """An object that exists now, found through the globals, the closure or a loaded module."""

    it: object


class Named(NamedTuple):
    """Something that is known by its full name only: a method, or what a module not yet loaded will hold."""

    name: str


class Made(NamedTuple):
    """An instance that the workflow makes itself, of a class that we watch."""

    of: str


class Asking(NamedTuple):
    """The answer is being worked out further up: `s = s | more`."""


Value: TypeAlias = Object | Named | Made | Asking | FunctionNode | None
"""What an expression can turn out to be; a node is a function that is written in this file, and not made yet."""


def full_name(value: Value) -> str | None:
    """By which the tables know a value."""
    if isinstance(value, Named):
        return value.name
    return name_of(value.it) if isinstance(value, Object) else None


def kind(value: Value) -> str | None:
    """The watched class that a value is an instance of."""
    if isinstance(value, Made):
        return value.of
    if not isinstance(value, Object):
        return None
    if type(value.it) in {set, frozenset}:
        return SET
    return PATH if any(name_of(owner) == PATH for owner in type(value.it).__mro__) else None


def same(one: Value, other: Value) -> bool:
    """Whether both are the same thing; objects are never compared by their own `==`."""
    if isinstance(one, Object) and isinstance(other, Object):
        return one.it is other.it
    if isinstance(one, Named) and isinstance(other, Named):
        return one.name == other.name
    return one is other


def is_exception(value: Value) -> bool:
    """Whether it is raised; a library's exception asks the world nothing."""
    return isinstance(value, Object) and isinstance(value.it, type) and issubclass(value.it, BaseException)


# From an object to the name under which the tables know it; grows as watched modules get loaded.
_names: dict[int, tuple[object, str]] = {}
_waiting: dict[str, list[str]] = {}
for _dotted in KNOWN_NAMES:
    _waiting.setdefault(_dotted.partition(".")[0], []).append(_dotted)


def refresh() -> None:
    """Take in the watched modules that were loaded since the last time."""
    for top in [top for top in _waiting if _is_loaded(top)]:
        for dotted in _waiting.pop(top):
            _learn(dotted)


def _is_loaded(top: str) -> bool:
    """Whether this module is there, and past its import."""
    module = sys.modules.get(top)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


def _learn(dotted: str) -> None:
    """Walk down the modules and remember the first thing that is none: a function, a class."""
    it: object = None
    for prefix in reversed(list(prefixes(dotted))):
        found = sys.modules.get(prefix)
        it = vars(it).get(prefix.rpartition(".")[2]) if found is None and isinstance(it, ModuleType) else found
        if it is not None and not isinstance(it, ModuleType):
            _names.setdefault(id(it), (it, prefix))
            return


def _known_name(it: object) -> str | None:
    known = _names.get(id(it))
    return known[1] if known is not None and known[0] is it else None


def name_of(it: object) -> str | None:
    """The full name of a module, class or function, by the tables first and by its own word second."""
    name = _known_name(it)
    if name is not None:
        return name
    if isinstance(it, ModuleType):
        return it.__name__ if sys.modules.get(it.__name__) is it else None
    if isinstance(it, BuiltinFunctionType | MethodType) and not isinstance(it.__self__, ModuleType | None):
        owner = it.__self__ if isinstance(it.__self__, type) else type(it.__self__)
        return f"{name_of(owner)}.{it.__name__}"
    if isinstance(it, FunctionType | BuiltinFunctionType | type):
        module = str(it.__module__)
        public = module.removeprefix("_")  # `_socket` is the C half of a standard module
        return f"{public if public in sys.stdlib_module_names else module}.{it.__qualname__}"
    return None


def attribute(value: Value, name: str) -> Value:
    """What `value.name` is, without running any descriptor or `__getattr__`."""
    if isinstance(value, Named):
        return Named(f"{value.name}.{name}")
    if isinstance(value, Made):
        return _of_instance(f"{value.of}.{name}")
    if not isinstance(value, Object):
        return None
    if isinstance(value.it, ModuleType):
        return _of_module(value.it, name)
    return _of_class(value.it, name)


def _of_instance(dotted: str) -> Value:
    return Made(ATTRIBUTES[dotted]) if dotted in ATTRIBUTES else Named(dotted)


def _of_module(module: ModuleType, name: str) -> Value:
    if name in vars(module):
        return Object(vars(module)[name])
    full = name_of(module)
    if full is None:
        return None
    inside = sys.modules.get(f"{full}.{name}")
    return Named(f"{full}.{name}") if inside is None else Object(inside)


def _of_class(it: object, name: str) -> Value:
    """An attribute of a class or an instance, found where the class line defines it."""
    known = None if isinstance(it, type) else _known_name(it)
    if known is not None:  # os.environ
        return Named(f"{known}.{name}")
    for owner in (it if isinstance(it, type) else type(it)).__mro__:
        family = name_of(owner)
        full = f"{SET if family == 'builtins.frozenset' else family}.{name}"  # their methods are listed once
        if full in ADVICE or full in MAKES or full in ORDERING or full in ATTRIBUTES:
            return Named(full) if isinstance(it, type) else _of_instance(full)
        if name in vars(owner):
            found = vars(owner)[name]
            return Object(found) if isinstance(found, BuiltinFunctionType | type | ModuleType) else Named(full)
    return None


def imported(dotted: str) -> Value:
    """What an import of this name brings, as far as it is loaded."""
    for prefix in prefixes(dotted):
        if prefix in sys.modules:
            value: Value = Object(sys.modules[prefix])
            for part in dotted[len(prefix) + 1 :].split(".") if prefix != dotted else ():
                value = attribute(value, part)
            return value
    return Named(dotted)


def is_the_real_one(dotted: str) -> bool:
    """Whether the module that this name begins with is the library, and not a file of the user's with its name."""
    top = dotted.partition(".")[0]
    module = sys.modules.get(top)
    spec = find_spec(top) if module is None else getattr(module, "__spec__", None)  # imports nothing, for a top level
    if module is None and spec is None:
        return True  # not installed here: the name is all there is
    places = [getattr(spec, "origin", None), *(getattr(spec, "submodule_search_locations", None) or ())]
    return any(_is_library(top, place) for place in places if isinstance(place, str))


def _is_library(top: str, place: str) -> bool:
    """Whether a module of this name is at home in this place."""
    installed = "site-packages" in place or "dist-packages" in place
    if top not in sys.stdlib_module_names:
        return installed
    return place in {"built-in", "frozen"} or (not installed and place.startswith(os.__file__.removesuffix("os.py")))
