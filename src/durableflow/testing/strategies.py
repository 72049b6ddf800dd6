"""Strategies for hypothesis: inputs of workflows, payloads, retry policies, external events, histories.

Comes in: the annotations of workflows. Goes out: values that can be stored, and that come back as they were. Needs
`hypothesis`, which the library itself does not.
"""

from __future__ import annotations

import datetime as dt
import decimal
import inspect
import types
import typing
import uuid
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, overload

from durableflow.authoring.activity import Activity
from durableflow.authoring.workflow import Workflow
from durableflow.errors import PayloadError, UsageError
from durableflow.model import converter
from durableflow.model.retry import RetryPolicy
from durableflow.testing.exploring.explore import Arrival, Telling
from durableflow.testing.exploring.story import Move, Story
from durableflow.testing.fields import fields_of
from durableflow.testing.histories import History

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
except ImportError as missing:
    raise ImportError("durableflow.testing.strategies needs hypothesis: pip install hypothesis") from missing

T = TypeVar("T")

_CHARACTERS: Final = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_TEXT: Final = st.text(_CHARACTERS, max_size=50)
_SIZE: Final = 3
"""So many items have lists at most: more, and types made of themselves would grow for ever."""
_FLOATS: Final = st.floats(allow_nan=False, allow_infinity=False)
_INTEGERS: Final = st.integers(-(2**63), 2**63 - 1)
_ZONES: Final = st.one_of(
    st.just(dt.UTC),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))),
)
_LATEST: Final = dt.datetime(9998, 1, 1)  # noqa: DTZ001  # hypothesis adds the zone


def payloads() -> SearchStrategy[Any]:
    """Any value that is plain JSON: what an argument, a result or an event without an annotation may be."""
    plain = st.none() | st.booleans() | _INTEGERS | _FLOATS | _TEXT
    return st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner), max_leaves=10)


@overload
def values(kind: type[T], /) -> SearchStrategy[T]: ...
@overload
def values(kind: Any, /) -> SearchStrategy[Any]: ...
def values(kind: Any, /) -> SearchStrategy[Any]:
    """Values of a type, of which each can be stored and is read back as it was.

    Dataclasses, attrs classes, Structs, pydantic models, named tuples and typed dictionaries are made of values of
    their fields; what their own validation refuses is left out.

    Raises:
        UsageError: there is nothing known of this type; make a strategy of your own.
    """
    return _Maker().of(kind).filter(lambda value: _comes_back(value, kind))


def inputs_of(
    definition: Workflow[..., Any] | Activity[..., Any], /, **given: SearchStrategy[Any]
) -> SearchStrategy[tuple[Any, ...]]:
    """Arguments of a workflow (or of an activity), by their annotations: `explore(checkout, *inputs)`.

    Those that have a default are sometimes left out.

    Args:
        given: strategies for parameters, by name, where the annotation says too little.

    Raises:
        UsageError: there is no parameter of a given name, one must be passed by keyword, or nothing is known of its
            type.
    """
    function = definition.function
    skip = 1 if isinstance(definition, Workflow) or definition.is_transactional else 0
    everything = list(inspect.signature(function).parameters.values())
    parameters = everything[skip:]
    hints = converter.hints_of(function, leave_out=[parameter.name for parameter in everything[:skip]])
    unknown = given.keys() - {parameter.name for parameter in parameters}
    if unknown:
        raise UsageError(f"{definition!r} has no parameter {min(unknown)!r}")
    made: list[SearchStrategy[Any]] = []
    least = 0
    further: SearchStrategy[tuple[Any, ...]] = st.just(())
    for parameter in parameters:
        strategy = given.get(parameter.name)
        is_required = parameter.default is inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and is_required:
            raise UsageError(
                f"parameter {parameter.name!r} of {definition!r} is passed by keyword; draw it with strategies.values, "
                f"and write explore(..., kwargs={{{parameter.name!r}: ...}})"
            )
        if parameter.kind in {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}:
            continue
        if strategy is None:
            strategy = values(hints.get(parameter.name, Any))
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            further = st.lists(strategy, max_size=3).map(tuple)
        else:
            made.append(strategy)
            least += is_required
    return st.integers(least, len(made)).flatmap(
        lambda count: st.tuples(*made[:count]) if count < len(made) else _joined(st.tuples(*made), further)
    )


def _joined(
    first: SearchStrategy[tuple[Any, ...]], second: SearchStrategy[tuple[Any, ...]]
) -> SearchStrategy[tuple[Any, ...]]:
    return st.tuples(first, second).map(lambda both: (*both[0], *both[1]))


def retry_policies(*, max_attempts: int = 5) -> SearchStrategy[RetryPolicy]:
    """Policies with at most so many attempts, whose waits are from none to a day."""
    waits = st.floats(0, 86_400)
    return st.builds(
        RetryPolicy,
        max_attempts=st.integers(1, max_attempts),
        initial=waits,
        backoff=st.floats(1, 10),
        max_delay=waits,
        jitter=st.floats(0, 1),
    )


def events(names: Mapping[str, Any] | Sequence[str], /, *, max_size: int = 5) -> SearchStrategy[list[tuple[str, Any]]]:
    """Lists of external events, for `explore(..., events=...)`.

    Args:
        names: with the type of the payload of each; plain JSON when only names are given.
        max_size: how many there are at most.
    """
    kinds = names if isinstance(names, Mapping) else dict.fromkeys(names, Any)
    each = [st.tuples(st.just(name), values(kind)) for name, kind in kinds.items()]
    return st.lists(st.one_of(each), max_size=max_size)


def seeds() -> SearchStrategy[int]:
    """Seeds, for `explore(..., seed=...)` and `WorkflowEnvironment(seed=...)`."""
    return st.integers(0, 2**32 - 1)


def histories_of(
    workflow: Workflow[..., Any],
    /,
    inputs: SearchStrategy[tuple[Any, ...]] | None = None,
    *,
    world: Callable[[], Any] | None = None,
    activities: Mapping[Any, Callable[..., Any]] | None = None,
    events: Sequence[Arrival] = (),
    crashes: int = 1,
    failures: int = 0,
    moves: int = 1_000,
) -> SearchStrategy[History]:
    """Histories that a workflow has had in stories as `explore` tells them: whole ones, that end somehow.

    They are what tomorrow's code must be able to replay, at every turn: `replay(new, history, every_prefix=True)`.

    Args:
        inputs: its arguments; by default by their annotations.
        world, activities, events, crashes, failures, moves: as of `explore`.
    """
    arguments = inputs_of(workflow) if inputs is None else inputs

    @st.composite
    def history(draw: Callable[[SearchStrategy[Any]], Any]) -> History:
        def choose(_: Story, __: int, next_moves: list[Move]) -> int:
            return draw(st.integers(0, len(next_moves) - 1)) if len(next_moves) > 1 else 0

        telling = Telling(
            workflow,
            draw(arguments),
            world=world,
            activities=activities or {},
            events=events,
            crashes=crashes,
            failures=failures,
            moves=moves,
        )
        return telling.history(choose)

    return history()


# -- types ------------------------------------------------------------------------------------------------------------


def _comes_back(value: object, kind: Any) -> bool:
    """Whether `value` can be stored, and what is read back would be stored alike."""
    try:
        data = converter.dump(value)
        return converter.dump(converter.loader(kind)(data)) == data
    except PayloadError:
        return False


_PLAIN: Final[dict[Any, Callable[[], SearchStrategy[Any]]]] = {
    Any: payloads,
    object: payloads,
    None: st.none,
    types.NoneType: st.none,
    bool: st.booleans,
    int: lambda: _INTEGERS,
    float: lambda: _FLOATS,
    str: lambda: _TEXT,
    bytes: lambda: st.binary(max_size=50),
    dt.datetime: lambda: st.datetimes(dt.datetime(2, 1, 1), _LATEST, timezones=_ZONES),  # noqa: DTZ001
    dt.date: st.dates,
    dt.time: st.times,
    dt.timedelta: st.timedeltas,
    uuid.UUID: st.uuids,
    decimal.Decimal: lambda: st.decimals(allow_nan=False, allow_infinity=False),
    list: lambda: st.lists(payloads(), max_size=_SIZE),
    dict: lambda: st.dictionaries(_TEXT, payloads(), max_size=_SIZE),
}
_LISTS: Final = {list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable}
_SETS: Final = {set, frozenset, abc.Set, abc.MutableSet}
_DICTS: Final = {dict, abc.Mapping, abc.MutableMapping}


def _bounds(notes: Sequence[Any]) -> tuple[str | None, Any, Any]:
    """Pattern, least and most, of msgspec's notes or of those that pydantic shares with others."""
    pattern = least = most = None
    for note in notes:
        pattern = getattr(note, "pattern", None) or pattern
        for name in ("ge", "gt", "min_length"):
            found = getattr(note, name, None)
            least = least if found is None else found
        for name in ("le", "lt", "max_length"):
            found = getattr(note, name, None)
            most = most if found is None else found
    return pattern, least, most


class _Refused:
    """Stands for what a class did not want to be made of."""


_REFUSED: Final = _Refused()


class _Maker:
    """Makes strategies of types, which may be made of themselves."""

    def __init__(self) -> None:
        self._known: dict[Any, SearchStrategy[Any]] = {}

    def of(self, kind: Any) -> SearchStrategy[Any]:
        """For one type."""
        with suppress(TypeError):  # not hashable: made of something odd, and looked at below
            if kind in _PLAIN:
                return _PLAIN[kind]()
            if kind in self._known:
                return self._known[kind]
        origin, args = get_origin(kind), get_args(kind)
        if origin is typing.Annotated:
            return self._annotated(args[0], args[1:])
        if origin is Literal:
            return st.sampled_from(args)
        if origin in {typing.Union, types.UnionType}:
            return st.one_of([self.of(each) for each in args])
        if origin is tuple:
            if len(args) == 2 and args[1] is Ellipsis:
                return st.lists(self.of(args[0]), max_size=_SIZE).map(tuple)
            return st.tuples(*(self.of(each) for each in args))
        if origin in _LISTS:
            return st.lists(self.of(args[0]), max_size=_SIZE)
        if origin in _SETS:
            items = st.lists(self.of(args[0]), max_size=_SIZE)
            return items.map(frozenset) if origin in {frozenset, abc.Set} else items.map(set)
        if origin in _DICTS:
            return st.dictionaries(self.of(args[0]), self.of(args[1]), max_size=_SIZE)
        if hasattr(kind, "__supertype__"):  # a NewType
            return self.of(kind.__supertype__)
        if hasattr(kind, "__value__"):  # type X = ...
            return self.of(kind.__value__)
        if isinstance(kind, type):
            return self._of_class(kind)
        raise _unknown(kind)

    def _annotated(self, kind: Any, notes: Sequence[Any]) -> SearchStrategy[Any]:
        """A type with bounds. Those that are not understood here are asked of whoever reads the value back."""
        pattern, least, most = _bounds(notes)
        if pattern is not None and kind is str:
            return st.from_regex(pattern)
        if least is None and most is None:
            return self.of(kind)
        if kind is int:
            return st.integers(-(2**63) if least is None else int(least), 2**63 - 1 if most is None else int(most))
        if kind is float:
            return st.floats(least, most, allow_nan=False, allow_infinity=False)
        if kind is str:
            return st.text(_CHARACTERS, min_size=int(least or 0), max_size=None if most is None else int(most))
        return self.of(kind)

    def _of_class(self, kind: type) -> SearchStrategy[Any]:
        if issubclass(kind, Enum):
            return st.sampled_from(list(kind))
        fields = fields_of(kind)
        if fields is None:
            raise _unknown(kind)
        deferred = self._known[kind] = st.deferred(lambda: made)
        built = st.fixed_dictionaries(
            {name: self.of(hint) for name, hint in fields.required.items()},
            optional={name: self.of(hint) for name, hint in fields.optional.items()},
        )
        made: SearchStrategy[Any] = built.map(lambda given: _built(fields.make, given)).filter(
            lambda value: value is not _REFUSED
        )
        return deferred


def _built(make: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    try:
        return make(**given)
    except (ValueError, TypeError):
        return _REFUSED


def _unknown(kind: Any) -> UsageError:
    return UsageError(
        f"nothing is known of values of type {kind!r}; pass a strategy of your own, by the name of the parameter: "
        "inputs_of(workflow, order=...)"
    )
