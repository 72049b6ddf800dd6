"""Errors of the store: try again, or mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durableflow.errors.root import DurableflowError

if TYPE_CHECKING:
    from collections.abc import Iterable


class StorageError(DurableflowError):
    """The store refused or could not answer; nothing was written unless the subclass says so."""

    code = "DF6000"


class LeaseLost(StorageError):
    """This worker's lease is gone: it can write nothing more."""

    code = "DF6001"


class StoreSealed(LeaseLost):
    """The store is being moved, or has been: nothing is run or written in it.

    Attributes:
        other: the URL of the other store of the move, without a password.
        is_source: whether this store is the one that is moved; else it is the one that is being filled.
        is_gone: whether the move is done, and `other` is the store to open.
    """

    code = "DF6007"

    def __init__(self, other: str, *, is_source: bool, is_gone: bool) -> None:
        self.other, self.is_source, self.is_gone = other, is_source, is_gone
        again = "if nobody is moving it any more, run 'durableflow move' again, or with --abort"
        if is_gone:
            told = f"this store has been moved to {other}: open that one"
        elif is_source:
            told = f"this store is being moved to {other}, and nothing is run or written in it; {again}"
        else:
            told = f"this store is being filled by a move from {other}, and is not open to anybody yet; {again}"
        super().__init__(told)


class MoveRefused(StorageError):
    """A store cannot be moved so; nothing was changed."""

    code = "DF6008"


class InstancesExist(StorageError):
    """Instances to be made are there already; nothing of the commit was written.

    Attributes:
        instance_ids: which.
    """

    code = "DF6006"

    def __init__(self, instance_ids: Iterable[str]) -> None:
        self.instance_ids = frozenset(instance_ids)
        super().__init__(f"instances {sorted(self.instance_ids)!r} are in the store already")


class AppendConflict(StorageError):
    """Rows of these instances are already in the store: the log is ahead of this worker's memory.

    Attributes:
        instance_ids: whose.
    """

    code = "DF6002"

    def __init__(self, instance_ids: Iterable[str]) -> None:
        self.instance_ids = frozenset(instance_ids)
        super().__init__(f"the store already holds what was to be written for {sorted(self.instance_ids)!r}")


class CommitOutcomeUnknown(StorageError):
    """The commit may or may not have happened; only the log can tell."""

    code = "DF6003"


class SchemaMismatch(StorageError):
    """The store was written by a version of durableflow that this one does not know."""

    code = "DF6004"


class EngineClosed(StorageError):
    """The engine is not open, or closed while the call was waiting."""

    code = "DF6005"
