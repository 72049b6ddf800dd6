"""Cursors of pages: where a page ended, as a text that whoever asks for the next one passes on."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from durableflow.errors import UsageError

T = TypeVar("T", bound=tuple[int | str, ...])

_NUMBERS: Final = range(-(2**63), 2**63)


def dump_cursor(place: tuple[int | str, ...]) -> str:
    """The cursor that says where a page ended."""
    return msgspec.json.encode(place).decode()


def load_cursor(cursor: str, kind: type[T]) -> T:
    """What `dump_cursor` was given.

    Raises:
        UsageError: it is no such cursor, or holds what no store can be asked for.
    """
    try:
        place = msgspec.json.decode(cursor, type=kind)
        for part in place:
            if part not in _NUMBERS if isinstance(part, int) else "\0" in part:
                raise ValueError(f"{part!r} is no part of a place")
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.DecodeError) as error:
        raise UsageError(f"{cursor!r:.80} is not the cursor of a page; pass page.cursor on as it is") from error
    return place
