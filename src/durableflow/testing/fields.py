"""How objects are made: the fields of the classes that can be stored, and which of them may be left out."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec


class Fields(NamedTuple):
    """The fields of a class.

    Attributes:
        make: makes an object, with the fields as keywords.
        required: types of those that must be given, by name.
        optional: of those that have a default.
    """

    make: Callable[..., Any]
    required: dict[str, Any]
    optional: dict[str, Any]


def fields_of(kind: Any) -> Fields | None:
    """The fields of a class; None when it is none of those whose objects can be stored."""
    if typing.is_typeddict(kind):
        return _sorted_out(dict, ((name, hint, name in kind.__required_keys__) for name, hint in _hints(kind).items()))
    if issubclass(kind, msgspec.Struct):
        return _sorted_out(kind, ((each.name, each.type, each.required) for each in msgspec.structs.fields(kind)))
    if isinstance(getattr(kind, "model_fields", None), Mapping):
        return _of_model(kind)
    if dataclasses.is_dataclass(kind):
        return _by_signature(kind, ((each.name, each.name) for each in dataclasses.fields(kind) if each.init))
    if hasattr(kind, "__attrs_attrs__"):
        return _by_signature(kind, ((each.alias, each.name) for each in kind.__attrs_attrs__ if each.init))
    names: Any = getattr(kind, "_fields", None)  # a named tuple's
    return None if names is None else _by_signature(kind, ((name, name) for name in names))


def _hints(kind: Any) -> dict[str, Any]:
    """The types of its fields, with bounds; of a typed dictionary without words such as `Required`."""
    return typing.get_type_hints(kind, include_extras=not typing.is_typeddict(kind))


def _sorted_out(make: Callable[..., Any], fields: Iterable[tuple[str, Any, bool]]) -> Fields:
    found = Fields(make, {}, {})
    for name, hint, is_required in fields:
        (found.required if is_required else found.optional)[name] = hint
    return found


def _by_signature(kind: Any, names: Iterable[tuple[str, str]]) -> Fields:
    """Of a class whose parameters are its fields, under the same or another name."""
    hints, parameters = _hints(kind), inspect.signature(kind).parameters
    return _sorted_out(
        kind,
        (
            (parameter, hints.get(name, Any), parameters[parameter].default is inspect.Parameter.empty)
            for parameter, name in names
        ),
    )


def _of_model(kind: Any) -> Fields:
    def make(**given: Any) -> Any:
        return kind.model_validate(given, by_alias=True, by_name=True)

    hints = _hints(kind)
    return _sorted_out(
        make,
        (
            (name, Annotated[hints[name], *each.metadata] if each.metadata else hints[name], each.is_required())
            for name, each in kind.model_fields.items()
        ),
    )
