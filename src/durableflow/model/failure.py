"""The record of an exception: what histories keep of it, and the exception made from it again."""

from __future__ import annotations

import traceback
from itertools import pairwise

import msgspec

from durableflow.errors import (
    ActivityFailed,
    ChildFailed,
    RemoteError,
    RequestFailed,
    SideEffectFailed,
    WorkflowFailed,
    qualified_name,
)

_TRACEBACK_CHARS = 8_000
_MESSAGE_CHARS = 4_000
_CAUSES = 8


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """What is recorded of an exception.

    Attributes:
        type_name: `module.QualName` of its class; bare for builtins.
        message: its text, at most 4,000 characters.
        traceback_text: where it was raised, at most the last 8,000 characters.
        cause: what it was raised from, at most 8 deep.
    """

    type_name: str
    message: str = ""
    traceback_text: str = ""
    cause: Failure | None = None


def record(error: BaseException, *, skip_frames: int = 0) -> Failure:
    """The record of `error`, without its first `skip_frames` frames (those of the engine)."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and len(chain) < _CAUSES and not any(current is link for link in chain):
        chain.append(current)
        hidden = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or hidden
    failure: Failure | None = None
    for link in reversed(chain):
        failure = _record_one(link, failure, skip_frames if link is error else 0)
    assert failure is not None
    return failure


def _record_one(error: BaseException, cause: Failure | None, skip_frames: int) -> Failure:
    if isinstance(error, RemoteError):
        return Failure(error.type_name, _clean(error.message, _MESSAGE_CHARS), error.traceback_text, cause)
    frames = traceback.extract_tb(error.__traceback__)[skip_frames:]
    text = "".join(traceback.format_list(frames))
    return Failure(
        qualified_name(type(error)),
        _clean(_text_of(error), _MESSAGE_CHARS),
        _clean(text[-_TRACEBACK_CHARS:], _TRACEBACK_CHARS),
        cause,
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # a user's __str__ may do anything
        return f"<its text could not be made: {type(broken).__name__}>"


def _clean(text: str, chars: int) -> str:
    """At most `chars` characters that every store can hold: no lone surrogate, no NUL."""
    return text[:chars].encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _cause_of(failure: Failure) -> RemoteError | None:
    links: list[RemoteError] = []
    link: Failure | None = failure
    while link is not None:
        links.append(RemoteError(link.type_name, link.message, link.traceback_text))
        link = link.cause
    for outer, inner in pairwise(links):
        outer.__cause__ = inner
    return links[0]


def activity_failed(activity: str, failure: Failure, attempts: int) -> ActivityFailed:
    """The exception that a workflow sees for `failure`, with the recorded causes as its `__cause__`."""
    error = ActivityFailed(activity, failure.type_name, failure.message, failure.traceback_text, attempts)
    error.__cause__ = _cause_of(failure)
    return error


def child_failed(workflow: str, child_id: str, failure: Failure, status: str) -> ChildFailed:
    """The exception that a parent sees for `failure` of a child; `status` is empty when it could not be started."""
    error = ChildFailed(workflow, child_id, status or None, failure.type_name, failure.message, failure.traceback_text)
    error.__cause__ = _cause_of(failure)
    return error


def request_failed(instance_id: str, request: str, failure: Failure) -> RequestFailed:
    """The exception that the sender of a request sees for `failure`."""
    error = RequestFailed(instance_id, request, failure.type_name, failure.message, failure.traceback_text)
    error.__cause__ = _cause_of(failure)
    return error


def side_effect_failed(failure: Failure) -> SideEffectFailed:
    """The exception that a workflow sees for a side effect that raised, live and in replay."""
    error = SideEffectFailed(failure.type_name, failure.message, failure.traceback_text)
    error.__cause__ = _cause_of(failure)
    return error


def workflow_failed(instance_id: str, failure: Failure) -> WorkflowFailed:
    """The exception that `result` raises for a FAILED instance."""
    error = WorkflowFailed(instance_id, failure.type_name, failure.message, failure.traceback_text)
    error.__cause__ = _cause_of(failure)
    return error
