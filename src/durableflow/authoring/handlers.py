"""What a workflow registers to answer requests and queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from durableflow.core.requests import Handler
from durableflow.errors import UsageError
from durableflow.model import converter


def handler_of(function: Callable[..., object], what: str, validate: Callable[..., object] | None = None) -> Handler:
    """`function` as the core calls it: its arguments read as the annotated types, checked, its result encoded.

    Args:
        what: what errors call it.
        validate: called with the same arguments before; what it raises is the answer.
    """
    if not callable(function):
        raise UsageError(f"{what} is answered by a function, not by {function!r:.60}")
    arguments = converter.Arguments(function)

    def begin(data: bytes) -> object:
        args, kwargs = arguments.load(data)
        if validate is not None:
            validate(*args, **kwargs)
        return function(*args, **kwargs)

    def dump(value: Any) -> bytes:
        return converter.NULL if value is None else converter.dump(value, f"the answer to {what}")

    return Handler(begin, dump)
