"""The root of the family, and how exceptions are named and kept in histories."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class DurableflowError(Exception):
    """Root of the family; `code` is stable and documented, the message is for people."""

    code: ClassVar[str] = "DF0000"


class RemoteError(Exception):
    """Stands for an exception of which only the record is left, as the `__cause__` of a failure.

    Attributes:
        type_name: qualified name of the class that was raised.
        message: its text.
        traceback_text: where it was raised, as text; empty when unknown.
    """

    def __init__(self, type_name: str, message: str, traceback_text: str) -> None:
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        super().__init__(f"{type_name}: {message}" if message else type_name)


class RecordedFailure:
    """What the recorded failures share: the type's name, its message, its traceback."""

    type_name: str
    message: str
    traceback_text: str

    def is_type(self, *types: type[BaseException] | str) -> bool:
        """True when the recorded exception was raised by one of `types` (class or name, not subclasses)."""
        return matches_type_name(self.type_name, types)


def matches_type_name(type_name: str, types: Iterable[type[BaseException] | str]) -> bool:
    """True when `type_name` is the qualified or the bare name of one of `types`."""
    bare = type_name.rpartition(".")[2]
    for wanted in types:
        if isinstance(wanted, str):
            if wanted in (type_name, bare):
                return True
        elif type_name == qualified_name(wanted):
            return True
    return False


def qualified_name(exception_type: type[BaseException]) -> str:
    """`module.QualName`, and the bare name for builtins, as it is recorded in histories."""
    if exception_type.__module__ == "builtins":
        return exception_type.__qualname__
    return f"{exception_type.__module__}.{exception_type.__qualname__}"
