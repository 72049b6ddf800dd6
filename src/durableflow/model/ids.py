"""Instance ids: what is allowed, and how fresh ones are made."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from durableflow.errors import UsageError

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = [high + low for high in _ALPHABET for low in _ALPHABET]
_ID_CHARS_MAX: Final = 500
RANDOM_BITS: Final = 80


def fresh_id(now_us: int, random_bits: int) -> str:
    """26 characters: 48 bits of milliseconds, then 80 random bits, so that ids sort by time.

    Time order keeps inserts at the end of the store's trees; with random ids a
    million finished instances made SQLite five times slower.

    Args:
        now_us: microseconds since 1970.
        random_bits: 80 of them; the caller owns the dice.

    Source: the layout of ULID; Crockford's base 32 in lower case.
    """
    high, low = random_bits >> 40, random_bits & 0xFF_FFFF_FFFF  # shifts of short numbers are quicker
    p = _PAIRS
    return (
        f"{_time_text(now_us // 1000)}"
        f"{p[high >> 30]}{p[high >> 20 & 1023]}{p[high >> 10 & 1023]}{p[high & 1023]}"
        f"{p[low >> 30]}{p[low >> 20 & 1023]}{p[low >> 10 & 1023]}{p[low & 1023]}"
    )


@lru_cache(maxsize=1)  # many ids are made within one millisecond
def _time_text(now_ms: int) -> str:
    """10 characters for 48 bits."""
    bits = now_ms & 0xFFFF_FFFF_FFFF
    return "".join([_PAIRS[bits >> shift & 1023] for shift in (40, 30, 20, 10, 0)])


def check_name(name: object, what: str) -> str:
    """`name` itself, when every store can hold it.

    Raises:
        UsageError: not a string, empty, over 500 characters, or with NUL or a lone surrogate.
    """
    if isinstance(name, str):
        if not name or not name.strip():
            raise UsageError(f"{what} is empty; give it at least one visible character")
        if len(name) > _ID_CHARS_MAX:
            raise UsageError(
                f"{what} has {len(name):,} characters, over the limit of {_ID_CHARS_MAX}: {name[:40]!r}..."
            )
    return check_text(name, what)


def check_text(text: object, what: str) -> str:
    """`text` itself, when every store can be asked for it: a part of a filter, which may be empty, or too long.

    Raises:
        UsageError: not a string, or with NUL or a lone surrogate.
    """
    if not isinstance(text, str):
        raise UsageError(f"{what} must be a string, not {text!r}")
    if "\0" in text:
        raise UsageError(f"{what} {text!r} contains NUL, which not every store can hold")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} {text!r} contains a lone surrogate, which cannot be stored") from error
    return text
