"""Payloads: values to JSON bytes and back to the annotated types.

What msgspec would change in silence is refused at the door, alike on every
backend: NaN and infinity (it writes null), keys that are not strings (it writes
strings), private fields of attrs classes (it leaves them out), NUL characters
(Postgres refuses them), lone surrogates.

The checks are made on the bytes first, at the speed of C: the value itself is
walked only when the bytes could hide something.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from enum import Enum
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, cast, get_type_hints

import msgspec

from durableflow.errors import PayloadError, UsageError

PAYLOAD_LIMIT_BYTES: Final = 2 * 1024 * 1024
NULL: Final = b"null"
EMPTY_ARGUMENTS: Final = b"[]"

_DEPTH_MAX: Final = 200
_BRACE, _LETTER_N, _BACKSLASH = b"{n\\"


_NO_KEYWORDS: Final[Mapping[str, Any]] = MappingProxyType({})
_EMPTY_DIGEST: Final = blake2b(digest_size=8)


def digest(data: bytes) -> bytes:
    """8 bytes that tell two inputs apart."""
    made = _EMPTY_DIGEST.copy()  # a third quicker than a new one
    made.update(data)
    return made.digest()


def _is_pydantic(kind: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


def _encode_hook(value: object) -> object:
    dump_model = getattr(value, "model_dump", None) if _is_pydantic(type(value)) else None
    if dump_model is not None:
        dumped: object = dump_model(mode="json", by_alias=False, round_trip=True)
        return dumped
    raise PayloadError(
        f"{type(value).__module__}.{type(value).__qualname__} cannot be stored as JSON: {value!r:.80}; "
        "pass a dataclass, attrs class, msgspec Struct, pydantic model or plain values"
    )


def _decode_hook(wanted: type, value: object) -> object:
    if _is_pydantic(wanted):
        return cast("Any", wanted).model_validate(value, by_alias=True, by_name=True)
    raise PayloadError(f"values of type {wanted.__module__}.{wanted.__qualname__} cannot be read back from JSON")


_ENCODE: Final = msgspec.json.Encoder(enc_hook=_encode_hook, order="deterministic").encode
_DECODE_ANY: Final = msgspec.json.Decoder(strict=True).decode


def dump(value: object, what: str = "the value") -> bytes:
    """`value` as JSON bytes; `what` names it in errors.

    Dictionary keys and sets are sorted, so that equal values give equal bytes.

    Raises:
        PayloadError: it cannot be stored, or would come back changed; the message has the path to it.
    """
    try:
        data = _ENCODE(value)
    except PayloadError as error:
        raise PayloadError(f"{what}: {error}") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        _check(value, what, 0)  # knows the path to most of what can be wrong
        raise PayloadError(f"{what} cannot be stored as JSON: {error}") from error
    # Could the bytes hide what JSON would change: keys, NaN, NUL, a nesting too deep? Bytes are looked for
    # before texts, because `int in bytes` takes a tenth of the time of `bytes in bytes`.
    if (
        _BRACE in data
        or (_LETTER_N in data and b"null" in data)
        or (_BACKSLASH in data and b"\\u0000" in data)
        or (len(data) > _DEPTH_MAX and data.count(b"[") > _DEPTH_MAX)
    ):
        _check(value, what, 0)
    return data


def _check(value: object, path: str, depth: int) -> None:
    """Raise when `value` holds what JSON would change."""
    kind = type(value)
    if kind is str:
        if "\0" in cast("str", value):
            raise PayloadError(f"{path} contains NUL, which not every store can hold: {value!r:.80}")
    elif kind is float:
        if not math.isfinite(cast("float", value)):
            raise PayloadError(f"{path} is {value!r}, which JSON cannot hold; store None or a string instead")
    elif kind in _PLAIN:
        return
    elif depth >= _DEPTH_MAX:
        raise PayloadError(f"{path} is nested more than {_DEPTH_MAX} deep")
    elif isinstance(value, dict):
        for key, item in cast("dict[object, object]", value).items():
            if type(key) is not str:
                raise PayloadError(f"{path} has the key {key!r}, but JSON keys are strings; use str(key), or pairs")
            if "\0" in key:
                raise PayloadError(f"{path} has the key {key!r}, which contains NUL, which not every store can hold")
            _check(item, f"{path}[{key!r}]", depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(cast("Sequence[object]", value)):
            _check(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, Enum):
        _check(value.value, path, depth)
    else:
        names = _field_names(kind)
        _check_public(kind, names, path)
        for name in names:
            _check(getattr(value, name, None), f"{path}.{name}", depth + 1)


def _check_public(kind: type, names: Sequence[str], path: str) -> None:
    """Raise when an attrs class has fields that are left out of what is stored."""
    private = next((name for name in names if name.startswith("_")), None)
    if private is not None and hasattr(kind, "__attrs_attrs__"):
        raise PayloadError(
            f"{path} is of the attrs class {kind.__qualname__}, whose private field {private!r} would be left out; "
            "give it a public name, or store a dataclass or msgspec Struct"
        )


_PLAIN: Final = frozenset({int, bool, type(None), bytes})
_FIELD_NAMES: Final[dict[type, tuple[str, ...]]] = {}


def _field_names(kind: type) -> tuple[str, ...]:
    names = _FIELD_NAMES.get(kind)
    if names is None:
        struct_fields = getattr(kind, "__struct_fields__", None)
        attrs_fields = getattr(kind, "__attrs_attrs__", None)
        model_fields = getattr(kind, "model_fields", None)
        if isinstance(struct_fields, tuple):
            names = cast("tuple[str, ...]", struct_fields)
        elif is_dataclass(kind):
            names = tuple(field.name for field in dataclass_fields(kind))
        elif attrs_fields is not None:
            names = tuple(field.name for field in attrs_fields)
        elif isinstance(model_fields, Mapping):
            names = tuple(cast("Mapping[str, object]", model_fields))
        else:
            names = ()
        _FIELD_NAMES[kind] = names
    return names


Loader = Callable[[bytes], Any]
_LOADERS: Final[dict[Any, Loader]] = {}


def loader(annotation: Any) -> Loader:
    """The function that reads payload bytes back as `annotation`; `Any` gives plain JSON values.

    Raises (when called):
        PayloadError: the bytes are not JSON, or do not fit the type; the message has the path.
    """
    try:
        found = _LOADERS.get(annotation)
    except TypeError:  # an unhashable annotation
        return _make_loader(annotation)
    if found is None:
        found = _LOADERS[annotation] = _make_loader(annotation)
    return found


def _make_loader(annotation: Any) -> Loader:
    if annotation is inspect.Parameter.empty or annotation is Any or annotation is object:
        decode: Loader = _DECODE_ANY
        name = "JSON"
    else:
        try:
            decode = msgspec.json.Decoder(annotation, dec_hook=_decode_hook).decode
        except (TypeError, RuntimeError, NameError) as error:
            raise PayloadError(
                f"the annotation {annotation!r} is not a type that can be read from JSON: {error}"
            ) from error
        name = getattr(annotation, "__qualname__", None) or repr(annotation)

    def load(data: bytes) -> Any:
        try:
            return decode(data)
        except PayloadError:
            raise
        except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
            raise PayloadError(f"a stored value does not fit {name}: {error}; it is {data[:80]!r}") from error

    return load


class Arguments:
    """Reads and writes the arguments of one function as JSON.

    Positional calls are stored as a JSON array, calls with keywords as
    `{"args": [...], "kwargs": {...}}`.

    Args:
        function: the user's function; its annotations say how arguments are read back.
        skip: how many leading parameters are not arguments (the context of a workflow).
    """

    __slots__ = ("_by_count", "_function", "_hints", "_least", "_load_usual", "_most", "_parameters", "_skip")

    def __init__(self, function: Callable[..., object], *, skip: int = 0) -> None:
        self._function = function
        self._skip = skip
        self._parameters: list[inspect.Parameter] | None = None
        self._least = 0
        self._most = 0
        self._hints: dict[str, Any] = {}
        self._by_count: dict[int, Loader] = {}
        self._load_usual: Loader | None = None
        """Of the number of arguments that was seen first."""

    def dump(self, args: tuple[object, ...], kwargs: Mapping[str, object], what: str) -> bytes:
        """The arguments as JSON bytes.

        Raises:
            UsageError: the function cannot be called with them.
            PayloadError: they cannot be stored, or its annotations cannot be resolved; names `what`.
        """
        if self._parameters is None:
            self._learn()
        if kwargs or not self._least <= len(args) <= self._most:
            self._check_call(args, kwargs, what)
        if not kwargs:
            return dump(args, what) if args else EMPTY_ARGUMENTS
        return dump({"args": args, "kwargs": kwargs}, what)

    def load(self, data: bytes) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Positional and keyword arguments, of the annotated types.

        Raises:
            PayloadError: the bytes do not fit the function's parameters.
        """
        if data == EMPTY_ARGUMENTS:
            return (), _NO_KEYWORDS
        if data[:1] == b"[":
            load = self._load_usual or self._tuple_loader(self._count(data))
            try:
                return load(data), _NO_KEYWORDS
            except PayloadError:
                fitting = self._tuple_loader(self._count(data))
                if fitting is load:
                    raise
                return fitting(data), _NO_KEYWORDS
        raw = loader(dict[str, msgspec.Raw])(data)
        items = loader(list[msgspec.Raw])(bytes(raw.get("args", b"[]")))
        named = loader(dict[str, msgspec.Raw])(bytes(raw.get("kwargs", b"{}")))
        types = self._types(len(items))
        args = [loader(kind)(bytes(item)) for kind, item in zip(types, items, strict=True)]
        return args, {name: loader(self._hint(name))(bytes(item)) for name, item in named.items()}

    def _count(self, data: bytes) -> int:
        return len(loader(list[msgspec.Raw])(data))

    def _tuple_loader(self, count: int) -> Loader:
        made = self._by_count.get(count)
        if made is None:
            kinds = tuple(Any if kind is inspect.Parameter.empty else kind for kind in self._types(count))
            made = loader(tuple[kinds])  # type: ignore[valid-type]  # a type made at run time
            self._by_count[count] = made
            self._load_usual = self._load_usual or made
        return made

    def _learn(self) -> list[inspect.Parameter]:
        if self._parameters is None:
            parameters = list(inspect.signature(self._function).parameters.values())
            skipped = [p.name for p in parameters[: self._skip] if p.kind is not inspect.Parameter.VAR_POSITIONAL]
            parameters = parameters[len(skipped) :]
            self._hints = hints_of(self._function, leave_out=skipped)
            self._least, self._most = _argument_counts(parameters)
            self._parameters = parameters
        return self._parameters

    def _check_call(self, args: tuple[object, ...], kwargs: Mapping[str, object], what: str) -> None:
        try:
            inspect.Signature(self._learn()).bind(*args, **kwargs)
        except TypeError as error:
            signature = inspect.Signature(self._learn())
            raise UsageError(f"{what}: {error}; it is {_name_of(self._function)}{signature}") from None

    def _hint(self, name: str) -> Any:
        parameters = self._learn()
        known = {parameter.name for parameter in parameters}
        if name in known:
            return self._hints.get(name, Any)
        for parameter in parameters:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                return self._hints.get(parameter.name, Any)
        raise PayloadError(f"{_name_of(self._function)}() has no parameter {name!r}")

    def _types(self, count: int) -> list[Any]:
        kinds: list[Any] = []
        for parameter in self._learn():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                kinds += [self._hints.get(parameter.name, Any)] * (count - len(kinds))
            elif parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
                kinds.append(self._hints.get(parameter.name, Any))
        if len(kinds) < count:
            raise PayloadError(
                f"{_name_of(self._function)}() takes {len(kinds)} arguments, but {count} were stored for it"
            )
        return kinds[:count]

    def result_type(self) -> Any:
        """The annotated return type, or `Any`."""
        self._learn()
        return self._hints.get("return", Any)


def _argument_counts(parameters: Sequence[inspect.Parameter]) -> tuple[int, int]:
    """How many positional arguments a call without keywords can have: at least, at most."""
    least = most = 0
    for parameter in parameters:
        required = parameter.default is inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            most = sys.maxsize
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            least = sys.maxsize if required else least
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            least += required
            most += 1
    return least, most


def _name_of(function: Callable[..., object]) -> str:
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def hints_of(function: Callable[..., object], *, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved annotations of `function`.

    Args:
        leave_out: parameters whose annotations nobody needs; they may be unknown at run time.

    Raises:
        PayloadError: an annotation names something that does not exist.
    """
    target = function if inspect.isroutine(function) else type(function).__call__
    try:
        return get_type_hints(target, include_extras=True)
    except NameError as error:
        if leave_out:
            return _hints_without(target, leave_out)
        raise _unresolved(function, error) from error


def _hints_without(target: Callable[..., object], leave_out: Sequence[str]) -> dict[str, Any]:
    def shadow() -> None:
        raise NotImplementedError

    shadow.__qualname__ = _name_of(target)
    try:
        annotations: dict[str, Any] = target.__annotations__
    except NameError:  # Python 3.14 and above evaluate them here, all or none
        return hints_of(target)
    shadow.__annotations__ = {name: kind for name, kind in annotations.items() if name not in leave_out}
    try:
        return get_type_hints(shadow, globalns=getattr(inspect.unwrap(target), "__globals__", {}), include_extras=True)
    except NameError as error:
        raise _unresolved(target, error) from error


def _unresolved(function: Callable[..., object], error: NameError) -> PayloadError:
    return PayloadError(
        f"the annotations of {_name_of(function)} cannot be resolved: {error}; "
        "payload types must be importable where the function is defined (not only under TYPE_CHECKING)"
    )
