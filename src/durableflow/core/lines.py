"""Events and other structs as lines of JSON, for files that people read; what is written is read back to the byte."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, TypeGuard, get_args, get_origin

import msgspec

from durableflow.core.view import HistoryEvent
from durableflow.errors import CorruptHistory
from durableflow.model import events as ev
from durableflow.model.duration import from_datetime, to_datetime

KINDS: Final[dict[str, type[msgspec.Struct]]] = {str(kind.__struct_config__.tag): kind for kind in get_args(ev.Event)}
"""Events by their tags."""

UNREADABLE: Final = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
    msgspec.DecodeError,
)
"""What reading a line may raise: anything may be written in a file."""

_HEADS: Final = ("seq", "turn", "at", "kind")
"""What each line begins with; a field of an event that has such a name too is written with `_` behind it."""


def turns_of(instance_id: str, events: Iterable[HistoryEvent]) -> list[tuple[int, int, list[ev.Event]]]:
    """`(first_seq, at_us, events)` of each turn.

    Raises:
        CorruptHistory: the numbers of the events are no history's, or do not say which turn each belongs to.
    """
    rows: list[tuple[int, int, list[ev.Event]]] = []
    for seq, entry in enumerate(events, 1):
        continues = bool(rows) and rows[-1][0] == entry.first_seq
        if entry.seq != seq or not (entry.first_seq == seq or continues) or (continues and entry.at_us != rows[-1][1]):
            raise CorruptHistory(
                f"the history of instance {instance_id!r} has {entry} where #{seq} must follow, in the turn that "
                f"begins at #{entry.first_seq} ({entry.at_us} µs)"
            )
        if continues:
            rows[-1][2].append(entry.event)
        else:
            rows.append((seq, entry.at_us, [entry.event]))
    return rows


def line_of(entry: HistoryEvent) -> dict[str, Any]:
    """An event as a line of JSON holds it."""
    at = to_datetime(entry.at_us).isoformat(timespec="microseconds")
    fields = {f"{name}_" if name in _HEADS else name: item for name, item in fields_out(entry.event).items()}
    return {"seq": entry.seq, "turn": entry.first_seq, "at": at, "kind": entry.kind} | fields


def entry_of(fields: dict[str, Any]) -> HistoryEvent:
    """The event of a line.

    Raises:
        one of UNREADABLE: it is none.
    """
    seq, first_seq, at, kind = (fields.pop(name) for name in _HEADS)
    fields = {name[:-1] if name.endswith("_") and name[:-1] in _HEADS else name: item for name, item in fields.items()}
    at_us = from_datetime(datetime.fromisoformat(at), "at")
    return HistoryEvent(int(seq), at_us, fields_in(KINDS[kind], fields), int(first_seq))


def fields_out(value: msgspec.Struct) -> dict[str, Any]:
    """The fields that differ from their defaults, by name; the default of `format` is another in each."""
    written: dict[str, Any] = {}
    for field in msgspec.structs.fields(value):
        item = getattr(value, field.name)
        if item != field.default or field.name == "format":
            written[field.name] = item.hex() if field.name == "digest" else _value_out(item)
    return written


def _value_out(value: Any) -> Any:
    if isinstance(value, bytes):
        return _payload_out(value)
    if isinstance(value, tuple):
        return [_value_out(item) for item in value]  # pyright: ignore[reportUnknownVariableType]  # of any struct
    return fields_out(value) if isinstance(value, msgspec.Struct) else value


def fields_in(kind: type[msgspec.Struct], written: dict[str, Any]) -> Any:
    """The struct whose fields `fields_out` wrote; raises as `entry_of` does."""
    known = {field.name: field for field in msgspec.structs.fields(kind)}
    unknown = sorted(written.keys() - known.keys())
    if unknown:
        raise ValueError(f"unknown fields {unknown!r}")
    if kind is ev.InstanceStarted:
        written = {"format": 1} | written  # the first format was not written down
    values = {name: _value_in(known[name].type, name, item) for name, item in written.items()}
    made = kind(**values)
    # Constructors do not look at types: what is read from a file must pass where stored bytes must pass.
    return msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=kind)


def _value_in(annotation: Any, name: str, item: Any) -> Any:
    kinds: tuple[Any, ...] = get_args(annotation) or (annotation,)
    if get_origin(annotation) is tuple:
        return tuple(_value_in(kinds[0], name, each) for each in item)
    if name == "digest":
        return bytes.fromhex(item)
    if bytes in kinds:
        return _payload_in(item)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return fields_in(kind, item)
    return item


_TEXT: Final = "$text"
_BASE64: Final = "$base64"


def _payload_out(data: bytes) -> Any:
    """JSON where writing and reading it gives the same bytes again, else marked text or base 64."""
    try:
        value = msgspec.json.decode(data)
        if msgspec.json.encode(value) == data and not _is_marked(value):
            return value
        return {_TEXT: data.decode()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {_BASE64: base64.b64encode(data).decode()}


def _payload_in(value: Any) -> bytes:
    if _is_marked(value):
        ((mark, text),) = value.items()
        return text.encode() if mark == _TEXT else base64.b64decode(text, validate=True)
    return msgspec.json.encode(value)


def _is_marked(value: Any) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and len(value) == 1 and (_TEXT in value or _BASE64 in value)  # pyright: ignore[reportUnknownArgumentType]  # whatever JSON holds
